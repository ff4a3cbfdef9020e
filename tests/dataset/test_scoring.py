"""`python -m utils.evaluation.score`: every form of predictions, every mistake, no torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset import scoring
from dataset.toy.world import write_world
from tests.masks_at_hand import question
from tests.stored_runs import make_items, write_ours
from utils.evaluation.mask_rows import truth_line
from utils.protocol.rle import decode_mask, run_lengths

ROOT = Path(__file__).parents[2]
ORIGINAL = ROOT / "tests" / "data" / "original_predictions" / "fprefcoco"
HALF, FULL, NONE, WRONG = 0.5, 1.0, 1.0, 0.0
"""IoUs of the four questions: gIoU 0.625; with an empty union 0, 0.375."""


def questions():
    return [
        question("1111 ....", "11.. ....", "a", kind="short", image="p/a.jpg"),
        question(".... .111", ".... .111", "b", kind="short", image="p/b.jpg"),
        question(".... ....", [], "c", kind="absent", image="p/c.jpg"),
        question("11.. ..11", "..11 11..", "d", kind="long", image="p/d.jpg"),
    ]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def truth(tmp_path) -> Path:
    path = tmp_path / "truth.jsonl"
    path.write_text("".join(truth_line(one) for one, _ in questions()), encoding="utf-8")
    return path


def score(*arguments, code: int = 0) -> None:
    assert scoring.main([str(argument) for argument in arguments]) == code


def numbers(folder: Path, *arguments) -> dict:
    """`protocols.json` of the command."""
    score(*arguments, "--out", folder / "out")
    return json.loads((folder / "out" / "protocols.json").read_text("utf-8"))


def by_id(one) -> dict:
    truth, answer = one
    return {"id": truth.id, "masks": list(answer.masks)}


def by_image(one) -> dict:
    truth, answer = one
    folder = "elsewhere\\" + Path(truth.image).name
    return {"image": folder, "question": truth.question, "masks": list(answer.masks)}


def listed(one) -> dict:
    """Counts as numbers and not as text."""
    truth, answer = one
    codes = [{"size": [2, 4], "counts": run_lengths(code["counts"])} for code in answer.masks]
    return {"id": truth.id, "masks": codes}


def write_lines(row, folder: Path) -> Path:
    path = folder / "predictions.jsonl"
    path.write_text(lines(map(row, questions())), encoding="utf-8")
    return path


def write_coco(folder: Path) -> Path:
    """Nothing was found where nothing is: an empty mask, since a result file has no other row."""
    path = folder / "results.json"
    empty = {"size": [2, 4], "counts": "8"}
    rows = [
        {"image_id": t.id, "category_id": 1, "score": 0.9, "segmentation": code}
        for t, a in questions()
        for code in (a.masks or [empty])
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def united(answer) -> np.ndarray:
    return np.any([np.zeros((2, 4), bool), *map(decode_mask, answer.masks)], axis=0)


def write_png(folder: Path) -> Path:
    (folder / "masks").mkdir()
    for number, (truth, answer) in enumerate(questions()):
        image = Image.fromarray(united(answer).astype(np.uint8) * (1 if number % 2 else 255))
        (image.convert("1") if number == 0 else image).save(folder / "masks" / f"{truth.id}.png")
    return folder / "masks"


def write_npz(folder: Path) -> Path:
    path = folder / "masks.npz"
    np.savez(path, **{truth.id: united(answer) for truth, answer in questions()})
    return path


def write_npz_folder(folder: Path) -> Path:
    (folder / "masks").mkdir()
    for truth, answer in questions():
        np.savez_compressed(
            folder / "masks" / truth.id, masks=united(answer)[None].astype(np.int32)
        )
    return folder / "masks"


FORMS = {
    "id": lambda folder: write_lines(by_id, folder),
    "image": lambda folder: write_lines(by_image, folder),
    "listed": lambda folder: write_lines(listed, folder),
    "coco": write_coco,
    "png": write_png,
    "npz": write_npz,
    "npz_folder": write_npz_folder,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_numbers(form, tmp_path, truth):
    found = numbers(tmp_path, FORMS[form](tmp_path), "--truth", truth)
    giou = {name: one["metrics"]["giou"]["value"] for name, one in found["protocols"].items()}
    assert giou["read"] == pytest.approx((HALF + FULL + NONE + WRONG) / 4, abs=1e-5)
    assert giou["visionreasoner"] == pytest.approx((HALF + FULL + 0 + WRONG) / 4, abs=1e-5)
    read = found["protocols"]["read"]["metrics"]
    assert read["ciou"]["value"] == pytest.approx((2 + 3 + 0 + 0) / (4 + 3 + 0 + 8))
    assert read["n_acc"]["value"] == read["t_acc"]["value"] == 1 and found["questions"] == 4
    assert 0 <= read["giou"]["interval"][0] <= read["giou"]["interval"][1] <= 1


def test_what_visionreasoner_writes_has_counts_alone(tmp_path):
    """2/4 and 3/3, and an empty union, which counts 0 there: 1.5 / 3; 5 of 7 pixels."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    rows = [
        {"image_id": "i", "ann_id": n, "think": "", "intersection": i, "union": u, "bbox_iou": 0.0}
        for n, (i, u) in enumerate([(2, 4), (3, 3), (0, 0)])
    ]
    (folder / "output_0.json").write_text(json.dumps(rows[:2]))
    (folder / "output_1.json").write_text(json.dumps(rows[2:]))
    found = numbers(tmp_path, folder)
    assert list(found["protocols"]) == ["visionreasoner"]
    metrics = found["protocols"]["visionreasoner"]["metrics"]
    assert metrics["giou"]["value"] == pytest.approx(0.5, abs=1e-5)
    assert metrics["ciou"]["value"] == pytest.approx(5 / 7) and metrics["see"]["value"] is None
    assert "pixel counts" in found["not_applied"]["read"]


def test_predictions_of_this_project(tmp_path):
    """The numbers of `--cmd metrics`, from the folder alone."""
    import test_read

    write_ours(tmp_path / "ours", make_items(tmp_path, 12))
    assert test_read.main(["--cmd", "metrics", "--vis_save_path", str(tmp_path / "ours")]) == 0
    metrics = json.loads((tmp_path / "ours" / "metrics.json").read_text("utf-8"))["generated"]
    found = numbers(tmp_path, tmp_path / "ours")
    assert found["row"] == "fprefcoco" and "read" in found["not_applied"]
    score(tmp_path / "ours", "--seg", "given", code=2)
    for name, key in (("giou", "giou"), ("ciou", "ciou"), ("see", "see_accuracy")):
        one = found["protocols"]["fprefcoco"]["metrics"][name]
        assert one["value"] == pytest.approx(metrics["all"][key], abs=1e-9)
        assert one["interval"] == pytest.approx(metrics["all"]["intervals"][key], abs=1e-9)
    at = found["protocols"]["fprefcoco"]["metrics"]["pr@0.7"]["value"]
    assert at == pytest.approx(metrics["objects"]["precision_at"]["0.7"])


def test_every_evaluation_prints_what_applies(tmp_path, capsys):
    import test_read

    write_ours(tmp_path / "ours", make_items(tmp_path, 5))
    assert test_read.main(["--cmd", "metrics", "--vis_save_path", str(tmp_path / "ours")]) == 0
    told = capsys.readouterr().out
    assert "Masks: generated" in told and "What differs" in told
    rows = {line.split()[0] for line in told.split("Masks: generated")[1].splitlines() if line}
    assert {"fprefcoco", "star", "gres", "gsva", "muse"} <= rows and "lisa" not in rows


def test_the_truth_of_another_run(tmp_path, capsys):
    """Answers as JSON lines against the truth in a predictions folder, by its numbers."""
    write_ours(tmp_path / "ours", make_items(tmp_path, 5))
    file = tmp_path / "ours" / "predictions_0_of_1.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    path = tmp_path / "answers.jsonl"
    path.write_text(
        lines({"id": f"{r['item']}/{r['number']}", "masks": r["masks"][::-1]} for r in rows)
    )
    mine = numbers(tmp_path, tmp_path / "ours")["protocols"]["gres"]
    assert numbers(tmp_path, path, "--truth", tmp_path / "ours")["protocols"]["gres"] == mine


def test_images_that_were_left_out_are_told(tmp_path, capsys):
    write_ours(tmp_path / "ours", make_items(tmp_path, 6), broken=[2])
    found = numbers(tmp_path, tmp_path / "ours")
    assert "left out: image 2 <is> no image" in capsys.readouterr().out
    lines = (tmp_path / "ours" / "predictions_0_of_1.jsonl").read_text("utf-8").splitlines()
    assert found["questions"] == len(lines) - 1


def test_two_ways_of_asking(tmp_path, capsys):
    write_ours(tmp_path / "ours", make_items(tmp_path, 4))
    run, file = tmp_path / "ours" / "run.json", tmp_path / "ours" / "predictions_0_of_1.jsonl"
    run.write_text(run.read_text().replace('"generated"', '"generated", "teacher_forced"'))
    forced = file.read_text("utf-8").replace('"mode": "generated"', '"mode": "teacher_forced"')
    file.write_text(file.read_text("utf-8") + forced)
    score(tmp_path / "ours", code=2)
    assert "--mode 'generated'" in capsys.readouterr().err
    score(tmp_path / "ours", "--mode", "loud", code=2)
    found = numbers(tmp_path, tmp_path / "ours", "--mode", "teacher_forced")
    assert found["row"] == "read" and "fprefcoco" in found["not_applied"]


def test_predictions_of_the_original(tmp_path):
    """cIoU and See as the original prints them for these files."""
    folder = shutil.copytree(ORIGINAL, tmp_path / "fprefcoco", copy_function=shutil.copyfile)
    metrics = numbers(tmp_path, folder)["protocols"]["fprefcoco"]["metrics"]
    assert round(metrics["ciou"]["value"], 4) == 0.1178
    assert round(metrics["see"]["value"], 4) == 0.6250


def test_a_set_by_name_and_its_truth_as_a_file(tmp_path):
    """The truth of the toy world, written down; answers that are the truth itself score 1."""
    data, kept = tmp_path / "data", tmp_path / "kept.jsonl"
    write_world(data, 12, 2, ["reason_seg"])
    code = scoring.main(
        [str(tmp_path / "none.jsonl"), "--truth", "ReasonSeg|val", "--dataset_dir", str(data)]
    )
    assert code == 2
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    arguments = ["--truth", "ReasonSeg|val", "--dataset_dir", data, "--seg", "given"]
    score(empty, *arguments, "--write_truth", kept, code=2)
    truths = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
    assert truths and all(one["exists"] for one in truths)
    predictions = tmp_path / "perfect.jsonl"
    predictions.write_text(lines({"id": t["id"], "masks": t["masks"]} for t in truths))
    for source in (arguments, ["--truth", kept, "--seg", "given"]):
        found = numbers(tmp_path, predictions, *source)["protocols"]["read"]["metrics"]
        assert found["giou"]["value"] == pytest.approx(1, abs=1e-5)


def test_torch_is_not_imported(tmp_path, truth):
    predictions = write_lines(by_id, tmp_path)
    script = (
        "import runpy, sys\n"
        "try:\n    runpy.run_module('utils.evaluation.score', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    arguments = [str(predictions), "--truth", str(truth), "--out", str(tmp_path / "out")]
    arguments += ["--compare", str(predictions)]
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "protocols.html" in run.stdout


def test_limits(tmp_path, truth, capsys):
    predictions = write_lines(by_id, tmp_path)
    arguments = [predictions, "--truth", truth, "--protocols", "read,visionreasoner"]
    score(*arguments, "--at_least", "giou=0.62", "visionreasoner:giou=0.37")
    assert capsys.readouterr().err == ""
    score(*arguments, "--at_least", "giou=0.63", "see=1", "visionreasoner:giou=0.38", code=1)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "not reached: read:giou is 0.6250, at least 0.63 was asked",
        "not reached: visionreasoner:giou is 0.3750, at least 0.38 was asked",
    ]
    score(*arguments, "--at_least", "star:giou=0.1", code=2)
    score(*arguments, "--at_least", "iou=0.1", "giou=high", "x:giou=1", "giou=nan", code=2)
    assert capsys.readouterr().err.count("give METRIC=NUMBER") == 4


def test_what_applies_is_told(tmp_path, truth, capsys):
    predictions = write_lines(by_id, tmp_path)
    score(predictions, "--truth", truth, "--seg", "generated")
    told = capsys.readouterr().out
    assert "does not apply: lisa: needs answers with given [SEG]" in told
    assert "does not apply: xsam: how it counts an empty union is not known" in told
    assert "applies only if questions were asked as given: star" in told
    assert "What differs" in told and max(map(len, told.split("gIoU: mean")[0].splitlines())) <= 140
    score(predictions, "--truth", truth, "--seg", "generated", "--protocols", "lisa", code=2)
    assert "no protocol applies" in capsys.readouterr().err

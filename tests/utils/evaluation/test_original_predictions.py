"""Files that the original's evaluation wrote, scored by the real command.

`tests/data/original_predictions` was written by the original; the numbers are those that its own
`--cmd metrics` prints for these files. Other forms are these files with one thing changed.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import test_read
from utils.evaluation.original_predictions import read_original
from utils.reports.score_folder import read_predictions

ROOT = Path(__file__).parents[3]
FILES = ROOT / "tests" / "data" / "original_predictions"
PRINTED = {
    "fprefcoco": (8, 0.1178, 0.6250),
    "fprefcocog": (8, 0.0365, 0.6250),
    "refcoco": (9, 0.0682, 0.3333),
    "R-refcoco": (8, 0.0366, 0.6250),
}
"""Folder -> questions, and cIoU and See as the original prints them."""
MODE = "generated"


def copy(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(FILES / name, folder / name, copy_function=shutil.copyfile))


def metrics(folder: Path) -> dict:
    """`metrics.json` of the real command."""
    assert test_read.main(["--cmd", "metrics", "--vis_save_path", str(folder)]) == 0
    return json.loads((folder / "metrics.json").read_text("utf-8"))


def change(path: Path, edit) -> None:
    content = json.loads(path.read_text("utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("name", PRINTED)
def test_the_numbers_that_the_original_prints(name, tmp_path):
    questions, ciou, see = PRINTED[name]
    found = metrics(copy(name, tmp_path))[MODE]["all"]
    assert found["questions"] == questions and found["images"] == 2
    assert (round(found["ciou"], 4), round(found["see_accuracy"], 4)) == (ciou, see)


def test_reason_seg_has_two_truths_for_one_question(tmp_path):
    """By an independent count over the first truth of each image."""
    folder = copy("ReasonSeg", tmp_path)
    both = either = 0
    for path in (folder / "segmentation_mask").iterdir():
        with np.load(path) as arrays:
            (pred,), (truth, _) = arrays["pred"], arrays["gt"]
        both += int((pred * truth).sum())
        either += int(np.maximum(pred, truth).sum())
    found = metrics(folder)[MODE]
    assert found["all"]["questions"] == 6 and found["all"]["see_accuracy"] == 0.5
    assert found["segment"] == pytest.approx(both / either, abs=1e-9)


def test_as_a_command_with_paths_of_another_machine(tmp_path):
    folder = copy("fprefcoco", tmp_path)

    def move(content):
        for start, told in zip(("/data/run 1/", "D:\\runs\\x\\"), content.values(), strict=True):
            told["segmentation_path"] = start + told["segmentation_path"].replace("/", start[-1])

    change(folder / "preds_fprefcoco_0_of_1.json", move)
    command = [sys.executable, "test_read.py", "--cmd=metrics", f"--vis_save_path={folder}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "0.118" in run.stdout and "0.625" in run.stdout
    assert max(map(len, run.stdout.splitlines()[-9:])) <= 140  # the table, not the flags above it
    found = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert round(found[MODE]["segment"], 4) == 0.1178


def test_every_question_and_its_masks(tmp_path):
    """Nothing is read from beside the folder, and a mask belongs to its own question."""
    folder = copy("fprefcoco", tmp_path)
    run = read_predictions(folder)
    told = json.loads((folder / "preds_fprefcoco_0_of_1.json").read_text("utf-8"))
    records = run.results[MODE].records
    assert [record.image for record in records] == sorted(told)[:1] * 4 + sorted(told)[1:] * 4
    for record in records:
        entry = told[record.image]
        assert record.question == entry["conversation_list"][record.number]
        assert record.answer == entry["pred_sent"][record.number]
        assert record.kind == ("expression" if record.truth_present else "absent")
        with np.load(folder / entry["segmentation_path"]) as arrays:
            pred, truth = (arrays[name][record.number] for name in ("pred", "gt"))
        shown, true = run.masks(MODE, record)
        assert np.array_equal(shown, pred) and np.array_equal(true, truth)
        assert record.intersection == (pred * truth).sum()


def test_pixels_that_do_not_count(tmp_path):
    folder = copy("fprefcoco", tmp_path)
    before = metrics(folder)[MODE]["segment"]
    path = folder / "segmentation_mask" / "0_0001.npz"
    with np.load(path) as arrays:
        pred, truth = arrays["pred"], arrays["gt"]
    truth[(truth == 0) & (pred == 1)] = 255
    np.savez(path, pred=pred, gt=truth)
    assert metrics(folder)[MODE]["segment"] > 2 * before


def test_images_that_the_sampler_repeated_count_once(tmp_path):
    """Same numbers of the questions: the same image again, however it was worded and answered."""
    folder = copy("fprefcocog", tmp_path)
    before = metrics(folder)
    first = json.loads((folder / "preds_fprefcocog_0_of_2.json").read_text("utf-8"))
    ((image, told),) = first.items()
    shutil.copy(folder / told["segmentation_path"], folder / "segmentation_mask" / "1_0002.npz")
    again = {**told, "segmentation_path": "segmentation_mask/1_0002.npz"}
    again["conversation_list"] = ["Where?"] * 4
    again["pred_exists"] = [True] * 4
    second = folder / "preds_fprefcocog_1_of_2.json"
    change(second, lambda content: content.update({image: again}))
    assert metrics(folder) == before
    assert "images in two parts, which are counted once: 1" in (folder / "report.html").read_text(
        "utf-8"
    )
    other = {**again, "ref_ids": [[1, 2, 3, 4]]}
    change(second, lambda content: content.update({image: other}))
    found = metrics(folder)[MODE]["all"]
    assert found["questions"] == 12 and found["images"] == 2


def test_several_data_sets_in_a_folder_are_scored_apart(tmp_path):
    folder = copy("fprefcocog", tmp_path)
    for name in ("preds_{}_0_of_1.json", "segmentation_mask/0_0002.npz"):
        source = FILES / "refcoco" / name.format("refcoco")
        shutil.copyfile(source, folder / name.format("refcoco"))
    change(
        folder / "preds_refcoco_0_of_1.json",
        lambda content: content.pop(next(iter(content))),
    )
    found = metrics(folder)
    assert {mode: one["all"]["questions"] for mode, one in found.items()} == {
        "generated, fprefcocog": 8,
        "generated, refcoco": 5,
    }


def refused(folder: Path, capsys) -> str:
    """The one line that the command says; it ends with 2."""
    assert test_read.main(["--cmd", "metrics", "--vis_save_path", str(folder)]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert not (folder / "metrics.json").exists()
    return line


def test_missing_and_mixed_parts_are_named(tmp_path, capsys):
    folder = copy("fprefcocog", tmp_path)
    second = folder / "preds_fprefcocog_1_of_2.json"
    second.rename(folder / "kept")
    assert "missing: preds_fprefcocog_1_of_2.json;" in refused(folder, capsys)
    (folder / "kept").rename(folder / "preds_fprefcocog_1_of_3.json")
    said = refused(folder, capsys)
    assert "preds_fprefcocog_2_of_3.json" in said and "preds_fprefcocog_0_of_2.json" in said


WRONG = [
    (lambda told: told.pop("gt_exists"), "gt_exists is None, no list"),
    (lambda told: told.pop("ref_ids"), "ref_ids is None"),
    (lambda told: told["pred_exists"].pop(), "'pred_exists': 3"),
    (lambda told: told["gt_exists"].__setitem__(1, "no"), "gt_exists holds 'no', no bool"),
    (lambda told: told["pred_sent"].__setitem__(0, None), "pred_sent holds None, no str"),
    (lambda told: told.update(segmentation_path=3), "segmentation_path is 3, no str"),
    (lambda told: told.update(segmentation_path="a/b.npz"), r"b.npz"),
]


@pytest.mark.parametrize(("edit", "said"), WRONG)
def test_entries_of_another_form_are_named(edit, said, tmp_path, capsys):
    folder = copy("fprefcoco", tmp_path)
    path = folder / "preds_fprefcoco_0_of_1.json"
    change(path, lambda content: edit(content[next(iter(content))]))
    line = refused(folder, capsys)
    assert said in line and path.name in line and "COCO_train2014_000000000268.jpg" in line


@pytest.mark.parametrize("content", ["{", "[1]", "3", "{}", '{"a": 1}', "\xff", "[" * 100_000])
def test_files_of_something_else(content, tmp_path, capsys):
    (tmp_path / "preds_x_0_of_1.json").write_bytes(content.encode("latin1"))
    assert "preds_x_0_of_1.json" in refused(tmp_path, capsys)


MASK = np.ones((4, 153, 140), np.int32)
BAD_ARRAYS = [
    ({"gt": MASK}, "pred is not a file in the archive"),
    ({"pred": MASK}, "gt is not a file in the archive"),
    ({"pred": MASK[:3], "gt": MASK}, "pred int32[3, 153, 140]"),
    ({"pred": MASK, "gt": MASK[:3]}, "gt int32[3, 153, 140]"),
    ({"pred": MASK, "gt": MASK[:, :, :9]}, "gt int32[4, 153, 9]"),
    ({"pred": MASK[0], "gt": MASK[0]}, "pred int32[153, 140]"),
    ({"pred": MASK * 0.3, "gt": MASK}, "pred float64"),
    ({"pred": MASK * 7, "gt": MASK}, "values other than these"),
    ({"pred": MASK, "gt": MASK * 7}, "values other than these"),
    ({"pred": np.array([{}]), "gt": MASK}, "allow_pickle"),
]


@pytest.mark.parametrize(("arrays", "said"), BAD_ARRAYS)
def test_arrays_of_another_form_are_named(arrays, said, tmp_path, capsys):
    folder = copy("fprefcoco", tmp_path)
    np.savez(folder / "segmentation_mask" / "0_0001.npz", **arrays)
    line = refused(folder, capsys)
    assert said in line and "0_0001.npz" in line and "pred [4, H, W]" in line


@pytest.mark.parametrize("half", [False, True])
def test_a_missing_or_damaged_mask_file(half, tmp_path, capsys):
    folder = copy("fprefcoco", tmp_path)
    path = folder / "segmentation_mask" / "0_0002.npz"
    whole = path.read_bytes()
    path.unlink()
    if half:
        path.write_bytes(whole[: len(whole) // 2])
    assert "0_0002.npz" in refused(folder, capsys)
    np.save(path.with_suffix(".npy"), MASK)
    path.with_suffix(".npy").rename(path)
    assert "0_0002.npz" in refused(folder, capsys)


def test_two_layouts_in_one_folder_are_refused(tmp_path, capsys):
    folder = copy("refcoco", tmp_path)
    (folder / "run.json").write_text("{}")
    assert "two sets of predictions" in refused(folder, capsys)


def test_many_images_in_several_threads(tmp_path):
    """Every image keeps its own masks, whichever is read first."""
    entries = {}
    told = json.loads((FILES / "refcoco" / "preds_refcoco_0_of_1.json").read_text("utf-8"))
    (tmp_path / "segmentation_mask").mkdir()
    for number in range(200):
        one = list(told.values())[number % 2]
        place = f"segmentation_mask/0_{number:04d}.npz"
        (tmp_path / place).symlink_to(FILES / "refcoco" / one["segmentation_path"])
        entries[f"{number:04d}.jpg"] = {**one, "segmentation_path": place}
    (tmp_path / "preds_refcoco_0_of_1.json").write_text(json.dumps(entries), encoding="utf-8")
    records = read_original(tmp_path, progress=False).results[MODE].records
    assert [record.count for record in records] == ([4] * 4 + [5] * 5) * 100
    assert [record.union for record in records[18:]] == [record.union for record in records[:-18]]
    assert sum(r.intersection for r in records) / sum(r.union for r in records) == pytest.approx(
        PRINTED["refcoco"][1], abs=5e-5
    )

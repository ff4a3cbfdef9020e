"""`analyze_read.py` on a micro model: files, tables, resumption, several models, own images."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import analyze_read
from dataset.evaluation import evaluation_set
from model import load_read
from utils.analysis.records import FINAL, MASKS, read_analysis
from utils.cli.options import model_name
from utils.metrics import intersection_and_union
from utils.process.run_lock import LOCK_FILE, RunLock
from utils.protocol.conversation import POSITIVE_ANSWER

pytestmark = pytest.mark.slow


@pytest.fixture
def analysis(micro_merged, micro_data, micro_parts, tmp_path, capsys):
    """Runs `analyze_read.py`; returns (exit code, stdout, stderr)."""

    def start(*arguments, **changes):
        given = {
            "pretrained_model_path": micro_merged,
            "dataset_dir": micro_data,
            "vision_pretrained": micro_parts.sam,
            "out": tmp_path / "out",
            "max_new_tokens": 3,
            **changes,
        }
        flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
        try:
            code = analyze_read.main([*flags, *map(str, arguments)])
        except SystemExit as leaving:
            code = leaving.code
        return code, *capsys.readouterr()

    start.out = tmp_path / "out"
    start.folder = start.out / model_name(str(micro_merged))
    return start


def test_lines_tables_and_images(analysis, micro_merged, micro_data):
    code, out, err = analysis("--layers", "0,1-2")
    assert code == 0, err
    found = list(read_analysis(analysis.folder))
    assert [one.key for one in found] == [(n, 0) for n in range(5)]
    reader = load_read(micro_merged)
    for one, item in zip(found, evaluation_set(str(micro_data), "ReasonSeg", "val"), strict=True):
        (question,) = item.questions
        answer = reader.segment(item.image, question.text, POSITIVE_ANSWER)
        both, either = intersection_and_union(answer.mask[None], question.truth[None])
        assert one.masks["points"] == one.masks[FINAL] == (both[0], either[0])
        assert one.question == question.text and one.answer == POSITIVE_ANSWER
        assert (one.kind, one.truth_present, one.size) == ("short", True, item.image.shape[:2])
        assert set(one.maps) == {"clip", "llava", "sam"} and set(one.masks) == {*MASKS, FINAL}
        assert one.layers[2] == pytest.approx(one.maps["llava"].best_s_iou)
        assert set(one.layers) == {0, 1, 2} and one.points.positive > 0
        assert set(one.correlations) == {"clip llava", "clip sam", "llava sam"}
        assert set(one.images) >= {"clip", "llava", "sam", "marks", FINAL, *MASKS}
        for name in one.images.values():
            assert np.asarray(Image.open(analysis.folder / name)).size
    summary = json.loads((analysis.folder / "summary.json").read_text())
    assert summary["questions"] == 5 and set(summary["layers"]) == {"0", "1", "2"}
    assert any("No word x CLIP" in note for note in summary["notes"]) and "No word x CLIP" in out
    measures = summary["measures"]["all"]
    assert measures["cIoU text + DtoC points"]["value"] == pytest.approx(
        sum(one.masks["points"][0] for one in found) / sum(one.masks["points"][1] for one in found)
    )
    assert f"{measures['S-IoU [SEG] x LLaVA']['value']:.3f}" in out
    with (analysis.folder / "questions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["S-IoU [SEG] x CLIP"]) for row in rows] == [
        one.maps["clip"].s_iou for one in found
    ]
    with (analysis.folder / "summary.csv").open() as file:
        assert {row["measure"] for row in csv.DictReader(file)} == set(measures)
    assert (analysis.folder / "layers.csv").read_text().startswith("layer,value,low,high\n0,")
    assert (analysis.out / "dashboard.html").is_file()


def test_two_analyses_in_one_folder(analysis, monkeypatch):
    monkeypatch.setattr(analyze_read, "analyze", lambda *_: pytest.fail("it began"))
    what = f"the folder of the analysis {analysis.out}"
    with RunLock(analysis.out / LOCK_FILE, what, "give another --out"):
        for cmd in ("analyze", "dashboard"):
            code, _, err = analysis(f"--cmd={cmd}")
            assert code == 2 and err.startswith(f"error: {what} is in use by process ")
            assert err.count("\n") == 1 and "another --out" in err


def test_a_second_start_analyses_nothing_again(analysis):
    assert analysis(max_questions=3)[0] == 0
    path = analysis.folder / "questions.jsonl"
    three = path.read_bytes()
    code, out, _ = analysis()
    assert code == 0 and "going on after 3 questions" in out
    whole = path.read_bytes()
    assert whole.startswith(three) and whole.count(b"\n") == 5
    path.write_bytes(whole[:-20])
    for image in (analysis.folder / "images").glob("00000_*"):
        image.unlink()
    code, out, _ = analysis()
    assert code == 0 and "going on after 4 questions" in out
    assert path.read_bytes() == whole
    assert not list((analysis.folder / "images").glob("00000_*"))
    code, _, err = analysis("--layers", "1")
    assert code == 2 and "analysis of another run (layers: none there, 1 here)" in err
    assert "--out" in err and path.read_bytes() == whole
    assert analysis("--layers", "1", "--no_resume")[0] == 0
    assert [set(one.layers) for one in read_analysis(analysis.folder)] == [{1}] * 5
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{}", *lines[2:]]))
    code, _, err = analysis("--layers", "1")
    assert code == 2 and "line 2, is damaged" in err


def test_a_killed_analysis_goes_on_within_an_image(analysis, tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
            folder / f"{name}.png"
        )
        (folder / f"{name}.txt").write_text("What is it?\nWhere is it?\nWho?\n")
    draw, drawn = analyze_read.draw_question, []

    def killed(*given):
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(given[-1])
        return draw(*given)

    monkeypatch.setattr(analyze_read, "draw_question", killed)
    code, _, err = analysis(images=folder)
    assert code == 130 and "interrupted: finished questions are kept" in err
    assert len(list(read_analysis(analysis.folder))) == 3
    lines = (analysis.folder / "questions.jsonl").read_text().splitlines()
    (analysis.folder / "questions.jsonl").write_text("\n".join(lines[:2]) + "\n")
    monkeypatch.setattr(analyze_read, "draw_question", draw)
    code, out, err = analysis(images=folder)
    assert code == 0 and "going on after 2 questions" in out, err
    found = list(read_analysis(analysis.folder))
    assert [one.key for one in found] == [(p, n) for p in range(3) for n in range(3)]
    # Nothing is known about the truth, so nothing is measured against it.
    assert all(one.truth_present is None and not one.masks and not one.maps for one in found)
    assert all(one.correlations and one.points is None for one in found)
    names = json.loads((analysis.folder / "summary.json").read_text())["measures"]["all"]
    assert names and all(name.startswith(("Pearson", "rank")) for name in names)


def test_generated_answers_and_false_premises(analysis):
    code, _, err = analysis("--eval_mode", "generated", "--max_questions", "4")
    assert code == 0, err
    found = list(read_analysis(analysis.folder))
    assert [one.key for one in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [one.truth_present for one in found] == [True, False] * 2
    for one in found:
        assert not one.present and not one.maps  # an untrained model says nothing of use
        assert all(intersection == 0 for intersection, _ in one.masks.values())
        assert all(bool(union) == one.truth_present for _, union in one.masks.values())


def test_models_side_by_side(analysis, micro_merged, tmp_path):
    other = tmp_path / "runs" / "other" / "merged"
    shutil.copytree(micro_merged, other)
    both = f"{micro_merged},{other}"
    code, out, err = analysis(models=both, vision_pretrained=None, max_questions=2)
    assert code == 0, err
    assert {path.parent.name for path in analysis.out.glob("*/questions.jsonl")} == {
        analysis.folder.name,
        "other",
    }
    lines = [list(read_analysis(analysis.out / name)) for name in (analysis.folder.name, "other")]
    assert lines[0] == lines[1] and all("sam_points" not in one.masks for one in lines[0])
    assert "other (2 questions)" in out and "No SAM with the points only" in out
    config = (analysis.out / "other" / "config.yaml").read_text()
    assert f"pretrained_model_path: {other}" in config and "models: null" in config
    for path in (*analysis.out.rglob("summary.*"), analysis.out / "dashboard.html"):
        path.unlink()
    assert analysis("--cmd", "dashboard", pretrained_model_path=None)[0] == 0
    assert (analysis.out / "dashboard.html").is_file()
    assert (analysis.out / "other" / "summary.json").is_file()


def test_all_mistakes_are_told_at_once(analysis, tmp_path, micro_merged):
    twice = f"{micro_merged},{micro_merged}"
    code, _, err = analysis(
        "--val_dataset", "RaisonSeg|val", "--layers", "1-7", "--unknown",
        models=twice, vision_pretrained=tmp_path / "none.pth",
    )  # fmt: skip
    assert code == 2 and "Traceback" not in err
    for part in ("RaisonSeg", "layer 7 is beyond the last one, 2", "--unknown", "none.pth"):
        assert part in err
    assert "several are called" in err
    for layers, said in (("2-1", "runs backwards"), ("x", "no layer"), ("1,,2", "no layer")):
        assert said in analysis("--layers", layers)[2]
    assert "nothing_here" in analysis(images=tmp_path / "nothing_here")[2]
    code, _, err = analysis("--cmd", "dashboard", out=tmp_path / "nowhere")
    assert code == 2 and "nowhere" in err and "--cmd analyze" in err
    (tmp_path / "empty").mkdir()
    code, _, err = analysis("--cmd", "dashboard", out=tmp_path / "empty")
    assert code == 2 and "no analysis in" in err


def test_a_word_needs_the_whole_clip(analysis):
    code, _, err = analysis("--word", "block")
    assert code == 2 and "image tower alone" in err and "Traceback" not in err


def test_names_of_models():
    assert model_name("runs/read_7b/merged") == "read_7b"
    assert model_name("/somewhere/model/") == "model"
    assert model_name("owner/name") == "name"
    assert model_name(str(Path("merged").resolve())) == Path.cwd().name

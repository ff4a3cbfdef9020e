"""`python -m utils.evaluation.score` with input that cannot be scored: an error, exit code 2."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.dataset.test_scoring import by_id, by_image, lines, questions, score, truth, write_lines
from utils.evaluation.mask_rows import truth_line

__all__ = ["truth"]  # the fixture
EXPECTED = 'expected {"id": ..., "masks"'


def test_missing_doubled_and_unknown_questions_are_all_listed(tmp_path, truth, capsys):
    rows = [by_id(one) for one in questions()]
    path = tmp_path / "predictions.jsonl"
    path.write_text(lines([rows[0], rows[0], {**rows[0], "id": "zz"}, {**rows[1], "id": 7}]))
    score(path, "--truth", truth, code=2)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and all(line.startswith("error: ") for line in told)
    assert any("not answered, 3: b, c, d;" in line for line in told)
    assert any("answered twice, 1: a (" in line and "line 2" in line for line in told)
    assert any("no question is called so, 2: zz" in line and "7 (" in line for line in told)


def test_a_name_that_several_questions_share(tmp_path, capsys):
    pair = [(replace(t, image="same.jpg", question="it"), a) for t, a in questions()[:2]]
    truth, path = tmp_path / "truth.jsonl", tmp_path / "predictions.jsonl"
    truth.write_text("".join(truth_line(one) for one, _ in pair))
    path.write_text(lines(by_image(one) for one in pair))
    score(path, "--truth", truth, code=2)
    assert "several questions are called so, 2" in capsys.readouterr().err
    path.write_text(lines({**by_id(one), "question": "it"} for one in pair))
    score(path, "--truth", truth)
    path.write_text(lines({**by_id(one), "question": "that"} for one in pair))
    score(path, "--truth", truth, code=2)
    assert "the truth has another question, 2" in capsys.readouterr().err


MALFORMED = {
    "no json": "{",
    "no object": "[1]",
    "no id": {"masks": []},
    "an id that is none": {"id": 1.5, "masks": []},
    "an empty id": {"id": "", "masks": []},
    "no masks": {"id": "a"},
    "masks that are none": {"id": "a", "masks": {}},
    "a mask that is none": {"id": "a", "masks": [3]},
    "no counts": {"id": "a", "masks": [{"size": [2, 4]}]},
    "counts that do not fill": {"id": "a", "masks": [{"size": [2, 4], "counts": [3]}]},
    "negative counts": {"id": "a", "masks": [{"size": [2, 4], "counts": [9, -1]}]},
    "endless counts": {"id": "a", "masks": [{"size": [2, 4], "counts": [1e999]}]},
    "counts of other letters": {"id": "a", "masks": [{"size": [2, 4], "counts": "\u00e9"}]},
    "cut counts": {"id": "a", "masks": [{"size": [2, 4], "counts": "P"}]},
    "counts too large": {"id": "a", "masks": [{"size": [2, 4], "counts": "P" * 9 + "0"}]},
    "a size too large": {"id": "a", "masks": [{"size": [10**6, 10**6], "counts": [10**12]}]},
    "no size": {"id": "a", "masks": [{"size": [0, 0], "counts": []}]},
    "two sizes": {
        "id": "a",
        "masks": [{"size": [2, 4], "counts": [8]}, {"size": [4, 2], "counts": [8]}],
    },
    "presence in words": {"id": "a", "masks": [], "present": "yes"},
    "an answer that is none": {"id": "a", "masks": [], "answer": 3},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_row_is_told_with_file_row_and_remedy(name, tmp_path, truth, capsys):
    row = MALFORMED[name]
    path = tmp_path / "predictions.jsonl"
    first = lines([by_id(questions()[1])])
    path.write_text(first + "\n" + (row if isinstance(row, str) else json.dumps(row)) + "\n")
    score(path, "--truth", truth, code=2)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"error: {path}, line 3: ") and "correct the row" in told
    assert EXPECTED in told


MALFORMED_TRUTH = {
    "no size": {"id": "a", "masks": []},
    "an odd size": {"id": "a", "masks": [], "size": [2]},
    "a size of text": {"id": "a", "masks": [], "size": ["2", 4]},
    "another size": {"id": "a", "size": [4, 2], "masks": [{"size": [2, 4], "counts": [8]}]},
    "no name": {"image": "a.jpg", "masks": [], "size": [2, 4]},
    "an odd expression": {"id": "a", "masks": [], "size": [2, 4], "expression": "first"},
    "an expression that is true": {"id": "a", "masks": [], "size": [2, 4], "expression": True},
    "object and ignored": {
        "id": "a",
        "masks": [{"size": [2, 4], "counts": [0, 8]}],
        "ignored": {"size": [2, 4], "counts": [7, 1]},
    },
    "an odd number of the annotation": {"id": "a", "masks": [], "size": [2, 4], "ann_id": [3]},
}


@pytest.mark.parametrize("name", MALFORMED_TRUTH)
def test_a_malformed_truth(name, tmp_path, capsys):
    path = tmp_path / "truth.jsonl"
    path.write_text(lines([MALFORMED_TRUTH[name]]))
    predictions = write_lines(by_id, tmp_path)
    score(predictions, "--truth", path, code=2)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"error: {path}, line 1: ") and "correct the row" in told


def test_a_truth_with_a_question_twice(tmp_path, truth, capsys):
    truth.write_text(truth.read_text("utf-8") * 2)
    score(write_lines(by_id, tmp_path), "--truth", truth, code=2)
    assert "4 questions stand there twice: a, b, c, d; give" in capsys.readouterr().err


def test_masks_of_another_size(tmp_path, truth, capsys):
    rows = [by_id(one) for one in questions()]
    rows[0]["masks"] = [{"size": [4, 2], "counts": [8]}]
    path = tmp_path / "predictions.jsonl"
    path.write_text(lines(rows))
    score(path, "--truth", truth, code=2)
    told = capsys.readouterr().err
    assert "masks of another size than the image, 1: a (" in told
    assert "[4, 2], image [2, 4]" in told and "resize" in told


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "no list"),
        ([3], "no JSON object"),
        ([{"segmentation": {}}], "none of question_id"),
        ([{"image_id": 1, "segmentation": [[1, 2, 3, 4, 5, 6]]}], "polygon"),
        ([{"image_id": 1}], "no run-length code"),
        ([{"image_id": 1, "intersection": 3, "union": 2}], "fit no two masks"),
        ([{"image_id": 1, "intersection": 1.5, "union": 2}], "no pixel counts"),
        ([{"ann_id": 1, "segmentation": {"size": [2, 4], "counts": [8]}}] * 2, "stands twice"),
    ],
)
def test_malformed_result_files(content, told, tmp_path, truth, capsys):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    score(path, "--truth", truth, code=2)
    error = capsys.readouterr().err
    assert told in error and str(path) in error and "expected" in error


def test_other_mistakes(tmp_path, truth, capsys):
    predictions = write_lines(by_id, tmp_path)
    (tmp_path / "void").mkdir()
    (tmp_path / "soft.npz").write_bytes(b"")
    np.savez(tmp_path / "soft.npz", a=np.zeros((2, 4)))
    (tmp_path / "colour").mkdir()
    Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(tmp_path / "colour" / "a.png")
    for arguments, told in (
        ([predictions], "holds no truth"),
        ([tmp_path / "nowhere", "--truth", truth], "no predictions at"),
        ([tmp_path / "void", "--truth", truth], "holds none of these"),
        ([tmp_path, "--truth", truth], "several forms"),
        ([tmp_path / "soft.npz", "--truth", truth], "threshold logits at 0"),
        ([tmp_path / "colour", "--truth", truth], "one channel"),
        ([predictions, "--truth", tmp_path / "no.jsonl"], "cannot read"),
        ([predictions, "--truth", tmp_path / "void"], "holds no truth"),
        ([predictions, "--truth", "Nonsense|val", "--dataset_dir", tmp_path], "unknown data set"),
        ([predictions, "--truth", truth, "--protocols", "coco"], "unknown protocol"),
        ([predictions, "--truth", truth, "--no_target_pixels", "-1"], "give 0 or more"),
        ([predictions, "--truth", truth, "--out", predictions / "x"], "cannot write"),
    ):
        score(*arguments, code=2)
        assert told in capsys.readouterr().err, arguments

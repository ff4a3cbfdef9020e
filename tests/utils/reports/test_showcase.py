"""Which answers a report shows, and curves read back from a run."""

from types import SimpleNamespace

import numpy as np
import pytest

from utils.protocol.batch import EvalItem, EvalQuestion
from utils.reports.showcase import answer_examples, pick_questions
from utils.training.run_log import read_curves


def make_item(index: int, absent: bool = True) -> EvalItem:
    truth = np.zeros((12, 10), np.uint8)
    truth[:4] = 1
    asked = [EvalQuestion(f"what is {index}?", truth, True, "direct")]
    if absent:
        asked.append(EvalQuestion("is it a ghost?", truth * 0, False, "absent"))
    return EvalItem(f"{index}.png", np.full((12, 10, 3), index, np.uint8), asked)


def predict(image, questions):
    mask = np.zeros(image.shape[:2], bool)
    mask[:4] = True
    segment = SimpleNamespace(
        similarity=np.eye(4), points=np.array([[5.0, 2.0]]), point_labels=np.array([1])
    )
    yes = SimpleNamespace(text="[SEG]", present=True, segments=[segment], mask=mask)
    no = SimpleNamespace(text="Sorry.", present=False, segments=[], mask=mask & False)
    return [no if "ghost" in question else yes for question in questions]


def test_questions_are_picked_by_a_fixed_rule():
    items = [make_item(index) for index in range(100)]
    picked = pick_questions(items, 10)
    paths = [item.image_path for item, _ in picked]
    assert paths == [item.image_path for item, _ in pick_questions(items, 10)]
    assert len(set(paths)) == 10
    assert [number for _, number in picked] == [0, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    assert len(pick_questions(items[:3], 10)) == 3
    assert all(number == 0 for _, number in pick_questions([make_item(0, False)] * 9, 9))


def test_examples_show_the_answer_and_its_verdict():
    first, *_, fourth = answer_examples(predict, [make_item(n) for n in range(9)], 4)
    assert [caption for caption, _ in first.tiles] == [
        "image",
        "similarity",
        "points",
        "mask",
        "truth",
    ]
    assert first.right and "IoU 1.00" in first.verdict
    assert fourth.right and "rightly denied" in fourth.verdict
    assert [caption for caption, _ in fourth.tiles] == ["image", "mask", "truth"]


def test_curves_of_a_run(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in (1, 2, 3):
            writer.add_scalar("train/loss", 1 / step, step)
    with SummaryWriter(str(tmp_path)) as writer:  # continued after step 2
        writer.add_scalar("train/loss", 0.25, 3)
        writer.add_scalar("val/giou", 0.5, 3)
    curves = read_curves(tmp_path)
    assert [step for step, _ in curves["train/loss"]] == [1, 2, 3]
    assert curves["train/loss"][1][1] == pytest.approx(0.5)
    assert curves["val/giou"] == [(3, 0.5)]
    (tmp_path / "nothing").mkdir()
    assert read_curves(tmp_path / "nothing") == {}

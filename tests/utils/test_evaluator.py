"""Evaluation of a stand-in that answers from a table: no model needed."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from utils.batch import EvalItem, EvalQuestion
from utils.errors import InputError
from utils.evaluator import EvalResult, evaluate, reader_predict


@dataclass
class FakeAnswer:
    mask: np.ndarray
    text: str = "yes"
    segments: list = field(default_factory=list)

    @property
    def present(self):
        return bool(self.mask.any())


def make_item(index: int) -> EvalItem:
    """Picture `index`: one object of index + 1 pixels, and one that is not there."""
    truth = np.zeros((4, 8), np.uint8)
    truth.ravel()[: index + 1] = 1
    questions = [
        EvalQuestion("where is it?", truth, True, "direct"),
        EvalQuestion("where is nothing?", np.zeros_like(truth), False, "absent"),
    ]
    return EvalItem(f"picture_{index}.png", np.full((4, 8, 3), index, np.uint8), questions)


class Items:
    def __init__(self, count, broken=()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise InputError(f"picture_{index}.png is no picture")
        return make_item(index)


def predict(image, questions):
    """Always the first two pixels, except for odd pictures asked about nothing."""
    mask = np.zeros(image.shape[:2], bool)
    mask.ravel()[:2] = True
    odd = image[0, 0, 0] % 2
    return [FakeAnswer(np.zeros_like(mask) if "nothing" in q and odd else mask) for q in questions]


def test_numbers_by_hand():
    result = evaluate(predict, Items(2), progress=False)
    assert [(r.intersection, r.union) for r in result.records] == [(1, 2), (0, 2), (2, 2), (0, 0)]
    assert result.objects.segmentation.giou == pytest.approx(0.75, abs=1e-5)
    assert result.giou == pytest.approx((0.5 + 0 + 1 + 1) / 4, abs=1e-5)
    assert result.ciou == pytest.approx(3 / 6)
    assert result.see.accuracy == pytest.approx(3 / 4)
    assert list(result.per_kind) == ["absent", "direct"]
    assert result.per_kind["absent"].see.absent_recall == 0.5
    json.dumps(result.summary(), allow_nan=False)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_every_item_counts_once_over_processes(world):
    whole = evaluate(predict, Items(7), progress=False)
    merged = EvalResult()
    for rank in reversed(range(world)):
        merged.merge(evaluate(predict, Items(7), rank=rank, world=world, progress=False))
    assert merged.records == whole.records
    assert merged.summary() == whole.summary()


def test_a_question_counted_twice_is_refused():
    whole = evaluate(predict, Items(2), progress=False)
    with pytest.raises(ValueError, match="twice"):
        whole.merge(evaluate(predict, Items(1), progress=False))


def test_broken_pictures_stop_unless_told_to_skip():
    with pytest.raises(InputError, match=r"picture_1\.png.*--skip_broken"):
        evaluate(predict, Items(3, broken=[1]), progress=False)
    result = evaluate(predict, Items(3, broken=[1]), progress=False, skip_broken=True)
    assert [r.item for r in result.records] == [0, 0, 2, 2]
    assert result.skipped == ["picture_1.png is no picture"]


def test_done_items_are_not_asked_again():
    result = evaluate(predict, Items(4), progress=False, done={0, 2})
    assert {r.item for r in result.records} == {1, 3}


def test_answers_must_fit_the_questions():
    with pytest.raises(ValueError, match="1 answers to 2 questions"):
        evaluate(lambda image, questions: predict(image, questions)[:1], Items(1), progress=False)


def test_teacher_forcing_is_one_argument():
    calls = []

    class Reader:
        def segment_batch(self, asked, answer=None, max_new_tokens=512):
            (image, questions), *_ = asked
            calls.append((len(questions), answer))
            return predict(image, questions)

    evaluate(reader_predict(Reader(), batch_questions=1), Items(1), progress=False)
    evaluate(reader_predict(Reader(), answer="[SEG]"), Items(1), progress=False)
    assert calls == [(1, None), (1, None), (2, "[SEG]")]

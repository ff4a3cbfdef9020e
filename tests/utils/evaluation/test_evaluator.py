"""Evaluation of a stand-in that answers from a table: no model needed."""

import json
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from utils.errors import InputError
from utils.evaluation.evaluator import EvalResult, evaluate, reader_predict
from utils.protocol.batch import EvalItem, EvalQuestion
from utils.protocol.generation import GenerationOptions


@dataclass
class FakeAnswer:
    mask: np.ndarray
    text: str = "yes"
    segments: list = field(default_factory=list)

    @property
    def present(self):
        return bool(self.mask.any())


def make_item(index: int) -> EvalItem:
    """Image `index`: one object of index + 1 pixels, and one that is not there."""
    truth = np.zeros((4, 8), np.uint8)
    truth.ravel()[: index + 1] = 1
    questions = [
        EvalQuestion("where is it?", truth, True, "direct"),
        EvalQuestion("where is nothing?", np.zeros_like(truth), False, "absent"),
    ]
    return EvalItem(f"image_{index}.png", np.full((4, 8, 3), index, np.uint8), questions)


class Items:
    def __init__(self, count, broken=()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise InputError(f"image_{index}.png is no image")
        return make_item(index)


def predict(image, questions):
    """Always the first two pixels, except for odd images asked about nothing."""
    mask = np.zeros(image.shape[:2], bool)
    mask.ravel()[:2] = True
    odd = image[0, 0, 0] % 2
    return [FakeAnswer(np.zeros_like(mask) if "nothing" in q and odd else mask) for q in questions]


def test_numbers_by_hand():
    result = evaluate(predict, Items(2), progress=False)
    assert [(r.intersection, r.union) for r in result.records] == [(1, 2), (0, 2), (2, 2), (0, 0)]
    assert result.objects.segmentation.giou == pytest.approx(0.75, abs=1e-5)
    assert result.scores.segmentation.giou == pytest.approx((0.5 + 0 + 1 + 1) / 4, abs=1e-5)
    assert result.scores.segmentation.ciou == pytest.approx(3 / 6)
    assert result.scores.see.accuracy == pytest.approx(3 / 4)
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


def test_broken_images_stop_unless_told_to_skip():
    with pytest.raises(InputError, match=r"image_1\.png.*--skip_broken"):
        evaluate(predict, Items(3, broken=[1]), progress=False)
    result = evaluate(predict, Items(3, broken=[1]), progress=False, skip_broken=True)
    assert [r.item for r in result.records] == [0, 0, 2, 2]
    assert result.skipped == ["image_1.png is no image"]


def test_done_items_are_not_asked_again():
    result = evaluate(predict, Items(4), progress=False, done={0, 2})
    assert {r.item for r in result.records} == {1, 3}


def test_answers_must_fit_the_questions():
    with pytest.raises(ValueError, match="1 answers to 2 questions"):
        evaluate(lambda image, questions: predict(image, questions)[:1], Items(1), progress=False)


def test_teacher_forcing_is_one_argument():
    calls = []

    class Reader:
        def segment_batch(self, asked, options):
            calls.append(("batch", options))
            return [reply for image, questions in asked for reply in predict(image, questions)]

        def stream(self, asked, options):
            calls.append(("stream", options))
            return (predict(image, questions) for image, questions in asked)

    generated = reader_predict(Reader(), max_new_tokens=5)
    forced = reader_predict(Reader(), answer="[SEG]", batch_questions=3)
    assert evaluate(generated, Items(1), progress=False).records == (
        evaluate(forced, Items(1), progress=False).records
    )
    assert len(forced(make_item(0).image, ["where?"])) == 1
    assert calls == [
        ("stream", GenerationOptions(max_new_tokens=5)),
        ("stream", GenerationOptions("[SEG]", batch_questions=3)),
        ("batch", GenerationOptions("[SEG]", batch_questions=3)),
    ]


class Hasty:
    """Takes items two ahead of its answers, as a stream may."""

    def stream(self, asked):
        taken = []
        for item in asked:
            taken.append((item.image, [question.text for question in item.questions]))
            if len(taken) > 2:
                yield predict(*taken.pop(0))
        for image, questions in taken:
            yield predict(image, questions)


def test_a_stream_may_take_items_ahead():
    whole = evaluate(predict, Items(7, broken=[2]), progress=False, skip_broken=True)
    hasty = evaluate(Hasty(), Items(7, broken=[2]), progress=False, skip_broken=True)
    assert hasty == whole


def test_items_are_read_in_a_thread_a_few_ahead():
    read = []

    class Noted(Items):
        def __getitem__(self, index):
            read.append((index, threading.current_thread()))
            return super().__getitem__(index)

    ahead = []
    evaluate(
        predict,
        Noted(9),
        progress=False,
        on_item=lambda records, _: ahead.append(len(read) - records[0].item - 1),
    )
    assert [index for index, _ in read] == list(range(9))
    assert threading.main_thread() not in [thread for _, thread in read]
    assert min(ahead) >= 0 and max(ahead) <= 3


def test_the_progress_bar_tells_questions_per_second(capsys):
    evaluate(predict, Items(3), label="asking")
    told = capsys.readouterr().err
    assert "asking" in told and "3/3" in told and "questions/s" in told

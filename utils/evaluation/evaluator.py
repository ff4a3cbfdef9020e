"""Evaluation of anything that answers questions about an image.

The evaluator knows neither models nor data sets: it is given a function `predict` and a sequence
of items. Teacher-forced and generated evaluation differ by one argument of `ReaderPredict`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tqdm import tqdm

from utils.errors import InputError
from utils.metrics import SeeMetrics, SegmentationMetrics, intersection_and_union
from utils.protocol.generation import GenerationOptions
from utils.protocol.rle import encode_truth

if TYPE_CHECKING:
    from utils.protocol.batch import EvalItem, EvalQuestion


class AnswerLike(Protocol):
    """What `predict` returns for a question; `model.inference.reader.Answer` is one."""

    text: str
    present: bool
    mask: np.ndarray
    """bool[H, W], original frame; all False without an object."""
    segments: Any
    """For each `[SEG]` an object with `.mask` bool[H, W]."""


Predict = Callable[[np.ndarray, list[str]], Sequence[AnswerLike]]
"""(image uint8[H, W, 3], questions) -> an answer to each; `stream` is used if it has one."""

MaskOutcome = tuple[bool, int, int]
"""Whether a mask has a pixel; intersection and union with the truth, in pixels."""
AHEAD = 2
"""Items that are read ahead, in a thread."""


class SettingSweep(Protocol):
    """Makes the masks of answers with other settings; `model.analysis.ablation.Ablation` is one."""

    questions_at_once: int
    """How many answers are gathered before a call."""

    def __call__(
        self, images: Sequence[tuple[Sequence[Any], Sequence[np.ndarray]]]
    ) -> list[list[list[MaskOutcome]]]:
        """(answers, their true masks uint8[H, W]) of images -> [image][answer][setting]."""


@dataclass(frozen=True)
class Record:
    """The outcome of one question.

    Args:
        item: index of the image in the data set.
        number: index of the question among those about this image.
        count: how many questions there are about this image.
        image: path of the image.
        question: the user's turn.
        kind: group in reports.
        answer: the model's text.
        present: the model answered with a mask that is not empty.
        truth_present: the object is there.
        intersection: pixels in both masks.
        union: pixels in either mask.
        truth: run-length code of the true mask (see `utils.protocol.rle`), if it was kept.
        ignored: run-length code of the pixels that do not count, if there are any.
        sweep_outcomes: what came out with other settings, in their order, if that was asked for.
    """

    item: int
    number: int
    count: int
    image: str
    question: str
    kind: str
    answer: str
    present: bool
    truth_present: bool
    intersection: int
    union: int
    truth: dict[str, Any] | None = None
    ignored: dict[str, Any] | None = None
    sweep_outcomes: list[MaskOutcome] | None = None

    @property
    def iou(self) -> float:
        return self.intersection / self.union if self.union else 1.0


@dataclass
class Scores:
    """Metrics over a group of records."""

    segmentation: SegmentationMetrics = field(default_factory=SegmentationMetrics)
    see: SeeMetrics = field(default_factory=SeeMetrics)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Scores:
        scores = cls()
        for record in records:
            scores.segmentation.pairs.append((record.intersection, record.union))
            scores.see.update([record.present], [record.truth_present])
        return scores

    @property
    def ciou(self) -> float:
        """cIoU; NaN where no object is there: it would be 0 whatever was answered."""
        return self.segmentation.ciou if self.see.present_count else math.nan

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain numbers; None where a metric has nothing to count."""
        values = {
            "giou": self.segmentation.giou,
            "ciou": self.ciou,
            "see_accuracy": self.see.accuracy,
            "absent_precision": self.see.absent_precision,
            "absent_recall": self.see.absent_recall,
        }
        plain = {name: None if math.isnan(value) else value for name, value in values.items()}
        return {"questions": self.see.count, **plain}


def kinds_of(records: Iterable[Record]) -> list[str]:
    """The kinds of question, sorted; "" is one where some have none; empty if all have none."""
    kinds = sorted({record.kind for record in records})
    return [] if kinds == [""] else kinds


@dataclass
class EvalResult:
    """The records of an evaluation. Results of several processes are merged exactly.

    Args:
        records: one per question.
        skipped: messages about broken images that were left out (only with `skip_broken`).
    """

    records: list[Record] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def merge(self, other: EvalResult) -> EvalResult:
        """Take in what another process found; returns itself.

        Raises:
            ValueError: a question was answered by both.
        """
        answered = {(record.item, record.number) for record in self.records}
        twice = [r for r in other.records if (r.item, r.number) in answered]
        if twice:
            raise ValueError(f"{len(twice)} questions were counted twice, first: {twice[0]}")
        self.records = sorted(self.records + other.records, key=lambda r: (r.item, r.number))
        self.skipped = self.skipped + other.skipped
        return self

    @property
    def scores(self) -> Scores:
        """Over every question; absent objects have an empty truth."""
        return Scores.of(self.records)

    @property
    def objects(self) -> Scores:
        """Over the questions about objects that are there."""
        return Scores.of(record for record in self.records if record.truth_present)

    @property
    def per_kind(self) -> dict[str, Scores]:
        """Scores of each kind of question, in alphabetical order; empty if none has a kind."""
        kinds = kinds_of(self.records)
        return {k: Scores.of(r for r in self.records if r.kind == k) for k in kinds}

    def summary(self) -> dict[str, Any]:
        """Plain data for JSON: overall numbers, those of objects that are there, per kind."""
        return {
            "all": self.scores.as_dict(),
            "objects": self.objects.as_dict(),
            "per_kind": {kind: s.as_dict() for kind, s in self.per_kind.items()},
            "skipped": sorted(self.skipped),
        }


@dataclass(frozen=True)
class ReaderPredict:
    """A reader as `Predict`, which also answers whole streams of images together.

    Args:
        reader: `model.inference.reader.Reader`, or anything with its `segment_batch` and `stream`.
        options: how to ask. With an `answer`, questions with a `forced_answer` of their own are
            given that instead.
    """

    reader: Any
    options: GenerationOptions

    def __call__(self, image: np.ndarray, questions: list[str]) -> Sequence[AnswerLike]:
        """Answer questions about one image."""
        return self.reader.segment_batch([(image, questions)], self.options)

    def stream(self, items: Iterable[EvalItem]) -> Iterator[Sequence[AnswerLike]]:
        """Answers of each item, in order; items are taken when they are needed."""
        asked = ((item.image, [self._asked(one) for one in item.questions]) for item in items)
        return self.reader.stream(asked, self.options)

    def _asked(self, question: EvalQuestion) -> str | tuple[str, str]:
        if self.options.answer is None or not question.forced_answer:
            return question.text
        return question.text, question.forced_answer


def reader_predict(reader: Any, answer: str | None = None, **settings: Any) -> ReaderPredict:
    """The `predict` of a reader.

    Args:
        reader: see `ReaderPredict`.
        answer: None: the model generates its answer. A text with `[SEG]`: teacher forced.
        settings: other fields of `GenerationOptions`.
    """
    return ReaderPredict(reader, GenerationOptions(answer, **settings))


def records_of(
    index: int,
    item: EvalItem,
    answers: Sequence[AnswerLike],
    sweep_outcomes: Sequence[list[MaskOutcome]] | None = None,
) -> list[Record]:
    """Compare the answers about one image with its truth.

    Args:
        index: of the image in the data set.
        item: the image with its questions.
        answers: one to each.
        sweep_outcomes: for each answer what came out with other settings.

    Raises:
        ValueError: not one answer per question, or a mask of another size than its truth.
    """
    if len(answers) != len(item.questions):
        raise ValueError(
            f"{len(answers)} answers to {len(item.questions)} questions about {item.image_path}"
        )
    records = []
    for number, (question, answer) in enumerate(zip(item.questions, answers, strict=True)):
        both, either = intersection_and_union(answer.mask[None], question.truth[None])
        truth, ignored = encode_truth(question.truth)
        records.append(
            Record(
                item=index,
                number=number,
                count=len(item.questions),
                image=item.image_path,
                question=question.text,
                kind=question.kind,
                answer=answer.text,
                present=bool(answer.present),
                truth_present=question.exists,
                intersection=int(both[0]),
                union=int(either[0]),
                truth=truth,
                ignored=ignored,
                sweep_outcomes=None if sweep_outcomes is None else sweep_outcomes[number],
            )
        )
    return records


def evaluate(
    predict: Predict,
    items: Sequence[EvalItem],
    *,
    rank: int = 0,
    world: int = 1,
    progress: bool = True,
    skip_broken: bool = False,
    done: Collection[int] = (),
    on_item: Callable[[list[Record], Sequence[AnswerLike]], None] | None = None,
    on_skip: Callable[[int, str], None] | None = None,
    sweep: SettingSweep | None = None,
    label: str = "evaluation",
) -> EvalResult:
    """Ask every question of this process' share of `items`.

    Item i belongs to process i mod `world`: over all processes each item counts exactly once.

    Args:
        predict: answers questions about one image.
        items: has a length and an index; `items[i]` may decode the image when asked. A thread
            does so ahead of the answers.
        rank, world: this process and the number of processes.
        progress: show a progress bar (on process 0).
        skip_broken: leave out images that cannot be read, and list them in the result.
        done: indices of items that are not asked again.
        on_item: called with the records and the answers of each image as soon as they exist.
        on_skip: called with the index and the message of each image left out.
        sweep: also makes the masks with other settings (`Record.sweep_outcomes`).
        label: text of the progress bar.

    Returns:
        The records of this process; merge the results of all processes with `EvalResult.merge`.

    Raises:
        InputError: an image or annotation is broken (with its path), unless `skip_broken`.
    """
    result = EvalResult()
    indices = [index for index in range(rank, len(items), world) if index not in done]
    asked: deque[tuple[int, EvalItem]] = deque()
    bar = tqdm(total=len(indices), desc=label, unit="image", disable=not (progress and rank == 0))

    def questions() -> Iterator[EvalItem]:
        for index, coming in _read_ahead(items, indices):
            try:
                item = coming.result()
            except InputError as error:
                if not skip_broken:
                    raise InputError(
                        f"{error} (leaving it out would change the result; "
                        "--skip_broken leaves such images out and lists them)"
                    ) from error
                result.skipped.append(str(error))
                if on_skip is not None:
                    on_skip(index, str(error))
                bar.update()
                continue
            asked.append((index, item))
            yield item

    stream = getattr(predict, "stream", None)
    answers_of = (
        stream(questions())
        if stream
        else (predict(item.image, [one.text for one in item.questions]) for item in questions())
    )
    answered = ((*asked.popleft(), answers) for answers in answers_of)
    with bar:
        for index, item, answers, outcomes in with_sweep(answered, sweep):
            records = records_of(index, item, answers, outcomes)
            result.records.extend(records)
            if on_item:
                on_item(records, answers)
            bar.update()
            pace = len(result.records) / max(bar.format_dict["elapsed"], 1e-9)
            bar.set_postfix_str(f"{pace:.1f} questions/s", refresh=False)
    return result


def with_sweep(
    answered: Iterable[tuple[int, EvalItem, Sequence[Any]]], sweep: SettingSweep | None
) -> Iterator[tuple[int, EvalItem, Sequence[Any], list[list[MaskOutcome]] | None]]:
    """Add to (index, image, its answers) the outcomes of these with other settings.

    Several images are gathered before a call of `sweep`; None adds nothing and gathers nothing.

    Raises:
        InputError: `answered` raised it; all images before have been yielded by then.
    """
    gathered: list[tuple[int, EvalItem, Sequence[Any]]] = []

    def swept() -> Iterator[Any]:
        pairs = [(answers, [q.truth for q in item.questions]) for _, item, answers in gathered]
        outcomes = sweep(pairs) if sweep and pairs else [None] * len(pairs)
        for image, one in zip(gathered, outcomes, strict=True):
            yield *image, one
        gathered.clear()

    try:
        for image in answered:
            gathered.append(image)
            count = sum(len(answers) for *_, answers in gathered)
            if sweep is None or count >= sweep.questions_at_once:
                yield from swept()
    except InputError:
        yield from swept()
        raise
    yield from swept()


def _read_ahead(
    items: Sequence[EvalItem], indices: Sequence[int]
) -> Iterator[tuple[int, Future[EvalItem]]]:
    """Items as they are being read, a few ahead of their use."""
    with ThreadPoolExecutor(1, thread_name_prefix="items") as reading:
        coming: deque[tuple[int, Future[EvalItem]]] = deque()
        try:
            for index in indices:
                coming.append((index, reading.submit(items.__getitem__, index)))
                if len(coming) > AHEAD:
                    yield coming.popleft()
            yield from coming
        finally:
            reading.shutdown(wait=False, cancel_futures=True)

"""Questions about any number of images in a stream, answered together.

CLIP, the shared part of the prompts and SAM's encoder run once for an image. Rows of the language
model's batch that become free are taken by the next questions, whichever image those are about.
While the model works, the next image is read in a thread. What is held at a time depends on the
number of rows, not on the length of the stream.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice

import torch

from model.inference.answer import Answer, Segment, answer_of, segments_of
from model.inference.decoding import DecodingBatch, Prefix, Request
from model.inference.encoded_image import EncodedImage, Item
from model.inference.inputs import ImageLike, load_views
from model.inference.prompts import PromptFormat, Question, question_of
from model.inference.seg_states import SegStates
from model.outputs import SegQuery
from model.read_model import ReadForCausalLM
from utils.errors import InputError
from utils.protocol.conversation import POSITIVE_ANSWER
from utils.protocol.generation import GenerationOptions
from utils.stopwatch import Timer

WINDOW = 4
"""Questions between being read and being handed out, in multiples of the rows."""


class State(Enum):
    """How far an image has come."""

    READING = "the thread reads it; nothing of it has run"
    ENCODED = "CLIP and the shared part of its prompts have run; some of its questions wait"
    ANSWERING = "all of its questions have a row of the batch, or are answered"
    READY = "it can be handed out: its answers, or an error"


@dataclass(eq=False)
class _Image:
    """An image with its questions, from being read to being handed out.

    Args:
        state: how far it has come.
        kept: whether the caller keeps it for later questions, with all that was made of it.
        encoded: read in the thread; what the model makes of it.
        shared_ids: token ids that all its prompts begin with.
        questions: in order.
        image_states: float[V, D], from `ENCODED` on.
        clip_features: float[V, D], likewise, where answers carry states.
        answers: in the end.
        error: in the end, instead of answers.
    """

    state: State = State.READING
    kept: bool = False
    encoded: Future[EncodedImage] = field(default_factory=Future)
    shared_ids: list[int] = field(default_factory=list)
    questions: list[_Question] = field(default_factory=list)
    image_states: torch.Tensor | None = None
    clip_features: torch.Tensor | None = None
    answers: list[Answer] = field(default_factory=list)
    error: InputError | None = None

    @property
    def is_answered(self) -> bool:
        """Whether all of its questions are answered in words."""
        return all(one.is_answered for one in self.questions)

    def query(self, hidden_states: Sequence[torch.Tensor]) -> SegQuery:
        """Of `[SEG]` tokens, each given by its hidden state float[D]."""
        assert self.image_states is not None  # it is encoded
        return SegQuery(torch.stack(list(hidden_states)), self.image_states)

    def clear(self) -> None:
        """Let go of what the model made of it."""
        if self.encoded.done() and self.encoded.exception() is None:
            self.encoded.result().clear()

    def release(self) -> None:
        """The same, unless the caller keeps it."""
        if not self.kept:
            self.clear()


@dataclass(eq=False, kw_only=True)
class _Question(Request):
    """A question of the stream.

    Args:
        image: that it is about.
        question: in words.
        answer: in words, as soon as it is known.
        is_answered: whether all tokens of the answer are there.
    """

    image: _Image
    question: str
    answer: str | None
    is_answered: bool = False


@dataclass
class MemoryLimit:
    """What running out of memory has taught: the rows that fit, and whether a warning was given."""

    rows: int | None = None
    warned: bool = False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, on a GPU or a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return any(sign in text for sign in ("out of memory", "can't allocate memory", "ALLOC_FAILED"))


class Scheduler:
    """One pass over a stream of images with questions.

    Args:
        model: READ in evaluation mode.
        prompt_format: its prompts.
        options: how to ask.
        limit: kept by the caller over several passes.
        timer: measures the stages.
    """

    def __init__(
        self,
        model: ReadForCausalLM,
        prompt_format: PromptFormat,
        options: GenerationOptions,
        limit: MemoryLimit,
        timer: Timer,
    ):
        self.model = model
        self.prompt_format = prompt_format
        self.options = options
        self.limit = limit
        self.timer = timer
        self.batch: DecodingBatch[_Question] = DecodingBatch(model, options.max_new_tokens)
        self.most_rows = min(options.batch_questions, limit.rows or options.batch_questions)
        self.images: deque[_Image] = deque()
        self.waiting: deque[_Question] = deque()
        self.exhausted = False

    def stream(self, items: Iterable[Item]) -> Iterator[list[Answer]]:
        """Answer each item's questions; one list an item, in order.

        Raises:
            InputError: an unusable image or question, once all items before it are handed out.
        """
        with closing(self.steps(items)) as steps:
            yield from (answers for answers in steps if answers is not None)

    @torch.no_grad()
    def steps(self, items: Iterable[Item]) -> Generator[list[Answer] | None, None, None]:
        """`stream`, with a None before every piece of the work."""
        source = iter(items)
        with ThreadPoolExecutor(1, thread_name_prefix="images") as reading:
            try:
                while True:
                    self._pull(source, reading)
                    while self.images and self.images[0].state is State.READY:
                        image = self.images.popleft()
                        if image.error is not None:
                            raise image.error
                        yield image.answers
                    if not self.images and self.exhausted:
                        return
                    yield None
                    self._step_within_memory()
            finally:
                reading.shutdown(wait=False, cancel_futures=True)

    @property
    def words(self) -> str:
        """What the first question that is not yet handed out has been answered so far."""
        if not self.images or not self.images[0].questions:
            return ""
        first = self.images[0].questions[0]
        # A character of several bytes may have come in part.
        return first.answer or self.prompt_format.text(first.tokens).rstrip("\ufffd")

    # --- images come ------------------------------------------------------------------------

    def _pull(self, source: Iterator[Item], reading: ThreadPoolExecutor) -> None:
        """Take items until there is enough to do: a full batch waiting, within the window."""
        rows = self.options.batch_questions
        while not self.exhausted:
            held = sum(max(1, len(image.questions)) for image in self.images)
            enough = len(self.waiting) >= rows or held >= WINDOW * rows
            if len(self.images) >= 2 and enough:
                return
            try:
                self.images.append(self._open(*next(source), reading))
            except StopIteration:
                self.exhausted = True
            except InputError as error:
                self.images.append(_Image(State.READY, error=error))
                self.exhausted = True

    def _open(
        self,
        source: ImageLike | EncodedImage,
        questions: Sequence[Question],
        reading: ThreadPoolExecutor,
    ) -> _Image:
        """Take an image and its questions into the queue."""
        image = _Image(kept=isinstance(source, EncodedImage))
        if isinstance(source, EncodedImage) and source.model is not self.model:
            raise InputError("the image was opened by another reader; open it with this one")
        for one in questions:
            question, answer = question_of(one, self.options.answer)
            entry = _Question(input_ids=[], image=image, question=question, answer=answer)
            self._set_prompt(entry)
            image.questions.append(entry)
        if not image.questions:
            image.state = State.READY
        elif isinstance(source, EncodedImage):
            image.encoded.set_result(source)
        else:
            image.encoded = reading.submit(self._read, source)
        self.waiting += image.questions
        return image

    def _set_prompt(self, entry: _Question) -> None:
        """Set the token ids of a question, and of its answer where that is known."""
        entry.image.shared_ids, entry.input_ids = self.prompt_format.prompt(entry.question)
        if entry.answer is not None:
            entry.answer_start = len(entry.input_ids)
            entry.input_ids = self.prompt_format.prompt(entry.question, entry.answer)[1]

    def _read(self, source: ImageLike) -> EncodedImage:
        with self.timer("read images (thread)"):
            return EncodedImage(self.model, load_views(source, self.model.views))

    def _break(self, image: _Image, error: InputError) -> None:
        """Nothing from this image on is answered; those before it are."""
        image.state, image.error = State.READY, error
        self.exhausted = True
        while self.images[-1] is not image:
            self.images.pop()
        kept = set(self.images) - {image}
        self.waiting = deque(entry for entry in self.waiting if entry.image in kept)

    # --- the work ---------------------------------------------------------------------------

    def step(self) -> None:
        """Make the masks of an answered image, or let questions enter, or add a token."""
        for image in self.images:
            if image.state is State.ANSWERING and image.is_answered:
                self.make_masks(image)
                return
        entering = min(self.most_rows - len(self.batch), len(self.waiting))
        group = max(1, self.most_rows // 4)
        if entering and (entering >= group or entering == len(self.waiting) or not len(self.batch)):
            self.admit(entering)
        elif len(self.batch):
            with self.timer("decode"):
                finished = self.batch.step()
            self.record(finished)

    def admit(self, count: int) -> None:
        """Prefill the first questions of the queue."""
        entering = list(islice(self.waiting, count))
        images = dict.fromkeys(entry.image for entry in entering)
        for image in images:
            try:
                with self.timer("wait for images"):
                    image.encoded.result()
            except InputError as error:
                self._break(image, error)
                return
        still_waiting = {entry.image for entry in islice(self.waiting, count, None)}
        self.batch.unplace()
        for image in images:
            prefix = self._encode(image)
            with self.timer("prefill"):
                self.batch.place([entry for entry in entering if entry.image is image], prefix)
            if image not in still_waiting and not self.options.force_seg:
                image.state = State.ANSWERING
                image.release()
        with self.timer("prefill"):
            finished = self.batch.prefill()
        for _ in entering:
            self.waiting.popleft()
        self.record(finished)

    def _encode(self, image: _Image) -> Prefix:
        """Run CLIP and the shared part of the prompts, unless they have run."""
        encoded = image.encoded.result()
        prefix = encoded.prefix(image.shared_ids, self.timer)
        image.state, image.image_states = State.ENCODED, prefix.image_states
        if self.options.keep_states:
            image.clip_features = encoded.clip_features
        return prefix

    def record(self, finished: Sequence[_Question]) -> None:
        """Write down finished answers; with `force_seg` some are asked again with a `[SEG]`."""
        for entry in finished:
            if entry.answer_start is None:
                entry.answer = self.prompt_format.text(entry.tokens)
                if self.options.force_seg and not entry.seg_index:
                    entry.answer = f"{entry.answer} {POSITIVE_ANSWER}".strip()
                    entry.restart()
                    self._set_prompt(entry)
                    self.waiting.appendleft(entry)
                    continue
            entry.is_answered = True
            if entry.image.is_answered:
                entry.image.state = State.ANSWERING
                entry.image.release()

    def make_masks(self, image: _Image) -> None:
        """Make all masks of an image, and its answers of them."""
        encoded = image.encoded.result()
        hidden_states = [state for entry in image.questions for state in entry.seg_hidden_states]
        indices = [index for entry in image.questions for index in entry.seg_index]
        segments: list[Segment] = []
        for start in range(0, len(hidden_states), step := 2 * self.most_rows):
            query = image.query(hidden_states[start : start + step])
            context = encoded.context(self.timer)
            with self.timer("masks"):
                (prediction,) = self.model.predict_masks([context], [query])
                segments += segments_of(prediction, indices[start : start + step])
        of_questions = iter(segments)
        image.answers = [
            answer_of(
                entry.answer or "",
                entry.tokens,
                list(islice(of_questions, len(entry.seg_index))),
                encoded.size,
                self._states(entry, encoded),
            )
            for entry in image.questions
        ]
        image.state = State.READY
        image.release()

    def _states(self, entry: _Question, encoded: EncodedImage) -> SegStates | None:
        """What an answer's masks were made from, if that is kept."""
        if not self.options.keep_states or not entry.seg_hidden_states:
            return None
        clip_features = entry.image.clip_features
        assert clip_features is not None  # it is encoded
        query = entry.image.query(entry.seg_hidden_states)
        return SegStates(encoded.context(), query, clip_features)

    # --- memory -----------------------------------------------------------------------------

    def _step_within_memory(self) -> None:
        """`step`; where memory does not suffice, halve the rows for good and go on."""
        try:
            self.step()
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.most_rows == 1:
                raise InputError(
                    "out of memory with one question at a time: choose a smaller number format "
                    "(--precision bf16, --load_in_8bit, --load_in_4bit) or a device with more "
                    f"memory ({error})"
                ) from error
        # Outside the handler: the error's frames, and the tensors in them, are gone by now.
        self._halve()

    def _halve(self) -> None:
        before, self.most_rows = self.most_rows, self.most_rows // 2
        self.limit.rows = self.most_rows
        queued = set(self.waiting)
        again = [entry for entry in self.batch.clear() if entry not in queued]
        self.waiting.extendleft(reversed(again))
        for entry in self.waiting:
            entry.restart()
            entry.image.state = State.READING
        for image in self.images:
            image.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self.limit.warned:
            self.limit.warned = True
            warnings.warn(
                f"out of memory with {before} questions at once: going on with {self.most_rows} "
                f"(--batch_questions {self.most_rows} starts that way)",
                RuntimeWarning,
                stacklevel=2,
            )

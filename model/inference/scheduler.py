"""Questions about any number of images in a stream, answered together.

CLIP, the shared part of the prompts and SAM's encoder run once for an image. Rows of the language
model's batch that become free are taken by the next questions, whichever image those are about.
While the model works, the next image is read in a thread. What is held at a time depends on the
number of rows, not on the length of the stream.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import torch

from model.inference.answer import Answer, Segment, answer_of, segments_of
from model.inference.decoding import DecodingBatch, Prefix, Request
from model.inference.encoded_image import EncodedImage, Item, Timer
from model.inference.inputs import ImageInputs, ImageLike, load_views
from model.inference.memory_limit import MemoryLimit, is_out_of_memory
from model.inference.prompts import Asked, PromptFormat, question_of
from model.inference.seg_states import ImageFeatures, SegStates
from model.read_model import ReadForCausalLM
from utils.errors import InputError
from utils.protocol.conversation import POSITIVE_ANSWER

WINDOW = 4
"""Questions between being read and being handed out, in multiples of the rows."""


@dataclass(frozen=True)
class GenerationOptions:
    """How questions are asked.

    Args:
        answer: given words instead of generated ones ("teacher forced").
        max_new_tokens: most tokens of a generated answer.
        force_seg: append the positive answer where the model gave no `[SEG]`.
        batch_questions: rows of the language model's batch.
        keep_states: whether answers carry what their masks were made from.
    """

    answer: str | None = None
    max_new_tokens: int = 512
    force_seg: bool = False
    batch_questions: int = 16
    keep_states: bool = False

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_questions"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(eq=False)
class _ImageJob:
    """An image with its questions, from being read to being handed out."""

    kept: EncodedImage | None = None
    views: Future[ImageInputs] | None = None
    questions: list[str] = field(default_factory=list)
    shared_ids: list[int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    open: int = 0
    prefix: Prefix | None = None
    clip_features: torch.Tensor | None = None
    image_states: torch.Tensor | None = None
    states: ImageFeatures | None = None
    answers: list[Answer] | None = None
    error: InputError | None = None

    @property
    def weight(self) -> int:
        return max(1, len(self.questions))


class Scheduler:
    """One pass over a stream of images with questions.

    Args:
        model: READ in evaluation mode.
        prompt_format: its prompts.
        asking: how to ask.
        limit: kept by the caller over several passes.
        timer: measures the stages; see `utils.stopwatch`.
    """

    def __init__(
        self,
        model: ReadForCausalLM,
        prompt_format: PromptFormat,
        asking: GenerationOptions,
        limit: MemoryLimit,
        timer: Timer,
    ):
        self.model = model
        self.prompt_format = prompt_format
        self.asking = asking
        self.limit = limit
        self.timer = timer
        self.rows = DecodingBatch(model, asking.max_new_tokens)
        self.most_rows = min(asking.batch_questions, limit.rows or asking.batch_questions)
        self.images: deque[_ImageJob] = deque()
        self.waiting: deque[tuple[_ImageJob, Request]] = deque()
        self.owner: dict[Request, _ImageJob] = {}
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
                    while self.images and self._is_ready(self.images[0]):
                        yield self._hand_out(self.images.popleft())
                    if not self.images and self.exhausted:
                        return
                    yield None
                    self._guarded(self._work)
            finally:
                reading.shutdown(wait=False, cancel_futures=True)

    @property
    def words(self) -> str:
        """What the first question that is not yet handed out has been answered so far."""
        if not self.images or not self.images[0].requests:
            return ""
        text = self.images[0].texts[0]
        # A character of several bytes may have come in part.
        return text or self.prompt_format.text(self.images[0].requests[0].tokens).rstrip("\ufffd")

    # --- images come and go ---------------------------------------------------------------

    def _pull(self, source: Iterator[Item], reading: ThreadPoolExecutor) -> None:
        """Take items until there is enough to do: a full batch waiting, within the window."""
        rows = self.asking.batch_questions
        while not self.exhausted:
            held = sum(job.weight for job in self.images)
            enough = len(self.waiting) >= rows or held >= WINDOW * rows
            if len(self.images) >= 2 and enough:
                return
            try:
                image, questions = next(source)
                job = self._open(image, questions, reading)
            except StopIteration:
                self.exhausted = True
                return
            except InputError as error:
                job = _ImageJob(error=error)
                self.exhausted = True
            self.images.append(job)

    def _open(
        self, image: ImageLike | EncodedImage, asked: Sequence[Asked], reading: ThreadPoolExecutor
    ) -> _ImageJob:
        kept = image if isinstance(image, EncodedImage) else None
        if kept is not None and kept.model is not self.model:
            raise InputError("the image was opened by another reader; open it with this one")
        given = [question_of(one, self.asking.answer) for one in asked]
        job = _ImageJob(kept, questions=[q for q, _ in given], texts=[a for _, a in given])
        for question, answer in given:
            job.shared_ids, ids = self.prompt_format.prompt(question)
            request = Request(ids)
            if answer is not None:
                self._give(request, question, answer)
            job.requests.append(request)
        job.open = len(job.requests)
        if not job.requests:
            job.answers = []
            return job
        job.views = reading.submit(self._prepare, image)
        for request in job.requests:
            self.owner[request] = job
            self.waiting.append((job, request))
        return job

    def _give(self, request: Request, question: str, answer: str) -> None:
        """Let a request carry its answer."""
        request.answer_start = len(self.prompt_format.prompt(question)[1])
        request.ids = self.prompt_format.prompt(question, answer)[1]

    def _prepare(self, image: ImageLike | EncodedImage) -> ImageInputs:
        if isinstance(image, EncodedImage):
            return image.views
        with self.timer("read images (thread)"):
            return load_views(image, self.model.views)

    def _is_ready(self, image: _ImageJob) -> bool:
        return image.answers is not None or image.error is not None

    def _hand_out(self, image: _ImageJob) -> list[Answer]:
        if image.error is not None:
            raise image.error
        return image.answers or []

    def _break(self, image: _ImageJob, error: InputError) -> None:
        """Nothing from this image on is answered; those before it are."""
        image.error = error
        self.exhausted = True
        while self.images[-1] is not image:
            self.images.pop()
        kept = set(map(id, self.images)) - {id(image)}
        self.waiting = deque(pair for pair in self.waiting if id(pair[0]) in kept)

    # --- one step of work -------------------------------------------------------------------

    def _work(self) -> None:
        """Show the masks of an answered image, or let questions enter, or add a token."""
        done = next((p for p in self.images if not p.open and not self._is_ready(p)), None)
        if done is not None:
            done.answers = self._show(done)
            return
        free = self.most_rows - len(self.rows)
        entering = min(free, len(self.waiting))
        group = max(1, self.most_rows // 4)
        if entering and (entering >= group or entering == len(self.waiting) or not len(self.rows)):
            self._enter([self.waiting[n] for n in range(entering)])
        elif len(self.rows):
            with self.timer("decode"):
                finished = self.rows.step()
            self._note(finished)

    def _enter(self, pairs: list[tuple[_ImageJob, Request]]) -> None:
        """Prefill questions at the head of the queue."""
        for image in dict.fromkeys(image for image, _ in pairs):
            try:
                self._views(image)
            except InputError as error:
                self._break(image, error)
                return
        later = {id(image) for image, _ in list(self.waiting)[len(pairs) :]}
        self.rows.unplace()
        for image in dict.fromkeys(image for image, _ in pairs):
            prefix = image.prefix or self._read(image)
            mine = [request for owner, request in pairs if owner is image]
            with self.timer("prefill"):
                self.rows.place(mine, prefix)
            if id(image) not in later and not self.asking.force_seg:
                image.prefix = None
        with self.timer("prefill"):
            finished = self.rows.prefill()
        for _ in pairs:
            self.waiting.popleft()
        self._note(finished)

    def _views(self, image: _ImageJob) -> ImageInputs:
        assert image.views is not None
        with self.timer("wait for images"):
            return image.views.result()

    def _read(self, image: _ImageJob) -> Prefix:
        """Run CLIP and the shared part of the prompts."""
        made = image.kept or EncodedImage(self.model, self._views(image))
        prefix = made.prefix(image.shared_ids, self.timer)
        image.prefix, image.image_states = prefix, prefix.image_states
        if self.asking.keep_states:
            image.clip_features = made.clip_features
        return prefix

    def _note(self, finished: list[Request]) -> None:
        """Write down finished answers; with `force_seg` some are asked again with a `[SEG]`."""
        for request in finished:
            image = self.owner[request]
            number = image.requests.index(request)
            if request.answer_start is None:
                text = self.prompt_format.text(request.tokens)
                if self.asking.force_seg and not request.seg_index:
                    self._ask_again(image, number, text)
                    continue
                image.texts[number] = text
            image.open -= 1
            del self.owner[request]
            if not image.open:
                image.prefix = None

    def _ask_again(self, image: _ImageJob, number: int, text: str) -> None:
        del self.owner[image.requests[number]]
        forced = f"{text} {POSITIVE_ANSWER}".strip()
        request = Request([])
        self._give(request, image.questions[number], forced)
        image.requests[number], image.texts[number] = request, forced
        self.owner[request] = image
        self.waiting.appendleft((image, request))

    # --- masks ------------------------------------------------------------------------------

    def _show(self, image: _ImageJob) -> list[Answer]:
        """All masks of an image, and its answers."""
        views = self._views(image)
        segments = iter(self._segments(image, views))
        return [
            answer_of(
                text or "",
                request.tokens,
                [next(segments) for _ in request.seg_index],
                views.size,
                _seg_states(image, request),
            )
            for request, text in zip(image.requests, image.texts, strict=True)
        ]

    def _segments(self, image: _ImageJob, views: ImageInputs) -> list[Segment]:
        states = [state for request in image.requests for state in request.seg_hidden_states]
        indices = [index for request in image.requests for index in request.seg_index]
        if not states or image.image_states is None:
            return []
        embedding = (image.kept or EncodedImage(self.model, views)).embedding(self.timer)
        if self.asking.keep_states and image.clip_features is not None:
            image.states = ImageFeatures(
                views.size,
                views.sam_size,
                image.clip_features,
                image.image_states,
                embedding,
            )
        made: list[Segment] = []
        with self.timer("masks"):
            for chunk in torch.stack(states).split(self.masks_at_once):
                (prediction,) = self.model.predict_masks(
                    chunk,
                    image.image_states.expand(len(chunk), -1, -1),
                    torch.zeros(len(chunk), dtype=torch.int64, device=chunk.device),
                    embedding,
                    [views.sam_size],
                    [views.size],
                )
                made += segments_of(prediction, indices[len(made) : len(made) + len(chunk)])
        return made

    @property
    def masks_at_once(self) -> int:
        """All of an image, up to twice the rows."""
        return 2 * self.most_rows

    # --- memory -----------------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do it; where memory does not suffice, halve the rows for good and go on."""
        try:
            work()
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
        queued = {request for _, request in self.waiting}
        again = [request for request in self.rows.clear() if request not in queued]
        for request in (*queued, *again):
            request.restart()
        for request in reversed(again):
            self.waiting.appendleft((self.owner[request], request))
        for image in self.images:
            image.prefix = None
            if image.kept is not None:
                image.kept.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self.limit.told:
            self.limit.told = True
            warnings.warn(
                f"out of memory with {before} questions at once: going on with {self.most_rows} "
                f"(--batch_questions {self.most_rows} starts that way)",
                RuntimeWarning,
                stacklevel=2,
            )


def _seg_states(image: _ImageJob, request: Request) -> SegStates | None:
    """What an answer's masks were made from, if that is kept."""
    if image.states is None or not request.seg_hidden_states:
        return None
    return SegStates(image.states, torch.stack(request.seg_hidden_states))

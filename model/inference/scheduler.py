"""Questions about any number of pictures in a stream, answered together.

CLIP, the shared part of the prompts and SAM's encoder run once for a picture. Rows of the language
model's batch that become free are taken by the next questions, whichever picture those are about.
While the model works, the next picture is read in a thread. What is held at a time depends on the
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
from model.inference.decoding import AnswerRows, Prefix, Request
from model.inference.encoded_image import Item, OpenPicture, Watch
from model.inference.inputs import ImageLike, PictureViews, load_views
from model.inference.memory_limit import MemoryLimit, is_out_of_memory
from model.inference.prompts import Asked, Wording, question_of
from model.inference.seg_states import PictureStates, SegStates
from model.read_model import ReadForCausalLM
from utils.errors import InputError
from utils.protocol.conversation import POSITIVE_ANSWER

WINDOW = 4
"""Questions between being read and being handed out, in multiples of the rows."""


@dataclass(frozen=True)
class Asking:
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
class _Picture:
    """A picture with its questions, from being read to being handed out."""

    kept: OpenPicture | None = None
    views: Future[PictureViews] | None = None
    questions: list[str] = field(default_factory=list)
    shared_ids: list[int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    open: int = 0
    prefix: Prefix | None = None
    clip_features: torch.Tensor | None = None
    image_states: torch.Tensor | None = None
    states: PictureStates | None = None
    answers: list[Answer] | None = None
    error: InputError | None = None

    @property
    def weight(self) -> int:
        return max(1, len(self.questions))


class Answering:
    """One pass over a stream of pictures with questions.

    Args:
        model: READ in evaluation mode.
        wording: its prompts.
        asking: how to ask.
        limit: kept by the caller over several passes.
        watch: measures the stages; see `utils.stopwatch`.
    """

    def __init__(
        self,
        model: ReadForCausalLM,
        wording: Wording,
        asking: Asking,
        limit: MemoryLimit,
        watch: Watch,
    ):
        self.model = model
        self.wording = wording
        self.asking = asking
        self.limit = limit
        self.watch = watch
        self.rows = AnswerRows(model, asking.max_new_tokens)
        self.most_rows = min(asking.batch_questions, limit.rows or asking.batch_questions)
        self.pictures: deque[_Picture] = deque()
        self.waiting: deque[tuple[_Picture, Request]] = deque()
        self.owner: dict[Request, _Picture] = {}
        self.exhausted = False

    def stream(self, items: Iterable[Item]) -> Iterator[list[Answer]]:
        """Answer each item's questions; one list an item, in order.

        Raises:
            InputError: an unusable picture or question, once all items before it are handed out.
        """
        with closing(self.steps(items)) as steps:
            yield from (answers for answers in steps if answers is not None)

    @torch.no_grad()
    def steps(self, items: Iterable[Item]) -> Generator[list[Answer] | None, None, None]:
        """`stream`, with a None before every piece of the work."""
        source = iter(items)
        with ThreadPoolExecutor(1, thread_name_prefix="pictures") as reading:
            try:
                while True:
                    self._pull(source, reading)
                    while self.pictures and self._is_ready(self.pictures[0]):
                        yield self._hand_out(self.pictures.popleft())
                    if not self.pictures and self.exhausted:
                        return
                    yield None
                    self._guarded(self._work)
            finally:
                reading.shutdown(wait=False, cancel_futures=True)

    @property
    def words(self) -> str:
        """What the first question that is not yet handed out has been answered so far."""
        if not self.pictures or not self.pictures[0].requests:
            return ""
        text = self.pictures[0].texts[0]
        # A character of several bytes may have come in part.
        return text or self.wording.text(self.pictures[0].requests[0].tokens).rstrip("\ufffd")

    # --- pictures come and go ---------------------------------------------------------------

    def _pull(self, source: Iterator[Item], reading: ThreadPoolExecutor) -> None:
        """Take items until there is enough to do: a full batch waiting, within the window."""
        rows = self.asking.batch_questions
        while not self.exhausted:
            held = sum(picture.weight for picture in self.pictures)
            enough = len(self.waiting) >= rows or held >= WINDOW * rows
            if len(self.pictures) >= 2 and enough:
                return
            try:
                image, questions = next(source)
                picture = self._open(image, questions, reading)
            except StopIteration:
                self.exhausted = True
                return
            except InputError as error:
                picture = _Picture(error=error)
                self.exhausted = True
            self.pictures.append(picture)

    def _open(
        self, image: ImageLike | OpenPicture, asked: Sequence[Asked], reading: ThreadPoolExecutor
    ) -> _Picture:
        kept = image if isinstance(image, OpenPicture) else None
        if kept is not None and kept.model is not self.model:
            raise InputError("the picture was opened by another reader; open it with this one")
        given = [question_of(one, self.asking.answer) for one in asked]
        picture = _Picture(kept, questions=[q for q, _ in given], texts=[a for _, a in given])
        for question, answer in given:
            picture.shared_ids, ids = self.wording.prompt(question)
            request = Request(ids)
            if answer is not None:
                self._give(request, question, answer)
            picture.requests.append(request)
        picture.open = len(picture.requests)
        if not picture.requests:
            picture.answers = []
            return picture
        picture.views = reading.submit(self._prepare, image)
        for request in picture.requests:
            self.owner[request] = picture
            self.waiting.append((picture, request))
        return picture

    def _give(self, request: Request, question: str, answer: str) -> None:
        """Let a request carry its answer."""
        request.answer_start = len(self.wording.prompt(question)[1])
        request.ids = self.wording.prompt(question, answer)[1]

    def _prepare(self, image: ImageLike | OpenPicture) -> PictureViews:
        if isinstance(image, OpenPicture):
            return image.views
        with self.watch("read pictures (thread)"):
            return load_views(image, self.model.views)

    def _is_ready(self, picture: _Picture) -> bool:
        return picture.answers is not None or picture.error is not None

    def _hand_out(self, picture: _Picture) -> list[Answer]:
        if picture.error is not None:
            raise picture.error
        return picture.answers or []

    def _break(self, picture: _Picture, error: InputError) -> None:
        """Nothing from this picture on is answered; those before it are."""
        picture.error = error
        self.exhausted = True
        while self.pictures[-1] is not picture:
            self.pictures.pop()
        kept = set(map(id, self.pictures)) - {id(picture)}
        self.waiting = deque(pair for pair in self.waiting if id(pair[0]) in kept)

    # --- one step of work -------------------------------------------------------------------

    def _work(self) -> None:
        """Show the masks of an answered picture, or let questions enter, or add a token."""
        done = next((p for p in self.pictures if not p.open and not self._is_ready(p)), None)
        if done is not None:
            done.answers = self._show(done)
            return
        free = self.most_rows - len(self.rows)
        entering = min(free, len(self.waiting))
        group = max(1, self.most_rows // 4)
        if entering and (entering >= group or entering == len(self.waiting) or not len(self.rows)):
            self._enter([self.waiting[n] for n in range(entering)])
        elif len(self.rows):
            with self.watch("decode"):
                finished = self.rows.step()
            self._note(finished)

    def _enter(self, pairs: list[tuple[_Picture, Request]]) -> None:
        """Prefill questions at the head of the queue."""
        for picture in dict.fromkeys(picture for picture, _ in pairs):
            try:
                self._views(picture)
            except InputError as error:
                self._break(picture, error)
                return
        later = {id(picture) for picture, _ in list(self.waiting)[len(pairs) :]}
        self.rows.unplace()
        for picture in dict.fromkeys(picture for picture, _ in pairs):
            prefix = picture.prefix or self._read(picture)
            mine = [request for owner, request in pairs if owner is picture]
            with self.watch("prefill"):
                self.rows.place(mine, prefix)
            if id(picture) not in later and not self.asking.force_seg:
                picture.prefix = None
        with self.watch("prefill"):
            finished = self.rows.prefill()
        for _ in pairs:
            self.waiting.popleft()
        self._note(finished)

    def _views(self, picture: _Picture) -> PictureViews:
        assert picture.views is not None
        with self.watch("wait for pictures"):
            return picture.views.result()

    def _read(self, picture: _Picture) -> Prefix:
        """Run CLIP and the shared part of the prompts."""
        made = picture.kept or OpenPicture(self.model, self._views(picture))
        prefix = made.prefix(picture.shared_ids, self.watch)
        picture.prefix, picture.image_states = prefix, prefix.image_states
        if self.asking.keep_states:
            picture.clip_features = made.clip_features
        return prefix

    def _note(self, finished: list[Request]) -> None:
        """Write down finished answers; with `force_seg` some are asked again with a `[SEG]`."""
        for request in finished:
            picture = self.owner[request]
            number = picture.requests.index(request)
            if request.answer_start is None:
                text = self.wording.text(request.tokens)
                if self.asking.force_seg and not request.seg_index:
                    self._ask_again(picture, number, text)
                    continue
                picture.texts[number] = text
            picture.open -= 1
            del self.owner[request]
            if not picture.open:
                picture.prefix = None

    def _ask_again(self, picture: _Picture, number: int, text: str) -> None:
        del self.owner[picture.requests[number]]
        forced = f"{text} {POSITIVE_ANSWER}".strip()
        request = Request([])
        self._give(request, picture.questions[number], forced)
        picture.requests[number], picture.texts[number] = request, forced
        self.owner[request] = picture
        self.waiting.appendleft((picture, request))

    # --- masks ------------------------------------------------------------------------------

    def _show(self, picture: _Picture) -> list[Answer]:
        """All masks of a picture, and its answers."""
        views = self._views(picture)
        segments = iter(self._segments(picture, views))
        return [
            answer_of(
                text or "",
                request.tokens,
                [next(segments) for _ in request.seg_index],
                views.size,
                _seg_states(picture, request),
            )
            for request, text in zip(picture.requests, picture.texts, strict=True)
        ]

    def _segments(self, picture: _Picture, views: PictureViews) -> list[Segment]:
        states = [state for request in picture.requests for state in request.seg_states]
        indices = [index for request in picture.requests for index in request.seg_index]
        if not states or picture.image_states is None:
            return []
        embedding = (picture.kept or OpenPicture(self.model, views)).embedding(self.watch)
        if self.asking.keep_states and picture.clip_features is not None:
            picture.states = PictureStates(
                views.size,
                views.sam_size,
                picture.clip_features,
                picture.image_states,
                embedding,
            )
        made: list[Segment] = []
        with self.watch("masks"):
            for chunk in torch.stack(states).split(self.masks_at_once):
                (prediction,) = self.model.predict_masks(
                    chunk,
                    picture.image_states.expand(len(chunk), -1, -1),
                    torch.zeros(len(chunk), dtype=torch.int64, device=chunk.device),
                    embedding,
                    [views.sam_size],
                    [views.size],
                )
                made += segments_of(prediction, indices[len(made) : len(made) + len(chunk)])
        return made

    @property
    def masks_at_once(self) -> int:
        """All of a picture, up to twice the rows."""
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
        for picture in self.pictures:
            picture.prefix = None
            if picture.kept is not None:
                picture.kept.forget()
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


def _seg_states(picture: _Picture, request: Request) -> SegStates | None:
    """What an answer's masks were made from, if that is kept."""
    if picture.states is None or not request.seg_states:
        return None
    return SegStates(picture.states, torch.stack(request.seg_states))

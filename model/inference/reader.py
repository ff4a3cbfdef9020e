"""`Reader`: ask questions about images, get words and masks.

What it does at scale is in `model.inference.scheduler`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from transformers import PreTrainedTokenizerBase

from model.inference.answer import EMPTY_MASK, NO_SEG, Answer, Segment
from model.inference.encoded_image import EncodedImage, Item, Timer
from model.inference.inputs import ImageLike, load_pixels, load_views
from model.inference.memory_limit import MemoryLimit
from model.inference.prompts import PromptFormat, question_of
from model.inference.scheduler import GenerationOptions, Scheduler
from model.read_model import ReadForCausalLM
from utils.stopwatch import null_timer

__all__ = ["EMPTY_MASK", "NO_SEG", "Answer", "ImageLike", "Reader", "Segment", "load_pixels"]


class Reader:
    """A READ model with its tokenizer.

    Args:
        model: READ with its CLIP tower attached; may be in the middle of training.
        tokenizer: from `load_tokenizer`.
        timer: a `utils.stopwatch.Stopwatch` that measures the stages.
    """

    def __init__(
        self,
        model: ReadForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        timer: Timer = null_timer,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.timer = timer
        self._limit = MemoryLimit()

    def compile(self, backend: str = "inductor") -> None:
        """Let `torch.compile` speed up SAM's encoder and the language model's MLPs, in place.

        The first answers take minutes longer; it pays for thousands of questions.

        Args:
            backend: of `torch.compile`.
        """
        self.model.model.visual_model.image_encoder.compile(backend=backend)
        for layer in self.model.model.layers:
            layer.mlp.compile(backend=backend, dynamic=True)

    def segment(
        self,
        image: ImageLike | EncodedImage,
        question: str,
        answer: str | None = None,
        max_new_tokens: int = 512,
        force_seg: bool = False,
    ) -> Answer:
        """Ask one question about one image; see `segment_batch`."""
        return self.segment_batch([(image, [question])], answer, max_new_tokens, force_seg)[0]

    def segment_batch(
        self,
        items: Iterable[Item],
        answer: str | None = None,
        max_new_tokens: int = 512,
        force_seg: bool = False,
        batch_questions: int = 16,
    ) -> list[Answer]:
        """Ask several questions about several images.

        Args:
            items: pairs of an image (path, URL, PIL image or uint8[H, W, 3] RGB) and questions.
                Also one that `open` gave. A question is used as typed; the user turn is `<image>`,
                a line feed, the question. A pair (question, answer) brings its given words along.
            answer: given words instead of generated ones ("teacher forced").
            max_new_tokens: most tokens of a generated answer (greedy decoding).
            force_seg: append the positive answer where the model gave no `[SEG]`.
            batch_questions: how many questions are answered at once; more take more memory.

        Returns:
            one `Answer` a question, in order.

        Raises:
            InputError: an unusable image or question.
        """
        pairs = [(image, list(questions)) for image, questions in items]
        for asked in (one for _, questions in pairs for one in questions):
            question_of(asked)
        answered = self.stream(pairs, answer, max_new_tokens, force_seg, batch_questions)
        return [reply for replies in answered for reply in replies]

    def stream(
        self,
        items: Iterable[Item],
        answer: str | None = None,
        max_new_tokens: int = 512,
        force_seg: bool = False,
        batch_questions: int = 16,
        keep_states: bool = False,
    ) -> Iterator[list[Answer]]:
        """`segment_batch` for any number of images: items are taken when they are needed.

        Arguments as in `segment_batch`; `keep_states` gives each answer what its masks were made
        from (`Answer.states`), to make them again by `model.inference.seg_states`. The memory in
        use depends on `batch_questions` and on the number of questions about one image, not
        on the number of items.

        Yields:
            for each item, in order, one `Answer` a question.

        Raises:
            InputError: an unusable image or question, or `items` raised it; all items before it
                have been handed out by then.
        """
        asking = GenerationOptions(answer, max_new_tokens, force_seg, batch_questions, keep_states)
        return self._stream(items, asking)

    def open(self, image: ImageLike) -> EncodedImage:
        """An image for several questions that come one after the other.

        It is given in the place of an image to any method here; CLIP, the shared part of the
        prompts and SAM's encoder then run for the first question only.

        Raises:
            InputError: the image cannot be read.
        """
        return EncodedImage(self.model, load_views(image, self.model.views))

    def stream_answer(
        self,
        image: ImageLike | EncodedImage,
        question: str,
        max_new_tokens: int = 512,
        force_seg: bool = False,
        keep_states: bool = False,
    ) -> Iterator[str | Answer]:
        """Ask one question and hear the answer while it is being made.

        Arguments as in `stream`.

        Yields:
            before every piece of the work the words so far, at first none; in the end the
            `Answer`.

        Raises:
            InputError: an unusable image or question.
        """
        asking = GenerationOptions(None, max_new_tokens, force_seg, 1, keep_states)
        with self._answering(asking) as answering:
            for answers in answering.steps([(image, [question])]):
                yield answering.words if answers is None else answers[0]

    def _stream(self, items: Iterable[Item], asking: GenerationOptions) -> Iterator[list[Answer]]:
        with self._answering(asking) as answering:
            yield from answering.stream(items)

    @contextmanager
    def _answering(self, asking: GenerationOptions) -> Iterator[Scheduler]:
        was_training = self.model.training
        self.model.eval()
        try:
            prompt_format = PromptFormat(self.model, self.tokenizer)
            yield Scheduler(self.model, prompt_format, asking, self._limit, self.timer)
        finally:
            self.model.train(was_training)

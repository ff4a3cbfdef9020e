"""`Reader`: ask questions about images, get words and masks.

What it does at scale is in `model.inference.scheduler`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from model.inference.answer import EMPTY_MASK, NO_SEG, Answer, Segment
from model.inference.encoded_image import EncodedImage, Item
from model.inference.inputs import ImageLike, load_pixels, load_views
from model.inference.prompts import PromptFormat, question_of
from model.inference.scheduler import MemoryLimit, Scheduler
from model.read_model import ReadForCausalLM
from utils.protocol.generation import GenerationOptions
from utils.stopwatch import Timer, null_timer

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
        self.model.sam.image_encoder.compile(backend=backend)
        for layer in self.model.llm.layers:
            layer.get_submodule("mlp").compile(backend=backend, dynamic=True)

    def segment(
        self,
        image: ImageLike | EncodedImage,
        question: str,
        answer: str | None = None,
        max_new_tokens: int = GenerationOptions.max_new_tokens,
        force_seg: bool = False,
    ) -> Answer:
        """Ask one question about one image; see `segment_batch` and `GenerationOptions`."""
        options = GenerationOptions(answer, max_new_tokens, force_seg)
        return self.segment_batch([(image, [question])], options)[0]

    def segment_batch(
        self, items: Iterable[Item], options: GenerationOptions | None = None, **settings: Any
    ) -> list[Answer]:
        """Ask several questions about several images.

        Args:
            items: pairs of an image (path, URL, PIL image or uint8[H, W, 3] RGB) and questions.
                Also one that `open` gave. A question is used as typed; the user turn is `<image>`,
                a line feed, the question. A pair (question, answer) brings its given words along.
            options: how to ask; None: the defaults.
            settings: fields of `GenerationOptions` by name, instead of those of `options`.

        Returns:
            one `Answer` a question, in order.

        Raises:
            InputError: an unusable image or question.
        """
        pairs = [(image, list(questions)) for image, questions in items]
        for asked in (one for _, questions in pairs for one in questions):
            question_of(asked)
        return [one for answers in self.stream(pairs, options, **settings) for one in answers]

    def stream(
        self, items: Iterable[Item], options: GenerationOptions | None = None, **settings: Any
    ) -> Iterator[list[Answer]]:
        """`segment_batch` for any number of images: items are taken when they are needed.

        Arguments as there. The memory in use depends on `batch_questions` and on the number of
        questions about one image, not on the number of items. With `keep_states`, masks can be made
        again by `model.inference.seg_states`.

        Yields:
            for each item, in order, one `Answer` a question.

        Raises:
            InputError: an unusable image or question, or `items` raised it; all items before it
                have been handed out by then.
        """
        return self._stream(items, replace(options or GenerationOptions(), **settings))

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
        options: GenerationOptions | None = None,
        **settings: Any,
    ) -> Iterator[str | Answer]:
        """Ask one question and hear the answer while it is being made.

        Arguments as in `segment_batch`.

        Yields:
            before every piece of the work the words so far, at first none; in the end the
            `Answer`.

        Raises:
            InputError: an unusable image or question.
        """
        options = replace(options or GenerationOptions(), **settings, batch_questions=1)
        with self._scheduler(options) as scheduler:
            for answers in scheduler.steps([(image, [question])]):
                yield scheduler.words if answers is None else answers[0]

    def _stream(self, items: Iterable[Item], options: GenerationOptions) -> Iterator[list[Answer]]:
        with self._scheduler(options) as scheduler:
            yield from scheduler.stream(items)

    @contextmanager
    def _scheduler(self, options: GenerationOptions) -> Iterator[Scheduler]:
        was_training = self.model.training
        self.model.eval()
        try:
            prompt_format = PromptFormat(self.model, self.tokenizer)
            yield Scheduler(self.model, prompt_format, options, self._limit, self.timer)
        finally:
            self.model.train(was_training)

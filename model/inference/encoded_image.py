"""An image that several questions are asked about, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.inference.decoding import Prefix, encode_prefix
from model.inference.inputs import ImageInputs, ImageLike
from model.inference.prompts import Question
from model.outputs import ImageContext
from model.read_model import ReadForCausalLM
from utils.stopwatch import Timer, null_timer


class EncodedImage:
    """What the model makes of an image, each part made when it is first needed, and kept.

    Valid as long as the model's weights stay as they are. Legend: see `model.llava`.

    Args:
        model: READ with its CLIP tower.
        views: of the image.
    """

    def __init__(self, model: ReadForCausalLM, views: ImageInputs):
        self.model = model
        self.views = views
        self.clip_features: torch.Tensor | None = None
        self._ids: list[int] = []
        self._prefix: Prefix | None = None
        self._context: ImageContext | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the original."""
        return self.views.size

    @torch.no_grad()
    def prefix(self, ids: list[int], timer: Timer = null_timer) -> Prefix:
        """Keys, values and states of the shared part of its prompts.

        Args:
            ids: tokens of the shared part; others than last time are run anew.
            timer: measures.
        """
        if self.clip_features is None:
            with timer("clip"):
                self.clip_features = self.model.encode_clip(self.views.clip[None])[0]
        if self._prefix is None or ids != self._ids:
            with timer("shared prefix"):
                self._prefix = encode_prefix(self.model, ids, self.clip_features[None])
            self._ids = ids
        return self._prefix

    @torch.no_grad()
    def context(self, timer: Timer = null_timer) -> ImageContext:
        """What its masks need: SAM's image embedding, and sizes."""
        if self._context is None:
            with timer("sam encoder"):
                views = self.views
                embedding = self.model.encode_sam(views.sam[None], [views.sam_size])
                self._context = ImageContext(embedding, views.sam_size, views.size)
        return self._context

    def clear(self) -> None:
        """Let go of all that was made; it is made anew when it is needed."""
        self.clip_features = self._prefix = self._context = None


Item = tuple[ImageLike | EncodedImage, Sequence[Question]]
"""An image and questions about it."""

"""The model, shared by all visitors: one piece of work at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from model.inference.answer import Answer
from model.inference.encoded_image import EncodedImage
from model.inference.reader import Reader
from model.read_model import ReadForCausalLM
from model.sasp import SaspParams


class Engine:
    """A reader that takes turns.

    Nobody waits for the end of another visitor's answer: the lock is held for one token, one mask.

    Args:
        reader: asked by all.
    """

    def __init__(self, reader: Reader):
        self.reader = reader
        self.lock = threading.Lock()

    @property
    def model(self) -> ReadForCausalLM:
        """Only to be used while `lock` is held."""
        return self.reader.model

    @property
    def params(self) -> SaspParams:
        """The model's own."""
        return self.reader.model.config.sasp_params

    def open(self, image: np.ndarray) -> EncodedImage:
        """See `Reader.open`."""
        return self.reader.open(image)

    def stream_answer(
        self, image: EncodedImage, question: str, max_new_tokens: int, force_seg: bool
    ) -> Iterator[str | Answer]:
        """See `Reader.stream_answer`; states are kept."""
        pieces = self.reader.stream_answer(
            image,
            question,
            max_new_tokens=max_new_tokens,
            force_seg=force_seg,
            keep_states=True,
        )
        while True:
            with self.lock:
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

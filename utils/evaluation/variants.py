"""What answers would have been with other settings, made for several images together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from utils.errors import InputError

if TYPE_CHECKING:
    from utils.protocol.batch import EvalItem

MaskOutcome = tuple[bool, int, int]
"""Whether the mask has a pixel; intersection and union with the truth, in pixels."""

Answered = tuple[int, "EvalItem", Sequence[Any]]
"""Index of an image in the data set, the image with its questions, the answers."""


class SettingSweep(Protocol):
    """Tells what comes out with other settings; `model.analysis.ablation.Ablation` is one."""

    questions_at_once: int
    """How many answers are gathered before a call."""

    def __call__(
        self, images: Sequence[tuple[Sequence[Any], Sequence[np.ndarray]]]
    ) -> list[list[list[MaskOutcome]]]:
        """Outcomes of answers about some images.

        Args:
            images: (answers, their true masks uint8[H, W]) for each.

        Returns:
            for each image, for each answer, one outcome a setting.
        """


def with_sweep(
    answered: Iterator[Answered], vary: SettingSweep | None
) -> Iterator[tuple[int, EvalItem, Sequence[Any], list[list[MaskOutcome]] | None]]:
    """Add to the answers about each image what comes out with other settings.

    Args:
        answered: images as they are answered.
        vary: None adds nothing and gathers nothing.

    Yields:
        the same images in the same order, each with one list of outcomes an answer.

    Raises:
        InputError: `answered` raised it; all images before have been handed out by then.
    """
    if vary is None:
        yield from ((*image, None) for image in answered)
        return
    gathered: list[Answered] = []

    def made() -> Iterator[tuple[int, EvalItem, Sequence[Any], list[list[MaskOutcome]]]]:
        pairs = [(answers, [q.truth for q in item.questions]) for _, item, answers in gathered]
        found = vary(pairs) if pairs else []
        for image, outcomes in zip(gathered, found, strict=True):
            yield *image, outcomes
        gathered.clear()

    try:
        for image in answered:
            gathered.append(image)
            if sum(len(answers) for *_, answers in gathered) >= vary.questions_at_once:
                yield from made()
    except InputError:
        yield from made()
        raise
    yield from made()

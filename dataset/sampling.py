"""What the training sets share: settings of a draw, its generator, and the way to a `Sample`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dataset.templates import SIMPLE, Templates
from utils.errors import InputError
from utils.protocol.batch import Sample
from utils.protocol.constants import IMAGE_TOKEN, SEG_TOKEN
from utils.protocol.conversation import build_prompt, user_turn

KIND_ABSENT = "absent"
"""Kind, in reports, of questions about what is not there."""


@dataclass(frozen=True)
class SamplingOptions:
    """How samples are drawn and worded; the same for every data set of a training.

    Args:
        num_classes_per_sample: most expressions about one image.
        templates: sentences around questions and answers.
        conv_type, use_im_start_end: see `build_prompt`.
        seed: of all draws, at least 0.
        part_masks, premise_draw, class_names: of the sets with classes; see `DataFlags`. The
            defaults are what the original does.
        polygon_fill: of ReasonSeg's polygons, one of `POLYGON_FILLS`.
    """

    num_classes_per_sample: int = 3
    templates: Templates = SIMPLE
    conv_type: str = "llava_v1"
    use_im_start_end: bool = True
    seed: int = 0
    part_masks: Literal["annotation", "union"] = "annotation"
    premise_draw: Literal["sample", "class"] = "sample"
    class_names: Literal["original", "spaces"] = "original"
    polygon_fill: str = "4.11"

    def rng(self, stream: str, index: int) -> np.random.Generator:
        """The generator of draw `index` of a data set: a function of (seed, stream, index)."""
        return np.random.default_rng([self.seed, zlib.crc32(stream.encode()), index])


@dataclass(frozen=True)
class Turn:
    """One expression about an image.

    Args:
        question: the user's words, templates applied, without `<image>`.
        answer: with one `[SEG]` if there is a mask, without any if there is none.
        mask: uint8[H, W] of 0/1, or None where the asked object is absent.
    """

    question: str
    answer: str
    mask: np.ndarray | None


def choose(rng: np.random.Generator, available: int, most: int) -> list[int]:
    """Up to `most` different numbers below `available`, in random order."""
    return [int(i) for i in rng.choice(available, size=min(most, available), replace=False)]


def make_sample(
    path: str, image: np.ndarray, turns: Sequence[Turn], settings: SamplingOptions, kind: str
) -> Sample:
    """One conversation for each turn.

    Args:
        path: of the image.
        image: uint8[H, W, 3], RGB.
        turns: at least one.
        kind: of the expressions that are there; a sample of absent ones only is "absent".

    Raises:
        InputError: a question or answer holds `<image>` or a `[SEG]` that has no mask.
    """
    for turn in turns:
        if (turn.question + turn.answer).count(SEG_TOKEN) != (turn.mask is not None) or (
            IMAGE_TOKEN in turn.question + turn.answer
        ):
            raise InputError(
                f"{path}: the question {turn.question!r} or the answer {turn.answer!r} holds "
                f"{SEG_TOKEN} or {IMAGE_TOKEN} where there is none; correct its annotation"
            )
    masks = [turn.mask for turn in turns if turn.mask is not None]
    return Sample(
        image_path=path,
        image=image,
        conversations=[
            build_prompt(
                [(user_turn(turn.question), turn.answer)],
                settings.conv_type,
                settings.use_im_start_end,
            )
            for turn in turns
        ],
        masks=np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), dtype=np.uint8),
        exists=[turn.mask is not None for turn in turns],
        questions=[turn.question for turn in turns],
        kind=kind if masks else KIND_ABSENT,
    )

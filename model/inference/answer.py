"""What a reader gives back: an answer in words and in masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.inference.seg_states import SegStates
from model.outputs import MaskPrediction
from utils.protocol.rle import encode_mask

NO_SEG = "no [SEG] in the answer"
EMPTY_MASK = "empty mask"


@dataclass
class Segment:
    """One mask, from one `[SEG]`.

    Args:
        logits: float32[H, W] in the original frame.
        mask: bool[H, W], logits > 0.
        score: SAM's predicted IoU.
        similarity: float32[side, side], dot products of `[SEG]` with the image tokens.
        points: float32[P, 2], (x, y) in pixels of the original image.
        point_labels: int64[P]: 1 positive, 0 negative, -1 neutral.
        token_index: place of the `[SEG]` in `Answer.token_ids`.
    """

    logits: np.ndarray
    mask: np.ndarray
    score: float
    similarity: np.ndarray
    points: np.ndarray
    point_labels: np.ndarray
    token_index: int


@dataclass
class Answer:
    """What the model says and shows.

    Args:
        text: the answer in words, `[SEG]` included.
        present: a `[SEG]` was given and its mask is not empty.
        reason: why there is no mask, else None.
        segments: one for each `[SEG]`, in order.
        token_ids: the answer's tokens, end token included.
        mask: bool[H, W], union of the segments.
        states: what the segments were made from, if it was asked for (`keep_states`) and there is
            a `[SEG]`; see `model.inference.seg_states`.
    """

    text: str
    present: bool
    reason: str | None
    segments: list[Segment]
    token_ids: list[int]
    mask: np.ndarray
    states: SegStates | None = None

    def to_coco(self, image_id: int | str, category_id: int = 1) -> list[dict[str, Any]]:
        """The segments as rows of a COCO results file, plain data for JSON.

        An answer without `[SEG]` has no rows; a row whose mask is empty says that as well.
        """
        return [
            {
                "image_id": image_id,
                "category_id": category_id,
                "segmentation": encode_mask(segment.mask),
                "score": float(segment.score),
            }
            for segment in self.segments
        ]


def segments_of(prediction: MaskPrediction, token_indices: Sequence[int]) -> list[Segment]:
    """The masks of a prediction as arrays of their own, so that keeping one keeps no other.

    Args:
        prediction: n masks.
        token_indices: n places of `[SEG]`.
    """
    logits = prediction.logits.float().cpu().numpy()
    similarity = prediction.similarity.float().cpu().numpy()
    side = round(similarity.shape[1] ** 0.5)
    points, labels = prediction.points.cpu().numpy(), prediction.point_labels.cpu().numpy()
    return [
        Segment(
            logits=logits[n].copy(),
            mask=logits[n] > 0,
            score=score,
            similarity=similarity[n].reshape(side, side).copy(),
            points=points[n].copy(),
            point_labels=labels[n].copy(),
            token_index=token_indices[n],
        )
        for n, score in enumerate(prediction.scores.tolist())
    ]


def answer_of(
    text: str,
    token_ids: list[int],
    segments: list[Segment],
    size: tuple[int, int],
    states: SegStates | None = None,
) -> Answer:
    """Put an answer together; `size` is the image's (H, W)."""
    mask = np.zeros(size, dtype=bool)
    for segment in segments:
        mask |= segment.mask
    reason = NO_SEG if not segments else None if mask.any() else EMPTY_MASK
    return Answer(text, reason is None, reason, segments, token_ids, mask, states)

"""Segmentation and presence metrics.

Everything is counted in integers, and the mean IoU is summed without rounding error, so that the
numbers do not depend on the order of the questions or on how they were spread over processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from utils.protocol.constants import IGNORE_LABEL

IOU_EPSILON = 1e-5
CIOU_EPSILON = 1e-10


def _to_numpy(array) -> np.ndarray:
    """A numpy view of a numpy array, a list or a torch tensor on any device."""
    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)


def intersection_and_union(pred, truth) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in both masks and in either mask.

    Args:
        pred: bool or integer [N, H, W], non-zero is object; numpy or torch.
        truth: integer [N, H, W]: 1 object, 0 background, 255 does not count.

    Returns:
        int64[N] intersections, int64[N] unions.

    Raises:
        ValueError: the shapes differ or are not [N, H, W], or `pred` holds logits.
    """
    pred, truth = _to_numpy(pred), _to_numpy(truth)
    if pred.ndim != 3 or pred.shape != truth.shape:
        raise ValueError(
            f"masks must both be [N, H, W]; got {list(pred.shape)} predicted "
            f"and {list(truth.shape)} true"
        )
    if np.issubdtype(pred.dtype, np.floating):
        raise ValueError("predicted masks must be bool or integer: threshold the logits at 0")
    predicted = (pred != 0) & (truth != IGNORE_LABEL)
    true = truth == 1
    return _count_pixels(predicted & true), _count_pixels(predicted | true)


def _count_pixels(masks: np.ndarray) -> np.ndarray:
    """bool[N, H, W] -> int64[N]."""
    return np.array([np.count_nonzero(mask) for mask in masks], np.int64)


@dataclass
class SegmentationMetrics:
    """gIoU and cIoU over expressions.

    Args:
        pairs: (intersection, union) in pixels, one for each expression.
    """

    pairs: list[tuple[int, int]] = field(default_factory=list)

    def update(self, pred, truth) -> list[tuple[int, int]]:
        """Count N more masks (see `intersection_and_union`); returns their N pairs."""
        new = [(int(i), int(u)) for i, u in zip(*intersection_and_union(pred, truth), strict=True)]
        self.pairs.extend(new)
        return new

    def merge(self, other: SegmentationMetrics) -> SegmentationMetrics:
        """Count the expressions of another process as well; returns itself."""
        self.pairs.extend(other.pairs)
        return self

    @property
    def count(self) -> int:
        return len(self.pairs)

    @property
    def giou(self) -> float:
        """Mean over expressions of I / (U + 1e-5); an empty union counts 1. NaN without any."""
        if not self.pairs:
            return math.nan
        ious = (i / (u + IOU_EPSILON) if u else 1.0 for i, u in self.pairs)
        return math.fsum(ious) / len(self.pairs)

    @property
    def ciou(self) -> float:
        """Sum of I over (sum of U + 1e-10). NaN without any expression."""
        if not self.pairs:
            return math.nan
        intersection = sum(i for i, _ in self.pairs)
        union = sum(u for _, u in self.pairs)
        return intersection / (union + CIOU_EPSILON)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


@dataclass
class SeeMetrics:
    """Does the model see whether the object is there?

    Args:
        true_pos: found, there, and answered as there.
        false_neg: missed, there, and answered as absent.
        true_neg: rejected, absent, and answered as absent.
        false_pos: invented, absent, and answered as there.
    """

    true_pos: int = 0
    false_neg: int = 0
    true_neg: int = 0
    false_pos: int = 0

    def update(self, predicted: Iterable[bool], truth: Iterable[bool]) -> None:
        """Count questions: predicted presence and true presence, one each per question."""
        for says_there, is_there in zip(predicted, truth, strict=True):
            if is_there:
                self.true_pos += bool(says_there)
                self.false_neg += not says_there
            else:
                self.false_pos += bool(says_there)
                self.true_neg += not says_there

    @property
    def count(self) -> int:
        return self.present_count + self.absent_count

    @property
    def accuracy(self) -> float:
        """Share of questions with predicted presence = true presence."""
        return _ratio(self.true_pos + self.true_neg, self.count)

    @property
    def absent_precision(self) -> float:
        """Of the questions answered as absent, the share that is."""
        return _ratio(self.true_neg, self.true_neg + self.false_neg)

    @property
    def absent_recall(self) -> float:
        """Of the questions about absent objects, the share answered so."""
        return _ratio(self.true_neg, self.absent_count)

    @property
    def present_count(self) -> int:
        """Questions about objects that are there."""
        return self.true_pos + self.false_neg

    @property
    def absent_count(self) -> int:
        """Questions about absent objects."""
        return self.true_neg + self.false_pos

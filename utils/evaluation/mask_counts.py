"""Pixels of predicted and true masks, counted on run-length codes without decoding them.

Five numbers of a question are enough for every protocol that unites its objects: pixels of the
prediction P, of the truth T and of the ignore label X, and those that P shares with T and with X.
Where objects are matched one to one, each pair has an intersection and a union of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from utils.protocol.rle import encode_mask

Code = dict[str, Any]
"""A run-length code that `utils.protocol.rle.intact_code` has checked."""


@dataclass(frozen=True)
class Truth:
    """A question and what is right.

    Args:
        id: of the question, the only one of its kind.
        image: path of the image.
        question: as asked; "" if it is not known.
        size: of the image, (H, W).
        objects: one code per object, empty ones too.
        ignored: code of the pixels labelled 255, None if there are none.
        exists: something that the question is about is there.
        kind: group in reports.
        expression: number of this sentence among those about the same object, from 0.
        united: `objects` is one mask of several objects.
        names: what predictions may call the question besides: "ann_id", "image_id".
    """

    id: str
    image: str
    question: str
    size: tuple[int, int]
    objects: tuple[Code, ...]
    ignored: Code | None = None
    exists: bool = True
    kind: str = ""
    expression: int = 0
    united: bool = False
    names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Predicted:
    """The masks that answer a question.

    Args:
        masks: one code for each mask, in the order of the answer.
        present: whether the answer says that the object is there; None: if a mask has a pixel.
        answer: in words, for reports.
        united: `masks` is one mask of all objects.
        counts: intersection and union, where they were counted before and there are no masks.
    """

    masks: tuple[Code, ...] = ()
    present: bool | None = None
    answer: str = ""
    united: bool = False
    counts: tuple[int, int] | None = None


@dataclass
class MaskCounts:
    """Counts of N questions, all int64[N] or bool[N].

    Args:
        pred, true, ignored: pixels of the masks.
        both: pixels predicted and true.
        pred_ignored: pixels predicted and labelled 255.
        present: as the answers say.
        pairs: question with several masks -> (intersection, union) of each matched pair.
    """

    pred: np.ndarray
    true: np.ndarray
    ignored: np.ndarray
    both: np.ndarray
    pred_ignored: np.ndarray
    present: np.ndarray
    pairs: dict[int, list[tuple[int, int]]]


def unite(codes: Sequence[Code]) -> Code | None:
    """One code of all masks; None without any."""
    if len(codes) < 2:
        return codes[0] if codes else None
    return coco_mask.merge(list(codes))


def overlaps(first: Sequence[Code], second: Sequence[Code]) -> tuple[np.ndarray, ...]:
    """Areas int64[n] and int64[m] and intersections int64[n, m] of masks of one size.

    pycocotools tells IoUs alone. With areas a and b an intersection is iou (a + b) / (1 + iou), a
    whole number, and the rounding error of the IoU is far too small to reach another one.
    """
    areas = coco_mask.area([*first, *second]).astype(np.int64)
    a, b = areas[: len(first)], areas[len(first) :]
    iou = np.asarray(coco_mask.iou(list(first), list(second), [0] * len(second)), np.float64)
    iou = iou.reshape(len(first), len(second))
    return a, b, np.rint(iou * (a[:, None] + b) / (1 + iou)).astype(np.int64)


def match_objects(
    predicted: Sequence[Code], true: Sequence[Code], ignored: Code | None
) -> list[tuple[int, int]]:
    """Match predicted masks and objects one to one, so that their IoUs have the largest sum.

    A mask that has no partner makes a pair with an empty one. Empty masks are no objects.

    Returns:
        (intersection, union) of each pair, pixels labelled 255 left out.
    """
    import networkx  # takes a quarter of a second, and few sets have several objects

    left_out = [ignored] if ignored is not None else []
    a, b, both = overlaps(predicted, [*true, *left_out])
    if left_out:
        a, b, both = a - both[:, -1], b[:-1], both[:, :-1]
    union = a[:, None] + b - both
    graph = networkx.Graph()
    for p, t in zip(*np.nonzero(both), strict=True):
        graph.add_edge(("p", int(p)), ("t", int(t)), weight=float(both[p, t] / union[p, t]))
    pairs = []
    alone = {("p", n) for n in range(len(a)) if a[n]} | {("t", n) for n in range(len(b)) if b[n]}
    for edge in networkx.max_weight_matching(graph):
        (_, p), (_, t) = sorted(edge)
        pairs.append((int(both[p, t]), int(union[p, t])))
        alone -= set(edge)
    return sorted(pairs) + [(0, int((a if side == "p" else b)[n])) for side, n in sorted(alone)]


def count_masks(questions: Sequence[tuple[Truth, Predicted]]) -> MaskCounts:
    """Count every question once, for all protocols."""
    rows = np.zeros((len(questions), 5), np.int64)
    present = np.zeros(len(questions), bool)
    pairs = {}
    for number, (truth, predicted) in enumerate(questions):
        if predicted.counts is not None:
            both, union = predicted.counts
            rows[number] = union, both, 0, both, 0  # |P| + |T| - |P and T| is the union
            present[number] = union > 0
            continue
        rows[number] = _areas(truth, predicted)
        says = predicted.present
        present[number] = rows[number, 0] > 0 if says is None else says
        if len(predicted.masks) > 1 or len(truth.objects) > 1:
            pairs[number] = match_objects(predicted.masks, truth.objects, truth.ignored)
    pred, true, ignored, both, pred_ignored = rows.T
    return MaskCounts(pred, true, ignored, both, pred_ignored, present, pairs)


def _areas(truth: Truth, predicted: Predicted) -> tuple[int, ...]:
    """P, T, X, P and T, P and X."""
    nothing = _empty(truth.size)
    pred, true = unite(predicted.masks) or nothing, unite(truth.objects) or nothing
    (p,), (t, x), both = overlaps([pred], [true, truth.ignored or nothing])
    return int(p), int(t), int(x), *both[0].tolist()


@lru_cache(maxsize=4096)
def _empty(size: tuple[int, int]) -> Code:
    return encode_mask(np.zeros(size, bool))

"""Metrics of an evaluation with their intervals, for all questions, and for each kind of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.evaluation.bootstrap import (
    METHOD,
    SEED,
    bootstrap_intervals,
    image_sums,
    question_sums,
)
from utils.evaluation.evaluator import EvalResult, Record, Scores, kinds_of

LOW_IOU = 0.5
"""Below this, a mask of an object that is there counts as a miss."""
PRECISION_AT = (0.5, 0.6, 0.7, 0.8, 0.9)
MISSES = {
    "said_absent": "said absent though there",
    "segmented_absent": "segmented though absent",
    "low_iou": f"segmented, IoU below {LOW_IOU:g}",
}


def miss_of(record: Record) -> str | None:
    """What went wrong with a question, a key of `MISSES`; None if nothing did."""
    if not record.truth_present:
        return "segmented_absent" if record.present else None
    if not record.present:
        return "said_absent"
    return "low_iou" if record.iou < LOW_IOU else None


@dataclass
class GroupScores:
    """Metrics of a group of questions.

    Args:
        scores: the metrics.
        images: how many images the questions are about.
        intervals: metric -> ends of its interval, None where there is nothing to tell.
        misses: key of `MISSES` -> number of questions.
    """

    scores: Scores
    images: int
    intervals: dict[str, tuple[float, float] | None]
    misses: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        see = self.scores.see
        return {
            **self.scores.as_dict(),
            "images": self.images,
            "intervals": {k: list(v) if v else None for k, v in self.intervals.items()},
            "see": {
                "there_said_there": see.true_pos,
                "there_said_absent": see.false_neg,
                "absent_said_absent": see.true_neg,
                "absent_said_there": see.false_pos,
            },
            "misses": self.misses,
        }


@dataclass
class ModeScores:
    """Metrics of one way of asking: of all questions, of objects that are there, of each kind."""

    result: EvalResult
    all: GroupScores
    objects: GroupScores
    per_kind: dict[str, GroupScores]

    @property
    def precision_at(self) -> dict[str, float | None]:
        """Share of the questions about objects that are there whose IoU is at least so much."""
        ious = [record.iou for record in self.result.records if record.truth_present]
        return {
            f"{limit:g}": sum(iou >= limit for iou in ious) / len(ious) if ious else None
            for limit in PRECISION_AT
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "all": self.all.as_dict(),
            "segment": self.all.as_dict()["ciou"],
            "objects": {**self.objects.as_dict(), "precision_at": self.precision_at},
            "per_kind": {kind: group.as_dict() for kind, group in self.per_kind.items()},
            "bootstrap": METHOD,
            "skipped": sorted(self.result.skipped),
        }


def score(result: EvalResult) -> ModeScores:
    """Metrics and intervals of a result; the same numbers every time (the seed is fixed)."""
    records = result.records
    kinds = kinds_of(records)
    kind_of = np.array([record.kind for record in records], dtype=object)
    members = [np.ones(len(records), bool), np.array([r.truth_present for r in records], bool)]
    members += [kind_of == kind for kind in kinds]
    sums = sums_of(records, members)
    intervals = bootstrap_intervals(sums, np.random.default_rng(SEED))
    groups = []
    for number, member in enumerate(members):
        inside = [records[index] for index in np.flatnonzero(member)]
        scores, misses = Scores.of(inside), [miss_of(record) for record in inside]
        known = scores.as_dict()
        groups.append(
            GroupScores(
                scores,
                len({record.image for record in inside}),
                {
                    name: None if known[name] is None else ends_of(rows[number])
                    for name, rows in intervals.items()
                },
                {miss: misses.count(miss) for miss in MISSES},
            )
        )
    return ModeScores(result, groups[0], groups[1], dict(zip(kinds, groups[2:], strict=True)))


def sums_of(records: Sequence[Record], groups: Sequence[np.ndarray]) -> np.ndarray:
    """`image_sums` of records: float64[G, C, K]; `groups` are G arrays bool[N]."""
    fields = [(r.intersection, r.union, r.present, r.truth_present) for r in records]
    columns = question_sums(np.array(fields, np.int64).reshape(-1, 4))
    return image_sums(columns, [record.image for record in records], groups)


def ends_of(interval: np.ndarray) -> tuple[float, float] | None:
    """float64[2] as plain numbers; None if they are NaN."""
    low, high = map(float, interval)
    return None if math.isnan(low) else (low, high)

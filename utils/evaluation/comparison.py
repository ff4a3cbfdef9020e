"""Two runs on the same questions: differences with paired intervals, and who wins where.

All runs are resampled with the same images, so a difference has an interval of its own, much
narrower than those of the two metrics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from utils.errors import InputError
from utils.evaluation.ablation import Measured
from utils.evaluation.protocol_scores import (
    SUMS,
    Run,
    exact_sums,
    measured,
    ratios,
    resampled,
    value_tables,
)
from utils.evaluation.protocols import Protocol

WORST = 12
"""Regressions that are shown."""


@dataclass(frozen=True)
class Tally:
    """Questions of a kind that a run answers better, as well, or worse than another, by IoU."""

    kind: str
    better: int
    same: int
    worse: int
    mean_difference: float


@dataclass(frozen=True)
class Comparison:
    """A run against another one, under one protocol.

    Args:
        run, other: the runs.
        protocol: of the numbers.
        differences: key of `METRICS` -> run less other.
        tallies: by kind of question, all questions last.
        worst: numbers of the questions that lose most, worst first.
        ious: float64[N, 2], of run and other.
    """

    run: Run
    other: Run
    protocol: Protocol
    differences: dict[str, Measured]
    tallies: list[Tally]
    worst: list[int]
    ious: np.ndarray


def compare(run: Run, other: Run, protocol: Protocol) -> Comparison:
    """Compare two runs that were aligned with the same truth.

    Raises:
        InputError: the protocol does not apply to one of them.
    """
    tables = []
    for one in (run, other):
        table, reasons = value_tables(one, [protocol])
        if reasons:
            raise InputError(
                f"{protocol.name} does not apply to {one.name}: {reasons[protocol.name]}; "
                "compare under another protocol (--protocols)"
            )
        tables.append(table[protocol.name])
    truths = [truth for truth, _ in run.questions]
    drawn, images = resampled(np.stack(tables, axis=1), [truth.image for truth in truths])
    values = [ratios(exact_sums(table)) for table in tables]
    minus = {key: float(value - values[1][key]) for key, value in values[0].items()}
    apart = {key: (found[:, 0] - found[:, 1])[:, None] for key, found in drawn.items()}
    ious = np.stack([table[:, SUMS.index("iou")] for table in tables], axis=1)
    counted = tables[0][:, SUMS.index("questions")] > 0
    kinds = np.array([truth.kind for truth in truths], dtype=object)
    tallies = [
        _tally(kind, ious[counted & (kinds == kind)])
        for kind in sorted(set(kinds[counted]))
        if kind or len(set(kinds[counted])) > 1
    ]
    lost = np.where(counted, ious[:, 1] - ious[:, 0], 0.0)
    order = sorted(np.flatnonzero(lost > 0).tolist(), key=lambda n: (-lost[n], n))
    return Comparison(
        run,
        other,
        protocol,
        measured(minus, apart, 0, images),
        [*tallies, _tally("all", ious[counted])],
        order[:WORST],
        ious,
    )


def _tally(kind: str, ious: np.ndarray) -> Tally:
    apart = ious[:, 0] - ious[:, 1]
    mean = math.fsum(apart.tolist()) / len(apart) if len(apart) else math.nan
    return Tally(
        kind, int((apart > 0).sum()), int((apart == 0).sum()), int((apart < 0).sum()), mean
    )

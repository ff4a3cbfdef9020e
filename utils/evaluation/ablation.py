"""Numbers of an ablation of SasP: metrics of each setting, and their distance to the model's own.

All settings were asked the same questions, so a resample of images is the same for all of them,
and a difference has an interval of its own, much narrower than those of the two metrics.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.evaluation.bootstrap import METHOD, SEED, percentile_interval, resampled_metrics
from utils.evaluation.evaluator import EvalResult
from utils.evaluation.group_scores import ends_of, sums_of
from utils.protocol.constants import PROMPTS

METRICS = {"giou": "gIoU", "ciou": "cIoU", "see_accuracy": "See", "segment": "Segment"}
"""gIoU and cIoU are of the objects that are there, See and Segment of all questions."""


@dataclass(frozen=True)
class Measured:
    """A metric or a difference of two, and the ends of its interval, None if it has none."""

    value: float | None
    interval: tuple[float, float] | None


@dataclass
class SettingScores:
    """What came out with a setting.

    Args:
        sasp: its `SaspParams` as plain data.
        own: whether it is what the model uses by itself.
        result: its records.
        metrics: key of `METRICS` -> value.
        minus_own: likewise, less that of the model's own setting; empty for that one.
    """

    sasp: dict[str, Any]
    own: bool
    result: EvalResult
    metrics: dict[str, Measured]
    minus_own: dict[str, Measured]

    @property
    def prompt(self) -> str:
        return PROMPTS[self.sasp["prompt"]]

    @property
    def thresholds(self) -> str:
        """What a cell must reach to be a point, such as "fixed 0.8/0.2"."""
        sasp = self.sasp
        if sasp["prompt"] == "text":
            return ""
        if sasp["thresholds"] == "std":
            return f"mean ± {sasp['std_factor']:g} std"
        return f"fixed {sasp['t_pos']:g}/{sasp['t_neg']:g}"

    @property
    def points(self) -> str:
        return "" if self.sasp["prompt"] == "text" else str(self.sasp["num_points"])

    @property
    def label(self) -> str:
        """The setting in one line."""
        parts = [self.prompt, self.thresholds, self.points]
        return ", ".join(part for part in parts if part)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""

        def plain(metrics: Mapping[str, Measured]) -> dict[str, Any]:
            return {
                name: {"value": m.value, "interval": list(m.interval) if m.interval else None}
                for name, m in metrics.items()
            }

        return {
            "sasp": self.sasp,
            "own": self.own,
            "questions": len(self.result.records),
            "metrics": plain(self.metrics),
            "minus_own": plain(self.minus_own),
        }


def variant(result: EvalResult, number: int) -> EvalResult:
    """The result with the setting `number` of `sweep_outcomes` in place of the model's own."""
    records = []
    for record in result.records:
        present, both, either = (record.sweep_outcomes or [])[number]
        outcome: dict[str, Any] = {"present": present, "intersection": both, "union": either}
        records.append(replace(record, **outcome, sweep_outcomes=None))
    return EvalResult(records, result.skipped)


def score_settings(
    result: EvalResult, own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> list[SettingScores]:
    """Metrics of the model's own setting and of the others, in a fixed order.

    Args:
        result: records with `sweep_outcomes`.
        own: the `SaspParams` of the model as plain data.
        others: those of `Record.sweep_outcomes`.

    Raises:
        InputError: a record holds not as many settings as there are.
    """
    for record in result.records:
        if len(record.sweep_outcomes or []) != len(others):
            raise InputError(
                f"the answer to question {record.number} about {record.image} holds "
                f"{len(record.sweep_outcomes or [])} settings of {len(others)}: files of different "
                "runs are mixed; write them anew with --no_resume"
            )
    results = [result, *(variant(result, number) for number in range(len(others)))]
    values = [_metrics(one) for one in results]
    drawn = _resampled(results)
    scores = []
    for number, params in enumerate([own, *others]):
        metrics, minus = {}, {}
        for name, value in values[number].items():
            column = drawn[name][:, number]
            metrics[name] = _measured(value, column)
            if number:
                other = values[0][name]
                minus[name] = _measured(value - other, column - drawn[name][:, 0])
        scores.append(SettingScores(dict(params), not number, results[number], metrics, minus))
    return sorted(scores, key=_place)


def _place(scores: SettingScores) -> tuple:
    sasp = scores.sasp
    return (list(PROMPTS).index(sasp["prompt"]), sasp["thresholds"], sasp["num_points"])


def _metrics(result: EvalResult) -> dict[str, float]:
    there, whole = result.objects, result.scores
    return {
        "giou": there.segmentation.giou,
        "ciou": there.ciou,
        "see_accuracy": whole.see.accuracy,
        "segment": whole.ciou,
    }


def _resampled(results: Sequence[EvalResult]) -> dict[str, np.ndarray]:
    """float64[R, settings] for each metric; a resample is the same for all of them."""
    records = results[0].records
    there = np.array([record.truth_present for record in records], bool)
    sums = np.concatenate([sums_of(one.records, [there, there | True]) for one in results])
    drawn = resampled_metrics(sums, np.random.default_rng(SEED))
    return {
        "giou": drawn["giou"][:, ::2],
        "ciou": drawn["ciou"][:, ::2],
        "see_accuracy": drawn["see_accuracy"][:, 1::2],
        "segment": drawn["ciou"][:, 1::2],
    }


def _measured(value: float, drawn: np.ndarray) -> Measured:
    if math.isnan(value):
        return Measured(None, None)
    return Measured(value, ends_of(percentile_interval(drawn[:, None])[0]))


def ablation_json(modes: Mapping[str, Sequence[SettingScores]]) -> dict[str, Any]:
    """Plain data: mode -> settings, and how the intervals were made."""
    return {
        "bootstrap": METHOD,
        "modes": {mode: [one.as_dict() for one in settings] for mode, settings in modes.items()},
    }


def ablation_csv(modes: Mapping[str, Sequence[SettingScores]]) -> str:
    """One line a mode and setting; an empty cell where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names: list[str] = []
    for kind in ("", "_minus_own"):
        for metric in METRICS:
            names += [f"{metric}{kind}{end}" for end in ("", "_low", "_high")]
    first = next(iter(modes.values()))[0]
    writer.writerow(["mode", *first.sasp, "own", "questions", *names])
    for mode, settings in modes.items():
        for one in settings:
            cells: list[Any] = []
            for metrics in (one.metrics, one.minus_own):
                for metric in METRICS:
                    measured = metrics.get(metric, Measured(None, None))
                    cells += [measured.value, *(measured.interval or (None, None))]
            count = len(one.result.records)
            writer.writerow([mode, *one.sasp.values(), one.own, count, *cells])
    return text.getvalue()

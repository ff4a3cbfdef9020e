"""What an analysis found over all questions, and over each kind of them, with intervals.

Every measure is a ratio of two sums over questions, sum of parts / sum of wholes:

    S-IoU, best S-IoU      mean over the questions that have the map (`utils.analysis.map_scores`)
    positive points inside     positive points on the object / all positive points
    negative points outside    negative points off the object / all negative points
    gIoU        mean over questions of I / (U + 1e-5), 1 where U = 0
    cIoU        sum of I / sum of U
    Pearson, rank              mean over the questions where both maps vary
    layers      best S-IoU of [SEG] x LLaVA, mean over questions

Pixels that do not count (255) are in none of them, questions without what a measure needs neither.
A group of questions about absent objects alone has no cIoU: it would be 0 whatever was answered.
Intervals are 95 % percentile intervals over resampled images (`utils.evaluation.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from utils.analysis.records import MAPS, MASKS, QuestionAnalysis
from utils.evaluation.bootstrap import SEED, image_sums, percentile_interval, resample
from utils.metrics import IOU_EPSILON

ALL = "all"
_LAYER = "layer "

Terms = dict[str, tuple[float, float]]
"""Measure -> (part, whole) that a question adds to its sums."""


def terms_of(question: QuestionAnalysis) -> Terms:
    """What a question adds to every measure, in the order of the tables."""
    terms: Terms = {}
    for name, heading in MAPS.items():
        if name in question.maps:
            terms[f"S-IoU {heading}"] = question.maps[name].s_iou, 1
            terms[f"best S-IoU {heading}"] = question.maps[name].best_s_iou, 1
    if question.points is not None:
        points = question.points
        terms["positive points inside"] = points.positive_inside, points.positive
        terms["negative points outside"] = points.negative_outside, points.negative
    for name, heading in MASKS.items():
        if name in question.masks:
            both, either = question.masks[name]
            terms[f"gIoU {heading}"] = both / (either + IOU_EPSILON) if either else 1.0, 1
            terms[f"cIoU {heading}"] = both, either
    for pair, both_ways in question.correlations.items():
        if both_ways.pearson is not None and both_ways.rank is not None:
            terms[f"Pearson {pair}"] = both_ways.pearson, 1
            terms[f"rank {pair}"] = both_ways.rank, 1
    for layer, value in question.layers.items():
        terms[f"{_LAYER}{layer}"] = value, 1
    return terms


def summarise(
    records: Sequence[QuestionAnalysis], model: str = "", notes: Iterable[str] = ()
) -> dict[str, Any]:
    """All measures as plain data for JSON; the same numbers every time (the seed is fixed).

    Args:
        records: of one model.
        model: its name.
        notes: what a reader of the numbers should know.

    Returns:
        {"model", "questions", "measures": {"all" or a kind: {measure: {"value", "low", "high"}}},
        "layers": {layer: {"value", "low", "high"}}, "notes"}; a value is None where there is
        nothing to tell. Kinds are told where there are several.
    """
    records = sorted(records, key=lambda question: question.key)
    terms = [terms_of(question) for question in records]
    names = _ordered(terms)
    kinds = sorted({question.kind for question in records if question.kind})
    groups = {ALL: np.ones(len(records), bool)}
    if len({question.kind for question in records}) > 1:
        kind_of = np.array([question.kind for question in records], dtype=object)
        groups |= {kind: kind_of == kind for kind in kinds}
    pairs = np.array([[one.get(name, (0, 0)) for name in names] for one in terms], np.float64)
    pairs = pairs.reshape(len(records), len(names), 2)
    columns = np.concatenate([pairs[..., 0], pairs[..., 1]], axis=1)
    sums = image_sums(columns, [one.image for one in records], list(groups.values()))
    there = np.array([question.truth_present is True for question in records], bool)
    for number, group in enumerate(groups.values()):
        if not (group & there).any():
            sums[number, :, [name.startswith("cIoU") for name in names] * 2] = 0
    tables = {
        group: dict(zip(names, cells, strict=True))
        for group, cells in zip(groups, _measured(sums), strict=True)
    }
    layers = {
        name.removeprefix(_LAYER): cell
        for name, cell in tables[ALL].items()
        if name.startswith(_LAYER)
    }
    measures = {
        group: {name: cell for name, cell in table.items() if not name.startswith(_LAYER)}
        for group, table in tables.items()
    }
    return {
        "model": model,
        "questions": len(records),
        "measures": measures,
        "layers": layers,
        "notes": list(notes),
    }


def _ordered(terms: Sequence[Terms]) -> list[str]:
    """Every measure that a question has, in the order in which one with all of them tells them."""
    names = {name for one in terms for name in one}
    fixed = [f"{kind} {heading}" for heading in MAPS.values() for kind in ("S-IoU", "best S-IoU")]
    fixed += ["positive points inside", "negative points outside"]
    fixed += [f"{kind} {heading}" for heading in MASKS.values() for kind in ("gIoU", "cIoU")]
    layers = sorted((n for n in names if n.startswith(_LAYER)), key=lambda n: int(n.split()[1]))
    rest = sorted(names - set(fixed) - set(layers))
    return [name for name in fixed if name in names] + rest + layers


def _measured(sums: np.ndarray) -> list[list[dict[str, float | None]]]:
    """For each group and measure its value and the ends of its interval.

    Args:
        sums: float64[G, C, 2K]: the parts of K measures, then their wholes.
    """
    samples = _ratio(resample(sums, np.random.default_rng(SEED)))
    several = (np.split(sums, 2, axis=2)[1] > 0).sum(axis=1) > 1
    samples[:, ~several] = np.nan
    ends = percentile_interval(samples.reshape(len(samples), -1)).reshape(*several.shape, 2)
    cells = np.concatenate([_ratio(sums.sum(axis=1))[..., None], ends], axis=2).tolist()
    return [
        [dict(zip(("value", "low", "high"), map(_plain, c), strict=True)) for c in r] for r in cells
    ]


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _ratio(sums: np.ndarray) -> np.ndarray:
    """float64[..., 2K] parts and wholes -> float64[..., K], NaN without a whole."""
    parts, wholes = np.split(sums, 2, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(wholes > 0, parts / wholes, np.nan)

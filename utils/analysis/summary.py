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
from utils.evaluation.bootstrap import LEVEL, RESAMPLES, SEED, number_images, resample_weights
from utils.metrics import IOU_EPSILON

ALL = "all"
_LAYER = "layer "

Terms = dict[str, tuple[float, float]]
"""Measure -> (part, whole) that a question adds to its sums."""


def terms_of(found: QuestionAnalysis) -> Terms:
    """What a question adds to every measure, in the order of the tables."""
    terms: Terms = {}
    for name, heading in MAPS.items():
        if name in found.maps:
            terms[f"S-IoU {heading}"] = found.maps[name].s_iou, 1
            terms[f"best S-IoU {heading}"] = found.maps[name].best_s_iou, 1
    if found.points is not None:
        points = found.points
        terms["positive points inside"] = points.positive_inside, points.positive
        terms["negative points outside"] = points.negative_outside, points.negative
    for name, heading in MASKS.items():
        if name in found.masks:
            both, either = found.masks[name]
            terms[f"gIoU {heading}"] = both / (either + IOU_EPSILON) if either else 1.0, 1
            terms[f"cIoU {heading}"] = both, either
    for pair, both_ways in found.correlations.items():
        if both_ways.pearson is not None and both_ways.rank is not None:
            terms[f"Pearson {pair}"] = both_ways.pearson, 1
            terms[f"rank {pair}"] = both_ways.rank, 1
    for layer, value in found.layers.items():
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
    records = sorted(records, key=lambda found: found.key)
    terms = [terms_of(found) for found in records]
    names = _ordered(terms)
    kinds = sorted({found.kind for found in records if found.kind})
    groups = {ALL: np.ones(len(records), bool)}
    if len({found.kind for found in records}) > 1:
        kind_of = np.array([found.kind for found in records], dtype=object)
        groups |= {kind: kind_of == kind for kind in kinds}
    sums = _image_sums(records, terms, names, list(groups.values()))
    there = np.array([found.truth_present is True for found in records], bool)
    for number, group in enumerate(groups.values()):
        if not (group & there).any():
            sums[:, number, :, [name.startswith("cIoU") for name in names]] = 0
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


def _image_sums(
    records: Sequence[QuestionAnalysis],
    terms: Sequence[Terms],
    names: Sequence[str],
    groups: Sequence[np.ndarray],
) -> np.ndarray:
    """Sums of parts and wholes over the questions about each image: float64[2, G, C, K]."""
    image, images = number_images([found.image for found in records])
    columns = np.array([[one.get(name, (0.0, 0.0)) for name in names] for one in terms], np.float64)
    columns = columns.reshape(len(records), len(names), 2)
    sums = np.zeros((2, len(groups), images, len(names)))
    for number, group in enumerate(groups):
        for part in range(2):
            np.add.at(sums[part, number], image[group], columns[group, :, part])
    return sums


def _measured(sums: np.ndarray) -> list[list[dict[str, float | None]]]:
    """For each group and measure its value and the ends of its interval."""
    _, groups, images, width = sums.shape
    values = _ratio(sums.sum(axis=2))
    flat = sums.transpose(2, 0, 1, 3).reshape(images, 2 * groups * width)
    generator = np.random.default_rng(SEED)
    drawn = [
        _ratio((weights @ flat).reshape(len(weights), 2, groups, width).swapaxes(0, 1))
        for weights in resample_weights(max(images, 1), RESAMPLES, generator)
        if images
    ]
    samples = np.concatenate(drawn) if drawn else np.full((1, groups, width), np.nan)
    several = (sums[1] > 0).sum(axis=1) > 1
    return [
        [
            _cell(float(values[g, k]), samples[:, g, k] if several[g, k] else samples[:0, g, k])
            for k in range(width)
        ]
        for g in range(groups)
    ]


def _ratio(sums: np.ndarray) -> np.ndarray:
    """float64[2, ...] parts and wholes -> float64[...], NaN without a whole."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[1] > 0, sums[0] / sums[1], np.nan)


def _cell(value: float, samples: np.ndarray) -> dict[str, float | None]:
    counted = samples[np.isfinite(samples)]
    if len(counted):
        low, high = map(float, np.quantile(counted, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    else:
        low = high = float("nan")
    return {name: _plain(v) for name, v in (("value", value), ("low", low), ("high", high))}


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None

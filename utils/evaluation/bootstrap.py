"""Intervals of the metrics by resampling images.

The questions about one image are not independent, so whole images are drawn, with replacement,
as many as there are; an interval holds the middle 95 % of the metric over 1,000 such draws
(percentile bootstrap). All metrics are ratios of sums over questions. Therefore a resample needs
only the sums of each image: no question is touched twice, and every group of questions shares
the same draws.

Legend: N questions, C images, G groups of questions, K sums (`SUMS`), R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from utils.metrics import CIOU_EPSILON, IOU_EPSILON

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0
SUMS = (
    "questions",
    "iou",
    "intersection",
    "union",
    "true_pos",
    "false_neg",
    "true_neg",
    "false_pos",
)
_CHUNK = 4_000_000
"""Most weights that are held at once."""


def number_images(names: Sequence[str]) -> tuple[np.ndarray, int]:
    """Numbers of the images behind the questions, in alphabetical order of their names.

    The order makes the result independent of how the questions were spread over processes.

    Args:
        names: N, the image of each question.

    Returns:
        int64[N] from 0 to C - 1, and C.
    """
    distinct, numbers = np.unique(np.asarray(names, dtype=object), return_inverse=True)
    return numbers.astype(np.int64), len(distinct)


def question_sums(
    intersection: Sequence[int],
    union: Sequence[int],
    present: Sequence[bool],
    truth_present: Sequence[bool],
) -> np.ndarray:
    """What each question adds to the sums: float64[N, K], columns as in `SUMS`."""
    both = np.asarray(intersection, np.float64)
    either = np.asarray(union, np.float64)
    says, there = np.asarray(present, bool), np.asarray(truth_present, bool)
    iou = np.where(either > 0, both / (either + IOU_EPSILON), 1.0)
    see = (there & says, there & ~says, ~there & ~says, ~there & says)
    return np.stack([np.ones_like(both), iou, both, either, *map(np.float64, see)], axis=1)


def image_sums(
    columns: np.ndarray, image: np.ndarray, images: int, groups: Sequence[np.ndarray]
) -> np.ndarray:
    """Sums over the questions about each image, for every group of questions.

    Args:
        columns: float64[N, K], see `question_sums`.
        image: int64[N], see `number_images`.
        images: C.
        groups: G arrays bool[N], the questions that count.

    Returns:
        float64[G, C, K], the same to the last bit in whatever order the questions come.
    """
    order = np.lexsort((columns[:, SUMS.index("iou")], image))
    columns, image = columns[order], image[order]
    sums = np.empty((len(groups), images, len(SUMS)))
    for number, group in enumerate(groups):
        mine = group[order]
        for k in range(len(SUMS)):
            sums[number, :, k] = np.bincount(image[mine], columns[mine, k], minlength=images)
    return sums


def metrics_of_sums(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics: float64[..., K] -> name -> float64[...], NaN where there is nothing to count."""
    part = {name: sums[..., k] for k, name in enumerate(SUMS)}
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "giou": part["iou"] / part["questions"],
            "ciou": np.where(
                part["true_pos"] + part["false_neg"] > 0,
                part["intersection"] / (part["union"] + CIOU_EPSILON),
                np.nan,
            ),
            "see_accuracy": (part["true_pos"] + part["true_neg"]) / part["questions"],
            "absent_precision": part["true_neg"] / (part["true_neg"] + part["false_neg"]),
            "absent_recall": part["true_neg"] / (part["true_neg"] + part["false_pos"]),
        }


def resample_weights(
    images: int, resamples: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """How often each image is drawn: float64[r, C] blocks that make R rows together."""
    rows = max(1, _CHUNK // images)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(images, size=(count, images))
        drawn += images * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * images)
        yield weights.reshape(count, images).astype(np.float64)


def resampled_metrics(
    sums: np.ndarray, generator: np.random.Generator, resamples: int = RESAMPLES
) -> dict[str, np.ndarray]:
    """Every metric of every group in each resample; groups share the draws.

    Args:
        sums: float64[G, C, K], see `image_sums`.
        generator: the source of the draws.
        resamples: R.

    Returns:
        name -> float64[R, G]. NaN where there is nothing to count, and for groups of fewer than two
        images, where drawing images tells nothing.
    """
    groups, images, width = sums.shape
    flat = sums.transpose(1, 0, 2).reshape(images, groups * width)
    blocks = [
        (weights @ flat).reshape(len(weights), groups, width)
        for weights in resample_weights(max(images, 1), resamples, generator)
        if images
    ]
    empty = np.full((1, groups, width), np.nan)
    values = metrics_of_sums(np.concatenate(blocks) if blocks else empty)
    alone = (sums[:, :, SUMS.index("questions")] > 0).sum(axis=1) < 2
    for drawn in values.values():
        drawn[:, alone] = np.nan
    return values


def percentile_interval(drawn: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """The middle of resampled values: float64[R, G] -> float64[G, 2]; values that are NaN are out.

    NaN for groups without any value.
    """
    found = np.full((drawn.shape[1], 2), np.nan)
    for group, values in enumerate(drawn.T):
        counted = values[np.isfinite(values)]
        if len(counted):
            found[group] = np.quantile(counted, [(1 - level) / 2, (1 + level) / 2])
    return found


def bootstrap_intervals(
    sums: np.ndarray,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, np.ndarray]:
    """Percentile intervals of every metric in every group: name -> float64[G, 2].

    Arguments as in `resampled_metrics` and `percentile_interval`.
    """
    values = resampled_metrics(sums, generator, resamples)
    return {name: percentile_interval(drawn, level) for name, drawn in values.items()}

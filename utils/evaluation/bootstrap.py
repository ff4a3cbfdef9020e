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
METHOD = {"unit": "image", "level": LEVEL, "resamples": RESAMPLES, "seed": SEED}
"""How intervals are made, as files tell it."""
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


def question_sums(questions: np.ndarray) -> np.ndarray:
    """What each question adds to the sums: float64[N, K], columns as in `SUMS`.

    Args:
        questions: int[N, 4]: intersection and union in pixels, present and truth_present as 0 / 1.
    """
    both, either = questions[:, :2].T.astype(np.float64)
    says, there = questions[:, 2:].T.astype(bool)
    iou = np.where(either > 0, both / (either + IOU_EPSILON), 1.0)
    see = (there & says, there & ~says, ~there & ~says, ~there & says)
    return np.stack([np.ones_like(both), iou, both, either, *map(np.float64, see)], axis=1)


def image_sums(
    columns: np.ndarray, names: Sequence[str], groups: Sequence[np.ndarray]
) -> np.ndarray:
    """Sums over the questions about each image, for every group of questions.

    Images stand in alphabetical order, so that the result does not depend on how the questions were
    spread over processes.

    Args:
        columns: float64[N, K], such as `question_sums`.
        names: N, the image of each question.
        groups: G arrays bool[N], the questions that count.

    Returns:
        float64[G, C, K], the same to the last bit in whatever order the questions come, as long as
        one column of those of an image (the second one, in `SUMS` the IoU) tells them apart.
    """
    distinct, image = np.unique(np.asarray(names, dtype=object), return_inverse=True)
    order = np.lexsort((columns[:, 1:2].sum(axis=1), image))
    columns, image = columns[order], image[order]
    sums = np.empty((len(groups), len(distinct), columns.shape[1]))
    for number, group in enumerate(groups):
        inside = group[order]
        for k in range(columns.shape[1]):
            counted = np.bincount(image[inside], columns[inside, k], minlength=len(distinct))
            sums[number, :, k] = counted
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


def resample(
    sums: np.ndarray, generator: np.random.Generator, resamples: int = RESAMPLES
) -> np.ndarray:
    """Sums over the images of each resample: float64[G, C, K] -> float64[R, G, K].

    Without images: float64[1, G, K] of NaN.
    """
    groups, images, width = sums.shape
    if not images:
        return np.full((1, groups, width), np.nan)
    flat = sums.transpose(1, 0, 2).reshape(images, groups * width)
    blocks = [weights @ flat for weights in resample_weights(images, resamples, generator)]
    return np.concatenate(blocks).reshape(-1, groups, width)


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
    values = metrics_of_sums(resample(sums, generator, resamples))
    alone = (sums[:, :, SUMS.index("questions")] > 0).sum(axis=1) < 2
    for drawn in values.values():
        drawn[:, alone] = np.nan
    return values


def percentile_interval(drawn: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """The middle of resampled values: float64[R, G] -> float64[G, 2]; values that are NaN are out.

    NaN for groups without any value.
    """
    ends = np.full((drawn.shape[1], 2), np.nan)
    for group, values in enumerate(drawn.T):
        counted = values[np.isfinite(values)]
        if len(counted):
            ends[group] = np.quantile(counted, [(1 - level) / 2, (1 + level) / 2])
    return ends


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

"""How well similarity maps and points agree with the true mask, and maps with each other.

Maps are float32[H, W] over the whole image, NaN where their view (CLIP's crop) does not show it:
nothing there is ever selected, so what is true there counts as missed. Truth is uint8[H, W]:
1 object, 0 background, 255 does not count anywhere.
"""

from __future__ import annotations

import numpy as np

from utils.analysis.records import Correlation, MapScore, PointScore
from utils.protocol.constants import IGNORE_LABEL

CUT = 0.5
"""Where S-IoU cuts a map that is scaled to [0, 1]."""


def scale(values: np.ndarray) -> np.ndarray:
    """(s - min s) / (max s - min s) over what the map sees; 0 everywhere if it is constant.

    Args:
        values: float[...], NaN where nothing is seen.

    Returns:
        float32[...] in [0, 1], NaN as before.
    """
    lowest, highest = np.nanmin(values), np.nanmax(values)
    spread = highest - lowest
    return ((values - lowest) / (spread if spread > 0 else 1)).astype(np.float32)


def score_map(values: np.ndarray, truth: np.ndarray) -> MapScore:
    """S-IoU: the IoU of the cut map with the truth.

    With the scaled map m (see `scale`), the true pixels T and the selected ones
    S(t) = {p: m(p) >= t}, both without pixels that do not count:

        S-IoU(t) = |S(t) & T| / |S(t) | T|

    `s_iou` is S-IoU(0.5): the paper does not say where it cuts, half way between the lowest and the
    highest similarity is ours. `best_s_iou` is the maximum over every t, hence over all binary
    masks that the map can give.

    Args:
        values: float32[H, W], NaN where nothing is seen.
        truth: uint8[H, W] with at least one pixel of the object.
    """
    scaled = scale(values)
    true, counted = truth == 1, truth != IGNORE_LABEL
    selected = (scaled >= CUT) & counted
    union = np.count_nonzero(selected | true)
    s_iou = np.count_nonzero(selected & true) / union
    best, threshold = _best(scaled, true, counted)
    return MapScore(s_iou, best, threshold)


def best_s_iou(values: np.ndarray, truth: np.ndarray) -> float:
    """max over t of S-IoU(t); see `score_map`."""
    return _best(scale(values), truth == 1, truth != IGNORE_LABEL)[0]


def _best(scaled: np.ndarray, true: np.ndarray, counted: np.ndarray) -> tuple[float, float]:
    """Best IoU and its threshold.

    Between two values of true pixels a lower threshold only adds false ones, so the best one is
    the value of a true pixel: with these sorted downwards, the k-th has k true pixels above.
    """
    seen = ~np.isnan(scaled)
    inside = np.sort(scaled[true & seen])[::-1]
    outside = np.sort(scaled[~true & counted & seen])
    if not len(inside):
        return 0.0, 1.0
    false = len(outside) - np.searchsorted(outside, inside, side="left")
    ious = np.arange(1, len(inside) + 1) / (np.count_nonzero(true) + false)
    best = int(ious.argmax())
    return float(ious[best]), float(inside[best])


def score_points(points: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> PointScore:
    """How many points fell where they should; points on pixels that do not count are left out.

    Args:
        points: float[P, 2], (x, y) in pixels of the original image.
        labels: int[P]: 1 positive, 0 negative, -1 no point.
        truth: uint8[H, W].
    """
    height, width = truth.shape
    x, y = np.rint(np.asarray(points, np.float64)).astype(int).T.reshape(2, -1)
    under = truth[y.clip(0, height - 1), x.clip(0, width - 1)]
    positive = (np.asarray(labels) == 1) & (under != IGNORE_LABEL)
    negative = (np.asarray(labels) == 0) & (under != IGNORE_LABEL)
    return PointScore(
        positive=int(positive.sum()),
        negative=int(negative.sum()),
        positive_inside=int((positive & (under == 1)).sum()),
        negative_outside=int((negative & (under == 0)).sum()),
    )


def correlate(first: np.ndarray, second: np.ndarray) -> Correlation:
    """Pearson's r of two maps on the same cells, and Spearman's: Pearson's of the ranks.

    r = sum (a - mean a)(b - mean b) / sqrt(sum (a - mean a)^2 * sum (b - mean b)^2). Equal values
    share the mean of their ranks.

    Args:
        first, second: float[h, w].
    """
    return Correlation(_pearson(first, second), _pearson(_ranks(first), _ranks(second)))


def _pearson(first: np.ndarray, second: np.ndarray) -> float | None:
    a, b = (np.asarray(one, np.float64).ravel() for one in (first, second))
    if a.min() == a.max() or b.min() == b.max():
        return None
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b) / np.sqrt((a @ a) * (b @ b)))


def _ranks(values: np.ndarray) -> np.ndarray:
    """float64[n] from 1; equal values share the mean of theirs."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[group.ravel()]

"""Drawing truth masks from annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from utils.constants import IGNORE_LABEL


def draw_polygon(mask: np.ndarray, points: Sequence[Sequence[float]], value: int) -> None:
    """Draw a polygon, outline and filling, into uint8[H, W]; coordinates are truncated."""
    corners = [np.array(points, dtype=np.float64).astype(np.int32)]
    cv2.polylines(mask, corners, True, value, 1)
    cv2.fillPoly(mask, corners, value)


def draw_reason_seg(shapes: Sequence[Mapping], size: tuple[int, int]) -> np.ndarray:
    """ReasonSeg's shapes as a mask, drawn from the largest polygon to the smallest.

    Args:
        shapes: each with `label` and `points` [[x, y], ...]; a label containing "flag" is skipped,
            one containing "ignore" becomes 255, any other 1.
        size: (H, W).

    Returns:
        uint8[H, W] of 0, 1, 255.
    """
    kept = []
    for shape in shapes:
        label = shape["label"].lower()
        if "flag" in label or len(shape["points"]) == 0:
            continue
        area = np.zeros(size, dtype=np.uint8)
        draw_polygon(area, shape["points"], 1)
        kept.append((int(area.sum()), "ignore" in label, shape["points"]))
    mask = np.zeros(size, dtype=np.uint8)
    for _, ignored, points in sorted(kept, key=lambda entry: -entry[0]):
        draw_polygon(mask, points, IGNORE_LABEL if ignored else 1)
    return mask

"""Drawing truth masks from annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from utils.constants import IGNORE_LABEL

FAR = 10
"""Corners may lie so many times the picture's longer side outside of it: drawing takes time in
proportion to the distance."""


def draw_polygon(mask: np.ndarray, points: Sequence[Sequence[float]], value: int) -> None:
    """Draw a polygon, outline and filling, into uint8[H, W]; coordinates are truncated.

    Raises:
        ValueError: a coordinate is not finite or lies very far outside of the picture.
    """
    exact = np.array(points, dtype=np.float64)
    if not (np.abs(exact) <= FAR * max(mask.shape)).all():
        raise ValueError("a corner of a polygon is not finite, or far outside of the picture")
    corners = [exact.astype(np.int32)]
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

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a shape lacks a key or has an unusable one.
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

"""Drawing truth masks from annotations: ReasonSeg's polygons, COCO's polygons and run lengths.

COCO's are decoded by pycocotools, which hands what it is given to C code that trusts it: a damaged
string can end the interpreter. Everything is checked here first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from utils.protocol.constants import IGNORE_LABEL, POLYGON_FILLS
from utils.protocol.rle import run_lengths

FAR = 10
"""Corners may lie so many times the image's longer side outside of it; farther ones are a mistake
in the file, and OpenCV's 32-bit numbers end somewhere."""

_BITS = 16
_ONE, _HALF = 1 << _BITS, 1 << (_BITS - 1)
"""OpenCV's fixed-point numbers: one pixel, and half of one."""


def draw_polygon(
    mask: np.ndarray, points: Sequence[Sequence[float]], value: int, fill: str = POLYGON_FILLS[0]
) -> None:
    """Draw a polygon into uint8[H, W] as the original does: `polylines`, then `fillPoly`.

    Coordinates are truncated to whole pixels. `polylines` is the same in every release of OpenCV;
    `fillPoly` is not, so `fill_polygon` takes its place.

    Args:
        points: (x, y) each, in pixels of the image.
        fill: one of `POLYGON_FILLS`.

    Raises:
        ValueError: a point is no pair, or a coordinate is not finite or lies very far outside of
            the image.
    """
    exact = np.array(points, dtype=np.float64)
    if exact.ndim != 2 or exact.shape[1] != 2:
        raise ValueError(f"the points of a polygon form an array {exact.shape}, not pairs of x, y")
    if not (np.abs(exact) <= FAR * max(mask.shape)).all():
        raise ValueError("a corner of a polygon is not finite, or far outside of the image")
    corners = exact.astype(np.int32)
    cv2.polylines(mask, [corners], True, value, 1)
    fill_polygon(mask, corners, value, fill)


def fill_polygon(
    mask: np.ndarray, corners: np.ndarray, value: int, fill: str = POLYGON_FILLS[0]
) -> None:
    """The inside of a polygon, even-odd, by OpenCV's arithmetic; the outline is extra.

    An edge crosses the rows from its upper end to the one before its lower end, at fixed-point x:
    that of the upper end plus a slope, cut off after 16 bits, for each row. Sorted along a row,
    two crossings each bound a run of pixels.

    "4.11": the left bound is rounded up and the right one down. An edge that leaves the image runs
    through its ends as clipped to the image; where that leaves one row, through their x alone.
    "4.8": both bounds are rounded to the nearest, those of an edge that leaves the image down;
    where clipping leaves one row, such an edge stays as it is.

    Args:
        mask: uint8[H, W], written in place.
        corners: int32[n, 2], (x, y) in pixels of the image.
        fill: one of `POLYGON_FILLS`.
    """
    height, width = mask.shape
    old = fill == "4.8"
    ends = corners.astype(np.int64)
    edges = np.stack([np.roll(ends, 1, axis=0), ends], axis=1)
    edges = edges[edges[:, 0, 1] != edges[:, 1, 1]]
    leaves = ((edges < 0) | (edges >= (width, height))).any(axis=(1, 2))
    line = edges.copy()
    for number in np.flatnonzero(leaves):
        _, start, end = cv2.clipLine((0, 0, width, height), *edges[number].tolist())
        if start[1] != end[1]:
            line[number] = start, end
        elif not old:
            line[number, :, 0] = start[0], end[0]
    run, rise = (line[:, 1] - line[:, 0]).T
    slope = np.trunc(run * _ONE / rise).astype(np.int64)
    upper = line[np.arange(len(line)), edges[:, :, 1].argmin(axis=1)]
    at_row_0 = upper[:, 0] * _ONE - upper[:, 1] * slope
    if old:
        at_row_0 += np.where(leaves, 0, _HALF)

    first, last = edges[:, :, 1].min(axis=1).clip(0, height), edges[:, :, 1].max(axis=1)
    count = last.clip(0, height) - first
    edge = np.repeat(np.arange(len(edges)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - first, count)
    x = at_row_0[edge] + row * slope[edge]
    order = np.lexsort((x, row))
    row, x = row[order], x[order]
    lefts = (x[::2] + (0 if old else _ONE - 1) >> _BITS).clip(0, width)
    rights = (x[1::2] >> _BITS).clip(-1, width - 1) + 1
    for y, left, right in zip(row[::2].tolist(), lefts.tolist(), rights.tolist(), strict=True):
        mask[y, left:right] = value


def draw_reason_seg(
    shapes: Sequence[Mapping], size: tuple[int, int], fill: str = POLYGON_FILLS[0]
) -> np.ndarray:
    """ReasonSeg's shapes as a mask, drawn from the largest polygon to the smallest.

    Args:
        shapes: each with `label` and `points` [[x, y], ...]; the label "flag" is skipped, one
            containing "ignore" becomes 255, any other 1; upper and lower case are the same. Of
            polygons of equal area the later one is drawn first.
        size: (H, W).
        fill: one of `POLYGON_FILLS`.

    Returns:
        uint8[H, W] of 0, 1, 255.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a shape lacks a key or has an unusable one.
    """
    kept = []
    for shape in shapes:
        label = shape["label"].lower()
        if label == "flag" or len(shape["points"]) == 0:
            continue
        area = np.zeros(size, dtype=np.uint8)
        draw_polygon(area, shape["points"], 1, fill)
        kept.append((int(area.sum()), "ignore" in label, shape["points"]))
    mask = np.zeros(size, dtype=np.uint8)
    for _, ignored, points in sorted(kept, key=lambda entry: entry[0])[::-1]:
        draw_polygon(mask, points, IGNORE_LABEL if ignored else 1, fill)
    return mask


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Draw a segmentation.

    Args:
        segmentation: a list of polygons [x, y, x, y, ...] (united), a run-length dict
            {"size": [H, W], "counts": text, bytes or a list of numbers}, a list of such dicts
            (united), or nothing at all ([], {}, None). Polygons of one or two corners enclose
            nothing.
        size: (H, W) of the image.

    Returns:
        uint8[H, W] of 0 and 1.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    height, width = size
    if segmentation is None or segmentation in ([], {}):
        return np.zeros(size, dtype=np.uint8)
    parts = [segmentation] if isinstance(segmentation, dict) else segmentation
    if not isinstance(parts, list):
        raise ValueError(f"a segmentation is a list or a dict, not {type(parts).__name__}")
    runs: list[dict] = []
    for part in parts:
        if isinstance(part, dict):
            runs.append(_checked_runs(part, size))
        else:
            corners = _checked_polygon(part, size)
            if len(corners) >= 6:
                runs += coco.frPyObjects([corners], height, width)
    if not runs:
        return np.zeros(size, dtype=np.uint8)
    return np.ascontiguousarray(coco.decode(coco.merge(runs)))


def _checked_polygon(part: Any, size: tuple[int, int]) -> list[float]:
    if not isinstance(part, list):
        raise ValueError(f"a polygon is a list of numbers, not {type(part).__name__}")
    if len(part) % 2:
        raise ValueError(f"a polygon has {len(part)} numbers; x and y come in pairs")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in part):
        raise ValueError("a polygon holds something else than numbers")
    # Far corners take memory in proportion to their distance.
    far = max(size)
    if not all(-far <= value <= 2 * far for value in part):
        raise ValueError(f"a polygon is not finite, or far outside of {size[1]} x {size[0]} pixels")
    return [float(value) for value in part]


def _checked_runs(part: dict, size: tuple[int, int]) -> dict:
    height, width = size
    given = part.get("size")
    if not isinstance(given, list | tuple) or list(given) != [height, width]:
        raise ValueError(f"run lengths for the size {given}, in an image of [{height}, {width}]")
    counts = part.get("counts")
    if isinstance(counts, list):
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in counts)
        _check_counts(counts if whole else [-1], size)
        return coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if not isinstance(counts, str | bytes):
        raise ValueError(f"counts are text or a list, not {type(counts).__name__}")
    _check_counts(run_lengths(counts), size)
    return {"size": [height, width], "counts": counts}


def _check_counts(counts: Sequence[int], size: tuple[int, int]) -> None:
    if any(count < 0 for count in counts):
        raise ValueError("a run length is negative or no whole number")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(
            f"run lengths sum to {sum(counts)}, but the image has {size[0] * size[1]} pixels"
        )

"""Images of an analysed question: the image, and see-through layers that lie upon it.

Layers keep the files small: a similarity map is stored at its own resolution and enlarged by the
page that shows it, a mask or a set of points is a drawing in a few colours. All are lossless PNG.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from utils.files import writing
from utils.protocol.constants import IGNORE_LABEL
from utils.reports.visualize import (
    IGNORED_COLOUR,
    MASK_COLOUR,
    NEGATIVE_COLOUR,
    POSITIVE_COLOUR,
    TRUTH_COLOUR,
    encode_png,
    fit,
    tint,
)

SHOWN_SIDE = 320
"""Longer side of what is drawn, in pixels."""
MAP_SIDE = 96
"""Longer side of a similarity map as it is stored; finer ones are reduced."""
FOLDER = "images"
POINTS = "marks"
"""Name of the layer with the points."""
MAP_OPACITY, UNSEEN_OPACITY = 165, 140
"""0 to 255."""
SHADES = 8
"""Different brightnesses of a mask's colour."""


def draw_question(
    image: np.ndarray,
    maps: dict[str, np.ndarray],
    points: np.ndarray,
    labels: np.ndarray,
    masks: dict[str, np.ndarray],
    truth: np.ndarray | None,
    folder: Path,
    stem: str,
) -> dict[str, str]:
    """Write the image and its layers below `folder / "images"`.

    Args:
        image: uint8[H, W, 3]; stored once, however many questions are about it.
        maps: name -> float32[h, w] over the whole image, any h x w of its shape; NaN where the
            map does not see the image.
        points: float[P, 2], (x, y) in pixels of the original image.
        labels: int[P]: 1 positive, 0 negative, others are not drawn.
        masks: name -> bool[H, W].
        truth: uint8[H, W] (0/1/255), or None.
        folder: of the analysis of one model.
        stem: begin of the files' names.

    Returns:
        name -> path relative to `folder`: "image", "marks" for the points, the names of the maps
        and masks, and "truth" if there is one.

    Raises:
        InputError: a file cannot be written.
    """
    size = shown_size(image.shape[:2])
    shown = _resized(image, size)
    layers = {name: map_layer(values) for name, values in maps.items()}
    layers[POINTS] = points_layer(points, labels, image.shape[:2], size)
    layers |= {name: mask_layer(shown, _shrink(mask, size)) for name, mask in masks.items()}
    if truth is not None:
        layers["truth"] = truth_layer(shown, _shrink(truth, size))
    base = f"{FOLDER}/{hashlib.sha256(image.tobytes()).hexdigest()[:16]}.png"  # of all its pixels
    files = {"image": base, **{name: f"{FOLDER}/{stem}_{name}.png" for name in layers}}
    remedy = "give another --out, or make room; what is written stays usable"
    with writing(folder / base, remedy):
        if not (folder / base).is_file():
            (folder / base).write_bytes(encode_png(shown))
        for name, layer in layers.items():
            (folder / files[name]).write_bytes(encode_png(layer))
    return files


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) in which an image of (H, W) is shown: small ones are enlarged."""
    factor = SHOWN_SIDE / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def map_layer(values: np.ndarray) -> np.ndarray:
    """A similarity map as colours, blue to red; what it does not see is darkened.

    Args:
        values: float32[h, w], NaN where it does not see.

    Returns:
        uint8[h', w', 4] RGBA.
    """
    values = _reduced(np.asarray(values, np.float32))
    seen = np.isfinite(values)
    lowest, highest = (values[seen].min(), values[seen].max()) if seen.any() else (0.0, 0.0)
    spread = float(highest - lowest)
    share = (values - lowest) / spread if spread > 0 else np.zeros_like(values)
    level = (np.where(seen, share, 0) * 255).round().astype(np.uint8)
    layer = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGBA)
    layer[..., 3] = MAP_OPACITY
    layer[~seen] = (40, 40, 40, UNSEEN_OPACITY)
    return layer


def _reduced(values: np.ndarray) -> np.ndarray:
    """At most `MAP_SIDE` cells along a side, each the mean of what was seen there."""
    factor = MAP_SIDE / max(values.shape)
    if factor >= 1:
        return values
    shape = (max(1, round(values.shape[1] * factor)), max(1, round(values.shape[0] * factor)))
    seen = np.isfinite(values)
    sums = cv2.resize(np.where(seen, values, 0), shape, interpolation=cv2.INTER_AREA)
    share = cv2.resize(seen.astype(np.float32), shape, interpolation=cv2.INTER_AREA)
    return np.where(share > 0.5, sums / np.maximum(share, 1e-6), np.nan).astype(np.float32)


def mask_layer(
    image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = MASK_COLOUR
) -> np.ndarray:
    """A mask in its colour over the image, with its outline.

    Args:
        image: uint8[h, w, 3], what the layer will lie upon.
        mask: bool[h, w].
        colour: RGB.

    Returns:
        uint8[h, w, 4] RGBA.
    """
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[mask, :3] = tint(image[mask], colour, SHADES)
    layer[mask, 3] = 255
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(layer, outlines, -1, (255, 255, 255, 255), 4)
    cv2.drawContours(layer, outlines, -1, (*colour, 255), 2)
    return layer


def truth_layer(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The same for a true mask uint8[h, w] (0/1/255); pixels that do not count are grey."""
    layer = mask_layer(image, truth == IGNORE_LABEL, IGNORED_COLOUR)
    above = mask_layer(image, truth == 1, TRUTH_COLOUR)
    return np.where(above[..., 3:] > 0, above, layer)


def points_layer(
    points: np.ndarray, labels: np.ndarray, size: tuple[int, int], shown: tuple[int, int]
) -> np.ndarray:
    """Points as discs, positive ones green and above the red negative ones.

    Args:
        points: float[P, 2], (x, y) in an image of `size`.
        labels: int[P].
        size: (H, W) of the image.
        shown: (h, w) of the layer.

    Returns:
        uint8[h, w, 4] RGBA.
    """
    layer = np.zeros((*shown, 4), np.uint8)
    scale = np.array([shown[1] / size[1], shown[0] / size[0]])
    radius = max(2, round(max(shown) / 64))
    for wanted, colour in ((0, NEGATIVE_COLOUR), (1, POSITIVE_COLOUR)):
        chosen = np.asarray(points, np.float64).reshape(-1, 2)[np.asarray(labels) == wanted]
        for x, y in ((chosen + 0.5) * scale - 0.5).round().astype(int):
            cv2.circle(layer, (int(x), int(y)), radius + 1, (255, 255, 255, 255), cv2.FILLED)
            cv2.circle(layer, (int(x), int(y)), radius, (*colour, 255), cv2.FILLED)
    return layer


def _shrink(mask: np.ndarray, shown: tuple[int, int]) -> np.ndarray:
    """A mask in the size in which it is shown; one of a few pixels does not vanish."""
    size = (shown[1], shown[0])
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    if not (small == 1).any():
        rows, columns = np.nonzero(mask == 1)
        small[rows * shown[0] // mask.shape[0], columns * shown[1] // mask.shape[1]] = 1
    return small.astype(mask.dtype)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8[H, W, 3] -> uint8[h, w, 3] with `size` = (h, w)."""
    small = fit(image, max(size))
    if small.shape[:2] == size:
        return small
    return cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)

"""An answer's mask as a file to take along."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from utils.protocol.rle import encode_mask
from utils.reports.visualize import encode_png, mask_image
from web.drawing import colour_name

FILES = {"mask.png": "image/png", "mask_rle.json": "application/json"} | {
    "polygons.json": "application/json"
}
"""Names of the files, and what they are."""


def export(name: str, segments: Sequence[Any], shown: Sequence[int]) -> bytes:
    """One of `FILES`.

    * `mask.png`: uint8[H, W] without loss, 255 where one of the layers is.
    * `mask_rle.json`: COCO's run-length code of the same, and of each layer.
    * `polygons.json`: the rings of each layer; see `rings_of`.

    Args:
        name: of the file.
        segments: at least one; with `mask` and `score`, as `model.inference.reader.Segment`.
        shown: which of them go into it.

    Raises:
        KeyError: no such file.
    """
    if name not in FILES:
        raise KeyError(name)
    mask = np.zeros(segments[0].mask.shape, bool)
    for layer in shown:
        mask |= segments[layer].mask
    if name == "mask.png":
        return encode_png(mask_image(mask), level=1)
    layers = [
        {
            "layer": layer + 1,
            "colour": colour_name(layer),
            "score": round(float(segments[layer].score), 4),
            **_form(name, segments[layer].mask),
        }
        for layer in shown
    ]
    whole = encode_mask(mask) if name == "mask_rle.json" else {"size": list(mask.shape)}
    return json.dumps({**whole, "layers": layers}).encode()


def rings_of(mask: np.ndarray) -> list[list[list[int]]]:
    """Closed polygons along the edges of a mask's pixels; by the even-odd rule they give it back.

    In the mask at twice its size, contours run inside of the borders: a border between pixels is at
    an even place on one side of it and at an odd one on the other.

    Args:
        mask: bool[H, W].

    Returns:
        rings of corners [x, y] in pixels, (0, 0) being the upper left corner of the upper left
        pixel. Outer borders run clockwise as seen on a screen, holes the other way round; the first
        corner is not repeated at the end.
    """
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [(np.roll(contour[::-1, 0], 1, axis=0) + 1) // 2 for contour in contours]
    return [ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)].tolist() for ring in rings]


def _form(name: str, mask: np.ndarray) -> dict[str, Any]:
    return encode_mask(mask) if name == "mask_rle.json" else {"rings": rings_of(mask)}

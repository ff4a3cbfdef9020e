"""What a visitor sees of an answer. Legend: as in `utils.reports.visualize`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.reports.visualize import (
    DISPLAY_SIDE,
    display_scale,
    enlarge,
    fit,
    heat_map,
    paint_mask,
    paint_points,
)

LONGEST = 1024
"""Longest side of a shown image in pixels, before a small one is enlarged."""
COLOURS = {
    "cyan": (0, 225, 255),
    "magenta": (255, 70, 200),
    "yellow": (255, 214, 10),
    "lime": (150, 235, 60),
    "orange": (255, 149, 0),
    "violet": (175, 110, 255),
}
"""Of layers, from the first on and then again."""


def colour_name(layer: int) -> str:
    """Of a layer, counted from 0."""
    return list(COLOURS)[layer % len(COLOURS)]


class Renderer:
    """An image in the size in which it is shown.

    Args:
        image: uint8[H, W, 3].
    """

    def __init__(self, image: np.ndarray):
        self._small = fit(image, LONGEST)
        self._scale = display_scale(self._small.shape[:2], DISPLAY_SIDE)
        self.plain = enlarge(self._small, self._scale)
        self._shrunk = self._small.shape[1] / image.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what is shown."""
        return self.plain.shape[:2]

    def in_image(self, x: float, y: float) -> tuple[float, float]:
        """A place on what is shown -> (x, y) in pixels of the image, 0 at a pixel's centre."""
        factor = self._scale * self._shrunk
        return (x + 0.5) / factor - 0.5, (y + 0.5) / factor - 0.5

    def overlay(
        self, segments: Sequence[Any], shown: Sequence[int], points_of: int | None
    ) -> np.ndarray:
        """Masks, each in its colour, and the points of one layer.

        Args:
            segments: with `mask`, `points` and `point_labels`, as `model.inference.reader.Segment`.
            shown: which of their masks are drawn.
            points_of: whose points are drawn; None: nobody's.
        """
        painted = self.plain
        for layer in shown:
            mask = fit(segments[layer].mask, LONGEST)
            colour = COLOURS[colour_name(layer)]
            painted = paint_mask(painted, mask, colour, scale=self._scale)
        if points_of is not None:
            segment = segments[points_of]
            points = (np.asarray(segment.points) + 0.5) * self._shrunk - 0.5
            painted = paint_points(painted, points, segment.point_labels, self._scale)
        return painted

    def similarity(self, values: np.ndarray) -> np.ndarray:
        """A similarity map float32[side, side] over the image."""
        return heat_map(self._small, values, self._scale)

"""Similarity maps on the image that they are about.

A map covers a square view of the image: CLIP's centre crop, or SAM's padded frame. `Box` says
where that view lies. Values between cells are bilinear between the cells' centres; beyond the
outer centres the outer cells go on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.protocol.geometry import Box

FINE = 4
"""Samples along a cell where a map is averaged over the cells of another view."""


@dataclass(frozen=True, eq=False)
class PlacedMap:
    """A similarity map and its place.

    Args:
        values: float32[h, w].
        box: what the map covers, in pixels of the original image.
    """

    values: np.ndarray
    box: Box

    def over(self, size: tuple[int, int], shape: tuple[int, int] | None = None) -> np.ndarray:
        """The map over the whole image.

        Args:
            size: (H, W) of the original image.
            shape: (rows, columns) of the result; default: `size`.

        Returns:
            float32[rows, columns], NaN where the view does not show the image.
        """
        left, top, right, bottom = self.box
        rows, columns = shape or size
        down = np.arange(0.5, rows) * size[0] / rows
        along = np.arange(0.5, columns) * size[1] / columns
        spread = self._at(down, along)
        spread[(down < top) | (down > bottom)] = np.nan
        spread[:, (along < left) | (along > right)] = np.nan
        return spread

    def onto(self, box: Box, side: int) -> np.ndarray:
        """The mean of the map over the cells of another view, which lies inside this one.

        Args:
            box: of the other view.
            side: cells along a side of the other view.

        Returns:
            float32[side, side].
        """
        if box == self.box and self.values.shape == (side, side):
            return self.values
        left, top, right, bottom = box
        places = np.arange(0.5, side * FINE) / (side * FINE)
        samples = self._at(top + places * (bottom - top), left + places * (right - left))
        return samples.reshape(side, FINE, side, FINE).mean(axis=(1, 3), dtype=np.float32)

    def _at(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Values float32[len(y), len(x)] at these rows and columns of the image, in pixels."""
        left, top, right, bottom = self.box
        rows, columns = self.values.shape
        down = _weights((y - top) / (bottom - top), rows)
        along = _weights((x - left) / (right - left), columns)
        return down @ self.values.astype(np.float32) @ along.T


def _weights(places: np.ndarray, cells: int) -> np.ndarray:
    """Bilinear weights float32[n, cells] at n places in a row of cells from 0 to 1."""
    position = (places * cells - 0.5).clip(0, cells - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells))).astype(np.float32)

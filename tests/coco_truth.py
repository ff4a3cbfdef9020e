"""COCO's forms of a mask, written without pycocotools; and masks drawn with numpy."""

from __future__ import annotations

import numpy as np

SIZE = (20, 30)


def box(x: int, y: int, right: int, low: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[y:low, x:right] = 1
    return mask


def polygon(x: int, y: int, right: int, low: int) -> list[float]:
    return [x, y, right, y, right, low, x, low]


def runs(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, starting with zeros."""
    lengths, value, count = [], 0, 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            lengths.append(count)
            value, count = pixel, 0
        count += 1
    return [*lengths, count]


def pack(counts: list[int]) -> str:
    """COCO's compressed form, written number by number."""
    text = ""
    for n, count in enumerate(counts):
        left = count - counts[n - 2] if n > 2 else count
        while True:
            low, left = left & 31, left >> 5
            more = left != (-1 if low & 16 else 0)
            text += chr(low + 32 * more + 48)
            if not more:
                break
    return text

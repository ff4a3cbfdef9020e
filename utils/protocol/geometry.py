"""Sizes of the two image views. All sizes are (height, width) in pixels."""

from __future__ import annotations

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) of a square view in pixels of the original image."""


def sam_input_size(size: tuple[int, int], longest_side: int = 1024) -> tuple[int, int]:
    """Size of the image inside the SAM view: longest side to `longest_side`.

    Args:
        size: (H, W) of the original image.
        longest_side: side of SAM's square frame.
    """
    height, width = size
    scale = longest_side / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def crop_padding(size: tuple[int, int], side: int) -> tuple[int, int]:
    """What CLIP's centre crop cut off on each side, in cells of a `side` x `side` grid.

    The image's shortest side becomes `side` cells; the longer one keeps the aspect ratio, and
    the crop keeps its middle. Works for the token grid and for the 336-pixel frame alike.

    Args:
        size: (H, W) of the original image.
        side: cells of the cropped square.

    Returns:
        (rows, columns) cut off at the top and at the left; as much again at the other end. It is
        -1 where the scaled shortest side rounds down to `side` - 1 (336 cells of 333 pixels, say):
        the original then loses a border row, and its points are reproduced exactly.
    """
    height, width = size
    scale = side / min(height, width)
    rows, columns = (int(height * scale) - side) // 2, (int(width * scale) - side) // 2
    # A grid of one or two cells has no border to lose.
    least = 0 if side <= 2 else -1
    return max(rows, least), max(columns, least)


def clip_box(size: tuple[int, int], side: int) -> Box:
    """What CLIP's centre crop shows of an image.

    Args:
        size: (H, W) of the original image.
        side: of the crop in pixels; the shortest side of the image becomes as long.
    """
    height, width = size
    shortest = min(size)
    rows, columns = side * height // shortest, side * width // shortest
    top, left = (rows - side) // 2, (columns - side) // 2
    return (
        left * width / columns,
        top * height / rows,
        (left + side) * width / columns,
        (top + side) * height / rows,
    )


def sam_box(size: tuple[int, int], inside: tuple[int, int], side: int) -> Box:
    """Where SAM's padded frame lies; it covers the image and, right or below, nothing.

    Args:
        size: (H, W) of the original image.
        inside: (h, w) of the image in the frame.
        side: of the frame in pixels.
    """
    return 0.0, 0.0, side * size[1] / inside[1], side * size[0] / inside[0]

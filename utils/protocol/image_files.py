"""Reading images. Nothing here needs torch, so that metrics of a finished run start at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from utils.errors import InputError

Read = Callable[[Path], np.ndarray]
"""File of an image -> uint8[H, W, 3]; `read_image`, or what stands in for it in a check."""

SIXTEEN_BITS = ("PNG", "PPM")
"""Formats whose grey images of 16 bits PIL may open with 32 bits a pixel (mode I)."""


def to_rgb(image: Image.Image) -> np.ndarray:
    """uint8[H, W, 3] RGB, turned upright as the camera's EXIF tag says (as OpenCV does).

    Grey images with more than 8 bits a pixel are scaled, where PIL alone would cut them off at 255:

    * 16 bits: the upper 8 of them, as OpenCV does, and PIL with colours of 16 bits.
    * 32 bits, integers or floats: from the image's smallest to its largest finite value, since
      such files do not say what is white.
    """
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS)
    # Either step copies the whole image, also where there is nothing to do.
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if sixteen:
        return _grey(np.asarray(image) >> 8)
    if image.mode in ("I", "F"):
        return _grey(_stretched(np.asarray(image)))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey(values: np.ndarray) -> np.ndarray:
    """[H, W] of 0 to 255 as uint8[H, W, 3]."""
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def _stretched(values: np.ndarray) -> np.ndarray:
    """[H, W] of any range, as float64[H, W] of 0 to 255; what is not finite is black."""
    finite = np.isfinite(values)
    known = values[finite].astype(np.float64)
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    scaled = np.zeros(values.shape)
    scaled[finite] = np.rint((known - low) * (255 / ((high - low) or 1)))
    return scaled


def read_image(source: str | Path | BinaryIO, name: str | None = None) -> np.ndarray:
    """Read an image as uint8[H, W, 3], RGB.

    Args:
        source: path or opened file.
        name: what messages call it; the path by default.

    Raises:
        InputError: the file is missing or cannot be decoded; the message names it.
    """
    name = name or str(source)
    try:
        with Image.open(source) as image:
            return to_rgb(image)
    except FileNotFoundError as error:
        raise InputError(f"no image at {name}: check the path") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"cannot read the image {name} ({error}): expected an intact JPEG, PNG or other file "
            "that PIL decodes; copy it again from its source"
        ) from error

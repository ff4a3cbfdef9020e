"""Reading pictures. Nothing here needs torch, so that metrics of a finished run start at once."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from utils.errors import InputError


def to_rgb(image: Image.Image) -> np.ndarray:
    """uint8[H, W, 3] RGB, turned upright as the camera's EXIF tag says (as OpenCV does)."""
    # Either step copies the whole picture, also where there is nothing to do.
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_image(source: str | Path | BinaryIO, name: str | None = None) -> np.ndarray:
    """Read a picture as uint8[H, W, 3], RGB.

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
        raise InputError(f"no picture at {name}: check the path") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"cannot read the picture {name} ({error}): expected an intact JPEG, PNG or other file "
            "that PIL decodes; copy it again from its source"
        ) from error

"""Images of any kind, and what the model wants to see of them."""

from __future__ import annotations

import io
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from utils.errors import InputError
from utils.protocol.image_files import read_image, to_rgb
from utils.protocol.image_transforms import ImageViews

URL_TIMEOUT_S = 30

ImageLike = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class ImageInputs:
    """An image as the model sees it.

    Args:
        size: (H, W) of the original.
        clip: uint8[3, C, C].
        sam: uint8[3, S, S], padded right and below.
        sam_size: (h, w) of the image inside it.
    """

    size: tuple[int, int]
    clip: torch.Tensor
    sam: torch.Tensor
    sam_size: tuple[int, int]


def load_views(image: ImageLike, views: ImageViews) -> ImageInputs:
    """Read an image and make its views.

    Raises:
        InputError: see `load_pixels`.
    """
    pixels = load_pixels(image)
    frame, inside = views.sam(pixels)
    return ImageInputs(pixels.shape[:2], views.clip(pixels), frame, inside)


def load_pixels(image: ImageLike) -> np.ndarray:
    """An image of any accepted kind as uint8[H, W, 3] RGB.

    Args:
        image: path, http(s) URL, PIL image, or uint8[H, W, 3] RGB.

    Raises:
        InputError: it cannot be read, or is an array of another shape or dtype.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InputError(
                f"the image is {image.dtype}{list(image.shape)}; expected uint8[H, W, 3], RGB"
            )
        return np.ascontiguousarray(image)
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        return _download(image)
    if isinstance(image, (str, Path)):
        return read_image(image)
    raise InputError(
        f"an image is given as {type(image).__name__}; expected a path, a URL, a PIL image or "
        "uint8[H, W, 3]"
    )


def _download(url: str) -> np.ndarray:
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_S) as response:
            content = response.read()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot fetch the image {url}: {error}") from error
    return read_image(io.BytesIO(content), name=url)

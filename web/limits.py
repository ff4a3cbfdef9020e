"""What visitors may send. What comes from a browser may be forged, so all of it is checked here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.inference.prompts import check_question
from model.sasp import SaspParams
from utils.errors import InputError
from utils.protocol.image_files import to_rgb

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
LONGEST_RATIO = 20
"""Of the sides of an image."""
LOGIT_BYTES = 4 << 30
"""For the masks of one answer, before they are reduced to a bit a pixel."""
FEWEST_TOKENS = 32
MOST_POINTS = 400
LARGEST = 1e9


@dataclass(frozen=True)
class Limits:
    """How much a visitor may send.

    Args:
        upload_bytes: of an image's file.
        pixels: of an image.
        question: characters.
        new_tokens: of an answer.
    """

    upload_bytes: int = 20 << 20
    pixels: int = 25_000_000
    question: int = 2000
    new_tokens: int = 512

    def tokens(self, size: tuple[int, int]) -> int:
        """Most tokens of an answer about an image of (H, W): each may become a mask."""
        masks = LOGIT_BYTES // (4 * size[0] * size[1])
        return min(self.new_tokens, max(FEWEST_TOKENS, masks))


def read_upload(path: str | Path, limits: Limits) -> np.ndarray:
    """A visitor's image as uint8[H, W, 3]; its size is known before it is decoded.

    Raises:
        InputError: no image, none of the formats, too large, too long, animated, or damaged.
    """
    try:
        if Path(path).stat().st_size > limits.upload_bytes:
            raise InputError(
                f"The file is larger than {limits.upload_bytes >> 20} MB. Please send a smaller "
                "one."
            )
        with Image.open(path, formats=FORMATS) as image:
            _check_size(*image.size, limits)
            if getattr(image, "is_animated", False):
                raise InputError("The image is an animation. Please send a single image.")
            return to_rgb(image)
    except Image.DecompressionBombError as error:
        raise InputError(_too_large("The image", limits)) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(
            "This file cannot be read as an image. Please send an intact "
            f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]} file."
        ) from error


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise InputError(_too_large(f"The image of {width} x {height} pixels", limits))
    if max(width, height) > LONGEST_RATIO * min(width, height):
        raise InputError(
            f"The image of {width} x {height} pixels is too narrow: one side may be at most "
            f"{LONGEST_RATIO} times the other. Please cut it."
        )


def _too_large(what: str, limits: Limits) -> str:
    most = limits.pixels / 1e6
    return f"{what} is too large. Please send one of at most {most:g} megapixels."


def read_question(question: Any, limits: Limits) -> str:
    """A visitor's question without white space around it.

    Raises:
        InputError: no text, too long, or a text that cannot be asked.
    """
    text = question.strip() if isinstance(question, str) else ""
    if not text:
        raise InputError("Please type a question about the image.")
    if len(text) > limits.question:
        raise InputError(
            f"The question has {len(text):,} characters. Please ask with at most "
            f"{limits.question:,}."
        )
    check_question(text)
    return text


def read_settings(settings: Mapping[str, Any], default: SaspParams) -> SaspParams:
    """SasP parameters as the controls of the page give them.

    Args:
        settings: field of `SaspParams` -> value; others keep their default.
        default: the model's own.

    Raises:
        InputError: a value of another kind, or out of its range.
    """
    kinds = {field.name: type(getattr(default, field.name)) for field in fields(SaspParams)}
    given: dict[str, Any] = {}
    for name, value in settings.items():
        kind = kinds[name]
        if kind is str:
            given[name] = str(value)
        else:
            number = read_number(value, name)
            given[name] = round(number) if kind is int else number
    params = replace(default, **given)
    if params.num_points > MOST_POINTS:
        raise InputError(f"num_points is {params.num_points}; it may be at most {MOST_POINTS}")
    return params


def read_number(value: Any, name: str) -> float:
    """A number of at most `LARGEST`.

    Raises:
        InputError: something else.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return float(value)
    raise InputError(f"{name} is no number that can be used here.")


def read_place(place: Any, size: tuple[int, int]) -> tuple[float, float]:
    """(x, y) of a click inside a shown image of (H, W).

    Raises:
        InputError: no place in it.
    """
    if not isinstance(place, (list, tuple)) or len(place) != 2:
        raise InputError("The click has no place.")
    x, y = (read_number(value, "The place of the click") for value in place)
    if not (0 <= x < size[1] and 0 <= y < size[0]):
        raise InputError("The click is outside the image.")
    return x, y


def read_layers(given: Any, count: int) -> list[int]:
    """A list of numbers of layers, from 0, in order.

    Raises:
        InputError: something else than numbers of the `count` layers there are.
    """
    numbers = given if isinstance(given, list) else [None]
    if not all(type(number) is int and 0 <= number < count for number in numbers):
        raise InputError("There is no such layer.")
    return sorted(set(numbers))

"""Images of answers: mask, contour, points, similarity map, truth. All are lossless PNG files.

Small images are enlarged before anything is drawn on them, so that lines and points stay crisp.
Arrays are uint8[H, W, 3] RGB; points are (x, y) in pixels of the original image.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.errors import InputError
from utils.files import writing
from utils.protocol.constants import IGNORE_LABEL
from utils.protocol.geometry import crop_padding

MASK_COLOUR = (0, 225, 255)
TRUTH_COLOUR = (255, 60, 220)
POSITIVE_COLOUR = (48, 209, 88)
NEGATIVE_COLOUR = (255, 45, 45)
IGNORED_COLOUR = (142, 142, 147)
DISPLAY_SIDE = 448
"""Shortest side in pixels that an image should have when it is shown."""


def display_scale(size: tuple[int, int], side: int = DISPLAY_SIDE) -> int:
    """Whole factor that enlarges an image of (H, W) to a shorter side of about `side`, or 1."""
    return max(1, round(side / min(size)))


def fit(array: np.ndarray, longest: int) -> np.ndarray:
    """Reduce an image uint8[H, W, 3] or a mask [H, W] to a longer side of at most `longest`."""
    height, width = array.shape[:2]
    if max(height, width) <= longest:
        return array
    factor = longest / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if array.ndim == 3:
        return cv2.resize(array, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(array.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(
        array.dtype
    )


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """uint8[H, W, 3] -> uint8[H*scale, W*scale, 3], smooth."""
    if scale == 1:
        return image.copy()
    height, width = image.shape[:2]
    return cv2.resize(image, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)


def _enlarge_mask(mask: np.ndarray, scale: int) -> np.ndarray:
    """bool[H, W] -> bool[H*scale, W*scale] with a smooth border."""
    if scale == 1:
        return mask.astype(bool)
    height, width = mask.shape
    soft = cv2.resize(
        mask.astype(np.float32), (width * scale, height * scale), interpolation=cv2.INTER_LINEAR
    )
    return soft > 0.5


def tint(pixels: np.ndarray, colour: tuple[int, int, int], levels: int = 256) -> np.ndarray:
    """A colour, darker where what lies below is: c * (3 + 2 Y) / 5 with its luminance Y in [0, 1].

    Hue and saturation are those of the colour whatever lies below. Mixing colours instead makes
    cyan over red grey.

    Args:
        pixels: uint8[N, 3] RGB.
        colour: RGB.
        levels: number of different luminances; few of them make small files.

    Returns:
        uint8[N, 3].
    """
    luminance = pixels @ np.array([0.299, 0.587, 0.114]) / 255
    luminance = np.round(luminance * (levels - 1)) / (levels - 1)
    return np.round((3 + 2 * luminance[:, None]) / 5 * np.array(colour)).astype(np.uint8)


def paint_mask(
    image: np.ndarray,
    mask: np.ndarray,
    colour: tuple[int, int, int] = MASK_COLOUR,
    scale: int = 1,
) -> np.ndarray:
    """Fill a mask with a colour (see `tint`) and draw its contour.

    Args:
        image: uint8[H*scale, W*scale, 3].
        mask: bool[H, W].
        colour: RGB.
        scale: how much `image` was enlarged.
    """
    painted = image.copy()
    region = _enlarge_mask(mask, scale)
    painted[region] = tint(painted[region], colour)
    outlines, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    width = max(2, round(min(image.shape[:2]) / 220))
    cv2.drawContours(painted, outlines, -1, (255, 255, 255), width + 2, cv2.LINE_AA)
    cv2.drawContours(painted, outlines, -1, colour, width, cv2.LINE_AA)
    return painted


def paint_points(
    image: np.ndarray, points: np.ndarray, labels: np.ndarray, scale: int = 1
) -> np.ndarray:
    """Draw positive points (1, green) and negative ones (0, red); neutral ones (-1) are not drawn.

    Args:
        image: uint8[H*scale, W*scale, 3].
        points: float[P, 2], (x, y) in the original image.
        labels: int[P].
        scale: how much `image` was enlarged.
    """
    painted = image.copy()
    radius = max(2, round(min(image.shape[:2]) / 90))
    fine = 4  # positions in sixteenths of a pixel
    for wanted, colour in ((0, NEGATIVE_COLOUR), (1, POSITIVE_COLOUR)):
        for x, y in np.asarray(points, np.float64)[np.asarray(labels) == wanted]:
            centre = [round(((value + 0.5) * scale - 0.5) * 2**fine) for value in (x, y)]
            for extra, ink in ((max(1, radius // 3), (255, 255, 255)), (0, colour)):
                size = (radius + extra) * 2**fine
                cv2.circle(painted, centre, size, ink, cv2.FILLED, cv2.LINE_AA, fine)
    return painted


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    points: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    scale: int | None = None,
) -> np.ndarray:
    """The image with a mask, its contour and its point prompts.

    Args:
        image: uint8[H, W, 3].
        mask: bool[H, W].
        points, labels: float[P, 2] and int[P]; see `paint_points`.
        scale: enlargement; default: `display_scale`.
    """
    scale = scale or display_scale(mask.shape)
    painted = paint_mask(enlarge(image, scale), mask, scale=scale)
    if points is not None and labels is not None:
        painted = paint_points(painted, points, labels, scale)
    return painted


def truth_image(image: np.ndarray, truth: np.ndarray, scale: int | None = None) -> np.ndarray:
    """The image with its true mask uint8[H, W]; pixels that do not count (255) are grey."""
    scale = scale or display_scale(truth.shape)
    painted = enlarge(image, scale)
    if (truth == IGNORE_LABEL).any():
        painted = paint_mask(painted, truth == IGNORE_LABEL, IGNORED_COLOUR, scale=scale)
    return paint_mask(painted, truth == 1, TRUTH_COLOUR, scale=scale)


def heat_map(image: np.ndarray, similarity: np.ndarray, scale: int | None = None) -> np.ndarray:
    """The similarity of every image token to `[SEG]`, laid over the part that CLIP sees.

    Args:
        image: uint8[H, W, 3].
        similarity: float[side, side]; its lowest value
            is drawn blue, its highest red.
        scale: enlargement; default: `display_scale`.

    Returns:
        uint8[H*scale, W*scale, 3]; what the centre crop cut off is dimmed grey.
    """
    height, width = image.shape[:2]
    scale = scale or display_scale((height, width))
    base = enlarge(image, scale)
    grey = cv2.cvtColor(base, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
    shortest = min(height, width)
    top, left = (cut * scale for cut in crop_padding((height, width), shortest))
    side = shortest * scale
    values = np.asarray(similarity, np.float32)
    spread = float(values.max() - values.min())
    values = (values - values.min()) / spread if spread > 0 else np.zeros_like(values)
    smooth = cv2.resize(values, (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colours = cv2.applyColorMap((smooth * 255).round().astype(np.uint8), cv2.COLORMAP_TURBO)
    colours = cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)
    painted = (grey * 0.5).astype(np.uint8)
    seen = (slice(top, top + side), slice(left, left + side))
    painted[seen] = (grey[seen] * 0.4 + colours * 0.6).round().astype(np.uint8)
    return painted


def answer_tiles(
    image: np.ndarray,
    segments: Sequence[Any],
    mask: np.ndarray,
    truth: np.ndarray | None = None,
    side: int = DISPLAY_SIDE,
) -> list[tuple[str, np.ndarray]]:
    """Images of an answer with captions, all of one size.

    Args:
        image: uint8[H, W, 3].
        segments: with `similarity`, `points` and `point_labels`, as `model.Segment`.
        mask: bool[H, W], the whole answer.
        truth: uint8[H, W] (0/1/255), if known.
        side: small images are enlarged to a shorter side of about this, large ones reduced.
    """
    small = fit(image, 2 * side)
    factor = small.shape[1] / image.shape[1]
    scale = display_scale(small.shape[:2], side)
    plain = enlarge(small, scale)
    tiles = [("image", plain)]
    for number, segment in enumerate(segments, start=1):
        which = f" {number}" if len(segments) > 1 else ""
        points = (np.asarray(segment.points) + 0.5) * factor - 0.5
        tiles.append((f"similarity{which}", heat_map(small, segment.similarity, scale)))
        tiles.append((f"points{which}", paint_points(plain, points, segment.point_labels, scale)))
    tiles.append(("mask", paint_mask(plain, fit(mask, 2 * side), scale=scale)))
    if truth is not None:
        tiles.append(("truth", truth_image(small, fit(truth, 2 * side), scale)))
    return tiles


def sheet(tiles: Sequence[tuple[str, np.ndarray]], lines: Sequence[str] = ()) -> np.ndarray:
    """Images side by side, each under its caption, below lines of text.

    Args:
        tiles: (caption, uint8[H, W, 3]) with equal heights.
        lines: text above, such as the question and the answer; long ones are wrapped.

    Returns:
        uint8[H', W', 3] on a white ground.
    """
    margin, height = 16, tiles[0][1].shape[0]
    text_font, caption_font = ImageFont.load_default(20), ImageFont.load_default(15)
    width = margin + sum(tile.shape[1] + margin for _, tile in tiles)
    wrapped = [piece for line in lines for piece in _wrap(line, text_font, width - 2 * margin)]
    above = margin + 28 * len(wrapped) + (8 if wrapped else 0)
    page = Image.new("RGB", (width, above + 24 + height + margin), "white")
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(wrapped):
        pen.text((margin, margin + 28 * number), line, "black", text_font)
    left = margin
    for caption, tile in tiles:
        pen.text((left, above), caption, (90, 90, 90), caption_font)
        page.paste(Image.fromarray(tile), (left, above + 24))
        left += tile.shape[1] + margin
    return np.asarray(page)


def _wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def mask_image(mask: np.ndarray) -> np.ndarray:
    """bool[H, W] -> uint8[H, W], 255 inside."""
    return mask.astype(np.uint8) * 255


def save_png(path: str | Path, image: np.ndarray) -> Path:
    """Write uint8[H, W] or uint8[H, W, 3] without loss.

    Raises:
        InputError: the name does not end in .png, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: images are saved as .png alone, other formats lose detail")
    with writing(path):
        Image.fromarray(image).save(path, format="PNG")
    return path


def encode_png(image: np.ndarray, level: int = 6) -> bytes:
    """uint8[H, W], [H, W, 3] RGB or [H, W, 4] RGBA as PNG; `level` 1 is fast, 9 small."""
    if image.ndim == 3:
        order = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
        image = cv2.cvtColor(image, order)
    return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes()


def embed_png(image: np.ndarray) -> str:
    """An image as text that stands in an HTML page in place of a file name."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

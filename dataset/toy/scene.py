"""The toy world's images: a textured ground with two to four partly overlapping shapes.

Made for tests and for the quick start: small enough for two CPU cores, yet with everything that
a segmentation by words needs (several kinds, colours, sizes, places, overlap). The rules that keep
it learnable: at most one thing in each quarter of the central square, no two things alike in both
colour and shape, and two clearly different sizes.

Coordinates are (x, y) in pixels of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (212, 42, 42),
    "orange": (242, 138, 28),
    "yellow": (240, 222, 50),
    "green": (48, 165, 68),
    "blue": (45, 85, 215),
    "purple": (142, 52, 172),
}
SHAPES = ("circle", "square", "triangle", "star")
SIZES: dict[str, tuple[float, float]] = {"small": (0.125, 0.15), "large": (0.215, 0.25)}
"""Outer radius as a share of the image's shorter side."""
PLACES: dict[str, tuple[int, int]] = {
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}

MIN_SIDE, MAX_SIDE = 128, 160
MIN_VISIBLE = 0.6
"""A thing keeps at least this share of its area, however many lie on top of it."""
_SUBPIXEL = 4
_AREA_FACTOR = {"circle": 1.0, "square": 1.15, "triangle": 1.2, "star": 1.25}
"""Stretches the outer radius, so that shapes of one size cover similar areas."""


@dataclass(frozen=True)
class Thing:
    """One shape: its names, and where and how it is drawn."""

    colour: str
    shape: str
    size: str
    place: str
    centre: tuple[float, float]
    radius: float
    angle: float
    rgb: tuple[int, int, int]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """An image and what is on it.

    Args:
        image: uint8[H, W, 3], RGB.
        things: n things, from the lowest to the topmost.
        masks: uint8[n, H, W], the visible part of each (0/1); they do not overlap.
    """

    image: np.ndarray
    things: tuple[Thing, ...]
    masks: np.ndarray


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: a function of the generator's state alone."""
    while True:
        height, width = (int(v) for v in rng.integers(MIN_SIDE, MAX_SIDE + 1, size=2))
        things = _sample_things(rng, height, width)
        masks = _visible_masks(things, height, width)
        if masks is not None:
            return Scene(_paint(rng, things, height, width), things, masks)


def _sample_things(rng: np.random.Generator, height: int, width: int) -> tuple[Thing, ...]:
    """Two to four things, no two with the same colour and shape or in the same quarter.

    A thing often shares its colour or its shape with an earlier one: otherwise a colour alone
    would tell which one is meant.
    """
    side = min(height, width)
    places = list(rng.permutation(list(PLACES)))[: int(rng.integers(2, 5))]
    sizes = list(SIZES) if rng.random() < 0.65 else [str(rng.choice(list(SIZES)))]
    things: list[Thing] = []
    for place in places:
        while True:
            colour = str(rng.choice(list(COLOURS)))
            shape = str(rng.choice(SHAPES))
            if things and rng.random() < 0.5:
                other = things[int(rng.integers(len(things)))]
                colour, shape = (
                    (other.colour, shape) if rng.random() < 0.5 else (colour, other.shape)
                )
            if all((colour, shape) != (t.colour, t.shape) for t in things):
                break
        size = str(rng.choice(sizes))
        radius = rng.uniform(*SIZES[size]) * side * _AREA_FACTOR[shape]
        sign_x, sign_y = PLACES[place]
        shift = rng.uniform(0.16, 0.27, size=2) * (0.5 * side + 0.5 * np.array([width, height]))
        x = width / 2 + sign_x * shift[0]
        y = height / 2 + sign_y * shift[1]
        rgb = np.clip(np.array(COLOURS[colour]) + rng.integers(-14, 15, size=3), 0, 255)
        things.append(
            Thing(
                colour,
                shape,
                size,
                str(place),
                (
                    float(np.clip(x, radius, width - radius)),
                    float(np.clip(y, radius, height - radius)),
                ),
                float(radius),
                float(rng.uniform(-0.3, 0.3)),
                (int(rgb[0]), int(rgb[1]), int(rgb[2])),
            )
        )
    return tuple(things)


def outline(thing: Thing) -> np.ndarray:
    """float64[P, 2]: the corners of a thing's outline, (x, y)."""
    if thing.shape == "star":
        radii = np.tile([1.0, 0.5], 5)
    else:
        radii = np.ones({"circle": 48, "square": 4, "triangle": 3}[thing.shape])
    start = -np.pi / 4 if thing.shape == "square" else -np.pi / 2
    angles = start + thing.angle + 2 * np.pi * np.arange(len(radii)) / len(radii)
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] * thing.radius
    return corners + np.array(thing.centre)


def _fixed_point(corners: np.ndarray) -> np.ndarray:
    return np.round(corners * (1 << _SUBPIXEL)).astype(np.int32)


def _visible_masks(things: tuple[Thing, ...], height: int, width: int) -> np.ndarray | None:
    """uint8[n, H, W], or None if a thing is covered too much, torn apart, or has a hole."""
    masks = np.zeros((len(things), height, width), np.uint8)
    for index, thing in enumerate(things):
        cv2.fillPoly(masks[index], [_fixed_point(outline(thing))], 1, shift=_SUBPIXEL)
    areas = masks.sum(axis=(1, 2))
    for index in range(len(things) - 1):
        masks[index][masks[index + 1 :].any(axis=0)] = 0
    if (masks.sum(axis=(1, 2)) < MIN_VISIBLE * areas).any():
        return None
    for mask in masks:
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        if len(contours) != 1:
            return None
    return masks


def _paint(
    rng: np.random.Generator, things: tuple[Thing, ...], height: int, width: int
) -> np.ndarray:
    """uint8[H, W, 3]: greyish cloudy ground with a stripe pattern, then the things in order."""
    tint = rng.uniform(60, 190) + rng.uniform(-14, 14, size=3)
    clouds = cv2.resize(
        rng.normal(0, 16, size=(7, 7)), (width, height), interpolation=cv2.INTER_CUBIC
    )
    y, x = np.mgrid[0:height, 0:width]
    direction, period = rng.uniform(0, np.pi), rng.uniform(7, 20)
    stripes = np.sin((np.cos(direction) * x + np.sin(direction) * y) * 2 * np.pi / period)
    image = tint + (clouds + rng.uniform(3, 11) * stripes)[..., None]
    grain = rng.normal(0, 5, size=(height, width, 1))
    for thing in things:
        cover = np.zeros((height, width), np.uint8)
        edge = np.zeros((height, width), np.uint8)
        corners = [_fixed_point(outline(thing))]
        cv2.fillPoly(cover, corners, 255, lineType=cv2.LINE_AA, shift=_SUBPIXEL)
        cv2.polylines(edge, corners, True, 255, lineType=cv2.LINE_AA, shift=_SUBPIXEL)
        slope = rng.uniform(-0.15, 0.15, size=2) / thing.radius
        left, top, wide, high = cv2.boundingRect(cover | edge)
        box = slice(top, top + high), slice(left, left + wide)
        light = 1 + slope[0] * (x[box] - thing.centre[0]) + slope[1] * (y[box] - thing.centre[1])
        alpha = cover[box][..., None] / 255.0
        part = image[box] * (1 - alpha) + np.array(thing.rgb) * light[..., None] * alpha
        image[box] = part * (1 - 0.35 * edge[box][..., None] / 255.0)
    return np.clip(image + grain, 0, 255).astype(np.uint8)

"""Toy annotations in COCO's format, with every form of segmentation that the real files hold.

Polygons run along the edges of pixels: filled as COCO fills them, they give the mask back exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from utils.protocol.rle import encode_mask, run_lengths

FORMS = (
    "polygon", "halves", "polygon", "crowd", "polygon", "compressed", "polygon", "halves",
)  # fmt: skip
"""Forms of segmentation, taken in turn."""


def polygons_along_edges(mask: np.ndarray) -> list[list[int]]:
    """Outlines of uint8[H, W] without holes, as [x, y, x, y, ...] in corners of pixels.

    Pixel (x, y) is the square from (x, y) to (x + 1, y + 1). Pixels that meet only at a corner lie
    in different polygons.
    """
    inside = np.pad(mask, 1).astype(bool)
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    core = inside[1:-1, 1:-1]
    # Each side of a pixel whose neighbour is outside, walked with the inside to the right.
    for neighbour, start, step in (
        (inside[:-2, 1:-1], (0, 0), (1, 0)),
        (inside[1:-1, 2:], (1, 0), (0, 1)),
        (inside[2:, 1:-1], (1, 1), (-1, 0)),
        (inside[1:-1, :-2], (0, 1), (0, -1)),
    ):
        for y, x in np.argwhere(core & ~neighbour).tolist():
            steps.setdefault((x + start[0], y + start[1]), []).append(step)
    outlines = []
    while steps:
        start = min(steps)
        outlines.append(_walk(steps, start))
    return outlines


def _walk(steps: dict[tuple[int, int], list[tuple[int, int]]], start: tuple[int, int]) -> list[int]:
    """Follow the steps from a corner back to it; the corners where the direction changes."""
    outline: list[int] = []
    place, before = start, (0, 0)
    while place in steps:
        choices = steps[place]
        right = (-before[1], before[0])
        step = right if right in choices else choices[0]
        choices.remove(step)
        if not choices:
            del steps[place]
        if step != before:
            outline += place
        place, before = (place[0] + step[0], place[1] + step[1]), step
        if place == start:
            break
    return outline


def segmentation_of(mask: np.ndarray, form: str) -> Any:
    """The mask as a `segmentation` in one of `FORMS`."""
    if form == "crowd":
        return {"size": list(mask.shape), "counts": run_lengths(encode_mask(mask)["counts"])}
    if form == "compressed":
        return encode_mask(mask)
    if form == "halves":
        middle = int(np.flatnonzero(mask.any(axis=0)).mean())
        left, right = mask.copy(), mask.copy()
        left[:, middle:], right[:, :middle] = 0, 0
        return polygons_along_edges(left) + polygons_along_edges(right)
    return polygons_along_edges(mask)


def box_of(mask: np.ndarray) -> list[int]:
    """[x, y, width, height] of what is set, zeros if nothing is."""
    return [int(v) for v in coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask)))]


@dataclass
class CocoFile:
    """A COCO annotation file that grows image by image.

    Args:
        categories: (supercategory, name) pairs; ids count from 1.
    """

    categories: Iterable[tuple[str, str]]
    images: list[dict] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.categories = list(self.categories)
        self.ids = {name: number for number, (_, name) in enumerate(self.categories, start=1)}

    def add_image(self, image_id: int, file_name: str, size: tuple[int, int]) -> None:
        """An image of (H, W) pixels."""
        height, width = size
        self.images.append(
            {"id": image_id, "file_name": file_name, "height": height, "width": width, "license": 1}
        )

    def add(self, image_id: int, category: str, mask: np.ndarray, form: str | None = None) -> int:
        """Annotate uint8[H, W] as a category; returns the annotation's id.

        Args:
            form: of the segmentation, or "empty", or "list" (a list with one RLE, as in refclef);
                by default the next one of `FORMS`.
        """
        number = len(self.annotations)
        form = form or FORMS[number % len(FORMS)]
        if form == "empty":
            segmentation: Any = []
        elif form == "list":
            segmentation = [encode_mask(mask)]
        else:
            segmentation = segmentation_of(mask, form)
        self.annotations.append(
            {
                "id": 1001 + 3 * number,
                "image_id": image_id,
                "category_id": self.ids[category],
                "segmentation": segmentation,
                "area": int(mask.sum()),
                "bbox": box_of(mask),
                "iscrowd": int(form == "crowd"),
            }
        )
        return self.annotations[-1]["id"]

    def content(self) -> dict[str, Any]:
        """What is written."""
        return {
            "info": {"description": "toy world"},
            "licenses": [{"id": 1, "name": "none"}],
            "images": self.images,
            "annotations": self.annotations,
            "categories": [
                {"id": number, "supercategory": group, "name": name}
                for number, (group, name) in enumerate(self.categories, start=1)
            ],
        }

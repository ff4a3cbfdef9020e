"""Toy annotations of things and their parts, as PACO-LVIS and PASCAL-Part keep them.

A part is the half of a thing's visible mask on one side of its centre.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset.toy.coco import CocoFile
from dataset.toy.files import draw_scenes, save_image, save_json
from dataset.toy.scene import COLOURS, SHAPES, Scene, Thing

PACO_FILE = Path("annotations") / "paco_lvis_v1_train.json"
PASCAL_FILE = Path("train.json")
PACO_PARTS = ("top", "bottom")
PASCAL_PARTS = ("left", "right")
_LEAST_PIXELS = 20
_EMPTY_EVERY, _EMPTY_AT = 20, 3


def part_of(thing: Thing, mask: np.ndarray, part: str) -> np.ndarray:
    """uint8[H, W]: the pixels of a thing's mask on one side of its centre."""
    x, y = round(thing.centre[0]), round(thing.centre[1])
    kept = {
        "top": (slice(None, y), slice(None)),
        "bottom": (slice(y, None), slice(None)),
        "left": (slice(None), slice(None, x)),
        "right": (slice(None), slice(x, None)),
    }[part]
    half = np.zeros_like(mask)
    half[kept] = mask[kept]
    return half


def paco_name(colour: str, shape: str, part: str = "") -> str:
    """Spelled as there: underscores, some names with a remark in brackets, "object:part"."""
    remark = "_(toy)" if shape == "star" else ""
    return f"{colour}_{shape}{remark}" + (f":{part}" if part else "")


def paco_file() -> CocoFile:
    """Colour and shape name a thing; top and bottom are its parts."""
    things = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    objects = [("OBJECT", paco_name(*thing)) for thing in things]
    parts = [("PART", paco_name(*thing, part)) for thing in things for part in PACO_PARTS]
    return CocoFile([*objects, *parts])


def add_paco_image(file: CocoFile, image_id: int, file_name: str, index: int, scene: Scene) -> None:
    """Every thing with its parts; now and then a part without pixels in the file."""
    file.add_image(image_id, file_name, scene.masks.shape[1:])
    for number, (thing, mask) in enumerate(zip(scene.things, scene.masks, strict=True)):
        whole = file.add(image_id, paco_name(thing.colour, thing.shape), mask)
        file.annotations[-1]["obj_ann_id"] = whole
        for part in PACO_PARTS:
            half = part_of(thing, mask, part)
            if half.sum() < _LEAST_PIXELS:
                continue
            empty = part == "bottom" and number == 0 and index % _EMPTY_EVERY == _EMPTY_AT
            form = "empty" if empty else None
            file.add(image_id, paco_name(thing.colour, thing.shape, part), half, form)
            file.annotations[-1]["obj_ann_id"] = whole


def write_pascal_part(root: Path, count: int, seed: int, stream: int, bar: tqdm) -> None:
    """`train.json` and `VOCdevkit/VOC2010/JPEGImages`; left and right of a shape are its parts.

    Two things of one shape in an image are two annotations of one category.
    """
    file = CocoFile((shape, f"{shape}:{part}") for shape in SHAPES for part in PASCAL_PARTS)
    for index, _, scene in draw_scenes(seed, stream, count):
        image_id, name = index + 1, f"2008_{index + 1:06d}.jpg"
        save_image(scene.image, root / "VOCdevkit" / "VOC2010" / "JPEGImages" / name)
        file.add_image(image_id, name, scene.masks.shape[1:])
        for thing, mask in zip(scene.things, scene.masks, strict=True):
            for part in PASCAL_PARTS:
                half = part_of(thing, mask, part)
                if half.sum() >= _LEAST_PIXELS:
                    file.add(image_id, f"{thing.shape}:{part}", half)
        bar.update()
    save_json(file.content(), root / PASCAL_FILE)

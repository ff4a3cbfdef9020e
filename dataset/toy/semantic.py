"""Toy images with label maps, as ADE20K, COCO-Stuff and Mapillary Vistas 2.0 keep them.

The first two have fixed class names: a circle is a ball there, a square a box or a book, a triangle
a tent, a star a flower. Mapillary's names come from its own file and are the toy world's.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dataset.toy.files import draw_scenes, save_image, save_json, save_labels
from dataset.toy.scene import COLOURS, SHAPES, Scene

ADE20K_VALUES = {"circle": 120, "square": 42, "triangle": 115, "star": 67}
"""Pixel values (index + 1) of ball, box, tent and flower."""
ADE20K_WALL = 1
COCOSTUFF_VALUES = {"circle": 36, "square": 83, "triangle": 165, "star": 118}
"""Pixel values (index) of sports ball, book, tent and flower."""
COCOSTUFF_GROUND = (125, 172, 255)
"""ground-other, wall-other, unlabelled: none of them is used in training."""
IGNORED = 255
MAPILLARY_NAMES = [
    "Ground",
    *(f"{c.capitalize()} {s.capitalize()}" for c in COLOURS for s in SHAPES),
    "Unlabeled",
]
"""`readable` of the classes; the position is the pixel value."""
_GROUPS = {"Ground": "nature--", "Unlabeled": "void--"}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def write_ade20k(root: Path, count: int, seed: int, stream: int, bar: tqdm) -> None:
    """`{images,annotations}/training/ADE_train_NUMBER.{jpg,png}`; 0 is unlabelled."""
    for index, _, scene in draw_scenes(seed, stream, count):
        ground = ADE20K_WALL if index % 3 == 2 else 0
        labels = _paint_labels(scene, [ADE20K_VALUES[t.shape] for t in scene.things], ground)
        name = f"ADE_train_{index + 1:08d}"
        save_image(scene.image, root / "images" / "training" / f"{name}.jpg")
        save_labels(labels, root / "annotations" / "training" / f"{name}.png")
        bar.update()


def cocostuff_labels(scene: Scene, index: int) -> np.ndarray:
    """uint8[H, W]: class indices, and 255 along the outer edge of the things."""
    ground = COCOSTUFF_GROUND[index % len(COCOSTUFF_GROUND)]
    labels = _paint_labels(scene, [COCOSTUFF_VALUES[t.shape] for t in scene.things], ground)
    things = scene.masks.max(axis=0)
    edge = (cv2.dilate(things, np.ones((3, 3), np.uint8)) > 0) & (things == 0)
    labels[edge] = IGNORED
    return labels


def write_mapillary(root: Path, count: int, seed: int, stream: int, bar: tqdm) -> None:
    """`config_v2.0.json`, `training/images/*.jpg`, `training/v2.0/labels/*.png` with a palette."""
    colours = [(128, 128, 128)]
    colours += [
        (int(r * f), int(g * f), int(b * f))
        for r, g, b in COLOURS.values()
        for f in (1.0, 0.85, 0.7, 0.55)
    ]
    colours.append((0, 0, 0))
    entries = [
        {
            "color": list(colour),
            "name": _GROUPS.get(readable, "object--") + readable.lower().replace(" ", "-"),
            "readable": readable,
            "instances": readable not in _GROUPS,
            "evaluate": readable != "Unlabeled",
        }
        for readable, colour in zip(MAPILLARY_NAMES, colours, strict=True)
    ]
    save_json(
        {"version": "2.0", "folder_name": "v2.0", "labels": entries}, root / "config_v2.0.json"
    )
    palette = bytes(value for colour in colours for value in colour)
    for index, rng, scene in draw_scenes(seed, stream, count):
        values = [
            MAPILLARY_NAMES.index(f"{t.colour.capitalize()} {t.shape.capitalize()}")
            for t in scene.things
        ]
        name = "".join(_LETTERS[i] for i in rng.integers(len(_LETTERS), size=22))
        ground = "Ground" if index % 3 == 2 else "Unlabeled"
        labels = _paint_labels(scene, values, MAPILLARY_NAMES.index(ground))
        save_image(scene.image, root / "training" / "images" / f"{name}.jpg")
        save_labels(labels, root / "training" / "v2.0" / "labels" / f"{name}.png", palette)
        bar.update()


def _paint_labels(scene: Scene, values: list[int], ground: int) -> np.ndarray:
    labels = np.full(scene.masks.shape[1:], ground, np.uint8)
    for mask, value in zip(scene.masks, values, strict=True):
        labels[mask > 0] = value
    return labels

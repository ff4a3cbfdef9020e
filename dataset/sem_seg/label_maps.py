"""Label maps: ADE20K, COCO-Stuff and Mapillary Vistas v2, and what every source of classes offers.

On disk, below the data folder:

    ade20k/images/training/*.jpg        ade20k/annotations/training/*.png
    coco/train2017/*.jpg                cocostuff/train2017/*.png
    mapillary/training/images/*.jpg     mapillary/training/v2.0/labels/*.png, config_v2.0.json

An image and its label map have the same name; one without the other is never drawn.
"""

from __future__ import annotations

import functools
import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image

from dataset.catalog import SETS
from dataset.json_files import damaged, is_sayable, read_json
from utils.errors import InputError
from utils.protocol.constants import IGNORE_LABEL
from utils.protocol.image_files import Read, read_image

CLASSES_FILE = Path(__file__).parents[1] / "assets" / "classes.json"
"""The classes of ADE20K and COCO-Stuff, in the order of their numbers."""

NOT_ASKED = frozenset({"unlabeled"})
"""Classes of Mapillary that stand for no object."""

ClassName = str | tuple[str, str]
"""A class ("dog") or a part (object, part) as in ("dog", "tail")."""

_VALUES = 256
_LABEL_MODES = ("L", "P")
_BROKEN_IMAGE = (
    *(OSError, EOFError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError),
    *(struct.error, Image.DecompressionBombError),
)
_CONFIG_FORM = "Mapillary's JSON with labels[{readable, ...}]"


@dataclass(frozen=True)
class LabelledImage:
    """One image and what is annotated in it. Classes are positions in the source's `classes`.

    Args:
        path: of the image.
        image: uint8[H, W, 3], RGB.
        present: the class of each annotation; in a label map, each class is one annotation.
        absent: classes that can be called absent, ascending. A class that is not annotated but
            may well be there is in neither.
        mask: position in `present` -> uint8[H, W] of 0/1, drawn when called; may be all 0 where
            an annotation holds no pixel. Raises InputError if the annotation is broken.
    """

    path: str
    image: np.ndarray
    present: list[int]
    absent: list[int]
    mask: Callable[[int], np.ndarray]


class ClassSource(Protocol):
    """Images whose classes are annotated."""

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> Sequence[ClassName]: ...

    def __len__(self) -> int: ...

    def load(self, number: int) -> LabelledImage: ...


def load_classes(name: str) -> list[str]:
    """Class names of "ade20k" (150) or "cocostuff" (182), in the order of their numbers."""
    return json.loads(CLASSES_FILE.read_text(encoding="utf-8"))[name]


class LabelMaps:
    """Images with a label map each: one class number a pixel.

    Args:
        name: of the set, for messages.
        images: folder of *.jpg.
        labels: folder of *.png, 8 bits, grey or with a palette (the index counts).
        meaning: pixel value -> class name, or None for a value that is ignored. Any other value
            in a label map is an error. Values of one name are one class.
        unclear: ignored pixel value -> class that cannot be called absent where the value is.

    Raises:
        InputError: a folder is missing, or there is not one image with a label map.
    """

    def __init__(
        self,
        name: str,
        images: Path,
        labels: Path,
        meaning: Mapping[int, str | None],
        unclear: Mapping[int, str] | None = None,
    ):
        self.name = name
        self.images, self.labels = images, labels
        self.classes: list[str] = list(dict.fromkeys(filter(None, meaning.values())))
        place = {class_name: number for number, class_name in enumerate(self.classes)}
        self._known = frozenset(meaning)
        self._class_of = {value: place[kept] for value, kept in meaning.items() if kept is not None}
        self._unclear = {value: place[other] for value, other in (unclear or {}).items()}
        self.names = paired_names(images, labels, SETS[name].how_to_get)

    def __len__(self) -> int:
        return len(self.names)

    def paths(self, number: int) -> tuple[Path, Path]:
        """The image and the label map."""
        name = os.fsdecode(bytes(self.names[number]))
        return self.images / f"{name}.jpg", self.labels / f"{name}.png"

    def load(self, number: int, read: Read = read_image) -> LabelledImage:
        """Decode an image and its label map.

        Raises:
            InputError: a file is broken, or the label map does not fit its image or its
                class list; the message names the file.
        """
        image_path, label_path = self.paths(number)
        image = read(image_path)
        labels = read_label_map(label_path, image.shape[:2])
        histogram = cv2.calcHist([labels], [0], None, [_VALUES], [0, _VALUES])
        values = np.flatnonzero(histogram).tolist()
        foreign = sorted(set(values) - self._known)
        if foreign:
            raise InputError(
                f"the label map {label_path} holds the value {foreign[0]}, which is no class of "
                f"{self.name} ({min(self._class_of)} to {max(self._class_of)} are): copy it again "
                "from its source"
            )
        present: dict[int, list[int]] = {}
        for value in values:
            if value in self._class_of:
                present.setdefault(self._class_of[value], []).append(value)
        untold = {self._unclear[value] for value in values if value in self._unclear}
        not_absent = present.keys() | untold
        classes = sorted(present)
        return LabelledImage(
            str(image_path),
            image,
            classes,
            [number for number in range(len(self.classes)) if number not in not_absent],
            functools.partial(_mask_of, labels, [present[number] for number in classes]),
        )


def ade20k(dataset_dir: str | Path) -> LabelMaps:
    """ADE20K: value 0 is ignored, value n + 1 is class n of 150.

    Raises:
        InputError: the data are missing.
    """
    root = Path(dataset_dir) / "ade20k"
    meaning: dict[int, str | None] = {0: None}
    meaning.update(enumerate(load_classes("ade20k"), start=1))
    return LabelMaps("ade20k", root / "images/training", root / "annotations/training", meaning)


def cocostuff(dataset_dir: str | Path) -> LabelMaps:
    """COCO-Stuff: the value is the class of 182, 255 is ignored.

    Classes with "-" in their name ("desk-stuff") are never asked; where one of them is, the class
    before the "-" ("desk") is not called absent either.

    Raises:
        InputError: the data are missing.
    """
    root, names = Path(dataset_dir), load_classes("cocostuff")
    meaning = {n: None if "-" in name else name for n, name in enumerate(names)}
    unclear = {n: stem for n, name in enumerate(names) if (stem := name.split("-")[0]) != name}
    return LabelMaps(
        "cocostuff",
        root / "coco/train2017",
        root / "cocostuff/train2017",
        {**meaning, IGNORE_LABEL: None},
        {n: stem for n, stem in unclear.items() if stem in names},
    )


def mapillary(dataset_dir: str | Path) -> LabelMaps:
    """Mapillary Vistas v2: the value is the position in `config_v2.0.json`.

    Class names are the entries' `readable` in lower case; those of `NOT_ASKED` are left out.

    Raises:
        InputError: the data are missing, or the configuration is damaged.
    """
    root = Path(dataset_dir) / "mapillary"
    config = root / "config_v2.0.json"
    content = read_json(config, _CONFIG_FORM, SETS["mapillary"].how_to_get)
    entries = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not 0 < len(entries) <= _VALUES:
        raise damaged(config, "`labels` is no list of at most 256 entries", _CONFIG_FORM)
    names = [entry.get("readable") if isinstance(entry, dict) else None for entry in entries]
    nameless = [str(value) for value, name in enumerate(names) if not is_sayable(name)]
    if nameless:
        reason = f"entry {', '.join(nameless)} has no name in `readable` that can be asked for"
        raise damaged(config, reason, _CONFIG_FORM)
    names = [str(name).strip().lower() for name in names]
    meaning = {value: None if name in NOT_ASKED else name for value, name in enumerate(names)}
    training = root / "training"
    return LabelMaps("mapillary", training / "images", training / "v2.0/labels", meaning)


def paired_names(images: Path, labels: Path, how_to_get: str) -> np.ndarray:
    """Names, without suffix, of the *.jpg of a folder that have a *.png in the other.

    Returns:
        bytes[n], sorted: an array of byte strings, which many workers share at no cost.

    Raises:
        InputError: a folder cannot be read, or there is no pair.
    """
    found = _names(images, b".jpg", how_to_get) & _names(labels, b".png", how_to_get)
    if not found:
        raise InputError(
            f"no image NAME.jpg in {images} has a label map NAME.png in {labels}; {how_to_get}"
        )
    return np.array(sorted(found))


def _names(folder: Path, suffix: bytes, how_to_get: str) -> set[bytes]:
    try:
        with os.scandir(os.fsencode(folder)) as entries:
            return {e.name[: -len(suffix)] for e in entries if e.name.endswith(suffix)} - {b""}
    except OSError as error:
        raise InputError(f"cannot list the folder {folder} ({error}); {how_to_get}") from error


def read_label_map(path: str | Path, size: tuple[int, int]) -> np.ndarray:
    """Read a label map.

    Args:
        path: a PNG, 8 bits a pixel, grey or with a palette.
        size: (H, W) of its image.

    Returns:
        uint8[H, W].

    Raises:
        InputError: missing or damaged file, another size or kind of image; the message names it.
    """
    try:
        with Image.open(path) as label_map:
            if label_map.mode not in _LABEL_MODES:
                raise InputError(
                    f"the label map {path} is an image of mode {label_map.mode!r}: expected one "
                    "number of 8 bits a pixel, grey or with a palette"
                )
            if label_map.size != (size[1], size[0]):
                raise InputError(
                    f"the label map {path} is {label_map.size[0]} x {label_map.size[1]} pixels, "
                    f"its image {size[1]} x {size[0]}: copy both again from one source"
                )
            return np.array(label_map)
    except FileNotFoundError as error:
        raise InputError(f"no label map at {path}: check the path") from error
    except _BROKEN_IMAGE as error:
        raise InputError(
            f"cannot read the label map {path} ({type(error).__name__}: {error}): expected an "
            "intact PNG; copy it again from its source"
        ) from error


def _mask_of(labels: np.ndarray, values: Sequence[Sequence[int]], position: int) -> np.ndarray:
    """uint8[H, W]: where the label map holds one of the values of the class at a position."""
    mask = np.zeros(labels.shape, dtype=bool)
    for value in values[position]:
        mask |= labels == value
    return mask.view(np.uint8)

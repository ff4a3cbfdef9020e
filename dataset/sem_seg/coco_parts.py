"""Objects and their parts in COCO's form: PACO-LVIS and PASCAL-Part.

On disk, below the data folder:

    vlpart/paco/annotations/paco_lvis_v1_train.json    coco/train2017/*.jpg
    vlpart/pascal_part/train.json                      vlpart/pascal_part/VOCdevkit/VOC2010/
                                                       JPEGImages/*.jpg

Category names are "object" or "object:part"; what follows "_(" in either half only tells meanings
of a word apart and is cut. Categories of one name are one class.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dataset.annotation_index import AnnotationIndex
from dataset.catalog import SETS
from dataset.faults import ORPHAN, FaultCounter
from dataset.json_files import damaged, is_sayable, is_text, read_lists
from dataset.masks import decode_segmentation
from dataset.sem_seg.label_maps import ClassName, LabelledImage
from utils.errors import InputError
from utils.protocol.image_files import Read, read_image

_KIND = "parts"
_LISTS = ("images", "categories", "annotations")
_CLASSES, _IMAGES = "classes", "images"
_FORM = (
    "COCO's JSON with images[{id, file_name, height, width}], categories[{id, name}], "
    "annotations[{image_id, category_id, segmentation}]"
)


class CocoParts:
    """Images with the masks of objects and parts, read from an index of the annotation file.

    Args:
        name: of the set, for messages.
        annotations: the JSON file.
        images: `file_name` is looked for in the first folder as it is, then its last part in
            the second.
        faults: takes what is wrong with entries, see `FaultCounter`.

    Raises:
        InputError: the annotations are missing or damaged, or no image has any.
    """

    def __init__(
        self,
        name: str,
        annotations: Path,
        images: tuple[Path, Path],
        faults: FaultCounter | None = None,
    ):
        self.name, self.annotations, self.images = name, annotations, images
        how_to_get = SETS[name].how_to_get
        if not annotations.is_file():
            raise InputError(f"no annotations at {annotations}; {how_to_get}")
        faults = faults or FaultCounter()
        build = functools.partial(_records, annotations, how_to_get, faults)
        self.store = AnnotationIndex.open([annotations], _KIND, build, faults.scratch)
        self._length = self.store.groups().get(_IMAGES, 0)
        if not self._length:
            raise damaged(annotations, "no image has an annotation", _FORM)
        about = self.store.get(_CLASSES, 0)
        self.classes: list[ClassName] = [
            name if isinstance(name, str) else (name[0], name[1]) for name in about["names"]
        ]
        self.images_in_file: int = about["images"]

    def __len__(self) -> int:
        return self._length

    def record(self, number: int) -> dict:
        """{file_name, size: [H, W], annotations: [[class, id, segmentation], ...]} of an image."""
        return self.store.get(_IMAGES, number)

    def path(self, file_name: str) -> str:
        """Where the image of an entry is; in the second folder if it is in neither."""
        places = (
            os.path.join(self.images[0], file_name),
            os.path.join(self.images[1], os.path.basename(file_name)),
        )
        return next(filter(os.path.isfile, places), places[1])

    def load(self, number: int, read: Read = read_image) -> LabelledImage:
        """Decode an image; its masks are drawn when asked for.

        Raises:
            InputError: the image is missing, broken or of another size than annotated; the
                message names the file.
        """
        record = self.record(number)
        path = self.path(record["file_name"])
        if not os.path.isfile(path):
            raise InputError(
                f"no image at {path}, but {self.annotations} names {record['file_name']!r}: "
                f"{SETS[self.name].how_to_get}"
            )
        image = read(Path(path))
        height, width = image.shape[:2]
        if [height, width] != record["size"]:
            raise InputError(
                f"{path} is {width} x {height} pixels, but {self.annotations} says "
                f"{record['size'][1]} x {record['size'][0]}: copy both again from one source"
            )
        present = [entry[0] for entry in record["annotations"]]
        parted = {self.classes[n][0] for n in present if isinstance(self.classes[n], tuple)}
        return LabelledImage(
            path,
            image,
            present,
            # An object whose part is there is there itself, annotated or not.
            [
                number
                for number, name in enumerate(self.classes)
                if number not in present and name not in parted
            ],
            functools.partial(_mask_of, self.annotations, record),
        )


def paco_lvis(dataset_dir: str | Path, faults: FaultCounter | None = None) -> CocoParts:
    """PACO-LVIS: objects and parts; images of COCO's train2017.

    Raises:
        InputError: see `CocoParts`.
    """
    root = Path(dataset_dir)
    annotations = root / "vlpart/paco/annotations/paco_lvis_v1_train.json"
    images = (root / "coco", root / "coco/train2017")
    return CocoParts("paco_lvis", annotations, images, faults)


def pascal_part(dataset_dir: str | Path, faults: FaultCounter | None = None) -> CocoParts:
    """PASCAL-Part: parts; images of PASCAL VOC 2010.

    Raises:
        InputError: see `CocoParts`.
    """
    root = Path(dataset_dir) / "vlpart/pascal_part"
    images = root / "VOCdevkit/VOC2010/JPEGImages"
    return CocoParts("pascal_part", root / "train.json", (images, images), faults)


def _mask_of(annotations: Path, record: dict, position: int) -> np.ndarray:
    """The mask of one annotation of an image, uint8[H, W]."""
    height, width = record["size"]
    _, annotation_id, segmentation = record["annotations"][position]
    try:
        return decode_segmentation(segmentation, (height, width))
    except ValueError as error:
        where = f"annotation {annotation_id!r} of {record['file_name']}: {error}"
        raise damaged(annotations, where, _FORM) from error


def _records(path: Path, how_to_get: str, faults: FaultCounter) -> Iterator[tuple[str, dict]]:
    """What the index holds: the class names, and every image that has annotations.

    Segmentations wait as the bytes of their JSON: as objects those of a big file take gigabytes.
    """
    classes: dict[ClassName, int] = {}
    class_of: dict[Any, int | None] = {}
    images: dict[Any, dict | None] = {}  # None, here and above: broken, which is recorded already
    annotations: dict[Any, list[tuple[Any, Any, bytes]]] = {}

    def add(key: str, number: int, entry: dict) -> None:
        if key == "categories":
            class_of[entry["id"]] = None
            class_of[entry["id"]] = classes.setdefault(class_name(entry["name"]), len(classes))
        elif key == "images":
            if entry["id"] in images:
                raise ValueError("two images have one id")
            images[entry["id"]] = None
            images[entry["id"]] = _image(entry)
        else:
            segmentation = json.dumps(entry["segmentation"]).encode()
            hash(entry["category_id"])  # raises for a list, which can be no id
            parts = annotations.setdefault(entry["image_id"], [])
            parts.append((entry.get("id"), entry["category_id"], segmentation))

    for key, number, entry in read_lists(path, _LISTS, _FORM, how_to_get):
        try:
            add(key, number, entry)
        except KeyError as error:
            faults.record(damaged(path, f"{key}[{number}]: has no `{error.args[0]}`", _FORM))
        except (TypeError, ValueError, AttributeError) as error:
            faults.record(damaged(path, f"{key}[{number}]: {error}", _FORM))
    for image_id, held in annotations.items():
        for identity, category_id, _ in held:
            if category_id not in class_of:
                problem = f"its category is not in the file (category_id {category_id!r})"
                faults.record(damaged(path, f"annotation {identity}: {problem}", _FORM))
            if image_id not in images:
                problem = f"its image is not in the file's `images` (image_id {image_id!r})"
                faults.record(damaged(path, f"annotation {identity}: {problem}", _FORM), ORPHAN)
    faults.close()
    yield _CLASSES, {"names": list(classes), "images": len(images)}
    for image_id, image in images.items():
        entries = [
            [class_of[category_id], identity, json.loads(segmentation)]
            for identity, category_id, segmentation in annotations.pop(image_id, [])
            if class_of.get(category_id) is not None
        ]
        if image is not None and entries:
            yield _IMAGES, {**image, "annotations": entries}


def _image(image: dict) -> dict:
    size = [image["height"], image["width"]]
    if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size):
        raise ValueError(f"image {image['id']!r} has the size {size}")
    if not is_text(image["file_name"]):
        raise ValueError(f"image {image['id']!r} has no file_name")
    return {"file_name": image["file_name"], "size": size}


def class_name(category: str) -> ClassName:
    """A category's name as a class: "dog", or ("dog", "tail") of "dog_(animal):tail".

    Raises:
        ValueError: a half is empty or holds a special token, or there are more than two.
    """
    halves = [half.split("_(")[0].strip() for half in category.split(":")]
    if not all(is_sayable(half) for half in halves) or len(halves) > 2:
        raise ValueError(f"the category {category!r} is neither 'object' nor 'object:part'")
    return halves[0] if len(halves) == 1 else (halves[0], halves[1])

"""Checks of the sources of classes: label maps, and COCO files of objects and parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from dataset.doctor import decode
from dataset.doctor.decode import Jobs
from dataset.doctor.exam import DatasetCheck, FaultCounter
from dataset.doctor.report import COPY_AGAIN, Level, samples
from dataset.json_stream import JsonLists
from dataset.sem_seg.label_maps import load_classes
from utils.protocol.constants import IGNORE_LABEL

_IMAGE = ("id", "file_name", "height", "width")
_CATEGORY = ("id", "name")
_ANNOTATION = ("id", "image_id", "segmentation")
"""What entries of a COCO file need."""
_COCO_EXPECTS = "COCO's images, annotations and categories"


def ade20k(exam: DatasetCheck) -> None:
    """150 classes from 1, 0 is ignored."""
    root = exam.root / "ade20k"
    values = range(len(load_classes("ade20k")) + 1)
    label_maps(exam, root / "images/training", root / "annotations/training", values)


def cocostuff(exam: DatasetCheck) -> None:
    """182 classes from 0, 255 is ignored; the images are shared with other sets."""
    values = [*range(len(load_classes("cocostuff"))), IGNORE_LABEL]
    images, labels = exam.root / "coco/train2017", exam.root / "cocostuff/train2017"
    label_maps(exam, images, labels, values, shared=True)


def mapillary(exam: DatasetCheck) -> None:
    """As many classes as the configuration lists."""
    root = exam.root / "mapillary"
    path = root / "config_v2.0.json"
    content = exam.json(path, "Mapillary's class list: labels[{readable, ...}]")
    values: Collection[int] = range(IGNORE_LABEL + 1)
    if content is not None:
        values = range(_mapillary_classes(exam, path, content)) or values
    label_maps(exam, root / "training/images", root / "training/v2.0/labels", values)


def _mapillary_classes(exam: DatasetCheck, path: Path, content: Any) -> int:
    entries = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not 0 < len(entries) <= IGNORE_LABEL + 1:
        exam.add("broken", path, "holds no list `labels` of at most 256 classes")
        return 0
    tally = FaultCounter(exam, path)
    for number, entry in enumerate(entries):
        readable = entry.get("readable") if isinstance(entry, dict) else None
        if not isinstance(readable, str) or not readable.strip():
            tally.note("the class has no name in `readable`", f"entry {number} of labels")
    tally.close()
    return len(entries)


def label_maps(
    exam: DatasetCheck,
    image_folder: Path,
    labels: Path,
    values: Collection[int],
    shared: bool = False,
) -> None:
    """Images NAME.jpg with label maps NAME.png.

    Args:
        values: pixel values that have a meaning.
        shared: other sets use the folder of images too; those without a label map are no fault.
    """
    images, maps = exam.names(image_folder, ".jpg"), exam.names(labels, ".png")
    exam.report.images, exam.report.annotations = len(images), len(maps)
    if not images or not maps:
        for folder, found, suffix in ((image_folder, images, ".jpg"), (labels, maps, ".png")):
            if not found and exam.shelf.files(folder):
                exam.add("missing", folder, f"the folder holds no *{suffix}")
        return
    bare = sorted(images.keys() - maps.keys())
    if shared and bare:
        problem = f"{len(bare)} images have no label map in {labels}, such as {bare[0]}.jpg"
        exam.add("unused", image_folder, problem, "nothing to do if other sets use them")
    elif not shared:
        exam.there(((labels / f"{name}.png", "its image is there") for name in bare), "label map")
    for name in sorted(maps.keys() - images.keys()):
        problem = f"the label map has no image of its name in {image_folder}"
        exam.add("orphan", labels / f"{name}.png", problem, "add the image or remove the file")
    both = sorted(images.keys() & maps.keys())
    if exam.level == Level.QUICK:
        both = samples(both)
    known = tuple(values)
    good = set(exam.there((image_folder / f"{name}.jpg", "") for name in both))
    jobs = []
    for path in exam.there(((labels / f"{name}.png", "") for name in both), "label map"):
        image = image_folder / f"{path.stem}.jpg"
        if image in good:
            jobs.append((str(image), str(path), known))
    exam.decode(decode.label_map, jobs, "label maps", few=True)


def paco_lvis(exam: DatasetCheck) -> None:
    """Objects and parts on COCO images."""
    path = exam.root / "vlpart/paco/annotations/paco_lvis_v1_train.json"
    coco_parts(exam, path, [exam.root / "coco", exam.root / "coco/train2017"])


def pascal_part(exam: DatasetCheck) -> None:
    """Objects and parts on PASCAL VOC 2010."""
    root = exam.root / "vlpart/pascal_part"
    coco_parts(exam, root / "train.json", [root / "VOCdevkit/VOC2010/JPEGImages"])


def coco_parts(exam: DatasetCheck, path: Path, folders: list[Path]) -> None:
    """A COCO file whose categories are named "object" or "object:part".

    Args:
        path: of the file.
        folders: of the images; in all but the first an image lies under its bare name.
    """
    table = CocoTable(exam, path, ("images", "annotations", "categories"))
    if not table.is_read:
        return
    exam.report.images, exam.report.annotations = len(table.images), table.usable
    if not table.usable:
        exam.add("broken", path, "holds no annotation that can be used", COPY_AGAIN)
    good = {}
    for name, size in table.images.values():
        good[_first(exam, [folders[0] / name, *(f / Path(name).name for f in folders[1:])])] = size
    kept = exam.there((image, f"{path.name} names it") for image in good)
    exam.decode_images({image: good[image] for image in kept})
    exam.decode(decode.mask, table.masks(), "masks")


def _first(exam: DatasetCheck, paths: list[Path]) -> Path:
    """The first that exists; else the last."""
    return next((path for path in paths if exam.shelf.size(path) is not None), paths[-1])


class CocoTable:
    """A COCO file, read entry by entry; what is wrong with entries goes into one tally.

    Only images and categories stay in memory, and what is asked for of the annotations.

    Args:
        exam: takes the findings.
        path: of the file.
        keys: lists that have to be in it; with `categories` among them an annotation needs its
            category, which is named "object" or "object:part".
        keep: ids of annotations of which it is noted whose image they are about.
    """

    def __init__(
        self, exam: DatasetCheck, path: Path, keys: tuple[str, ...], keep: Collection[Any] = ()
    ):
        self.exam, self.path = exam, path
        self.images: dict[Any, tuple[str, tuple[int, int]]] = {}
        """id -> (file name, (H, W))."""
        self.kept: dict[Any, Any] = {}
        """id of an annotation of `keep` -> id of its image."""
        self._tally = FaultCounter(exam, path, COPY_AGAIN)
        self._classed = "categories" in keys
        self._keep, self._classes = keep, set[Any]()
        self._count = dict.fromkeys(keys, 0)
        self._good = 0
        # The lists may come in any order: what was not there yet is looked up in the end.
        self._unplaced: list[tuple[Any, Any]] = []
        self._unclassed: list[tuple[Any, Any]] = []
        found = exam.json_lists(path, _COCO_EXPECTS, self._take)
        self.is_read = found is not None
        """Whether the file could be read to its end."""
        self.is_complete = found is not None and set(keys) <= found
        """Whether all of its lists are there, too."""
        if found is not None:
            self._close(found)

    @property
    def usable(self) -> int:
        """Number of annotations with all they need."""
        return self._good

    def masks(self, ids: Collection[Any] | None = None) -> Jobs:
        """Jobs for `decode.mask`, read from the file again: all annotations, or those of `ids`."""

        def made() -> Iterator[tuple[str, str, Any, tuple[int, int]]]:
            for key, entry in JsonLists(self.path):
                if key == "annotations" and not self._lacking(key, entry):
                    known = entry["image_id"] in self.images
                    if known and (ids is None or entry["id"] in ids):
                        size = self.images[entry["image_id"]][1]
                        yield str(self.path), self._called(entry), entry["segmentation"], size

        return Jobs(self._good if ids is None else len(ids), made)

    def _lacking(self, key: str, entry: Any) -> str:
        """What an entry lacks; its ids are numbers or text."""
        needs = {"images": _IMAGE, "categories": _CATEGORY, "annotations": _ANNOTATION}[key]
        needs = (*needs, "category_id") if key == "annotations" and self._classed else needs
        lacking = [name for name in needs if not isinstance(entry, dict) or name not in entry]
        if lacking:
            return f"has no `{'`, `'.join(lacking)}`"
        ids = [entry[name] for name in needs if name.endswith("id")]
        return "" if all(isinstance(one, int | str) for one in ids) else "an id is no number"

    def _take(self, key: str, entry: Any) -> None:
        if key not in self._count:
            return
        number, self._count[key] = self._count[key], self._count[key] + 1
        if problem := self._lacking(key, entry):
            named = isinstance(entry, dict) and isinstance(entry.get("id"), int | str)
            who = self._called(entry) if named else f"entry {number} of {key}"
            self._tally.note(problem, who)
        elif key == "images":
            self._take_image(entry)
        elif key == "categories":
            self._take_category(entry)
        else:
            self._take_annotation(entry)

    def _take_image(self, entry: dict) -> None:
        size = entry["height"], entry["width"]
        if isinstance(entry["file_name"], str) and all(
            isinstance(length, int) and 0 < length < 1 << 16 for length in size
        ):
            self.images[entry["id"]] = (entry["file_name"], size)
        else:
            problem = "file name, height or width is no such thing"
            self._tally.note(problem, self._called(entry))

    def _take_category(self, entry: dict) -> None:
        self._classes.add(entry["id"])
        halves = entry["name"].split(":") if isinstance(entry["name"], str) else []
        if not 0 < len(halves) < 3 or not all(half.strip() for half in halves):
            self._tally.note('the name is not "object" or "object:part"', self._called(entry))

    def _take_annotation(self, entry: dict) -> None:
        if self._classed and entry["category_id"] not in self._classes:
            self._unclassed.append((entry["id"], entry["category_id"]))
        self._good += 1
        if entry["image_id"] not in self.images:
            self._unplaced.append((entry["id"], entry["image_id"]))
        if entry["id"] in self._keep:
            self.kept[entry["id"]] = entry["image_id"]

    @staticmethod
    def _called(entry: dict) -> str:
        """How messages name an entry."""
        if "segmentation" in entry or "image_id" in entry:
            return f"annotation {entry['id']}"
        noun = "image" if "file_name" in entry else "entry"
        return f"{noun} {entry['id']}" + (f" ({entry['name']!r})" if "name" in entry else "")

    def _close(self, found: set[str]) -> None:
        """Write the findings."""
        for key in self._count:
            if key not in found:
                problem = f"holds no list `{key}`"
                self.exam.add("broken", self.path, problem, f"expected {_COCO_EXPECTS}")
        for who, category in self._unclassed if "categories" in found else ():
            if category not in self._classes:
                self._tally.note("its category is not in the file", f"annotation {who}")
        orphans = FaultCounter(self.exam, self.path, COPY_AGAIN, kind="orphan")
        for who, image in self._unplaced:
            if image not in self.images:
                self._good -= 1
                if "images" in found:
                    orphans.note("its image is not in the file's `images`", f"annotation {who}")
        self._tally.close()
        orphans.close()

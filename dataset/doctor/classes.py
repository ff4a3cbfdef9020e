"""Checks of the sources of classes: label maps, and COCO files of objects and parts."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from dataset.doctor import decode
from dataset.doctor.exam import Examination, Tally
from dataset.doctor.report import COPY_AGAIN, Level, samples
from dataset.sem_seg_sources import load_classes
from utils.constants import IGNORE_LABEL

_COCO_EXPECTS = "COCO's images, annotations and categories"


def ade20k(exam: Examination) -> None:
    """150 classes from 1, 0 is ignored."""
    root = exam.root / "ade20k"
    values = range(len(load_classes("ade20k")) + 1)
    label_maps(exam, root / "images/training", root / "annotations/training", values)


def cocostuff(exam: Examination) -> None:
    """182 classes from 0, 255 is ignored; the pictures are shared with other sets."""
    values = [*range(len(load_classes("cocostuff"))), IGNORE_LABEL]
    pictures, labels = exam.root / "coco/train2017", exam.root / "cocostuff/train2017"
    label_maps(exam, pictures, labels, values, shared=True)


def mapillary(exam: Examination) -> None:
    """As many classes as the configuration lists."""
    root = exam.root / "mapillary"
    path = root / "config_v2.0.json"
    content = exam.json(path, "Mapillary's class list: labels[{readable, ...}]")
    values: Collection[int] = range(IGNORE_LABEL + 1)
    if content is not None:
        values = range(_mapillary_classes(exam, path, content)) or values
    label_maps(exam, root / "training/images", root / "training/v2.0/labels", values)


def _mapillary_classes(exam: Examination, path: Path, content: Any) -> int:
    entries = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not 0 < len(entries) <= IGNORE_LABEL + 1:
        exam.add("broken", path, "holds no list `labels` of at most 256 classes")
        return 0
    tally = Tally(exam, path)
    for number, entry in enumerate(entries):
        readable = entry.get("readable") if isinstance(entry, dict) else None
        if not isinstance(readable, str) or not readable.strip():
            tally.note("the class has no name in `readable`", f"entry {number} of labels")
    tally.close()
    return len(entries)


def label_maps(
    exam: Examination, pictures: Path, labels: Path, values: Collection[int], shared: bool = False
) -> None:
    """Pictures NAME.jpg with label maps NAME.png.

    Args:
        values: pixel values that have a meaning.
        shared: other sets use the folder of pictures too; those without a label map are no fault.
    """
    images, maps = exam.names(pictures, ".jpg"), exam.names(labels, ".png")
    exam.report.pictures, exam.report.annotations = len(images), len(maps)
    if not images or not maps:
        for folder, found, suffix in ((pictures, images, ".jpg"), (labels, maps, ".png")):
            if not found and exam.shelf.files(folder):
                exam.add("missing", folder, f"the folder holds no *{suffix}")
        return
    bare = sorted(images.keys() - maps.keys())
    if shared and bare:
        problem = f"{len(bare)} pictures have no label map in {labels}, such as {bare[0]}.jpg"
        exam.add("unused", pictures, problem, "nothing to do if other sets use them")
    elif not shared:
        exam.there(((labels / f"{name}.png", "its picture is there") for name in bare), "label map")
    for name in sorted(maps.keys() - images.keys()):
        problem = f"the label map has no picture of its name in {pictures}"
        exam.add("orphan", labels / f"{name}.png", problem, "add the picture or remove the file")
    both = sorted(images.keys() & maps.keys())
    if exam.level == Level.QUICK:
        both = samples(both)
    known = tuple(values)
    good = set(exam.there((pictures / f"{name}.jpg", "") for name in both))
    jobs = []
    for path in exam.there(((labels / f"{name}.png", "") for name in both), "label map"):
        picture = pictures / f"{path.stem}.jpg"
        if picture in good:
            jobs.append((str(picture), str(path), known))
    exam.decode(decode.label_map, jobs, "label maps", few=True)


def paco_lvis(exam: Examination) -> None:
    """Objects and parts on COCO pictures."""
    path = exam.root / "vlpart/paco/annotations/paco_lvis_v1_train.json"
    coco_parts(exam, path, [exam.root / "coco", exam.root / "coco/train2017"])


def pascal_part(exam: Examination) -> None:
    """Objects and parts on PASCAL VOC 2010."""
    root = exam.root / "vlpart/pascal_part"
    coco_parts(exam, root / "train.json", [root / "VOCdevkit/VOC2010/JPEGImages"])


def coco_parts(exam: Examination, path: Path, folders: list[Path]) -> None:
    """A COCO file whose categories are named "object" or "object:part".

    Args:
        path: of the file.
        folders: of the pictures; in all but the first a picture lies under its bare name.
    """
    content = exam.json(path, _COCO_EXPECTS)
    if content is None:
        return
    table = CocoTable(exam, path, content, ("images", "annotations", "categories"))
    names = {}
    for entry in table.entries("categories", ("id", "name")):
        names[entry["id"]] = entry["name"]
        halves = entry["name"].split(":") if isinstance(entry["name"], str) else []
        if not 0 < len(halves) < 3 or not all(half.strip() for half in halves):
            table.tally.note('the name is not "object" or "object:part"', table.called(entry))
    images = table.images()
    jobs = []
    needs = ("id", "image_id", "category_id", "segmentation")
    for entry in table.entries("annotations", needs):
        if entry["category_id"] not in names and table.complete("categories"):
            table.tally.note("its category is not in the file", table.called(entry))
        if size := table.size_of(entry, images):
            jobs.append((str(path), table.called(entry), entry["segmentation"], size))
    table.close()
    exam.report.pictures, exam.report.annotations = len(images), len(jobs)
    if not jobs:
        exam.add("broken", path, "holds no annotation that can be used", COPY_AGAIN)
    good = {}
    for name, size in images.values():
        good[_first(exam, [folders[0] / name, *(f / Path(name).name for f in folders[1:])])] = size
    kept = exam.there((picture, f"{path.name} names it") for picture in good)
    exam.decode_pictures({picture: good[picture] for picture in kept})
    exam.decode(decode.mask, jobs, "masks")


def _first(exam: Examination, paths: list[Path]) -> Path:
    """The first that exists; else the last."""
    return next((path for path in paths if exam.shelf.size(path) is not None), paths[-1])


class CocoTable:
    """A COCO file, entry by entry; what is wrong with entries goes into one tally.

    Args:
        exam: takes the findings.
        path: of the file.
        content: of the file.
        keys: lists that have to be in it.
    """

    def __init__(self, exam: Examination, path: Path, content: Any, keys: tuple[str, ...]):
        self.exam, self.path = exam, path
        self.tally = Tally(exam, path, COPY_AGAIN)
        self._orphans = Tally(exam, path, COPY_AGAIN, kind="orphan")
        self._lists: dict[str, list] = {}
        for key in keys:
            found = content.get(key) if isinstance(content, dict) else None
            if isinstance(found, list):
                self._lists[key] = found
            else:
                exam.add("broken", path, f"holds no list `{key}`", f"expected {_COCO_EXPECTS}")

    def complete(self, key: str) -> bool:
        """Whether the list is there."""
        return key in self._lists

    def entries(self, key: str, needs: tuple[str, ...]) -> list[dict]:
        """Entries of a list that have what they need; ids are numbers or text."""
        good = []
        for number, entry in enumerate(self._lists.get(key, [])):
            lacking = [n for n in needs if not isinstance(entry, dict) or n not in entry]
            if lacking:
                who = self.called(entry) if "id" not in lacking else f"entry {number} of {key}"
                self.tally.note(f"has no `{'`, `'.join(lacking)}`", who)
            elif all(isinstance(entry[n], int | str) for n in needs if n.endswith("id")):
                good.append(entry)
            else:
                self.tally.note("an id is no number", f"entry {number} of {key}")
        return good

    def images(self) -> dict[Any, tuple[str, tuple[int, int]]]:
        """id -> (file name, (H, W))."""
        found = {}
        for entry in self.entries("images", ("id", "file_name", "height", "width")):
            size = entry["height"], entry["width"]
            if not isinstance(entry["file_name"], str) or not all(
                isinstance(length, int) and 0 < length < 1 << 16 for length in size
            ):
                self.tally.note("file name, height or width is no such thing", self.called(entry))
            else:
                found[entry["id"]] = (entry["file_name"], size)
        return found

    def size_of(self, annotation: dict, images: dict) -> tuple[int, int] | None:
        """(H, W) of an annotation's picture; noted if there is none."""
        if annotation["image_id"] in images:
            return images[annotation["image_id"]][1]
        if self.complete("images"):
            problem = "its picture is not in the file's `images`"
            self._orphans.note(problem, self.called(annotation))
        return None

    @staticmethod
    def called(entry: dict) -> str:
        """How messages name an entry."""
        if "segmentation" in entry or "image_id" in entry:
            return f"annotation {entry['id']}"
        noun = "picture" if "file_name" in entry else "entry"
        return f"{noun} {entry['id']}" + (f" ({entry['name']!r})" if "name" in entry else "")

    def close(self) -> None:
        """Write the findings."""
        self.tally.close()
        self._orphans.close()

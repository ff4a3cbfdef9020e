"""Each family of data sets as training opens it, and what only a comparison of files shows.

The loaders tell what is wrong with files and annotations. Beyond them a check looks for images
that nothing annotates, annotations that no image has, and counts.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dataset.catalog import COCO_TRAIN2017, OWN_FOLDER, SETS, reference_files
from dataset.doctor.dataset_check import DatasetCheck
from dataset.doctor.report import Level, samples
from dataset.own.formats import Split, open_split, split_names
from dataset.reason_seg import load_annotation
from dataset.refer.sets import ReferSet
from dataset.sampling import SamplingOptions
from dataset.sem_seg.coco_parts import CocoParts, paco_lvis, pascal_part
from dataset.sem_seg.label_maps import LabelMaps, ade20k, cocostuff, mapillary
from dataset.vqa import VqaTrain
from utils.protocol.image_files import Read

Masks = Sequence[Callable[[], Any]]

LABEL_MAPS = {"ade20k": ade20k, "cocostuff": cocostuff, "mapillary": mapillary}
PARTS = {"paco_lvis": paco_lvis, "pascal_part": pascal_part}
_SHARED = ("cocostuff",)
"""Sets whose folder of images others use too: those without a label map are no fault."""


def label_maps(check: DatasetCheck, name: str) -> None:
    """Images NAME.jpg with label maps NAME.png.

    Args:
        name: one of `LABEL_MAPS`.
    """
    images = check.root / SETS[name].image_folder
    (labels,) = (path for folder in SETS[name].folders if (path := check.root / folder) != images)
    stems, maps = check.names(images, ".jpg"), check.names(labels, ".png")
    check.report.images, check.report.annotations = len(stems), len(maps)
    bare = sorted(stems - maps)
    if maps and name in _SHARED and bare:
        problem = f"{len(bare)} images have no label map in {labels}, such as {bare[0]}.jpg"
        check.add("unused", images, problem, "nothing to do if other sets use them")
    elif maps:
        for stem in bare:
            check.is_there(labels / f"{stem}.png", "label map", "its image is there")
    for stem in sorted(maps - stems) if stems else ():
        problem = f"the label map has no image of its name in {images}"
        check.add("orphan", labels / f"{stem}.png", problem, "add the image or remove the file")
    with check.opening("broken" if stems and maps else "missing"):
        source = LABEL_MAPS[name](check.root)
        pairs = range(len(source))
        sound = [
            position
            for position in (samples(list(pairs)) if check.level == Level.QUICK else pairs)
            if all(map(check.is_there, source.paths(position), ("image", "label map")))
        ]
        check.load(partial(_label_map, source), sound, source.paths, "label maps")
    check.close(*(check.root / file for file in SETS[name].files))


def _label_map(source: LabelMaps, position: int, read: Read) -> Masks:
    source.load(position, read)
    return ()


def coco_parts(check: DatasetCheck, name: str) -> None:
    """A COCO file whose categories are named "object" or "object:part".

    Args:
        name: one of `PARTS`.
    """
    table = check.root / SETS[name].files[0]
    if check.readable(table):
        with check.opening():
            source = PARTS[name](check.root, check.faults)
            check.report.images, check.report.annotations = source.images_in_file, 0
            images = []
            for position in range(len(source)):
                record = source.record(position)
                check.report.annotations += len(record["annotations"])
                images.append(Path(source.path(record["file_name"])))
            _load_images(check, partial(_parts, source), images, table)
    check.close(table)


def _parts(source: CocoParts, position: int, read: Read) -> Masks:
    image = source.load(position, read)
    return [partial(image.mask, number) for number in range(len(image.present))]


def _load_images(check: DatasetCheck, work: Any, images: Sequence[Path], table: Path) -> None:
    """Look for the images that an annotation file names, then load them.

    Args:
        work: loads an image with its masks.
        images: by position.
        table: the annotation file.
    """
    why = f"{table.name} names it"
    sound = [n for n, image in enumerate(images) if check.is_there(image, "image", why)]
    check.load(work, sound, lambda position: (images[position], table), "images and masks")


def refer_seg(
    check: DatasetCheck, name: str, splits: tuple[str, ...], split_by: str | None
) -> None:
    """A folder with instances.json and refs(SPLIT_BY).p.

    Args:
        name: of the set.
        splits: that have to hold references.
        split_by: which refs file; None: the preferred one that is there.
    """
    folder = check.root / SETS[name].root
    files = [entry for entry in reference_files(check.root, name) if split_by in (None, entry[0])]
    present = [path for _, refs, as_json in files for path in (as_json, refs) if path.is_file()]
    if split_by is not None and not present:
        path = folder / f"refs({split_by}).p"
        check.add("missing", path, "the file does not exist; expected references")
    if not present:
        return
    refs, instances = present[0], folder / "instances.json"
    if split_by is None and refs not in files[0]:
        problem = f"stands in for {files[0][1].name}, which is missing"
        remedy = f"validation images may be in the training split; {check.how_to_get}"
        check.add("substitute", refs, problem, remedy)
    if check.readable(refs, instances):
        with check.opening(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the second choice is a finding already
            source = ReferSet(check.root, name, split_by, check.faults.scratch)
            about = source.index.about()
            check.report.images, check.report.annotations = about["images"], about["refs"]
            check.report.splits = about["splits"]
            for split in splits:
                with check.faults.noting("missing"):
                    source.need_split(split)
            _references(check, source, instances)
    check.close(refs, instances)


def _references(check: DatasetCheck, source: ReferSet, instances: Path) -> None:
    """References that fit their annotations, then their images and masks."""
    places: list[tuple[str, int]] = []
    images: list[Path] = []
    for split, count in source.index.splits.items():
        for position in range(count):
            record = source.index.image(split, position)
            for problem in source.problems(record):
                check.faults.record(problem, "orphan")
            if "problem" not in record:
                places.append((split, position))
                images.append(source.images / record["file_name"])
    _load_images(check, partial(_referred, source, places), images, instances)


def _referred(
    source: ReferSet, places: Sequence[tuple[str, int]], position: int, read: Read
) -> Masks:
    record = source.index.image(*places[position])
    source.image(record, read)
    about_something = [
        ref
        for ref in record["refs"]
        if "problem" not in ref and not all(absent for _, absent, _ in ref["sentences"])
    ]
    return [partial(source.mask, record, ref) for ref in about_something]


def conversations(check: DatasetCheck, name: str) -> None:
    """A list of conversations about images of COCO.

    Args:
        name: of the file in llava_dataset/, without ".json".
    """
    table = check.root / "llava_dataset" / f"{name}.json"
    if check.report.facts is None:
        check.report.found = table.is_file()
        if not check.report.found:
            check.add("missing", table, "the file does not exist", "correct --vqa_data")
    if check.readable(table):
        with check.opening():
            source = VqaTrain(check.root, name, SamplingOptions(), check.faults)
            images: dict[Path, None] = {}
            check.report.annotations = 0
            for entry in source.entries(0):
                check.report.annotations += 1
                images[check.root / COCO_TRAIN2017 / entry["image"]] = None
                with check.faults.noting():
                    source.turns(0, entry)
            check.report.images = len(images)
            paths = list(images)
            _load_images(check, partial(_image, paths), paths, table)
    check.close(table)


def _image(paths: Sequence[Path], position: int, read: Read) -> Masks:
    read(paths[position])
    return ()


def reason_seg(check: DatasetCheck, split: str) -> None:
    """Images NAME.jpg with NAME.json beside them."""
    folder = check.root / SETS["ReasonSeg"].root / split
    images, tables = check.names(folder, ".jpg"), check.names(folder, ".json")
    check.report.images, check.report.annotations = len(images), len(tables)
    if not images and os.listdir(folder):
        check.add("missing", folder, "the folder holds no *.jpg")
    for name in sorted(tables - images):
        remedy = "add the image or remove the file"
        check.add("orphan", folder / f"{name}.json", "the annotation has no image", remedy)
    pairs = []
    for name in sorted(images):
        pair = folder / f"{name}.jpg", folder / f"{name}.json"
        whole = check.is_there(pair[0]), check.is_there(pair[1], "annotation", "its image is there")
        pairs += [pair] if all(whole) else []
    check.load(partial(_pair, pairs), range(len(pairs)), pairs.__getitem__, "annotations", True)


def _pair(pairs: Sequence[tuple[Path, Path]], position: int, read: Read) -> Masks:
    image, annotation = pairs[position]
    load_annotation(annotation, read(image).shape[:2])
    return ()


def own(check: DatasetCheck, name: str, wanted: tuple[str, ...]) -> None:
    """All splits of a set, and all mistakes in them; a quick check opens the wanted ones only.

    Args:
        name: its folder below own/.
        wanted: splits that have to be there.
    """
    folder = check.root / OWN_FOLDER / name
    check.report.found, check.report.unit = folder.is_dir(), "images with questions"
    if not check.report.found:
        remedy = "make the folder (docs/own_data.md shows its forms) or correct the name"
        check.add("missing", folder, "the folder does not exist", remedy)
        return
    others = [] if wanted and check.level == Level.QUICK else split_names(folder)
    check.report.images = 0
    for split in dict.fromkeys((*wanted, *others)):
        check.report.splits[split] = 0
        with check.opening():
            source = open_split(folder, split, check.faults)
            check.report.splits[split] = len(source)
            check.report.images += len(source)
            positions = range(len(source))
            check.load(partial(_own, source), positions, lambda _: (folder,), split, True)
    check.close(folder)
    if not check.report.splits:
        check.add("missing", folder, "holds no split", "docs/own_data.md shows the forms")


def _own(source: Split, position: int, read: Read) -> Masks:
    return [question.mask for question in source.load(position, read).present]

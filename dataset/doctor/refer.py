"""Checks of referring sets: references, the annotations they name, images and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataset.catalog import SETS, reference_files
from dataset.doctor import decode
from dataset.doctor.classes import CocoTable
from dataset.doctor.exam import QUICK_BYTES, DatasetCheck, FaultCounter
from dataset.doctor.report import COPY_AGAIN, Level, explain
from dataset.refer.refs_file import load_refs
from utils.errors import InputError

_PICKLE_END = b"."


def refer_seg(exam: DatasetCheck, name: str, splits: tuple[str, ...], split_by: str | None) -> None:
    """A folder with instances.json and refs(SPLIT_BY).p.

    Args:
        name: of the set.
        splits: that have to hold references.
        split_by: which refs file; None: the preferred one that is there.
    """
    instances = exam.root / SETS[name].root / "instances.json"
    references = _references(exam, name, split_by)
    named: set[Any] = set()
    if references is not None:
        _splits(exam, references[0], references[1], splits)
        named.update(one for entry in references[1] for one in _objects(entry))
    table = CocoTable(exam, instances, ("images", "annotations"), named)
    if not table.is_read:
        return
    exam.report.images = len(table.images)
    if references is None or not table.is_complete:
        return
    image_ids, used = _follow(exam, *references, table)
    folder = exam.root / SETS[name].image_folder
    sizes = {folder / table.images[number][0]: table.images[number][1] for number in image_ids}
    good = exam.there((path, f"{references[0].name} names it") for path in sizes)
    exam.decode_images({path: sizes[path] for path in good})
    exam.decode(decode.mask, table.masks(used), "masks")


def _references(exam: DatasetCheck, name: str, split_by: str | None) -> tuple[Path, list] | None:
    """(file, references) of the preferred file that exists; None if there is nothing to read."""
    candidates = reference_files(exam.root, name)
    if split_by is not None:
        candidates = [entry for entry in candidates if entry[0] == split_by]
        if not any(path.is_file() for entry in candidates for path in entry[1:]):
            path = exam.root / SETS[name].root / f"refs({split_by}).p"
            exam.add("missing", path, "the file does not exist; expected references")
    for number, (_, pickle, table) in enumerate(candidates):
        there = [path for path in (table, pickle) if path.is_file()]
        if not there:
            continue
        path = there[0]
        if number:
            problem = f"stands in for refs({candidates[0][0]}).p, which is missing"
            remedy = f"validation images may be in the training split; {exam.how_to_get}"
            exam.add("substitute", path, problem, remedy)
        return _read(exam, path)
    return None


def _read(exam: DatasetCheck, path: Path) -> tuple[Path, list] | None:
    size = path.stat().st_size
    if exam.level == Level.QUICK and size > QUICK_BYTES:
        with path.open("rb") as file:
            file.seek(size - 1)
            if path.suffix == ".p" and file.read() != _PICKLE_END:
                exam.add("broken", path, "the pickle ends in the middle", COPY_AGAIN)
        return None
    try:
        return path, load_refs(path)
    except InputError as error:
        exam.add("broken", path, *explain(error, [path]))
        return None


def _splits(exam: DatasetCheck, path: Path, references: list, splits: tuple[str, ...]) -> None:
    exam.report.annotations = len(references)
    there: dict[str, int] = {}
    for entry in references:
        there[entry["split"]] = there.get(entry["split"], 0) + 1
    exam.report.splits = there
    for split in splits:
        if not there.get(split):
            has = ", ".join(f"{name} {count}" for name, count in there.items()) or "nothing"
            exam.add("missing", path, f"holds no reference of split {split!r} (it holds: {has})")


def _follow(exam: DatasetCheck, path: Path, references: list, table: CocoTable) -> tuple[list, set]:
    """Ids of the images and of the annotations that references name."""
    orphans = FaultCounter(
        exam, path, "take refs and instances.json of one and the same release", kind="orphan"
    )
    image_ids: dict[Any, None] = {}
    used: set[Any] = set()
    for number, entry in enumerate(references):
        who = f"reference {number if entry['ref_id'] is None else entry['ref_id']}"
        if entry["image_id"] in table.images:
            image_ids[entry["image_id"]] = None
        else:
            orphans.note("its image is not in instances.json", who)
        for one in _objects(entry):
            if one not in table.kept:
                orphans.note("its annotation is not in instances.json", f"{who} (ann_id {one})")
            elif table.kept[one] != entry["image_id"]:
                orphans.note("its annotation is about another image", f"{who} (ann_id {one})")
            else:
                used.add(one)
    orphans.close()
    return list(image_ids), used


def _objects(reference: dict) -> list:
    """Ids of the annotations of a reference; none if all its sentences are about absent things."""
    named = reference["ann_id"]
    named = named if isinstance(named, list) else [named]
    about_something = any(
        not sentence["is_false_premise"] and sentence["exist"] is not False
        for sentence in reference["sentences"]
    )
    return named if about_something and not {-1, "-1"} & set(named) else []

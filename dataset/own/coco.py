"""COCO with sentences, from one JSON document to a record for each image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dataset.faults import FaultCounter
from dataset.own.rules import HOW, asked, inside, looks_like_sentence
from utils.errors import InputError

KIND_EXPRESSION, KIND_CLASS = "expression", "class"


def coco_records(content: dict, name: str, faults: FaultCounter) -> Iterator[dict]:
    """A record for each image about which something is asked.

    Annotations of one image with the same sentence are one object in several parts. If an
    annotation has no sentence, all of its category in the image are asked for by name.

    Args:
        content: {"images": [...], "annotations": [...], "categories": [...]}.
        name: of the file, for messages.
        faults: takes what is missing or wrong; every message names the entry.

    Yields:
        {"where", "image", "size": [H, W] or None, "segmentations": [...],
        "asks": [{"text", "is_sentence", "kind", "objects": [position in segmentations]}],
        "absent": [text]}
    """
    classes: dict[Any, str] = {}
    broken: set[Any] = set()
    found: dict[Any, dict] = {}
    if "categories" in content:
        for number, category in enumerate(_list(content, "categories", name, faults)):
            with faults.noting():
                where = f"{name}, categories[{number}]"
                identity = _identity(category, "id", where)
                broken.add(identity)
                classes[identity] = asked(category.get("name"), where)
    unnamed = broken - classes.keys()
    broken = set()
    for number, image in enumerate(_list(content, "images", name, faults)):
        with faults.noting():
            where = f"{name}, images[{number}]"
            identity = _identity(image, "id", where)
            if identity in found:
                raise InputError(
                    f"{where}: id {identity!r} is given twice; give every image its own"
                )
            broken.add(identity)
            found[identity] = _image(image, identity, name, where)
    broken -= found.keys()
    for number, annotation in enumerate(_list(content, "annotations", name, faults)):
        with faults.noting():
            where = f"{name}, annotations[{number}]"
            identity = _identity(annotation, "image_id", where)
            if identity in found:
                _add(found[identity], annotation, where)
            elif identity not in broken:
                raise InputError(
                    f"{where}: no image has the id {identity!r}; correct image_id, or add the "
                    "image to images"
                )
    for record in found.values():
        for category, where in dict(record["unnamed"]).items():
            if category not in unnamed:  # that is told already
                with faults.noting():
                    _ask_by_name(record, category, classes, where)
        del record["categories"], record["unnamed"]
        record["asks"] = list(record["asks"].values())
        if record["asks"] or record["absent"]:
            yield record


def _image(image: dict, identity: int | str, name: str, where: str) -> dict:
    absent = image.get("absent") or []
    return {
        "where": f"{name}, image id {identity!r}",
        "image": str(inside(image.get("file_name"), where)),
        "size": _size(image, where),
        "segmentations": [],
        "categories": [],
        "unnamed": [],
        "asks": {},
        "absent": [asked(text, where) for text in _texts(absent, "absent", where)],
    }


def _add(record: dict, annotation: dict, where: str) -> None:
    position = len(record["segmentations"])
    record["segmentations"].append(annotation.get("segmentation"))
    category = annotation.get("category_id")
    record["categories"].append(category)
    sentences = _texts(annotation.get("sentences") or [], "sentences", where)
    for text in dict.fromkeys(asked(text, where).strip() for text in sentences):
        ask = {
            "text": text,
            "is_sentence": looks_like_sentence(text),
            "kind": KIND_EXPRESSION,
            "objects": [],
        }
        record["asks"].setdefault(text, ask)["objects"].append(position)
    if not sentences:
        record["unnamed"].append((_identity(annotation, "category_id", where), where))


def _ask_by_name(record: dict, category: Any, classes: dict[Any, str], where: str) -> None:
    if category not in classes:
        raise InputError(
            f"{where} has no sentences, and no category has the id {category!r}; add one of "
            f"them; {HOW}"
        )
    objects = [n for n, other in enumerate(record["categories"]) if other == category]
    ask = {"is_sentence": False, "kind": KIND_CLASS, "objects": objects}
    record["asks"][KIND_CLASS, category] = {"text": classes[category], **ask}


def _list(content: dict, key: str, name: str, faults: FaultCounter) -> list[dict]:
    entries = content.get(key)
    if isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries):
        return entries
    faults.record(f"{name}: {key!r} must be a list of objects, as in COCO; {HOW}")
    return []


def _identity(entry: dict, key: str, where: str) -> int | str:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"{where}: {key} is {value!r}; give a number; {HOW}")
    return value


def _texts(given: Any, key: str, where: str) -> list:
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        raise InputError(f"{where}: {key} must be a list of texts, not {given!r}; {HOW}")
    return given


def _size(image: dict, where: str) -> list[int] | None:
    """[H, W] if the image has them."""
    if image.get("height") is None or image.get("width") is None:
        return None
    size = [image["height"], image["width"]]
    if not all(isinstance(side, int) and side > 0 for side in size):
        raise InputError(f"{where}: height and width are {size}; give numbers of pixels")
    return size

"""Refs and annotations of a referring set, put together by image; and refs as JSON.

`python -m dataset.refer_index FILE.p [OUT.json]` writes what `refs(SPLIT_BY).p` holds as JSON,
which is then read instead of the pickle.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dataset.annotation_index import AnnotationIndex
from dataset.json_files import read_lists
from dataset.refer.refs_file import load_refs, refs_file, refs_of_pickle
from utils.cli.entry_point import cli
from utils.files import write_json

KIND = "refer2"
_FORM = "COCO's JSON with images and annotations"
_HOW_TO_GET = "they come with the refs files of the set; copy them there"
_MOST_BROKEN = 20
"""So many messages about broken refs are kept."""


class ReferIndex:
    """The images of a referring set by split, each with its refs; picklable, cheap to fork.

    An image's record: `image_id`; `file_name`, `height`, `width` as in instances.json; `refs`,
    each with `ref_id`, `ann_ids` (empty: no object) and `sentences` of [text, absent, gt_sent or
    None]; `segmentations` by annotation id. `problem`, in an image or a ref, says why it cannot be
    used: refs without their annotation are kept, so that an evaluation does not lose them silently.

    Args:
        refs: `refs(SPLIT_BY).p`, or the `.json` beside it.
        instances: `instances.json`.
        cache_dir: where the index is kept, see `AnnotationIndex.open`.

    Raises:
        InputError: a file is missing or damaged; the message names it.
    """

    def __init__(self, refs: Path, instances: Path, cache_dir: Path | None = None):
        self.refs, self.instances = refs_file(refs), instances
        self.store = AnnotationIndex.open([self.refs, instances], KIND, self._build, cache_dir)
        self.splits = {
            name.removeprefix("images/"): count
            for name, count in self.store.groups().items()
            if name.startswith("images/")
        }
        """Split -> number of its images."""

    def image(self, split: str, position: int) -> dict:
        """The record of an image; images are in the order in which the refs name them."""
        return self.store.get(f"images/{split}", position)

    def with_objects(self, split: str) -> list[int]:
        """Positions of the images that are asked for at least one thing that is there."""
        return self.store.get("about", 0)["with_objects"][split]

    def about(self) -> dict:
        """Counts over all splits: refs, sentences, absent, broken; `examples` of the broken;
        `splits`: refs of each split; `images` of instances.json.
        """
        return {k: v for k, v in self.store.get("about", 0).items() if k != "with_objects"}

    def _build(self) -> Iterator[tuple[str, dict]]:
        refs = load_refs(self.refs)
        named = {one for ref in refs for one in _annotation_ids(ref)}
        images, annotations = _instances(self.instances, named)
        by_split: dict[str, dict[Any, list[dict]]] = {}
        for ref in refs:
            if ref["sentences"]:
                by_image = by_split.setdefault(ref["split"], {})
                by_image.setdefault(ref["image_id"], []).append(ref)
        with_objects: dict[str, list[int]] = {}
        sentences = absent = broken = 0
        examples: list[str] = []
        for split, by_image in by_split.items():
            present = with_objects.setdefault(split, [])
            for position, (image_id, its_refs) in enumerate(by_image.items()):
                record = _image(image_id, images.get(image_id), its_refs, annotations)
                asked = [s for ref in record["refs"] for s in ref["sentences"]]
                sentences += len(asked)
                absent += sum(s[1] for s in asked)
                if not all(s[1] for s in asked):
                    present.append(position)
                for ref in record["refs"]:
                    problem = record.get("problem") or ref.get("problem")
                    broken += problem is not None
                    if problem is not None and len(examples) < _MOST_BROKEN:
                        examples.append(f"ref {ref['ref_id']}: {problem}")
                yield f"images/{split}", record
        yield (
            "about",
            {
                "refs": len(refs),
                "splits": Counter(ref["split"] for ref in refs),
                "images": len(images),
                "sentences": sentences,
                "absent": absent,
                "broken": broken,
                "examples": examples,
                "with_objects": with_objects,
            },
        )


def _annotation_ids(ref: dict) -> list:
    """Ids of a ref's annotations; none if it is about no object."""
    ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    return [] if any(n in (-1, "-1") for n in ids) else ids


def _instances(path: Path, named: set) -> tuple[dict[Any, dict], dict[Any, dict]]:
    """Images, and the annotations that are named, of a COCO file by id.

    Entries without a usable id are left out. A segmentation is kept as the bytes of its JSON: as
    objects those of a big file take several gigabytes.
    """
    images: dict[Any, dict] = {}
    annotations: dict[Any, dict] = {}
    for key, _, entry in read_lists(path, ("images", "annotations"), _FORM, _HOW_TO_GET):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str):
            continue
        number = entry["id"]
        if key == "images":
            images[number] = entry
        elif number in named:
            entry = {k: v for k, v in entry.items() if k in ("image_id", "segmentation")}
            if "segmentation" in entry:
                entry["segmentation"] = json.dumps(entry["segmentation"]).encode()
            annotations[number] = entry
    return images, annotations


def _image(image_id: Any, image: dict | None, refs: list[dict], annotations: dict) -> dict:
    record: dict[str, Any] = {"image_id": image_id, "refs": []}
    if image is None:
        record["problem"] = f"its image_id {image_id} is not among the images"
    else:
        sizes = [image.get("height"), image.get("width")]
        if isinstance(image.get("file_name"), str) and all(_positive(n) for n in sizes):
            record |= {name: image[name] for name in ("file_name", "height", "width")}
        else:
            record["problem"] = f"image {image_id} lacks a usable file_name, height or width"
    segmentations: dict[str, Any] = {}
    for ref in refs:
        ids = _annotation_ids(ref)
        entry: dict[str, Any] = {"ref_id": ref["ref_id"], "ann_ids": ids}
        entry["sentences"] = [_sentence(s, bool(ids)) for s in ref["sentences"]]
        record["refs"].append(entry)
        if all(absent for _, absent, _ in entry["sentences"]):
            continue
        for ann_id in ids:
            annotation = annotations.get(ann_id)
            if annotation is None:
                entry["problem"] = f"its ann_id {ann_id} is not among the annotations"
            elif annotation.get("image_id", image_id) != image_id:
                other = annotation["image_id"]
                entry["problem"] = f"its annotation {ann_id} belongs to image {other}"
            elif "segmentation" not in annotation:
                entry["problem"] = f"its annotation {ann_id} has no segmentation"
            else:
                segmentations[str(ann_id)] = json.loads(annotation["segmentation"])
    record["segmentations"] = segmentations
    return record


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _sentence(sentence: dict, has_object: bool) -> list:
    """[text, absent, gt_sent]: absent if the premise is false, or the ref has no object at all."""
    false_premise = sentence["is_false_premise"] is True or sentence["exist"] is False
    instead = (sentence["gt_sent"] or "").strip() or None
    return [sentence["sent"].strip(), false_premise or not has_object, instead]


@cli
def main(argv: Sequence[str] | None = None) -> None:
    """Convert a refs pickle into JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m dataset.refer_index",
        description="Write a refs(SPLIT_BY).p as JSON; nothing in the pickle is executed.",
    )
    parser.add_argument("file", type=Path, help="the pickle")
    parser.add_argument("out", type=Path, nargs="?", help="default: FILE with .json, beside it")
    given = parser.parse_args(argv)
    out = given.out or given.file.with_suffix(".json")
    refs = [_short(ref) for ref in refs_of_pickle(given.file)]
    write_json(out, refs, "name another place", indent=None)
    print(f"{len(refs)} refs written to {out}")


def _short(ref: dict) -> dict:
    """Without the fields that the file lacks."""
    sentences = [{k: v for k, v in s.items() if v is not None} for s in ref["sentences"]]
    return {k: v for k, v in {**ref, "sentences": sentences}.items() if v is not None}


if __name__ == "__main__":
    raise SystemExit(main())

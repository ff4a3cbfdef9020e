"""Toy referring expressions, as refclef, RefCOCO/+/g, R-RefCOCO/+/g and FP-RefCOCO/+/g keep them.

Each set is a folder with `instances.json` (COCO) and `refs(SPLIT_BY).p`, a pickle of plain dicts.
All but refclef speak about the same images; an image is in the same split everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset.toy.coco import CocoFile
from dataset.toy.files import draw_scenes, save_image, save_json, save_pickle, world_rng
from dataset.toy.questions import KINDS, QUERIES, Query, absent, answerable
from dataset.toy.scene import SHAPES, Thing

COCO_IMAGES = Path("images") / "mscoco" / "images" / "train2014"
CLEF_IMAGES = Path("images") / "saiapr_tc-12"
SPLIT_BY = {
    "refclef": "unc",
    "refcoco": "unc_exclude_unified",
    "refcoco+": "unc_exclude_unified",
    "refcocog": "umd_exclude_unified",
    "R-refcoco": "unc_exclude_unified",
    "R-refcoco+": "unc_exclude_unified",
    "R-refcocog": "umd_exclude_unified",
    "fprefcoco": "berkeley_exclude_unified",
    "fprefcoco+": "berkeley_exclude_unified",
    "fprefcocog": "berkeley_exclude_unified",
}
FAMILIES = {
    "refer_seg": ("refclef", "refcoco", "refcoco+", "refcocog"),
    "neg_refer_seg": ("R-refcoco", "R-refcoco+", "R-refcocog"),
    "correct_refer_seg": ("fprefcoco", "fprefcoco+", "fprefcocog"),
}
SPLITS = ("train", "val", "testA", "testB")
_FALSE_KINDS = ("direct", "direct", "colour", "shape", "position")
_EMPTY_EVERY, _EMPTY_AT = 25, 2


@dataclass(frozen=True)
class Image:
    """An image of a pool.

    Args:
        file_name: below the folder of the pool.
        ann_ids: of its things, in their order.
        empty_id: of an annotation without pixels, or None.
    """

    image_id: int
    file_name: str
    split: str
    things: tuple[Thing, ...]
    ann_ids: tuple[int, ...]
    empty_id: int | None


def split_of(index: int, train: int, evaluation: int) -> str:
    """Images come in the order of `SPLITS`: `train`, then `evaluation` in each other split."""
    return "train" if index < train else SPLITS[1 + (index - train) // evaluation]


def draw_pool(
    folder: Path, clef: bool, counts: tuple[int, int], seed: int, stream: int, bar: tqdm
) -> tuple[list[Image], CocoFile]:
    """Write the images of a pool, and annotate them.

    Args:
        folder: for the images.
        clef: name files and write segmentations as in refclef, not as in COCO.
        counts: images for training, and in each other split.
    """
    train, evaluation = counts
    file, images = CocoFile(("toy", shape) for shape in SHAPES), []
    for index, _, scene in draw_scenes(seed, stream, train + 3 * evaluation):
        image_id = (2053 if clef else 9) + 37 * index
        name = f"COCO_train2014_{image_id:012d}.jpg"
        if clef:
            name = f"{image_id // 1000:02d}/images/{image_id}.jpg"
        save_image(scene.image, folder / name)
        file.add_image(image_id, name, scene.masks.shape[1:])
        form = "list" if clef else None
        ids = [
            file.add(image_id, thing.shape, mask, form)
            for thing, mask in zip(scene.things, scene.masks, strict=True)
        ]
        empty = None
        if index < train and index % _EMPTY_EVERY == _EMPTY_AT:
            empty = file.add(image_id, SHAPES[0], np.zeros_like(scene.masks[0]), "empty")
        split = split_of(index, train, evaluation)
        images.append(Image(image_id, name, split, scene.things, tuple(ids), empty))
        bar.update()
    return images, file


def write_set(
    folder: Path, name: str, images: Sequence[Image], file: CocoFile, seed: int, stream: int
) -> None:
    """`instances.json` and `refs(SPLIT_BY).p` of a set."""
    categories = {a["id"]: a["category_id"] for a in file.annotations}
    writer = _RefWriter(name, categories, world_rng(seed, stream, list(SPLIT_BY).index(name)))
    for image in images:
        writer.add_image(image)
    save_json(file.content(), folder / "instances.json")
    save_pickle(writer.refs, folder / f"refs({SPLIT_BY[name]}).p")


@dataclass
class _RefWriter:
    """Collects the refs of a set.

    Args:
        name: of the set.
        categories: annotation -> category.
        rng: of everything said in this set.
    """

    name: str
    categories: dict[int, int]
    rng: np.random.Generator
    refs: list[dict] = field(default_factory=list)
    sentences: int = 0

    @property
    def false_premises(self) -> bool:
        return self.name.startswith("fp")

    @property
    def negatives(self) -> bool:
        return self.name.startswith("R-")

    def add_image(self, image: Image) -> None:
        """Two things are spoken of; some images have more to say."""
        for target in self.rng.permutation(len(image.things))[:2]:
            self._add_thing(image, int(target))
        if self.negatives:
            self._add_several(image)
            if self.rng.random() < 0.3:
                query = self._false_query(image.things, int(self.rng.integers(2)))
                self._add(image, [-1], [self._sentence(query.missing, exist=False)])
        elif self.name == "refcocog":
            self._add_several(image)
        if image.empty_id is not None and self.name in ("refclef", "refcocog"):
            query = self._pick(absent(image.things, "direct"))
            self._add(image, image.empty_id, [self._sentence(query.missing)])

    def _add_thing(self, image: Image, target: int) -> None:
        things, plain = image.things, not (self.negatives or self.false_premises)
        kinds = self._kinds() if plain else self._false_kinds()
        true = [
            query
            for kind in kinds
            for query in answerable(things, kind)
            if query.matches(things[target])
        ]
        if not true:
            return
        if plain:
            said = [self._text(self._pick(true)) for _ in range(int(self.rng.integers(2, 4)))]
            entries = [self._sentence(text) for text in dict.fromkeys(said)]
        else:
            entries = [self._true_entry(self._pick(true))]
            entries += self._false_entries(things, target)
        ann_id = image.ann_ids[target]
        listed = self.negatives or (self.name == "refcocog" and self.rng.random() < 0.2)
        self._add(image, [ann_id] if listed else ann_id, entries)

    def _kinds(self) -> tuple[str, ...]:
        """Kinds of query: RefCOCO+ has no words of place, RefCOCOg describes more."""
        if self.name == "refcoco+":
            return tuple(kind for kind in KINDS if kind != "position")
        return ("direct", "position", "reasoning") if self.name == "refcocog" else KINDS

    def _false_kinds(self) -> tuple[str, ...]:
        return tuple(k for k in _FALSE_KINDS if "+" not in self.name or k != "position")

    def _true_entry(self, query: Query) -> dict:
        if self.negatives:
            return self._sentence(query.missing, exist=True)
        return self._sentence(query.missing, is_false_premise=False)

    def _false_entries(self, things: Sequence[Thing], target: int) -> list[dict]:
        """One sentence about what is not there, worded like the true ones."""
        query = self._false_query(things, target)
        if self.negatives:
            return [self._sentence(query.missing, exist=False)]
        gt_sent = f"the {things[target].name}"
        return [self._sentence(query.missing, is_false_premise=True, gt_sent=gt_sent)]

    def _false_query(self, things: Sequence[Thing], target: int) -> Query:
        """Something absent; a direct one shares its colour or its shape with the target."""
        kind = self._pick(self._false_kinds())
        queries = [q for q in QUERIES[kind] if q.count(things) == 0] or absent(things, "direct")
        alike = [q for q in queries if any(getattr(things[target], n) == v for n, v in q.wanted)]
        return self._pick(alike or queries)

    def _add_several(self, image: Image) -> None:
        """Two or more things that share a shape or a colour."""
        for attribute, plural in (("shape", "the {}s"), ("colour", "the {} objects")):
            values = [getattr(thing, attribute) for thing in image.things]
            shared = [value for value in dict.fromkeys(values) if values.count(value) > 1]
            if shared:
                ids = [i for i, v in zip(image.ann_ids, values, strict=True) if v == shared[0]]
                extra = {"exist": True} if self.negatives else {}
                self._add(image, ids, [self._sentence(plural.format(shared[0]), **extra)])
                return

    def _text(self, query: Query) -> str:
        """With an article or, as people type, without one."""
        if self.name != "refcocog" and self.rng.random() < 0.5:
            return query.missing
        return self._pick(query.phrases)

    def _pick(self, options: Sequence):
        return options[int(self.rng.integers(len(options)))]

    def _sentence(self, text: str, **extra: object) -> dict:
        self.sentences += 1
        raw = text.capitalize() if self.sentences % 3 else text
        return {
            "sent_id": self.sentences - 1,
            "sent": text,
            "raw": raw,
            "tokens": text.split(),
            **extra,
        }

    def _add(self, image: Image, ann_id: int | list[int], sentences: list[dict]) -> None:
        first = ann_id[0] if isinstance(ann_id, list) else ann_id
        split = image.split
        if self.name.endswith("g") and split.startswith("test"):
            split = "test"
        # The published refs carry the annotation's number in the name of the image.
        stem, dot, ending = image.file_name.rpartition("/")[2].rpartition(".")
        self.refs.append(
            {
                "ref_id": len(self.refs),
                "ann_id": ann_id,
                "category_id": self.categories.get(first, -1),
                "image_id": image.image_id,
                "split": split,
                "file_name": f"{stem}_{max(first, 0)}{dot}{ending}",
                "sent_ids": [sentence["sent_id"] for sentence in sentences],
                "sentences": sentences,
            }
        )

"""One tiny image in every layout, and what opens each file there."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataset.own.sets import OwnEval, OwnTrain
from dataset.reason_seg import ReasonSegEval, ReasonSegTrain
from dataset.refer.sets import ReferSegEval, ReferSegTrain
from dataset.sampling import SamplingOptions
from dataset.sem_seg.sampling import SemSegTrain
from dataset.templates import VARIED_FILE, load_templates
from dataset.vqa import VqaTrain
from tests.dataset.damages import damage_bytes, damage_json, damage_pickle

SIZE = (24, 30)
SETTINGS = SamplingOptions(templates=load_templates("varied"))
POLYGON = [4, 4, 20, 4, 20, 16, 4, 16]
RUNS = {"size": [24, 30], "counts": [100, 50, 570]}
SHAPES = [
    {"label": "target", "points": [[4, 4], [20, 4], [20, 16], [4, 16]]},
    {"label": "ignore", "points": [[1.5, 1], [9, 2], [9.5, 9]]},
    {"label": "flag", "points": [[1, 1]]},
]
REASON = {
    "shapes": SHAPES,
    "text": ["the box", "what is boxy"],
    "is_sentence": False,
    "false_premise_QA": [["the cow", False, "No cow."], ["Where is it?", True, ""]],
}


@dataclass(frozen=True)
class Target:
    """A file that is damaged, and what reads it.

    Args:
        name: of the case in messages.
        file: below the data folder.
        damage: of its bytes.
        read: data folder -> samples, evaluation items or templates.
        cases: how many damages are tried.
    """

    name: str
    file: str
    damage: Callable[[bytes, np.random.Generator], bytes]
    read: Callable[[Path], Iterator[Any]]
    cases: int


def draws(make: Callable[[Path], Any], count: int = 2) -> Callable[[Path], Iterator[Any]]:
    def read(root: Path) -> Iterator[Any]:
        source = make(root)
        for index in range(count):
            yield source.sample(index)

    return read


def items(make: Callable[[Path], Any]) -> Callable[[Path], Iterator[Any]]:
    def read(root: Path) -> Iterator[Any]:
        source = make(root)
        for index in range(min(2, len(source))):
            yield source[index]

    return read


def sem_seg(name: str) -> Callable[[Path], Iterator[Any]]:
    return draws(lambda root: SemSegTrain(root, name, SETTINGS))


def refer(name: str) -> Callable[[Path], Iterator[Any]]:
    return draws(lambda root: ReferSegTrain(root, name, SETTINGS))


def refer_val(name: str) -> Callable[[Path], Iterator[Any]]:
    return items(lambda root: ReferSegEval(root, name, "val"))


def own(split: str) -> Callable[[Path], Iterator[Any]]:
    return draws(lambda root: OwnTrain(root, "mine", SETTINGS, split))


def own_items(split: str) -> Callable[[Path], Iterator[Any]]:
    return items(lambda root: OwnEval(root, "mine", split))


def templates(root: Path) -> Iterator[Any]:
    chosen = load_templates(root / "templates.json")
    rng = np.random.default_rng(0)
    yield [
        chosen.question("it", False, rng),
        chosen.question("What?", True, rng),
        chosen.positive("it", rng),
        chosen.denial("it", rng),
        chosen.correction("it", "that", rng),
    ]


reason = draws(lambda root: ReasonSegTrain(root, "ReasonSeg|train", SETTINGS))
reason_items = items(lambda root: ReasonSegEval(root, "train", True))
vqa = draws(lambda root: VqaTrain(root, "llava_instruct_150k", SETTINGS))

REASON_FILES = "reason_seg/ReasonSeg/train/p"
PACO = "vlpart/paco/annotations/paco_lvis_v1_train.json"
MAPILLARY = "mapillary/training/v2.0/labels/p.png"
MAPILLARY_NAMES = "mapillary/config_v2.0.json"
PASCAL = "vlpart/pascal_part/train.json"
REFCOCO = "refer_seg/refcoco/"
REFS, OLD_REFS = "refs(unc_exclude_unified)", "refs(unc)"
IMAGE_2014 = "refer_seg/images/mscoco/images/train2014/p.jpg"

TARGETS = [
    Target("ReasonSeg", REASON_FILES + ".json", damage_json, reason, 150),
    Target("ReasonSeg, evaluation", REASON_FILES + ".json", damage_json, reason_items, 150),
    Target("ReasonSeg's image", REASON_FILES + ".jpg", damage_bytes, reason, 60),
    Target("refs, pickle", REFCOCO + f"{REFS}.p", damage_pickle, refer("refcoco"), 200),
    Target("refs, evaluation", REFCOCO + f"{REFS}.p", damage_pickle, refer_val("refcoco"), 80),
    Target("refs, JSON", f"refer_seg/R-refcoco/{REFS}.json", damage_json, refer("R-refcoco"), 120),
    Target("instances", REFCOCO + "instances.json", damage_json, refer("refcoco"), 180),
    Target("refclef", "refer_seg/refclef/instances.json", damage_json, refer("refclef"), 100),
    Target("refer's image", IMAGE_2014, damage_bytes, refer("refcoco"), 40),
    Target("ADE20K", "ade20k/annotations/training/p.png", damage_bytes, sem_seg("ade20k"), 60),
    Target("ADE20K's image", "ade20k/images/training/p.jpg", damage_bytes, sem_seg("ade20k"), 30),
    Target("COCO-Stuff", "cocostuff/train2017/p.png", damage_bytes, sem_seg("cocostuff"), 60),
    Target("Mapillary", MAPILLARY, damage_bytes, sem_seg("mapillary"), 40),
    Target("Mapillary's names", MAPILLARY_NAMES, damage_json, sem_seg("mapillary"), 80),
    Target("PACO", PACO, damage_json, sem_seg("paco_lvis"), 150),
    Target("PASCAL-Part", PASCAL, damage_json, sem_seg("pascal_part"), 80),
    Target("LLaVA", "llava_dataset/llava_instruct_150k.json", damage_json, vqa, 100),
    Target("own pairs", "own/mine/pairs/p.json", damage_json, own("pairs"), 40),
    Target("own PNG", "own/mine/pairs/p.png", damage_bytes, own("pairs"), 40),
    Target("own list", "own/mine/list.json", damage_json, own("list"), 60),
    Target("own list, evaluation", "own/mine/list.json", damage_json, own_items("list"), 30),
    Target("own COCO", "own/mine/coco.json", damage_json, own("coco"), 80),
    Target("own COCO, evaluation", "own/mine/coco.json", damage_json, own_items("coco"), 40),
    Target("own WebP", "own/mine/images/p.webp", damage_bytes, own("list"), 30),
    Target("templates", "templates.json", damage_json, templates, 60),
]  # fmt: skip


def write_world(root: Path) -> Path:
    """Write every file that `TARGETS` names, and those they need; returns the data folder."""
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    for path in (
        REASON_FILES + ".jpg",
        IMAGE_2014,
        "refer_seg/images/saiapr_tc-12/p.jpg",
        "ade20k/images/training/p.jpg",
        "coco/train2017/p.jpg",
        "mapillary/training/images/p.jpg",
        "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages/p.jpg",
        "own/mine/pairs/p.png",
        "own/mine/images/p.webp",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / path)
    labels = np.ones(SIZE, np.uint8)
    labels[5:15, 8:20] = 2
    for path in ("ade20k/annotations/training/p.png", "cocostuff/train2017/p.png", MAPILLARY):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(root / path)
    for path, content in _documents().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        as_pickle = path.endswith(".p")
        data = pickle.dumps(content, 2) if as_pickle else json.dumps(content).encode()
        (root / path).write_bytes(data)
    return root


def _coco(file_name: str, names: list[str], segmentations: list[Any]) -> dict[str, list[dict]]:
    """COCO with one image; annotation n has id n + 1 and category n + 1."""
    image = {"id": 5, "file_name": file_name, "height": SIZE[0], "width": SIZE[1]}
    return {
        "images": [image],
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(names)],
        "annotations": [
            {"id": n + 1, "image_id": 5, "category_id": n + 1, "segmentation": s, "area": 9.0,
             "bbox": [4, 4, 16, 12], "iscrowd": 0}
            for n, s in enumerate(segmentations)
        ],
    }  # fmt: skip


def _refs(absent: dict[str, Any]) -> list[dict]:
    return [
        {
            "ref_id": n,
            "ann_id": ann_id,
            "category_id": 1,
            "image_id": 5,
            "split": split,
            "file_name": "p.jpg",
            "sent_ids": [n],
            "sentences": [
                {
                    "sent": "the box",
                    "sent_id": n,
                    "tokens": ["the", "box"],
                    "raw": "The box",
                    **more,
                }
            ],
        }
        for n, (split, ann_id, more) in enumerate(
            [("train", 1, {}), ("train", [1, 2], {}), ("train", -1, absent), ("val", 2, {})]
        )
    ]


def _documents() -> dict[str, Any]:
    instances = _coco("p.jpg", ["dog", "cat"], [[POLYGON, [1, 1, 4, 1, 4, 4]], RUNS])
    clef = _coco("p.jpg", ["dog", "cat"], [[RUNS], [RUNS, RUNS]])
    own_coco = _coco("p.webp", ["dog", "cat"], [[POLYGON], RUNS])
    own_coco["annotations"][0]["sentences"] = ["the left dog", "Who barks?"]
    own_coco["images"][0]["absent"] = ["the cow", "Where is the moon?"]
    parts = _coco("train2017/p.jpg", ["dog_(animal)", "dog_(animal):ear", "cup"], [[POLYGON], RUNS])
    conversation = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A box."},
    ]
    families = json.loads(VARIED_FILE.read_text("utf-8"))
    return {
        REASON_FILES + ".json": REASON,
        REFCOCO + f"{REFS}.p": _refs({}),
        REFCOCO + "instances.json": instances,
        f"refer_seg/R-refcoco/{REFS}.json": _refs({"exist": False}),
        "refer_seg/R-refcoco/instances.json": instances,
        f"refer_seg/refclef/{OLD_REFS}.p": _refs({}),
        "refer_seg/refclef/instances.json": clef,
        MAPILLARY_NAMES: {"labels": [{"readable": n} for n in ("Sky", "Road", "Car")]},
        PACO: parts,
        PASCAL: {
            **parts, "images": [{**parts["images"][0], "file_name": "p.jpg"}]
        },
        "llava_dataset/llava_instruct_150k.json": [
            {"id": "7", "image": "p.jpg", "conversations": conversation * 2}
        ],
        "own/mine/pairs/p.json": REASON,
        "own/mine/list.json": [{"image": "p.webp", **REASON}],
        "own/mine/coco.json": own_coco,
        "templates.json": {family: entries[:2] for family, entries in families.items()},
    }  # fmt: skip

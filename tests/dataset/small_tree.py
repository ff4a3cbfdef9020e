"""Every published data set in its place on disk, with images of 16 x 12 pixels.

Written for the doctor's tests with nothing but the standard library, numpy and PIL.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 16, 12
COCO = "coco/train2017"
MSCOCO = "refer_seg/images/mscoco/images/train2014"
SAIAPR = "refer_seg/images/saiapr_tc-12"
REFERENCES = {
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
BOX = [2, 2, 9, 2, 9, 8, 2, 8]
# 12 x 16 pixels, column by column: 5 background, 7 object, the rest background.
RUNS = {"size": [HEIGHT, WIDTH], "counts": [5, 7, HEIGHT * WIDTH - 12]}


def write_tree(root: Path) -> Path:
    """Write everything below `root` and return it."""
    _label_sets(root)
    _part_sets(root)
    for name in REFERENCES:
        _refer_set(root, name)
    _conversations(root)
    for split in ("train", "val", "test"):
        _reason_split(root / "reason_seg/ReasonSeg" / split)
    return root


def save_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def save_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def save_labels(path: Path, values: list[int], size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """A label map with a row of pixels for each value, repeated from top to bottom."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.array(values, dtype=np.uint8)[np.arange(size[0]) % len(values)]
    Image.fromarray(np.repeat(rows[:, None], size[1], axis=1)).save(path)


def _label_sets(root: Path) -> None:
    for n in range(4):
        save_image(root / f"ade20k/images/training/ADE_train_{n}.jpg", n)
        save_labels(root / f"ade20k/annotations/training/ADE_train_{n}.png", [0, 1, 150])
        save_image(root / COCO / f"{n:012d}.jpg", n)
        save_labels(root / f"cocostuff/train2017/{n:012d}.png", [0, 181, 255])
        save_image(root / f"mapillary/training/images/m{n}.jpg", n)
        save_labels(root / f"mapillary/training/v2.0/labels/m{n}.png", [0, 1, 2])
    names = ("Bird", "Lane Marking - Dashed", "Unlabeled")
    labels = [{"name": f"x--{name}", "readable": name} for name in names]
    save_json(root / "mapillary/config_v2.0.json", {"labels": labels})


def coco(images: list[str], categories: list[str]) -> dict[str, list]:
    """A COCO file: image n has annotation 10 n, a polygon, and 10 n + 1, a crowd."""
    images = [
        {"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH}
        for n, name in enumerate(images)
    ]
    annotations = [
        {
            "id": 10 * n + crowd,
            "image_id": n,
            "category_id": (n + crowd) % len(categories),
            "segmentation": RUNS if crowd else [BOX],
            "iscrowd": crowd,
        }
        for n in range(len(images))
        for crowd in (0, 1)
    ]
    kinds = [{"id": n, "name": name} for n, name in enumerate(categories)]
    return {"images": images, "annotations": annotations, "categories": kinds}


def _part_sets(root: Path) -> None:
    names = [f"train2017/{n:012d}.jpg" for n in range(4)]
    path = root / "vlpart/paco/annotations/paco_lvis_v1_train.json"
    save_json(path, coco(names, ["dog", "dog:tail", "crate"]))
    names = [f"2008_{n:06d}.jpg" for n in range(4)]
    root = root / "vlpart/pascal_part"
    save_json(root / "train.json", coco(names, ["cat:ear", "bus:left_side"]))
    for n, name in enumerate(names):
        save_image(root / "VOCdevkit/VOC2010/JPEGImages" / name, n)


def _refer_set(root: Path, name: str) -> None:
    clef = name == "refclef"
    folder = root / (SAIAPR if clef else MSCOCO)
    names = [f"00/images/{n}.jpg" if clef else f"COCO_train2014_{n:012d}.jpg" for n in range(4)]
    for n, image in enumerate(names):
        save_image(folder / image, n)
    content = coco(names, ["dog", "cat"])
    content["annotations"].append(
        {"id": 99, "image_id": 0, "category_id": 0, "segmentation": [], "iscrowd": 0}
    )
    save_json(root / "refer_seg" / name / "instances.json", content)
    save_refs(root, name, refs(name, names))


def refs(name: str, images: list[str]) -> list[dict]:
    """One reference for each image; where the set has them, false premises."""
    found = []
    for n, image in enumerate(images):
        sentence = {"sent": f"the thing {n}", "sent_id": n, "tokens": ["thing"], "raw": "Thing"}
        sentences = [sentence]
        if name.startswith("fp"):
            false = {"is_false_premise": True, "exist": False, "gt_sent": "the thing"}
            sentences = [sentence, {**sentence, "sent": "the hat", "sent_id": 50 + n, **false}]
        several = [10 * n, 10 * n + 1]
        found.append(
            {
                "ref_id": n,
                "ann_id": several if name.startswith("R-") else 10 * n,
                "category_id": 0,
                "image_id": n,
                "split": ("train", "train", "val", "testA")[n],
                "file_name": image,
                "sentences": sentences,
            }
        )
    if name.startswith("R-"):
        found[0]["ann_id"], found[0]["sentences"][0]["exist"] = [-1], False
    return found


def refs_path(root: Path, name: str) -> Path:
    return root / "refer_seg" / name / f"refs({REFERENCES[name]}).p"


def save_refs(root: Path, name: str, content: Any) -> None:
    refs_path(root, name).write_bytes(pickle.dumps(content, protocol=2))


def _conversations(root: Path) -> None:
    entries = [
        {
            "id": f"{n:012d}",
            "image": f"{n:012d}.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is this?"},
                {"from": "gpt", "value": "A dog."},
            ],
        }
        for n in range(4)
    ]
    save_json(root / "llava_dataset/llava_instruct_150k.json", entries)


def _reason_split(folder: Path) -> None:
    corners = [[2, 2], [9, 2], [9, 8], [2, 8]]
    for n in range(4):
        save_image(folder / f"r{n}.jpg", n)
        content = {
            "shapes": [{"label": "target", "points": corners}],
            "text": ["the thing that rolls"],
            "is_sentence": False,
        }
        save_json(folder / f"r{n}.json", content)

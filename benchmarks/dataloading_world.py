"""The data of `dataloading.py`: annotation files of a realistic size; they share a few images.

Images are 640x480 JPEGs tiled from toy scenes.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.toy.scene import sample_scene

HEIGHT, WIDTH = 480, 640
IMAGES = 48
"""Different images; the annotation files name them again and again."""
QUESTIONS = 20_000
REASON_IMAGES = 200


def write_world(root: Path, annotations: int) -> Path:
    """Write ADE20K, PACO, RefCOCO, LLaVA-Instruct and ReasonSeg; returns the data folder.

    Args:
        annotations: masks in PACO's file, and as many in RefCOCO's.
    """
    rng = np.random.default_rng(0)
    images = [_image(rng) for _ in range(IMAGES)]
    names = [f"{number:012d}" for number in range(IMAGES)]
    for name, image in zip(names, images, strict=True):
        for folder in (
            "coco/train2017",
            "refer_seg/images/mscoco/images/train2014",
            "ade20k/images/training",
        ):
            path = root / folder / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=92)
        labels = root / "ade20k/annotations/training" / f"{name}.png"
        labels.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 151, size=(6, 8)).astype(np.uint8)
        Image.fromarray(blocks.repeat(80, axis=0).repeat(80, axis=1)).save(labels)
    _write(root / "vlpart/paco/annotations/paco_lvis_v1_train.json", _coco(annotations, rng, 300))
    instances = _coco(annotations, rng, 80, folder="")
    _write(root / "refer_seg/refcoco/instances.json", instances)
    _write_refs(root / "refer_seg/refcoco/refs(unc_exclude_unified).p", instances)
    _write(root / "llava_dataset/llava_instruct_150k.json", _conversations())
    _write_reason_seg(root / "reason_seg/ReasonSeg/train", images, rng)
    return root


def _image(rng: np.random.Generator) -> Image.Image:
    canvas = np.zeros((HEIGHT + 160, WIDTH + 160, 3), np.uint8)
    for y in range(0, HEIGHT, 120):
        for x in range(0, WIDTH, 120):
            tile = sample_scene(rng).image[:160, :160]
            canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return Image.fromarray(canvas[:HEIGHT, :WIDTH])


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _outline(rng: np.random.Generator) -> list[float]:
    """A polygon of 24 to 48 corners, as COCO's."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, size=int(rng.integers(24, 49))))
    radius = rng.uniform(20, 90) * rng.uniform(0.7, 1, size=len(angles))
    x = rng.uniform(100, WIDTH - 100) + radius * np.cos(angles)
    y = rng.uniform(100, HEIGHT - 100) + radius * np.sin(angles)
    return [round(float(value), 2) for value in np.stack([x, y], axis=1).ravel()]


def _coco(
    annotations: int, rng: np.random.Generator, classes: int, folder: str = "train2017/"
) -> dict[str, list[dict]]:
    """COCO's form with six annotations in an image."""
    images = [
        {
            "id": number,
            "file_name": f"{folder}{number % IMAGES:012d}.jpg",
            "height": HEIGHT,
            "width": WIDTH,
        }
        for number in range(annotations // 6)
    ]
    return {
        "images": images,
        "categories": [{"id": n, "name": f"thing {n}"} for n in range(classes)],
        "annotations": [
            {
                "id": number,
                "image_id": number % len(images),
                "category_id": int(rng.integers(classes)),
                "segmentation": [_outline(rng)],
                "area": 1000.0,
                "bbox": [10.0, 10.0, 100.0, 100.0],
                "iscrowd": 0,
            }
            for number in range(annotations)
        ],
    }


def _write_refs(path: Path, instances: dict[str, list[dict]]) -> None:
    """Every third annotation has a ref with three sentences."""
    refs = []
    for annotation in instances["annotations"][::3]:
        number = annotation["id"]
        words = ["the", "thing", "number", str(number)]
        sentences = [
            {
                "sent": " ".join(words),
                "sent_id": number * 3 + n,
                "tokens": words,
                "raw": "The thing",
            }
            for n in range(3)
        ]
        refs.append(
            {
                "ref_id": number,
                "ann_id": number,
                "category_id": annotation["category_id"],
                "image_id": annotation["image_id"],
                "split": "train",
                "file_name": "COCO_train2014.jpg",
                "sent_ids": [sentence["sent_id"] for sentence in sentences],
                "sentences": sentences,
            }
        )
    path.write_bytes(pickle.dumps(refs, 2))


def _conversations() -> list[dict]:
    turns = [
        ("human", "<image>\nWhat can be seen here?"),
        ("gpt", "Several flat shapes in bright colours lie on a textured ground. " * 3),
        ("human", "Which colours are there?"),
        ("gpt", "Red, green, blue, yellow and purple. " * 4),
    ]
    return [
        {
            "id": str(number),
            "image": f"{number % IMAGES:012d}.jpg",
            "conversations": [{"from": who, "value": f"{text} ({number})"} for who, text in turns],
        }
        for number in range(QUESTIONS)
    ]


def _write_reason_seg(folder: Path, images: list[Image.Image], rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for number in range(REASON_IMAGES):
        images[number % IMAGES].save(folder / f"{number}.jpg", quality=92)
        outline = np.array(_outline(rng)).reshape(-1, 2).tolist()
        content = {
            "shapes": [{"label": "target", "points": outline}],
            "text": ["What could roll away here?", "Which of these is round?"],
            "is_sentence": True,
        }
        (folder / f"{number}.json").write_text(json.dumps(content), encoding="utf-8")

"""Reading a toy world's files by plain json, PIL and pycocotools, and the scenes behind them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from dataset.toy.files import draw_scenes
from dataset.toy.questions import QUERIES

IMAGES, SEED = 300, 3
SHARE, EVALUATION = 30, 3
STREAMS = {"ade20k": 10, "coco": 11, "mapillary": 12, "pascal": 13, "refer": 14, "clef": 15}
QUERY_OF = {
    text: query
    for queries in QUERIES.values()
    for query in queries
    for text in (*query.phrases, query.missing)
}
"""What a phrase means."""


def scenes(pool: str, count: int = SHARE) -> list:
    return [scene for _, _, scene in draw_scenes(SEED, STREAMS[pool], count)]


def side_of(thing, mask: np.ndarray, part: str) -> np.ndarray:
    """The part of a thing's mask on one side of its centre."""
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    cx, cy = (round(v) for v in thing.centre)
    inside = {"top": y < cy, "bottom": y >= cy, "left": x < cx, "right": x >= cx}[part]
    return mask * inside


def read(path: Path):
    return json.loads(path.read_text("utf-8"))


def labels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode in ("L", "P")
        return np.array(image)


def check_image(path: Path, scene) -> None:
    """The image on disk is the scene's, but for JPEG's losses."""
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert image.shape == scene.image.shape
    assert np.abs(image - scene.image).mean() < 5


def decode(segmentation, size) -> np.ndarray:
    height, width = size
    if not segmentation:
        return np.zeros(size, np.uint8)
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        return coco_mask.decode(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation, dict):
        return coco_mask.decode(segmentation)
    if isinstance(segmentation[0], dict):
        return coco_mask.decode(coco_mask.merge(segmentation))
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))


def form_of(annotation: dict) -> str:
    segmentation = annotation["segmentation"]
    if not segmentation:
        return "empty"
    if isinstance(segmentation, dict):
        return "counts" if isinstance(segmentation["counts"], list) else "string"
    if isinstance(segmentation[0], dict):
        return "list of RLE"
    return "polygon" if len(segmentation) == 1 else "polygons"


def union(masks: list, size) -> np.ndarray:
    return np.any(masks, axis=0) if masks else np.zeros(size, bool)


def coco_index(content: dict) -> tuple[dict, dict, dict]:
    """Images, annotations by image, and category names, by their ids."""
    images = {image["id"]: image for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    annotations: dict[int, list] = {number: [] for number in images}
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    assert len(images) == len(content["images"])
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert len(set(ids)) == len(ids)
    return images, annotations, names

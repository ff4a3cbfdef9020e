"""Small files in the layouts of the published sets, made by hand; the truth is drawn by numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataset.loader import SampleSource, micro_batches


def write_image(path: Path, size: tuple[int, int], seed: int = 0) -> Path:
    """A JPEG of noise, (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_labels(path: Path, labels: np.ndarray, palette: bool = False) -> Path:
    """uint8[H, W] as a PNG, grey or with a palette that is not grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette:
        image = Image.frombytes("P", image.size, labels.tobytes())
        image.putpalette([(7 * n) % 256 for n in range(768)])
    image.save(path)
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_ade20k(root: Path, name: str, labels: np.ndarray, seed: int = 0) -> Path:
    """One image of ADE20K; returns its label map."""
    write_image(root / "ade20k/images/training" / f"{name}.jpg", labels.shape, seed)
    return write_labels(root / "ade20k/annotations/training" / f"{name}.png", labels)


def write_cocostuff(root: Path, name: str, labels: np.ndarray, seed: int = 0) -> Path:
    """One image of COCO-Stuff; returns its label map."""
    write_image(root / "coco/train2017" / f"{name}.jpg", labels.shape, seed)
    return write_labels(root / "cocostuff/train2017" / f"{name}.png", labels)


def rectangle(size: tuple[int, int], left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """uint8[H, W]: 1 in columns left..right-1 and rows top..bottom-1."""
    mask = np.zeros(size, dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def corners(left: int, top: int, right: int, bottom: int) -> list[int]:
    """The polygon around the pixels of `rectangle`."""
    return [left, top, right, top, right, bottom, left, bottom]


def run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed form: lengths of runs of 0 and 1 in turn, column by column."""
    values = mask.T.ravel()
    counts, value = [0], 0
    for pixel in values:
        if pixel == value:
            counts[-1] += 1
        else:
            counts.append(1)
            value = pixel
    return {"size": list(mask.shape), "counts": counts}


def drawn(source: SampleSource, first: int, last: int, workers: int) -> list[list]:
    """What a loader draws in micro steps of two samples: conversations, masks, path."""
    steps = micro_batches(
        source, list, micro_steps=(first, last), batch_size=2, rank=0, world_size=1, workers=workers
    )
    return [
        [(s.conversations, s.masks.tolist(), s.exists, s.image_path) for s in step.batch]
        for step in steps
    ]

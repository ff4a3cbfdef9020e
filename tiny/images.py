"""Toy images in memory, in the frames of SAM and CLIP, drawn once for a whole pre-training."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset.toy.scene import Scene, Thing, sample_scene
from utils.process.parent_process import end_with_parent

MAX_THINGS = 4


@dataclass
class Images:
    """M images in one square frame of side S.

    Args:
        pixels: uint8[M, S, S, 3].
        masks: uint8[M, 4, S, S], 0/1, all 0 beyond the image's number of things.
        sizes: int64[M, 2]: height and width of the image's part of the frame.
        things: names and places, one tuple per image.
    """

    pixels: np.ndarray
    masks: np.ndarray
    sizes: np.ndarray
    things: list[tuple[Thing, ...]]


def draw_scenes(count: int, seed: int, workers: int = 2) -> Iterator[Scene]:
    """`count` scenes; scene i is a function of (seed, i)."""
    jobs = [(seed, index) for index in range(count)]
    with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        yield from tqdm(pool.map(_draw_one, jobs, chunksize=64), total=count, desc="images")


def _draw_one(job: tuple[int, int]) -> Scene:
    return sample_scene(np.random.default_rng(job))


def sam_frame(count: int, seed: int, side: int) -> Images:
    """Longest side resized to `side`, zeros to the right and below."""
    return _in_frame(count, seed, side, crop=False)


def clip_frame(count: int, seed: int, side: int) -> Images:
    """Shortest side resized to `side`, centre crop."""
    return _in_frame(count, seed, side, crop=True)


def _in_frame(count: int, seed: int, side: int, crop: bool) -> Images:
    pixels = np.zeros((count, side, side, 3), np.uint8)
    masks = np.zeros((count, MAX_THINGS, side, side), np.uint8)
    sizes = np.zeros((count, 2), np.int64)
    things = []
    for index, scene in enumerate(draw_scenes(count, seed)):
        height, width = scene.image.shape[:2]
        scale = side / (min(height, width) if crop else max(height, width))
        new_h, new_w = int(height * scale + 0.5), int(width * scale + 0.5)
        top, left = ((new_h - side) // 2, (new_w - side) // 2) if crop else (0, 0)
        method = Image.Resampling.BICUBIC if crop else Image.Resampling.BILINEAR
        planes = [Image.fromarray(scene.image).resize((new_w, new_h), method)]
        planes += [
            Image.fromarray(mask * 255).resize((new_w, new_h), Image.Resampling.BILINEAR)
            for mask in scene.masks
        ]
        arrays = [np.asarray(p)[top : top + side, left : left + side] for p in planes]
        sizes[index] = arrays[0].shape[:2]
        h, w = sizes[index]
        pixels[index, :h, :w] = arrays[0]
        for number, plane in enumerate(arrays[1:]):
            masks[index, number, :h, :w] = plane >= 128
        things.append(scene.things)
    return Images(pixels, masks, sizes, things)

"""Files of the toy world: images, JSON, pickles, and the mark on the folders it owns."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataset.annotation_index import FOLDER as INDEX_FOLDER
from dataset.toy.scene import Scene, sample_scene
from utils.errors import InputError

MARK = "toy_world.json"
_JPEG_QUALITY = 95


def world_rng(seed: int, stream: int, index: int) -> np.random.Generator:
    """The generator of one image and all that is said about it."""
    return np.random.default_rng([seed, stream, index])


def draw_scenes(
    seed: int, stream: int, count: int
) -> Iterator[tuple[int, np.random.Generator, Scene]]:
    """(index, generator, scene) of each image of a pool."""
    for index in range(count):
        rng = world_rng(seed, stream, index)
        yield index, rng, sample_scene(rng)


def save_image(image: np.ndarray, path: Path) -> None:
    """uint8[H, W, 3], RGB, as JPEG without loss of colour resolution."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=_JPEG_QUALITY, subsampling=0)


def save_labels(labels: np.ndarray, path: Path, palette: bytes | None = None) -> None:
    """uint8[H, W] as PNG: grey values, or numbers of colours if there is a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def save_json(content: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def save_pickle(content: Any, path: Path) -> None:
    """Plain containers in protocol 2, as the published files of referring sets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=2)


def make_room(out: Path, wanted: Iterable[str], known: dict[str, tuple[str, ...]]) -> None:
    """Remove an older toy world from `out` and mark the folders of a new one.

    Args:
        out: the data folder.
        wanted: folders below it that will be written, among those of `known`.
        known: every folder that a toy world may own, with the names of what it puts there;
            nothing else in them is removed.

    Raises:
        InputError: a wanted folder holds something that is not a toy world, or cannot be written.
    """
    wanted = list(wanted)
    for name in wanted:
        if not (out / name / MARK).is_file() and _holds_anything(out / name):
            raise InputError(
                f"{out / name} holds files that are not a toy world; choose another --out"
            )
    try:
        for name, entries in known.items():
            if (out / name / MARK).is_file():
                for entry in (*entries, INDEX_FOLDER, MARK):
                    _remove(out / name / entry)
        for name in wanted:
            save_json({"what": "toy world, see dataset/toy.py"}, out / name / MARK)
    except OSError as error:
        raise InputError(
            f"cannot write to {error.filename or out}: {error.strerror}; choose another --out"
        ) from error


def _holds_anything(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""Loading images with their masks by many processes, with a progress bar.

Jobs are positions in a set, which go to the processes in chunks. A file that ends the process
which decodes it is found as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from utils.errors import InputError
from utils.process.interrupts import ignore_interrupts
from utils.process.parent_process import end_with_parent
from utils.protocol.image_files import Read, read_image

CHUNK = 16
FEW = 3
"""So many files need no progress bar."""
_TURNED = (5, 6, 7, 8)
"""Values of EXIF's orientation that swap width and height."""

Load = Callable[[int, Read], Sequence[Callable[[], Any]]]
"""(position of an image, what reads files) -> calls that draw its masks; all raise InputError."""

Sizes = dict[str, tuple[int, int]]
"""Path of an image -> (H, W)."""


def read_head(path: Path) -> np.ndarray:
    """An image of the size that the file's head tells, turned upright, without its pixels.

    Raises:
        InputError: the image cannot be read.
    """
    try:
        with Image.open(path) as opened:
            turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
            return _blank(
                (opened.width, opened.height) if turned else (opened.height, opened.width)
            )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return read_image(path)


def _blank(size: tuple[int, int]) -> np.ndarray:
    return np.broadcast_to(np.uint8(0), (*size, 3))


class Job:
    """Loads one image with its masks.

    Args:
        work: the loader.
        sizes: of images that were decoded before; they are not decoded again.
        heads: read only the heads of images, and draw no mask.
    """

    def __init__(self, work: Load, sizes: Sizes, heads: bool):
        self.work, self.sizes, self.heads = work, sizes, heads

    def __call__(self, position: int) -> tuple[list[str], Sizes]:
        """What is wrong; sizes of the images that were decoded."""
        messages: list[str] = []
        decoded: Sizes = {}

        def read(path: Path) -> np.ndarray:
            if self.heads:
                return read_head(path)
            if (size := self.sizes.get(str(path))) is not None:
                return _blank(size)
            image = read_image(path)
            decoded[str(path)] = image.shape[:2]
            return image

        try:
            masks = self.work(position, read)
        except InputError as error:
            return [str(error)], decoded
        for mask in () if self.heads else masks:
            try:
                mask()
            except InputError as error:
                messages.append(str(error))
        return messages, decoded


_job: list[Job] = []
"""In a worker: the one job that it does for many positions."""


def _start_worker(job: Job) -> None:
    """A worker leaves Ctrl-C to its parent, and ends with it."""
    ignore_interrupts()
    end_with_parent()
    _job[:] = [job]


def _run(position: int) -> tuple[list[str], Sizes]:
    return _job[0](position)


class Decoder:
    """Runs loaders; remembers the images that several sets share.

    Args:
        workers: processes; below 2: this process does it.
        show: with a progress bar on stderr; `prefix`, which may be set, stands before its name.
    """

    def __init__(self, workers: int, show: bool):
        self.workers, self.show, self.prefix = workers, show, ""
        self._sizes: Sizes = {}

    def run(
        self, work: Load, positions: Sequence[int], name: str, heads: bool = False
    ) -> Iterator[list[str] | None]:
        """Load many images.

        Args:
            work: the loader.
            positions: of the images.
            name: of the progress bar.
            heads: see `Job`.

        Yields:
            For each position what is wrong; None if it ends the process.
        """
        hidden = not self.show or len(positions) <= FEW
        bar = tqdm(positions, self.prefix + name, unit="file", disable=hidden, leave=False)
        results = self._results(Job(work, dict(self._sizes), heads), positions)
        for _, result in zip(bar, results, strict=True):
            messages, sizes = result or (None, {})
            self._sizes |= sizes
            yield messages

    def _results(
        self, job: Job, positions: Sequence[int]
    ) -> Iterator[tuple[list[str], Sizes] | None]:
        if self.workers < 2 or len(positions) <= CHUNK:
            yield from map(job, positions)
            return
        done = 0
        while done < len(positions):
            try:
                with ProcessPoolExecutor(self.workers, None, _start_worker, (job,)) as pool:
                    for result in pool.map(_run, positions[done:], chunksize=CHUNK):
                        yield result
                        done += 1
            except BrokenProcessPool:
                # The image that ended a worker is in this chunk or soon behind it.
                for position in positions[done : done + CHUNK]:
                    yield _alone(job, position)
                    done += 1


def _alone(job: Job, position: int) -> tuple[list[str], Sizes] | None:
    """A job in a process of its own; None if it ends that."""
    try:
        with ProcessPoolExecutor(1, None, _start_worker, (job,)) as pool:
            return pool.submit(_run, position).result()
    except BrokenProcessPool:
        return None

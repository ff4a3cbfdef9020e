"""Decoding of images, label maps and masks by many processes, with a progress bar.

Jobs go to the processes in chunks, a bounded number of them at a time, so that memory does not grow
with the size of a set. A file that ends the process which decodes it is found as well.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset.coco_masks import decode_segmentation
from dataset.doctor.report import COPY_AGAIN, explain
from dataset.reason_seg import load_annotation
from dataset.sem_seg.label_maps import read_label_map
from utils.errors import InputError
from utils.process.interrupts import ignore_interrupts
from utils.process.parent_process import end_with_parent
from utils.protocol.image_files import read_image

CHUNK = 16
FEW = 3
"""So many files need no progress bar."""
_WAITING = 4
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""EXIF's tag for how a camera was held, and its values that swap width and height."""
_MOST_VALUES = 5
_CRASH = "decoding it ends the process"


class Trouble(NamedTuple):
    """What is wrong with one file."""

    path: str
    problem: str
    remedy: str


class Decoded(NamedTuple):
    """Result of one job.

    Args:
        size: (H, W) of the image, or None if it cannot be read.
        troubles: what was found.
    """

    size: tuple[int, int] | None
    troubles: list[Trouble]


def image(path: str) -> Decoded:
    """Decode an image as training would."""
    try:
        return Decoded(read_image(path).shape[:2], [])
    except InputError as error:
        return Decoded(None, [Trouble(path, *explain(error, [path]))])


def label_map(job: tuple[str, str, tuple[int, ...]]) -> Decoded:
    """Decode (image, label map, the values that have a meaning)."""
    path, labels, allowed = job
    size, troubles = image(path)
    if size is None:
        return Decoded(None, troubles)
    try:
        values = np.unique(read_label_map(labels, size))
    except InputError as error:
        return Decoded(size, [Trouble(labels, *explain(error, [labels, path]))])
    foreign = [int(value) for value in values if int(value) not in allowed]
    if not foreign:
        return Decoded(size, [])
    shown = ", ".join(map(str, foreign[:_MOST_VALUES]))
    more = ", ..." if len(foreign) > _MOST_VALUES else ""
    problem = f"the label map holds {shown}{more}, which no class has (largest: {max(allowed)})"
    remedy = "take the label maps and class list of one and the same release"
    return Decoded(size, [Trouble(labels, problem, remedy)])


def reason_seg(job: tuple[str, str]) -> Decoded:
    """Decode (image, annotation) of ReasonSeg and draw the mask."""
    path, annotation = job
    size, troubles = image(path)
    if size is None:
        return Decoded(None, troubles)
    try:
        load_annotation(annotation, size)
    except InputError as error:
        return Decoded(size, [Trouble(annotation, *explain(error, [annotation]))])
    return Decoded(size, [])


def reason_seg_text(job: tuple[str, str]) -> Decoded:
    """As `reason_seg`, but of the image only the head is read."""
    path, annotation = job
    size = upright_size(path)
    if size is None:
        return image(path)
    try:
        load_annotation(annotation, size)
    except InputError as error:
        return Decoded(size, [Trouble(annotation, *explain(error, [annotation]))])
    return Decoded(size, [])


def upright_size(path: str | Path) -> tuple[int, int] | None:
    """(H, W) of an image as its head tells, turned as its EXIF tag says; None if it cannot."""
    try:
        with Image.open(path) as opened:
            turned = opened.getexif().get(_ORIENTATION, 1) in _TURNED
            return (opened.width, opened.height) if turned else (opened.height, opened.width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def mask(job: tuple[str, str, Any, tuple[int, int]]) -> Decoded:
    """Decode (file, name of the annotation in it, its segmentation, (H, W))."""
    path, name, segmentation, size = job
    try:
        decode_segmentation(segmentation, size)
    except ValueError as error:
        return Decoded(size, [Trouble(path, f"{name}: {error}", f"remove it, or {COPY_AGAIN}")])
    return Decoded(size, [])


class Jobs:
    """Jobs that are made when their turn comes, so that they are never all in memory.

    Args:
        count: how many there are.
        made: makes them.
    """

    def __init__(self, count: int, made: Callable[[], Iterator[Any]]):
        self._count, self._made = count, made

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return self._made()


def _start_worker() -> None:
    """A worker leaves Ctrl-C to its parent, and ends with it."""
    ignore_interrupts()
    end_with_parent()


class Decoder:
    """Runs jobs; remembers the images that several sets share.

    Args:
        workers: processes; below 2: this process does it.
        show: with a progress bar on stderr; `prefix`, which may be set, stands before its name.
    """

    def __init__(self, workers: int, show: bool):
        self.workers, self.show, self.prefix = workers, show, ""
        self._images: dict[str, Decoded] = {}

    def images(self, paths: Iterable[Path], name: str) -> list[tuple[str, Decoded]]:
        """Decode images, each once in the life of this object."""
        asked = [str(path) for path in paths]
        fresh = [path for path in dict.fromkeys(asked) if path not in self._images]
        self._images.update(zip(fresh, self.run(image, fresh, f"{name}: images"), strict=True))
        return [(path, self._images[path]) for path in asked]

    def run(
        self, work: Callable[[Any], Decoded], jobs: Collection | Jobs, name: str
    ) -> Iterator[Decoded]:
        """Results of all jobs in their order."""
        hidden = not self.show or len(jobs) <= FEW
        bar = tqdm(
            total=len(jobs), desc=self.prefix + name, unit="file", disable=hidden, leave=False
        )
        with bar:
            for result in self._results(work, jobs):
                bar.update()
                yield result

    def _results(
        self, work: Callable[[Any], Decoded], jobs: Collection | Jobs
    ) -> Iterator[Decoded]:
        if self.workers < 2 or len(jobs) <= CHUNK:
            yield from map(work, jobs)
            return
        source = iter(jobs)
        chunks = iter(lambda: list(itertools.islice(source, CHUNK)), [])
        while True:
            waiting: deque[tuple[list, Future]] = deque()
            with ProcessPoolExecutor(self.workers, initializer=_start_worker) as pool:
                waiting.extend(_submit(pool, work, chunks, self.workers * _WAITING))
                try:
                    while waiting:
                        yield from waiting[0][1].result()
                        waiting.popleft()
                        waiting.extend(_submit(pool, work, chunks, 1))
                except BrokenProcessPool:
                    pass
            if not waiting:
                return
            for chunk, _ in waiting:
                yield from _alone(work, chunk)


def _submit(
    pool: ProcessPoolExecutor, work: Callable[[Any], Decoded], chunks: Iterator[list], count: int
) -> list[tuple[list, Future]]:
    """Hand over the next chunks; a pool that is broken already gives futures that say so."""
    handed = []
    for chunk in itertools.islice(chunks, count):
        try:
            future = pool.submit(_chunk, work, chunk)
        except BrokenProcessPool as error:
            future = Future()
            future.set_exception(error)
        handed.append((chunk, future))
    return handed


def _chunk(work: Callable[[Any], Decoded], jobs: list) -> list[Decoded]:
    return [work(job) for job in jobs]


def _alone(work: Callable[[Any], Decoded], jobs: list) -> list[Decoded]:
    """Jobs in a process of their own, which one of them may end: then one by one."""
    try:
        with ProcessPoolExecutor(1, initializer=_start_worker) as pool:
            return pool.submit(_chunk, work, jobs).result()
    except BrokenProcessPool:
        if len(jobs) > 1:
            return [_alone(work, [job])[0] for job in jobs]
    return [Decoded(None, [Trouble(_name_of(jobs[0]), _CRASH, COPY_AGAIN)])]


def _name_of(job: Any) -> str:
    return job if isinstance(job, str) else job[0]

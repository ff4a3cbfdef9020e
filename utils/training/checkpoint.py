"""Which checkpoints of a run exist: the newest complete ones and the best one, never none.

Layout of `ckpt_model/`: a folder `step_00000500/` per checkpoint, and the pointer files `latest`
(the name that DeepSpeed's own tools read) and `best`, each holding the name of a folder. A folder
is written whole and forced to the disk before a pointer names it, pointers are replaced in one
operation, and only folders that no pointer names are deleted. So a kill at any moment leaves both
pointers on complete checkpoints. A checkpoint is complete before it is validated: its score comes
later, by a second `complete`.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from utils.errors import InputError
from utils.files import sync, write_file

CHECKPOINTS = "ckpt_model"
"""Folder of the checkpoints below that of a run."""
STATE_FILE = "read_state.json"
LATEST, BEST = "latest", "best"
FREE = "free space on that disk, then go on with --auto_resume"
TAG = re.compile(r"step_\d{8}")


@dataclass(frozen=True)
class RunState:
    """Where a run stands at a checkpoint.

    Args:
        step: optimiser steps done.
        world: number of ranks that wrote it.
        score: validation cIoU at this step; None if it was not validated.
        best_score, best_tag: the best checkpoint so far, this one included.
    """

    step: int
    world: int
    score: float | None = None
    best_score: float | None = None
    best_tag: str | None = None

    @property
    def tag(self) -> str:
        return tag_of(self.step)


def tag_of(step: int) -> str:
    """Name of the checkpoint after `step` optimiser steps."""
    return f"step_{step:08d}"


def next_state(before: RunState | None, step: int, world: int, score: float | None) -> RunState:
    """The state after `step`: it becomes the best one unless an earlier score is as high.

    A checkpoint without a score is best only as long as no validated one exists.
    """
    best_score = before.best_score if before else None
    best_tag = before.best_tag if before else None
    if best_score is None or (score is not None and score > best_score):
        best_score, best_tag = score, tag_of(step)
    return RunState(step, world, score, best_score, best_tag)


class CheckpointStore:
    """The folder `ckpt_model/` of a run.

    `begin`, then every rank writes into `folder / tag` and flushes it with `flush`, then
    `complete`. `begin` and `complete` are for rank 0 alone.
    """

    def __init__(self, folder: str | Path, keep: int = 1):
        """`keep`: how many of the newest checkpoints stay, besides the best."""
        self.folder = Path(folder)
        self.keep = keep

    def begin(self, tag: str) -> None:
        """Make room for a new checkpoint: the rest of one that was never completed goes.

        Raises:
            InputError: a complete checkpoint of this name exists.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if tag in (self.pointer(LATEST), self.pointer(BEST)):
            raise InputError(f"{self.folder / tag} is complete and in use; nothing is overwritten")
        shutil.rmtree(self.folder / tag, ignore_errors=True)
        (self.folder / tag).mkdir()

    def flush(self, tag: str) -> None:
        """Force every file of a checkpoint to the disk."""
        for path in sorted((self.folder / tag).rglob("*")):
            if path.is_file():
                sync(path)
        sync(self.folder / tag)

    def complete(self, state: RunState) -> None:
        """Declare the checkpoint of `state` complete, point to it, drop what is superseded.

        A second call for the same checkpoint replaces its state: that is how it gets a score.
        """
        write_file(self.folder / state.tag / STATE_FILE, json.dumps(asdict(state)) + "\n", FREE)
        self.flush(state.tag)
        sync(self.folder)
        self._point(LATEST, state.tag)
        if state.best_tag is not None:
            self._point(BEST, state.best_tag)
        self._clean()

    def load(self, name: str = LATEST) -> RunState | None:
        """The state of a checkpoint, or None if there is none yet.

        Args:
            name: a pointer, or the tag of a checkpoint.

        Raises:
            InputError: the checkpoint is not there or is damaged.
        """
        tag = name if TAG.fullmatch(name) else self.pointer(name)
        if tag is None:
            return None
        path = self.folder / tag / STATE_FILE
        try:
            return RunState(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            named = "" if tag == name else f", named by {self.folder / name},"
            raise InputError(
                f"the checkpoint {self.folder / tag}{named} is damaged: {path.name} cannot be read "
                f"({error}); {self.instead_of(tag)}"
            ) from error

    def instead_of(self, tag: str) -> str:
        """What a training can go on from when this checkpoint is damaged, in words."""
        best = self.pointer(BEST)
        others = [t for t in self._complete_tags() if t != tag]
        others.sort(key=lambda t: (t != best, -int(t[5:])))
        ways = [
            f"from {'the best one' if t == best else 'an older one'}, step {int(t[5:])}, with the "
            f"same command and --resume {self.folder / t}"
            for t in others
        ]
        if not ways:
            return "no other checkpoint is there: train anew with another --exp_name"
        return f"go on {'; or '.join(ways)}"

    @contextmanager
    def or_another(self, tag: str) -> Iterator[None]:
        """Around the reading of a checkpoint: the error that it is damaged names the others.

        Raises:
            InputError: what is raised inside, with `instead_of`.
        """
        try:
            yield
        except InputError as error:
            raise InputError(f"{error}; {self.instead_of(tag)}") from error

    def go_back(self, state: RunState) -> RunState:
        """Make an older checkpoint the newest one; those after it go. For rank 0 alone.

        Returns:
            its state; it is the best one itself if the best one of its time is gone.
        """
        if state.best_tag not in self._complete_tags():
            state = replace(state, best_score=state.score, best_tag=state.tag)
        self.complete(state)
        return state

    def repair(self) -> RunState | None:
        """The newest state; if a kill came between the two pointers, the second follows.

        Raises:
            InputError: as `load`.
        """
        state = self.load(LATEST)
        if state is not None:
            if state.best_tag and (self.folder / state.best_tag / STATE_FILE).is_file():
                self._point(BEST, state.best_tag)
            self._clean()
        return state

    def pointer(self, name: str) -> str | None:
        """The tag that a pointer names; None: there is no such file."""
        try:
            return (self.folder / name).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    def _point(self, name: str, tag: str) -> None:
        if self.pointer(name) == tag:
            return
        write_file(self.folder / name, tag, FREE)
        sync(self.folder)

    def _clean(self) -> None:
        """Delete the checkpoints that no pointer names, but for the newest `keep`."""
        newest = self.pointer(LATEST) or ""
        complete = [tag for tag in self._complete_tags() if tag <= newest]
        kept = {newest, self.pointer(BEST), *complete[-self.keep :]}
        for tag in self._tags():
            if tag not in kept:
                (self.folder / tag / STATE_FILE).unlink(missing_ok=True)
                shutil.rmtree(self.folder / tag, ignore_errors=True)

    def _tags(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if TAG.fullmatch(path.name))

    def _complete_tags(self) -> list[str]:
        return [tag for tag in self._tags() if (self.folder / tag / STATE_FILE).is_file()]


def damaged_files(checkpoint: Path) -> list[str]:
    """Names of the files of a checkpoint that are cut short or changed, by their checksums."""
    damaged = []
    for path in sorted(checkpoint.glob("*.pt")):
        try:
            with zipfile.ZipFile(path) as file:
                whole = file.testzip() is None
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
            whole = False
        if not whole:
            damaged.append(path.name)
    return damaged


def free_bytes(folder: Path) -> int:
    """Free space where `folder` lies or will lie."""
    return shutil.disk_usage(_existing(folder)).free


def check_space(needed: Mapping[Path, int], remedy: str) -> None:
    """Fail before writing when a disk cannot take it.

    Args:
        needed: file or folder to write -> bytes; several may lie on one disk.
        remedy: for the message.

    Raises:
        InputError: too little is free.
    """
    disks: dict[int, list[Path]] = {}
    for path in needed:
        disks.setdefault(_existing(path).stat().st_dev, []).append(path)
    for paths in disks.values():
        free, wanted = free_bytes(paths[0]), sum(needed[path] for path in paths)
        if free < wanted:
            raise InputError(
                f"{' and '.join(map(str, paths))}: {free / 1e9:.3g} GB are free, "
                f"{wanted / 1e9:.3g} GB are needed; {remedy}"
            )


def _existing(path: Path) -> Path:
    """The path, or the first folder above it that is there."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())

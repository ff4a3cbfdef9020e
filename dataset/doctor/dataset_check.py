"""One data set under check: what it needs on disk, and what training's loader says about it."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dataset.catalog import Needed, needed_paths
from dataset.doctor.decode import Decoder, Load
from dataset.doctor.report import COPY_AGAIN, Finding, Level, SetReport, explain, samples
from dataset.faults import MOST_TOLD, FaultCounter
from dataset.json_files import JSON_ENDS, ends_in_the_middle
from utils.errors import InputError, InputErrors

QUICK_BYTES = 1 << 20
"""Annotation files up to this size are read even in a quick check."""
_CRASH = "decoding it ends the process"


class DatasetCheck:
    """One data set under check.

    Args:
        root: the folder with all data sets.
        report: takes the findings.
        level: how thorough.
        decoder: runs the loader in several processes.
        scratch: a folder for indexes of annotation files; it stays until the check is over.
    """

    def __init__(
        self, root: Path, report: SetReport, level: Level, decoder: Decoder, scratch: Path
    ):
        self.root, self.report, self.level, self.decoder = root, report, level, decoder
        self.faults = FaultCounter(scratch)
        """Mistakes in annotation files, for the loaders; `close` makes findings of them."""
        self._absent: set[Path] = set()
        self._there: dict[Path, bool] = {}
        self._broken = Counter[Path]()

    def add(self, kind: str, path: Path | str, problem: str, remedy: str = "") -> None:
        """Note a finding; the remedy is by default to get the file from where the set is from."""
        self.report.findings.append(
            Finding(self.report.name, kind, str(path), problem, remedy or self.how_to_get)
        )

    @property
    def how_to_get(self) -> str:
        """Where the set comes from."""
        return self.report.facts.how_to_get if self.report.facts else COPY_AGAIN

    def needed(self, spec: str = "") -> bool:
        """Look for what the set needs; True if its own folder is there."""
        facts = self.report.facts
        if facts is None:
            return False
        wanted = needed_paths(self.root, facts.name, spec)
        own = wanted[0].path if facts.family == "reason_seg" else self.root / facts.root
        self.report.found = own.is_dir()
        if not self.report.found:
            state = "is no folder" if own.exists() else "does not exist"
            self.add("missing", own, f"the folder {state}; expected {facts.name} here")
            wanted = [need for need in wanted if own not in (need.path, *need.path.parents)]
        for need in wanted:
            self._need(need)
        return self.report.found

    def _need(self, need: Needed) -> None:
        paths = (need.path, *need.alternatives)
        present = next((p for p in paths if (p.is_dir() if need.is_folder else p.is_file())), None)
        noun = "folder" if need.is_folder else "file"
        if present is None:
            problem = f"the {noun} does not exist; expected {need.what}"
        elif need.is_folder and not any(os.scandir(present)):
            problem = f"the folder is empty; expected {need.what}"
        else:
            return
        self._absent.add(need.path)
        self.add("missing", need.path, problem, need.remedy)

    def names(self, folder: Path, suffix: str) -> set[str]:
        """Names without suffix of the files of a folder that end in it; none if it is absent."""
        names = os.listdir(folder) if folder.is_dir() else []
        return {name.removesuffix(suffix) for name in names if name.endswith(suffix)}

    def readable(self, *tables: Path) -> bool:
        """Whether annotation files are there, and not too big for a check of this level.

        Of those that are too big for a quick check only the end is looked at.
        """
        if not all(path.is_file() for path in tables):
            return False
        big = [p for p in tables if self.level == Level.QUICK and p.stat().st_size > QUICK_BYTES]
        for path in big:
            try:
                if ends_in_the_middle(path, (pickle.STOP,) if path.suffix == ".p" else JSON_ENDS):
                    self.add("broken", path, "the file ends in the middle", COPY_AGAIN)
            except OSError as error:
                problem = f"cannot be read ({error.strerror})"
                self.add("broken", path, problem, "check its permissions")
        return not big

    @contextmanager
    def opening(self, kind: str = "broken") -> Iterator[None]:
        """Note what a loader raises; of what is missing, or was recorded already, nothing."""
        before = self.faults.count
        try:
            yield
        except InputError as error:
            messages = error.messages if isinstance(error, InputErrors) else [str(error)]
            is_told = self.faults.count > before
            for message in messages:
                if not is_told and not any(str(path) in message for path in self._absent):
                    self.faults.record(message, kind)

    def is_there(self, path: Path, noun: str = "image", why: str = "") -> bool:
        """Whether a file exists and is not empty; what is not is found, once for each file.

        Nothing is said of files in folders that are absent altogether.

        Args:
            path: the file.
            noun: what it is.
            why: why it should be there.
        """
        if path not in self._there:
            size = os.path.getsize(path) if os.path.isfile(path) else -1
            self._there[path] = size > 0
            if size == 0:
                self.add("broken", path, f"the {noun} is empty (0 bytes)", COPY_AGAIN)
            elif size < 0 and not self._absent.intersection(path.parents):
                self.add("missing", path, f"the {noun} does not exist; {why}", self._source(noun))
        return self._there[path]

    def _source(self, noun: str) -> str:
        """The remedy for a file that is missing; "" where it comes with the set."""
        facts = self.report.facts
        is_elsewhere = noun == "image" and facts is not None and facts.images_from
        return f"get it from {facts.images_from}" if facts and is_elsewhere else ""

    def load(
        self,
        work: Load,
        positions: Sequence[int],
        files: Callable[[int], Sequence[Path]],
        what: str,
        heads: bool = False,
    ) -> None:
        """Load images with their masks: all of them in a deep check, else a few.

        Args:
            work: the loader of training.
            positions: of the images.
            files: position -> files that a message may be about, the image first.
            what: is loaded, for the progress bar.
            heads: a full check loads the annotations of the others too, without decoding images.
        """
        some = positions if self.level == Level.DEEP else samples(list(positions))
        self._load(work, some, files, what, heads=False)
        if heads and self.level == Level.FULL:
            rest = sorted(set(positions).difference(some))
            self._load(work, rest, files, what, heads=True)

    def _load(
        self,
        work: Load,
        positions: Sequence[int],
        files: Callable[[int], Sequence[Path]],
        what: str,
        heads: bool,
    ) -> None:
        results = self.decoder.run(work, positions, f"{self.report.name}: {what}", heads)
        for position, messages in zip(positions, results, strict=True):
            paths = files(position)
            if messages is None:
                self.add("broken", paths[0], _CRASH, COPY_AGAIN)
            for message in dict.fromkeys(messages or ()):
                path, problem, remedy = explain(message, paths)
                self._broken[path] += 1
                if self._broken[path] <= MOST_TOLD:
                    self.add("broken", path, problem, remedy)

    def close(self, *tables: Path) -> None:
        """Make findings of the mistakes that were recorded, by annotation file."""
        facts = self.report.facts
        folder = self.root / facts.root if facts else self.root
        for kind, message in self.faults.messages():
            self.add(kind, *explain(message, (*tables, folder)))
        for path, count in self._broken.items():
            if count > MOST_TOLD:
                self.add("broken", path, f"and {count - MOST_TOLD} more mistakes like these")

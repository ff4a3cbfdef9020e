"""The tools of a check: needed paths, JSON files, images and where findings go."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from dataset.catalog import Needed, needed_paths
from dataset.doctor.decode import Decoded, Decoder, Jobs
from dataset.doctor.report import COPY_AGAIN, DirectoryCache, Finding, Level, SetReport, samples
from dataset.json_stream import JsonLists

QUICK_BYTES = 1 << 20
"""Annotation files up to this size are read even in a quick check."""
_EDGE = 4096
_SHOWN = 3


class DatasetCheck:
    """One data set under examination.

    Args:
        root: the folder with all data sets.
        report: takes the findings.
        level: how thorough.
        shelf: listings of folders.
        decoder: decodes images.
    """

    def __init__(
        self, root: Path, report: SetReport, level: Level, shelf: DirectoryCache, decoder: Decoder
    ):
        self.root, self.report, self.level = root, report, level
        self.shelf, self.decoder = shelf, decoder

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
        there = [path for path in paths if (path.is_dir() if need.is_folder else path.is_file())]
        if not there:
            noun = "folder" if need.is_folder else "file"
            self.add(
                "missing",
                need.path,
                f"the {noun} does not exist; expected {need.what}",
                need.remedy,
            )
        elif need.is_folder and not any(os.scandir(there[0])):
            self.add("missing", there[0], f"the folder is empty; expected {need.what}", need.remedy)

    def names(self, folder: Path, suffix: str) -> dict[str, int]:
        """Name without suffix -> bytes, of the files of a folder that end in it."""
        files = self.shelf.files(folder) or {}
        return {name[: -len(suffix)]: n for name, n in files.items() if name.endswith(suffix)}

    def json(self, path: Path, expects: str) -> Any:
        """Content of a JSON file; None if it is absent, unusable or too big for a quick check.

        Args:
            path: if it is absent that was found before.
            expects: what should be in it, for the message.
        """
        try:
            return json.loads(path.read_bytes()) if self._is_readable(path, expects) else None
        except (OSError, ValueError, RecursionError) as error:
            self._no_json(path, expects, error)
            return None

    def json_lists(
        self, path: Path, expects: str, take: Callable[[str, Any], None]
    ) -> set[str] | None:
        """Hand the elements of a JSON file's lists over, one by one; see `JsonLists`.

        Args:
            path, expects: as in `json`.
            take: is given the key of a list and an element of it.

        Returns:
            The keys of all lists; None if the file is absent, unusable (which may be found after
            some elements were taken) or too big for a quick check.
        """
        lists = JsonLists(path)
        try:
            if self._is_readable(path, expects):
                for key, element in lists:
                    take(key, element)
                return lists.found
        except (OSError, ValueError, RecursionError) as error:
            self._no_json(path, expects, error)
        return None

    def _is_readable(self, path: Path, expects: str) -> bool:
        """Whether a file is there, can be read, and is not too big for this check."""
        try:
            size = path.stat().st_size
            if self.level == Level.QUICK and size > QUICK_BYTES:
                self._json_edges(path, size, expects)
                return False
            with path.open("rb"):
                return True
        except FileNotFoundError:
            return False
        except OSError as error:
            self._no_json(path, expects, error)
            return False

    def _no_json(self, path: Path, expects: str, error: Exception) -> None:
        if isinstance(error, OSError):
            self.add("broken", path, f"cannot be read ({error.strerror})", "check its permissions")
            return
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _EDGE))
            tail = file.read().rstrip()
        problem = f"is no valid JSON ({error})" if tail else "is empty"
        if tail and tail[-1:] not in (b"}", b"]"):
            problem += ", it ends in the middle"
        self.add("broken", path, problem, f"expected {expects}; {COPY_AGAIN}")

    def _json_edges(self, path: Path, size: int, expects: str) -> None:
        with path.open("rb") as file:
            head = file.read(_EDGE).lstrip()[:1]
            file.seek(size - _EDGE)
            tail = file.read().rstrip()[-1:]
        if (head, tail) not in ((b"{", b"}"), (b"[", b"]")):
            problem = "begins or ends in the middle of a JSON text"
            self.add("broken", path, problem, f"expected {expects}; {COPY_AGAIN}")

    def there(self, images: Iterable[tuple[Path, str]], what: str = "image") -> list[Path]:
        """Those of (path, why it should be there) that exist and are not empty; others are found.

        Folders that are absent altogether have been found before.
        """
        good = []
        for path, why in dict(images).items():
            size = self.shelf.size(path)
            if size is None:
                if self.shelf.files(path.parent) is not None or not self._reported(path):
                    remedy = self._images_from() if what == "image" else ""
                    self.add("missing", path, f"the {what} does not exist; {why}", remedy)
            elif size == 0:
                self.add("broken", path, f"the {what} is empty (0 bytes)", COPY_AGAIN)
            else:
                good.append(path)
        return good

    def _images_from(self) -> str:
        """The remedy for an image; "" where images come with the set."""
        facts = self.report.facts
        return f"get it from {facts.images_from}" if facts and facts.images_from else ""

    def _reported(self, path: Path) -> bool:
        known = {finding.path for finding in self.report.findings}
        return any(str(parent) in known for parent in path.parents)

    def decode_images(self, sizes: dict[Path, tuple[int, int] | None]) -> None:
        """Decode images (a few, unless the check is deep) and compare them with (H, W)."""
        paths = list(sizes) if self.level == Level.DEEP else samples(list(sizes))
        results = self.decoder.images(paths, self.report.name)
        for path, (_, decoded) in zip(paths, results, strict=True):
            self.record(decoded)
            wanted = sizes[path]
            if decoded.size is not None and wanted is not None and decoded.size != wanted:
                problem = (
                    f"the image is {decoded.size[1]} x {decoded.size[0]} pixels, its annotations "
                    f"say {wanted[1]} x {wanted[0]}"
                )
                self.add("broken", path, problem, "take images and annotations of one source")

    def decode(
        self,
        work: Callable[[Any], Decoded],
        jobs: Collection | Jobs,
        what: str,
        few: bool = False,
        least: Level = Level.DEEP,
    ) -> None:
        """Run jobs: all of them in a check as thorough as `least`, else a few of them or none."""
        chosen = jobs if self.level >= least else samples(list(jobs)) if few else []
        for decoded in self.decoder.run(work, chosen, f"{self.report.name}: {what}"):
            self.record(decoded)

    def record(self, decoded: Decoded) -> None:
        """Note what decoding found."""
        for trouble in decoded.troubles:
            self.add("broken", trouble.path, trouble.problem, trouble.remedy)


class FaultCounter:
    """Faults of one kind inside one file, told in one finding that names the first ones.

    Args:
        exam: takes the finding.
        path: the file.
        remedy: what to do.
        kind: of the finding.
    """

    def __init__(self, exam: DatasetCheck, path: Path, remedy: str = "", kind: str = "broken"):
        self.exam, self.path, self.remedy, self.kind = exam, path, remedy, kind
        self._faults: dict[str, list[str]] = {}

    def note(self, problem: str, who: Any) -> None:
        """`who` has this problem."""
        self._faults.setdefault(problem, []).append(str(who))

    def close(self) -> None:
        """Write the findings."""
        for problem, who in self._faults.items():
            named = ", ".join(who[:_SHOWN]) + (", ..." if len(who) > _SHOWN else "")
            count = f" ({len(who)} in all)" if len(who) > 1 else ""
            self.exam.add(self.kind, self.path, f"{named}: {problem}{count}", self.remedy)

"""Counting the mistakes in annotation files, so that a loader can tell all of them at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import InputError, InputErrors

MOST_TOLD = 50
"""So many mistakes of a kind are told one by one."""

BROKEN, ORPHAN = "broken", "orphan"


class FaultCounter:
    """Mistakes in annotation files: all are counted, the first `MOST_TOLD` of a kind are kept.

    A loader records what is wrong, goes on with the next entry, and calls `close` at the end.

    Args:
        scratch: None: `close` raises what is broken (training, evaluation). A folder: the loader
            goes on without the broken entries and writes its index there (the doctor).
    """

    def __init__(self, scratch: Path | None = None):
        self.scratch = scratch
        self._counts, self._kept = Counter[str](), list[tuple[str, str]]()

    @property
    def count(self) -> int:
        """Number of all mistakes."""
        return self._counts.total()

    def record(self, message: InputError | str, kind: str = BROKEN) -> None:
        """Count a mistake. An orphan, unlike what is broken, does not keep anyone from reading."""
        self._counts[kind] += 1
        if self._counts[kind] <= MOST_TOLD:
            self._kept.append((kind, str(message)))

    @contextmanager
    def noting(self, kind: str = BROKEN) -> Iterator[None]:
        """Record an `InputError` of the block, and go on behind it."""
        try:
            yield
        except InputError as error:
            self.record(error, kind)

    def messages(self) -> list[tuple[str, str]]:
        """(kind, message) of each mistake that is kept, then how many more there are."""
        more = [
            (kind, f"and {count - MOST_TOLD} more mistakes like these")
            for kind, count in self._counts.items()
            if count > MOST_TOLD
        ]
        return self._kept + more

    def close(self) -> None:
        """Raise what is broken as `InputErrors`, unless the loader goes on without it."""
        if self.scratch is None and self._counts[BROKEN]:
            raise InputErrors([message for kind, message in self.messages() if kind == BROKEN])

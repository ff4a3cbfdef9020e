"""What a check of the data finds.

A `Finding` is one thing that is wrong, a `SetReport` what is known of one data set after its check.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from dataset.catalog import SetFacts

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITY = {
    "missing": ERROR,
    "broken": ERROR,
    "orphan": ERROR,
    "substitute": WARNING,
    "unused": NOTE,
}
"""Kind of a finding -> how bad it is. Only errors keep a set from being used as it is.

missing: a file or folder is not there. broken: it cannot be used. orphan: an annotation whose other
half is not there. substitute: a second choice is used. unused: files that nothing refers to.
"""

COPY_AGAIN = "copy it again from its source"
_REMEDY = re.compile(
    r"[:;.] (?=(?:expected|copy|check|give|get|convert|correct|do not open|docs/own_data\.md) )",
    re.I,
)
"""Where, in a loader's message, the remedy begins."""


class Level(IntEnum):
    """How thorough a check is."""

    QUICK = 0
    """Existence, listings, heads of big files, a few images: seconds, for the start of a run."""
    FULL = 1
    """All annotation files are read and compared with the files on disk; a few images."""
    DEEP = 2
    """Every image, label map and mask is decoded as well."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Args:
        dataset: the row it belongs to, such as "ade20k" or "ReasonSeg|val".
        kind: one of `SEVERITY`.
        path: of the file or folder.
        problem: what is wrong with it.
        remedy: what to do.
    """

    dataset: str
    kind: str
    path: str
    problem: str
    remedy: str

    @property
    def severity(self) -> str:
        """ "error", "warning" or "note"."""
        return SEVERITY[self.kind]

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.remedy}"


@dataclass
class SetReport:
    """One row of the table.

    Args:
        name: of the row.
        facts: of the set; None for a set of the user's own.
        found: its folder exists.
        images, annotations: how many were counted; None: not counted.
        unit: what `annotations` counts.
        expected_images, expected_annotations: of the published set, where known.
        splits: those that were checked -> what was counted in them, of sets that have several.
        findings: all of them, in the order of the checks.
    """

    name: str
    facts: SetFacts | None
    found: bool = False
    images: int | None = None
    annotations: int | None = None
    unit: str = "annotations"
    expected_images: int | None = None
    expected_annotations: int | None = None
    splits: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def count(self, *kinds: str) -> int:
        """Number of findings of these kinds."""
        return sum(finding.kind in kinds for finding in self.findings)

    @property
    def errors(self) -> int:
        """Number of findings that are errors."""
        return sum(finding.severity == ERROR for finding in self.findings)

    @property
    def partial(self) -> bool:
        """Whether it holds less than the published set."""
        counts = (
            (self.images, self.expected_images),
            (self.annotations, self.expected_annotations),
        )
        return any(has is not None and full is not None and has < full for has, full in counts)

    @property
    def state(self) -> str:
        """ "missing", "broken", "warning" or "ok"."""
        if not self.found:
            return "missing"
        if self.errors:
            return "incomplete" if self.errors == self.count("missing") else "broken"
        return "ok" if not self.count("substitute") else "warning"


def explain(message: str, paths: Sequence[Path]) -> tuple[Path, str, str]:
    """A loader's message as (file, what is wrong, what to do).

    Args:
        message: of an `InputError`.
        paths: files that it may be about, at least one; it is about the one that it names first.
    """
    path, text, first = paths[0], message, len(message)
    for candidate in paths:
        named = re.search(rf" ?{re.escape(str(candidate))}(?![\w/])", message)
        if named and named.start() < first:
            path, first = candidate, named.start()
            text = (message[: named.start()] + message[named.end() :]).lstrip(" ,:")
    for match in _REMEDY.finditer(text):
        problem = text[: match.start()]
        if problem.count("(") == problem.count(")"):
            return path, problem, text[match.end() :]
    return path, text, COPY_AGAIN


def samples(items: list) -> list:
    """The first, the middle and the last of a list."""
    return [items[i] for i in sorted({0, len(items) // 2, len(items) - 1})] if items else []

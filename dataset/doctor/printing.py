"""The doctor's findings as text for a terminal, and as JSON."""

from __future__ import annotations

import dataclasses
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataset.doctor.report import ERROR, NOTE, WARNING, Finding, Level, SetReport

MOST_GROUPS = 8
MOST_PATHS = 3
_COLOURS = {
    "ok": "32",
    "warning": "33",
    "incomplete": "31",
    "broken": "31",
    "missing": "31",
    ERROR: "31",
    NOTE: "2",
    "head": "1",
}
_WIDTH = 100
_HEAD = ("data set", "state", "images", "published", "annotations", "published")
_FAULTS = ("missing", "broken", "orphan")
_FACTS = ("source", "url", "images_from", "licence")
_REPORTED = (
    *("state", "found", "images", "expected_images", "annotations", "expected_annotations"),
    *("partial", "unit", "splits"),
)
"""Fields of a report, in the order of the JSON object."""


Paint = Callable[[str, str], str]
"""(style, text) -> text in that colour, or as it is."""


def _paint(style: str, text: str) -> str:
    code = _COLOURS.get(style)
    return f"\033[{code}m{text}\033[0m" if code else text


def as_json(dataset_dir: Path, level: Level, reports: Sequence[SetReport]) -> dict[str, Any]:
    """Everything that was found, as plain data."""
    return {
        "dataset_dir": os.path.abspath(dataset_dir),
        "level": level.name.lower(),
        "ok": not any(report.errors for report in reports),
        "sets": [_set_as_json(report) for report in reports],
    }


def _set_as_json(report: SetReport) -> dict[str, Any]:
    return {
        "name": report.name,
        "family": getattr(report.facts, "family", None),
        **{name: getattr(report, name) for name in _REPORTED},
        **{kind: report.count(kind) for kind in _FAULTS},
        **{name: getattr(report.facts, name, None) for name in _FACTS},
        "findings": [
            {**dataclasses.asdict(finding), "severity": finding.severity}
            for finding in report.findings
        ],
    }


def as_text(
    dataset_dir: Path, level: Level, reports: Sequence[SetReport], colours: bool = False
) -> str:
    """Table, sources, findings and a last line that says whether all is well."""
    paint: Paint = _paint if colours else lambda style, text: text
    depth = "every image and mask decoded"
    if level < Level.DEEP:
        depth = "a few images decoded; --deep decodes all"
    parts = [
        f"Data sets in {dataset_dir} ({depth})",
        _table(reports, paint),
        _splits(reports, paint),
        _sources(reports, paint),
    ]
    parts += _findings(Path(dataset_dir), reports, paint)
    last = _partial(reports) + _verdict(reports, paint)
    return "\n\n".join([*filter(None, parts), last])


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _table(reports: Sequence[SetReport], paint: Paint) -> str:
    rows = []
    for report in reports:
        counts = [report.images, report.expected_images]
        counts += [report.annotations, report.expected_annotations]
        cells = [_number(count) for count in counts]
        if not report.found:
            cells[0] = cells[2] = "-"
        cells += [f"{report.count(kind):,}" for kind in _FAULTS]
        rows.append([report.name, report.state, *cells, report.unit])
    head = [*_HEAD, *_FAULTS, "annotations are"]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    left = (0, 1, len(head) - 1)

    def line(cells: Sequence[str], styles: Mapping[int, str]) -> str:
        padded = [
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(paint(styles.get(n, ""), cell) for n, cell in enumerate(padded)).rstrip()

    lines = [line(head, dict.fromkeys(range(len(head)), "head"))]
    for row in rows:
        faults = {n: ERROR for n in range(6, 6 + len(_FAULTS)) if row[n] != "0"}
        lines.append(line(row, {1: row[1], **faults}))
    return "\n".join(lines) + "\npublished: what the full set has, ? where that is not known"


def _splits(reports: Sequence[SetReport], paint: Paint) -> str:
    """Which splits were looked at, of sets that have them in one folder."""
    lines = [
        f"{report.name}: {', '.join(f'{name} ({n:,})' for name, n in report.splits.items())}"
        for report in reports
        if report.splits
    ]
    head = paint("head", "Splits that were checked")
    return "\n  ".join([head, *lines]) if lines else ""


def _sources(reports: Sequence[SetReport], paint: Paint) -> str:
    grouped: dict[tuple[str, ...], list[str]] = {}
    for report in reports:
        if (facts := report.facts) is not None:
            key = (facts.source, facts.url, facts.images_from, facts.licence)
            names = grouped.setdefault(key, [])
            names += [facts.name] if facts.name not in names else []
    if not grouped:
        return ""
    lines = [paint("head", "Where to get them")]
    for (source, url, images, licence), names in grouped.items():
        lines += [f"  {', '.join(names)}: {source}", f"      {url}"]
        lines += [f"      images: {images}"] if images else []
        lines.append(f"      licence: {licence}")
    return "\n".join(lines)


def _findings(root: Path, reports: Sequence[SetReport], paint: Paint) -> list[str]:
    """A block for each data set that has findings; what several sets share is told once."""
    owners: dict[tuple[str, str], list[str]] = {}
    for report in reports:
        for finding in report.findings:
            owners.setdefault((finding.path, finding.problem), []).append(report.name)
    blocks = []
    for report in reports:
        own = [
            (finding, names[1:])
            for finding in report.findings
            if (names := owners[(finding.path, finding.problem)])[0] == report.name
        ]
        if own:
            blocks.append("\n".join([paint("head", report.name), *_grouped(root, own, paint)]))
    return blocks


def _grouped(root: Path, findings: Sequence[tuple[Finding, list[str]]], paint: Paint) -> list[str]:
    """Lines about (finding, other sets that have it); those that say the same are one group."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for severity in (ERROR, WARNING, NOTE):
        for finding, others in findings:
            if finding.severity == severity:
                also = f"; also for {', '.join(dict.fromkeys(others))}" if others else ""
                problem = finding.problem.replace(f"{root}{os.sep}", "") + also
                key = (severity, problem, finding.remedy)
                groups.setdefault(key, []).append(_short(root, finding.path))
    lines = []
    for (severity, problem, remedy), paths in list(groups.items())[:MOST_GROUPS]:
        for place, path in enumerate(paths[:MOST_PATHS]):
            lines.append("  " + (paint(severity, f"{severity:8}") if not place else " " * 8) + path)
        if len(paths) > MOST_PATHS:
            more = len(paths) - MOST_PATHS
            lines.append(f"{'':10}and {more:,} more like this; --json lists all")
        lines += _wrapped(problem, "") + _wrapped(remedy, "-> ")
    rest = sum(map(len, list(groups.values())[MOST_GROUPS:]))
    if rest:
        lines.append(f"  and {rest:,} more; --json lists all")
    return lines


def _wrapped(text: str, mark: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=" " * 12 + mark,
        subsequent_indent=" " * (12 + len(mark)),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _short(root: Path, path: str) -> str:
    return os.path.relpath(path, root) if Path(path).is_relative_to(root) else path


def _partial(reports: Sequence[SetReport]) -> str:
    names = [report.name for report in reports if report.partial]
    if not names:
        return ""
    which = "All" if len(names) == len(reports) else f"{len(names)} of {len(reports)}"
    subject = "The data set holds" if len(reports) == 1 else f"{which} data sets hold"
    text = (
        f"{subject} less than what is published ({', '.join(names)}): that is fine if "
        "a part or toy data is what you want."
    )
    return "\n".join(textwrap.wrap(text, _WIDTH, break_on_hyphens=False)) + "\n"


def _verdict(reports: Sequence[SetReport], paint: Paint) -> str:
    findings = [finding for report in reports for finding in report.findings]
    errors = sum(finding.severity == ERROR for finding in findings)
    warnings = sum(finding.severity == WARNING for finding in findings)
    counts = [
        f"{n:,} {noun}{'s' * (n != 1)}" for n, noun in ((errors, ERROR), (warnings, WARNING)) if n
    ]
    count, broken = len(reports), sum(bool(report.errors) for report in reports)
    if errors:
        which = f"{broken} of {count} data sets cannot be used as they are"
        which = "the data set cannot be used as it is" if count == 1 else which
        return paint(ERROR, f"{', '.join(counts)}; {which}.")
    if warnings:
        which = "the data set" if count == 1 else f"all {count} data sets"
        return paint(WARNING, f"{counts[0]}; {which} can be used.")
    which = "The data set is" if count == 1 else f"All {count} data sets are"
    return paint("ok", f"{which} in order.")

"""One self-contained HTML page of numbers, curves, tables and images."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from utils.evaluation.evaluator import EvalResult, Scores
from utils.files import write_file
from utils.reports.visualize import answer_tiles, embed_png

ASSETS = Path(__file__).parent / "assets"
TILE_SIDE = 256
"""Shorter side of the images on the page, in pixels."""
WIDEST = 140
"""Columns of the terminal that a table may take."""
NOTHING = "–"
"""Stands where there was nothing to count."""


@dataclass
class Example:
    """A question about an image, its answer, and images of both.

    Args:
        question, answer: texts.
        verdict: one short line, such as "there, IoU 0.91".
        right: whether the answer counts as right; colours the verdict.
        tiles: (caption, image as a data URI).
    """

    question: str
    answer: str
    verdict: str
    right: bool
    tiles: list[tuple[str, str]]


@dataclass
class Table:
    """Rows of text under a heading; `note` explains how to read them."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass
class Report:
    """Everything on the page, in the order in which it is shown.

    Args:
        title, intro: heading and the first paragraph.
        figures: (name, value, remark), the numbers to see first.
        charts: (title, SVG of `utils.reports.charts.line_chart`).
        tables: see `Table`.
        examples: see `Example`.
        details: (title, plain text) folded away at the end.
    """

    title: str
    intro: str
    figures: list[tuple[str, str, str]] = field(default_factory=list)
    charts: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    details: list[tuple[str, str]] = field(default_factory=list)


def number(value: float | None, digits: int = 3) -> str:
    """A metric as text; a dash where there was nothing to count."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{_rounded(value, digits):.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference as text, with its sign; what rounds to zero has none."""
    if value is None or math.isnan(value):
        return NOTHING
    rounded = _rounded(value, digits)
    return f"{rounded:{'+' if rounded else ''}.{digits}f}"


def _rounded(value: float, digits: int) -> float:
    """Never -0.0."""
    return round(value, digits) + 0.0


def kind_title(kind: str) -> str:
    """How a kind of question is shown."""
    return kind or "no kind"


def _row(name: str, scores: Scores, see: bool) -> list[str]:
    """Cells of one line."""
    segmentation = scores.segmentation
    row = [name, str(segmentation.count), number(segmentation.giou), number(scores.ciou)]
    return row + ([number(scores.see.accuracy)] if see else [])


def kind_table(title: str, result: EvalResult, see: bool = True, note: str = "") -> Table:
    """gIoU, cIoU and See of every kind of question, of all objects, and of all questions.

    Args:
        title: heading.
        result: of an evaluation.
        see: whether the model could say no: leave it out for teacher-forced answers.
        note: shown under the table.
    """
    header = ["kind of question", "questions", "gIoU", "cIoU"] + (["See"] if see else [])
    rows = [_row(kind_title(kind), scores, see) for kind, scores in result.per_kind.items()]
    if len(result.objects.segmentation.pairs) < len(result.records):
        rows.append(_row("objects that are there", result.objects, see))
    rows.append(_row("all", result.scores, see))
    return Table(title, header, rows, note)


def table_text(table: Table, widest: int = WIDEST) -> str:
    """A table for the terminal: numbers to the right, words to the left.

    Args:
        table: the table; its note is not shown.
        widest: where it would be wider, the widest columns are wrapped, as far as is needed.
    """
    columns = list(zip(table.header, *table.rows, strict=True))
    numeric = [
        n > 0 and all(re.fullmatch(r"[-+–.\d/()% ]*", cell) for cell in column[1:])
        for n, column in enumerate(columns)
    ]
    wrapped = [[[cell] for cell in column] for column in columns]
    widths = [_width(column) for column in wrapped]
    words = [
        max(len(word) for cell in column for word in ["", *cell.split()]) for column in columns
    ]
    while sum(widths) + 2 * (len(widths) - 1) > widest and max(widths) > 1:
        # A word is broken only where nothing else is left to narrow.
        loose = [width for width, word in zip(widths, words, strict=True) if width > word]
        limit = max(loose or widths) - 1
        for n, (width, word) in enumerate(zip(widths, words, strict=True)):
            if width > limit and (width > word or not loose):
                wrapped[n] = [_wrapped(cell, limit) for cell in columns[n]]
                widths[n] = _width(wrapped[n])
    rows = []
    for cells in zip(*wrapped, strict=True):
        for pieces in zip_longest(*cells, fillvalue=""):
            placed = zip(pieces, widths, numeric, strict=True)
            line = (piece.rjust(w) if right else piece.ljust(w) for piece, w, right in placed)
            rows.append("  ".join(line).rstrip())
    heads = max(len(column[0]) for column in wrapped)
    rule = "-" * max(len(line) for line in rows)
    title = textwrap.fill(table.title, widest)
    return "\n".join([title, rule, *rows[:heads], rule, *rows[heads:], rule])


def _wrapped(cell: str, limit: int) -> list[str]:
    return textwrap.wrap(cell, limit, break_on_hyphens=False) or [""]


def _width(cells: Sequence[Sequence[str]]) -> int:
    return max(len(piece) for pieces in cells for piece in pieces)


def example_of(
    image: np.ndarray, question: str, answer: Any, truth: np.ndarray, exists: bool, iou: float
) -> Example:
    """Images and verdict of one answer.

    Args:
        image: uint8[H, W, 3].
        question: as asked.
        answer: `model.inference.reader.Answer`.
        truth: uint8[H, W] (0/1/255).
        exists: whether the object is there.
        iou: of the answer's mask with the truth.
    """
    drawn = answer_tiles(image, answer.segments, answer.mask, truth, TILE_SIDE)
    tiles = [(caption, embed_png(tile)) for caption, tile in drawn]
    if exists:
        right = answer.present and iou >= 0.5
        verdict = f"it is there; {f'IoU {iou:.2f}' if answer.present else 'not seen'}"
    else:
        right = not answer.present
        verdict = f"it is not there; {'invented' if answer.present else 'rightly denied'}"
    return Example(question, answer.text, verdict, right, tiles)


def fill_template(name: str, **values: Any) -> str:
    """A page from a template in `assets`; texts in it are escaped."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(**values)


def render(report: Report) -> str:
    """The page as HTML text."""
    charts = [(title, Markup(svg)) for title, svg in report.charts]
    return fill_template("report.html.j2", report=report, charts=charts)


def write_report(path: str | Path, report: Report) -> Path:
    """Write the page.

    Raises:
        InputError: the file cannot be written.
    """
    return write_file(path, render(report))

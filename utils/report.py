"""One self-contained HTML page of numbers, curves, tables and pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from utils.errors import InputError
from utils.evaluator import EvalResult, Scores
from utils.visualize import answer_tiles, embed_png

ASSETS = Path(__file__).parent / "assets"
TILE_SIDE = 256
"""Shorter side of the pictures on the page, in pixels."""


@dataclass
class Example:
    """A question about a picture, its answer, and pictures of both.

    Args:
        question, answer: texts.
        verdict: one short line, such as "there, IoU 0.91".
        right: whether the answer counts as right; colours the verdict.
        tiles: (caption, picture as a data URI).
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
        charts: (title, SVG of `utils.charts.line_chart`).
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
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _row(name: str, scores: Scores, see: bool) -> list[str]:
    """Cells of one line; without a single pixel of an object there is no cIoU to tell."""
    segmentation = scores.segmentation
    any_pixel = any(union for _, union in segmentation.pairs)
    row = [
        name,
        str(segmentation.count),
        number(segmentation.giou),
        number(segmentation.ciou if any_pixel else None),
    ]
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
    rows = [_row(kind or "-", scores, see) for kind, scores in result.per_kind.items()]
    if len(result.objects.segmentation.pairs) < len(result.records):
        rows.append(_row("objects that are there", result.objects, see))
    rows.append(_row("all", result.scores, see))
    return Table(title, header, rows, note)


def table_text(table: Table) -> str:
    """A table for the terminal: numbers to the right, words to the left."""
    lines = [list(row) for row in [table.header, *table.rows]]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(re.fullmatch(r"[-+–.\d/()% ]*", cell) for cell in c[1:]) for c in columns]
    text = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    ]
    rule = "-" * max(len(line) for line in text)
    return "\n".join([table.title, rule, text[0], rule, *text[1:], rule])


def example_of(
    image: np.ndarray, question: str, answer: Any, truth: np.ndarray, exists: bool, iou: float
) -> Example:
    """Pictures and verdict of one answer.

    Args:
        image: uint8[H, W, 3].
        question: as asked.
        answer: `model.reader.Answer`.
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
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(report), encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror or error}): give another folder, or make room"
        ) from error
    return path

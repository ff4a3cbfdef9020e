"""The page of an analysis: every question with its maps, points and masks, models side by side.

One static file beside the folders of the models; it is opened without a server, and loads an image
when it comes into view. What models and data say is data to it, never markup.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from utils.analysis.layers import POINTS
from utils.analysis.records import (
    FINAL,
    MAPS,
    MASKS,
    QUESTIONS_FILE,
    SUMMARY_FILE,
    QuestionAnalysis,
    read_analysis,
)
from utils.errors import InputError
from utils.files import write_file
from utils.reports.charts import MAX_LINES, Curve, line_chart
from utils.reports.page import ASSETS, fill_template, number

DASHBOARD_FILE = "dashboard.html"
CONFIG_FILE = "config.yaml"
ALL = "all"

HIDDEN_AT_FIRST = ("word", "text", "discrete", "points")
"""Columns that are shown when they are chosen."""


@dataclass
class ModelAnalysis:
    """What one model's folder holds.

    Args:
        name: of the folder.
        questions: in the order of the data.
        summary: of `summary.json`; empty if there is none.
        config: text of `config.yaml`; empty if there is none.
    """

    name: str
    questions: list[QuestionAnalysis]
    summary: dict[str, Any]
    config: str = ""


@dataclass
class MeasureTable:
    """Measures of a group of questions: a row a measure, a column a model.

    Args:
        title: name of the group.
        rows: name of the measure, then (value, interval) for each model.
    """

    title: str
    rows: list[tuple[str, list[tuple[str, str]]]]


def write_dashboard(folder: str | Path) -> Path:
    """Write the page of all models whose folders lie in `folder`.

    Returns:
        its path.

    Raises:
        InputError: there is no analysis, one cannot be read, or the page cannot be written.
    """
    folder = Path(folder)
    places = sorted(path.parent for path in folder.glob(f"*/{QUESTIONS_FILE}"))
    if not places:
        raise InputError(
            f"no analysis in {folder}: expected FOLDER/MODEL/{QUESTIONS_FILE}, as "
            "analyze_read.py writes it"
        )
    models = [
        ModelAnalysis(place.name, read_analysis(place), _summary(place), _config(place))
        for place in places
    ]
    return write_file(folder / DASHBOARD_FILE, page(models))


def page(models: Sequence[ModelAnalysis]) -> str:
    """The page as HTML text."""
    return fill_template(
        "dashboard.html.j2",
        models=[model.name for model in models],
        tables=measure_tables(models),
        layers=Markup(chart) if (chart := layer_chart(models)) else None,
        drawn=min(len(models), MAX_LINES),
        notes=_notes(models),
        settings=[(model.name, model.config) for model in models if model.config],
        data=Markup(as_script(page_data(models))),
        script=Markup((ASSETS / "dashboard.js").read_text(encoding="utf-8")),
    )


def page_data(models: Sequence[ModelAnalysis]) -> dict[str, Any]:
    """What the page's script shows: columns, models, and the questions with what each model made.

    Scores of a question: `FINAL` and names of masks are IoUs, names of maps best S-IoUs. Models
    stand together where key, words and file name agree: others saw other data.
    """
    by_key: dict[tuple[tuple[int, int], str, str], list[QuestionAnalysis | None]] = {}
    for place, model in enumerate(models):
        for question in model.questions:
            key = question.key, question.question, Path(question.image).name
            by_key.setdefault(key, [None] * len(models))[place] = question
    drawn = {
        name for row in by_key.values() for question in row if question for name in question.images
    }
    return {
        "models": [model.name for model in models],
        "columns": [column for column in _columns() if column["id"] in drawn],
        "maps": list(MAPS),
        "points": POINTS,
        "questions": [_question(row) for _, row in sorted(by_key.items(), key=lambda one: one[0])],
    }


def _columns() -> Iterable[dict[str, Any]]:
    order = {"image": "image", **MAPS, POINTS: "points", **MASKS, FINAL: "final mask"}
    for name, title in {**order, "truth": "truth"}.items():
        yield {"id": name, "title": title, "shown": name not in HIDDEN_AT_FIRST}


def _question(row: Sequence[QuestionAnalysis | None]) -> dict[str, Any]:
    first = next(question for question in row if question is not None)
    return {
        "text": first.question,
        "kind": first.kind,
        "image": first.image,
        "truth": first.truth_present,
        "size": list(first.size),
        "answers": [None if question is None else _answer(question) for question in row],
    }


def _answer(question: QuestionAnalysis) -> dict[str, Any]:
    """What a model made of a question. Images: one name's beginning, and the names behind it."""
    scores = {name: question.iou(name) for name in question.masks}
    scores |= {name: score.best_s_iou for name, score in question.maps.items()}
    points = question.points
    layers = {name: file for name, file in question.images.items() if name != "image"}
    ends = {name: f"{name}.png" for name in layers}
    starts = {file.removesuffix(ends[name]) for name, file in layers.items()}
    regular = len(starts) == 1 and all(file.endswith(ends[name]) for name, file in layers.items())
    common = starts.pop() if regular else ""
    return {
        "text": question.answer,
        "present": question.present,
        "scores": {
            name: round(value, 4)
            for name, value in scores.items()
            if value is not None and math.isfinite(value)
        },
        "points": None
        if points is None
        else [points.positive_inside, points.positive, points.negative_outside, points.negative],
        "image": question.images.get("image"),
        "start": common,
        "layers": list(layers) if common else layers,
    }


def as_script(data: Any) -> str:
    """JSON that may stand inside a script element, whatever texts it holds."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def measure_tables(models: Sequence[ModelAnalysis]) -> list[MeasureTable]:
    """A table for all questions, then one a kind; those in which no model has a number are left."""
    groups = list(dict.fromkeys([ALL, *(g for m in models for g in m.summary.get("measures", {}))]))
    tables = []
    for group in groups:
        measures = [model.summary.get("measures", {}).get(group, {}) for model in models]
        names = list(dict.fromkeys(name for table in measures for name in table))
        rows = [(name, [_cell(table.get(name)) for table in measures]) for name in names]
        if rows:
            tables.append(MeasureTable("all questions" if group == ALL else group, rows))
    return tables


def _cell(measure: dict[str, float | None] | None) -> tuple[str, str]:
    value, low, high = ((measure or {}).get(name) for name in ("value", "low", "high"))
    if low is None or high is None:
        return number(value), ""
    return number(value), f"{number(low)}{'–' if low >= 0 else ' to '}{number(high)}"


def layer_chart(models: Sequence[ModelAnalysis]) -> str | None:
    """Best S-IoU by layer of the language model, a line a model, as SVG; None without layers."""
    curves = []
    for model in models:
        layers = sorted((int(k), cell) for k, cell in model.summary.get("layers", {}).items())
        pairs = [(k, cell["value"]) for k, cell in layers if cell["value"] is not None]
        band = [(k, cell["low"], cell["high"]) for k, cell in layers if cell["low"] is not None]
        curves.append(Curve(model.name, pairs, band))
    curves = curves[:MAX_LINES]
    if not any(len(curve.pairs) > 1 for curve in curves):
        return None
    return line_chart(curves, "layer of the language model")


def _notes(models: Sequence[ModelAnalysis]) -> list[str]:
    """Every note once, with the names of its models if it is not about all of them."""
    about: dict[str, list[str]] = {}
    for model in models:
        for note in model.summary.get("notes", []):
            about.setdefault(note, []).append(model.name)
    return [
        note if len(names) == len(models) else f"{', '.join(names)}: {note}"
        for note, names in about.items()
    ]


def _config(folder: Path) -> str:
    """The text of the folder's settings; empty if there are none."""
    path = folder / CONFIG_FILE
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _summary(folder: Path) -> dict[str, Any]:
    """The folder's summary; empty if there is none.

    Raises:
        InputError: it is damaged.
    """
    path = folder / SUMMARY_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {path} ({error}); analyze_read.py --cmd dashboard writes it again"
        ) from error

"""The files of one model's analysis: questions as they are made, tables at the end.

run.json        what was analysed; another analysis does not go into the same folder
config.yaml     the flags
questions.jsonl a line a question (`utils.analysis.records`)
images/         what the lines name
summary.json, summary.csv, questions.csv, layers.csv
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from utils.analysis.records import (
    MAPS,
    MASKS,
    QUESTIONS_FILE,
    SUMMARY_FILE,
    QuestionAnalysis,
    read_analysis,
)
from utils.analysis.summary import summarise
from utils.errors import InputError
from utils.evaluation.predictions import RUN_FILE
from utils.files import append_lines, mend_lines, write_file, write_json

TABLES_AGAIN = "make room, then analyze_read.py --cmd dashboard writes the tables again"
IMAGES = "images"
FORMER_IMAGES = "pictures"  # the folder's name in version 0.1.0


class AnalysisFile:
    """The lines of one model, appended as they are made.

    Args:
        folder: the model's; exists.

    Attributes:
        questions: those that were there when the file was opened.

    Raises:
        InputError: a line is damaged, other than a half-written last one, which is cut off.
    """

    def __init__(self, folder: str | Path):
        self.path = Path(folder) / QUESTIONS_FILE
        self.questions = read_analysis(folder) if self.path.exists() else []
        mend_lines(self.path, map(asdict, self.questions))
        self._keys = {one.key for one in self.questions}

    @property
    def first_open(self) -> int:
        """The first image that may have questions which are not analysed.

        Lines are in the order of the data, so all images before the last one are done.
        """
        return max((image for image, _ in self._keys), default=0)

    def has(self, image_index: int, number: int) -> bool:
        """Whether a question was there when the file was opened."""
        return (image_index, number) in self._keys

    def write(self, questions: Sequence[QuestionAnalysis]) -> None:
        """Append questions; they are on the disk when this returns."""
        append_lines(self.path, map(asdict, questions))


def forget_analysis(folder: str | Path) -> None:
    """Delete the analysis in a folder, and nothing else there."""
    folder = Path(folder)
    if (folder / RUN_FILE).exists():
        for name in (IMAGES, FORMER_IMAGES):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (QUESTIONS_FILE, RUN_FILE):
            (folder / name).unlink(missing_ok=True)


def write_tables(folder: str | Path) -> dict[str, Any]:
    """Summarise the questions of a model's folder; write its tables beside them.

    Returns:
        the summary (`utils.analysis.summary.summarise`).

    Raises:
        InputError: no questions there, or a file cannot be written.
    """
    folder = Path(folder)
    records = read_analysis(folder)
    summary = summarise(records, folder.name, _notes(folder))
    write_json(folder / SUMMARY_FILE, summary, TABLES_AGAIN, allow_nan=False)
    _write_csv(folder / "summary.csv", _summary_rows(summary))
    _write_csv(folder / "questions.csv", _question_rows(records))
    if layers := [{"layer": layer, **cell} for layer, cell in summary["layers"].items()]:
        _write_csv(folder / "layers.csv", layers)
    return summary


def analysed_folders(out: str | Path) -> list[Path]:
    """The folders of the models in an analysis.

    Raises:
        InputError: there is none.
    """
    folders = sorted(path.parent for path in Path(out).glob(f"*/{QUESTIONS_FILE}"))
    if not folders:
        raise InputError(
            f"no analysis in {out}: expected MODEL/{QUESTIONS_FILE}; write one with analyze_read.py"
        )
    return folders


def _notes(folder: Path) -> list[str]:
    """Those that the analysis left in `run.json`."""
    try:
        return list(json.loads((folder / RUN_FILE).read_text(encoding="utf-8")).get("notes", []))
    except (OSError, ValueError):
        return []


def _summary_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"model": summary["model"], "group": group, "measure": name, **cell}
        for group, table in summary["measures"].items()
        for name, cell in table.items()
    ]


def _question_rows(records: Sequence[QuestionAnalysis]) -> list[dict[str, Any]]:
    """A row for each question; an empty cell is something that it does not have."""
    rows = []
    for question in records:
        row: dict[str, Any] = {
            name: getattr(question, name)
            for name in ("image_index", "number", "image", "kind", "question", "answer")
        }
        row |= {"present": question.present, "truth_present": question.truth_present}
        row |= {f"IoU {heading}": question.iou(mask) for mask, heading in MASKS.items()}
        for name, heading in MAPS.items():
            score = question.maps.get(name)
            row[f"S-IoU {heading}"] = score.s_iou if score else None
            row[f"best S-IoU {heading}"] = score.best_s_iou if score else None
            row[f"best threshold {heading}"] = score.best_threshold if score else None
        for name in ("positive", "positive_inside", "negative", "negative_outside"):
            row[f"points {name}"] = getattr(question.points, name) if question.points else None
        for pair, both in question.correlations.items():
            row |= {f"Pearson {pair}": both.pearson, f"rank {pair}": both.rank}
        row |= {f"layer {layer}": value for layer, value in question.layers.items()}
        rows.append(row)
    return rows


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, names)
    table.writeheader()
    table.writerows(rows)
    write_file(path, text.getvalue(), TABLES_AGAIN)

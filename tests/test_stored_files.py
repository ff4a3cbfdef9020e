"""Files that version 0.1.0 wrote load and give the numbers that it wrote beside them.

`tests/data/before` holds two folders of predictions (one with an ablation, under the key `varied`),
an analysis (with `picture` for image), and the validations of a training run.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from utils.analysis.dashboard import ModelAnalysis, page_data
from utils.analysis.files import AnalysisFile, write_tables
from utils.analysis.records import read_analysis
from utils.evaluation.predictions import PredictionFile
from utils.files import read_lines
from utils.hub.model_card import validation_of
from utils.reports.score_folder import score_folder
from utils.training.run_log import drop_after

BEFORE = Path(__file__).parent / "data" / "before"
RENAMED = {"picture": "image", "pictures": "images"}


def current(stored: Any) -> Any:
    """Stored data with the keys, names and folders of today."""
    if isinstance(stored, dict):
        return {RENAMED.get(key, key): current(value) for key, value in stored.items()}
    if isinstance(stored, list):
        return [current(value) for value in stored]
    return RENAMED.get(stored, stored) if isinstance(stored, str) else stored


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(BEFORE, tmp_path / "before"))


@pytest.mark.parametrize("name", ["predictions", "predictions_fprefcoco"])
def test_metrics_of_predictions(folder, name):
    score_folder(folder / name, page=False)
    stored = read_json(BEFORE / name / "metrics.json")
    assert read_json(folder / name / "metrics.json") == current(stored)
    modes = {"predictions": ["generated", "teacher_forced"], "predictions_fprefcoco": ["generated"]}
    assert sorted(stored) == modes[name]


def test_ablation_of_predictions(folder):
    (folder / "predictions" / "ablation.csv").unlink()
    score_folder(folder / "predictions", page=False)
    stored = (BEFORE / "predictions" / "ablation.csv").read_text("utf-8")
    assert (folder / "predictions" / "ablation.csv").read_text("utf-8") == stored
    assert len(stored.splitlines()) == 1 + 2 * 17


def test_an_evaluation_goes_on_where_it_stopped(folder):
    file = PredictionFile(folder / "predictions", 0, 1, "generated")
    assert file.done == set(range(8)) and len(file.result.records) == 16
    assert all(len(record.sweep_outcomes or []) == 16 for record in file.result.records)


def test_tables_of_an_analysis(folder):
    write_tables(folder / "analysis" / "read")
    written, stored = (place / "analysis" / "read" for place in (folder, BEFORE))
    assert read_json(written / "summary.json") == read_json(stored / "summary.json")
    rows, expected = (
        list(csv.DictReader((place / "questions.csv").open(encoding="utf-8", newline="")))
        for place in (written, stored)
    )
    for row in expected:
        row["image_index"] = row.pop("picture")
    assert rows == expected and len(rows) == 14


def test_dashboard_of_an_analysis():
    read = BEFORE / "analysis" / "read"
    data = page_data([ModelAnalysis(read.name, read_analysis(read), {})])
    assert json.loads(json.dumps(data)) == current(read_json(BEFORE / "analysis/page_data.json"))
    assert data["questions"][0]["answers"][0]["image"].startswith("pictures/")


def test_an_analysis_goes_on_where_it_stopped(folder):
    file = AnalysisFile(folder / "analysis" / "read")
    assert file.first_open == 13 and file.has(13, 0) and not file.has(14, 0)


def test_validations_of_a_run(folder):
    run = folder / "tiny_run"
    stored = read_json(BEFORE / "tiny_run" / "metrics.jsonl")
    assert stored["step"] == 150 and validation_of(run, 150) == stored
    drop_after(run / "metrics.jsonl", 150)
    assert read_lines(run / "metrics.jsonl") == [stored]

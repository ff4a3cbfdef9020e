"""Metrics of a finished run from its predictions alone: no model, no data set, no GPU.

`score_folder` reads the predictions of a folder (ours, or the original's layout) and writes
`metrics.json` and the page `report.html` beside them; after an ablation also `ablation.json`,
`ablation.csv` and `ablation.html`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.evaluation.ablation import SettingScores, ablation_csv, ablation_json, score_settings
from utils.evaluation.group_scores import ModeScores, score
from utils.evaluation.original_predictions import has_original_layout, read_original
from utils.evaluation.predictions import RUN_FILE, EvalRun, read_run
from utils.files import write_file, write_json
from utils.reports.ablation_page import ablation_page, ablation_tables
from utils.reports.evaluation_page import score_page, score_tables
from utils.reports.page import Table

METRICS_FILE = "metrics.json"
PAGE_FILE = "report.html"
ELSEWHERE = "make room, or copy the folder to where you may write"
ABLATION_FILE = "ablation"
"""Without the ending: there are three of them."""


@dataclass
class FolderScores:
    """What `score_folder` found: the run on the disk, mode -> its metrics, mode -> settings."""

    run: EvalRun
    modes: dict[str, ModeScores]
    ablation: dict[str, list[SettingScores]] = field(default_factory=dict)

    @property
    def tables(self) -> list[Table]:
        """The numbers for the terminal (`utils.reports.page.table_text`)."""
        return [*score_tables(self.modes), *ablation_tables(self.ablation)]

    def as_dict(self) -> dict[str, Any]:
        return {mode: scores.as_dict() for mode, scores in self.modes.items()}


def read_predictions(folder: str | Path) -> EvalRun:
    """A finished run in either layout.

    Raises:
        InputError: no predictions, or those of two layouts, or see `read_run`, `read_original`.
    """
    folder = Path(folder)
    original, ours = has_original_layout(folder), (folder / RUN_FILE).exists()
    if original and ours:
        raise InputError(
            f"{folder} holds {RUN_FILE} and preds_*.json: two sets of predictions; "
            "move one of them to another folder"
        )
    return read_original(folder) if original else read_run(folder)


def score_folder(
    folder: str | Path, page: bool = True, image_folder: str | Path | None = None
) -> FolderScores:
    """Compute the metrics of a finished run; write `metrics.json` and `report.html` beside it.

    Args:
        folder: the predictions, in either layout (see `read_predictions`).
        page: whether to write the page.
        image_folder: where images with relative paths are, besides the working directory and
            `folder`. The page does without images that are not found.

    Raises:
        InputError: see `read_predictions`; or the files cannot be written.
    """
    folder = Path(folder)
    run = read_predictions(folder)
    scores = FolderScores(run, {mode: score(result) for mode, result in run.results.items()})
    write_json(folder / METRICS_FILE, scores.as_dict(), ELSEWHERE, allow_nan=False)
    if page:
        roots = [folder, *([Path(image_folder)] if image_folder else [])]
        write_file(folder / PAGE_FILE, score_page(run, scores.modes, roots), ELSEWHERE)
    if run.ablation:
        scores.ablation = ablation = read_ablation(run)
        stem = folder / ABLATION_FILE
        write_json(f"{stem}.json", ablation_json(ablation), ELSEWHERE, allow_nan=False)
        write_file(f"{stem}.csv", ablation_csv(ablation), ELSEWHERE)
        if page:
            write_file(f"{stem}.html", ablation_page(ablation, run.about), ELSEWHERE)
    return scores


def read_ablation(run: EvalRun) -> dict[str, list[SettingScores]]:
    """The numbers of each setting, for each way of asking.

    Raises:
        InputError: see `score_settings`.
    """
    return {
        mode: score_settings(result, run.sasp, run.ablation) for mode, result in run.results.items()
    }

"""What an analysis of `[SEG]` found about a question, as lines on disk.

An analysis folder holds a folder for each model with `questions.jsonl` (one line a question, in the
order of the data), and the images that its lines name. Maps have the names of `MAPS`, masks those
of `MASKS`; a map or mask that a model cannot give is absent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.files import read_lines
from utils.protocol.constants import PROMPTS

QUESTIONS_FILE = "questions.jsonl"
SUMMARY_FILE = "summary.json"

MAPS = {
    "clip": "[SEG] x CLIP",
    "llava": "[SEG] x LLaVA",
    "sam": "[SEG] x SAM decoder",
    "word": "word x CLIP",
}
"""Similarity maps: name -> heading."""

MASKS = {
    "sam_points": "SAM, points only",
    **PROMPTS,
}
"""Masks by what SAM is given: name -> heading. `sam_points` is SAM before training, if its weights
are at hand; the others are the model's."""

FINAL = "final"
"""The mask of the answer, as the model's own settings make it; beside those of `MASKS`."""


@dataclass(frozen=True)
class MapScore:
    """Agreement of a similarity map with the true mask.

    Args:
        s_iou: IoU with the truth, the map cut at the stated threshold.
        best_s_iou: the highest over all thresholds.
        best_threshold: where that is, on the map scaled to [0, 1].
    """

    s_iou: float
    best_s_iou: float
    best_threshold: float


@dataclass(frozen=True)
class Correlation:
    """Correlation of two maps over the cells of CLIP's crop; None: one of them is constant."""

    pearson: float | None
    rank: float | None


@dataclass(frozen=True)
class PointScore:
    """Where the points of a question fell.

    Args:
        positive, negative: how many there are.
        positive_inside: how many of the positive ones lie inside the truth.
        negative_outside: how many of the negative ones lie outside it.
    """

    positive: int
    negative: int
    positive_inside: int
    negative_outside: int


@dataclass(frozen=True)
class QuestionAnalysis:
    """One question, seen by one model.

    Args:
        image_index: index of the image in the data.
        number: index of the question among those about this image.
        image: path of the image.
        question, answer: what was asked and what the model said.
        kind: group of the data set, such as "short" or "long"; may be empty.
        present: the model's answer has a mask that is not empty.
        truth_present: the object is there; None if the truth is not known.
        size: (H, W) of the image.
        masks: name in `MASKS`, or `FINAL` -> (intersection, union) with the truth, in pixels.
        maps: name in `MAPS` -> its score; empty without a true mask.
        layers: best S-IoU of `[SEG]` x LLaVA for the layers that were asked for.
        correlations: "first second" (names in `MAPS`) -> their correlation.
        points: None without a true mask.
        images: what is shown -> file, relative to the model's folder.
    """

    image_index: int
    number: int
    image: str
    question: str
    answer: str
    kind: str
    present: bool
    truth_present: bool | None
    size: tuple[int, int]
    masks: dict[str, tuple[int, int]] = field(default_factory=dict)
    maps: dict[str, MapScore] = field(default_factory=dict)
    layers: dict[int, float] = field(default_factory=dict)
    correlations: dict[str, Correlation] = field(default_factory=dict)
    points: PointScore | None = None
    images: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        """The same for the same question to another model."""
        return self.image_index, self.number

    def iou(self, mask: str) -> float | None:
        """IoU of a mask with the truth, 1 where both are empty; None where it is not known."""
        if mask not in self.masks:
            return None
        intersection, union = self.masks[mask]
        return intersection / union if union else 1.0


def question_of(raw: dict[str, Any]) -> QuestionAnalysis:
    """A question from the plain data of its line (`dataclasses.asdict`).

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    raw = _current_names(raw)
    raw["size"] = tuple(raw["size"])
    raw["masks"] = {name: tuple(pair) for name, pair in raw["masks"].items()}
    raw["maps"] = {name: MapScore(**score) for name, score in raw["maps"].items()}
    raw["layers"] = {int(layer): value for layer, value in raw["layers"].items()}
    raw["correlations"] = {pair: Correlation(**both) for pair, both in raw["correlations"].items()}
    raw["points"] = PointScore(**raw["points"]) if raw["points"] else None
    return QuestionAnalysis(**raw)


def _current_names(raw: dict) -> dict:
    """A line under the names of `QuestionAnalysis`; version 0.1.0 said "picture" for image."""
    if "picture" in raw:
        raw["image_index"] = raw.pop("picture")
        files = raw.pop("pictures")
        raw["images"] = {"image" if name == "picture" else name: files[name] for name in files}
    return raw


def read_analysis(folder: str | Path) -> list[QuestionAnalysis]:
    """The questions that one model's folder holds.

    Raises:
        InputError: no such file, or a line that is none of ours (the last one may be half written
            and is left out then).
    """
    path = Path(folder) / QUESTIONS_FILE
    if not path.is_file():
        raise InputError(f"no analysis at {path}; write one with analyze_read.py")
    return read_lines(path, "remove the line, or analyse again with --no_resume", question_of)

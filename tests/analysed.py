"""An analysis folder made by hand: toy-like images, maps that are blurred truths."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from utils.analysis.layers import draw_question
from utils.analysis.records import (
    QUESTIONS_FILE,
    MapScore,
    PointScore,
    QuestionAnalysis,
)
from utils.files import to_lines

SIZES = ((60, 100), (100, 60), (80, 80))


def analysed(
    number: int, model: int = 0, images: dict[str, str] | None = None, **changed
) -> QuestionAnalysis:
    """Question `number`: every fourth is about something absent; IoU rises with the number."""
    absent = number % 4 == 3
    union = 1000
    both = 0 if absent else min(union, 10 * number + 300 * model)
    given = {
        "image_index": number,
        "number": 0,
        "image": f"data/toy_{number:04d}.jpg",
        "question": f"Where is thing {number}?",
        "answer": f"Sure, [SEG] {number}.",
        "kind": "long" if number % 2 else "short",
        "present": not absent,
        "truth_present": not absent,
        "size": SIZES[number % 3],
        "masks": {
            "points": (both, 0 if absent else union),
            "final": (both, 0 if absent else union),
        },
        "maps": {} if absent else {"llava": MapScore(0.5, 0.6 + 0.001 * number, 0.4)},
        "points": None if absent else PointScore(8, 4, 7, 4),
        "images": images or {},
    }
    return QuestionAnalysis(**(given | changed))


def draw_one(folder: Path, number: int, seed: int = 0) -> dict[str, str]:
    """Images of question `number`, with a disc as the object."""
    height, width = SIZES[number % 3]
    rng = np.random.default_rng([seed, number])
    image = rng.integers(60, 120, (height, width, 3), dtype=np.uint8)
    centre = (int(rng.integers(20, width - 20)), int(rng.integers(20, height - 20)))
    truth = np.zeros((height, width), np.uint8)
    cv2.circle(truth, centre, 15, 1, cv2.FILLED)
    image[truth == 1] = (220, 60, 60)
    blurred = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 6)
    crop = blurred.copy()
    crop[:, :5] = np.nan
    mask = truth == 1
    return draw_question(
        image,
        {"clip": blurred, "llava": crop, "sam": blurred[::2, ::2]},
        np.array([centre, (3, 3)], np.float32),
        np.array([1, 0]),
        {"sam_points": mask, "text": mask, "points": mask, "final": mask},
        truth,
        folder,
        f"{number:05d}_00",
    )


def write_analysis(folder: Path, count: int, drawn: bool = True, models: int = 2) -> Path:
    """`count` questions to `models` models, with their summaries; returns `folder`."""
    for model in range(models):
        own = folder / f"model {model}"
        own.mkdir(parents=True)
        names = ("image", "marks", "clip", "llava", "sam", "sam_points", "text", "final", "truth")
        lines = []
        for number in range(count):
            told = {n: f"images/{number:05d}_00_{n}.png" for n in names}
            images = draw_one(own, number, model) if drawn else told
            lines.append(asdict(analysed(number, model, images)))
        (own / QUESTIONS_FILE).write_text(to_lines(lines), encoding="utf-8")
        cell = {"value": 0.5 + model / 10, "low": 0.4, "high": 0.7}
        empty = {"value": None, "low": None, "high": None}
        summary = {
            "model": own.name,
            "questions": count,
            "measures": {"all": {"gIoU": cell, "rank": empty}, "long": {"gIoU": cell}},
            "layers": {str(layer): {**cell, "value": layer / 10} for layer in (0, 2, 10)},
            "notes": [f"note {model}"],
        }
        (own / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder

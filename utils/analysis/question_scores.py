"""From what a question led to, to its line in the analysis."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.analysis.map_frames import PlacedMap
from utils.analysis.map_scores import best_s_iou, correlate, score_map, score_points
from utils.analysis.records import FINAL, MAPS, Correlation, QuestionAnalysis
from utils.metrics import intersection_and_union
from utils.protocol.constants import IGNORE_LABEL

if TYPE_CHECKING:
    from utils.protocol.batch import EvalItem


def is_known(truth: np.ndarray) -> bool:
    """Whether a true mask says anything: a question without one has 255 everywhere."""
    return bool((truth != IGNORE_LABEL).any())


def analyse_question(image_index: int, number: int, item: EvalItem, trace: Any) -> QuestionAnalysis:
    """Scores of a question; see `utils.analysis.map_scores`.

    Args:
        image_index: index of the image in the data.
        number: index of the question among those about it.
        item: the image with its questions.
        trace: `model.analysis.probe.SegTrace`.
    """
    question, answer, size = item.questions[number], trace.answer, item.image.shape[:2]
    truth, known = question.truth, is_known(question.truth)
    scores: dict[str, Any] = {}
    if known:
        masks = {**trace.masks, FINAL: answer.mask}
        scores["masks"] = {name: _overlap(mask, truth) for name, mask in masks.items()}
    if (truth == 1).any():
        scores["maps"] = {
            name: score_map(one.over(size), truth) for name, one in trace.maps.items()
        }
        scores["layers"] = {n: best_s_iou(one.over(size), truth) for n, one in trace.layers.items()}
        scores["points"] = score_points(trace.points, trace.labels, truth)
    return QuestionAnalysis(
        image_index=image_index,
        number=number,
        image=item.image_path,
        question=question.text,
        answer=answer.text,
        kind=question.kind,
        present=bool(answer.present),
        truth_present=question.exists if known else None,
        size=size,
        correlations=correlations(trace.maps),
        **scores,
    )


def correlations(maps: dict[str, PlacedMap]) -> dict[str, Correlation]:
    """Correlation of every two maps of a question over the cells of CLIP's crop.

    The crop is what all maps see; SAM's map is averaged over its cells.
    """
    if "llava" not in maps:
        return {}
    frame = maps["llava"]
    cells = {name: maps[name].onto(frame.box, len(frame.values)) for name in MAPS if name in maps}
    return {
        f"{first} {second}": correlate(cells[first], cells[second])
        for first, second in combinations(cells, 2)
    }


def _overlap(mask: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """(intersection, union) in pixels that count."""
    both, either = intersection_and_union(mask[None], truth[None])
    return int(both[0]), int(either[0])

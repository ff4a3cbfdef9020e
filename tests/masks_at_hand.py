"""Small questions with their masks, written as text: `1` object, `x` ignore label, `.` neither."""

import numpy as np

from utils.evaluation.mask_counts import Predicted, Truth
from utils.evaluation.protocol_scores import Run, score_protocols
from utils.evaluation.protocols import PRESETS
from utils.protocol.rle import encode_mask


def mask(text: str, mark: str = "1") -> np.ndarray:
    """bool[rows, columns] of the places where a mark stands; rows are parted by spaces."""
    return np.array([[character == mark for character in row] for row in text.split()])


def question(truth, predicted, name="q", **told):
    """A question: one text per true object (or one for all), one text per predicted mask."""
    objects = [truth] if isinstance(truth, str) else truth
    masks = [predicted] if isinstance(predicted, str) else predicted
    left_out = np.any([mask(text, "x") for text in objects], axis=0)
    codes = [encode_mask(mask(text)) for text in objects if mask(text).any()]
    answer = {key: told.pop(key) for key in ("present", "answer") if key in told}
    return (
        Truth(
            id=name,
            image=told.pop("image", f"{name}.jpg"),
            question=told.pop("question", name),
            size=left_out.shape,
            objects=tuple(codes),
            ignored=encode_mask(left_out) if left_out.any() else None,
            exists=told.pop("exists", bool(codes)),
            **told,
        ),
        Predicted(tuple(encode_mask(mask(text)) for text in masks), **answer),
    )


def values(questions, name, **run):
    """Key of a metric -> its value under a preset, without the rounding of 1e-5 in gIoU."""
    (scores,), reasons = score_protocols(Run("run", questions, **run), [PRESETS[name]])
    assert not reasons
    return {key: found.value for key, found in scores.metrics.items()}

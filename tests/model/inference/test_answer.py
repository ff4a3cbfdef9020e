"""An answer as rows of a COCO results file."""

import json

import numpy as np
from pycocotools import mask as coco_mask

from model.inference.answer import Answer, Segment
from utils.evaluation.mask_formats import read_any


def answer_of(*masks: np.ndarray) -> Answer:
    segments = [
        Segment(
            logits=np.where(mask, 1.0, -1.0).astype(np.float32),
            mask=mask,
            score=0.25 * (n + 1),
            similarity=np.zeros((2, 2), np.float32),
            points=np.zeros((0, 2), np.float32),
            point_labels=np.zeros(0, np.int64),
            token_index=n,
        )
        for n, mask in enumerate(masks)
    ]
    union = np.any([np.zeros((3, 5), bool), *masks], axis=0)
    return Answer("[SEG]", bool(union.any()), None, segments, [1], union)


def test_to_coco(tmp_path):
    masks = [np.arange(15).reshape(3, 5) % 4 == 0, np.zeros((3, 5), bool)]
    rows = answer_of(*masks).to_coco(17)
    assert [(row["image_id"], row["category_id"], row["score"]) for row in rows] == [
        (17, 1, 0.25),
        (17, 1, 0.5),
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows + answer_of(masks[0]).to_coco("dog", 3)))
    back = [coco_mask.decode(row["segmentation"]) for row in json.loads(path.read_text())]
    assert all(map(np.array_equal, back, [*masks, masks[0]]))
    read = {row.names[0]: row.predicted.masks for row in read_any(path).rows}
    assert {name: len(codes) for name, codes in read.items()} == {
        ("image_id", "17"): 2,
        ("image_id", "dog"): 1,
    }
    assert answer_of().to_coco(17) == []

"""Measures over questions against sums by hand, and their intervals."""

import json

import numpy as np
import pytest

from utils.analysis.records import Correlation, MapScore, PointScore, QuestionAnalysis
from utils.analysis.summary import summarise
from utils.evaluation.bootstrap import RESAMPLES, SEED


def question(image_index: int, number: int = 0, **found) -> QuestionAnalysis:
    given = {"answer": "It is [SEG].", "kind": "short", "present": True, "truth_present": True}
    asked = {"image": f"{image_index}.png", "question": "?", "size": (5, 5)}
    return QuestionAnalysis(image_index, number, **asked, **{**given, **found})


@pytest.fixture
def records() -> list[QuestionAnalysis]:
    rng = np.random.default_rng(0)
    made = []
    for image in range(6):
        for number in range(1 + image % 3):
            union = int(rng.integers(5, 30))
            made.append(
                question(
                    image,
                    number,
                    kind="long" if image > 3 else "short",
                    masks={"points": (int(rng.integers(0, union)), union), "text": (1, union)},
                    maps={"llava": MapScore(float(rng.random()), float(rng.random()), 0.5)},
                    layers={0: float(rng.random()), 10: 0.5, 2: 0.25},
                    correlations={"clip llava": Correlation(0.5, -0.5 if number else None)},
                    points=PointScore(10, 4, int(rng.integers(0, 10)), 3),
                )
            )
    return made


def test_values_are_ratios_of_sums(records):
    found = summarise(records, "read", ["a note"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["model"], found["questions"], found["notes"]) == ("read", 12, ["a note"])
    assert set(found["measures"]) == {"all", "short", "long"}
    groups = {
        "all": records,
        "short": [one for one in records if one.kind == "short"],
        "long": [one for one in records if one.kind == "long"],
    }
    for group, mine in groups.items():
        values = {name: cell["value"] for name, cell in found["measures"][group].items()}
        pairs = [one.masks["points"] for one in mine]
        assert values["gIoU text + DtoC points"] == pytest.approx(
            np.mean([i / (u + 1e-5) for i, u in pairs])
        )
        assert values["cIoU text + DtoC points"] == pytest.approx(
            sum(i for i, _ in pairs) / sum(u for _, u in pairs)
        )
        assert values["S-IoU [SEG] x LLaVA"] == pytest.approx(
            np.mean([one.maps["llava"].s_iou for one in mine])
        )
        assert values["positive points inside"] == pytest.approx(
            np.mean([one.points.positive_inside for one in mine]) / 10
        )
        assert values["negative points outside"] == 0.75
        # Where one of the two cannot be told, neither counts.
        assert values["Pearson clip llava"] == 0.5 and values["rank clip llava"] == -0.5
        assert not any(name.startswith("layer") for name in values)
    assert list(found["layers"]) == ["0", "2", "10"]
    assert found["layers"]["2"] == {"value": 0.25, "low": 0.25, "high": 0.25}


def test_intervals_are_over_images(records):
    found = summarise(records)["measures"]["all"]["S-IoU [SEG] x LLaVA"]
    draws = np.random.default_rng(SEED).integers(6, size=(RESAMPLES, 6))
    means = []
    for drawn in draws:
        scores = [
            one.maps["llava"].s_iou
            for image in drawn
            for one in records
            if one.image_index == image
        ]
        means.append(np.mean(scores))
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]))
    assert summarise(records[::-1]) == summarise(records)


def test_no_object_no_ciou():
    """Of questions about absent objects alone; over all questions their union counts."""
    absent = [
        question(
            n, kind="absent", truth_present=False, maps={}, points=None, masks={"text": (0, 40)}
        )
        for n in range(3)
    ]
    there = [question(n, kind="short", masks={"text": (30, 60)}) for n in range(3, 6)]
    found = summarise([*absent, *there])["measures"]
    nothing = {"value": None, "low": None, "high": None}
    assert found["absent"]["cIoU text only"] == nothing
    assert found["absent"]["gIoU text only"]["value"] == 0
    assert found["short"]["cIoU text only"]["value"] == 0.5
    assert found["all"]["cIoU text only"]["value"] == 90 / 300


def test_nothing_to_tell():
    empty = summarise([], "none")
    assert empty["questions"] == 0 and empty["measures"] == {"all": {}} and empty["layers"] == {}
    one = summarise([question(0, masks={"text": (0, 0)}, points=PointScore(0, 2, 0, 1))])
    table = one["measures"]["all"]
    assert list(one["measures"]) == ["all"]
    assert table["positive points inside"]["value"] is None
    assert table["gIoU text only"] == {"value": 1.0, "low": None, "high": None}
    assert table["cIoU text only"]["value"] is None
    assert table["negative points outside"] == {"value": 0.5, "low": None, "high": None}

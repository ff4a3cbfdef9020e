"""Intervals against a slow implementation of the definition, and against known distributions."""

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest

from utils.evaluation.bootstrap import (
    SUMS,
    bootstrap_intervals,
    image_sums,
    metrics_of_sums,
    question_sums,
    resample_weights,
)


def make_questions(seed: int, images: int, absent_share: float = 0.4):
    """Questions about images, 1 to 6 each: name, intersection, union, present, truth_present."""
    rng = np.random.default_rng(seed)
    questions = []
    for image in range(images):
        for _ in range(rng.integers(1, 7)):
            there, says = rng.random() > absent_share, rng.random() > 0.3
            union = int(rng.integers(1, 900)) if there or says else 0
            both = int(rng.integers(0, union + 1)) if there and says else 0
            questions.append((f"image {image:03d}", both, union, bool(says), bool(there)))
    return questions


def slow_metrics(questions) -> dict[str, float]:
    """The definitions, one question after the other."""
    iou = [i / (u + 1e-5) if u else 1.0 for _, i, u, _, _ in questions]
    said_absent = [q for q in questions if not q[3]]
    absent = [q for q in questions if not q[4]]
    right = [q for q in questions if not q[3] and not q[4]]
    seen = [q for q in questions if q[3] == q[4]]
    total = sum(q[2] for q in questions)
    return {
        "giou": sum(iou) / len(iou) if iou else math.nan,
        "ciou": sum(q[1] for q in questions) / (total + 1e-10)
        if any(q[4] for q in questions)
        else math.nan,
        "see_accuracy": len(seen) / len(questions) if questions else math.nan,
        "absent_precision": len(right) / len(said_absent) if said_absent else math.nan,
        "absent_recall": len(right) / len(absent) if absent else math.nan,
    }


def sums_of(questions, tests=(lambda q: True,)):
    names, *fields = zip(*questions, strict=True)
    groups = [np.array([test(q) for q in questions]) for test in tests]
    return image_sums(question_sums(np.array(fields, int).T), names, groups)


def test_against_a_slow_implementation():
    questions = make_questions(0, 25)
    tests = [lambda q: True, lambda q: q[4], lambda q: not q[4]]
    fast = bootstrap_intervals(sums_of(questions, tests), np.random.default_rng(5), resamples=200)
    (weights,) = resample_weights(25, 200, np.random.default_rng(5))
    assert weights.shape == (200, 25) and (weights.sum(axis=1) == 25).all()
    names = sorted({q[0] for q in questions})
    for group, test in enumerate(tests):
        values: dict[str, list[float]] = {}
        for row in weights:
            drawn = []
            for name, times in zip(names, row, strict=True):
                drawn += [q for q in questions if q[0] == name and test(q)] * int(times)
            for metric, value in slow_metrics(drawn).items():
                values.setdefault(metric, []).append(value)
        for metric, found in values.items():
            counted = [value for value in found if not math.isnan(value)]
            if not counted:
                assert np.isnan(fast[metric][group]).all()
                continue
            ends = np.percentile(counted, [2.5, 97.5])
            assert fast[metric][group] == pytest.approx(ends, abs=1e-9), (metric, group)


def test_the_sums_of_all_images_give_the_metrics():
    questions = make_questions(1, 40)
    found = metrics_of_sums(sums_of(questions).sum(axis=1))
    for name, value in slow_metrics(questions).items():
        assert found[name][0] == pytest.approx(value, abs=1e-12)


def test_the_order_of_the_questions_changes_no_bit():
    questions = make_questions(2, 60)
    whole = bootstrap_intervals(sums_of(questions), np.random.default_rng(0))
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(questions))
        shuffled = [questions[i] for i in order]
        again = bootstrap_intervals(sums_of(shuffled), np.random.default_rng(0))
        assert all(np.array_equal(whole[name], again[name]) for name in whole)


def test_images_are_drawn_and_not_questions():
    """Ten questions about an image that all share its fate count as one observation."""
    fates = np.random.default_rng(3).random(80) > 0.5
    once = [(f"{n:03d}", 5 * fate, 5, True, True) for n, fate in enumerate(fates)]
    widths = []
    for questions in (once, [q for q in once for _ in range(10)]):
        low, high = bootstrap_intervals(sums_of(questions), np.random.default_rng(0))["giou"][0]
        widths.append(high - low)
    assert widths[0] == pytest.approx(widths[1], rel=1e-9)
    expected = 2 * 1.96 * math.sqrt(fates.mean() * (1 - fates.mean()) / 80)
    assert widths[0] == pytest.approx(expected, rel=0.15)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(400):
        sees = rng.random(100) < 0.7
        sums = np.zeros((1, 100, len(SUMS)))
        sums[0, :, SUMS.index("questions")] = 1
        sums[0, :, SUMS.index("true_pos")] = sees
        sums[0, :, SUMS.index("false_neg")] = ~sees
        low, high = bootstrap_intervals(sums, rng, resamples=400)["see_accuracy"][0]
        covered += low <= 0.7 <= high
    assert 0.91 <= covered / 400 <= 0.98


def test_where_there_is_nothing_to_tell():
    one = bootstrap_intervals(sums_of([("a", 1, 2, True, True)] * 5), np.random.default_rng(0))
    assert all(np.isnan(ends).all() for ends in one.values())
    none = bootstrap_intervals(np.zeros((1, 0, len(SUMS))), np.random.default_rng(0))
    assert all(np.isnan(ends).all() for ends in none.values())
    present = [("a", 1, 2, True, True), ("b", 2, 2, True, True)]
    found = bootstrap_intervals(sums_of(present), np.random.default_rng(0))
    assert np.isnan(found["absent_recall"]).all() and np.isfinite(found["giou"]).all()


def count_lines(function: Callable[[], object]) -> int:
    """How many lines of Python run during a call, in whatever module."""
    lines, kept = 0, sys.gettrace()

    def trace(frame, event, _):
        nonlocal lines
        lines += event == "line"
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(kept)
    return lines


def test_large_runs_take_a_moment():
    """No step for each question in Python: a hundred times as many run the same lines."""
    found, lines = [], []

    def find() -> None:
        fields = np.stack([union // 2, union, union > 30_000, union % 3 > 0], axis=1)
        groups = [np.ones(len(union), bool), union > 45_000]
        sums = image_sums(question_sums(fields), names, groups)
        found.append(bootstrap_intervals(sums, np.random.default_rng(0)))

    for questions in (217, 21_700):
        union = np.random.default_rng(0).integers(1, 90_000, questions)
        names = [f"{n % 150}.jpg" for n in range(questions)]
        lines.append(count_lines(find))
    assert lines[1] < lines[0] + 217
    assert found[1]["giou"][0] == pytest.approx([0.5, 0.5], abs=0.01)

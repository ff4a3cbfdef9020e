"""Metrics of the settings of an ablation, their differences, the table of prompts, and the plot."""

import re
from dataclasses import replace

import numpy as np
import pytest

from utils.errors import InputError
from utils.evaluation.ablation import ablation_csv, ablation_json, score_settings, variant
from utils.evaluation.bootstrap import metrics_of_sums, question_sums, resample_weights
from utils.evaluation.evaluator import EvalResult, Record
from utils.protocol.constants import PROMPTS
from utils.reports.ablation_page import ablation_page, ablation_tables, prompt_table
from utils.reports.charts import Mark, interval_chart
from utils.reports.page import table_text

OWN = {
    "num_points": 30,
    "t_pos": 0.8,
    "t_neg": 0.2,
    "down_sample": 2,
    "thresholds": "fixed",
    "std_factor": 0.5,
    "prompt": "points",
}
OTHERS = [
    {**OWN, "prompt": "text"},
    {**OWN, "prompt": "discrete"},
    {**OWN, "thresholds": "std"},
    {**OWN, "num_points": 10},
]


def random_result(questions: int = 60, seed: int = 0) -> EvalResult:
    rng = np.random.default_rng(seed)
    records = []
    for n in range(questions):
        union = int(rng.integers(50, 500))
        there = bool(rng.random() < 0.8)
        inside = [int(rng.integers(0, union + 1)) if there else 0 for _ in range(1 + len(OTHERS))]
        outcomes = [(i > 0, i, union) for i in inside[1:]]
        records.append(
            Record(
                n // 2, n % 2, 2, f"{n // 2}.png", "q", "", "a", inside[0] > 0, there, inside[0],
                union, sweep_outcomes=outcomes,
            )
        )  # fmt: skip
    return EvalResult(records)


def test_differences_that_round_to_zero_have_no_sign():
    union = 10_000_000
    records = [
        Record(
            n,
            0,
            1,
            f"{n}.png",
            "q",
            "",
            "a",
            True,
            True,
            90,
            union,
            sweep_outcomes=[(True, 80, union)],
        )
        for n in range(4)
    ]
    modes = {"generated": score_settings(EvalResult(records), OWN, OTHERS[:1])}
    (table,) = ablation_tables(modes)
    told = " ".join(cell for row in table.rows for cell in row)
    assert "0.0000 (0.0000 to 0.0000)" in told
    assert not re.search(r"[-+]0\.0+\b", told) and "-0.0000" not in ablation_page(modes)


def test_no_object_no_ciou():
    records = [
        Record(n, 0, 1, f"{n}.png", "q", "", "a", True, False, 0, 9, sweep_outcomes=[(True, 0, 5)])
        for n in range(4)
    ]
    for one in score_settings(EvalResult(records), OWN, OTHERS[:1]):
        assert one.metrics["ciou"].value is None and one.metrics["segment"].value is None


def test_the_table_fits_the_terminal():
    (table,) = ablation_tables({"generated": score_settings(random_result(), OWN, OTHERS)})
    lines = table_text(table).splitlines()
    assert max(map(len, lines)) <= 140 and len(lines) > len(table.rows) + 4


def test_settings_are_scored_as_results_of_their_own():
    result = random_result()
    found = {str(one.sasp): one for one in score_settings(result, OWN, OTHERS)}
    assert len(found) == 5
    for number, params in enumerate(OTHERS):
        one, alone = found[str(params)], variant(result, number)
        assert one.metrics["giou"].value == alone.objects.segmentation.giou
        assert one.metrics["segment"].value == alone.scores.segmentation.ciou
        assert one.metrics["see_accuracy"].value == alone.scores.see.accuracy
        minus = one.minus_own["ciou"].value
        mine = alone.objects.segmentation.ciou - result.objects.segmentation.ciou
        assert minus == pytest.approx(mine)


def test_a_difference_has_the_interval_of_paired_resamples():
    result = random_result()
    (text,) = (one for one in score_settings(result, OWN, OTHERS) if one.prompt == "text only")
    one_by_one = [replace(r, sweep_outcomes=None) for r in result.records]
    sums = []
    for records in (one_by_one, variant(result, 0).records):
        fields = [(r.intersection, r.union, r.present, r.truth_present) for r in records]
        columns = question_sums(np.array(fields))
        columns = columns * np.array([r.truth_present for r in records])[:, None]
        names = sorted({r.image for r in records})
        mine = [[n for n, r in enumerate(records) if r.image == name] for name in names]
        sums.append(np.stack([columns[rows].sum(axis=0) for rows in mine]))
    drawn = []
    for weights in resample_weights(len(sums[0]), 1000, np.random.default_rng(0)):
        own, other = (metrics_of_sums(weights @ part)["giou"] for part in sums)
        drawn.append(other - own)
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    assert text.minus_own["giou"].interval == pytest.approx((low, high))
    width = np.subtract(*reversed(text.metrics["giou"].interval))
    assert 0 < high - low < 2 * width


def test_the_same_outcomes_differ_by_exactly_nothing():
    result = random_result()
    same = [
        replace(r, sweep_outcomes=[(r.present, r.intersection, r.union)] * len(OTHERS))
        for r in result.records
    ]
    for one in score_settings(EvalResult(same), OWN, OTHERS):
        if not one.own:
            assert one.minus_own["giou"].value == 0 and one.minus_own["giou"].interval == (0, 0)


def test_order_names_and_the_table_of_prompts():
    settings = score_settings(random_result(), OWN, OTHERS)
    assert [one.label for one in settings] == [
        "text only",
        "text + discrete points, fixed 0.8/0.2, 30",
        "text + DtoC points, fixed 0.8/0.2, 10",
        "text + DtoC points, fixed 0.8/0.2, 30",
        "text + DtoC points, mean ± 0.5 std, 30",
    ]
    table = prompt_table(settings)
    assert [row[0] for row in table.rows] == list(PROMPTS.values())
    assert "The paper reports" in table.note
    (terminal,) = ablation_tables({"teacher_forced": settings})
    assert [row[0].startswith("* ") for row in terminal.rows] == [one.own for one in settings]
    assert "See" not in terminal.header
    (terminal,) = ablation_tables({"generated": settings})
    assert terminal.header[-2:] == ["See", "Segment"]


def test_files_of_nothing_that_can_be_measured():
    record = Record(
        0, 0, 1, "<a>.png", "q", "", "a", False, False, 0, 0, sweep_outcomes=[(False, 0, 0)]
    )
    settings = score_settings(EvalResult([record]), OWN, OTHERS[:1])
    modes = {"generated": settings}
    assert ablation_json(modes)["modes"]["generated"][0]["metrics"]["giou"]["value"] is None
    header, *lines = ablation_csv(modes).splitlines()
    assert len(lines) == 2 and all(line.count(",") == header.count(",") for line in lines)
    assert "There was nothing to compare" in ablation_page(modes, [("data", "<x>")])


def test_records_of_another_ablation_are_refused():
    with pytest.raises(InputError, match="4 settings of 2"):
        score_settings(random_result(), OWN, OTHERS[:2])


def test_the_plot_places_values_in_proportion():
    marks = [
        Mark("low <x>", 0.25, (0.2, 0.3)),
        Mark("own", 0.5, None, line=1, own=True),
        Mark("high", 0.75, (0.7, 0.8), line=1),
    ]
    svg = interval_chart(marks, "gIoU")
    across = [float(part.split('"')[0]) for part in svg.split('cx="')[1:]]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.11)
    assert "low &lt;x&gt;" in svg and svg.count("<title>") == 4
    assert "0.2500 (0.2000 to 0.3000)" in svg

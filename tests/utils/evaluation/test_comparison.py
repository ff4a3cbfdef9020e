"""Runs against each other: paired differences, wins and losses, the page."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.masks_at_hand import question
from utils.errors import InputError
from utils.evaluation.comparison import WORST, compare
from utils.evaluation.protocol_scores import Run, score_protocols
from utils.evaluation.protocols import PRESETS
from utils.reports.protocol_page import protocol_page, regressions

READ = PRESETS["read"]


def run_of(name, answers, kinds=("short", "long")):
    """A question about each image: the truth has 4 pixels, the answer so many of them."""
    return Run(
        name,
        [
            question("1111 ....", "1" * n + "." * (4 - n) + " ....", f"q{i}", kind=kinds[i % 2])
            for i, n in enumerate(answers)
        ],
    )


def test_differences_by_hand():
    """IoUs 1, 2/4, 0 against 2/4, 2/4, 1/4. gIoU 1.5/3 less 1.25/3 is 1/12; cIoU 6/12 less 5/12."""
    found = compare(run_of("new", [4, 2, 0]), run_of("old", [2, 2, 1]), READ)
    assert found.differences["giou"].value == pytest.approx(1 / 12, abs=2e-5)
    assert found.differences["ciou"].value == pytest.approx(1 / 12)
    assert found.differences["n_acc"].value is None
    tallies = {one.kind: (one.better, one.same, one.worse) for one in found.tallies}
    assert tallies == {"long": (0, 1, 0), "short": (1, 0, 1), "all": (1, 1, 1)}
    assert found.tallies[-1].mean_difference == pytest.approx(1 / 12, abs=2e-5)
    assert found.worst == [2]


def test_an_interval_of_a_difference_is_paired():
    """A run that is a little better on every image differs surely, though both vary widely."""
    rng = np.random.default_rng(0)
    old = rng.integers(0, 4, 60)
    found = compare(run_of("new", (old + 1).tolist()), run_of("old", old.tolist()), READ)
    low, high = found.differences["giou"].interval
    assert found.differences["giou"].value == pytest.approx(1 / 4, abs=2e-5)
    assert (low, high) == (pytest.approx(1 / 4, abs=2e-5), pytest.approx(1 / 4, abs=2e-5))
    (alone,), _ = score_protocols(run_of("old", old.tolist()), [READ])
    start, end = alone.metrics["giou"].interval
    assert end - start > 0.1


def test_a_run_does_not_differ_from_itself():
    run = run_of("same", [1, 2, 3, 4])
    found = compare(run, run, READ)
    assert all(one.value in (0, None) for one in found.differences.values())
    assert found.worst == [] and found.tallies[-1].same == 4


def test_the_worst_regressions_come_first():
    old, new = [4] * 20, [n % 4 for n in range(20)]
    found = compare(run_of("new", new), run_of("old", old), READ)
    assert len(found.worst) == WORST and found.worst[:5] == [0, 4, 8, 12, 16]
    assert compare(run_of("new", old), run_of("old", new), READ).worst == []


def test_a_protocol_that_does_not_apply_to_both():
    other = replace(run_of("other", [1]), seg="generated")
    with pytest.raises(InputError, match="read does not apply to other"):
        compare(run_of("new", [1]), other, READ)


def test_questions_that_do_not_count_are_no_regressions():
    pair = [question("11", "..", "q", expression=1), question("11", "1.", "r")]
    better = [(truth, replace(answer, masks=truth.objects)) for truth, answer in pair]
    found = compare(Run("new", pair), Run("old", better), PRESETS["visionreasoner"])
    assert found.worst == [1] and found.tallies[-1].worse == 1


def test_the_page(tmp_path):
    """Numbers, differences, reasons, and regressions with images where the files are."""
    Image.fromarray(np.full((2, 4, 3), 90, np.uint8)).save(tmp_path / "q0.jpg")
    new, old = run_of("<new>", [1, 0, 4]), run_of("old", [4, 3, 4])
    new.questions[1] = question("1111 ....", [], "q1", kind="long", answer="<none>")
    found = compare(new, old, READ)
    cases = regressions(found, [tmp_path])
    assert [case.verdict for case in cases] == [
        "IoU 0.250 instead of 1.000",
        "IoU 0.000 instead of 0.750",
    ]
    assert [name for name, _ in cases[0].tiles] == ["image", "truth", "this run", "the other"]
    assert [name for name, _ in cases[1].tiles] == ["truth", "the other"]
    assert cases[1].note == "the image file is not there"
    scores, reasons = score_protocols(new, [READ, PRESETS["star"]])
    page = protocol_page(new, scores, {"muse": "needs <more>"}, [found], [tmp_path])
    assert "&lt;new&gt; less old (read)" in page and "needs &lt;more&gt;" in page
    assert "<new>" not in page and page.count("<img ") == 6 and "Worst regressions" in page
    assert 'src="data:image/png' in page and "http" not in page and reasons == {}

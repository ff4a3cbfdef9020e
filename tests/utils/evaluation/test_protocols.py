"""Each cell of the field's protocols by hand."""

from dataclasses import replace

import pytest

from tests.masks_at_hand import mask, question, values
from utils.errors import InputError
from utils.evaluation.mask_counts import match_objects
from utils.evaluation.protocol_scores import METRICS, Run, score_protocols
from utils.evaluation.protocols import (
    AS_GIVEN,
    LOWER_CASED,
    PRESETS,
    Protocol,
    choose_protocols,
    differing_cells,
)
from utils.protocol.rle import encode_mask

NEAR = 2e-5
"""The published IoU is I / (U + 1e-5)."""
HALF = question("1111 ....", "11.. ....", "half")
NOTHING = question(".... ....", [], "nothing")


def near(value: float):
    return pytest.approx(value, abs=NEAR)


def unsuited(name, questions, **run) -> str:
    _, reasons = score_protocols(Run("run", questions, **run), [PRESETS[name]])
    return reasons[name]


@pytest.mark.parametrize("name", ["lisa", "read", "star"])
def test_an_empty_union_counts_one(name):
    """IoUs 2/4 and, of nothing predicted where nothing is, 1: (0.5 + 1) / 2 = 0.75."""
    assert values([HALF, NOTHING], name)["giou"] == near(0.75)


def test_an_empty_union_counts_zero_for_visionreasoner():
    """IoUs 2/4 and 0: (0.5 + 0) / 2 = 0.25. cIoU sums 2 of 4 pixels either way: 0.5."""
    found = values([HALF, NOTHING], "visionreasoner")
    assert (found["giou"], found["ciou"]) == (near(0.25), 0.5)


def test_visionreasoner_on_grefcoco_counts_a_right_denial_one():
    """2/4; nothing, rightly: 1; a pixel where nothing is: 0. (0.5 + 1 + 0) / 3 = 0.5."""
    invented = question(".... ....", "1... ....", "invented")
    assert values([HALF, NOTHING, invented], "visionreasoner_gref")["giou"] == near(0.5)


def test_an_empty_union_is_not_known_of_xsam():
    assert values([HALF], "xsam")["giou"] == near(0.5)
    assert "empty union is not known" in unsuited("xsam", [HALF, NOTHING])


IGNORED = question("11xx ....", "111. 1...", "ignored")
"""True: 2 pixels; ignored: 2; predicted: both true ones, an ignored one, and one beside."""


@pytest.mark.parametrize("name", ["lisa", "read", "xsam"])
def test_ignored_pixels_are_left_out(name):
    """The third predicted pixel does not count: intersection 2, union 2 + 1 = 3: 2/3."""
    assert values([IGNORED], name)["giou"] == near(2 / 3)
    assert values([IGNORED], name)["ciou"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["visionreasoner", "star"])
def test_ignored_pixels_are_object(name):
    """True are 4 pixels now, predicted 4, both 3, in either 5: 3/5."""
    assert values([IGNORED], name)["giou"] == near(3 / 5)
    assert values([IGNORED], name)["ciou"] == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("lisa", "as given"),
        ("read", "as given"),
        ("star", "as given"),
        ("visionreasoner", "lower-cased"),
        ("xsam", "<p>"),
    ],
)
def test_which_text_the_model_was_given(name, needed):
    """Other words are other predictions: the protocol does not apply to them."""
    other = LOWER_CASED if needed == "as given" else AS_GIVEN
    told = question("1.", "1.", question="The Dog?")
    assert needed in unsuited(name, [told], text=other, seg=PRESETS[name].seg)
    assert values([told], name, text=PRESETS[name].text)["giou"] == near(1)
    assert values([told], name)["giou"] == near(1)  # where it is not known


def test_a_question_that_lower_casing_does_not_change():
    told = question("1.", "1.", question="the dog")
    assert values([told], "visionreasoner", text=AS_GIVEN)["giou"] == near(1)


SENTENCES = [
    question("11", "11", "first", image="i", expression=0),
    question("11", "1.", "second", image="i", expression=1),
    question("11", "..", "third", image="i", expression=2),
]


@pytest.mark.parametrize("name", ["lisa", "read", "gres", "xsam"])
def test_every_sentence_counts(name):
    """IoUs 1, 1/2 and 0 of three sentences about one object: 1.5 / 3 = 0.5."""
    assert values(SENTENCES, name)["giou"] == near(0.5)


def test_one_sentence_an_object_counts_for_visionreasoner():
    """Of the same three the first alone: 1. Its `_all` sets do not number sentences: 0.5."""
    (scores,), _ = score_protocols(Run("run", SENTENCES), [PRESETS["visionreasoner"]])
    assert scores.questions == 1 and scores.metrics["giou"].value == near(1)
    unnumbered = [(replace(truth, expression=0), answer) for truth, answer in SENTENCES]
    assert values(unnumbered, "visionreasoner")["giou"] == near(0.5)


@pytest.mark.parametrize("name", ["gres", "gsva"])
def test_no_target(name):
    """Of two questions with a target one is answered by some mask, with IoU 2/4, and one by none
    (IoU 0, union 2); of three without one, two are answered by nothing, one by a pixel.

    gIoU (0.5 + 0 + 1 + 1 + 0) / 5 = 0.5; N-acc 2/3; T-acc 1/2; cIoU 2 / (4 + 2 + 1) = 2/7;
    mIoU (0.5 + 0) / 2 = 0.25; See (1 + 2) / 5 = 0.6.
    """
    missed = question("11.. ....", [], "missed")
    invented = question(".... ....", "...1 ....", "invented")
    again = question(".... ....", [], "again")
    found = values([HALF, missed, NOTHING, invented, again], name)
    assert (found["giou"], found["miou"]) == (near(0.5), near(0.25))
    assert found["n_acc"] == pytest.approx(2 / 3) and found["t_acc"] == 0.5
    assert found["ciou"] == pytest.approx(2 / 7) and found["see"] == pytest.approx(0.6)


def test_fewer_pixels_than_the_threshold_are_none():
    """3 predicted pixels where nothing is: wrong without a threshold, and below 4 a right denial.

    gIoU 0 and 1. A true object of 4 pixels, of which 3 are predicted, has IoU 3/4, and with the
    threshold 0; its union stays 4 pixels.
    """
    absent = question(".... ....", "111. ....", "absent")
    there = question("1111 ....", "111. ....", "there")
    assert values([absent], "gres")["giou"] == 0
    (limited,) = choose_protocols(["gres"], 4)
    (scores,), _ = score_protocols(Run("run", [absent, there]), [limited])
    found = {key: one.value for key, one in scores.metrics.items()}
    assert (found["giou"], found["n_acc"], found["t_acc"]) == (0.5, 1, 0)
    assert found["ciou"] == 0 and values([absent, there], "gres")["giou"] == near(0.375)


def test_objects_united_and_matched():
    """Two objects of 4 and 2 pixels; masks: 3 pixels of the first, and 1 beside both.

    United: intersection 3, union 6 + 1 = 7: 3/7. Matched: the first pair has IoU 3/4; the second
    object and the second mask are alone, 0 of 2 and 0 of 1 pixel: gIoU (3/4 + 0 + 0) / 3 = 1/4,
    cIoU 3 / (4 + 2 + 1) = 3/7.
    """
    two = question(["1111 ....", ".... 11.."], ["111. ....", ".... ...1"])
    assert values([two], "gres")["giou"] == near(3 / 7)
    matched = values([two], "muse")
    assert matched["giou"] == near(1 / 4) and matched["ciou"] == pytest.approx(3 / 7)


def test_one_mask_over_two_objects():
    """A mask over both objects (4 + 2 pixels): united 6/6; matched with the larger one 4/6, the
    other alone: (4/6 + 0) / 2 = 1/3."""
    two = question(["1111 ....", ".... 11.."], "1111 11..")
    assert values([two], "gres")["giou"] == near(1)
    assert values([two], "muse")["giou"] == near(1 / 3)


def test_matching_leaves_ignored_pixels_out():
    """The first mask has 2 of its 3 pixels on its object, one on the ignore label: 2/2; the second
    is right as well: (1 + 1) / 2."""
    two = question(["11x. ....", ".... 11.."], ["111. ....", ".... 11.."])
    assert values([two], "muse")["giou"] == near(1)


def test_united_truths_and_predictions_cannot_be_matched():
    truth, answer = question(["11..", "..11"], "1111")
    assert "predictions have them united" in unsuited(
        "muse", [(truth, replace(answer, united=True))]
    )
    assert "truth has them united" in unsuited("muse", [(replace(truth, united=True), answer)])


@pytest.mark.parametrize(
    ("name", "seg"), [("lisa", "generated"), ("fprefcoco", "given"), ("muse", "given")]
)
def test_given_and_generated_seg_are_different_tasks(name, seg):
    assert "[SEG]" in unsuited(name, [HALF], seg=seg)
    assert values([HALF], name, seg={"given": "generated", "generated": "given"}[seg])


def test_see_is_what_the_answer_says():
    """An answer that says yes with an empty mask where something is, and no where nothing is."""
    says_yes = question("11..", "....", "yes", present=True)
    says_no = question("....", [], "no", present=False)
    says_none = question("11..", "11..", "none", present=False)
    assert values([says_yes, says_no], "fprefcoco")["see"] == 1
    assert values([says_yes, says_no, says_none], "fprefcoco")["see"] == pytest.approx(2 / 3)


def test_precision_counts_ious_from_the_limit_on():
    """IoUs 2/4, 3/5 and 9/10: all reach 0.5, two 0.6, one 0.7 to 0.9."""
    questions = [
        HALF,
        question("11111", "111..", "three fifths"),
        question("1" * 10, "1" * 9 + ".", "nine tenths"),
    ]
    found = values(questions, "read")
    expected = {"0.5": 1, "0.6": 2 / 3, "0.7": 1 / 3, "0.8": 1 / 3, "0.9": 1 / 3}
    assert {k: found[f"pr@{k}"] for k in expected} == pytest.approx(expected)


def test_the_matching_is_the_best_one_and_not_a_greedy_one():
    """Masks a, b and objects 1, 2: a1 has 3/5, a2 2/5, b1 1/3, b2 0. Greedy takes a1, and b and 2
    stay alone; a2 and b1 have the larger sum, 11/15."""
    masks = [encode_mask(mask(text)) for text in ("11111...", "...1....")]
    objects = [encode_mask(mask(text)) for text in ("..111...", "11......")]
    assert match_objects(masks, objects, None) == [(1, 3), (2, 5)]


def test_one_image_has_no_interval():
    (scores,), _ = score_protocols(Run("run", [HALF]), [PRESETS["read"]])
    assert {found.interval for found in scores.metrics.values()} == {None}
    assert scores.metrics["n_acc"].value is None


def test_what_differs():
    differing = differing_cells([PRESETS["read"], PRESETS["visionreasoner"]])
    assert differing["empty_union"] == ["1", "0"] and differing["ignore"] == ["excluded", "object"]
    assert "objects" not in differing
    assert differing_cells([PRESETS["gres"]]) == {}


def test_names_of_protocols():
    assert [one.name for one in choose_protocols(["star", "read"])] == ["star", "read"]
    assert {one.no_target_pixels for one in choose_protocols(None, 50)} == {0, 50}
    with pytest.raises(InputError, match=r"unknown protocol lissa \(did you mean lisa\?\)"):
        choose_protocols(["lissa"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"ignore": "out"},
        {"text": "loud"},
        {"objects": "matched", "ignore": "object"},
        {"objects": "matched", "no_target_pixels": 50},
    ],
)
def test_a_protocol_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="ignore|text|objects"):
        Protocol("mine", "me", **wrong)


def test_every_metric_has_its_sums():
    assert list(METRICS) == [
        *("giou", "ciou", "miou", "pr@0.5", "pr@0.6", "pr@0.7", "pr@0.8", "pr@0.9"),
        *("n_acc", "t_acc", "see"),
    ]

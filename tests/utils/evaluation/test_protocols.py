"""Each cell of the field's protocols by hand, and the protocols among each other."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.masks_at_hand import mask, question, values
from utils.errors import InputError
from utils.evaluation.mask_counts import count_masks, match_objects
from utils.evaluation.protocol_scores import METRICS, Run, score_protocols
from utils.evaluation.protocols import (
    AS_GIVEN,
    LOWER_CASED,
    PRESETS,
    Protocol,
    choose_protocols,
    differing_cells,
)
from utils.metrics import SegmentationMetrics
from utils.protocol.rle import decode_mask, decode_truth, encode_mask

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


def random_mask(rng, size) -> np.ndarray:
    return rng.random(size) < rng.choice([0.0, 0.1, 0.5, 0.9])


def random_questions(
    seed: int, count: int, objects: int = 1, ignored=True, empty=True, sides=(2, 10)
):
    """Questions about images of such sides, and their masks as arrays."""
    rng = np.random.default_rng(seed)
    questions, arrays = [], []
    for number in range(count):
        size = tuple(rng.integers(*sides, 2).tolist())
        true = [random_mask(rng, size) for _ in range(rng.integers(0 if empty else 1, objects + 1))]
        pred = [random_mask(rng, size) for _ in range(rng.integers(0, objects + 1))]
        if not empty:
            true[0][0, 0] = True
        left_out = (rng.random(size) < 0.2) & ~np.any([np.zeros(size, bool), *true], axis=0)
        left_out &= ignored
        truth, answer = question(".", [], f"{number}", image=f"{number // 3}")
        truth = replace(
            truth,
            size=size,
            objects=tuple(map(encode_mask, true)),
            ignored=encode_mask(left_out) if left_out.any() else None,
            exists=bool(true) and rng.random() < 0.9,
            expression=int(rng.integers(0, 2)),
        )
        questions.append((truth, replace(answer, masks=tuple(map(encode_mask, pred)))))
        arrays.append((true, left_out, pred))
    return questions, arrays


@pytest.mark.parametrize("seed", range(4))
def test_all_protocols_agree_where_nothing_is_in_dispute(seed):
    """No ignore label, no empty union, one object, one sentence: every number is the same."""
    questions, _ = random_questions(seed, 40, ignored=False, empty=False)
    questions = [(replace(t, expression=0, exists=True), a) for t, a in questions]
    scores, reasons = score_protocols(Run("run", questions), choose_protocols(None))
    assert not reasons and len(scores) == len(PRESETS)
    assert all(one.metrics == scores[0].metrics for one in scores)
    assert scores[0].metrics["giou"].value not in (0, 1)


def plain_scores(protocol: Protocol, questions, arrays) -> dict[str, float]:
    """The definitions on decoded masks, one question after the other."""
    rows = []
    for (truth, _), (true, left_out, pred) in zip(questions, arrays, strict=True):
        if protocol.expressions == "first" and truth.expression:
            continue
        nothing = np.zeros(truth.size, bool)
        if np.any([nothing, *pred], axis=0).sum() < protocol.no_target_pixels:
            pred = []
        says = bool(np.any([nothing, *pred], axis=0).any())
        if protocol.objects == "matched" and (len(true) > 1 or len(pred) > 1):
            pairs = plain_pairs([m & ~left_out for m in pred], true)
        else:
            p, t = np.any([nothing, *pred], axis=0), np.any([nothing, *true], axis=0)
            p, t = (p & ~left_out, t) if protocol.ignore == "excluded" else (p, t | left_out)
            pairs = [((p & t).sum(), (p | t).sum())]
        pairs = [(int(i), int(u)) for i, u in pairs if u]
        ious = [i / (u + 1e-5) for i, u in pairs]
        iou = np.mean(ious) if ious else protocol.empty_union
        exact = np.mean([i / u for i, u in pairs]) if pairs else protocol.empty_union
        if protocol.no_target == "answer" and not truth.exists:
            iou = float(not says)
        both, union = sum(i for i, _ in pairs), sum(u for _, u in pairs)
        rows.append((iou, exact, both, union, truth.exists, says))
    there = [row for row in rows if row[4]]
    absent = [row for row in rows if not row[4]]

    def mean(found):
        return math.fsum(found) / len(found) if found else None

    return {
        "giou": mean([row[0] for row in rows]),
        "ciou": sum(r[2] for r in rows) / sum(r[3] for r in rows) if there else None,
        "miou": mean([row[0] for row in there]),
        **{f"pr@{t:g}": mean([row[1] >= t for row in there]) for t in (0.5, 0.6, 0.7, 0.8, 0.9)},
        "n_acc": mean([not row[5] for row in absent]),
        "t_acc": mean([row[5] for row in there]),
        "see": mean([row[5] == row[4] for row in rows]),
    }


def plain_pairs(pred, true):
    """Of all ways to pair masks with objects the one with the largest sum of IoUs."""
    pred, true = [m for m in pred if m.any()], [m for m in true if m.any()]
    width = max(len(pred), len(true))
    best, chosen = -1.0, []
    for order in itertools.permutations((pred + [None] * width)[:width]):
        pairs = list(zip(order, (true + [None] * width)[:width], strict=True))
        meeting = [(p, t) for p, t in pairs if p is not None and t is not None and (p & t).any()]
        total = sum((p & t).sum() / (p | t).sum() for p, t in meeting)
        if total > best:
            best = total
            met = {id(m) for pair in meeting for m in pair}
            alone = [(0, m.sum()) for m in (*pred, *true) if id(m) not in met]
            chosen = [((p & t).sum(), (p | t).sum()) for p, t in meeting] + alone
    return chosen


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [name for name in PRESETS if name != "muse"])
def test_an_independent_recomputation_agrees_exactly(name, seed):
    """Bit for bit, on decoded masks."""
    questions, arrays = random_questions(seed, 60, objects=3, empty=name != "xsam")
    found = values(questions, name)
    assert found == plain_scores(PRESETS[name], questions, arrays)


@pytest.mark.parametrize("seed", range(8))
def test_a_recomputation_of_matched_objects_agrees(seed):
    """Up to the order in which a few IoUs are added. Masks of this size make no two matchings
    equally good."""
    questions, arrays = random_questions(seed, 60, objects=3, sides=(20, 40))
    found, plain = values(questions, "muse"), plain_scores(PRESETS["muse"], questions, arrays)
    assert found == pytest.approx(plain, abs=1e-12)


def test_the_matching_is_the_best_one_and_not_a_greedy_one():
    """Masks a, b and objects 1, 2: a1 has 3/5, a2 2/5, b1 1/3, b2 0. Greedy takes a1, and b and 2
    stay alone; a2 and b1 have the larger sum, 11/15."""
    masks = [encode_mask(mask(text)) for text in ("11111...", "...1....")]
    objects = [encode_mask(mask(text)) for text in ("..111...", "11......")]
    assert match_objects(masks, objects, None) == [(1, 3), (2, 5)]


def test_the_counts_are_those_of_the_other_implementation():
    """`utils.metrics` decodes; the codes alone say the same."""
    questions, _ = random_questions(99, 200, objects=2)
    metrics = SegmentationMetrics()
    for truth, answer in questions:
        nothing = encode_mask(np.zeros(truth.size, bool))
        true = np.any([decode_mask(code) for code in (*truth.objects, nothing)], axis=0)
        pred = np.any([decode_mask(code) for code in (*answer.masks, nothing)], axis=0)
        whole = decode_truth(encode_mask(true), truth.ignored)
        metrics.update(pred[None], whole[None])
    counts = count_masks(questions)
    union = counts.pred - counts.pred_ignored + counts.true - counts.both
    assert metrics.pairs == list(zip(counts.both.tolist(), union.tolist(), strict=True))
    assert values(questions, "read")["giou"] == metrics.giou


def test_intervals_are_those_of_the_group_scores():
    """The same draws of the same images as the project's own evaluation."""
    from utils.evaluation.evaluator import EvalResult, Record
    from utils.evaluation.group_scores import score

    questions, _ = random_questions(3, 90)
    counts = count_masks(questions)
    union = counts.pred - counts.pred_ignored + counts.true - counts.both
    records = [
        Record(n, 0, 1, t.image, "", "", "", bool(counts.present[n]), t.exists, int(i), int(u))
        for n, ((t, _), i, u) in enumerate(zip(questions, counts.both, union, strict=True))
    ]
    group = score(EvalResult(records)).all
    (scores,), _ = score_protocols(Run("run", questions), [PRESETS["read"]])
    for key, name in (("giou", "giou"), ("ciou", "ciou"), ("see", "see_accuracy")):
        assert scores.metrics[key].value == pytest.approx(group.scores.as_dict()[name], abs=1e-9)
        assert scores.metrics[key].interval == pytest.approx(group.intervals[name], abs=1e-9)


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

"""The protocols on random masks: against each other, and against plain numpy."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.masks_at_hand import question, values
from utils.evaluation.evaluator import EvalResult, Record
from utils.evaluation.group_scores import score
from utils.evaluation.mask_counts import count_masks
from utils.evaluation.protocol_scores import Run, score_protocols
from utils.evaluation.protocols import PRESETS, Protocol, choose_protocols
from utils.metrics import SegmentationMetrics
from utils.protocol.rle import decode_mask, decode_truth, encode_mask


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

"""The metrics of all protocols at once, each with its bootstrap interval over images.

Every metric is a ratio of two sums over questions (`METRICS`). So one table of what each question
adds, under each protocol, is all that scores, intervals and comparisons need.

Legend: N questions, C images, P protocols, K sums (`SUMS`), R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from utils.evaluation.ablation import Measured
from utils.evaluation.bootstrap import (
    RESAMPLES,
    SEED,
    percentile_interval,
    resample_weights,
)
from utils.evaluation.mask_counts import MaskCounts, Predicted, Truth, count_masks
from utils.evaluation.protocols import (
    AS_GIVEN,
    NOT_SAID,
    ROW_OF_SEG,
    Asked,
    Protocol,
    unknown_of,
    why_unsuited,
)
from utils.metrics import IOU_EPSILON

PRECISION_AT = (0.5, 0.6, 0.7, 0.8, 0.9)
METRICS = {
    "giou": ("gIoU", "iou", "questions"),
    "ciou": ("cIoU", "intersection", "union"),
    "miou": ("mIoU", "target_iou", "targets"),
    **{f"pr@{t:g}": (f"Pr@{t:g}", f"above_{t:g}", "targets") for t in PRECISION_AT},
    "n_acc": ("N-acc", "true_neg", "no_targets"),
    "t_acc": ("T-acc", "true_pos", "targets"),
    "see": ("See", "right", "questions"),
}
"""Key -> title, and the sums whose ratio it is. gIoU is over all questions; mIoU and Pr over those
about something that is there."""
SUMS = list(dict.fromkeys(name for _, *sums in METRICS.values() for name in sums))


@dataclass
class Run:
    """The predictions of a model and the truth, question by question.

    Args:
        name: for tables.
        questions: N pairs, in the order of the truth.
        seg, text: see `utils.evaluation.protocols.Asked`.
        counted: likewise.
        own: predictions of READ, whose published row `row` names.
        notes: what a reader of the numbers should know.
    """

    name: str
    questions: list[tuple[Truth, Predicted]]
    seg: str = NOT_SAID
    text: str = NOT_SAID
    counted: tuple[str, ...] | None = None
    own: bool = False
    notes: list[str] = field(default_factory=list)

    @cached_property
    def counts(self) -> MaskCounts:
        """Pixels of every question, counted once for all protocols."""
        return count_masks(self.questions)

    @property
    def row(self) -> str:
        """The protocol of the row in README's tables that this run belongs to, "" if none."""
        return ROW_OF_SEG.get(self.seg, "") if self.own else ""


@dataclass(frozen=True)
class ProtocolScores:
    """Metrics under a protocol.

    Args:
        protocol: that applies.
        questions: that count.
        metrics: key of `METRICS` -> value and interval.
        unknown: what has to be taken on trust, see `utils.evaluation.protocols.unknown_of`.
    """

    protocol: Protocol
    questions: int
    metrics: dict[str, Measured]
    unknown: str = ""


def asked_of(run: Run) -> Asked:
    """What decides which protocols apply to a run."""
    counts = run.counts
    truths = [truth for truth, _ in run.questions]
    several = [n for n, truth in enumerate(truths) if len(truth.objects) > 1 or truth.united]
    union = counts.pred - counts.pred_ignored + counts.true - counts.both
    return Asked(
        seg=run.seg,
        text=run.text,
        counted=run.counted,
        several_objects=bool(several),
        united_truth=any(truth.united for truth in truths),
        united_predictions=any(run.questions[n][1].united for n in several),
        empty_unions=bool((union == 0).any()),
        plain_text=run.text == AS_GIVEN and all(_plain(truth.question) for truth in truths),
    )


def _plain(question: str) -> bool:
    return bool(question) and question == question.lower() and not set(question) & set('.?!"')


def question_values(protocol: Protocol, run: Run) -> np.ndarray:
    """What each question adds to the sums under a protocol: float64[N, K], columns as `SUMS`."""
    counts, questions = run.counts, run.questions
    exists = np.array([truth.exists for truth, _ in questions], bool)
    kept = counts.pred >= protocol.no_target_pixels
    present = counts.present & kept
    pred, both, pred_ignored = (
        np.where(kept, a, 0) for a in (counts.pred, counts.both, counts.pred_ignored)
    )
    if protocol.ignore == "excluded":
        union = pred - pred_ignored + counts.true - both
    else:
        both = both + pred_ignored
        union = pred + counts.true + counts.ignored - both
    empty = math.nan if protocol.empty_union is None else protocol.empty_union
    rounded = np.where(union > 0, both / (union + IOU_EPSILON), empty)
    plain = np.where(union > 0, both / np.maximum(union, 1), empty)
    if protocol.objects == "matched":
        for n, pairs in counts.pairs.items():
            both[n], union[n] = sum(i for i, _ in pairs), sum(u for _, u in pairs)
            rounded[n] = np.mean([i / (u + IOU_EPSILON) for i, u in pairs]) if pairs else empty
            plain[n] = np.mean([i / u for i, u in pairs]) if pairs else empty
    if protocol.no_target == "answer":
        rounded = np.where(exists, rounded, ~present)
    unknown = np.array([predicted.counts is not None for _, predicted in questions], bool)
    says = np.where(unknown, math.nan, present)
    values = {
        "questions": np.ones(len(questions)),
        "iou": rounded,
        "intersection": both,
        "union": union,
        "target_iou": np.where(exists, rounded, 0.0),
        "targets": exists,
        **{f"above_{t:g}": exists & (plain >= t) for t in PRECISION_AT},
        "true_neg": np.where(exists, 0.0, 1 - says),
        "no_targets": ~exists,
        "true_pos": np.where(exists, says, 0.0),
        "right": np.where(exists, says, 1 - says),
    }
    table = np.stack([np.asarray(values[name], np.float64) for name in SUMS], axis=1)
    if protocol.expressions == "first":
        table[np.array([truth.expression > 0 for truth, _ in questions], bool)] = 0.0
    return table


def ratios(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of sums: float64[..., K] -> key -> float64[...]; NaN where nothing is to count.

    Where no object is there, cIoU would be 0 whatever was answered: it is NaN.
    """
    part = dict(zip(SUMS, np.moveaxis(sums, -1, 0), strict=True))
    part["union"] = np.where(part["targets"] > 0, part["union"], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            key: np.where(part[under] > 0, part[over] / part[under], math.nan)
            for key, (_, over, under) in METRICS.items()
        }


def exact_sums(values: np.ndarray) -> np.ndarray:
    """Sums over questions without rounding error: float64[N, K] -> float64[K]."""
    return np.array([math.fsum(column) for column in values.T.tolist()])


def resampled(values: np.ndarray, images: Sequence[str]) -> tuple[dict[str, np.ndarray], int]:
    """Metrics of resamples of images; columns of the same call share the draws.

    Args:
        values: float64[N, P, K].
        images: N names.

    Returns:
        key -> float64[R, P], and C.
    """
    distinct, image = np.unique(np.asarray(images, dtype=object), return_inverse=True)
    count, shape = len(distinct), values.shape[1:]
    sums = np.empty((count, *shape))
    for p in range(shape[0]):
        for k in range(shape[1]):
            sums[:, p, k] = np.bincount(image, values[:, p, k], minlength=count)
    flat = sums.reshape(count, -1)
    generator = np.random.default_rng(SEED)
    drawn = [weights @ flat for weights in resample_weights(count, RESAMPLES, generator)]
    return ratios(np.concatenate(drawn).reshape(-1, *shape)), count


def measured(
    value: Mapping[str, float], drawn: Mapping[str, np.ndarray], column: int, images: int
) -> dict[str, Measured]:
    """Values with their intervals; none for a single image, where drawing images tells nothing."""
    found = {}
    for key in METRICS:
        ends = None
        if images > 1 and not math.isnan(value[key]):
            low, high = percentile_interval(drawn[key][:, [column]])[0].tolist()
            ends = None if math.isnan(low) else (low, high)
        found[key] = Measured(None if math.isnan(value[key]) else value[key], ends)
    return found


def value_tables(
    run: Run, protocols: Sequence[Protocol]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Under each protocol that applies float64[N, K], see `question_values`; why others do not."""
    asked = asked_of(run)
    reasons = {one.name: why_unsuited(one, asked) for one in protocols}
    tables = {one.name: question_values(one, run) for one in protocols if not reasons[one.name]}
    return tables, {name: reason for name, reason in reasons.items() if reason}


def score_protocols(
    run: Run, protocols: Sequence[Protocol]
) -> tuple[list[ProtocolScores], dict[str, str]]:
    """Score a run, of one question or more, under every protocol that applies to it.

    Returns:
        The scores, and for each protocol that does not apply the reason.
    """
    tables, reasons = value_tables(run, protocols)
    if not tables:
        return [], reasons
    images = [truth.image for truth, _ in run.questions]
    drawn, number = resampled(np.stack(list(tables.values()), axis=1), images)
    applied, asked = [one for one in protocols if one.name in tables], asked_of(run)
    scores = []
    for column, one in enumerate(applied):
        sums = exact_sums(tables[one.name])
        value = {key: float(found) for key, found in ratios(sums).items()}
        counted = int(sums[SUMS.index("questions")])
        metrics = measured(value, drawn, column, number)
        scores.append(ProtocolScores(one, counted, metrics, unknown_of(one, asked)))
    return scores, reasons

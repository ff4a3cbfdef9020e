"""What scoring under several protocols shows: tables for the terminal, and one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from markupsafe import Markup

from utils.evaluation.ablation import Measured
from utils.evaluation.alignment import align
from utils.evaluation.comparison import Comparison
from utils.evaluation.evaluator import Record
from utils.evaluation.mask_counts import Code, Predicted, Truth, unite
from utils.evaluation.mask_formats import read_any
from utils.evaluation.protocol_scores import METRICS, ProtocolScores, Run, score_protocols
from utils.evaluation.protocols import choose_protocols, differing_cells
from utils.protocol.rle import decode_mask, decode_truth
from utils.reports.charts import Mark, interval_chart
from utils.reports.evaluation_examples import Case, draw_case
from utils.reports.evaluation_page import LEGEND, interval_text, method_text
from utils.reports.page import Table, fill_template, kind_title, number, signed

FIELD_TITLES = {
    "empty_union": "empty union",
    "ignore": "255 is",
    "text": "question",
    "expressions": "sentences",
    "objects": "objects",
    "seg": "[SEG]",
    "no_target": "nothing there",
    "no_target_pixels": "empty below (pixels)",
}
GROUPS = {
    "Masks": ("giou", "ciou", "miou"),
    "Presence": ("n_acc", "t_acc", "see"),
    "Precision": tuple(key for key in METRICS if key.startswith("pr@")),
}
NOTE = (
    "gIoU: mean IoU over all questions. cIoU: sum of intersections over sum of unions. mIoU, Pr@x, "
    "T-acc: questions about something that is there; N-acc: about nothing that is there."
)


def score_tables(run: Run, scores: Sequence[ProtocolScores]) -> list[Table]:
    """All protocols that apply, one below the other; `*` marks that of the run's published row."""
    tables = []
    for title, names in GROUPS.items():
        keys = [key for key in names if any(s.metrics[key].value is not None for s in scores)]
        rows = [
            [
                f"{one.protocol.name}{' *' if one.protocol.name == run.row else ''}",
                str(one.questions),
                *(_value(one.metrics[key]) for key in keys),
            ]
            for one in scores
        ]
        if keys:
            header = ["protocol", "questions", *(METRICS[key][0] for key in keys)]
            tables.append(Table(f"{title}: {run.name}", header, rows))
    star = f" *: the protocol of the published row ({run.row})." if run.row else ""
    tables[-1].note = f"{NOTE} {method_text()}{star}"
    return tables


def _value(found: Measured) -> str:
    ends = interval_text(found.interval)
    return f"{number(found.value)} ({ends})" if ends else number(found.value)


def difference_table(scores: Sequence[ProtocolScores]) -> Table | None:
    """What differs between the protocols that were scored; None if nothing does."""
    protocols = [one.protocol for one in scores]
    cells = differing_cells(protocols)
    if not cells:
        return None
    rows = [
        [protocol.name, protocol.title, *(column[n] for column in cells.values())]
        for n, protocol in enumerate(protocols)
    ]
    header = ["protocol", "of", *(FIELD_TITLES[name] for name in cells)]
    return Table("What differs", header, rows)


def run_tables(folder: str | Path, modes: Sequence[str]) -> list[Table]:
    """gIoU, cIoU and mIoU of a finished run under every protocol that applies, and what differs.

    Args:
        folder: predictions of this project or of the original.
        modes: ways of asking; those whose true masks an older version did not keep have no tables.
    """
    tables = []
    for mode in modes:
        predictions = read_any(folder, mode)
        if predictions.truths is None:
            continue
        run = align(replace(predictions, name=mode), predictions.truths)
        scores, _ = score_protocols(run, choose_protocols(None))
        first, *others = score_tables(run, scores)
        tables.append(replace(first, note=others[-1].note if others else first.note))
        tables += filter(None, [difference_table(scores)])
    return tables


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Differences of the metrics, and wins and losses by kind of question."""
    title = f"{comparison.run.name} less {comparison.other.name} ({comparison.protocol.name})"
    rows = []
    for key, found in comparison.differences.items():
        if found.value is None:
            continue
        ends = found.interval
        text = f"{signed(ends[0], 4)} to {signed(ends[1], 4)}" if ends else ""
        apart = ends is not None and (ends[0] > 0 or ends[1] < 0)
        verdict = "differs" if apart else "no difference shown"
        rows.append([METRICS[key][0], signed(found.value, 4), text, verdict if ends else ""])
    note = f"Paired: both runs in the same resamples. {method_text()}"
    tallies = [
        [kind_title(one.kind), str(one.better), str(one.same), str(one.worse)]
        + [signed(one.mean_difference, 4)]
        for one in comparison.tallies
    ]
    return [
        Table(title, ["metric", "difference", "95 % interval", "verdict"], rows, note),
        Table(
            "Questions by IoU",
            ["kind of question", "better", "same", "worse", "mean difference"],
            tallies,
        ),
    ]


def _record(truth: Truth, predicted: Predicted, iou: float) -> Record:
    """A question as the page of an evaluation has it, with the IoU in thousandths."""
    present = bool(predicted.masks) if predicted.present is None else predicted.present
    both = round(1000 * iou)
    question = truth.question or truth.id
    rest = (truth.kind, predicted.answer, present, truth.exists, both, 1000)
    return Record(0, 0, 1, truth.image, question, *rest)


def _draw(truth: Truth, predicted: Predicted, iou: float, roots: Sequence[Path]) -> Case:
    true, pred = (_plain(unite(codes)) for codes in (truth.objects, predicted.masks))
    masks = decode_mask(pred) if pred else None, decode_truth(true, truth.ignored) if true else None
    return draw_case(_record(truth, predicted, iou), masks, roots)


def _plain(code: Code | None) -> Code | None:
    """Codes that pycocotools has united have bytes as counts."""
    if code is None or isinstance(code["counts"], str):
        return code
    return {**code, "counts": code["counts"].decode("ascii")}


def regressions(comparison: Comparison, roots: Sequence[Path] = ()) -> list[Case]:
    """The questions that lose most, drawn with both answers where the masks are known."""
    cases = []
    for n in comparison.worst:
        ours, theirs = (
            _draw(*run.questions[n], iou, roots)
            for run, iou in zip((comparison.run, comparison.other), comparison.ious[n], strict=True)
        )
        tiles = [(name, tile) for name, tile in ours.tiles if name != "answer"]
        for title, case in (("this run", ours), ("the other", theirs)):
            tiles += [(title, tile) for name, tile in case.tiles if name == "answer"]
        new, old = comparison.ious[n]
        cases.append(Case(ours.record, f"IoU {new:.3f} instead of {old:.3f}", tiles, ours.note))
    return cases


def protocol_page(
    run: Run,
    scores: Sequence[ProtocolScores],
    reasons: Mapping[str, str],
    comparisons: Sequence[Comparison] = (),
    roots: Sequence[Path] = (),
) -> str:
    """The page as HTML text.

    Args:
        run: what was scored.
        scores: see `score_tables`.
        reasons: protocol -> why it does not apply.
        comparisons: with other runs.
        roots: folders for images with relative paths.
    """
    marks = [
        Mark(s.protocol.name, found.value, found.interval, own=s.protocol.name == run.row)
        for s in scores
        if (found := s.metrics["giou"]).value is not None
    ]
    differences = difference_table(scores)
    sections = [
        (one.other.name, comparison_tables(one), regressions(one, roots)) for one in comparisons
    ]
    return fill_template(
        "protocols.html.j2",
        run=run,
        tables=[*score_tables(run, scores), *([differences] if differences else [])],
        chart=Markup(interval_chart(marks, "gIoU")),
        remarks={
            "Taken on trust": {one.protocol.name: one.unknown for one in scores if one.unknown},
            "Protocols that do not apply": reasons,
        },
        sections=sections,
        colours=LEGEND,
    )

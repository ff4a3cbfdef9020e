"""The page of a finished run's metrics: numbers with intervals, misses, and answers to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from utils.evaluation.bootstrap import LEVEL, RESAMPLES, SEED
from utils.evaluation.group_scores import MISSES, GroupScores, ModeScores
from utils.evaluation.predictions import EvalRun
from utils.reports.charts import histogram
from utils.reports.evaluation_examples import Case, choose, draw_case
from utils.reports.page import Table, fill_template, kind_title, number, signed
from utils.reports.visualize import IGNORED_COLOUR, MASK_COLOUR, TRUTH_COLOUR

TITLES = {
    "generated": "Generated answers",
    "teacher_forced": "Teacher-forced answers",
}
METRICS = {
    "giou": "gIoU",
    "ciou": "cIoU",
    "see_accuracy": "See",
    "absent_precision": "absent: precision",
    "absent_recall": "absent: recall",
}
SEGMENTATION = ("giou", "ciou")
LEGEND = {
    name: "#{:02x}{:02x}{:02x}".format(*colour)
    for name, colour in {
        "answer": MASK_COLOUR,
        "truth": TRUTH_COLOUR,
        "does not count": IGNORED_COLOUR,
    }.items()
}
"""Colours of the masks, as CSS has them."""


@dataclass
class Cell:
    """A number of a table, with its interval or share below in small print."""

    value: str
    small: str = ""

    @property
    def text(self) -> str:
        """Both in one line."""
        return f"{self.value} ({self.small})" if self.small else self.value


@dataclass
class ModeSection:
    """What the page shows of one way of asking.

    Args:
        title: heading.
        figures: (name, value, interval), the numbers to see first.
        header, rows: the table of all metrics; the first cell names the group.
        see: rows of the 2 x 2 table of presence, None if the model could not say no.
        chart: histogram of the IoU, as SVG.
        precision: (limit, share of IoUs that reach it).
        miss_header, misses: the table of misses, likewise.
        groups: heading -> cases.
        skipped: messages about images that were left out.
    """

    title: str
    figures: list[tuple[str, str, str]]
    header: list[str]
    rows: list[list[Cell]]
    see: list[list[Cell]] | None
    chart: Markup
    precision: list[tuple[str, str]]
    miss_header: list[str]
    misses: list[list[Cell]]
    groups: dict[str, list[Case]]
    skipped: list[str]


def mode_title(mode: str) -> str:
    """Heading of a way of asking."""
    name, _, rest = mode.partition(", ")
    title = TITLES.get(name, name)
    return f"{title}: {rest}" if rest else title


def could_deny(mode: str) -> bool:
    """Whether the model could say that something is not there; a forced answer cannot."""
    return mode != "teacher_forced"


def interval_text(ends: tuple[float, float] | None) -> str:
    """An interval as text; nothing if there is none."""
    return "" if ends is None else f"{number(ends[0])}–{number(ends[1])}"


def _tells(group: GroupScores, name: str) -> bool:
    """Whether a metric says anything about a group: some are fixed by what it is made of."""
    see = group.scores.see
    return {
        "absent_precision": see.present_count > 0 and see.absent_count > 0,
        "absent_recall": see.absent_count > 0,
    }.get(name, True)


def _cell(group: GroupScores, name: str) -> Cell:
    if not _tells(group, name):
        return Cell(number(None))
    return Cell(number(group.scores.as_dict()[name]), interval_text(group.intervals[name]))


def _groups(scores: ModeScores) -> list[tuple[str, GroupScores]]:
    rows = [(kind_title(kind), group) for kind, group in scores.per_kind.items()]
    there = scores.objects.scores.see.count
    kinds = [group.scores.see for _, group in rows]
    alone = any(see.present_count == there == see.count for see in kinds)
    if 0 < there < len(scores.result.records) and not alone:
        rows.append(("objects that are there", scores.objects))
    return [*rows, ("all", scores.all)]


def _shown_metrics(mode: str) -> list[str]:
    return list(METRICS) if could_deny(mode) else list(SEGMENTATION)


def _rows(mode: str, scores: ModeScores) -> list[list[Cell]]:
    rows = []
    for title, group in _groups(scores):
        counts = _count(group.scores.see.count, "question"), _count(group.images, "image")
        cells = [_cell(group, name) for name in _shown_metrics(mode)]
        rows.append([Cell(title, ", ".join(counts)), *cells])
    return rows


def _count(number_of: int, thing: str) -> str:
    return f"{number_of:,} {thing}" + ("" if number_of == 1 else "s")


def score_tables(modes: Mapping[str, ModeScores]) -> list[Table]:
    """The numbers with intervals, one table per way of asking, for the terminal."""
    tables = []
    for mode, scores in modes.items():
        names = _shown_metrics(mode)
        header = ["kind of question", "questions", "images", *(METRICS[name] for name in names)]
        rows = []
        for title, group in _groups(scores):
            counts = [str(group.scores.see.count), str(group.images)]
            rows.append([title, *counts, *(_cell(group, name).text for name in names)])
        tables.append(Table(mode_title(mode), header, rows, method_text()))
    both = protocol_table(modes)
    return [*tables, both] if both else tables


def protocol_table(modes: Mapping[str, ModeScores]) -> Table | None:
    """Both ways of asking side by side, with the gap; None if there are not both.

    Forced answers are about objects that are there, so both columns are about these.
    """
    if not {"teacher_forced", "generated"} <= set(modes):
        return None
    forced, free = modes["teacher_forced"].objects.scores, modes["generated"].objects.scores
    rows = []
    for name in SEGMENTATION:
        first, second = (getattr(scores.segmentation, name) for scores in (forced, free))
        rows.append([METRICS[name], number(first), number(second), signed(second - first)])
    counts = [str(scores.segmentation.count) for scores in (forced, free)]
    rows.append(["questions", *counts, ""])
    header = ["objects that are there", "teacher-forced", "generated", "gap"]
    return Table("Two ways of asking", header, rows, "Gap: generated minus teacher-forced.")


def method_text() -> str:
    """How the intervals were made."""
    return (
        f"Intervals: {LEVEL:.0%}, percentile bootstrap over images, {RESAMPLES:,} resamples, "
        f"seed {SEED}."
    )


def _figures(mode: str, scores: ModeScores) -> list[tuple[str, str, str]]:
    absent = scores.all.scores.segmentation.count - scores.objects.scores.segmentation.count
    which = " (objects that are there)" if absent else ""
    shown = [(METRICS[name] + which, scores.objects, name) for name in SEGMENTATION]
    if could_deny(mode):
        shown.append(("See: presence told rightly", scores.all, "see_accuracy"))
    if absent:
        shown.append(("Segment: cIoU of all questions", scores.all, "ciou"))
    cells = [(title, _cell(group, name)) for title, group, name in shown]
    return [(title, cell.value, cell.small) for title, cell in cells]


def _share(part: int, whole: int) -> Cell:
    return Cell(f"{part:,}", f"{part / whole:.1%}" if whole else "")


def _see(scores: ModeScores) -> list[list[Cell]]:
    see = scores.all.scores.see
    there, absent = see.present_count, see.absent_count
    return [
        [Cell("it is there"), _share(see.true_pos, there), _share(see.false_neg, there)],
        [Cell("it is not there"), _share(see.false_pos, absent), _share(see.true_neg, absent)],
    ]


def _misses(scores: ModeScores) -> list[list[Cell]]:
    rows = []
    for title, group in _groups(scores):
        count = group.scores.segmentation.count
        shares = [_share(group.misses[miss], count) for miss in MISSES]
        rows.append([Cell(title, _count(count, "question")), *shares])
    return rows


def mode_section(run: EvalRun, mode: str, scores: ModeScores, roots: Sequence[Path]) -> ModeSection:
    """Everything that the page shows of one way of asking."""
    records = scores.result.records
    groups = {
        title: [draw_case(record, run.masks(mode, record), roots) for record in chosen]
        for title, chosen in choose(records).items()
    }
    ious = [record.iou for record in records if record.truth_present]
    return ModeSection(
        title=mode_title(mode),
        figures=_figures(mode, scores),
        header=["kind of question", *(METRICS[name] for name in _shown_metrics(mode))],
        rows=_rows(mode, scores),
        see=_see(scores) if could_deny(mode) else None,
        chart=Markup(histogram(ious, "IoU of objects that are there")),
        precision=[(limit, number(share)) for limit, share in scores.precision_at.items()],
        miss_header=["kind of question", *MISSES.values()],
        misses=_misses(scores),
        groups=groups,
        skipped=sorted(scores.result.skipped),
    )


def score_page(run: EvalRun, modes: Mapping[str, ModeScores], roots: Sequence[Path] = ()) -> str:
    """The page as HTML text.

    Args:
        run: for the masks and for what was evaluated.
        modes: mode -> its metrics.
        roots: folders for images with relative paths.
    """
    sections = [mode_section(run, mode, scores, roots) for mode, scores in modes.items()]
    return fill_template(
        "score_report.html.j2",
        run=run,
        sections=sections,
        method=method_text(),
        colours=LEGEND,
        protocols=protocol_table(modes),
    )

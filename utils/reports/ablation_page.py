"""What an ablation of SasP shows: tables for the terminal, and a page with plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from utils.evaluation.ablation import METRICS, Measured, SettingScores
from utils.protocol.constants import PROMPTS
from utils.reports.charts import Curve, Mark, interval_chart, line_chart
from utils.reports.evaluation_page import Cell, could_deny, interval_text, method_text, mode_title
from utils.reports.page import Table, fill_template, number, signed

PUBLISHED = "The paper reports 51.2/57.6, 56.4/64.6 and 59.8/67.6 (7B, ReasonSeg val)."
NOTE = (
    "Prompts for SAM, exchanged in the trained model without training anew (the paper trains "
    f"each). {PUBLISHED}"
)
OWN = "what the model uses by itself; differences are to it, on the same questions"


@dataclass
class ModeAblation:
    """What the page shows of one way of asking: heading, table, (title, SVG) pairs."""

    title: str
    header: list[str]
    rows: list[tuple[bool, list[Cell]]]
    charts: list[tuple[str, Markup]]


def _shown(mode: str) -> list[str]:
    return list(METRICS) if could_deny(mode) else ["giou", "ciou"]


def _signed(measured: Measured | None) -> Cell:
    if measured is None or measured.value is None:
        return Cell("")
    ends = measured.interval
    small = f"{signed(ends[0], 4)} to {signed(ends[1], 4)}" if ends else ""
    return Cell(signed(measured.value, 4), small)


def _rows(mode: str, settings: Sequence[SettingScores]) -> list[list[Cell]]:
    rows = []
    for one in settings:
        cells = [Cell(one.prompt), Cell(one.thresholds), Cell(one.points)]
        for name in _shown(mode):
            measured = one.metrics[name]
            cells.append(Cell(number(measured.value), interval_text(measured.interval)))
            if name in ("giou", "ciou"):
                cells.append(_signed(one.minus_own.get(name)))
        rows.append(cells)
    return rows


def _header(mode: str) -> list[str]:
    header = ["prompt for SAM", "thresholds", "points"]
    for name in _shown(mode):
        header += [METRICS[name], "difference"] if name in ("giou", "ciou") else [METRICS[name]]
    return header


def ablation_tables(modes: Mapping[str, Sequence[SettingScores]]) -> list[Table]:
    """The numbers of every setting, one table per way of asking, for the terminal."""
    tables = []
    for mode, settings in modes.items():
        rows = [
            [("* " if one.own else "  ") + cells[0].value, *(cell.text for cell in cells[1:])]
            for one, cells in zip(settings, _rows(mode, settings), strict=True)
        ]
        title = f"Ablation of SasP. {mode_title(mode)}"
        tables.append(Table(title, _header(mode), rows, f"*: {OWN}. {method_text()}"))
    return tables


def prompt_table(settings: Sequence[SettingScores]) -> Table:
    """gIoU and cIoU with each prompt, all else being as the model's own setting has it."""
    own = next(one.sasp for one in settings if one.own)
    alike = [one for one in settings if one.sasp == {**own, "prompt": one.sasp["prompt"]}]
    rows = [[one.prompt, *(number(one.metrics[m].value) for m in _SHORT)] for one in alike]
    return Table("Ablation of the prompt", ["prompt", *_SHORT.values()], rows, NOTE)


_SHORT = {"giou": "gIoU", "ciou": "cIoU"}


def _marks(settings: Sequence[SettingScores], metric: str) -> list[Mark]:
    prompts = list(PROMPTS)
    return [
        Mark(
            one.label.replace("text + ", "").replace(" points,", ","),
            measured.value,
            measured.interval,
            prompts.index(one.sasp["prompt"]),
            one.own,
        )
        for one in settings
        if (measured := one.metrics[metric]).value is not None
    ]


def _budgets(settings: Sequence[SettingScores], metric: str) -> str | None:
    """Curves over the number of points, None with fewer than two numbers of points."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for one in settings:
        value = one.metrics[metric].value
        if one.points and value is not None:
            name = f"{one.prompt.removeprefix('text + ').removesuffix(' points')}, {one.thresholds}"
            curves.setdefault(name, []).append((one.sasp["num_points"], value))
    values = [y for pairs in curves.values() for _, y in pairs]
    if len({x for pairs in curves.values() for x, _ in pairs}) < 2 or len(curves) > 4:
        return None
    room = max(0.02, max(values) - min(values)) / 4
    limits = (max(0.0, min(values) - room), min(1.0, max(values) + room))
    lines = [Curve(name, sorted(pairs)) for name, pairs in curves.items()]
    return line_chart(lines, "points", y_limits=limits)


def ablation_page(
    modes: Mapping[str, Sequence[SettingScores]], about: Sequence[tuple[str, str]] = ()
) -> str:
    """The page as HTML text.

    Args:
        modes: mode -> settings.
        about: (name, value) pairs that say what was evaluated.
    """
    sections = []
    for mode, settings in modes.items():
        charts = [(METRICS[m], interval_chart(_marks(settings, m), METRICS[m])) for m in _SHORT]
        for metric, title in _SHORT.items():
            if over := _budgets(settings, metric):
                charts.append((f"{title} by number of points", over))
        rows = [
            (one.own, cells) for one, cells in zip(settings, _rows(mode, settings), strict=True)
        ]
        drawn = [(title, Markup(svg)) for title, svg in charts]
        sections.append(ModeAblation(mode_title(mode), _header(mode), rows, drawn))
    return fill_template(
        "ablation.html.j2",
        about=about,
        sections=sections,
        note=NOTE,
        own=OWN,
        method=method_text(),
    )

"""Values with intervals, one below the other, as inline SVG in the style of `charts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from utils.reports.charts import RIGHT, TOP, WIDTH, ticks

ROW = 22
NAMES = 238
"""Width of the column of names."""
FOOT = 42


@dataclass(frozen=True)
class Mark:
    """A row of the chart.

    Args:
        name: text on the left.
        value: where the dot is.
        interval: ends of the line through it, None without.
        line: number of its colour in the style sheet.
        own: drawn as a ring with its name in bold.
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    line: int = 0
    own: bool = False


def interval_chart(marks: Sequence[Mark], label: str) -> str:
    """An SVG element with one row a mark.

    The axis holds all intervals and need not begin at 0: dots are compared, not lengths.

    Args:
        marks: from top to bottom; a change of colour leaves a gap.
        label: name of the horizontal axis.
    """
    if not marks:
        return '<p class="quiet">There was nothing to compare.</p>'
    ends = [end for mark in marks for end in (mark.value, *(mark.interval or ()))]
    across = ticks(min(ends), max(ends), 4)

    def place(value: float) -> float:
        return NAMES + (value - across[0]) / (across[-1] - across[0]) * (WIDTH - NAMES - RIGHT - 8)

    rows, below = [], float(TOP)
    for mark, before in zip(marks, [marks[0], *marks[:-1]], strict=True):
        below += ROW + (ROW / 2 if mark.line != before.line else 0)
        rows.append(below - ROW / 2)
    height = below + FOOT
    parts = [f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" class="chart">']
    parts.append(f"<title>{escape(label)} of each setting</title>")
    for value in across:
        x = place(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{below:g}"/>')
        parts.append(f'<text x="{x:.1f}" y="{below + 16:g}" text-anchor="middle">{value:g}</text>')
    middle = f'x="{(NAMES + WIDTH - RIGHT) / 2}" y="{height - 6:g}" text-anchor="middle"'
    parts.append(f"<text {middle}>{escape(label)}</text>")
    for mark, y in zip(marks, rows, strict=True):
        x, colour = place(mark.value), f"line-{mark.line}"
        bold = ' font-weight="700"' if mark.own else ""
        parts.append(
            f'<text x="{NAMES - 10}" y="{y + 4:g}" text-anchor="end"{bold}>'
            f"{escape(mark.name)}</text>"
        )
        told = f"{mark.value:.4f}"
        if mark.interval is not None:
            low, high = mark.interval
            told += f" ({low:.4f} to {high:.4f})"
            line = f'x1="{place(low):.1f}" x2="{place(high):.1f}" y1="{y:g}" y2="{y:g}"'
            parts.append(f'<line class="{colour}" stroke-width="2" {line}/>')
        ring = ' stroke-width="3" style="fill:var(--ground)"' if mark.own else ""
        parts.append(
            f'<circle class="{colour}" cx="{x:.1f}" cy="{y:g}" r="{6 if mark.own else 4}"{ring}>'
            f"<title>{escape(mark.name)}: {told}</title></circle>"
        )
    return "".join(parts) + "</svg>"

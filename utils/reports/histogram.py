"""A histogram as inline SVG, in the style of `utils.reports.charts`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from utils.reports.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, ticks


def count_bins(values: Sequence[float], bins: int = 20) -> list[int]:
    """How many values lie in each of `bins` equal parts of [0, 1]; 1 is in the last one."""
    counts, _ = np.histogram(np.asarray(values, np.float64), bins=bins, range=(0.0, 1.0))
    return [int(count) for count in counts]


def histogram(values: Sequence[float], label: str, bins: int = 20, split: float = 0.5) -> str:
    """An SVG element with one bar for each part of [0, 1].

    Args:
        values: between 0 and 1.
        label: name of the horizontal axis.
        bins: number of bars.
        split: bars below it take the colour of misses.
    """
    if not len(values):
        return '<p class="quiet">There was nothing to count.</p>'
    counts = count_bins(values, bins)
    most = max(counts)
    marks = (ticks(0, most, steps) for steps in (min(4, most), 2, 1))
    up = next(one for one in marks if all(value == int(value) for value in one))
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="chart">']
    parts.append(f"<title>{escape(label)}: number of questions</title>")
    for value in up:
        y = HEIGHT - BOTTOM - value / up[-1] * tall
        line = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line class="grid" {line}/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for number, count in enumerate(counts):
        low, high = number / bins, (number + 1) / bins
        bar = count / up[-1] * tall
        place = f'x="{LEFT + low * wide + 1:.1f}" width="{wide / bins - 2:.1f}"'
        place += f' y="{HEIGHT - BOTTOM - bar:.1f}" height="{bar:.1f}"'
        css = "bad-bar" if high <= split + 1e-9 else "good-bar"
        told = f"{low:.2f} to {high:.2f}: {count}"
        parts.append(f'<rect class="{css}" {place}><title>{told}</title></rect>')
    for value in (0, 0.25, 0.5, 0.75, 1):
        x = LEFT + value * wide
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>'
        )
    middle = f'x="{LEFT + wide / 2}" y="{HEIGHT - 6}" text-anchor="middle"'
    parts.append(f"<text {middle}>{escape(label)}</text></svg>")
    return "".join(parts)

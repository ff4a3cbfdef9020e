"""Line charts as inline SVG: no script, no font, no file beside the page that shows them.

Colours come from the page's style sheet (classes `line-0`, `line-1`, ...), so that a chart follows
a light or a dark ground.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40
MAX_LINES = 4
"""Number of line colours in the style sheet."""


@dataclass(frozen=True)
class Curve:
    """A named line through (x, y) pairs; pairs that are not finite are left out.

    Args:
        name: in the legend.
        pairs: (x, y).
        band: (x, low, high), shaded around the line; rising x.
    """

    name: str
    pairs: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()

    @property
    def finite(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in self.pairs if math.isfinite(x) and math.isfinite(y)]


def moving_average(pairs: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Each y replaced by the mean of the last `window` ones; the first ones by what there is."""
    smooth, total = [], 0.0
    for index, (x, y) in enumerate(pairs):
        total += y - (pairs[index - window][1] if index >= window else 0.0)
        smooth.append((x, total / min(index + 1, window)))
    return smooth


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high] in about `count` steps."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def line_chart(
    curves: Sequence[Curve],
    x_label: str,
    window: int = 1,
    y_limits: tuple[float, float] | None = None,
) -> str:
    """An SVG element with axes, a legend and one line per curve.

    Args:
        curves: at most `MAX_LINES`.
        x_label: name of the horizontal axis.
        window: width of a moving average; above 1 the values themselves are drawn faintly below.
        y_limits: range of the vertical axis; default: 0, or less, to the highest value.

    Raises:
        ValueError: more curves than colours.
    """
    if len(curves) > MAX_LINES:
        raise ValueError(f"{len(curves)} curves in one chart; at most {MAX_LINES} have a colour")
    pairs = [pair for curve in curves for pair in curve.finite]
    if not pairs:
        return '<p class="quiet">No values were recorded.</p>'
    across = ticks(min(x for x, _ in pairs), max(x for x, _ in pairs))
    reached = [y for _, y in pairs] + [y for c in curves for _, *ends in c.band for y in ends]
    low, high = y_limits or (min(0.0, *reached), max(reached))
    up = ticks(low, high)

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - across[0]) / (across[-1] - across[0])
        above = (y - up[0]) / (up[-1] - up[0])
        return (
            LEFT + right * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - above * (HEIGHT - TOP - BOTTOM),
        )

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="chart">']
    for value in up:
        x, y = place(across[0], value)
        line = f'x1="{x}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line class="grid" {line}/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in across:
        x, y = place(value, up[0])
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{value:g}</text>')
    middle = f'x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle"'
    parts.append(f"<text {middle}>{escape(x_label)}</text>")
    for number, curve in enumerate(curves):
        if curve.band:
            around = [(x, y) for x, _, y in curve.band] + [(x, y) for x, y, _ in curve.band[::-1]]
            corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*pair) for pair in around))
            parts.append(f'<polygon class="band line-{number}" points="{corners}"/>')
        if window > 1:
            parts.append(_polyline(f"faint line-{number}", [place(*p) for p in curve.finite]))
        smooth = moving_average(curve.finite, window)
        parts.append(_polyline(f"line-{number}", [place(*pair) for pair in smooth]))
    parts.append("</svg>")
    legend = "".join(
        f'<span class="key line-{number}">{escape(curve.name)}</span>'
        for number, curve in enumerate(curves)
    )
    return "".join(parts) + f'<p class="legend">{legend}</p>'


def _polyline(css: str, places: list[tuple[float, float]]) -> str:
    if len(places) == 1:
        x, y = places[0]
        return f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="{css}" points="{text}"/>'

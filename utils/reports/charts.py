"""Charts as inline SVG: no script, no font, no file beside the page that shows them.

Colours come from the page's style sheet (classes `line-0`, `line-1`, ...), so that a chart follows
a light or a dark ground.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from xml.etree import ElementTree

import numpy as np

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40
ROW, NAMES, FOOT = 22, 238, 42
"""Of `interval_chart`: height of a row, width of the column of names, height below the rows."""
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


@dataclass(frozen=True)
class Mark:
    """A row of `interval_chart`.

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


def moving_average(pairs: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Each y replaced by the mean of the last `window` ones; the first ones by what there is."""
    values = [y for _, y in pairs]
    parts = [values[max(0, end - window) : end] for end in range(1, len(pairs) + 1)]
    return [(x, sum(part) / len(part)) for (x, _), part in zip(pairs, parts, strict=True)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high] in about `count` steps."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def count_bins(values: Sequence[float], bins: int = 20) -> list[int]:
    """How many values lie in each of `bins` equal parts of [0, 1]; 1 is in the last one."""
    return np.histogram(values, bins=bins, range=(0.0, 1.0))[0].tolist()


class _Drawing:
    """An SVG element as it is put together; numbers are rounded to a tenth of a pixel."""

    def __init__(self, height: float, title: str = ""):
        box = {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", "class": "chart"}
        self.root = ElementTree.Element("svg", box)
        if title:
            ElementTree.SubElement(self.root, "title").text = title

    def add(self, tag: str, css: str, title: str = "", **values: float | str) -> None:
        """A shape of a class; `title` is shown when it is pointed at."""
        shape = ElementTree.SubElement(self.root, tag, {"class": css, **_attributes(values)})
        if title:
            ElementTree.SubElement(shape, "title").text = title

    def text(self, content: str, anchor: str = "middle", **values: float | str) -> None:
        attributes = {**_attributes(values), "text-anchor": anchor}
        ElementTree.SubElement(self.root, "text", attributes).text = content

    def __str__(self) -> str:
        return ElementTree.tostring(self.root, encoding="unicode")


def _attributes(values: dict[str, float | str]) -> dict[str, str]:
    texts = {k: v if isinstance(v, str) else f"{v:.1f}" for k, v in values.items()}
    return {name.replace("_", "-"): text for name, text in texts.items()}


def _corners(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _scale(marks: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """Places from `start` for the first mark to `end` for the last."""
    return lambda value: start + (value - marks[0]) / (marks[-1] - marks[0]) * (end - start)


def _axes(
    x_label: str, across: Sequence[float], up: Sequence[float], title: str = ""
) -> tuple[_Drawing, Callable, Callable]:
    """A drawing with horizontal grid lines at `up`, and numbers there and at `across`."""
    drawing = _Drawing(HEIGHT, title)
    x_of = _scale(across, LEFT, WIDTH - RIGHT)
    y_of = _scale(up, HEIGHT - BOTTOM, TOP)
    for value in up:
        y = y_of(value)
        drawing.add("line", "grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y)
        drawing.text(f"{value:g}", "end", x=LEFT - 6, y=y + 4)
    for value in across:
        drawing.text(f"{value:g}", x=x_of(value), y=HEIGHT - BOTTOM + 16)
    drawing.text(x_label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6)
    return drawing, x_of, y_of


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
    reached = [y for _, y in pairs] + [y for c in curves for _, *ends in c.band for y in ends]
    low, high = y_limits or (min(0.0, *reached), max(reached))
    across = ticks(min(x for x, _ in pairs), max(x for x, _ in pairs))
    drawing, x_of, y_of = _axes(x_label, across, ticks(low, high))
    for number, curve in enumerate(curves):
        if curve.band:
            above = [(x_of(x), y_of(y)) for x, _, y in curve.band]
            below = [(x_of(x), y_of(y)) for x, y, _ in curve.band]
            drawing.add("polygon", f"band line-{number}", points=_corners(above + below[::-1]))
        lines = [("", moving_average(curve.finite, window))]
        for css, line in [("faint ", curve.finite)] * (window > 1) + lines:
            points = [(x_of(x), y_of(y)) for x, y in line]
            if len(points) == 1:
                drawing.add("circle", f"{css}line-{number}", cx=points[0][0], cy=points[0][1], r=3)
            else:
                drawing.add("polyline", f"{css}line-{number}", points=_corners(points))
    legend = "".join(
        f'<span class="key line-{number}">{escape(curve.name)}</span>'
        for number, curve in enumerate(curves)
    )
    return f'{drawing}<p class="legend">{legend}</p>'


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
    steps = (ticks(0, most, steps) for steps in (min(4, most), 2, 1))
    up = next(marks for marks in steps if all(value == int(value) for value in marks))
    title = f"{label}: number of questions"
    drawing, x_of, y_of = _axes(label, (0, 0.25, 0.5, 0.75, 1), up, title)
    for number, count in enumerate(counts):
        low, high = number / bins, (number + 1) / bins
        drawing.add(
            "rect",
            "bad-bar" if high <= split + 1e-9 else "good-bar",
            f"{low:.2f} to {high:.2f}: {count}",
            x=x_of(low) + 1,
            width=x_of(high) - x_of(low) - 2,
            y=y_of(count),
            height=y_of(0) - y_of(count),
        )
    return str(drawing)


def interval_chart(marks: Sequence[Mark], label: str) -> str:
    """An SVG element with values and intervals, one below the other.

    The axis holds all intervals and need not begin at 0: dots are compared, not lengths.

    Args:
        marks: from top to bottom; a change of colour leaves a gap.
        label: name of the horizontal axis.
    """
    if not marks:
        return '<p class="quiet">There was nothing to compare.</p>'
    ends = [end for mark in marks for end in (mark.value, *(mark.interval or ()))]
    across = ticks(min(ends), max(ends), 4)
    x_of = _scale(across, NAMES, WIDTH - RIGHT - 8)
    rows, below = [], float(TOP)
    for mark, before in zip(marks, [marks[0], *marks[:-1]], strict=True):
        below += ROW + (ROW / 2 if mark.line != before.line else 0)
        rows.append(below - ROW / 2)
    drawing = _Drawing(below + FOOT, f"{label} of each setting")
    for value in across:
        drawing.add("line", "grid", x1=x_of(value), x2=x_of(value), y1=TOP, y2=below)
        drawing.text(f"{value:g}", x=x_of(value), y=below + 16)
    drawing.text(label, x=(NAMES + WIDTH - RIGHT) / 2, y=below + FOOT - 6)
    for mark, y in zip(marks, rows, strict=True):
        css, told = f"line-{mark.line}", f"{mark.name}: {mark.value:.4f}"
        bold = {"font_weight": "700"} if mark.own else {}
        drawing.text(mark.name, "end", x=NAMES - 10, y=y + 4, **bold)
        if mark.interval is not None:
            low, high = mark.interval
            told += f" ({low:.4f} to {high:.4f})"
            drawing.add("line", css, x1=x_of(low), x2=x_of(high), y1=y, y2=y, stroke_width="2")
        ring = {"stroke_width": "3", "style": "fill:var(--ground)"} if mark.own else {}
        radius = 6 if mark.own else 4
        drawing.add("circle", css, told, cx=x_of(mark.value), cy=y, r=radius, **ring)
    return str(drawing)

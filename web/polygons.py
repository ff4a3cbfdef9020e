"""Masks as polygons along the edges of their pixels: exact, holes included."""

from __future__ import annotations

import numpy as np

Ring = list[list[int]]
"""Corners [x, y] in pixels, (0, 0) being the upper left corner of the upper left pixel."""


def rings_of(mask: np.ndarray) -> list[Ring]:
    """Closed polygons around all regions of a mask; by the even-odd rule they give it back.

    Outer borders run clockwise as seen on a screen, holes the other way round. Every corner is
    named once, the first one is not repeated at the end. Pixels that touch at a corner alone
    belong to different rings.

    Args:
        mask: bool[H, W].
    """
    following = _edges(mask)
    rings = []
    while following:
        rings.append(_walk(next(iter(following)), following))
    return rings


def _edges(mask: np.ndarray) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Corner -> the corners one pixel further along the border, the object on the right hand."""
    padded = np.pad(mask.astype(np.int8), 1)
    across = padded[1:, 1:-1] - padded[:-1, 1:-1]
    down = padded[1:-1, 1:] - padded[1:-1, :-1]
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for steps, (begin, end) in (
        (across == 1, ((0, 0), (1, 0))),
        (across == -1, ((1, 0), (0, 0))),
        (down == 1, ((0, 1), (0, 0))),
        (down == -1, ((0, 0), (0, 1))),
    ):
        ys, xs = (places.tolist() for places in np.nonzero(steps))
        for x, y in zip(xs, ys, strict=True):
            corner = (x + begin[0], y + begin[1])
            following.setdefault(corner, []).append((x + end[0], y + end[1]))
    return following


def _walk(start: tuple[int, int], following: dict[tuple[int, int], list[tuple[int, int]]]) -> Ring:
    """Take one ring out of `following`; where two pixels touch at a corner, turn to the right."""
    ring: Ring = []
    steps: list[tuple[int, int]] = []
    here = start
    while not steps or here != start:
        ways = following[here]
        there = ways[0]
        if steps and len(ways) == 2:
            right = (here[0] - steps[-1][1], here[1] + steps[-1][0])
            there = right if right in ways else there
        ways.remove(there)
        if not ways:
            del following[here]
        step = (there[0] - here[0], there[1] - here[1])
        if not steps or step != steps[-1]:
            ring.append(list(here))
            steps.append(step)
        here = there
    return ring if steps[0] != steps[-1] else ring[1:]

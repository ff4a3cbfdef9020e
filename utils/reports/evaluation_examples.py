"""Which answers a page of metrics shows, and images of them drawn from stored masks."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import InputError
from utils.evaluation.evaluator import Record
from utils.evaluation.group_scores import MISSES, miss_of
from utils.evaluation.predictions import Masks
from utils.protocol.image_files import read_image
from utils.reports.visualize import embed_png, enlarge, fit, paint_mask, truth_image

PER_GROUP = 6
"""Cases shown of every sort: 24 with the three sorts of misses and the best ones."""
LONGEST = 360
"""Longer side of the images on the page, in pixels."""
LARGEST_PNG = 60_000
"""Characters that a lossless image on the page may take."""
BLANK = 205
"""Grey of an image that is not there."""


@dataclass
class Case:
    """An answer on the page.

    Args:
        record: the outcome.
        verdict: one short line.
        tiles: (caption, image as a data URI).
        note: why an image is missing, else "".
    """

    record: Record
    verdict: str
    tiles: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""


def choose(records: Sequence[Record], per_group: int = PER_GROUP) -> dict[str, list[Record]]:
    """The worst answers of each sort of miss, and the best ones.

    Missed and invented objects come by falling size, low IoUs by rising IoU, the best by falling
    IoU. An image stands in each group once.

    Returns:
        heading -> at most `per_group` records; groups without any are left out.
    """
    worst = {
        miss: [record for record in records if miss_of(record) == miss and record.union]
        for miss in MISSES
    }
    groups = {
        f"Worst: {MISSES[miss]}": sorted(records, key=lambda r: (r.iou, -r.union, r.item, r.number))
        for miss, records in worst.items()
    }
    fine = [r for r in records if r.truth_present and r.present and miss_of(r) is None]
    groups["Best"] = sorted(fine, key=lambda r: (-r.iou, -r.union, r.item, r.number))
    return {
        title: shown for title, records in groups.items() if (shown := _apart(records, per_group))
    }


def _apart(records: Sequence[Record], count: int) -> list[Record]:
    """The first `count` records about different images."""
    first: dict[str, Record] = {}
    for record in records:
        if len(first) == count:
            break
        first.setdefault(record.image, record)
    return list(first.values())


def draw_case(record: Record, masks: Masks, roots: Sequence[Path]) -> Case:
    """Draw the answer and the truth on the image.

    Args:
        record: the outcome.
        masks: predicted and true mask, as far as they were kept.
        roots: folders for images with relative paths.

    Returns:
        The case. An image that is missing, broken or of another size is replaced by a grey
        ground, and the case says so.
    """
    pred, truth = masks
    verdict = _verdict(record)
    known = truth if truth is not None else pred
    image, note = _image(record.image, roots)
    tiles = []
    if image is not None and known is not None and image.shape[:2] != known.shape:
        note = f"the image is {image.shape[:2]} and its masks are {known.shape} (H, W)"
        image = None
    if image is None:
        if known is None:
            return Case(record, verdict, [], note)
        image = np.full((*known.shape, 3), BLANK, np.uint8)
    small = fit(image, LONGEST)
    scale = max(1, round(0.75 * LONGEST / max(small.shape[:2])))
    plain = enlarge(small, scale)
    if not note:
        tiles.append(("image", embed_thumbnail(plain)))
    if pred is not None:
        answer = paint_mask(plain, _small_mask(pred, small), scale=scale)
        tiles.append(("answer", embed_thumbnail(answer)))
    if truth is not None:
        tiles.append(("truth", embed_thumbnail(truth_image(small, fit(truth, LONGEST), scale))))
    else:
        note = "; ".join(filter(None, [note, "the true mask was not kept"]))
    return Case(record, verdict, tiles, note)


def _small_mask(mask: np.ndarray, small: np.ndarray) -> np.ndarray:
    reduced = fit(mask, LONGEST)
    if reduced.any() or not mask.any():
        return reduced
    rows, columns = np.nonzero(mask)  # a mask of a few pixels must not vanish
    factor = small.shape[0] / mask.shape[0], small.shape[1] / mask.shape[1]
    reduced[(rows * factor[0]).astype(int), (columns * factor[1]).astype(int)] = True
    return reduced


def _verdict(record: Record) -> str:
    if not record.truth_present:
        return "not there, " + ("yet segmented" if record.present else "rightly denied")
    return f"IoU {record.iou:.3f}" if record.present else "there, yet not segmented"


def _image(name: str, roots: Sequence[Path]) -> tuple[np.ndarray | None, str]:
    """uint8[H, W, 3] and "", or None and why not."""
    candidates = [Path(name), *(root / name for root in roots)]
    try:
        path = next((path for path in candidates if path.is_file()), None)
    except (OSError, ValueError):
        path = None
    if path is None:
        return None, "the image file is not there"
    try:
        return read_image(path), ""
    except InputError:
        return None, "the image file cannot be read"


def embed_thumbnail(image: np.ndarray) -> str:
    """A small image for display only, as text that stands in a page in place of a file name.

    PNG, unless a photograph would make it large.
    """
    lossless = embed_png(image)
    if len(lossless) <= LARGEST_PNG:
        return lossless
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

"""Masks of predictions in the original's layout (see `utils.original_predictions`).

An .npz file holds one question, or several in the order in which the entries name the file. A file
that no entry names is looked for in `segmentation_mask` under the entry's own number, the
picture's name (alone, or with `_` and the number of the question about it), or the position of
the entry in its part: `{dataset}_{p}_{i}`, `{dataset}_{p}_of_{n}_{i}`, `{p}_{i}`, and `{i}` when
there is one part.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.constants import IGNORE_LABEL
from utils.errors import InputError
from utils.evaluator import EvalResult, Record
from utils.metrics import intersection_and_union
from utils.original_predictions import Entry, Listing, list_entries
from utils.predictions import Masks, StoredRun
from utils.rle import decode_mask, decode_truth

MASK_FOLDER = "segmentation_mask"
PREDICTED = (
    "pred", "preds", "pred_mask", "pred_masks", "prediction", "predictions", "predicted",
    "pred_seg", "pred_segmentation", "output", "outputs",
)  # fmt: skip
TRUE = (
    "gt", "gts", "gt_mask", "gt_masks", "gt_seg", "gt_segmentation", "target", "targets", "truth",
    "ground_truth", "label", "labels", "mask_gt", "masks_gt",
)  # fmt: skip
ANY = ("mask", "masks", "arr_0", "segmentation")
"""Names of an array that stands alone in its file."""
MODE = "generated"
THREADS = 8


@dataclass(frozen=True)
class Place:
    """Where the masks of an entry are: `position` of `count` questions that share the file."""

    entry: Entry
    file: Path | None
    truth_file: Path | None
    position: int
    count: int


def read_original(folder: str | Path, progress: bool = True) -> StoredRun:
    """A run in the original's layout.

    Args:
        folder: with `preds_*.json` and `segmentation_mask`.
        progress: show a bar: the masks of 20,000 questions take a minute or two.

    Returns:
        One result, "generated", or one for each data set ("generated, NAME") if there are several.

    Raises:
        InputError: a part, a mask or a truth is missing, or something cannot be understood.
    """
    folder = Path(folder)
    listings = list_entries(folder)
    results, places, notes = {}, {}, []
    for dataset, listing in listings.items():
        mode = MODE if len(listings) == 1 else f"{MODE}, {dataset}"
        found = _places(folder, listing)
        records = _records(found, progress, dataset)
        results[mode] = EvalResult(records)
        places[mode] = {
            (r.item, r.number): p for r, p in zip(records, _by_picture(found), strict=True)
        }
        if listing.repeated:
            notes.append(f"{dataset}: {listing.repeated} entries stood in two parts, counted once")

    def masks(mode: str, record: Record) -> Masks:
        return load_masks(places[mode][record.item, record.number])

    about = [("data", ", ".join(listings)), ("layout", "preds_*.json and segmentation_mask/*.npz")]
    return StoredRun(results, masks, about, notes)


def _places(folder: Path, listing: Listing) -> list[Place]:
    """Find the files, and count off the questions that share one."""
    about: Counter[str] = Counter()
    resolved = []
    for entry in listing.entries:
        resolved.append(_mask_file(folder, entry, about[entry.image]))
        about[entry.image] += 1
    users = Counter(path for path in resolved if path is not None)
    taken: dict[tuple[Path, int], Entry] = {}
    counted: Counter[Path] = Counter()
    places = []
    for entry, path in zip(listing.entries, resolved, strict=True):
        position = 0
        if path is not None:
            position = counted[path] if entry.position is None else entry.position
            counted[path] += 1
            other = taken.setdefault((path, position), entry)
            if other is not entry:
                raise InputError(
                    f"{entry.where} and {other.where} both use mask {position} of {path}: "
                    "every question has its own"
                )
        truth = entry.truth_file
        truth_path = _find(folder, truth) if isinstance(truth, str) and truth else None
        if isinstance(truth, str) and truth and truth_path is None:
            raise InputError(f"{entry.where}: the file {truth} of its true mask is missing")
        count = users[path] if path is not None else 1
        places.append(Place(entry, path, truth_path, position, count))
    return places


def _find(folder: Path, name: str) -> Path | None:
    """A file named in an entry: as it stands, or below the folder."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    for start in (folder / MASK_FOLDER / base, folder / name, folder / MASK_FOLDER / name):
        for path in (start, start.with_name(start.name + ".npz")):
            if path.is_file():
                return path
    return None


def _mask_file(folder: Path, entry: Entry, number: int) -> Path | None:
    named = entry.file
    if isinstance(named, str) and named:
        path = _find(folder, named)
        if path is None:
            raise InputError(
                f"{entry.where}: its mask file {named} is missing; looked in {folder} and in "
                f"{folder / MASK_FOLDER}"
            )
        return path
    if isinstance(named, dict | list):
        return None
    stem = entry.image.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    part, place = entry.part, entry.place
    names = [entry.name] if entry.name else []
    names += [f"{stem}_{number}", stem, f"{entry.dataset}_{part}_{place}"]
    names += [f"{entry.dataset}_{part}_of_{entry.parts}_{place}", f"{part}_{place}"]
    names += [str(place)] if entry.parts == 1 else []
    candidates = (folder / MASK_FOLDER / f"{name}.npz" for name in names)
    return next((path for path in candidates if path.is_file()), None)


def _by_picture(places: Sequence[Place]) -> list[Place]:
    """The questions about one picture together, pictures in alphabetical order."""
    return sorted(places, key=lambda place: place.entry.image)


def _records(places: Sequence[Place], progress: bool, label: str) -> list[Record]:
    ordered = _by_picture(places)
    counts = Counter(place.entry.image for place in ordered)
    numbers = {image: number for number, image in enumerate(sorted(counts))}
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(_outcome, ordered)
        bar = tqdm(found, f"masks of {label}", len(ordered), unit="question", disable=not progress)
        try:
            outcomes = list(bar)
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise
    asked: Counter[str] = Counter()
    records = []
    for place, (present, there, both, either) in zip(ordered, outcomes, strict=True):
        entry = place.entry
        records.append(
            Record(
                item=numbers[entry.image],
                number=asked[entry.image],
                count=counts[entry.image],
                image=entry.image,
                question=entry.question,
                kind=entry.kind or ("expression" if there else "absent"),
                answer=entry.answer,
                present=present,
                truth_present=there,
                intersection=both,
                union=either,
            )
        )
        asked[entry.image] += 1
    return records


def _outcome(place: Place) -> tuple[bool, bool, int, int]:
    """Predicted presence, true presence, intersection, union."""
    pred, truth = load_masks(place)
    if truth is None or pred is None:
        return False, False, 0, 0
    both, either = intersection_and_union(pred[None], truth[None])
    entry = place.entry
    present = entry.present is not False and bool(pred.any())
    there = bool((truth == 1).any()) if entry.truth_present is None else entry.truth_present
    return present, there, int(both[0]), int(either[0])


def load_masks(place: Place) -> Masks:
    """The masks of a question; (None, None) if it is about nothing and nothing was found.

    Raises:
        InputError: a mask is damaged or missing, or the two differ in size.
    """
    entry = place.entry
    arrays = {} if place.file is None else _open(place.file, entry)
    pred, pred_name = _predicted(place, arrays)
    truth, truth_name = _true(place, arrays)
    if truth is None:
        if entry.truth_present is False:
            truth = None if pred is None else np.zeros(pred.shape, np.uint8)
        else:
            raise InputError(
                f"{entry.where}: the true mask is missing: {place.file or 'no mask file'} holds "
                f"{', '.join(arrays) or 'nothing'}; expected one of {', '.join(TRUE)} beside the "
                f"prediction ({', '.join(PREDICTED)})"
            )
    if pred is None:
        if entry.present and not pred_name:
            raise InputError(
                f"{entry.where}: the predicted mask is missing: {place.file or 'no mask file'} "
                f"holds {', '.join(arrays) or 'nothing'}; expected one of {', '.join(PREDICTED)}"
            )
        pred = None if truth is None else np.zeros(truth.shape, bool)
    if pred is not None and truth is not None and pred.shape != truth.shape:
        raise InputError(
            f"{entry.where}: the predicted mask {pred_name} is {list(pred.shape)} and the true one "
            f"{truth_name} {list(truth.shape)}; expected one size"
        )
    return pred, truth


def _predicted(place: Place, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray | None, str]:
    where = place.entry.where
    if isinstance(place.entry.file, dict | list):
        codes = place.entry.file if isinstance(place.entry.file, list) else [place.entry.file]
        masks = [_decode(where, code) for code in codes]
        if len({mask.shape for mask in masks}) > 1:
            raise InputError(f"{where}: its masks differ in size")
        return _united(np.asarray(masks)) if masks else None, "code"
    name = _named(arrays, PREDICTED) or (_named(arrays, ANY) if len(arrays) == 1 else None)
    if name is None:
        return None, ""
    stack = _stack(f"{place.file}, array {name}", arrays[name])
    if not stack.size:
        return None, name
    if place.count == 1 and place.entry.position is None:
        return _united(_foreground(f"{place.file}, array {name}", stack)), name
    return _foreground(f"{place.file}, array {name}", _pick(place, name, stack)), name


def _true(place: Place, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray | None, str]:
    entry, told = place.entry, place.entry.truth_file
    if isinstance(told, dict):
        left_out = entry.ignored if isinstance(entry.ignored, dict) else None
        try:
            return decode_truth(told, left_out), "code"
        except (ValueError, IndexError) as error:
            raise InputError(f"{entry.where}: its true mask is damaged ({error})") from error
    source, names = place.file, list(TRUE)
    if place.truth_file is not None:
        source, arrays = place.truth_file, _open(place.truth_file, entry)
        names += ANY if len(arrays) == 1 else ()
    name = _named(arrays, names)
    if name is None:
        return None, ""
    stack = _stack(f"{source}, array {name}", arrays[name])
    if not stack.size:
        return None, name
    mask = stack[0] if len(stack) == 1 and place.count == 1 else _pick(place, name, stack)
    strange = (mask != 0) & (mask != 1) & (mask != IGNORE_LABEL)
    if strange.any():
        raise InputError(
            f"{source}, array {name}: a true mask holds 0 (background), 1 (object) and 255 "
            f"(does not count); found {', '.join(map(str, np.unique(mask[strange])[:6]))}"
        )
    mask = mask.astype(np.uint8)
    if entry.truth_present and not (mask == 1).any() and (mask == IGNORE_LABEL).any():
        raise InputError(
            f"{source}, array {name}: the object is there, yet no pixel is 1; 255 marks pixels "
            "that do not count"
        )
    return mask, name


def _decode(where: str, code: Any) -> np.ndarray:
    try:
        return decode_mask(code)
    except ValueError as error:
        raise InputError(f"{where}: a predicted mask is damaged ({error})") from error


def _open(path: Path, entry: Entry) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as content:
            if isinstance(content, np.ndarray):
                return {"arr_0": content}
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise InputError(
            f"cannot read {path} ({error}), the masks of {entry.where}: expected an .npz file of "
            "plain arrays"
        ) from error


def _named(arrays: dict[str, np.ndarray], names: Sequence[str]) -> str | None:
    lowered = {name.lower(): name for name in arrays}
    return next((lowered[name] for name in names if name in lowered), None)


def _stack(where: str, array: np.ndarray) -> np.ndarray:
    """[H, W], [n, H, W] or [n, 1, H, W] -> [n, H, W]."""
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        array = array[None]
    if not array.size:
        return array
    if array.ndim != 3 or array.dtype.kind not in "biuf":
        raise InputError(
            f"{where}: expected masks [H, W] or [n, H, W], found {list(array.shape)} of "
            f"{array.dtype}"
        )
    return array


def _foreground(where: str, mask: np.ndarray) -> np.ndarray:
    """bool; numbers other than 0 are object, of logits those above 0."""
    if mask.dtype.kind != "f":
        return mask != 0
    if np.isnan(mask).any():
        raise InputError(f"{where}: the mask holds NaN")
    if ((mask > 0) & (mask < 1)).any() and not (mask < 0).any():
        raise InputError(f"{where}: expected a mask or logits, found fractions between 0 and 1")
    return mask > 0


def _united(masks: np.ndarray) -> np.ndarray:
    """bool[n, H, W] -> bool[H, W]."""
    return np.asarray(np.any(masks, axis=0))


def _pick(place: Place, name: str, stack: np.ndarray) -> np.ndarray:
    """The mask of this question in an array of several."""
    expected = (
        f"{place.count} questions use the file" if place.count > 1 else "one question uses it"
    )
    whole = place.entry.position is not None or len(stack) == place.count
    if not whole or not 0 <= place.position < len(stack):
        raise InputError(
            f"{place.entry.where}: array {name} in {place.file} holds {len(stack)} masks and "
            f"{expected}; expected one mask per question, or the key mask_index"
        )
    return stack[place.position]

"""Predictions in the layout in which the original published its own.

    preds_{dataset}_{p}_of_{n}.json     answers of process p of n
    segmentation_mask/*.npz             predicted and true masks

Only the names of the files are fixed, so the reader takes several names for the same thing.

* The JSON is a list of entries, or an object with such a list under one of `LISTS`, or an object
  of entries (or of lists of entries) by picture. An entry is one question; or it is one picture
  whose fields are lists with one value per question, or whose questions are objects of their own.
* The keys of an entry are those of `KEYS`. Picture, question, and the answer or its presence are
  needed. The presence of an object that is not told is read off the true mask.
* The masks stand in an .npz file under `PREDICTED` and `TRUE`, [H, W] or [n, H, W], or in the
  entry as COCO run-length codes. The file is named by the entry (relative to the folder or to
  `segmentation_mask`), else by the position of the entry; see `utils.original_masks`.
* Predicted presence: the answer holds `[SEG]` (or the entry says that there is a prediction), and
  the mask is not empty.

Every part p of n must be there. Evaluation on several processes may repeat questions so that
every process has the same number: an entry that stands in two parts counts once.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.constants import SEG_TOKEN
from utils.errors import InputError

FILE_NAME = re.compile(r"preds_(?P<dataset>.+)_(?P<part>\d+)_of_(?P<parts>\d+)\.json")
LISTS = ("predictions", "preds", "results", "entries", "data", "samples", "questions")
KEYS: dict[str, tuple[str, ...]] = {
    "image": (
        "image", "image_path", "img_path", "image_file", "image_name", "img_name", "img",
        "file_name", "filename", "image_id", "img_id",
    ),
    "question": (
        "question", "questions", "query", "sent", "sentence", "sents", "input_text", "prompt",
        "expression", "phrase", "instruction", "text", "gt_question",
    ),
    "answer": (
        "answer", "answers", "prediction", "predictions", "pred_sent", "pred_text",
        "pred_answer", "output_text", "text_output", "text_outputs", "output", "outputs",
        "response", "generated_text", "pred",
    ),
    "truth_present": (
        "truth_present", "gt_exists", "gt_exist", "gt_present", "gt_presence", "exists", "exist",
        "is_present",
    ),
    "truth_absent": ("is_false_premise", "false_premise", "gt_absent"),
    "present": (
        "present", "pred_exists", "pred_exist", "pred_present", "pred_presence",
        "prediction_exists", "has_seg",
    ),
    "file": (
        "segmentation_path", "segmentation_file", "segmentation_mask", "segmentation", "seg_path",
        "seg_file", "seg_mask", "mask_path", "mask_file", "pred_mask_path", "pred_mask",
        "pred_masks", "npz", "npz_path", "npz_file", "mask", "masks",
    ),
    "truth_file": (
        "gt_mask_path", "gt_path", "gt_segmentation_path", "truth_path", "gt_mask", "gt_masks",
        "truth",
    ),
    "ignored": ("ignored",),
    "position": ("mask_index", "mask_position", "index_in_file"),
    "id": ("id", "question_id", "sent_id", "uid", "index"),
    "kind": ("kind", "type"),
}  # fmt: skip
"""What a field means -> the keys under which it is looked for, the first one found counts."""


@dataclass
class Entry:
    """One question as the JSON tells it; masks are not read yet.

    Args:
        where: file and position, for messages.
        dataset, part, parts, place: which file, and which entry of it.
        image, question, answer, kind: texts.
        present: whether a `[SEG]` was answered; None if nothing says so.
        truth_present: whether the object is there; None if nothing says so.
        file, truth_file: path of a mask file, or masks as run-length codes, or None.
        ignored: run-length code of the pixels that do not count.
        position: which of several masks in the file; None: counted off.
        name: the entry's own number, if it has one.
    """

    where: str
    dataset: str
    part: int
    parts: int
    place: int
    image: str
    question: str
    answer: str
    kind: str
    present: bool | None
    truth_present: bool | None
    file: Any
    truth_file: Any
    ignored: Any
    position: int | None
    name: str | None


@dataclass
class Listing:
    """All entries of a data set; `repeated` of them stood in a second part as well."""

    entries: list[Entry] = field(default_factory=list)
    repeated: int = 0


def has_original_layout(folder: str | Path) -> bool:
    """Whether there is a file named as the original names its predictions."""
    return any(FILE_NAME.fullmatch(path.name) for path in Path(folder).glob("preds_*.json"))


def list_entries(folder: str | Path) -> dict[str, Listing]:
    """The entries of all prediction files, by data set.

    Raises:
        InputError: a part is missing, or something cannot be understood, with file and entry.
    """
    listings = {}
    for dataset, paths in sorted(_parts(Path(folder)).items()):
        listing = listings[dataset] = Listing()
        seen: Counter[str] = Counter()
        for part, path in paths:
            mine: Counter[str] = Counter()
            for place, raw in enumerate(_questions(path)):
                text = json.dumps(raw, sort_keys=True)
                mine[text] += 1
                if mine[text] <= seen[text]:
                    listing.repeated += 1
                    continue
                where = f"{path}, question {place}"
                listing.entries.append(_entry(where, dataset, part, len(paths), place, raw))
            seen |= mine
        if not listing.entries:
            raise InputError(f"{paths[0][1]} holds no question: give a folder with predictions")
    return listings


def _parts(folder: Path) -> dict[str, list[tuple[int, Path]]]:
    """Data set -> its files in order, with all parts there."""
    found: dict[str, dict[int, Path]] = {}
    totals: dict[str, int] = {}
    for path in sorted(folder.glob("preds_*.json")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            continue
        dataset, parts = match["dataset"], int(match["parts"])
        if totals.setdefault(dataset, parts) != parts:
            raise InputError(
                f"{folder} holds predictions on {dataset} by {totals[dataset]} and by {parts} "
                "processes: keep those of one run"
            )
        found.setdefault(dataset, {})[int(match["part"])] = path
    for dataset, numbered in found.items():
        parts = totals[dataset]
        first = 1 if parts in numbered and 0 not in numbered else 0
        wanted = range(first, first + parts)
        missing = [f"preds_{dataset}_{p}_of_{parts}.json" for p in wanted if p not in numbered]
        if missing or len(numbered) != parts:
            extra = [path.name for part, path in numbered.items() if part not in wanted]
            told = f"is missing {', '.join(missing)}" if missing else f"has {', '.join(extra)}"
            raise InputError(
                f"{folder} {told}: the predictions on {dataset} are those of {parts} processes, "
                "and every part is needed once"
            )
    return {dataset: sorted(numbered.items()) for dataset, numbered in found.items()}


def _questions(path: Path) -> list[dict[str, Any]]:
    """The questions in a file, one flat object each."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"cannot read {path} ({error}): expected JSON with one entry per question"
        ) from error
    if isinstance(content, dict):
        content = _list_in(content)
    if not isinstance(content, list):
        raise InputError(
            f"{path}: expected a list of entries, an object with one under "
            f"{', '.join(LISTS)}, or an object of entries by picture"
        )
    questions = []
    for place, raw in enumerate(content):
        if not isinstance(raw, dict):
            raise InputError(
                f"{path}, entry {place}: expected an object, found {type(raw).__name__}"
            )
        questions += _single_questions(f"{path}, entry {place}", raw)
    return questions


def _list_in(content: dict[str, Any]) -> Any:
    for name in LISTS:
        if isinstance(content.get(name), list | dict):
            inner = content[name]
            return _list_in(inner) if isinstance(inner, dict) else inner
    if any(key in names for names in KEYS.values() for key in content):
        return [content]
    flat = []
    for key, value in content.items():
        for raw in value if isinstance(value, list) else [value]:
            if not isinstance(raw, dict):
                return None
            known = any(name in raw for name in KEYS["image"])
            flat.append(raw if known else {"image": key, **raw})
    return flat


def _single_questions(where: str, raw: dict[str, Any]) -> list[dict[str, Any]]:
    """An entry about a picture with several questions -> one object for each question."""
    key = next((name for name in KEYS["question"] if name in raw), None)
    asked = raw.get(key) if key else None
    if not isinstance(asked, list):
        return [raw]
    shared = {name: value for name, value in raw.items() if name != key}
    if all(isinstance(one, dict) for one in asked):
        return [{**shared, **one} for one in asked]
    known = [name for names in KEYS.values() for name in names if name in raw]
    lists = {name: raw[name] for name in known if isinstance(raw[name], list)}
    wrong = {name: len(values) for name, values in lists.items() if len(values) != len(asked)}
    if wrong:
        raise InputError(f"{where}: {len(asked)} questions, but {wrong} values per key")
    return [
        {**raw, **{name: values[number] for name, values in lists.items()}}
        for number in range(len(asked))
    ]


def _entry(
    where: str, dataset: str, part: int, parts: int, place: int, raw: dict[str, Any]
) -> Entry:
    lowered = {str(name).lower(): value for name, value in raw.items()}

    def get(meaning: str) -> Any:
        values = (lowered[name] for name in KEYS[meaning] if lowered.get(name) is not None)
        return next(values, None)

    def wrong(meaning: str, problem: str) -> InputError:
        return InputError(
            f"{where}: {problem}; keys found: {', '.join(map(str, raw)) or 'none'}; "
            f"keys expected: {', '.join(KEYS[meaning])}"
        )

    def flag(meaning: str) -> bool | None:
        value = get(meaning)
        if value is None or (value in (0, 1) and isinstance(value, int | float)):
            return None if value is None else bool(value)
        raise wrong(meaning, f"{value!r} does not say whether something is there (true or false)")

    image, question, answer = get("image"), get("question"), get("answer")
    if not isinstance(image, str | int):
        raise wrong("image", "no name of a picture")
    if not isinstance(question, str):
        raise wrong("question", "no question")
    present, truth_present = flag("present"), flag("truth_present")
    if truth_present is None and flag("truth_absent") is not None:
        truth_present = not flag("truth_absent")
    if answer is None and present is None:
        raise wrong("answer", "neither an answer nor whether there is a prediction")
    if answer is not None and not isinstance(answer, str):
        raise wrong("answer", f"the answer is {type(answer).__name__}, not text")
    position, name = get("position"), get("id")
    if position is not None and not isinstance(position, int):
        raise wrong("position", f"{position!r} is not the number of a mask")
    return Entry(
        where=where,
        dataset=dataset,
        part=part,
        parts=parts,
        place=place,
        image=str(image),
        question=question,
        answer=answer or "",
        kind=str(get("kind") or ""),
        present=present if present is not None or answer is None else SEG_TOKEN in answer,
        truth_present=truth_present,
        file=get("file"),
        truth_file=get("truth_file"),
        ignored=get("ignored"),
        position=position,
        name=None if name is None else str(name),
    )

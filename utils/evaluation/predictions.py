"""Predictions on disk: JSON lines, appended as they are made, so that a killed run can go on.

`{folder}/run.json` says what was evaluated; `{folder}/predictions_{process}_of_{world}.jsonl`
holds one line per question:

    mode            "generated" or "teacher_forced"
    item            index of the image in the data set
    number, count   index of the question among the `count` questions about this image
    image, question, kind, answer
    present, truth_present
    intersection, union     in pixels, ignored ones left out
    truth, ignored  COCO run-length codes of the true mask and of the pixels that do not count;
                    `ignored` is null if all count; files of older versions lack both
    masks           one COCO run-length code per `[SEG]`, in the order of the answer
    sweep_outcomes  only with an ablation: for each of its settings (`ablation` in `run.json`)
                    whether the mask has a pixel, intersection, union

An image that was left out as broken has a line with `mode`, `item` and `skipped`, the reason.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli.differences import differences
from utils.errors import InputError
from utils.evaluation.evaluator import AnswerLike, EvalResult, Record
from utils.evaluation.prediction_locks import writers
from utils.files import append_lines, mend_lines, read_lines, write_json
from utils.protocol.rle import decode_mask, decode_truth, encode_mask

RUN_FILE = "run.json"
_SAMPLES, _SAMPLE_BYTES = 64, 4096
_MOST_CHANGES = 12
RECORD_FIELDS = [item.name for item in fields(Record)]
_NEEDED = {
    **{item.name: str(item.type) for item in fields(Record) if item.default is MISSING},
    "mode": "str",
    "masks": "list",
}
_TYPES = {"str": str, "int": int, "bool": bool, "list": list}


Masks = tuple[np.ndarray | None, np.ndarray | None]
"""Predicted mask bool[H, W] and true mask uint8[H, W] (0/1/255); None where it was not kept."""


@dataclass
class EvalRun:
    """A finished evaluation as it lies on the disk.

    Args:
        results: mode of asking -> what was found.
        masks: (mode, record) -> the masks of a question.
        about: (name, value) pairs that say what was evaluated.
        notes: what a reader of the numbers should know.
        sasp: SasP's parameters, if they are known.
        ablation: those of the settings in `Record.sweep_outcomes`, in the same order.
    """

    results: dict[str, EvalResult]
    masks: Callable[[str, Record], Masks]
    about: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sasp: dict[str, Any] = field(default_factory=dict)
    ablation: list[dict[str, Any]] = field(default_factory=list)


def shard_path(folder: str | Path, process: int, world: int) -> Path:
    """Where process `process` of `world` writes."""
    return Path(folder) / f"predictions_{process}_of_{world}.jsonl"


def _read_items(path: Path) -> list[dict[str, Any]]:
    """The lines of a prediction file about images all of whose questions were answered.

    Raises:
        InputError: a line is damaged, other than a half-written last one.
    """
    lines = read_lines(
        path,
        "delete the line, or the file, and start the evaluation again; it goes on with what is "
        "missing",
        _checked,
    )
    answered = Counter((line["mode"], line["item"]) for line in lines)
    return [
        line
        for line in lines
        if "skipped" in line or answered[line["mode"], line["item"]] == line["count"]
    ]


def _checked(line: Any) -> dict[str, Any]:
    """The line itself, if it holds everything that a line has to hold; else a ValueError."""
    if not isinstance(line, dict):
        raise ValueError("no JSON object")
    skipped = "skipped" in line
    for name in ("mode", "item", "skipped") if skipped else _NEEDED:
        kind = "str" if name == "skipped" else _NEEDED[name]
        if not isinstance(line.get(name), _TYPES[kind]):
            raise ValueError(f"{name!r} is {line.get(name)!r} and should be of type {kind}")
    if "varied" in line:  # as version 0.1.0 called it
        line["sweep_outcomes"] = line.pop("varied")
    for outcome in line.get("sweep_outcomes") or []:
        present, both, either = outcome
        if not (isinstance(present, bool) and 0 <= int(both) <= int(either)):
            raise ValueError(f"{outcome!r} is no outcome of a setting")
    return line


def fingerprint(model: str | Path) -> str:
    """Name of a model that changes with its weights, so that new weights make a new run.

    Sizes and samples of the weight files are enough: training changes all of them. A hub id stands
    for itself.
    """
    files = sorted([*Path(model).glob("*.safetensors"), *Path(model).glob("*.bin")])
    if not files:
        return resolved(model)
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for part in range(_SAMPLES):
                file.seek(size * part // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return f"{resolved(model)} ({digest.hexdigest()[:16]})"


def resolved(path: str | Path) -> str:
    """The one absolute path of what exists; anything else, such as a hub id, as it is."""
    return os.path.realpath(path) if os.path.exists(path) else str(path)


def check_run(
    folder: str | Path,
    settings: dict[str, Any],
    what: str = "predictions",
    flag: str = "--vis_save_path",
) -> None:
    """Tie the folder to what is being evaluated, so that two runs are never mixed.

    Args:
        folder: made if it does not exist.
        settings: plain data; `run.json` keeps it. `items` is the number of images, `modes` the
            ways of asking, `world` the number of processes.
        what: is in the folder, for messages.
        flag: that names the folder, for messages.

    Raises:
        InputError: the folder holds the predictions of a run with other settings.
    """
    folder = Path(folder)
    path = folder / RUN_FILE
    if path.exists():
        if changed := differences(_read_run(folder), settings):
            texts = [f"{name}: {there} there, {here} here" for name, there, here in changed]
            more = len(texts) - _MOST_CHANGES
            texts[_MOST_CHANGES:] = [f"and {more} more"] if more > 0 else []
            raise InputError(
                f"{folder} holds the {what} of another run ({'; '.join(texts)}): give another "
                f"{flag}, or --no_resume to replace them"
            )
        return
    write_json(path, settings, f"give another {flag}", sort_keys=True)


def _read_run(folder: Path) -> dict[str, Any]:
    path = folder / RUN_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is missing: {folder} holds no predictions; write them with "
            f"test_read.py --cmd inference --vis_save_path {folder}"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): delete it and run again") from error


def forget(folder: str | Path) -> None:
    """Delete the predictions in `folder`, and nothing else there."""
    for path in [Path(folder) / RUN_FILE, *Path(folder).glob("predictions_*_of_*.jsonl")]:
        path.unlink(missing_ok=True)


class PredictionFile:
    """The predictions of one process in one mode of asking.

    Args:
        folder: see `check_run`.
        process, world: this process and the number of processes.
        mode: "generated" or "teacher_forced".

    Attributes:
        done: items that need not be asked again.
        result: the records found in the file when it was opened.

    Raises:
        InputError: the file is damaged, other than by a half-written end, which is cut off.
    """

    def __init__(self, folder: str | Path, process: int, world: int, mode: str):
        self.path = shard_path(folder, process, world)
        self.mode = mode
        items = _read_items(self.path)
        mend_lines(self.path, items)
        own = [line for line in items if line["mode"] == mode]
        self.done = {line["item"] for line in own}
        self.result = _result_of(own)

    def write(self, records: list[Record], answers: Sequence[AnswerLike]) -> None:
        """Append the answers about one image; they are on the disk when this returns."""
        lines = []
        for record, answer in zip(records, answers, strict=True):
            fields = asdict(record)
            if record.sweep_outcomes is None:
                del fields["sweep_outcomes"]
            masks = [encode_mask(segment.mask) for segment in answer.segments]
            lines.append({"mode": self.mode, **fields, "masks": masks})
        append_lines(self.path, lines)

    def skip(self, index: int, reason: str) -> None:
        """Note that image `index` was left out."""
        append_lines(self.path, [{"mode": self.mode, "item": index, "skipped": reason}])


def _result_of(lines: list[dict[str, Any]]) -> EvalResult:
    return EvalResult(
        records=[
            Record(**{name: line[name] for name in RECORD_FIELDS if name in line})
            for line in lines
            if "skipped" not in line
        ],
        skipped=[line["skipped"] for line in lines if "skipped" in line],
    )


def read_run(folder: str | Path) -> EvalRun:
    """A finished evaluation.

    Raises:
        InputError: no predictions, the file of a process is missing, or images are missing.
    """
    folder = Path(folder)
    run = _read_run(folder)
    if unknown := sorted({"world", "modes", "items"} - set(run)):
        raise InputError(f"{folder / RUN_FILE} lacks {', '.join(unknown)}: run the inference again")
    world = run["world"]
    absent = [str(p) for n in range(world) if not (p := shard_path(folder, n, world)).exists()]
    if absent:
        raise InputError(
            f"{len(absent)} of {world} prediction files are missing: {', '.join(absent)}; "
            + _why_incomplete(folder, "run test_read.py --cmd inference for these processes")
        )
    lines: list[dict[str, Any]] = []
    for number in range(world):
        lines += _read_items(shard_path(folder, number, world))
    lines.sort(key=lambda line: (line["item"], line.get("number", 0)))
    results = {}
    for mode in run["modes"]:
        own = [line for line in lines if line["mode"] == mode]
        answered = {line["item"] for line in own}
        if answered != set(range(run["items"])):
            raise InputError(
                f"{folder} holds {len(answered)} of {run['items']} images ({mode}): "
                + _why_incomplete(
                    folder,
                    "the run was cut short; start the same inference command again, it goes on "
                    "where it stopped",
                )
            )
        _refuse_repeats(folder, own)
        results[mode] = _result_of(own)
    codes = {(line["mode"], line["item"], line.get("number")): line for line in lines}

    def masks(mode: str, record: Record) -> Masks:
        line = codes[mode, record.item, record.number]
        try:
            return _decoded(line)
        except ValueError as error:
            raise InputError(
                f"{folder}: a mask of image {record.image} is damaged ({error}): delete the "
                "predictions about it and start the same inference command again"
            ) from error

    about: list[tuple[str, str]] = []
    about += [(name, str(run[name])) for name in ("model", "data") if name in run]
    sasp, ablation = run.get("sasp") or {}, run.get("ablation") or []
    return EvalRun(results, masks, about, sasp=sasp, ablation=ablation)


def _why_incomplete(folder: Path, otherwise: str) -> str:
    if holders := writers(folder):
        return f"{' and '.join(holders)} is still writing; ask again when it is done"
    return otherwise


def _refuse_repeats(folder: Path, lines: list[dict[str, Any]]) -> None:
    seen: set[tuple[int, int | None]] = set()
    for line in lines:
        key = (line["item"], line.get("number"))
        if key in seen:
            raise InputError(
                f"{folder} holds question {key[1]} about image {key[0]} ({line.get('image')}) "
                "twice: files of different runs are mixed; write them anew with --no_resume"
            )
        seen.add(key)


def _decoded(line: dict[str, Any]) -> Masks:
    parts = [decode_mask(code) for code in line["masks"]]
    truth = decode_truth(line["truth"], line.get("ignored")) if line.get("truth") else None
    if parts:
        return np.logical_or.reduce(parts), truth
    return (None if truth is None else np.zeros(truth.shape, bool)), truth

"""Predictions of any model, in any of the forms that the field writes.

    folder with run.json              predictions of this project
    folder with preds_*.json          the original's
    FILE.jsonl, or a folder of them   the documented form (`utils.evaluation.mask_rows`)
    FILE.json                         a COCO results file, or VisionReasoner's output
    folder of NAME.png                one mask each; other than 0 is object
    FILE.npz                          NAME -> [H, W] or [n, H, W]
    folder of NAME.npz                `masks` [H, W] or [n, H, W] each

NAME is the question's id, or the image's name without ending where one question is asked about it.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.errors import InputError
from utils.evaluation.alignment import Predictions
from utils.evaluation.evaluator import Record
from utils.evaluation.mask_counts import Code, Predicted, Truth
from utils.evaluation.mask_rows import (
    Names,
    PredictedRow,
    bad_row,
    checked_code,
    json_rows,
    number_expressions,
    plain_name,
    plain_text,
    prediction_row,
)
from utils.evaluation.original_predictions import has_original_layout, read_original
from utils.evaluation.predictions import RUN_FILE, EvalRun, read_run
from utils.evaluation.protocols import AS_GIVEN, LOWER_CASED
from utils.protocol.rle import encode_mask, encode_truth

READ_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)
"""What damaged files of numpy and PIL raise."""
SUFFIXES = (".jsonl", ".json", ".png", ".npz")
COCO_KEYS = ("question_id", "ann_id", "id", "image_id")
COCO_FORM = (
    'expected COCO results, [{"image_id" or "ann_id": ..., "segmentation": RLE}, ...], or '
    'VisionReasoner\'s output, [{"image_id": ..., "ann_id": ..., "intersection": ..., '
    '"union": ...}, ...]'
)
FORMS = (
    "a predictions folder of this project or of the original, JSON lines, a COCO results file, "
    "PNG files or npz files, as docs/evaluation.md describes them"
)


def read_any(path: str | Path, mode: str | None = None) -> Predictions:
    """Predictions in whatever form they are.

    Args:
        path: file or folder.
        mode: which answers, where a folder holds those of two ways of asking.

    Raises:
        InputError: nothing there, another form, or damage, with file and row.
    """
    path = Path(path)
    if path.is_dir() and (path / RUN_FILE).exists():
        return _run(path, read_run(path), mode, _own_masks(path))
    if path.is_dir() and has_original_layout(path):
        return _run(path, read_original(path, progress=False), mode, None)
    if not path.exists():
        raise InputError(f"no predictions at {path}: expected {FORMS}")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    known = [file for file in files if file.suffix.lower() in SUFFIXES]
    suffixes = {file.suffix.lower() for file in known}
    if len(suffixes) != 1:
        found = "none of these" if not suffixes else f"files of several forms {sorted(suffixes)}"
        raise InputError(f"{path} holds {found}: expected {FORMS}")
    (suffix,) = suffixes
    if suffix == ".jsonl":
        rows = [prediction_row(*row) for file in known for row in json_rows(file)]
        return Predictions(str(path), rows)
    if suffix == ".json":
        return _json(path, known)
    if suffix == ".npz" and not path.is_dir():
        return Predictions(str(path), [_row(path, *one) for one in _arrays(path)])
    reader = _png if suffix == ".png" else _npz
    return Predictions(
        str(path),
        [
            _row(file, file.relative_to(path).with_suffix("").as_posix(), reader(file))
            for file in known
        ],
    )


def _row(file: Path, name: str, masks: np.ndarray) -> PredictedRow:
    """bool[H, W], all objects united, or bool[n, H, W]."""
    codes = tuple(encode_mask(mask) for mask in (masks if masks.ndim == 3 else [masks]))
    predicted = Predicted(codes, united=len(codes) == 1)
    return PredictedRow((("id", name), ("stem", name)), predicted, str(file))


def _png(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            mode, values = image.mode, np.asarray(image)
    except READ_ERRORS as error:
        raise InputError(f"cannot read {file} ({error}): write the mask again") from error
    if values.ndim != 2:
        raise InputError(
            f"{file} is an image of mode {mode}: expected a mask with one channel, 0 for background"
        )
    return values != 0


def _arrays(file: Path, only: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            for name in arrays.files if only is None else [only]:
                yield name, _as_masks(arrays[name], f"{file}, {name}")
    except READ_ERRORS as error:
        raise InputError(
            f"cannot read {file} ({error}): expected an npz file of masks [H, W] or [n, H, W]; "
            "write it again"
        ) from error


def _npz(file: Path) -> np.ndarray:
    return next(_arrays(file, "masks"))[1]


def _as_masks(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind not in "bui" or values.ndim not in (2, 3) or not values.size:
        raise InputError(
            f"{where} is {values.dtype}{list(values.shape)}: expected a mask [H, W] or masks "
            "[n, H, W] of bool or integers; threshold logits at 0"
        )
    return values != 0


def _json(path: Path, files: list[Path]) -> Predictions:
    """COCO results or VisionReasoner's output; all rows of one name answer one question."""
    grouped: dict[Names, list[tuple[str, Any]]] = {}
    counted: set[bool] = set()
    for file in files:
        try:
            content = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"cannot read {file} ({error}): {COCO_FORM}") from error
        if not isinstance(content, list):
            raise InputError(f"{file} holds no list: {COCO_FORM}")
        for number, row in enumerate(content):
            where = f"{file}, row {number}"
            try:
                names, value = _coco_row(row)
            except ValueError as error:
                raise bad_row(where, error, COCO_FORM) from error
            counted.add(isinstance(value, tuple))
            grouped.setdefault(names, []).append((where, value))
    if counted == {True}:
        return _counted(path, grouped)
    if len(counted) > 1:
        raise InputError(f"{path} holds rows with masks and rows with counts: {COCO_FORM}")
    rows = []
    for names, found in grouped.items():
        codes = [code for _, code in found]
        for n, (where, code) in enumerate(found):
            if code in codes[:n]:
                raise bad_row(where, "the same mask of the same question stands twice", COCO_FORM)
            if code["size"] != codes[0]["size"]:
                raise bad_row(where, "the masks of a question have different sizes", COCO_FORM)
        rows.append(PredictedRow(names, Predicted(tuple(codes)), found[0][0]))
    return Predictions(str(path), rows)


def _coco_row(row: Any) -> tuple[Names, Code | tuple[int, int]]:
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    keys = [key for key in COCO_KEYS if row.get(key) is not None]
    if not keys:
        raise ValueError(f"it has none of {', '.join(COCO_KEYS)}")
    name = plain_name(row[keys[0]], keys[0])
    names: Names = ((keys[0], name), ("id", name), ("stem", name))
    if "segmentation" not in row and {"intersection", "union"} <= set(row):
        both, union = row["intersection"], row["union"]
        if not all(type(n) in (int, float) and n == n // 1 for n in (both, union)):
            raise ValueError(f"intersection {both!r} and union {union!r} are no pixel counts")
        if not 0 <= both <= union < 1 << 31:
            raise ValueError(f"intersection {both} and union {union} fit no two masks")
        return names, (int(both), int(union))
    if isinstance(row.get("segmentation"), list):
        raise ValueError("'segmentation' is a polygon: make it a run-length code (COCO.annToRLE)")
    return names, checked_code(row.get("segmentation"), "segmentation")


def _counted(path: Path, grouped: dict[Names, list[tuple[str, Any]]]) -> Predictions:
    """VisionReasoner's output has pixel counts and no masks: its own protocol is the only one."""
    rows, truths = [], []
    for names, found in grouped.items():
        rows += [PredictedRow(names, Predicted(counts=counts), where) for where, counts in found]
        truths.append(Truth(names[0][1], names[0][1], "", (1, 1), ()))
    return Predictions(
        str(path), rows, truths, "generated", LOWER_CASED, counted=("visionreasoner",)
    )


def _own_masks(folder: Path) -> dict[tuple[str, int, int], list[Any]]:
    """(mode, item, number) -> codes; `read_run` has checked the lines."""
    return {
        (row["mode"], row["item"], row["number"]): row["masks"]
        for file in sorted(folder.glob("predictions_*_of_*.jsonl"))
        for row in _finished(file)
        if "masks" in row
    }


def _finished(file: Path) -> Iterator[dict[str, Any]]:
    """Rows up to a half-written last line."""
    content = file.read_bytes()
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        yield json.loads(line)


def _run(path: Path, run: EvalRun, mode: str | None, codes: dict | None) -> Predictions:
    """A run of this project or of the original; `codes` as `_own_masks` gives them."""
    modes = list(run.results)
    if mode is None and len(modes) > 1:
        raise InputError(
            f"{path} holds answers of {len(modes)} ways of asking: --mode {modes[0]!r}"
        )
    mode = mode or modes[0]
    if mode not in modes:
        raise InputError(f"--mode {mode}: {path} holds {', '.join(modes)}")
    true_code: Code | None
    rows, truths = [], []
    for record in run.results[mode].records:
        where = f"{path}, question {record.item}/{record.number}"
        try:
            plain_text(f"{record.image}{record.question}{record.kind}{record.answer}")
            if codes is None:
                pred, true = run.masks(mode, record)
                if pred is None or true is None:
                    raise ValueError("its masks were not kept")
                masks, (true_code, ignored) = [encode_mask(pred)], encode_truth(true)
            else:
                found = codes[mode, record.item, record.number]
                masks = [checked_code(code, "masks") for code in found]
                true_code, ignored = record.truth, record.ignored
            if true_code is not None:  # older versions kept none
                truths.append(_record_truth(record, true_code, ignored))
        except ValueError as error:
            raise InputError(f"{where}: {error}; write the predictions again") from error
        predicted = Predicted(tuple(masks), record.present, record.answer, united=codes is None)
        names: Names = (("pair", record.image, record.question), ("id", _id(record)))
        rows.append(PredictedRow(names, predicted, where, record.question))
    whole = number_expressions(truths) if len(truths) == len(rows) else None
    seg = "given" if mode == "teacher_forced" else "generated"
    notes = run.notes + [f"left out: {message}" for message in run.results[mode].skipped]
    return Predictions(str(path), rows, whole, seg, AS_GIVEN, own=True, notes=notes)


def _id(record: Record) -> str:
    return f"{record.item}/{record.number}"


def _record_truth(record: Record, true: Code, ignored: Code | None) -> Truth:
    code = checked_code(true, "truth")
    return Truth(
        id=_id(record),
        image=record.image,
        question=record.question,
        size=(code["size"][0], code["size"][1]),
        objects=(code,),
        ignored=checked_code(ignored, "ignored") if ignored else None,
        exists=record.truth_present,
        kind=record.kind,
        expression=-1,
    )

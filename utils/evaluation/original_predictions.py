"""Predictions as the original's evaluation writes them.

    preds_{dataset}_{p}_of_{n}.json     of process p (from 0) of n: image path -> its questions
    segmentation_mask/*.npz             one file for each image

An image has `conversation_list` (n questions), `pred_sent` (answers), `gt_exists`, `pred_exists`,
`ref_ids` and `sent_ids` (numbers of the questions in the data set), and `segmentation_path`: only
the file's name in it is used, since the folder may come from another machine. The file holds `pred`
int32[n, H, W] (0/1) and `gt` int32[m, H, W] (0/1/255). ReasonSeg has two truths for its question:
the first n of the m truths belong to the n questions.

Rules of the original: See is the share of questions with `pred_exists` = `gt_exists`, as written;
cIoU sums intersections and unions of `pred` and `gt` over all questions, absent objects included.

The original's sampler repeats images so that every process has equally many: an image with the same
`ref_ids` and `sent_ids` in a later part is not counted again.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.errors import InputError
from utils.evaluation.evaluator import EvalResult, Record
from utils.evaluation.predictions import EvalRun, Masks
from utils.metrics import intersection_and_union
from utils.protocol.constants import IGNORE_LABEL

FILE_NAME = re.compile(r"preds_(?P<dataset>.+)_(?P<part>\d+)_of_(?P<parts>\d+)\.json")
MASK_FOLDER = "segmentation_mask"
LISTS = {"conversation_list": str, "pred_sent": str, "gt_exists": bool, "pred_exists": bool}
"""Keys with one value per question -> type of the value."""
OTHERS = {"ref_ids": list, "sent_ids": list, "segmentation_path": str}
MODE = "generated"
THREADS = 8
UNREADABLE = (
    OSError, ValueError, EOFError, LookupError, TypeError, AttributeError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
"""What NumPy raises on a damaged file."""


@dataclass(frozen=True)
class ImageAnswers:
    """The entry of an image in a JSON file; `where` names file and image in messages."""

    where: str
    image: str
    entry: dict[str, Any]
    file: Path

    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """`pred` and `gt` of the n questions: int[n, H, W] each."""
        count = len(self.entry["pred_sent"])
        try:
            with np.load(self.file, allow_pickle=False) as arrays:
                pred, truth = arrays["pred"], arrays["gt"]
            problem = f"pred {pred.dtype}{list(pred.shape)}, gt {truth.dtype}{list(truth.shape)}"
            integers = pred.dtype.kind in "iu" and truth.dtype.kind in "iu"
            truth = truth[:count]
            if integers and pred.ndim == 3 and len(pred) == count and pred.shape == truth.shape:
                if np.isin(truth, (0, 1, IGNORE_LABEL)).all() and np.isin(pred, (0, 1)).all():
                    return pred, truth
                problem = "values other than these"
        except UNREADABLE as error:
            problem = str(error)
        raise InputError(
            f"cannot read {self.file} ({problem}), the masks of {self.where}: expected the integer "
            f"arrays pred [{count}, H, W] of 0 and 1, and gt [{count} or more, H, W] of 0, 1 and "
            f"{IGNORE_LABEL}; copy {MASK_FOLDER} of the run to its JSON files again"
        )

    def records(self, item: int) -> list[Record]:
        """The outcome of every question about this image, the one with index `item`."""
        pairs = zip(*intersection_and_union(*self.masks()), strict=True)
        rows = zip(*(self.entry[name] for name in LISTS), pairs, strict=True)
        return [
            Record(
                item=item,
                number=number,
                count=len(self.entry["pred_sent"]),
                image=self.image,
                question=question,
                kind="expression" if there else "absent",
                answer=answer,
                present=present,
                truth_present=there,
                intersection=int(intersection),
                union=int(union),
            )
            for number, (question, answer, there, present, (intersection, union)) in enumerate(rows)
        ]


def has_original_layout(folder: str | Path) -> bool:
    """Whether there is a file named as the original names its predictions."""
    return any(FILE_NAME.fullmatch(path.name) for path in Path(folder).glob("preds_*.json"))


def read_original(folder: str | Path, progress: bool = True) -> EvalRun:
    """A run of the original; `progress` shows a bar while the masks are read.

    Returns:
        One result, "generated", or one for each data set ("generated, NAME") if there are several.

    Raises:
        InputError: a part or a mask file is missing, damaged, or of another form.
    """
    parts = _parts(Path(folder))
    results, images, notes = {}, {}, []
    for dataset, paths in parts.items():
        mode = MODE if len(parts) == 1 else f"{MODE}, {dataset}"
        answers, repeated = _images(paths)
        with ThreadPoolExecutor(THREADS) as pool:
            coming = pool.map(ImageAnswers.records, answers, range(len(answers)))
            bar = tqdm(coming, f"masks of {dataset}", len(answers), disable=not progress)
            try:
                results[mode] = EvalResult([record for records in bar for record in records])
            except InputError:
                pool.shutdown(cancel_futures=True)
                raise
        images[mode] = answers
        if repeated:
            notes.append(f"{dataset}: images in two parts, which are counted once: {repeated}")

    @lru_cache(maxsize=1)
    def arrays(mode: str, item: int) -> tuple[np.ndarray, np.ndarray]:
        return images[mode][item].masks()

    def masks(mode: str, record: Record) -> Masks:
        pred, truth = arrays(mode, record.item)
        return pred[record.number] == 1, truth[record.number].astype(np.uint8)

    about = [("data", ", ".join(parts)), ("layout", f"preds_*.json and {MASK_FOLDER}/*.npz")]
    return EvalRun(results, masks, about, notes)


def _parts(folder: Path) -> dict[str, list[Path]]:
    """Data set -> the files of its processes, in order."""
    by_dataset: dict[str, dict[tuple[int, int], Path]] = {}
    for path in sorted(folder.glob("preds_*.json")):
        if match := FILE_NAME.fullmatch(path.name):
            key = int(match["part"]), int(match["parts"])
            by_dataset.setdefault(match["dataset"], {})[key] = path
    for dataset, paths in by_dataset.items():
        world = max(parts for _, parts in paths)
        wanted = {(part, world) for part in range(world)}
        if set(paths) != wanted:
            lacks = [f"preds_{dataset}_{p}_of_{n}.json" for p, n in sorted(wanted - set(paths))]
            extra = [paths[key].name for key in sorted(set(paths) - wanted)]
            raise InputError(
                f"{folder} should hold the parts 0 to {world - 1} of one run on {dataset}, and no "
                f"others (missing: {', '.join(lacks) or 'none'}; not of it: "
                f"{', '.join(extra) or 'none'})"
            )
    return {dataset: [paths[key] for key in sorted(paths)] for dataset, paths in by_dataset.items()}


def _images(paths: list[Path]) -> tuple[list[ImageAnswers], int]:
    """The images of all parts in alphabetical order, and how many stood there again."""
    answers_of: dict[tuple[str, str], ImageAnswers] = {}
    seen = 0
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"cannot read {path} ({error}): copy the file again") from error
        if not isinstance(content, dict) or not content:
            raise InputError(f"{path}: expected an object of images that is not empty")
        for image, entry in content.items():
            if problem := _problem(entry):
                raise InputError(
                    f"{path}, image {image}: {problem}; expected lists of one length "
                    f"({', '.join(LISTS)}), and {', '.join(OTHERS)}, as the original writes them"
                )
            seen += 1
            name = PureWindowsPath(entry["segmentation_path"]).name  # splits at / and at \
            answers = ImageAnswers(
                f"{path}, image {image}", image, entry, path.parent / MASK_FOLDER / name
            )
            answers_of.setdefault(
                (image, json.dumps([entry["ref_ids"], entry["sent_ids"]])), answers
            )
    return [answers_of[key] for key in sorted(answers_of)], seen - len(answers_of)


def _problem(entry: Any) -> str | None:
    """What is wrong with the entry of an image."""
    if not isinstance(entry, dict):
        return f"found {entry!r}, no object"
    for name, needed in {**dict.fromkeys(LISTS, list), **OTHERS}.items():
        if not isinstance(entry.get(name), needed):
            return f"{name} is {entry.get(name)!r}, no {needed.__name__}"
    for name, kind in LISTS.items():
        if wrong := [value for value in entry[name] if not isinstance(value, kind)]:
            return f"{name} holds {wrong[0]!r}, no {kind.__name__}"
    counts = {name: len(entry[name]) for name in LISTS}
    return f"the numbers of values are {counts}" if len(set(counts.values())) > 1 else None

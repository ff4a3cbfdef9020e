"""Checks of sets of the user's own, in any of their forms (docs/own_data.md)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from dataset.catalog import OWN_FOLDER
from dataset.doctor.decode import Decoded, Trouble, upright_size
from dataset.doctor.exam import DatasetCheck
from dataset.doctor.report import Level, explain, samples
from dataset.own.formats import Split, open_split, sound_part, split_names
from dataset.own.rules import Complaints
from utils.errors import InputError
from utils.protocol.image_files import read_image


def own(exam: DatasetCheck, name: str, wanted: tuple[str, ...]) -> None:
    """All splits of a set, and all mistakes in them; a quick check opens the wanted ones only.

    Args:
        name: its folder below own/.
        wanted: splits that have to be there.
    """
    folder = exam.root / OWN_FOLDER / name
    exam.report.found, exam.report.unit = folder.is_dir(), "images with questions"
    if not exam.report.found:
        remedy = "make the folder (docs/own_data.md shows its forms) or correct the name"
        exam.add("missing", folder, "the folder does not exist", remedy)
        return
    others = [] if wanted and exam.level == Level.QUICK else split_names(folder)
    exam.report.images = 0
    with tempfile.TemporaryDirectory(prefix="read-doctor-") as scratch:
        for split in dict.fromkeys((*wanted, *others)):
            exam.report.splits[split] = _split(exam, folder, split, Path(scratch))
            exam.report.images += exam.report.splits[split]
    if not exam.report.splits:
        exam.add("missing", folder, "holds no split", "docs/own_data.md shows the forms")


def _split(exam: DatasetCheck, folder: Path, split: str, scratch: Path) -> int:
    """Check one split; returns the number of its images that are in order as far as known."""
    complaints = Complaints()
    opened: Split | None
    try:
        opened = open_split(folder, split)
    except InputError:
        opened = sound_part(folder, split, complaints, scratch)
    count = 0 if opened is None else len(opened)
    some = set(samples(list(range(count))))
    whole = range(count) if exam.level == Level.DEEP else some
    looked = some if exam.level == Level.QUICK else range(count)
    jobs = [(str(folder), opened, position, position in whole) for position in looked]
    for decoded in exam.decoder.run(image, jobs, f"{exam.report.name}: {split}"):
        for trouble in decoded.troubles:
            complaints.add(trouble.problem)
    for message in complaints.told():
        exam.add("broken", folder, *explain(InputError(message), []))
    return count


def image(job: tuple[str, Split, int, bool]) -> Decoded:
    """Load (folder, split, position, whether to decode the image and draw all its masks)."""
    folder, split, position, whole = job
    problems: dict[str, None] = {}
    size = None
    try:
        loaded = split.load(position, read_image if whole else _blank)
        size = loaded.image.shape[:2]
        for question in loaded.present if whole else ():
            try:
                question.mask()
            except InputError as error:
                problems[str(error)] = None
    except InputError as error:
        problems[str(error)] = None
    return Decoded(size, [Trouble(folder, problem, "") for problem in problems])


def _blank(path: Path) -> np.ndarray:
    """An image of the size that the file's head tells, without its pixels."""
    size = upright_size(path)
    return read_image(path) if size is None else np.broadcast_to(np.uint8(0), (*size, 3))

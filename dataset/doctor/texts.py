"""Checks of sets whose annotations are texts: ReasonSeg, LLaVA-Instruct."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataset.catalog import COCO_TRAIN2017
from dataset.doctor import decode
from dataset.doctor.exam import DatasetCheck, FaultCounter
from dataset.doctor.report import COPY_AGAIN, Level
from dataset.vqa import question_answer_turns


def reason_seg(exam: DatasetCheck, split: str) -> None:
    """Images NAME.jpg with NAME.json beside them."""
    folder = exam.root / "reason_seg/ReasonSeg" / split
    images, tables = exam.names(folder, ".jpg"), exam.names(folder, ".json")
    exam.report.images, exam.report.annotations = len(images), len(tables)
    if not images and exam.shelf.files(folder):
        exam.add("missing", folder, "the folder holds no *.jpg")
        return
    for name in sorted(tables.keys() - images.keys()):
        remedy = "add the image or remove the file"
        exam.add("orphan", folder / f"{name}.json", "the annotation has no image", remedy)
    names = sorted(images)
    good = exam.there((folder / f"{name}.jpg", "") for name in names)
    files = set(
        exam.there(((folder / f"{n}.json", "its image is there") for n in names), "annotation")
    )
    jobs = [(str(path), str(path.with_suffix(".json"))) for path in good]
    jobs = [job for job in jobs if Path(job[1]) in files]
    if exam.level == Level.FULL:
        exam.decode_images(dict.fromkeys(good))
        exam.decode(decode.reason_seg_text, jobs, "annotations", least=Level.FULL)
    else:
        exam.decode(decode.reason_seg, jobs, "annotations", few=True)


def conversations(exam: DatasetCheck, name: str) -> None:
    """A list of conversations about images of COCO.

    Args:
        name: of the file in llava_dataset/, without ".json".
    """
    path = exam.root / "llava_dataset" / f"{name}.json"
    if exam.report.facts is None:
        exam.report.found = path.is_file()
        if not exam.report.found:
            exam.add("missing", path, "the file does not exist", "correct --vqa_data")
    tally = FaultCounter(exam, path, f"remove the entry, or {COPY_AGAIN}")
    images: dict[Path, str] = {}
    folder = exam.root / COCO_TRAIN2017
    count = 0

    def record(key: str, entry: Any) -> None:
        nonlocal count
        if key:  # a list inside of an object
            return
        who = f"entry {entry.get('id', count) if isinstance(entry, dict) else count}"
        count += 1
        if problem := _conversation_problem(entry):
            tally.note(problem, who)
        elif entry.get("image"):
            images[folder / entry["image"]] = f"{path.name} names it"

    found = exam.json_lists(path, "a list of {id, image, conversations}", record)
    if found is None:
        return
    if "" not in found:
        wanted = "expected a list of {id, image, conversations}"
        exam.add("broken", path, "holds no list", wanted)
        return
    tally.close()
    exam.report.annotations, exam.report.images = count, len(images)
    if not images:
        exam.add("broken", path, "no conversation about an image can be used", COPY_AGAIN)
    good = exam.there(images.items())
    exam.decode_images(dict.fromkeys(good))


def _conversation_problem(entry: Any) -> str:
    if not isinstance(entry, dict):
        return "is no object"
    if not isinstance(entry.get("image", ""), str):
        return "its image is no file name"
    try:
        question_answer_turns(entry.get("conversations"))
    except ValueError as error:
        return str(error)
    return ""

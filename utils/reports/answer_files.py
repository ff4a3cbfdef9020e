"""An answer for people: See, Say, Segment in words, and its images in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.files import write_json
from utils.protocol.rle import encode_mask
from utils.reports.visualize import (
    answer_tiles,
    heat_map,
    mask_image,
    overlay,
    save_png,
    sheet,
)

OUTPUT_FORMATS = ("png", "rle", "json")


def summary(answer: Any) -> tuple[str, str, str]:
    """See, Say, Segment: is it there, what does the model say, what is covered.

    Args:
        answer: `model.inference.reader.Answer`.
    """
    see = "yes" if answer.present else f"no ({answer.reason})"
    if answer.present:
        share = 100 * float(answer.mask.mean())
        scores = ", ".join(f"{segment.score:.2f}" for segment in answer.segments)
        several = f"{len(answer.segments)} masks, " if len(answer.segments) > 1 else ""
        segment = f"{several}{int(answer.mask.sum())} pixels ({share:.1f} %), score {scores}"
    else:
        segment = "nothing"
    return see, answer.text, segment


def describe(answer: Any) -> str:
    """`summary` as three lines."""
    see, say, segment = summary(answer)
    return f"See:     {see}\nSay:     {say}\nSegment: {segment}"


def answer_data(question: str, answer: Any) -> dict[str, Any]:
    """Everything about an answer as plain data; points are (x, y) in pixels of the image."""
    return {
        "question": question,
        "answer": answer.text,
        "present": answer.present,
        "reason": answer.reason,
        "segments": [
            {
                "score": round(float(segment.score), 4),
                "mask": encode_mask(segment.mask),
                "points": np.asarray(segment.points, np.float64).round(2).tolist(),
                "point_labels": np.asarray(segment.point_labels).tolist(),
            }
            for segment in answer.segments
        ],
    }


def all_points(answer: Any) -> tuple[np.ndarray, np.ndarray]:
    """The points of every segment: float[P, 2] and int[P]."""
    if not answer.segments:
        return np.zeros((0, 2)), np.zeros(0, int)
    points = np.concatenate([np.asarray(segment.points) for segment in answer.segments])
    labels = np.concatenate([np.asarray(segment.point_labels) for segment in answer.segments])
    return points, labels


def free_stem(folder: Path, name: str) -> Path:
    """`folder/name_N` with the smallest N from 1 that no file there begins with."""
    number = 1
    while any(folder.glob(f"{name}_{number}_*")):
        number += 1
    return folder / f"{name}_{number}"


def save_answer(
    folder: str | Path,
    name: str,
    image: np.ndarray,
    question: str,
    answer: Any,
    output_format: str = "png",
) -> list[Path]:
    """Write mask, overlay with points, similarity heat map, and a sheet with all of them.

    Args:
        folder: made if needed.
        name: of the image; files are called `{name}_{N}_mask.png` and so on, N being free.
        image: uint8[H, W, 3].
        question: as asked.
        answer: `model.inference.reader.Answer`.
        output_format: of the mask: "png" (0 / 255), "rle" (COCO run-length code), or "json" (the
            code with text, points and scores).

    Returns:
        The files written; without a mask only the JSON file, if asked for.

    Raises:
        InputError: the folder cannot be written to, or the format is unknown.
    """
    if output_format not in OUTPUT_FORMATS:
        raise InputError(
            f"output format {output_format!r} is unknown; choose one of {', '.join(OUTPUT_FORMATS)}"
        )
    folder = Path(folder)
    stem = str(free_stem(folder, name.replace("[", "_").replace("*", "_").replace("?", "_")))
    files = []
    if output_format == "json":
        files.append(write_json(f"{stem}_answer.json", answer_data(question, answer)))
    if not answer.present:
        return files
    if output_format == "rle":
        files.append(write_json(f"{stem}_mask.json", encode_mask(answer.mask)))
    elif output_format == "png":
        files.append(save_png(f"{stem}_mask.png", mask_image(answer.mask)))
    points, labels = all_points(answer)
    painted = overlay(image, answer.mask, points, labels)
    files.append(save_png(f"{stem}_overlay.png", painted))
    heats = [heat_map(image, segment.similarity) for segment in answer.segments]
    for number, heat in enumerate(heats, start=1):
        which = f"_{number}" if len(heats) > 1 else ""
        files.append(save_png(f"{stem}_similarity{which}.png", heat))
    page = sheet(
        answer_tiles(image, answer.segments, answer.mask), [f"Q: {question}", f"A: {answer.text}"]
    )
    files.append(save_png(f"{stem}_sheet.png", page))
    return files

"""The engine at full size with random weights: speed, memory and stages, no comparison."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks import output
from benchmarks.random_read import SIZES, questions, random_image, random_reader
from model import Reader
from model.config import DTYPES
from utils.stopwatch import Stopwatch, null_timer

TOKENS = 20
PER_IMAGE = (14, 15)
"""Questions about an image, in turn: FP-RefCOCO val has 14.5 on average."""

FP_REFCOCO_QUESTIONS = 21_700
IMAGE_SIZES = ((480, 640), (640, 480), (427, 640), (640, 640))


def items(count: int) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Images of COCO's sizes with their questions."""
    for number in range(count):
        height, width = IMAGE_SIZES[number % len(IMAGE_SIZES)]
        asked = questions(PER_IMAGE[number % len(PER_IMAGE)])
        yield random_image(height, width, number % 8), asked


def full_size(options: argparse.Namespace) -> tuple[dict, str]:
    """Measure the engine with each number of rows; returns the numbers and a page."""
    reader = random_reader(SIZES[options.size], options.device, DTYPES[options.precision])
    if options.attn_implementation:
        reader.model.set_attn_implementation(options.attn_implementation)
    if options.compile:
        reader.compile()
    on_gpu = torch.device(options.device).type == "cuda"
    model_gb = torch.cuda.memory_allocated() / 2**30 if on_gpu else None
    runs = [measure(reader, options.images, rows, on_gpu) for rows in options.rows]
    result = {
        "size": options.size,
        "device": output.device_name(options.device),
        "precision": options.precision,
        "attention": reader.model.config._attn_implementation,
        "compile": options.compile,
        "torch": torch.__version__,
        "images": options.images,
        "tokens": TOKENS,
        "model_gb": model_gb,
        "runs": runs,
    }
    return result, page(result)


def measure(reader: Reader, images: int, rows: int, on_gpu: bool) -> dict:
    """One stream without a stopwatch for the speed, a shorter one with it for the stages."""

    def run(count: int) -> tuple[int, int, int]:
        answered = tokens = masks = 0
        for answers in reader.stream(items(count), max_new_tokens=TOKENS, batch_questions=rows):
            answered += len(answers)
            tokens += sum(len(answer.token_ids) for answer in answers)
            masks += sum(len(answer.segments) for answer in answers)
        return answered, tokens, masks

    run(max(1, images // 10))
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    answered, tokens, masks = run(images)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
    reader.timer = timer = Stopwatch(reader.model.device)
    run(max(2, images // 3))
    reader.timer = null_timer
    return {
        "rows": rows,
        "seconds": seconds,
        "questions": answered,
        "masks": masks,
        "questions_per_s": answered / seconds,
        "tokens_per_s": tokens / seconds,
        "peak_gb": peak,
        "fp_refcoco_val_min": FP_REFCOCO_QUESTIONS * seconds / answered / 60,
        "stages": timer.shares(),
    }


def page(result: dict) -> str:
    """The page for `results/`."""
    rows, stages = [], []
    for run in result["runs"]:
        peak = "-" if run["peak_gb"] is None else f"{run['peak_gb']:.1f}"
        cells = [f"{run['questions_per_s']:.1f}", f"{run['tokens_per_s']:.0f}"]
        cells += [f"{run['masks'] / run['seconds']:.1f}", peak, f"{run['fp_refcoco_val_min']:.1f}"]
        rows.append([str(run["rows"]), *cells])
        shares = ", ".join(f"{name} {share:.0%}" for name, share in run["stages"].items())
        stages.append(
            f"Stages with {run['rows']} rows (reading runs in a thread beside the rest): {shares}."
        )
    header = ["rows", "questions/s", "tokens/s", "masks/s", "peak [GiB]", "FP-RefCOCO val [min]"]
    return output.page(
        f"# Inference at full size: {result['size']}",
        f"Printed by `python -m benchmarks.inference --size {result['size']}` on {result['device']}"
        f", {result['precision']}, {result['attention']}"
        f"{', torch.compile' if result['compile'] else ''}, PyTorch {result['torch']}. Random "
        f"weights; {result['images']} images of COCO's sizes with 14.5 questions each, answers "
        f"of {result['tokens']} tokens. The estimate is for the {FP_REFCOCO_QUESTIONS:,} questions "
        "of FP-RefCOCO val (1,500 images).",
        output.table(header, rows),
        "\n".join(stages),
    )

"""Answering with the engine, compared with the original's way of working.

    python -m benchmarks.inference                                     two CPU cores, 10-20 minutes
    python -m benchmarks.inference --size 7b --device cuda --rows 64   full size, engine only

On a CPU: a random model with the proportions of the 7B one (`random_read.py`) answers 1 to 16
questions about an image with 20 tokens each. Plainly (`tests/reference/inference.py`), every
question is asked alone and CLIP and the whole prompt run again for every token; its questions are
measured one by one, so that n questions cost the sum of the first n. The results have to be the
same: token ids, presence, masks. Ends with exit code 1 if they are not, if 8 questions are not 50
times faster, or if 16 questions cost the engine more than 3 times as much as one.

With `--size 7b | 13b` the weights are random and made on the device; see `inference_full.py`.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks import output
from benchmarks.inference_full import full_size
from benchmarks.random_read import SIZES, questions, random_image, random_reader
from model import Answer
from model.config import DTYPES
from tests.reference.inference import PlainAnswer, ask_plainly
from utils.stopwatch import Stopwatch, null_timer

COUNTS = (1, 2, 4, 8, 16)
TOKENS = 20
IMAGE = (480, 640)
FASTER_AT_8 = 50.0
COST_OF_16 = 3.0
TOLERANCE = 1e-4
"""Mask logits agree to that part of the mask's largest one."""


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_mb() -> float:
    """Highest memory since `measured` reset it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measured(action: Callable):
    """Result, wall seconds, CPU seconds, and peak memory in MB above the start."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, start, busy = resident_mb(), time.perf_counter(), time.process_time()
    result = action()
    seconds, cpu = time.perf_counter() - start, time.process_time() - busy
    return result, seconds, cpu, max(0.0, peak_mb() - before)


def same(answer: Answer, plain: PlainAnswer) -> float:
    """Largest difference of logits, as a part of their mask's largest; infinite if others differ.

    The others: token ids, places of `[SEG]`, presence.
    """
    places = [segment.token_index for segment in answer.segments]
    if (answer.token_ids, places, answer.present) != (
        plain.token_ids,
        plain.seg_index,
        plain.present,
    ):
        return float("inf")
    pairs = zip(answer.segments, plain.logits, strict=True)
    return max(
        (float(np.abs(one.logits - other).max() / np.abs(other).max()) for one, other in pairs),
        default=0.0,
    )


def compare(size: str, repeats: int) -> dict:
    """Measure both ways; see the head of this file."""
    reader = random_reader(SIZES[size], "cpu", torch.float32)
    image, asked = random_image(*IMAGE, seed=0), questions(max(COUNTS))
    reader.segment(image, asked[0], max_new_tokens=2)
    rows = []
    for count in COUNTS:
        runs = [
            measured(
                lambda n=count: reader.segment_batch(
                    [(image, asked[:n])], max_new_tokens=TOKENS, batch_questions=16
                )
            )
            for _ in range(repeats)
        ]
        rows.append(
            {
                "questions": count,
                "engine_s": median(run[1] for run in runs),
                "engine_cpu_s": median(run[2] for run in runs),
                "engine_mb": max(run[3] for run in runs),
            }
        )
        print(f"engine, {count} questions: {rows[-1]['engine_s']:.2f} s", flush=True)
    answers: list[Answer] = runs[-1][0]

    reader.timer = Stopwatch()
    reader.segment_batch([(image, asked)], max_new_tokens=TOKENS, batch_questions=16)
    shares, reader.timer = reader.timer.shares(), null_timer

    plain, differences = [], []
    for number, question in enumerate(asked):
        run = measured(lambda q=question: ask_plainly(reader, image, q, TOKENS))
        plain.append(run[1:])
        differences.append(same(answers[number], run[0]))
        print(f"plain, question {number + 1}: {run[1]:.1f} s", flush=True)
    for row in rows:
        part = plain[: row["questions"]]
        row["plain_s"] = sum(run[0] for run in part)
        row["plain_cpu_s"] = sum(run[1] for run in part)
        row["plain_mb"] = max(run[2] for run in part)
        row["ratio"] = row["plain_s"] / row["engine_s"]
        row["cpu_ratio"] = row["plain_cpu_s"] / row["engine_cpu_s"]
    return {
        "size": size,
        "machine": output.cpu_name(),
        "torch": torch.__version__,
        "parameters_m": {name: count / 1e6 for name, count in parts(reader.model).items()},
        "tokens": TOKENS,
        "masks": sum(len(answer.segments) for answer in answers),
        "largest_difference": max(differences),
        "stages_16": shares,
        "cost_of_16": rows[-1]["engine_s"] / rows[0]["engine_s"],
        "rows": rows,
    }


def parts(model) -> dict[str, int]:
    """Parameters of the three parts."""

    def count(*modules) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    read = model.model
    return {
        "LLM": count(read.layers, read.embed_tokens, model.lm_head),
        "CLIP": count(read.vision_tower),
        "SAM encoder": count(read.visual_model.image_encoder),
    }


def table(result: dict) -> str:
    """The page for `results/`."""
    sizes = ", ".join(f"{name} {count:.0f} M" for name, count in result["parameters_m"].items())
    shares = ", ".join(f"{name} {share:.0%}" for name, share in result["stages_16"].items())
    rows = [
        [str(row["questions"]), f"{row['plain_s']:.1f}", f"{row['engine_s']:.2f}"]
        + [f"{row[name]:.0f}" for name in ("ratio", "cpu_ratio", "plain_mb", "engine_mb")]
        for row in result["rows"]
    ]
    header = ["questions", "plain [s]", "engine [s]", "ratio", "ratio of CPU time"]
    return output.page(
        "# Inference",
        "Printed by `python -m benchmarks.inference`. One image of 480x640; answers of "
        f"{result['tokens']} tokens, {result['masks']} masks in 16 answers. Random weights in "
        f"float32 ({sizes}), {result['machine']}, PyTorch {result['torch']}. "
        '"Plain" is `tests/reference/inference.py`: every question alone, no cache, CLIP and '
        "the whole prompt again for every token, SAM's encoder for every question; measured in "
        "full.",
        output.table([*header, "plain: memory [MB]", "engine: memory [MB]"], rows),
        "Memory is the peak above the model. All token ids and presences are the same; mask "
        f"logits differ by at most {result['largest_difference']:.0e} of the largest. 16 questions "
        f"cost the engine {result['cost_of_16']:.1f} times as much as one. "
        f"Its time with 16: {shares}.",
    )


def good(result: dict) -> bool:
    """Whether all is as promised; says what is not."""
    at_8 = next(row["ratio"] for row in result["rows"] if row["questions"] == 8)
    problems = []
    if result["largest_difference"] > TOLERANCE:
        problems.append(f"results differ by {result['largest_difference']}")
    if at_8 < FASTER_AT_8:
        problems.append(f"8 questions are only {at_8:.0f} times faster")
    if result["cost_of_16"] > COST_OF_16:
        problems.append(f"16 questions cost {result['cost_of_16']:.1f} times as much as one")
    return output.kept(problems)


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--device", default="cpu", help="of a full-size run")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="bf16", help="likewise")
    parser.add_argument("--rows", type=int, nargs="+", default=[64], help="likewise")
    parser.add_argument("--images", type=int, default=60, help="likewise")
    parser.add_argument("--attn_implementation", help="likewise: sdpa, flash_attention_2, eager")
    parser.add_argument("--compile", action="store_true", help="likewise: torch.compile")
    parser.add_argument("--full", action="store_true", help="engine only, with any size")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the engine")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    full = options.full or options.size in ("7b", "13b")
    name = f"inference_{options.size}" if full else "inference"
    if full:
        result, page = full_size(options)
        fine = True
    else:
        result = compare(options.size, options.repeats)
        page, fine = table(result), good(result)
    output.save(options.out, name, page, result)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())

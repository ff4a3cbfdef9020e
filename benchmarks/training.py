"""A training step, compared with the original's way of working.

    OMP_NUM_THREADS=1 python -m benchmarks.training                one CPU core, about 6 minutes
    python -m benchmarks.training --size 7b --device cuda          full size, engine only

On a CPU: a random model with the proportions of the 7B one (`training_steps.py`), LoRA, two
images a batch, with 1 and 3 questions each. A step is forward, backward and AdamW. "Plain" is
`tests/reference/training.py`: a row and a pass of CLIP for each question, the projection and
float32 logits at every position, SAM's encoder image by image, full-size SasP. Each side runs
in a process of its own; memory is the highest resident one of its steps above that before the first
(gradients and the state of AdamW are in it on both sides). Ends with exit code 1 if the losses of
any step differ by more than 1e-4 of their size, or if, at 3 questions, a step is not 2 times faster
(in computing time, which other programs on the machine hardly change) or takes more than 0.6 of the
memory.

With `--size 7b | 13b` the weights are random and made on the device; see `training_full.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks import output
from benchmarks.inference import measured, parts
from benchmarks.training_full import full_size
from benchmarks.training_steps import TRAINED_SIZES, trained_reader, training_batch
from model.config import DTYPES
from model.loading.lora import unwrap
from tests.reference.training import plain_losses

SIDES = ("ours", "plain")
QUESTIONS = (1, 3)
IMAGES = 2
FASTER_AT_3 = 2.0
MEMORY_AT_3 = 0.6
LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss")
TOLERANCE = 1e-4
"""Losses agree to that part of their size."""


def measure(side: str, size: str, asked: int, steps: int, checkpointing: bool) -> dict:
    """Steps of one side in this process; the first one is not timed.

    Returns:
        seconds and computing time of a step, peak memory in MB, losses of all steps, and tokens:
        positions of all rows, the image counted for each question, whatever a side makes of it.
    """
    reader, model, optimiser = trained_reader(
        TRAINED_SIZES[size], "cpu", torch.float32, checkpointing
    )
    batch = training_batch(reader, IMAGES, asked)
    losses, seconds, computed = [], [], []

    def run() -> None:
        for _ in range(1 + steps):
            start, busy = time.perf_counter(), time.process_time()
            results = model(batch) if side == "ours" else plain_losses(unwrap(model), batch)
            results["loss"].backward()
            optimiser.step()
            optimiser.zero_grad()
            seconds.append(time.perf_counter() - start)
            computed.append(time.process_time() - busy)
            losses.append({name: results[name].item() for name in LOSSES})

    peak = measured(run)[3]
    rows = len(batch.input_ids)
    return {
        "seconds": median(seconds[1:]),
        "cpu_seconds": median(computed[1:]),
        "peak_mb": peak,
        "losses": losses,
        "tokens": int(batch.attention_mask.sum()) + rows * (reader.model.image_tokens - 1),
        "parameters_m": {name: count / 1e6 for name, count in parts(reader.model).items()},
    }


def in_a_process(side: str, asked: int, options: argparse.Namespace) -> dict:
    """`measure` in a fresh process."""
    flags = ["--side", side, "--size", options.size, "--questions", asked]
    flags += ["--steps", options.steps, "--threads", options.threads]
    flags += ["--gradient_checkpointing"] * options.gradient_checkpointing
    return output.in_a_process("benchmarks.training", *flags, threads=options.threads)


def compare(options: argparse.Namespace) -> dict:
    """Both sides at each number of questions, in turn; see the head of this file."""
    rows = []
    for asked in QUESTIONS:
        results = {side: in_a_process(side, asked, options) for side in SIDES}
        ours, plain = results["ours"], results["plain"]
        row = {
            "questions": asked,
            "ratio": plain["cpu_seconds"] / ours["cpu_seconds"],
            "wall_ratio": plain["seconds"] / ours["seconds"],
            "memory": ours["peak_mb"] / plain["peak_mb"],
            "difference": difference(ours["losses"], plain["losses"]),
            **results,
        }
        rows.append(row)
        print(
            f"{asked} questions: {row['ratio']:.2f} times faster, {row['memory']:.2f} of the "
            f"memory, losses differ by {row['difference']:.0e}",
            file=sys.stderr,
        )
    return {
        "size": options.size,
        "machine": output.cpu_name(options.threads),
        "torch": torch.__version__,
        "steps": options.steps,
        "gradient_checkpointing": options.gradient_checkpointing,
        "rows": rows,
    }


def difference(ours: list[dict[str, float]], plain: list[dict[str, float]]) -> float:
    """The largest relative difference between losses of the same step."""
    return max(
        abs(one[name] - other[name]) / abs(other[name])
        for one, other in zip(ours, plain, strict=True)
        for name in LOSSES
    )


def table(result: dict) -> str:
    """The page for `results/`."""
    first = result["rows"][0]["ours"]
    sizes = ", ".join(f"{name} {count:.0f} M" for name, count in first["parameters_m"].items())
    steps = len(first["losses"])
    checkpointing = "with" if result["gradient_checkpointing"] else "without"
    worst = max(row["difference"] for row in result["rows"])
    rows = []
    for row in result["rows"]:
        asked = str(row["questions"])
        for side in SIDES:
            cpu, tokens = row[side]["cpu_seconds"], row[side]["tokens"]
            cells = [f"{cpu:.2f}", f"{row[side]['seconds']:.2f}", f"{tokens / cpu:.0f}"]
            rows.append([asked, side, *cells, f"{row[side]['peak_mb']:.0f}"])
        cells = [f"**{row['ratio']:.2f}x faster**", f"{row['wall_ratio']:.2f}x"]
        cells += [f"{row['ratio']:.2f}x", f"**{row['memory']:.2f}x**"]
        rows.append([asked, "**ratio**", *cells])
    header = ["questions", "side", "computing time [s]", "on the clock [s]", "tokens/s"]
    return output.page(
        "# Training",
        f"Printed by `python -m benchmarks.training`. {IMAGES} images of COCO's size a batch; "
        f"random weights in float32 ({sizes}), LoRA of rank 8, {checkpointing} gradient "
        f"checkpointing, {result['machine']}, PyTorch {result['torch']}. "
        '"Plain" is `tests/reference/training.py`: a row and a pass of CLIP for each question, '
        "projection and float32 logits at every position, SAM's encoder image by image, "
        f"full-size SasP. Median of {result['steps']} steps after the first; memory above that "
        "before the first step. Tokens: the image counted for each question on both sides. "
        "Other programs on the machine disturb the step's time on the clock, but hardly its "
        "computing time.",
        output.table([*header, "peak [MB]"], rows),
        f"Losses of {steps} steps in a row (CE, BCE, DICE and their sum) differ by at most "
        f"{worst:.0e} of their size.",
    )


def good(result: dict) -> bool:
    """Whether all is as promised; says what is not."""
    problems = [
        f"losses at {row['questions']} questions differ by {row['difference']:.1e}"
        for row in result["rows"]
        if not row["difference"] <= TOLERANCE
    ]
    at_3 = next(row for row in result["rows"] if row["questions"] == 3)
    if at_3["ratio"] < FASTER_AT_3:
        problems.append(f"a step with 3 questions is only {at_3['ratio']:.2f} times faster")
    if at_3["memory"] > MEMORY_AT_3:
        problems.append(f"a step with 3 questions takes {at_3['memory']:.2f} of the memory")
    return output.kept(problems)


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(TRAINED_SIZES), default="cpu")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each side")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--gradient_checkpointing", action="store_true", help="on both sides")
    parser.add_argument("--side", choices=SIDES, help="measure one side only, in this process")
    parser.add_argument("--questions", type=int, default=3, help="of --side and at full size")
    parser.add_argument("--full", action="store_true", help="engine only, with any size")
    parser.add_argument("--device", default="cuda", help="at full size")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="bf16", help="likewise")
    parser.add_argument("--batch_size", type=int, default=2, help="likewise: images")
    parser.add_argument("--peak_tflops", type=float, help="likewise: of the device, dense")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.side:
        checkpointing = options.gradient_checkpointing
        print(
            json.dumps(
                measure(options.side, options.size, options.questions, options.steps, checkpointing)
            )
        )
        return 0
    full = options.full or options.size in ("7b", "13b")
    if full:
        result, page = full_size(options)
        fine = True
    else:
        result = compare(options)
        page, fine = table(result), good(result)
    output.save(options.out, f"training_{options.size}" if full else "training", page, result)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())

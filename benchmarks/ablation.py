"""What `--ablate` costs: one evaluation with twelve further settings of SasP, and one without.

    python -m benchmarks.ablation [--model DIR --data DIR] [--repeats 3]
    python -m benchmarks.ablation --size 7b --device cuda

Both sides ask the same questions, answers teacher forced, and write predictions. They run in one
process, in turn, and the median counts; the outcomes have to be those of evaluations with each
setting alone. Measured on a random model (`random_read.py`) with the proportions of the 7B one;
ends with exit code 1 if the ablation costs it more than 1.5 times as much as the evaluation. With a
model folder and its data also on that model, for information: the smaller its language model and
its SAM encoder are, the more SAM's decoder weighs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import output
from benchmarks.output import RESULTS, cpu_name, device_name
from benchmarks.random_read import SIZES, questions, random_image, random_reader
from dataset.reason_seg import ReasonSegEval
from model import Reader, load_read
from model.analysis.ablation import Ablation, grid
from model.config import DTYPES
from utils.evaluation.evaluator import EvalResult, evaluate, reader_predict
from utils.evaluation.predictions import PredictionFile
from utils.protocol.batch import EvalItem, EvalQuestion
from utils.protocol.conversation import POSITIVE_ANSWER

BUDGETS = (10, 30, 60)
SETTINGS = 13
LIMIT = 1.5
IMAGE = (480, 640)
CHECKED = 3
"""Settings that are also evaluated alone."""


def random_items(images: int, asked: int) -> list[EvalItem]:
    """Images of 480x640 with several questions; the truth is a rectangle."""
    items = []
    for number in range(images):
        truth = np.zeros(IMAGE, np.uint8)
        truth[100:300, 150 : 300 + 10 * number] = 1
        texts = questions(asked * images)[number * asked : (number + 1) * asked]
        mine = [EvalQuestion(text, truth, True) for text in texts]
        items.append(EvalItem(f"{number}.png", random_image(*IMAGE, seed=number), mine))
    return items


def run(reader: Reader, items: Sequence[EvalItem], settings: Sequence[Any] = ()) -> EvalResult:
    """An evaluation as `test_read.py` does it, with predictions on the disk."""
    predict = reader_predict(reader, POSITIVE_ANSWER, keep_states=bool(settings))
    sweep = Ablation(reader.model, settings) if settings else None
    with tempfile.TemporaryDirectory() as folder:
        file = PredictionFile(folder, 0, 1, "teacher_forced")
        return evaluate(predict, items, on_item=file.write, sweep=sweep, progress=False)


def timed(*arguments: Any) -> tuple[EvalResult, float, float]:
    """Result, wall seconds, CPU seconds."""
    start, busy = time.perf_counter(), time.process_time()
    result = run(*arguments)
    return result, time.perf_counter() - start, time.process_time() - busy


def compare(name: str, reader: Reader, items: Sequence[EvalItem], repeats: int) -> dict:
    """Measure both sides in turn."""
    config = reader.model.config
    config.sasp_params = own = replace(config.sasp_params, num_points=BUDGETS[1])
    settings = grid(own, BUDGETS)[1:]
    assert len(settings) == SETTINGS - 1
    run(reader, items[:2], settings)
    plain, ablated = [], []
    for number in range(repeats):
        plain.append(timed(reader, items))
        ablated.append(timed(reader, items, settings))
        print(f"{name}, run {number + 1}: {plain[-1][1]:.1f} s, {ablated[-1][1]:.1f} s", flush=True)
    different = 0
    for number in np.linspace(0, len(settings) - 1, CHECKED).astype(int):
        config.sasp_params = settings[number]
        alone = run(reader, items).records
        config.sasp_params = own
        pairs = zip(alone, ablated[-1][0].records, strict=True)
        different += sum(
            (one.present, one.intersection, one.union) != tuple(other.sweep_outcomes[number])
            for one, other in pairs
        )
    return {
        "name": name,
        "questions": len(ablated[-1][0].records),
        "wall": [median(run[1] for run in side) for side in (plain, ablated)],
        "cpu": [median(run[2] for run in side) for side in (plain, ablated)],
        "different": different,
    }


def table(results: Sequence[dict], device: str) -> str:
    """The page for `results/`."""
    where = cpu_name() if device == "cpu" else device_name(device)
    rows = []
    for result in results:
        (plain, ablated), (plain_cpu, ablated_cpu) = result["wall"], result["cpu"]
        rows.append(
            [result["name"], str(result["questions"]), f"{plain:.1f}", f"{ablated:.1f}"]
            + [f"{ablated / plain:.2f}", f"{ablated_cpu / plain_cpu:.2f}"]
            + [str(result["different"])]
        )
    header = ["model", "questions", "evaluation [s]", "with --ablate [s]", "ratio"]
    return output.page(
        "# `--ablate`",
        f"Printed by `python -m benchmarks.ablation`: {SETTINGS} settings (the model's own, text "
        "alone, discrete points and DtoC with fixed and std thresholds and 10, 30 and 60 points) "
        "in one evaluation, against the evaluation alone; teacher forced, one question an image, "
        f"predictions written. {where}, PyTorch {torch.__version__}. "
        f'"Different": outcomes of {CHECKED} settings that are not those of an evaluation with the '
        "setting alone.",
        output.table([*header, "ratio of CPU time", "different"], rows),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default=None)
    parser.add_argument("--images", type=int, default=6, help="of the random model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a model folder to measure as well")
    parser.add_argument("--data", type=Path, help="its data folder, with ReasonSeg|test")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    dtype = DTYPES[given.dtype or ("fp32" if given.device == "cpu" else "bf16")]
    results = []
    if given.model is not None:
        items = ReasonSegEval(given.data, "test")
        toy = [items[n] for n in range(min(len(items), 200))]
        name = f"trained model ({given.model.parent.name}/{given.model.name})"
        results.append(compare(name, load_read(given.model), toy, given.repeats))
    reader = random_reader(SIZES[given.size], given.device, dtype)
    name = f'random, "{given.size}" proportions, 480x640'
    results.insert(0, compare(name, reader, random_items(given.images, 1), given.repeats))
    output.save(given.out, "ablation", table(results, given.device))
    key = "cpu" if given.device == "cpu" else "wall"
    dear = [one["name"] for one in results[:1] if one[key][1] > LIMIT * one[key][0]]
    wrong = [found["name"] for found in results if found["different"]]
    print(f"dearer than {LIMIT} times: {dear or 'none'}; different outcomes: {wrong or 'none'}")
    return 1 if dear or wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

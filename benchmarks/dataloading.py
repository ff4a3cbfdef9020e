"""How fast the training mixture is loaded and how much memory it takes, against a plain loader.

    python -m benchmarks.dataloading [--batches 60] [--repeats 3] [--annotations 100000]

Both sides load the same mixture (sem_seg, refer_seg, vqa and reason_seg at rates 10, 1, 1, 10) from
640x480 images, in batches of 2, with 1 and 2 workers, each in a process of its own, in turn; the
median of the repeats counts. Memory is the proportional share (PSS) of the main process and its
workers. What the device does with the bytes (normalisation) is not part of it; what that costs on
this CPU is printed. Results go to `results/dataloading.{md,json}`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks import output
from benchmarks.dataloading_world import write_world
from benchmarks.output import RESULTS, ROOT
from dataset.collate import collate
from dataset.loader import micro_batches
from dataset.mixture import Mixture
from dataset.reason_seg import ReasonSegTrain
from dataset.refer.sets import ReferSegTrain
from dataset.sampling import SamplingOptions
from dataset.sem_seg.sampling import SemSegTrain
from dataset.templates import load_templates
from dataset.vqa import VqaTrain
from tests.reference.dataloading import PlainMixture, plain_collate
from utils.process.parent_process import end_with_parent
from utils.protocol.image_transforms import (
    ImageViews,
    clip_normalisation,
    default_clip_processor,
    normalise_for_clip,
    normalise_for_sam,
)
from utils.protocol.tokenization import load_tokenizer

TOKENIZER = ROOT / "tests" / "data" / "golden" / "released_tiny"
RATES = {"sem_seg": 10.0, "refer_seg": 1.0, "vqa": 1.0, "reason_seg": 10.0}
SIDES = ("ours", "plain")
WORKERS = (1, 2)
BATCH, WARM_UP = 2, 6
MEGABYTE = 1 << 20


def processes() -> list[int]:
    """This process and its workers."""
    return [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid)]


def cpu_seconds() -> float:
    """Computing time so far of this process and its workers; other programs do not change it."""
    total = 0
    for process in processes():
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def pss() -> int:
    """Bytes of memory of this process and its workers, shared pages in proportion."""
    total = 0
    for process in processes():
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def our_batches(root: Path, settings: SamplingOptions, workers: int, count: int) -> Iterator[Any]:
    """The mixture as training loads it."""
    parts = [
        ("sem_seg", SemSegTrain(root, "ade20k||paco_lvis", settings)),
        ("refer_seg", ReferSegTrain(root, "refcoco", settings)),
        ("vqa", VqaTrain(root, "llava_instruct_150k", settings)),
        ("reason_seg", ReasonSegTrain(root, "ReasonSeg|train", settings)),
    ]
    mixture = Mixture(parts, list(RATES.values()), settings.seed)
    join = partial(collate, tokenizer=load_tokenizer(str(TOKENIZER)), views=ImageViews())
    steps = {"micro_steps": (0, count), "rank": 0, "world_size": 1}
    return micro_batches(mixture, join, batch_size=BATCH, workers=workers, **steps)


def plain_batches(root: Path, settings: SamplingOptions, workers: int, count: int) -> Iterator[Any]:
    """The same mixture, straightforwardly."""
    join = partial(plain_collate, tokenizer=load_tokenizer(str(TOKENIZER)))
    loader: DataLoader[Any] = DataLoader(
        PlainMixture(root, RATES, settings),
        batch_sampler=[[2 * n, 2 * n + 1] for n in range(count)],
        num_workers=workers,
        collate_fn=join,
        worker_init_fn=end_with_parent,
    )
    return iter(loader)


def measure(side: str, root: Path, workers: int, count: int) -> dict[str, float]:
    """Start-up seconds, samples per second and memory of one side, in this process."""
    settings = SamplingOptions(templates=load_templates("varied"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    before, start = pss(), time.perf_counter()
    make = our_batches if side == "ours" else plain_batches
    batches = make(root, settings, workers, WARM_UP + count)
    next(batches)
    ready = time.perf_counter() - start
    for _ in range(WARM_UP - 1):
        next(batches)
    measured = max(1, count - 2 * workers)  # before the workers run out of batches to prepare
    start, computed = time.perf_counter(), cpu_seconds()
    for _ in range(measured):
        next(batches)
    samples = BATCH * measured
    rate = samples / (time.perf_counter() - start)
    computed = cpu_seconds() - computed
    held = pss()
    for _ in batches:
        pass
    return {
        "start_seconds": ready,
        "samples_per_second": rate,
        "cpu_ms_per_sample": 1000 * computed / samples,
        "memory_mb": held / MEGABYTE,
        "added_mb": (held - before) / MEGABYTE,
    }


def in_a_process(side: str, root: Path, workers: int, count: int) -> dict[str, float]:
    """`measure` in a fresh process."""
    flags = ["--side", side, "--root", root, "--workers", workers, "--batches", count]
    return output.in_a_process("benchmarks.dataloading", *flags)


def normalising_ms() -> float:
    """Milliseconds an image that normalising both views takes on one thread of this CPU."""
    table = clip_normalisation(default_clip_processor())
    sam = torch.randint(0, 256, (1, 3, 1024, 1024), dtype=torch.uint8)
    clip = torch.randint(0, 256, (1, 3, 336, 336), dtype=torch.uint8)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        normalise_for_sam(sam, [(768, 1024)])
        normalise_for_clip(clip, table)
        times.append(1000 * (time.perf_counter() - start))
    return median(times)


def compare(root: Path, count: int, repeats: int) -> dict[str, Any]:
    """Every side and number of workers, in turn; medians."""
    start = time.perf_counter()
    in_a_process("ours", root, 1, 2 * WARM_UP)
    found: dict[str, Any] = {"first_start_seconds": time.perf_counter() - start}
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(repeats):
        for workers in WORKERS:
            for side in SIDES:
                result = in_a_process(side, root, workers, count)
                runs.setdefault((side, workers), []).append(result)
                print(f"{side:5} {workers} workers: {result}", file=sys.stderr)
    for (side, workers), results in runs.items():
        key = f"{side}_{workers}"
        found[key] = {name: median(result[name] for result in results) for name in results[0]}
    found["normalising_ms"] = normalising_ms()
    return found


def table(found: dict[str, Any], given: argparse.Namespace) -> str:
    """The results in Markdown."""
    rows = []
    for workers in WORKERS:
        ours, plain = (found[f"{side}_{workers}"] for side in SIDES)
        for side, row in zip(SIDES, (ours, plain), strict=True):
            cells = [f"{row['samples_per_second']:.1f}", f"{row['cpu_ms_per_sample']:.1f}"]
            cells += [f"{row['memory_mb']:.0f}", f"{row['added_mb']:.0f}"]
            rows.append([side, str(workers), *cells, f"{row['start_seconds']:.1f}"])
        faster = ours["samples_per_second"] / plain["samples_per_second"]
        names = ("cpu_ms_per_sample", "memory_mb", "added_mb")
        less = [f"{plain[name] / ours[name]:.2f}x less" for name in names]
        sooner = f"{plain['start_seconds'] / ours['start_seconds']:.1f}x sooner"
        rows.append(["**ratio**", str(workers), f"**{faster:.2f}x**", *less, sooner])
    header = ["", "workers", "samples/s", "CPU ms/sample", "memory MB", "added MB"]
    return output.page(
        "# Loading the training mixture",
        f"{given.annotations:,} annotations in each of two COCO files, 640x480 images, batches "
        f"of {BATCH}; median of {given.repeats}, {os.cpu_count()} cores. Memory: PSS of main "
        'process and workers; "added" is what loading adds to the imported libraries. Other '
        "programs on the machine disturb samples/s, but hardly the computing time.",
        output.table([*header, "first batch after s"], rows),
        f"The very first start, which writes the index, takes {found['first_start_seconds']:.0f} s "
        "in all, imports included. Normalising both views, which the plain loader does in its "
        f"workers, is left to the device; on one thread of this CPU it takes "
        f"{found['normalising_ms']:.1f} ms an image.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare two ways of loading the mixture.")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--annotations", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--side", choices=SIDES, help="measure one side only, in this process")
    parser.add_argument("--root", type=Path, help="data folder of --side")
    parser.add_argument("--workers", type=int, default=1, help="of --side")
    given = parser.parse_args()
    if given.side:
        print(json.dumps(measure(given.side, given.root, given.workers, given.batches)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = write_world(Path(folder), given.annotations)
        found = compare(root, given.batches, given.repeats)
    output.save(given.out, "dataloading", table(found, given), found)


if __name__ == "__main__":
    main()

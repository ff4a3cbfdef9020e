"""A model of the real size on this machine: loading it, a question, merging a run into it.

    python -m benchmarks.full_size --device cpu --dtype bf16

writes a 7B-shaped folder in the released layout with random weights (two `.bin` shards, 14.8 GB)
and CLIP ViT-L/14-336, loads it with `load_read`, asks a teacher-forced question, writes a run whose
checkpoint holds LoRA and the parts that train in full, and merges that run as
`merge_lora_weight.sh` does. 50 GB of disk; on a CPU 24 GB of memory. Every step has a process of
its own. What is written goes afterwards, unless `--keep`: a model folder that is there already is
used again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks import output
from benchmarks.full_size_world import WORLDS, write_clip, write_released, write_run
from utils.cli.entry_point import cli
from utils.errors import InputError
from utils.protocol.conversation import POSITIVE_ANSWER
from utils.training.checkpoint import free_bytes

GB = 1e9
STEPS = ("load", "ask", "merge")
DISK = {"tiny": 1e9, "7b": 50e9}
IMAGE = (480, 640)
SAMPLED_S = 0.05


class Timer:
    """Time and memory of the stages of this process.

    Its highest resident memory counts the pages of files that are mapped, which the kernel gives
    up when others need them; its own memory does not.
    """

    def __init__(self, device: str):
        self.on_gpu = torch.device(device).type == "cuda"
        self.stages: dict[str, dict[str, float]] = {}
        self._own = 0
        threading.Thread(target=self._sample, daemon=True).start()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what happens inside."""
        self._own = _own_bytes()
        start = time.perf_counter()
        yield
        found = {
            "seconds": time.perf_counter() - start,
            "peak_gb": _status("VmHWM") / GB,
            "own_gb": self._own / GB,
        }
        if self.on_gpu:
            found["gpu_gb"] = torch.cuda.max_memory_allocated() / GB
        self.stages[name] = found
        told = ", ".join(f"{key.removesuffix('_gb')} {value:.1f}" for key, value in found.items())
        print(f"{name}: {told}", flush=True)

    def _sample(self) -> None:
        while True:
            self._own = max(self._own, _own_bytes())
            time.sleep(SAMPLED_S)


def _own_bytes() -> int:
    return _status("RssAnon")


def _status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def write(options: argparse.Namespace, timer: Timer) -> None:
    """Model and CLIP, unless they are there."""
    world = WORLDS[options.size]
    with timer.stage("write"):
        write_clip(options.dir / "clip", world)
        partial = options.dir / "released.partial"
        write_released(partial, world, options.dir / "clip", options.dtype)
        partial.rename(options.dir / "released")


def load(options: argparse.Namespace, timer: Timer) -> None:
    """Load the model and, if that is asked for, ask it.

    A CPU answers in float32 from weights that stay in 16 bits, as merging does: many compute in
    16 bits several times more slowly.
    """
    from benchmarks.random_read import questions, random_image
    from model import load_read
    from model.loading.upcast import float32_linears, upcast_small

    with timer.stage("load"):
        reader = load_read(
            options.dir / "released",
            dtype=options.dtype,
            device=options.device,
            sam=WORLDS[options.size].sam,
        )
    if "ask" in options.steps:
        image, question = random_image(*IMAGE, seed=0), questions(1)[0]
        with timer.stage("ask"), ExitStack() as held:
            if not timer.on_gpu:
                upcast_small(reader.model)
                held.enter_context(float32_linears(reader.model))
            answer = reader.segment(image, question, answer=POSITIVE_ANSWER)
        if len(answer.segments) != 1:
            raise InputError(f"one mask was expected, there are {len(answer.segments)}")


def run(options: argparse.Namespace, timer: Timer) -> None:
    """A run folder whose checkpoint fits the model."""
    shutil.rmtree(options.dir / "run", ignore_errors=True)
    world, folder = WORLDS[options.size], options.dir / "released"
    with timer.stage("checkpoint"):
        write_run(options.dir / "run", folder, options.dir / "clip", world, options.dtype)


def merge(options: argparse.Namespace, timer: Timer) -> None:
    """Merge that run; the merged model is loaded and has to answer as the run does."""
    from merge_lora_weight import merge_run
    from utils.cli.options import MergeOptions

    with timer.stage("merge"):
        merge_run(MergeOptions(exp_dir=str(options.dir / "run")))


def measured(step: Callable, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run a step in a process of its own; what its stages took."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_child, args=(step, options, theirs))
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        process.join()
        killed = " (killed: out of memory?)" if process.exitcode == -9 else ""
        raise InputError(f"{step.__name__} ended with {process.exitcode}{killed}") from None
    process.join()
    if isinstance(found, str):
        raise InputError(f"{step.__name__}: {found}")
    return found


def _child(step: Callable, options: argparse.Namespace, pipe: Connection) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)
    timer = Timer(options.device)
    try:
        step(options, timer)
    except InputError as error:
        pipe.send(str(error))
    else:
        pipe.send(timer.stages)
    pipe.close()


def measure(options: argparse.Namespace) -> dict:
    """All steps; returns the numbers.

    Raises:
        InputError: a step failed, or the disk is too small.
    """
    there = (options.dir / "released").is_dir()
    needed, free = DISK[options.size], free_bytes(options.dir)
    if free < needed and not there:
        raise InputError(
            f"{options.dir} has {free / GB:.0f} GB free and {needed / GB:.0f} are needed; name "
            "another folder with --dir"
        )
    stages = {} if there else measured(write, options)
    if "load" in options.steps or "ask" in options.steps:
        stages |= measured(load, options)
    if "merge" in options.steps:
        stages |= measured(run, options)
        stages |= measured(merge, options)
    return {
        "size": options.size,
        "device": output.device_name(options.device),
        "dtype": options.dtype,
        "cores": os.cpu_count(),
        "memory_gb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GB,
        "threads": options.threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "stages": stages,
    }


def page(result: dict) -> str:
    """The page for `results/`."""
    on_gpu = any("gpu_gb" in stage for stage in result["stages"].values())
    names = ["seconds", "peak_gb", "own_gb"] + ["gpu_gb"] * on_gpu
    heads = ["time [s]", "peak [GB]", "without mapped files [GB]"] + ["GPU [GB]"] * on_gpu
    rows = [
        [name, *(f"{stage[key]:.1f}" for key in names)] for name, stage in result["stages"].items()
    ]
    return output.page(
        f"# Full size: {result['size']}",
        f"Printed by `python -m benchmarks.full_size --size {result['size']} --dtype "
        f"{result['dtype']}` on {result['device']}, {result['cores']} cores, "
        f"{result['threads']} threads, {result['memory_gb']:.1f} GB of memory, PyTorch "
        f"{result['torch']}. Random weights in the released layout. Peak: the highest resident "
        "memory of the process so far, with the pages of mapped weight files, which the kernel "
        "takes back when it needs them. On a CPU the question is answered in float32 from weights "
        "that stay in 16 bits, as merging does.",
        output.table(["step", *heads], rows),
    )


@cli
def main(argv: list[str] | None = None) -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.full_size", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--size", choices=sorted(WORLDS), default="7b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="bf16")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="what is measured")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    parser.add_argument("--dir", type=Path, help="where models are written; none: a new folder")
    parser.add_argument("--keep", action="store_true", help="leave them there")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args(argv)
    made = options.dir is None
    options.dir = Path(tempfile.mkdtemp(prefix="full_size_")) if made else options.dir.resolve()
    try:
        result = measure(options)
    finally:
        if not options.keep:
            for name in ("released", "released.partial", "clip", "run"):
                shutil.rmtree(options.dir / name, ignore_errors=True)
            if made:
                shutil.rmtree(options.dir, ignore_errors=True)
    output.save(options.out, "full_size", page(result), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())

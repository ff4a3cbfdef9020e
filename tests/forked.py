"""Trainings in forked processes: real ranks, without the seconds that importing everything takes.

The processes are forked from a server that has imported it all.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from tqdm import tqdm

import train_read
from utils.process.free_port import free_port
from utils.training import engine
from utils.training.checkpoint import LATEST, CheckpointStore

LONGEST_WAIT_S = 120
OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["train_read", "torch.utils.tensorboard", "pytest", "deepspeed.runtime.zero.stage_1_and_2"]
    + ["deepspeed.runtime.zero.stage3"]  # what DeepSpeed loads late
    + ["deepspeed.runtime.zero.muon.original_muon", "tests.conftest"]
)


def run(given: list[str], said: Path, launched: dict[str, str]) -> None:
    """What a forked process does."""
    torch.set_num_threads(1)
    for name in OF_A_LAUNCHER:  # of the tests before this one, whose port is taken
        os.environ.pop(name, None)
    os.environ.update(launched)
    engine.KEPT_WHOLE = 0  # the model is so small that ZeRO-3 would spread nothing
    multiprocessing.set_start_method("fork", force=True)  # as in a training started by hand
    # tqdm's lock is shared with forked processes: one killed inside would keep it for ever.
    tqdm.set_lock(threading.RLock())
    with open(said, "a") as file, redirect_stdout(file), redirect_stderr(file):
        code = 1
        try:
            code = train_read.main(given)
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            file.flush()
            os._exit(code)


def start(preset: Path, name: str, *flags: str) -> BaseProcess:
    """One process; what it says goes to NAME.txt beside the preset."""
    (process,) = start_ranks(preset, name, 1, *flags)
    return process


def start_ranks(preset: Path, name: str, world: int, *flags: str) -> list[BaseProcess]:
    """The ranks of one run, on this machine."""
    given = ["--config", str(preset), f"--exp_name={name}", *flags]
    said = preset.parent / f"{name}.txt"
    group = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = []
    for rank in range(world):
        launched = {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}
        processes.append(SERVER.Process(target=run, args=(given, said, launched)))
        processes[-1].start()
    return processes


def finish(process: BaseProcess) -> int | None:
    """Exit code of a process, awaited; one that hangs is killed."""
    process.join(LONGEST_WAIT_S)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def train(preset: Path, name: str, world: int, *flags: str) -> None:
    """A run from its begin to its end."""
    codes = [finish(process) for process in start_ranks(preset, name, world, *flags)]
    assert codes == [0] * world, (preset.parent / f"{name}.txt").read_text()[-3000:]


def weights(store: CheckpointStore, pointer: str = LATEST) -> dict[str, torch.Tensor]:
    """The trained parts in the checkpoint that `pointer` names."""
    return get_fp32_state_dict_from_zero_checkpoint(
        str(store.folder), tag=store.load(pointer).tag, exclude_frozen_parameters=True
    )

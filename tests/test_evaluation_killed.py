"""A generated evaluation by two processes, killed again and again: nothing is lost or asked twice.

The processes are forked from this one, so that a start costs no imports.
"""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tqdm import tqdm

import test_read
from dataset.toy.world import write_world
from utils.evaluation.predictions import shard_path
from utils.files import read_lines

pytestmark = pytest.mark.slow

KILLS = 20
WORLD = 2
SET = "fprefcoco|train"


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("toy"), 2400, 1, ["correct_refer_seg"])


def arguments(model: Path, data: Path, folder: Path, process: int) -> list[str]:
    flags = {
        "--pretrained_model_path": model,
        "--dataset_dir": data,
        "--val_dataset": SET,
        "--vis_save_path": folder,
        "--max_new_tokens": 6,
        "--batch_questions": 6,
        "--world_size": WORLD,
        "--process_num": process,
    }
    return [str(part) for pair in flags.items() for part in pair]


def run(given: list[str], said: str = os.devnull) -> None:
    """What a forked process does; `said`: the file for what it prints."""
    torch.set_num_threads(1)
    # tqdm's lock is shared with forked processes: one killed inside would keep it for ever.
    tqdm.set_lock(threading.RLock())
    with open(said, "w") as file, redirect_stdout(file), redirect_stderr(file):
        code = test_read.main(given)
        file.flush()
        os._exit(code)


def start(model: Path, data: Path, folder: Path) -> list:
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=run, args=(arguments(model, data, folder, number),))
        for number in range(WORLD)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes: list) -> list[int]:
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def lines_in(folder: Path) -> list[dict]:
    """Every line of every process, in the order of the questions."""
    found = [line for n in range(WORLD) for line in read_lines(shard_path(folder, n, WORLD))]
    return sorted(found, key=lambda line: (line["item"], line["number"]))


def bytes_in(folder: Path) -> int:
    paths = [shard_path(folder, number, WORLD) for number in range(WORLD)]
    return sum(path.stat().st_size for path in paths if path.exists())


def wait_until(reached, processes: list) -> None:
    while not reached() and any(process.is_alive() for process in processes):
        time.sleep(0.002)


def test_killed_at_twenty_moments(micro_merged, toy, tmp_path):
    torch.set_num_threads(1)
    whole = tmp_path / "whole"
    assert finish(start(micro_merged, toy, whole)) == [0, 0]
    expected, size = lines_in(whole), bytes_in(whole)
    assert len({(line["item"], line["number"]) for line in expected}) == len(expected) > 300

    folder, rng, interrupted = tmp_path / "killed", np.random.default_rng(7), 0
    # Half of the kills come when so much is written, the others at any time after the start.
    moments = sorted(rng.uniform(0, 0.9 * size, KILLS // 2))
    written = partial(bytes_in, folder)
    for number in range(KILLS):
        processes = start(micro_merged, toy, folder)
        if number % 2:
            until = moments[number // 2]
            wait_until(lambda until=until: written() >= until, processes)
        else:
            until = time.monotonic() + rng.uniform(0, 0.5)
            # On a fast machine no later than when a tenth is left.
            wait_until(
                lambda until=until: time.monotonic() >= until or written() >= 0.9 * size, processes
            )
        interrupted += any(process.is_alive() for process in processes)
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
        finish(processes)
    assert interrupted == KILLS
    assert 0 < bytes_in(folder) < size
    assert finish(start(micro_merged, toy, folder)) == [0, 0]
    assert lines_in(folder) == expected
    assert test_read.main(["--cmd", "metrics", "--vis_save_path", str(folder)]) == 0
    assert test_read.main(["--cmd", "metrics", "--vis_save_path", str(whole)]) == 0
    assert (folder / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()


def test_a_second_evaluation_in_the_folder_is_refused(micro_merged, toy, tmp_path):
    """It asks nothing, says why in one line, and the first one is whole."""
    torch.set_num_threads(1)
    fork, folder = multiprocessing.get_context("fork"), tmp_path / "out"
    first = start(micro_merged, toy, folder)
    wait_until(lambda: bytes_in(folder) > 0, first)
    given = arguments(micro_merged, toy, folder, 1)
    alone = [*given[:-4], "--no_resume"]
    for number, second in enumerate((given, alone)):
        said = tmp_path / f"second_{number}.txt"
        process = fork.Process(target=run, args=(second, str(said)))
        process.start()
        assert finish([process]) == [2]
        assert all(process.is_alive() for process in first)
        *_, told = said.read_text().splitlines()
        assert f"predictions folder {folder} is in use by process {first[1].pid} on " in told or (
            f"predictions folder {folder} is in use by process {first[0].pid} on " in told
        )
        assert "another --vis_save_path" in told and "Traceback" not in said.read_text()
    code = test_read.main(["--cmd", "metrics", "--vis_save_path", str(folder)])
    assert code == 2
    assert finish(first) == [0, 0]
    asked = [(line["item"], line["number"]) for line in lines_in(folder)]
    assert len(set(asked)) == len(asked)
    assert test_read.main(["--cmd", "metrics", "--vis_save_path", str(folder)]) == 0
    assert not list(folder.glob("*.lock"))

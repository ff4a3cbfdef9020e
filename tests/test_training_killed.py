"""A training killed again and again, also while it saves, ends as one that nobody disturbed."""

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.forked import LONGEST_WAIT_S, finish, start, weights
from utils.errors import InputError
from utils.files import read_lines
from utils.training.checkpoint import BEST, LATEST, CheckpointStore
from utils.training.run_log import METRICS_FILE

pytestmark = pytest.mark.slow

KILLS = 20
STEPS, STEPS_PER_EPOCH = 54, 6


def newest(store: CheckpointStore) -> int:
    """Step of the newest complete checkpoint; 0 if there is none (yet)."""
    try:
        state = store.load(LATEST)
    except InputError:  # replaced and deleted between two reads
        return newest(store)
    return state.step if state else 0


def is_saving(store: CheckpointStore) -> bool:
    """Whether a checkpoint is there that is not complete."""
    reached = newest(store)
    return any(int(path.name[5:]) > reached for path in store.folder.glob("step_*"))


def wait_until(reached, process: BaseProcess) -> None:
    started = time.monotonic()
    while process.is_alive() and not reached():
        assert time.monotonic() - started < LONGEST_WAIT_S
        time.sleep(0.001)


def test_killed_at_twenty_moments(write_preset, tmp_path):
    preset = write_preset(
        epochs=STEPS // STEPS_PER_EPOCH,
        steps_per_epoch=STEPS_PER_EPOCH,
        grad_accumulation_steps=1,
        batch_size=1,
        workers=0,
        save_every=1,
        keep_checkpoints=2,
    )
    runs = tmp_path / "runs"
    assert finish(start(preset, "whole")) == 0, (tmp_path / "whole.txt").read_text()[-2000:]

    store = CheckpointStore(runs / "killed" / "ckpt_model")
    rng, while_saving, reached = np.random.default_rng(5), 0, [0]
    for number in range(KILLS):
        process, before = start(preset, "killed"), newest(store)
        further = before + int(rng.integers(0, 4))
        if number % 2:
            wait_until(lambda least=further: newest(store) >= least and is_saving(store), process)
            time.sleep(float(rng.uniform(0, 0.02)))
        else:
            until = time.monotonic() + float(rng.uniform(0, 1.5))
            wait_until(
                lambda until=until, most=further + 1: (
                    time.monotonic() >= until or newest(store) >= most
                ),
                process,
            )
        assert process.is_alive(), (tmp_path / "killed.txt").read_text()[-2000:]
        os.kill(process.pid, signal.SIGKILL)
        assert finish(process) == -signal.SIGKILL
        while_saving += is_saving(store)
        reached.append(newest(store))
        if reached[-1]:
            assert weights(store, LATEST).keys() == weights(store, BEST).keys()
    assert reached == sorted(reached) and 0 < reached[-1] < STEPS
    assert while_saving >= 3
    sys.stdout.write(f"steps at the kills: {reached}, {while_saving} while saving\n")

    assert finish(start(preset, "killed")) == 0, (tmp_path / "killed.txt").read_text()[-2000:]
    whole = CheckpointStore(runs / "whole" / "ckpt_model")
    for pointer in (LATEST, BEST):
        assert store.load(pointer) == whole.load(pointer)
        expected, found = weights(whole, pointer), weights(store, pointer)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert "inv_freq" in name or torch.equal(value, found[name]), name
    lines = read_lines(runs / "killed" / METRICS_FILE)
    assert lines == read_lines(runs / "whole" / METRICS_FILE)
    assert [line["step"] for line in lines] == list(range(6, STEPS + 1, STEPS_PER_EPOCH))


def test_a_signal_saves_and_ends(write_preset, tmp_path):
    """Also with processes that load images, and with the signal sent to them too."""
    preset = write_preset(steps_per_epoch=40, epochs=1, warmup_steps=2, workers=0)
    assert finish(start(preset, "whole", "--no_eval")) == 0
    store = CheckpointStore(tmp_path / "runs" / "stopped" / "ckpt_model")
    said = tmp_path / "stopped.txt"
    for number, workers in ((signal.SIGTERM, 1), (signal.SIGUSR1, 0)):
        before = newest(store)
        process = start(preset, "stopped", "--no_eval", f"--workers={workers}", "--save_every=5")
        wait_until(lambda before=before: newest(store) > before, process)
        for member in (*children(process.pid), process.pid):
            os.kill(member, number)
        assert finish(process) == 143, said.read_text()[-2000:]
        assert before < newest(store) < 40
        text = said.read_text()
        assert f"stopped by {signal.Signals(number).name} after step {newest(store)}" in text
        assert "Traceback" not in text
    assert finish(start(preset, "stopped", "--no_eval")) == 0
    whole = weights(CheckpointStore(tmp_path / "runs" / "whole" / "ckpt_model"), LATEST)
    for name, value in weights(store, LATEST).items():
        assert "inv_freq" in name or torch.equal(value, whole[name]), name


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_run_folder_in_use_is_refused(write_preset, tmp_path):
    preset = write_preset(steps_per_epoch=400, epochs=1, workers=1)
    first = start(preset, "shared", "--no_eval")
    lock = tmp_path / "runs" / "shared" / "run.lock"
    wait_until(lambda: lock.exists() and lock.read_text(), first)
    for flags in ((), ("--eval_only",)):
        assert finish(start(preset, "shared", *flags)) == 2
        said = (tmp_path / "shared.txt").read_text()
        assert f"is in use by process {first.pid} on " in said
    events = (tmp_path / "runs" / "shared").glob
    wait_until(lambda: list(events("events.*")), first)
    wait_until(lambda: children(first.pid), first)
    (loader,) = children(first.pid)
    os.kill(first.pid, signal.SIGKILL)
    assert finish(first) == -signal.SIGKILL
    gone = time.monotonic() + 10
    while Path(f"/proc/{loader}").exists():
        assert time.monotonic() < gone, "the process that loads images outlives its training"
        time.sleep(0.05)
    assert finish(start(preset, "shared", "--no_eval", "--max_steps=2")) == 0

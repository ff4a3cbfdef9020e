"""Training as a user starts it: the `deepspeed` launcher, two ranks, a kill, `--auto_resume`."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

import train_read
from dataset.reason_seg import ReasonSegTrain
from dataset.sampling import SamplingOptions
from model.loading.from_options import build_model
from utils.cli import parser
from utils.cli.options import TrainOptions
from utils.files import read_lines
from utils.training.checkpoint import BEST, LATEST, CheckpointStore
from utils.training.run_log import METRICS_FILE

pytestmark = pytest.mark.slow

REPOSITORY = Path(train_read.__file__).parent
STEPS, STEPS_PER_EPOCH = 12, 3
LONGEST_WAIT_S = 150


def started(command: list[str], **variables: str) -> subprocess.Popen:
    """A command with this Python first in its path, its output in one pipe."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    }
    environment |= {"OMP_NUM_THREADS": "1", **variables}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def launched(preset: Path, *flags: str) -> subprocess.Popen:
    """`deepspeed --num_gpus 2 train_read.py` on a free port."""
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2"]
    port = ["--master_port", str(random.randint(20000, 40000))]
    return started([*launcher, *port, str(REPOSITORY / "train_read.py"), "--config", str(preset),
                    *flags])  # fmt: skip


def kill_all(process: subprocess.Popen) -> None:
    """kill -9 for the launcher and everything it started."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in reversed(family):
        if member.is_running():
            member.kill()
    process.communicate()


def wait_for(store: CheckpointStore, process: subprocess.Popen) -> None:
    """Until the first checkpoint is complete."""
    started = time.monotonic()
    while store.load(LATEST) is None:
        if process.poll() is not None or time.monotonic() - started > LONGEST_WAIT_S:
            process.kill()
            pytest.fail(f"no checkpoint was written:\n{process.communicate()[0][-3000:]}")
        time.sleep(0.05)


def weights(store: CheckpointStore, pointer: str) -> dict[str, torch.Tensor]:
    return get_fp32_state_dict_from_zero_checkpoint(
        str(store.folder), tag=store.load(pointer).tag, exclude_frozen_parameters=True
    )


def uneven_seed(data: Path) -> int:
    """A seed with steps in which one rank has masks and the other has none (one image each)."""

    def has_mask(source: ReasonSegTrain, index: int) -> bool:
        return any(source.sample(index).exists)

    for seed in range(100):
        source = ReasonSegTrain(data, settings=SamplingOptions(seed=seed))
        uneven = [has_mask(source, 2 * i) != has_mask(source, 2 * i + 1) for i in range(STEPS)]
        if any(uneven[:3]) and sum(uneven) >= 3:
            return seed
    raise AssertionError("no such seed")


def test_two_ranks_killed_and_resumed(write_preset, micro_data, tmp_path):
    """What two ranks train after a kill equals one rank that saw the same images undisturbed."""
    settings = {
        "epochs": STEPS // STEPS_PER_EPOCH,
        "steps_per_epoch": STEPS_PER_EPOCH,
        "batch_size": 1,
        "seed": uneven_seed(micro_data),
        "save_every": 1,
        "lr": 1e-4,
    }
    preset = write_preset(**settings, grad_accumulation_steps=1, workers=1)
    run_dir = tmp_path / "runs" / "read"
    store = CheckpointStore(run_dir / "ckpt_model")

    process = launched(preset)
    wait_for(store, process)
    delay = float(np.random.default_rng().uniform(0, 2))
    time.sleep(delay)
    kill_all(process)
    interrupted = store.load(LATEST)
    assert store.load(BEST) is not None
    scores = {line["step"]: line["ciou"] for line in read_lines(run_dir / METRICS_FILE)}

    process = launched(preset)
    output, _ = process.communicate(timeout=LONGEST_WAIT_S)
    assert process.returncode == 0, output[-3000:]
    finished = store.load(LATEST)
    assert finished.step == STEPS and finished.world == 2
    if interrupted.step < STEPS:
        assert "continuing from" in output, f"killed after {delay:.2f} s"
    lines = read_lines(run_dir / METRICS_FILE)
    assert [line["step"] for line in lines] == list(range(3, STEPS + 1, 3))
    for line in lines:
        assert line["questions"] == 5
        assert scores.get(line["step"], line["ciou"]) == pytest.approx(line["ciou"], abs=1e-6)
    assert store.load(BEST).score == finished.best_score == max(line["ciou"] for line in lines)

    # One rank with two micro steps draws the same images with the same dropout.
    alone = write_preset(**settings, grad_accumulation_steps=2, workers=0, exp_name="alone")
    assert train_read.main(["--config", str(alone)]) == 0
    reference = CheckpointStore(run_dir.parent / "alone" / "ckpt_model")
    one, other = weights(reference, LATEST), weights(store, LATEST)
    assert one.keys() == other.keys()
    start = weights_at_start(alone)
    moved = torch.cat([(one[name] - start[name]).flatten() for name in start])
    apart = torch.cat([(one[name] - other[name]).flatten() for name in start])
    assert moved.norm() > 0
    assert apart.norm() < 0.02 * moved.norm()
    told = read_lines(run_dir.parent / "alone" / METRICS_FILE)
    for line, expected in zip(lines, told, strict=True):
        assert line["ciou"] == pytest.approx(expected["ciou"], abs=2e-3)


def weights_at_start(preset: Path) -> dict[str, torch.Tensor]:
    """The trained parts as they are before the first step."""
    options = parser.load(TrainOptions, preset)
    torch.manual_seed(options.seed)
    model, _ = build_model(options.model, options.lora, options.sasp, options.losses)
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def on_two_nodes(preset: Path, *flags: str) -> list[subprocess.Popen]:
    """Two `torchrun` on this machine, as on two with one GPU each."""
    port = str(random.randint(20000, 40000))
    where = ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1"]
    command = [sys.executable, "-m", "torch.distributed.run", *where, "--master_port", port]
    training = [str(REPOSITORY / "train_read.py"), "--config", str(preset), *flags]
    return [started([*command, "--node_rank", str(node), *training]) for node in (0, 1)]


def test_a_signal_to_the_script_saves_and_two_nodes_go_on(write_preset, tmp_path):
    """`train_read.sh` under SIGTERM, alone in being signalled; `torchrun` on two nodes after it."""
    preset = write_preset(steps_per_epoch=400, epochs=1, workers=1)
    store = CheckpointStore(tmp_path / "runs" / "read" / "ckpt_model")
    script = ["bash", str(REPOSITORY / "train_read.sh"), "ReasonSeg", "2"]
    flags = ["--config", str(preset), "--no_eval", "--save_every=5"]
    process = started([*script, str(random.randint(20000, 40000)), *flags])
    wait_for(store, process)
    process.terminate()
    output, _ = process.communicate(timeout=LONGEST_WAIT_S)
    assert process.returncode == 143, output[-3000:]
    stopped = store.load(LATEST)
    assert output.count("stopped by") == 1 and f"after step {stopped.step}:" in output
    assert "Traceback" not in output and stopped.world == 2

    further = [f"--max_steps={stopped.step + 2}", "--no_eval"]
    nodes = on_two_nodes(preset, *further)
    said = [node.communicate(timeout=LONGEST_WAIT_S)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said[0][-3000:] + said[1][-3000:]
    assert "continuing from" in said[0] and "continuing from" not in said[1]
    finished = store.load(LATEST)
    assert (finished.step, finished.world) == (stopped.step + 2, 2)


def test_a_mistake_ends_the_launcher_with_its_code(write_preset):
    process = launched(write_preset(lr=-1, version="/nowhere"))
    output, _ = process.communicate(timeout=LONGEST_WAIT_S)
    assert process.returncode == 2
    assert output.count("error: --lr=-1") == 1 and output.count("error: --version=/nowhere") == 1
    assert "Traceback" not in output

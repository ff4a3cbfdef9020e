"""Ctrl-C as the terminal sends it, to the whole process group: one line, exit code 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.conftest import write_reason_seg

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LONGEST_WAIT_S = 150
OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def interrupt(tmp_path) -> Callable[..., str]:
    """Starts a command, sends SIGINT once its output holds a text; returns all of the output."""

    def run(command: list[str], until: str, seconds: float = 0.0) -> str:
        environment = {k: v for k, v in os.environ.items() if k not in OF_A_LAUNCHER}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        file = tmp_path / "output.txt"
        with file.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
                # A shell's background job ignores Ctrl-C, and so would everything below it.
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        family = psutil.Process(process.pid)
        started = time.monotonic()
        while until not in file.read_text("utf-8"):
            assert process.poll() is None, file.read_text("utf-8")[-3000:]
            assert time.monotonic() - started < LONGEST_WAIT_S
            time.sleep(0.02)
        time.sleep(seconds)
        members = family.children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(LONGEST_WAIT_S)
        finally:
            _, alive = psutil.wait_procs(members, timeout=10)
            for member in alive:
                member.kill()
            process.kill()
        said = file.read_text("utf-8")
        assert process.returncode == 130, said[-3000:]
        assert "Traceback" not in said and said.count("interrupted") == 1, said[-3000:]
        assert said.splitlines()[-1].startswith("interrupted"), said[-3000:]
        assert alive == []
        return said

    return run


@pytest.fixture
def train(write_preset) -> list[str]:
    preset = write_preset(steps_per_epoch=4000, epochs=1, workers=1)
    return ["--config", str(preset), "--no_eval"]


@pytest.fixture
def evaluate(micro_merged, tmp_path) -> list[str]:
    data = write_reason_seg(tmp_path / "data", {"val": 300})
    flags = ["--dataset_dir", str(data), "--val_dataset", "ReasonSeg|val", "--batch_questions", "1"]
    return ["--pretrained_model_path", str(micro_merged), *flags]


def test_training(interrupt, train, tmp_path):
    said = interrupt([sys.executable, "train_read.py", *train], "loss=", 0.2)
    assert f"the checkpoints in {tmp_path / 'runs' / 'read' / 'ckpt_model'} are complete" in said


def test_training_while_it_imports(interrupt, train):
    interrupt([sys.executable, "train_read.py", *train], "local_rank: 0", 0.4)


@pytest.mark.parametrize(("until", "seconds"), [("loss=", 0.2), ("local_rank: 0", 0.4)])
def test_training_on_two_ranks(interrupt, train, until, seconds):
    interrupt(["bash", "train_read.sh", "ReasonSeg", "2", "0", *train], until, seconds)


def test_evaluation(interrupt, evaluate, tmp_path):
    out = ["--vis_save_path", str(tmp_path / "out")]
    said = interrupt([sys.executable, "test_read.py", *evaluate, *out], "image/s", 0.1)
    assert "finished predictions are kept" in said


def test_evaluation_on_two_ranks(interrupt, evaluate, tmp_path):
    model, flags = evaluate[1], [*evaluate[2:], "--vis_save_path", str(tmp_path / "out")]
    interrupt(["bash", "test_read.sh", model, "2", *flags], "image/s", 0.1)


def test_analysis(interrupt, evaluate, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    interrupt([sys.executable, "analyze_read.py", *evaluate, *out], "image/s", 0.1)


def test_chat(interrupt, micro_merged):
    interrupt(["bash", "demo.sh", str(micro_merged)], "Image (path or URL)", 0.1)


def test_doctor(interrupt, evaluate):
    check = ["-m", "dataset.doctor", *evaluate[2:6], "--deep", "--workers", "2"]
    interrupt([sys.executable, *check], "%|", 0.0)

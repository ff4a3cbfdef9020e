"""`launch.py`: one command of several processes, which says what they say and ends as they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import local_gpus
from utils.errors import InputError

ROOT = Path(__file__).parents[1]

SAY = """
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""
"""Lines of two processes at once stay whole."""


@pytest.fixture
def launched(tmp_path, micro_merged, micro_data):
    """Starts two processes that run a given program under the name of an entry point."""

    def start(program: str, *flags: str, model: str = str(micro_merged)) -> subprocess.Popen:
        entry = tmp_path / "test_read.py"
        entry.write_text(
            "import os, signal, sys, time\n"
            f"sys.path.insert(0, {str(ROOT)!r})\nrank = int(os.environ['RANK'])\n{SAY}{program}"
        )
        command = [sys.executable, str(ROOT / "launch.py"), *flags, str(entry)]
        command += ["--pretrained_model_path", model, "--dataset_dir", str(micro_data)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    return start


def test_each_process_knows_its_place(launched):
    names = "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES"
    program = f"say(*[os.environ.get(name) for name in {names}], sys.argv[1])"
    process = launched(program, "--include", "localhost:5,3", "--master_port", "15990")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""
    assert sorted(out.splitlines()) == [
        f"{rank} {rank} 2 127.0.0.1 15990 5,3 --pretrained_model_path" for rank in (0, 1)
    ]


TWICE = """
from utils.cli.entry_point import cli
from utils.errors import InputError
@cli
def main():
    if rank in {ranks}:
        raise InputError("the disk is full")
    time.sleep(60)
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [(0, 1), (0,), (1,)], ids=["both", "first", "second"])
def test_a_mistake_is_told_once_with_its_code(launched, ranks):
    process = launched(TWICE.format(ranks=ranks), "--num_gpus", "2")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (2, "", "error: the disk is full\n")


def test_a_wrong_model_starts_nothing(launched, tmp_path):
    ran = tmp_path / "ran"
    for model, said in (("/nowhere", "does not exist"), ("some/model", "hub cannot be reached")):
        process = launched(f"open({str(ran)!r}, 'w')", "--num_gpus", "2", model=model)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2 and len(err.splitlines()) == 1
        assert err.startswith("error: ") and model in err and said in err
    assert not ran.exists()


def test_a_killed_process_is_named(launched):
    program = "if rank: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)"
    process = launched(program, "--num_gpus", "2")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 137
    assert err == "error: process 1 of 2 was ended by SIGKILL; was there enough memory?\n"


SAVES = """
def save(number, _):
    time.sleep(1.5)
    say(rank, "saved after", signal.Signals(number).name)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGUSR1, save)
say("ready")
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_request_to_stop_reaches_each_and_is_waited_for(launched, number):
    process = launched(SAVES, "--num_gpus", "2")
    assert [process.stdout.readline() for _ in (0, 1)] == ["ready\n"] * 2
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and err == ""
    assert sorted(out.splitlines()) == [f"{rank} saved after {number.name}" for rank in (0, 1)]


def test_nothing_is_left_when_the_launcher_is_killed(launched):
    process = launched("say(os.getpid())\ntime.sleep(60)", "--num_gpus", "2")
    ranks = [int(process.stdout.readline()) for _ in (0, 1)]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


def test_gpus_in_the_syntax_of_deepspeed():
    assert local_gpus("localhost:0,1") == "0,1" and local_gpus("localhost") == ""
    assert local_gpus("host1:0,1@host2:0") is None and local_gpus("host1:0") is None
    for wrong in ("", "localhost:", "localhost:a", "localhost:0,0", "a b", "localhost:0@"):
        with pytest.raises(InputError, match="names no GPUs"):
            local_gpus(wrong)

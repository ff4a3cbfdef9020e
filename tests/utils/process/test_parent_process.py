"""Helper processes are gone soon after the process that started them was killed.

Each case is a process of its own, as a user starts it, whose helpers are busy when it is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
LONGEST_END_S = 10

LOADER = """
from types import SimpleNamespace
from dataset.loader import micro_batches

class Batch(SimpleNamespace):
    dropped = 0

class Endless:
    def sample(self, index):
        return "x" * 1_000_000  # more than a pipe holds: the helper has something left to send

order = {"micro_steps": (0, 1000), "batch_size": 1, "rank": 0, "world_size": 1}
found = micro_batches(Endless(), lambda samples: Batch(text=samples), workers=2, **order)
next(found)
print("ready", flush=True)
time.sleep(1000)
"""
DOCTOR = """
from dataset.doctor.decode import CHUNK, Decoder

def work(job, read):
    if job == 0:
        print("ready", flush=True)
    time.sleep(0.2)
    return ()

list(Decoder(workers=2, show=False).run(work, list(range(1000 * CHUNK)), "jobs"))
"""
IMAGES = """
from tiny.images import draw_scenes

scenes = draw_scenes(1_000_000, seed=0)
next(scenes)
print("ready", flush=True)
time.sleep(1000)
"""


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("code", [LOADER, DOCTOR, IMAGES], ids=["loader", "doctor", "images"])
def test_helpers_end_with_a_killed_parent(code):
    process = subprocess.Popen(
        [sys.executable, "-c", f"import time\n{code}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    helpers: list[int] = []
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(1)  # the helpers fill their pipes
        helpers = children(process.pid)
        assert len(helpers) == 2 and all(map(is_running, helpers))
        process.kill()
        process.wait()
        deadline = time.monotonic() + LONGEST_END_S
        while any(map(is_running, helpers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in helpers if is_running(pid)]
    finally:
        for pid in helpers:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()

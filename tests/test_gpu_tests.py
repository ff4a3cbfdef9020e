"""Which tests see a GPU: those marked `gpu`, when they are asked for, and no others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import wants_gpu

ROOT = Path(__file__).parents[1]
FAKE_PYTHON = """#!/usr/bin/env bash
[[ "$1" == -c ]] && exit "$NO_GPU"
echo "CUDA=${CUDA_VISIBLE_DEVICES-all} $*" >> "$LOG"
[[ "$*" == *"-m gpu"* ]] && exit "$OF_GPU_TESTS"
exit 0
"""
SPREAD = "-m pytest -n logical --maxprocesses 4 --dist loadfile"


@pytest.mark.parametrize(
    ("markers", "wanted"),
    [("", False), ("gpu", True), ("not gpu", False), ("slow", False), ("slow or gpu", True)]
    + [("not slow", False), ("gpu and not slow", True)],
)
def test_when_gpus_are_wanted(markers, wanted):
    assert wants_gpu(markers) == wanted


def test_no_test_sees_a_gpu():
    """This one is not marked."""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()


@pytest.mark.slow
def test_marked_tests_are_left_out(tmp_path):
    """Without -m gpu everywhere, with it where there is no GPU; so nothing is left to run here."""
    marked = ["tests/golden/test_gpu.py", "tests/test_training_gpu.py"]
    for asked in ([], ["-m", "gpu"]):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *marked, *asked],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        assert done.returncode == 5, done.stdout
        assert "deselected" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("no_gpu", "of_gpu_tests", "given", "code", "calls"),
    [
        (1, 0, "-k sasp", 0, [f"CUDA= {SPREAD} -k sasp"]),
        (0, 0, "-k sasp", 0, ["CUDA=all -m pytest -m gpu -k sasp", f"CUDA= {SPREAD} -k sasp"]),
        (0, 5, "-k sasp", 0, ["CUDA=all -m pytest -m gpu -k sasp", f"CUDA= {SPREAD} -k sasp"]),
        (0, 1, "-k sasp", 1, ["CUDA=all -m pytest -m gpu -k sasp"]),
        (1, 0, "--fast", 0, [f"CUDA= {SPREAD} -m not slow"]),
        (
            0,
            0,
            "--fast -k sasp",
            0,
            ["CUDA=all -m pytest -m gpu and not slow -k sasp"]
            + [f"CUDA= {SPREAD} -m not slow -k sasp"],
        ),
    ],
)
def test_the_script(tmp_path, no_gpu, of_gpu_tests, given, code, calls):
    """What it calls, with programs that only write it down."""
    shutil.copy(ROOT / "run_tests.sh", tmp_path)
    programs = tmp_path / "bin"
    for folder in ("utils", "tests", "bin"):
        (tmp_path / folder).mkdir()
    (tmp_path / "utils" / "venv.sh").write_text("make_venv() { :; }\n")
    (tmp_path / "tests" / "browser.sh").write_text("get_browser() { :; }\n")
    noted = '#!/bin/sh\necho "$(basename "$0") $*" >> "$LOG"\n'
    for name, text in (("python", FAKE_PYTHON), ("ruff", noted), ("mypy", noted)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    fakes = {"NO_GPU": str(no_gpu), "OF_GPU_TESTS": str(of_gpu_tests), "LOG": str(tmp_path / "log")}
    done = subprocess.run(
        ["bash", str(tmp_path / "run_tests.sh"), *given.split()],
        env={**kept, **fakes, "PATH": f"{programs}:{os.environ['PATH']}"},
        timeout=60,
    )
    assert done.returncode == code
    lint = ["ruff check .", "ruff format --check .", "mypy "]
    assert (tmp_path / "log").read_text().splitlines() == lint + calls

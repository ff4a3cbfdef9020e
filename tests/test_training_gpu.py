"""The commands on a GPU: train in bf16 with DeepSpeed, continue, merge, evaluate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model import load_read
from utils.files import read_lines
from utils.training.run_log import METRICS_FILE

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
ROOT = Path(__file__).parents[1]


def run(*command: str) -> str:
    """What a command says; it has to end well."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env={k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("stage", [2, 3])
def test_from_training_to_evaluation(write_preset, tmp_path, micro_data, stage):
    preset = str(write_preset(precision="bf16", zero_stage=stage))
    run("train_read.py", "--config", preset, "--max_steps=2")
    told = run("train_read.py", "--config", preset)
    folder = tmp_path / "runs" / "read"
    assert f"continuing from {folder / 'ckpt_model'}" in told
    lines = read_lines(folder / METRICS_FILE)
    assert [line["step"] for line in lines] == [2, 4]
    assert all(0 <= line["ciou"] <= 1 for line in lines)

    run("merge_lora_weight.py", "--exp_dir", str(folder))
    reader = load_read(folder / "merged")
    assert reader.model.device.type == "cuda" and reader.model.dtype == torch.bfloat16

    out = str(tmp_path / "predictions")
    given = ["--pretrained_model_path", str(folder / "merged"), "--dataset_dir", str(micro_data)]
    told = run("test_read.py", *given, "--vis_save_path", out, "--eval_mode", "both", "--no_report")
    assert "metrics: " in told

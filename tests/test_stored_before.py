"""A run of the code as it was earlier: it merges, answers, counts its loss and goes on as then.

`tests/data/before` holds the run (2 steps, DeepSpeed's files with the optimiser's state), the
config.json of its merged folder, and the numbers that the earlier code gave.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import merge_lora_weight
import train_read
from dataset.collate import collate
from model import Reader, load_read
from tests.conftest import write_reason_seg
from tests.stored_before import BEFORE, QUESTION, trial_image, write_parts
from utils.protocol.batch import Sample
from utils.protocol.conversation import POSITIVE_ANSWER, build_prompt, user_turn


@pytest.fixture
def run(tmp_path) -> Path:
    """The run folder where its configuration says, with the parts and data it was trained from."""
    (tmp_path / "parts").mkdir()
    write_parts(tmp_path / "parts")
    write_reason_seg(tmp_path / "data", {"train": 6, "val": 2})
    folder = shutil.copytree(BEFORE / "run", tmp_path / "run")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("FOLDER", str(tmp_path)))
    return folder


def merged(run: Path) -> Path:
    given = ["--exp_dir", str(run), "--checkpoint", "latest"]
    assert merge_lora_weight.main(given) == 0
    return run / "merged"


def loss_of(reader: Reader) -> float:
    """Of a batch of one sample: the trial image, its red block as the truth."""
    mask = np.zeros((1, 45, 60), np.uint8)
    mask[0, 10:30, 15:40] = 1
    prompt = build_prompt([(user_turn(QUESTION), POSITIVE_ANSWER)])
    sample = Sample("trial", trial_image(), [prompt], mask, [True])
    with torch.no_grad():
        return float(reader.model(collate([sample], reader.tokenizer)).loss)


def assert_as_before(folder: Path, prefix: str, tolerance: float) -> None:
    """Answers and loss of a merged folder are the stored ones whose names begin with `prefix`."""
    reader = load_read(folder)
    answer = reader.segment(trial_image(), QUESTION, max_new_tokens=12)
    (segment,) = reader.segment(trial_image(), QUESTION, answer=POSITIVE_ANSWER).segments
    with np.load(BEFORE / "numbers.npz") as stored:
        before = {name: stored[prefix + name] for name in stored.files if prefix + name in stored}
    assert answer.token_ids == before["token_ids"].tolist()
    assert segment.point_labels.tolist() == before["labels"].tolist()
    for name in ("logits", "similarity", "points", "score"):
        np.testing.assert_allclose(
            getattr(segment, name), before[name], rtol=tolerance, atol=tolerance, err_msg=name
        )
    assert loss_of(reader) == pytest.approx(float(before["loss"]), rel=tolerance)


def test_it_merges_and_gives_the_same_numbers(run):
    folder = merged(run)
    assert_as_before(folder, "", 1e-4)
    config = json.loads((BEFORE / "merged_config.json").read_text())
    assert json.loads((folder / "config.json").read_text()).items() >= config.items()
    shutil.copy(BEFORE / "merged_config.json", folder / "config.json")
    assert_as_before(folder, "", 1e-4)


@pytest.mark.slow
def test_it_goes_on_as_it_did(run, capsys):
    given = ["--config", str(run / "config.yaml"), "--auto_resume", "--max_steps", "4"]
    assert train_read.main(given) == 0
    assert "continuing from" in capsys.readouterr().out
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4]
    assert_as_before(merged(run), "resumed_", 1e-3)

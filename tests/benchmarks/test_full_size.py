"""The benchmark of full size, on a tiny model: each step runs and is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import full_size
from benchmarks.full_size_world import WORLDS, write_released
from model.loading.weights import tensor_shapes, weight_files
from tests.forked import OF_A_LAUNCHER
from utils.protocol.tokenization import load_tokenizer

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.mark.slow
def test_all_steps(tmp_path, capsys, monkeypatch):
    for name in OF_A_LAUNCHER:  # its processes are no ranks of what this one trained before
        monkeypatch.delenv(name, raising=False)
    given = ["--size", "tiny", "--dtype", "fp32", "--dir", str(tmp_path / "in"), "--threads", "1"]
    assert full_size.main([*given, "--keep", "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "full_size.json").read_text())
    assert list(result["stages"]) == ["write", "load", "ask", "checkpoint", "merge"]
    for stage in result["stages"].values():
        assert stage["seconds"] > 0 and stage["peak_gb"] > stage["own_gb"] > 0
    page = (tmp_path / "out" / "full_size.md").read_text()
    assert "| merge |" in page and page in capsys.readouterr().out
    merged = tmp_path / "in" / "run" / "merged"
    assert (merged / "model.safetensors").is_file()

    assert full_size.main([*given, "--steps", "load"]) == 0  # what is there is used again
    told = capsys.readouterr().out
    assert "| load |" in told and "| write |" not in told
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.slow
def test_a_failed_step_is_told(tmp_path, capsys):
    (tmp_path / "released").mkdir()
    assert full_size.main(["--size", "tiny", "--dir", str(tmp_path), "--steps", "load"]) == 2
    assert "load: no checkpoint at" in capsys.readouterr().err


def test_the_7b_folder_has_the_released_layout(tmp_path, monkeypatch):
    """Two shards with the released names and shapes; here without their values."""
    shards = {}
    monkeypatch.setattr(
        "benchmarks.full_size_world._weight",
        lambda name, shape, dtype: torch.empty(shape, dtype=dtype, device="meta"),
    )
    monkeypatch.setattr(torch, "save", lambda state, file: shards.update({file: state}))
    total = write_released(tmp_path / "7b", WORLDS["7b"], tmp_path / "clip", "bf16")
    released = json.loads((GOLDEN / "checkpoint_keys_7b.json").read_text())
    written = {
        name: list(value.shape) for state in shards.values() for name, value in state.items()
    }
    assert written == released
    assert [file.name for file in shards] == [
        "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin",
    ]  # fmt: skip
    assert total == pytest.approx(14.84e9, rel=1e-3)
    tokenizer = load_tokenizer(tmp_path / "7b")
    assert len(tokenizer) == 32003 and tokenizer.convert_tokens_to_ids("[SEG]") == 32000


def test_the_tiny_folder_is_a_released_one(tmp_path):
    write_released(tmp_path / "tiny", WORLDS["tiny"], tmp_path / "clip", "bf16")
    shapes = json.loads((GOLDEN / "released_tiny" / "shapes.json").read_text())
    files = weight_files(tmp_path / "tiny")
    assert len(files) == 2
    assert {name: shape for f in files for name, shape in tensor_shapes(f).items()} == shapes

"""The released 7B and 13B checkpoints have exactly our parameters: names and shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from model import ReadConfig, ReadForCausalLM

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SIZES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
    "13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40},
}


@pytest.mark.parametrize("name", SIZES)
def test_names_and_shapes_are_the_released_ones(name):
    released = json.loads((GOLDEN / f"checkpoint_keys_{name}.json").read_text())
    heads = SIZES[name]["hidden_size"] // 128
    config = ReadConfig(vocab_size=32003, num_attention_heads=heads, **SIZES[name])
    with torch.device("meta"):
        model = ReadForCausalLM(config)
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert ours == released

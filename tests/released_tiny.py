"""The tiny model of `tests/data/golden`, written again in the layout of a released checkpoint.

Its 20 MB of weights follow from a formula over names and shapes, so only those are stored. The
figures beside them were computed by the original implementation with these very weights.
"""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "data" / "golden"
CLIP = GOLDEN / "clip_tiny"
SAM = {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": [1]}
"""The checkpoint's configuration says nothing about SAM, as released ones do not."""

SMALL_SAM = {**SAM, "image_size": 128, "window_size": 4}
"""For tests that need no golden value: 64 times fewer cells."""

SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
ROTARY = "rotary_emb.inv_freq"


def formula_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weight of that name, float32."""
    seed = zlib.crc32(name.encode())
    values = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    if len(shape) == 1:
        bias = "bias" in name.rsplit(".", 1)[-1]
        values = 0.02 * values if bias else 1 + 0.02 * values
    else:
        values = values / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def released_weights() -> dict[str, torch.Tensor]:
    """All 205 tensors of the checkpoint, the rotary buffers of old files included."""
    shapes = json.loads((GOLDEN / "released_tiny" / "shapes.json").read_text())
    weights = {}
    for name, shape in shapes.items():
        if name.endswith(ROTARY):
            half = shape[0]
            weights[name] = 1.0 / 10000 ** (torch.arange(0, 2 * half, 2).float() / (2 * half))
        else:
            weights[name] = formula_weight(name, tuple(shape))
    return weights


def write_released(folder: Path) -> Path:
    """Write it as released ones are: two `.bin` shards with an index, slow tokenizer files."""
    source = GOLDEN / "released_tiny"
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.name != "shapes.json":
            shutil.copy(file, folder)
    index = json.loads((source / "pytorch_model.bin.index.json").read_text())["weight_map"]
    weights = released_weights()
    for shard in SHARDS:
        part = {name: weights[name] for name, place in index.items() if place == shard}
        torch.save(part, folder / shard)
    return folder


def fill_by_formula(model: torch.nn.Module) -> None:
    """Give every parameter and buffer of a module the weights of the formula, whatever its size."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and "vision_tower" not in name:
                value.copy_(formula_weight(name, tuple(value.shape)))

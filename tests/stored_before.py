"""The parts that the stored run in `tests/data/before` was trained from: weights by formula."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from model.read_model import ReadConfig, ReadForCausalLM
from model.sam import SamModel, sam_sizes
from tests.released_tiny import CLIP, GOLDEN, fill_by_formula

BEFORE = Path(__file__).parent / "data" / "before"
SAM = {
    "embed_dim": 8,
    "depth": 1,
    "num_heads": 2,
    "global_attn_indexes": [0],
    "image_size": 64,
    "prompt_dim": 16,
    "decoder_mlp_dim": 16,
}
QUESTION = "Please segment the red block in this image."


def write_parts(folder: Path) -> None:
    """Write `llava`, `clip` and `sam.pth`: a plain LLaVA, and what a run adds to it."""
    shutil.copytree(CLIP, folder / "clip")
    sam = SamModel(sam_sizes(SAM))
    fill_by_formula(sam)
    torch.save(sam.state_dict(), folder / "sam.pth")
    _write_llava(folder / "llava", folder / "clip")


def _write_llava(folder: Path, clip: Path) -> None:
    folder.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(GOLDEN / "released_tiny" / name, folder)
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 800,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "mm_hidden_size": 32,
    }
    model = ReadForCausalLM(ReadConfig(**sizes, out_dim=16, sam=SAM))
    fill_by_formula(model)
    added = ("model.visual_model.", "model.text_hidden_fcs.")
    state = {name: v for name, v in model.state_dict().items() if not name.startswith(added)}
    torch.save(state, folder / "pytorch_model.bin")
    config = {"model_type": "llava", "mm_vision_tower": str(clip), "pad_token_id": 0} | sizes
    (folder / "config.json").write_text(json.dumps(config))


def trial_image() -> np.ndarray:
    """uint8[45, 60, 3]: a red block on a ramp."""
    image = np.repeat(np.arange(60, dtype=np.uint8)[None, :, None], 45, axis=0).repeat(3, axis=2)
    image[10:30, 15:40] = (250, 40, 40)
    return image

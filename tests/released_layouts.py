"""Micro checkpoints of every released model, in the layouts that the original software writes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.conftest import MICRO_SAM, TOKENIZER, MicroParts
from tests.released_tiny import formula_weight

WORDS = 800
"""Size of the vocabulary without `[SEG]`, `<im_start>`, `<im_end>`."""

SIZES_7B = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SIZES_13B = {"hidden_size": 40, "intermediate_size": 96, "num_hidden_layers": 3}
STORES = ("bin shards", "one bin", "safetensors shards", "one safetensors")


@dataclass(frozen=True)
class Layout:
    """How a released folder is written.

    Args:
        name: of the folder.
        architecture: `architectures` of config.json.
        has_masks: SAM, the projection and the added tokens are inside.
        store: one of `STORES`.
        inv_freq: old rotary buffers are inside.
        tower: CLIP's weights are inside.
        dtype: of the stored weights.
        sizes: of the language model.
    """

    name: str
    architecture: str
    has_masks: bool
    store: str = "bin shards"
    inv_freq: bool = False
    tower: bool = False
    dtype: torch.dtype = torch.bfloat16
    sizes: tuple[tuple[str, int], ...] = tuple(SIZES_7B.items())

    def __str__(self) -> str:
        return self.name


_LLAVA, _SESAME, _READ = "LlavaLlamaForCausalLM", "SESAMEForCausalLM", "READForCausalLM"
_WIDE = tuple(SIZES_13B.items())
LAYOUTS = (
    Layout("llava-v1.5-7b", _LLAVA, False, inv_freq=True, tower=True, dtype=torch.float16),
    Layout("llava-v1.5-13b", _LLAVA, False, "safetensors shards", sizes=_WIDE),
    Layout("SESAME_minus", _SESAME, True, "one bin", inv_freq=True),
    Layout("SESAME", _SESAME, True, tower=True),
    Layout("READ-7B", _READ, True, inv_freq=True),
    Layout("READ-7B-safetensors", _READ, True, "safetensors shards", dtype=torch.float16),
    Layout("READ-7B-one-file", _READ, True, "one safetensors", dtype=torch.float32),
    Layout("READ-13B", _READ, True, "bin shards", True, True, sizes=_WIDE),
)


def config_of(layout: Layout, clip: Path) -> dict:
    """config.json as the original software leaves it: nothing about SAM or SasP."""
    values = json.loads((TOKENIZER / "config.json").read_text())
    values |= {
        "architectures": [layout.architecture],
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "mm_hidden_size": 16,
        "mm_vision_tower": str(clip),
        "torch_dtype": str(layout.dtype).removeprefix("torch."),
        "vocab_size": WORDS,
        **dict(layout.sizes),
    }
    for field in ("train_mask_decoder", "out_dim", "vision_tower"):
        values.pop(field)
    values["mm_use_im_start_end"] = layout.has_masks
    if layout.has_masks:
        out = {"out_dim": MICRO_SAM["prompt_dim"], "train_mask_decoder": True}
        values |= {"vocab_size": WORDS + 3, "vision_tower": str(clip), **out}
    return values


def weights_of(layout: Layout, clip: Path) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint, in the order of the original modules."""
    from model import ReadConfig, ReadForCausalLM

    values = config_of(layout, clip)
    fields = {k: values[k] for k in (*dict(layout.sizes), "num_attention_heads", "vocab_size")}
    config = ReadConfig(**fields, mm_hidden_size=16, out_dim=32, sam=MICRO_SAM)
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in ReadForCausalLM(config).state_dict().items()}
    if not layout.has_masks:
        ours = ("model.visual_model.", "model.text_hidden_fcs.")
        shapes = {k: v for k, v in shapes.items() if not k.startswith(ours)}
    if layout.inv_freq:
        half = fields["hidden_size"] // fields["num_attention_heads"] // 2
        for layer in range(fields["num_hidden_layers"]):
            shapes[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = (half,)
    if layout.tower:
        shapes["model.vision_tower.vision_tower.vision_model.post_layernorm.weight"] = (16,)
    return {name: formula_weight(name, shape).to(layout.dtype) for name, shape in shapes.items()}


def write_layout(folder: Path, layout: Layout, parts: MicroParts) -> dict[str, torch.Tensor]:
    """Write the checkpoint; returns its weights."""
    folder.mkdir(parents=True)
    names = ["tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"]
    names += ["generation_config.json"] + ["added_tokens.json"] * layout.has_masks
    for name in names:
        shutil.copy(TOKENIZER / name, folder)
    (folder / "config.json").write_text(json.dumps(config_of(layout, parts.clip), indent=2))
    weights = weights_of(layout, parts.clip)
    write_weights(folder, weights, layout.store)
    return weights


def write_weights(folder: Path, weights: dict[str, torch.Tensor], store: str) -> None:
    """Write weights in one of `STORES`; shards come with an index."""
    shards = 3 if "shards" in store else 1
    safe = "safetensors" in store
    stem, ending = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    names = list(weights)
    size = -(-len(names) // shards)
    places = {}
    for number in range(shards):
        part = {name: weights[name] for name in names[number * size : (number + 1) * size]}
        tail = f"-{number + 1:05d}-of-{shards:05d}" if shards > 1 else ""
        file = f"{stem}{tail}.{ending}"
        if safe:
            save_file(part, folder / file, {"format": "pt"})
        else:
            torch.save(part, folder / file)
        places |= dict.fromkeys(part, file)
    if shards > 1:
        total = sum(value.nbytes for value in weights.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index, indent=2))

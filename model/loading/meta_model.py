"""The model of a training on PyTorch's meta device: its real modules, counted without any weight.

The sizes come from `config.json` of a local folder, or from the name of a published model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from model.config import DTYPES, ReadConfig
from model.llava import VisionTower
from model.loading.lora import add_lora, unwrap
from model.loading.quantization import bytes_per_weight
from model.loading.weights import empty_model
from model.read_model import TOWER_PREFIX, ReadForCausalLM
from model.sam import sam_sizes, sam_sizes_dict
from utils.cli import checks
from utils.errors import InputError
from utils.protocol.constants import ADDED_TOKENS
from utils.protocol.image_transforms import default_clip_processor

if TYPE_CHECKING:
    from utils.cli.options import TrainOptions

VIT_L = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "7b": LLAMA_7B,
    "13b": LLAMA_7B
    | {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
    "clip-vit-large-patch14-336": {**VIT_L, "image_size": 336},
    "clip-vit-large-patch14": {**VIT_L, "image_size": 224},
}
"""Name, or size in the name, of a published model -> what its config.json says."""

PARTS = {
    "LLM layers": ("model.layers.", "model.norm."),
    "LoRA": (),
    "embed_tokens": ("model.embed_tokens.",),
    "lm_head": ("lm_head.",),
    "projector": ("model.mm_projector.",),
    "CLIP": (TOWER_PREFIX,),
    "SAM image encoder": ("model.visual_model.image_encoder.",),
    "SAM prompt encoder": ("model.visual_model.prompt_encoder.",),
    "SAM mask decoder": ("model.visual_model.mask_decoder.",),
    "text_hidden_fcs": ("model.text_hidden_fcs.",),
}
"""Part -> the names that begin its parameters."""


@dataclass
class Part:
    """One part of the model.

    Args:
        name: a key of `PARTS`.
        parameters: how many it has.
        trained: how many of them train.
        weights: bytes of them all.
    """

    name: str
    parameters: int = 0
    trained: int = 0
    weights: float = 0.0


def training_model(options: TrainOptions) -> ReadForCausalLM:
    """The model that `options` train, on the meta device: CLIP attached, LoRA in place, and what
    trains requires a gradient.

    Raises:
        InputError: a model is not on this machine and its name does not tell its size, or the
            flags do not fit the model.
    """
    config = llm_config(options.version)
    clip = clip_model(options.vision_tower)
    config.sam = sam_sizes_dict(sam_sizes(options.sam_settings()))
    config.out_dim = options.out_dim
    config.train_mask_decoder = options.train_mask_decoder
    config.mm_hidden_size = clip.config.hidden_size
    model = empty_model(config, DTYPES[options.precision])
    model.model.vision_tower = VisionTower(
        clip, default_clip_processor(), config.mm_vision_select_layer, options.vision_tower
    )
    with torch.device("meta"):
        wrapped = add_lora(model, r=options.lora_r, target_modules=options.lora_target_modules)
    return unwrap(wrapped)


def count_parts(model: ReadForCausalLM, bits: int | None = None) -> list[Part]:
    """The parts of `training_model` in the order of `PARTS`; all weights have the model's dtype.

    Args:
        model: on any device.
        bits: 4 or 8 if the language model's linear layers are quantised.
    """
    parts = {name: Part(name) for name in PARTS}
    for name, parameter in model.named_parameters():
        part = parts[next(key for key in PARTS if name.startswith(PARTS[key]))]
        if "lora_" in name:
            part = parts["LoRA"]
        part.parameters += parameter.numel()
        part.trained += parameter.numel() * parameter.requires_grad
        each = bytes_per_weight(name, parameter, model.dtype.itemsize, bits)
        part.weights += parameter.numel() * each
    return list(parts.values())


def llm_config(version: str) -> ReadConfig:
    """Configuration of `--version`, with room for the added tokens: of a local folder, or of a name
    that tells 7B or 13B.

    Raises:
        InputError: neither.
    """
    values = _read_config(version, tuple(LLAMA_7B), "a LLaVA or READ")
    if values:
        config = ReadConfig.from_pretrained(version)
        has_tokens = "train_mask_decoder" in values or "out_dim" in values
    else:
        named = re.search(r"(?<!\d)(7|13)b(?![a-z])", version.lower())
        if named is None and "sesame" not in version.lower():
            raise InputError(
                f"the size of {version} is unknown: it is no folder here and its name tells "
                "neither 7B nor 13B; give --version as a folder with config.json"
            )
        config, has_tokens = ReadConfig(**PUBLISHED[named[0] if named else "7b"]), False
    config.vocab_size += 0 if has_tokens else len(ADDED_TOKENS)
    return config


def clip_model(tower: str) -> CLIPVisionModel:
    """CLIP of `--vision_tower` on the meta device: of a local folder, or a published ViT-L/14.

    Raises:
        InputError: neither.
    """
    values = _read_config(tower, ("hidden_size", "intermediate_size"), "a CLIP")
    name = tower.rstrip("/").rpartition("/")[2].lower()
    if not values and name not in PUBLISHED:
        known = ", ".join(key for key in PUBLISHED if key.startswith("clip"))
        raise InputError(f"the size of {tower} is unknown: it is no folder here; known are {known}")
    from_folder = CLIPVisionConfig.from_pretrained(tower) if values else None
    with torch.device("meta"):
        return CLIPVisionModel(from_folder or CLIPVisionConfig(**PUBLISHED[name]))


def _read_config(folder: str, needed: tuple[str, ...], what: str) -> dict[str, Any]:
    """`config.json` of a local folder, of CLIP the part about vision; empty without one."""
    values = checks.model_config(folder)
    values = values.get("vision_config", values)
    missing = [name for name in needed if name not in values]
    if values and missing:
        raise InputError(f"{folder}/config.json: {', '.join(missing)} is missing; expected {what}")
    return values

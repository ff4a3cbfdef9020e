"""A language model whose frozen weights have 4 or 8 bits (QLoRA), by bitsandbytes on a GPU.

Only the linear layers of the decoder are quantised: everything that trains in full (`lm_head`, the
projection, SAM's decoder), SAM's encoders, the projector and CLIP keep their precision. LoRA needs
no further preparation: the trained token embeddings carry gradients into the first layer, also with
gradient checkpointing, and RMSNorm computes in float32 by itself.
"""

from __future__ import annotations

import torch
from transformers import BitsAndBytesConfig

from utils.cli import checks
from utils.errors import InputError

KEPT_PARTS = (
    "lm_head",
    "model.embed_tokens",
    "model.mm_projector",
    "model.text_hidden_fcs",
    "model.visual_model",
    "model.vision_tower",
)
"""Full names, as transformers compares them from the start."""

OVERHEAD = 1.06
"""Bytes of a 4 or 8 bit weight with its scales, over the bits themselves."""


def check_quantization(load_in_4bit: bool, load_in_8bit: bool, device: torch.device) -> None:
    """Whether what is asked for can be had here; nothing is loaded.

    Raises:
        InputError: both are asked for, or there is no GPU, or bitsandbytes is not installed.
    """
    if (load_in_4bit or load_in_8bit) and device.type == "cpu":
        which = "load_in_4bit" if load_in_4bit else "load_in_8bit"
        raise InputError(
            f"{which} needs a GPU with bitsandbytes, and the device is a CPU; leave it out"
        )
    if problems := checks.quantization(load_in_4bit, load_in_8bit):
        raise InputError(problems[0].message)


def quantization(
    load_in_4bit: bool, load_in_8bit: bool, dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    """Settings for transformers: NF4 with quantised scales, or LLM.int8(); None without either.

    Args:
        load_in_4bit, load_in_8bit: at most one of them, see `check_quantization`.
        dtype: of the other weights and of all products.
    """
    if not (load_in_4bit or load_in_8bit):
        return None
    return BitsAndBytesConfig(
        load_in_4bit=load_in_4bit,
        load_in_8bit=load_in_8bit,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=list(KEPT_PARTS),
    )


def bytes_per_weight(name: str, weight: torch.Tensor, width: int, bits: int | None) -> float:
    """Bytes that each number of a tensor takes.

    Args:
        name: of the tensor, in the model without peft's wrapping.
        weight: float[...] on any device.
        width: bytes of a number that is not quantised.
        bits: 4 or 8 if the model is quantised.
    """
    is_kept = weight.ndim < 2 or name.startswith(KEPT_PARTS) or "lora_" in name
    return width if bits is None or is_kept else bits / 8 * OVERHEAD

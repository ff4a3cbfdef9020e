"""LoRA by peft, and which parameters train with it."""

from __future__ import annotations

import warnings
from typing import cast

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from model.read_model import ReadForCausalLM
from utils.errors import InputError

TRAINED_PARTS = ("lm_head", "embed_tokens", "mask_decoder", "text_hidden_fcs")


def lora_target_pattern(target_modules: str) -> str:
    """Full-name pattern of the LLM's projections; never inside CLIP or SAM.

    Args:
        target_modules: comma-separated names such as "q_proj,v_proj".
    """
    names = "|".join(name.strip() for name in target_modules.split(","))
    return rf"model\.layers\.\d+\.(self_attn|mlp)\.({names})"


def add_lora(
    model: ReadForCausalLM,
    r: int = 8,
    alpha: int = 16,
    dropout: float = 0.05,
    target_modules: str = "q_proj,v_proj",
) -> PeftModel | ReadForCausalLM:
    """Freeze the model, add LoRA to the LLM and open what trains in full.

    Args:
        model: READ.
        r: rank; 0 adds no LoRA and opens the same parts.
        alpha, dropout: of LoRA.
        target_modules: comma-separated names of the LLM's linear layers.

    Raises:
        InputError: a name that no layer of the LLM has.
    """
    model.requires_grad_(False)
    wrapped: PeftModel | ReadForCausalLM = model
    if r > 0:
        linear = {
            name.rsplit(".", 1)[-1]
            for name, module in model.model.layers.named_modules()
            if isinstance(module, nn.Linear)
        }
        unknown = sorted({name.strip() for name in target_modules.split(",")} - linear)
        if unknown:
            raise InputError(
                f"--lora_target_modules names {', '.join(unknown)}; the LLM has "
                f"{', '.join(sorted(linear))}"
            )
        settings = LoraConfig(
            r=r,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=lora_target_pattern(target_modules),
            bias="none",
        )
        with warnings.catch_warnings():
            # peft still asks transformers by a name that is going out of use.
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = get_peft_model(model, settings)
    open_trained_parts(model)
    return wrapped


def open_trained_parts(model: ReadForCausalLM) -> None:
    """Let `lm_head`, the token embeddings, the mask decoder and the projection train in full."""
    model.lm_head.requires_grad_(True)
    model.model.embed_tokens.requires_grad_(True)
    model.model.visual_model.mask_decoder.requires_grad_(model.config.train_mask_decoder)
    model.model.text_hidden_fcs.requires_grad_(True)


def unwrap(model: PeftModel | ReadForCausalLM) -> ReadForCausalLM:
    """The READ model inside, LoRA layers still in place."""
    return cast(ReadForCausalLM, model.get_base_model()) if isinstance(model, PeftModel) else model


def merge(model: PeftModel | ReadForCausalLM) -> ReadForCausalLM:
    """Fold LoRA into the weights and return the plain model."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model

"""16-bit weights that compute in float32: exact answers from a model that takes half the memory.

The linear layers of the language model, nearly all of its weights, stay as they are stored; each
is widened while it works. Everything else is small and is kept in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from model.loading.free_memory import check_free
from model.loading.lora import unwrap
from model.read_model import ReadForCausalLM

HALF = (torch.bfloat16, torch.float16)


def upcast_small(model: PeftModel | ReadForCausalLM) -> None:
    """Bring everything but the language model's frozen linear layers to float32, in place.

    CLIP, whose weights a checkpoint does not hold, is loaded again from where it came from.

    Raises:
        InputError: there is not enough memory for that.
    """
    read = unwrap(model)
    tower = read.model.vision_tower
    rounded = tower is not None and tower.clip.dtype in HALF
    kept = {id(layer.weight) for layer in _narrow_layers(read)}
    small = [parameter for parameter in read.parameters() if id(parameter) not in kept]
    check_free(
        sum(p.numel() * (torch.float32.itemsize - p.itemsize) for p in small),
        read.device,
        "computing in float32 what is small",
        "end other programs, or use a larger machine",
    )
    for parameter in small:
        parameter.data = parameter.data.float()
    if tower is not None and rounded:
        read.load_vision_tower(tower.source)


@contextmanager
def float32_linears(model: PeftModel | ReadForCausalLM, folded: bool = False) -> Iterator[None]:
    """Inside, the language model's linear layers compute in float32 whatever they are kept in.

    Args:
        model: see `upcast_small`.
        folded: LoRA is added to the widened weights instead of running beside them, as it will be
            when it is folded in for good.
    """
    lora: dict[nn.Module, Any] = {}
    if folded:
        lora = {m.base_layer: m for m in model.modules() if isinstance(m, LoraLayer)}
    stored: dict[nn.Module, torch.Tensor] = {}

    def widen(layer: Any, _: object) -> None:
        stored[layer] = layer.weight.data
        layer.weight.data = stored[layer].float()
        if layer in lora:
            for name in lora[layer].active_adapters:
                layer.weight.data = layer.weight.data + lora[layer].get_delta_weight(name)

    def narrow(layer: Any, _: object, __: object) -> None:
        layer.weight.data = stored.pop(layer)

    with ExitStack() as held:
        if folded and isinstance(model, PeftModel):
            held.enter_context(model.disable_adapter())
        for layer in {*_narrow_layers(unwrap(model)), *lora}:
            held.callback(layer.register_forward_pre_hook(widen).remove)
            held.callback(layer.register_forward_hook(narrow).remove)
        yield


def _narrow_layers(read: ReadForCausalLM) -> list[nn.Linear]:
    """The language model's linear layers that are kept in 16 bits; LoRA's own train in float32."""
    return [
        module
        for name, module in read.model.layers.named_modules()
        if isinstance(module, nn.Linear) and module.weight.dtype in HALF and "lora_" not in name
    ]

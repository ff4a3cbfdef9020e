"""How much memory a model will take, known before any weight is read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from model.loading import model_sizes
from model.loading.free_memory import GB, check_free
from model.loading.memory import QUANTISED_OVERHEAD
from model.read_model import ReadForCausalLM
from utils.errors import InputError


def check_memory(
    path: str | Path,
    model: ReadForCausalLM,
    files: list[Path],
    tower: str | Path,
    device: torch.device,
    bits: int | None = None,
    half_helps: bool = True,
) -> None:
    """Compare what loading takes with what is free.

    Args:
        path: folder or hub id, for the message.
        model: of `model.loading.weights.empty_model`, in the dtype it will have.
        files: its weights.
        tower: CLIP's folder or name.
        device: where the model goes.
        bits: 4 or 8 for a quantised language model.
        half_helps: whether the caller could ask for a 16-bit dtype instead.

    Raises:
        InputError: it does not fit; the message names both numbers and the remedy.
    """
    cpu = torch.device("cpu")
    held = largest_unmapped(files)
    needed = weight_bytes(model, tower, bits=bits)
    ways = []
    if bits is None and model.dtype.itemsize > 2 and half_helps:
        half = weight_bytes(model, tower, width=2) + held
        ways.append(f'dtype="bf16" (--precision bf16) needs {half / GB:.1f} GB')
    if bits is None and device.type == "cuda":
        quarter = weight_bytes(model, tower, width=2, bits=4)
        ways.append(f"4 bits (--load_in_4bit) need {quarter / GB:.1f} GB")
    elif bits == 8:
        quarter = weight_bytes(model, tower, bits=4)
        ways.append(f"--load_in_4bit needs {quarter / GB:.1f} GB")
    ways.append("otherwise end other programs, or take a smaller model or a larger machine")
    name = str(model.dtype).removeprefix("torch.")
    what = f"{path} in {f'{bits} bits' if bits else name}"
    if device.type == "cpu":
        needed += held
    elif held:
        check_free(held, cpu, f"{what}, whose files have an old format,", ways[-1])
    check_free(needed, device, what, "; ".join(ways))


def weight_bytes(
    model: ReadForCausalLM, tower: str | Path, width: int | None = None, bits: int | None = None
) -> float:
    """Bytes of all weights, CLIP's included.

    Args:
        model: on any device; without its CLIP tower.
        tower: CLIP's folder or name; one that is unknown counts nothing.
        width: bytes of a weight; None: as the model's dtype says.
        bits: of the language model's linear layers, if they are quantised.
    """
    each = width or model.dtype.itemsize
    try:
        total = each * float(model_sizes.count_clip(model_sizes.clip_sizes(str(tower))))
    except InputError:
        total = 0.0
    quantised = each if bits is None else bits / 8 * QUANTISED_OVERHEAD
    for name, value in model.state_dict().items():
        is_linear = name.startswith("model.layers.") and value.ndim == 2
        total += value.numel() * (quantised if is_linear else each)
    return total


def largest_unmapped(files: list[Path]) -> int:
    """Bytes of the largest weight file that has to be read whole: one of PyTorch before 1.6."""
    whole = [f for f in files if f.suffix != ".safetensors" and not zipfile.is_zipfile(f)]
    return max((file.stat().st_size for file in whole), default=0)

"""Training at full size with random weights: step time, tokens, memory, model-FLOPs utilisation.

The model is in 16 bits with LoRA and gradient checkpointing; the optimiser is plain AdamW on one
device, without DeepSpeed's float32 copies. FLOPs of a step, with a multiplication and an addition
counted as two:

    LLM        2 n (4 D^2 + 3 D F) a layer for n positions, + 4 D times the keys that each of them
               sees, forward. What questions share counts once; padding, and keys that a mask
               hides, not at all.
    backward   the same again for the gradients of the activations of the linear layers, twice for
               attention (both of its factors carry gradients). Frozen weights have no gradient, so
               the usual second half of the backward pass does not exist; LoRA's own is left out.
    lm_head    6 K D vocabulary for K trained tokens: its weights do train.
    CLIP, projector, SAM's encoder: forward alone; SAM's decoder and the losses are left out.

Model-FLOPs utilisation (MFU) is that over time and the device's dense peak. What gradient
checkpointing computes again does not count as useful; "hardware" (HFU) counts it: one more forward
of the layers.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from benchmarks import output
from benchmarks.random_read import Size
from benchmarks.training_steps import TRAINED_SIZES, trained_reader, training_batch
from model import ReadForCausalLM
from model.config import DTYPES
from model.sam import SamSizes
from model.shared_prefix import pack_shared_prefix
from utils.protocol.batch import Batch
from utils.protocol.constants import IGNORE_INDEX

WARM_UP = 3
CLIP_PATCH = 14
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "H800": 989.0, "A100": 312.0, "A800": 312.0}
"""Dense 16-bit peaks by part of the device's name; others by `--peak_tflops`."""


def full_size(options: argparse.Namespace) -> tuple[dict, str]:
    """Measure steps of the engine; returns the numbers and a page."""
    size = TRAINED_SIZES[options.size]
    device = torch.device(options.device)
    reader, model, optimiser = trained_reader(
        size, options.device, DTYPES[options.precision], checkpointing=True
    )
    batch = training_batch(reader, options.batch_size, options.questions)
    on_gpu = device.type == "cuda"
    model_gb = torch.cuda.memory_allocated() / 2**30 if on_gpu else None
    seconds = []
    for number in range(WARM_UP + options.steps):
        if number == WARM_UP and on_gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        model(batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    step = median(seconds[WARM_UP:])
    name = output.device_name(options.device)
    peak = options.peak_tflops or next((v for k, v in PEAK_TFLOPS.items() if k in name), None)
    counted = flops(reader.model, size, batch)
    useful = sum(counted.values())
    rows = len(batch.input_ids)
    tokens = int(batch.attention_mask.sum()) + rows * (reader.model.image_tokens - 1)
    result = {
        "size": options.size,
        "device": name,
        "precision": options.precision,
        "attention": reader.model.config._attn_implementation,
        "torch": torch.__version__,
        "images": options.batch_size,
        "questions": options.questions,
        "step_s": step,
        "tokens_per_s": tokens / step,
        "model_gb": model_gb,
        "peak_gb": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
        "tflop": {part: count / 1e12 for part, count in counted.items()},
        "tflops": useful / step / 1e12,
        "mfu": useful / step / 1e12 / peak if peak else None,
        "hfu": (useful + counted["LLM forward"]) / step / 1e12 / peak if peak else None,
    }
    return result, page(result)


def flops(model: ReadForCausalLM, size: Size, batch: Batch) -> dict[str, float]:
    """FLOPs of a step; the formulas stand in the head of this file."""
    config, values = model.config, model.image_tokens
    width, inner = config.hidden_size, config.intermediate_size
    packing = pack_shared_prefix(batch.input_ids, batch.attention_mask, batch.image_index, values)
    if packing is None:
        length = batch.attention_mask.sum(dim=1) + values - 1
        positions, seen = int(length.sum()), int((length * (length + 1) // 2).sum())
    else:
        used = packing.segment_id >= 0
        positions, seen = int(used.sum()), int((packing.position[used] + 1).sum())
    linear = config.num_hidden_layers * 2 * positions * (4 * width**2 + 3 * width * inner)
    attention = config.num_hidden_layers * 4 * width * seen
    trained = int((batch.labels != IGNORE_INDEX).sum())
    cells = values + 1
    clip = 24 * size.clip_width**2 * cells + 4 * size.clip_width * cells**2
    patches = 2 * values * 3 * CLIP_PATCH**2 * size.clip_width
    projector = 2 * values * (size.clip_width * width + width**2)
    images = len(batch.original_sizes)
    return {
        "LLM forward": linear + attention,
        "LLM backward": linear + 2 * attention,
        "lm_head": 6 * trained * width * config.vocab_size,
        "CLIP": images * (patches + size.clip_layers * clip + projector),
        "SAM encoder": images * sam_encoder_flops(model.model.visual_model.sizes),
    }


def sam_encoder_flops(sizes: SamSizes) -> float:
    """Of one image: linear layers, attention in windows or over everything, the neck."""
    side = sizes.image_size // 16
    windows = -(-side // sizes.window_size)
    inside = windows * sizes.window_size
    total = 0.0
    for layer in range(sizes.depth):
        everywhere = layer in sizes.global_attn_indexes
        cells = side**2 if everywhere else inside**2
        seen = side**2 if everywhere else sizes.window_size**2
        total += cells * (8 * sizes.embed_dim**2 + 4 * sizes.embed_dim * seen)
        total += side**2 * 16 * sizes.embed_dim**2
    patches = 2 * 3 * 16**2 * sizes.embed_dim
    neck = 2 * sizes.prompt_dim * (sizes.embed_dim + 9 * sizes.prompt_dim)
    return total + side**2 * (patches + neck)


def page(result: dict) -> str:
    """The page for `results/`."""
    peak = "-" if result["peak_gb"] is None else f"{result['peak_gb']:.1f}"
    mfu, hfu = ("-" if result[n] is None else f"{result[n]:.1%}" for n in ("mfu", "hfu"))
    parts = ", ".join(f"{name} {count:.2f}" for name, count in result["tflop"].items())
    header = ["step [s]", "tokens/s", "peak [GiB]", "TFLOP/s", "MFU", "HFU"]
    row = [f"{result['step_s']:.3f}", f"{result['tokens_per_s']:.0f}", peak]
    return output.page(
        f"# Training at full size: {result['size']}",
        f"Printed by `python -m benchmarks.training --size {result['size']}` on "
        f"{result['device']}, {result['precision']}, {result['attention']}, PyTorch "
        f"{result['torch']}. Random weights, LoRA, gradient checkpointing; "
        f"{result['images']} images with {result['questions']} questions each. Tokens: "
        "the image counted for each question. What counts as a FLOP stands in "
        "`training_full.py`.",
        output.table(header, [[*row, f"{result['tflops']:.1f}", mfu, hfu]]),
        f"TFLOP of a step: {parts}.",
    )

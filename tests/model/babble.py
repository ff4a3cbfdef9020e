"""A model whose answers differ in length and in the number of their `[SEG]`."""

import numpy as np
import torch

from model import Reader, ReadForCausalLM

EOS = 2
SEG = 800

QUESTIONS = [
    "Please segment the red circle in this image.",
    "cat",
    "Which thing on the left side has no corners?",
    "Where is it?",
    "What is the smallest thing that one could sit on in this image, if there is any?",
    "a",
    "Point at the dog.",
]


def make_babble(model: ReadForCausalLM) -> None:
    """Stronger layers, so that answers depend on the question, and frequent end and `[SEG]` tokens.

    Without it the small model answers nearly the same to everything.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.model.layers:
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                part.weight.mul_(3**0.5)
            for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                part.weight.mul_(3)
        head = model.lm_head.weight
        width = head.shape[1]
        torch.randn(width, generator=generator)
        head[EOS] = torch.randn(width, generator=generator) * 1.8 / width**0.5
        # [SEG] instead of a common word.
        head[SEG] = 1.02 * head[102]


def images(count: int) -> list[np.ndarray]:
    """uint8[H, W, 3] noise of several sizes."""
    rng = np.random.default_rng(0)
    sizes = [(60, 80), (40, 30), (64, 64), (25, 70), (90, 50)]
    return [rng.integers(0, 255, (*sizes[n % 5], 3), dtype=np.uint8) for n in range(count)]


def babbling(reader: Reader) -> Reader:
    """The reader, its model changed by `make_babble`."""
    make_babble(reader.model)
    return reader

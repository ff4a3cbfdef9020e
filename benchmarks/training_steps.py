"""What both sides of `benchmarks/training.py` train: a random model with LoRA, and a batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from benchmarks.random_read import SIZES, SMALL_SAM, Size, questions, random_image, random_reader
from dataset.collate import collate
from model import Reader
from model.loading.lora import add_lora
from model.shared_prefix import same_attention
from utils.protocol.batch import Batch, Sample
from utils.protocol.conversation import POSITIVE_ANSWER, build_prompt, user_turn
from utils.training.engine import WEIGHT_DECAY

LLAMA_VOCABULARY = 32003
CPU_SAM = {**SMALL_SAM, "embed_dim": 240, "depth": 8, "num_heads": 3, "global_attn_indexes": [7]}
TRAINED_SIZES = {
    "tiny": SIZES["tiny"],
    "cpu": dataclasses.replace(SIZES["cpu"], vocabulary=8000, sam=CPU_SAM),
    "7b": dataclasses.replace(SIZES["7b"], vocabulary=LLAMA_VOCABULARY),
    "13b": dataclasses.replace(SIZES["13b"], vocabulary=LLAMA_VOCABULARY),
}
"""Of "cpu", parts cost about the same shares as in the 7B model: a row of the language model twice
as much as an image in SAM's encoder; the vocabulary is eight times the width."""

IMAGE_SIZES = ((480, 640), (427, 640), (640, 480))


def trained_reader(
    size: Size, device: str, dtype: torch.dtype, checkpointing: bool, rank: int = 8
) -> tuple[Reader, torch.nn.Module, torch.optim.Optimizer]:
    """A reader, its model with LoRA (no dropout, so that results can be compared), and AdamW."""
    reader = random_reader(size, device, dtype)
    if checkpointing:
        enable = getattr(reader.model, "activation_checkpointing_enable", None)
        (enable or reader.model.gradient_checkpointing_enable)(
            {"use_reentrant": False, "context_fn": same_attention(reader.model.config)}
        )
    torch.manual_seed(0)
    model = add_lora(reader.model, r=rank, alpha=16, dropout=0.0).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY)
    return reader, model, optimiser


def training_batch(reader: Reader, images: int, asked: int, seed: int = 0) -> Batch:
    """Images of COCO's sizes with `asked` expressions each, an ellipse for each of them."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(images):
        height, width = IMAGE_SIZES[number % len(IMAGE_SIZES)]
        y, x = np.mgrid[:height, :width]
        masks = [
            ((x / width - a) ** 2 + (y / height - b) ** 2 < 0.04)
            for a, b in rng.uniform(0.2, 0.8, (asked, 2))
        ]
        samples.append(
            Sample(
                f"image {number}",
                random_image(height, width, seed + number),
                [
                    build_prompt([(user_turn(question), POSITIVE_ANSWER)])
                    for question in questions(images * asked)[number * asked :][:asked]
                ],
                np.stack(masks).astype(np.uint8),
                [True] * asked,
            )
        )
    return collate(samples, reader.tokenizer, views=reader.model.views)

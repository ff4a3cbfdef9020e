"""A long run: 5,000 questions take no more memory than the first hundreds."""

import gc
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from model import Reader
from model.loading.builder import build_for_training
from tests.conftest import MICRO_SAM
from utils.cli.train_flags import ModelOptions

QUESTIONS = 5000
WARM_UP = 500
TENSORS = (torch.Tensor, torch.nn.Parameter)


def live_tensors() -> tuple[int, int]:
    """Number and bytes of all tensors there are."""
    gc.collect()
    found = [entry for entry in gc.get_objects() if type(entry) in TENSORS]
    return len(found), sum(tensor.nbytes for tensor in found)


def resident_mb() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
def test_memory_does_not_grow_with_the_run(micro_parts):
    built = build_for_training(
        ModelOptions(
            version=micro_parts.llava,
            vision_tower=micro_parts.clip,
            vision_pretrained=micro_parts.sam,
            sam=MICRO_SAM,
            out_dim=32,
            precision="fp32",
        )
    )
    model = built.model.eval()
    with torch.no_grad():
        # Some answers with a [SEG], some without.
        generator = torch.Generator().manual_seed(0)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.normal_(std=0.5, generator=generator)
            layer.mlp.down_proj.weight.normal_(std=0.5, generator=generator)
        model.model.embed_tokens.weight.normal_(generator=generator)
        model.lm_head.weight.normal_(generator=generator)
        model.lm_head.weight[model.seg_token_id] *= 4
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        for height, width in itertools.product((24, 40), (24, 56))
    ]
    items = ((images[n % 4], [f"Is thing {n} there?"] * (n % 7 + 1)) for n in itertools.count())
    answered, masks, told = 0, 0, WARM_UP
    counts, sizes, resident = [], [], []
    stream = Reader(model, built.tokenizer).stream(items, max_new_tokens=2)
    while answered < QUESTIONS:
        answers = next(stream)
        answered += len(answers)
        masks += sum(len(answer.segments) for answer in answers)
        if answered > told:
            told += (QUESTIONS - WARM_UP) // 8
            count, size = live_tensors()
            counts.append(count)
            sizes.append(size)
            resident.append(resident_mb())
    stream.close()
    print(answered, masks, counts, sizes, resident)
    assert masks > QUESTIONS / 20
    assert len(counts) >= 8
    assert max(counts) - min(counts) < 400
    assert max(sizes) < 1.1 * min(sizes)
    # If answers stayed, these would be more than 50 MB.
    assert resident[-1] - resident[0] < 15

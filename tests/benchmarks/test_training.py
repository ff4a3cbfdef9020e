"""The benchmark of training runs and compares as it says, on a tiny model."""

import argparse
import json
import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import training, training_full
from benchmarks.training_steps import TRAINED_SIZES, trained_reader, training_batch


@pytest.mark.slow
def test_both_ways_give_the_same_losses():
    plain = training.measure("plain", "tiny", 2, 1, checkpointing=False)
    for checkpointing in (False, True):
        ours = training.measure("ours", "tiny", 2, 1, checkpointing)
        assert training.difference(ours["losses"], plain["losses"]) < training.TOLERANCE
        assert ours["tokens"] == plain["tokens"] > 4 * 576
    first, second = ours["losses"]
    assert first["ce_loss"] != second["ce_loss"]  # it trains


def row(questions: int, **changes) -> dict:
    side = {
        "seconds": 1.0,
        "cpu_seconds": 1.0,
        "peak_mb": 10.0,
        "tokens": 100,
        "parameters_m": {"LLM": 1.0},
        "losses": [{}],
    }
    kept = {"ratio": 2.5, "wall_ratio": 2.4, "memory": 0.4, "difference": 1e-7}
    return {"questions": questions, **kept, "ours": side, "plain": side, **changes}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(1), row(3, ratio=1.9)], "only 1.90 times faster"),
        ([row(1), row(3, memory=0.7)], "0.70 of the memory"),
        ([row(1, difference=2e-4), row(3)], "losses at 1 questions differ by 2.0e-04"),
        ([row(1), row(3, difference=math.nan)], "losses at 3 questions differ"),
        ([row(1, ratio=1.0, memory=1.0), row(3)], ""),
    ],
)
def test_broken_promises_are_told(capsys, rows, message):
    assert training.good({"rows": rows}) == (not message)
    assert message in capsys.readouterr().err


def test_the_table():
    result = {"rows": [row(1), row(3)], "gradient_checkpointing": True, "machine": "this one"}
    page = training.table({**result, "torch": "2", "steps": 3})
    assert "| 3 | **ratio** | **2.50x faster** |" in page
    assert "with gradient checkpointing" in page


@pytest.mark.slow
def test_full_size_mode_on_a_cpu():
    options = argparse.Namespace(
        size="tiny",
        device="cpu",
        precision="bf16",
        batch_size=2,
        questions=3,
        steps=1,
        peak_tflops=1.0,
    )
    result, page = training_full.full_size(options)
    assert result["tokens_per_s"] > 6 * 576 / result["step_s"]
    assert result["mfu"] == pytest.approx(result["tflops"])
    assert result["mfu"] < result["hfu"] < 2 * result["mfu"]
    assert result["tflops"] == pytest.approx(sum(result["tflop"].values()) / result["step_s"])
    assert "| MFU |" in page and "bf16" in page
    json.dumps(result)


@pytest.mark.parametrize("asked", [1, 3])
def test_flops_are_those_that_are_computed(asked):
    """Against PyTorch's own count, which knows no masks and no padding, of the forward parts."""
    size = TRAINED_SIZES["tiny"]
    reader, _, _ = trained_reader(size, "cpu", torch.float32, checkpointing=False, rank=0)
    model, batch = reader.model, training_batch(reader, 2, asked)
    counted = training_full.flops(model, size, batch)

    def computed(action) -> int:
        # As plain products: not every PyTorch has a formula for the CPU's fused attention.
        plain = sdpa_kernel(SDPBackend.MATH)
        with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
            action()
        return counter.get_total_flops()

    features = model.encode_clip(batch.clip_pixels)
    clip = computed(lambda: model.encode_clip(batch.clip_pixels))
    sam = computed(lambda: model.encode_sam(batch.sam_pixels, batch.sam_sizes))
    llm = computed(
        lambda: model.prompt_states(
            batch.input_ids, batch.attention_mask, features, batch.image_index
        )
    )
    assert counted["CLIP"] == pytest.approx(clip, rel=0.03)
    assert counted["SAM encoder"] == pytest.approx(sam, rel=0.05)
    assert 0.6 * llm < counted["LLM forward"] < llm
    assert counted["LLM backward"] < 2 * counted["LLM forward"]

"""The golden figures on a GPU: in float32 nearly the same, in bf16 what its 8 bits allow."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dataset.collate import collate
from model import Reader, load_read
from model.loading.free_memory import free_memory
from model.loading.from_options import load_from_options
from tests.golden.test_model import eval_samples, train_samples
from tests.released_tiny import CLIP, SAM
from utils.cli.options import TestOptions
from utils.protocol.conversation import POSITIVE_ANSWER

pytestmark = pytest.mark.gpu

LOGITS = {"fp32": 2e-3, "bf16": 0.15}
"""Largest error of mask logits over the largest logit; "float32" sums in another order."""

PIXELS = {"fp32": 2e-3, "bf16": 0.05}
"""Share of pixels on the other side of 0."""

LOSSES = {"fp32": 1e-3, "bf16": 0.05}
NORMS = {"fp32": 5e-3, "bf16": 0.1}
"""Relative errors: of the losses, and of the norm of all gradients together."""

PRECISIONS = ("fp32", "bf16")


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """No TF32 in convolutions, which PyTorch takes for float32 there."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.fixture(scope="module", params=PRECISIONS)
def precision(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def on_gpu(released, precision) -> Reader:
    return load_read(released, vision_tower=CLIP, sam=SAM, dtype=precision, device="cuda")


def test_all_of_the_model_is_on_the_gpu(on_gpu):
    tensors = [*on_gpu.model.parameters(), *on_gpu.model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"cuda"}


def test_auto_takes_the_gpu_and_the_dtype_of_the_checkpoint(released):
    model = load_read(released, vision_tower=CLIP, sam=SAM).model
    assert model.device.type == "cuda" and model.dtype == torch.float32


def test_the_command_line_takes_the_gpu_of_its_rank(released, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count() - 1))
    options = TestOptions(pretrained_model_path=str(released), vision_tower=str(CLIP), sam=SAM)
    assert load_from_options(options).model.device.index == torch.cuda.device_count() - 1


def test_free_memory_is_that_of_the_gpu(on_gpu):
    total = torch.cuda.get_device_properties(0).total_memory
    free = free_memory(torch.device("cuda", 0))
    assert free is not None and 0 < free < total


@pytest.mark.parametrize("number", range(3))
def test_teacher_forced_masks(on_gpu, precision, figures, images, number):
    arrays, meta = figures
    queries = meta["eval"][number]["queries"]
    answers = on_gpu.segment_batch([(images[number], queries)], answer=POSITIVE_ANSWER)
    for answer, expected in zip(answers, arrays[f"eval_logits_{number}"], strict=True):
        (segment,) = answer.segments
        error = np.abs(segment.logits - expected).max() / np.abs(expected).max()
        assert error <= LOGITS[precision]
        assert (segment.mask != (expected > 0)).mean() <= PIXELS[precision]


def test_masks_of_a_batch(on_gpu, precision, figures, images):
    """As validation in training asks, without a loss."""
    arrays, _ = figures
    batch = collate(eval_samples(figures, images), on_gpu.tokenizer, on_gpu.model.views)
    with torch.no_grad():
        output = on_gpu.model.eval()(batch)
    for i, logits in enumerate(output.mask_logits):
        expected = arrays[f"eval_logits_{i}"]
        error = np.abs(logits.float().cpu().numpy() - expected).max() / np.abs(expected).max()
        assert error <= LOGITS[precision]


def test_generated_answers(on_gpu, precision, figures, images):
    """Greedy tokens in float32 are the same; in bf16 most of the cases are."""
    arrays, meta = figures
    weight = on_gpu.model.lm_head.weight.data
    same = []
    for case in meta["generate"]:
        key, kept = case["key"], weight[800].clone()
        weight[800] = torch.from_numpy(arrays[f"gen_lmhead_seg_{key}"])
        answer = on_gpu.segment(images[case["image"]], case["query"], max_new_tokens=6)
        weight[800] = kept
        prompt = len(arrays[f"gen_prompt_{key}"][0])
        same.append(answer.token_ids == arrays[f"gen_ids_{key}"][0][prompt:].tolist())
        if same[-1]:
            assert answer.present == case["present"] and len(answer.segments) == case["n_seg"]
            wrong = (answer.mask != (arrays[f"gen_mask_{key}"] > 0)).mean()
            assert wrong <= PIXELS[precision]
    assert all(same) if precision == "fp32" else sum(same) > len(same) / 2


def test_a_training_step(on_gpu, precision, figures, images):
    """Losses and gradients of the golden batch, and a step that moves what trains, finitely."""
    case = figures[1]["train"]
    model = on_gpu.model
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = {n: p for n, p in model.named_parameters() if n in case["grad_norms"]}
    batch = collate(train_samples(figures, images), on_gpu.tokenizer, model.views)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    try:
        output = model.train()(batch)
        output.loss.backward()
        for name, expected in case["losses"].items():
            assert float(output[name].detach()) == pytest.approx(expected, rel=LOSSES[precision])
        norms = {n: float(p.grad.float().norm()) for n, p in trained.items() if p.grad is not None}
        total = np.linalg.norm(list(norms.values()))
        expected = np.linalg.norm(list(case["grad_norms"].values()))
        assert total == pytest.approx(expected, rel=NORMS[precision])
        torch.optim.AdamW(trained.values(), lr=0.05, weight_decay=0.0).step()
        moved = [name for name in norms if not torch.equal(trained[name], kept[name])]
        assert len(moved) > 0.9 * len(norms)
        assert all(bool(p.isfinite().all()) for p in trained.values())
    finally:
        model.zero_grad()
        model.requires_grad_(False)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(kept[name])
        model.eval()

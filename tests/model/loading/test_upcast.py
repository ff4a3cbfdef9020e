"""16-bit weights that compute in float32 give what float32 weights give."""

import copy

import pytest
import torch
from torch import nn

from model.inference.reader import Reader
from model.loading.lora import add_lora, merge, unwrap
from model.loading.upcast import float32_linears, upcast_small
from tests.model.conftest import QUESTION
from utils.errors import InputError
from utils.protocol.conversation import POSITIVE_ANSWER


@pytest.fixture
def narrow(reader):
    """A model in bfloat16 with LoRA that does something."""
    model = add_lora(reader.model.to(torch.bfloat16), r=4)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
    upcast_small(model)
    return model.eval()


def logits(model, tokenizer, image) -> torch.Tensor:
    reader = Reader(unwrap(model), tokenizer)
    answer = reader.segment(image, QUESTION, answer=POSITIVE_ANSWER)
    return torch.as_tensor(answer.segments[0].logits)


def linears(model) -> list[nn.Linear]:
    layers = unwrap(model).model.layers.named_modules()
    return [m for name, m in layers if isinstance(m, nn.Linear) and "lora_" not in name]


def test_only_the_linear_layers_stay_narrow(narrow):
    kept = {id(layer.weight) for layer in linears(narrow)}
    for parameter in narrow.parameters():
        wanted = torch.bfloat16 if id(parameter) in kept else torch.float32
        assert parameter.dtype == wanted
    assert kept


def test_widening_needs_memory(reader, monkeypatch):
    """Told before anything is widened."""
    model = reader.model.to(torch.bfloat16)
    kept = {id(layer.weight) for layer in linears(model)}
    more = sum(2 * p.numel() for p in model.parameters() if id(p) not in kept)
    monkeypatch.setattr("model.loading.free_memory.free_memory", lambda device: more - 1)
    with pytest.raises(InputError, match=r"float32 .*GB of memory, and .* are free on cpu"):
        upcast_small(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    monkeypatch.setattr("model.loading.free_memory.free_memory", lambda device: more)
    upcast_small(model)


def test_they_compute_as_in_float32(narrow, reader, image):
    wide = copy.deepcopy(narrow).float()
    expected = logits(wide, reader.tokenizer, image)
    before = [layer.weight.clone() for layer in linears(narrow)]
    with float32_linears(narrow):
        found = logits(narrow, reader.tokenizer, image)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for layer, weight in zip(linears(narrow), before, strict=True):
        assert torch.equal(layer.weight, weight) and not layer._forward_hooks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_folded_is_what_merging_gives(narrow, reader, image, dtype):
    for layer in linears(narrow):
        layer.weight.data = layer.weight.data.to(dtype)
    with float32_linears(narrow):
        beside = logits(narrow, reader.tokenizer, image)
    with float32_linears(narrow, folded=True):
        folded = logits(narrow, reader.tokenizer, image)
    torch.testing.assert_close(folded, beside, rtol=1e-4, atol=1e-4)
    for layer in linears(narrow):
        layer.weight.data = layer.weight.data.float()
    merged = logits(merge(narrow), reader.tokenizer, image)
    torch.testing.assert_close(folded, merged, rtol=0, atol=1e-6)


def test_lora_matters_here(narrow, reader, image):
    with float32_linears(narrow):
        beside = logits(narrow, reader.tokenizer, image)
        with narrow.disable_adapter():
            without = logits(narrow, reader.tokenizer, image)
    assert (beside - without).abs().max() > 1e-3

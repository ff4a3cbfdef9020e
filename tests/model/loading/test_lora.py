"""LoRA: where it sits, what trains, and that merging changes no answer."""

import copy

import numpy as np
import pytest
import torch

from model.inference.reader import Reader
from model.loading.lora import add_lora, merge, unwrap
from tests.model.conftest import QUESTION
from utils.errors import InputError
from utils.protocol.conversation import POSITIVE_ANSWER


def trainable(model) -> set[str]:
    """Names of what trains, without peft's prefix."""
    return {
        name.removeprefix("base_model.model.")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def in_full(reader) -> set[str]:
    """What trains besides LoRA."""
    parts = ("lm_head.", "model.embed_tokens.", "model.text_hidden_fcs.")
    decoder = "model.visual_model.mask_decoder."
    return {n for n, _ in reader.model.named_parameters() if n.startswith((*parts, decoder))}


def test_the_trainable_set(reader):
    full = in_full(reader)
    layers = len(reader.model.model.layers)
    wrapped = add_lora(reader.model, r=4)
    lora = {
        f"model.layers.{layer}.self_attn.{name}.lora_{side}.default.weight"
        for layer in range(layers)
        for name in ("q_proj", "v_proj")
        for side in "AB"
    }
    assert trainable(wrapped) == full | lora
    assert not any("lora" in n for n, _ in wrapped.named_parameters() if "visual_model" in n)
    assert not any("lora" in n for n, _ in wrapped.named_parameters() if "vision_tower" in n)


def test_without_rank_there_is_no_lora(reader):
    full = in_full(reader)
    model = add_lora(reader.model, r=0)
    assert model is reader.model is unwrap(model) is merge(model)
    assert trainable(model) == full


def test_a_frozen_mask_decoder_stays_frozen(reader):
    reader.model.config.train_mask_decoder = False
    assert not any("visual_model" in name for name in trainable(add_lora(reader.model, r=2)))


def test_other_targets(reader):
    wrapped = add_lora(reader.model, r=2, target_modules="k_proj, up_proj")
    found = {
        name.split(".lora_")[0].rsplit(".", 1)[1] for name in trainable(wrapped) if "lora" in name
    }
    assert found == {"k_proj", "up_proj"}


def test_unknown_targets_are_named(reader):
    with pytest.raises(InputError, match="names qkv; the LLM has .*q_proj"):
        add_lora(reader.model, r=2, target_modules="q_proj,qkv")


def test_merging_changes_no_answer(talking, image):
    wrapped = add_lora(talking.model, r=4)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    wrapped.eval()
    before = Reader(unwrap(wrapped), talking.tokenizer)
    plain = {n: p.clone() for n, p in before.model.named_parameters() if "q_proj.base" in n}
    given = before.segment(image, QUESTION, max_new_tokens=6)
    forced = before.segment(image, QUESTION, answer=POSITIVE_ANSWER)

    merged = merge(copy.deepcopy(wrapped))
    assert not any("lora" in name for name, _ in merged.named_parameters())
    moved = merged.model.layers[0].self_attn.q_proj.weight
    assert not torch.equal(moved, plain["model.layers.0.self_attn.q_proj.base_layer.weight"])
    after = Reader(merged, talking.tokenizer)
    assert after.segment(image, QUESTION, max_new_tokens=6).token_ids == given.token_ids
    again = after.segment(image, QUESTION, answer=POSITIVE_ANSWER)
    assert np.abs(again.segments[0].logits - forced.segments[0].logits).max() < 1e-3
    assert (again.mask != forced.mask).mean() <= 1e-3

"""Memory that a training needs: parameter counts against real models, formulas by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from model.loading.from_options import build_model
from model.loading.lora import unwrap
from model.loading.memory import GIB, Memory, activations, memory
from model.loading.meta_model import clip_model, count_parts, llm_config, training_model
from model.loading.quantization import OVERHEAD
from utils import memory as command
from utils.cli import parser
from utils.cli.options import TrainOptions
from utils.cli.parser import REPOSITORY
from utils.errors import InputError

STORED = {
    "7b": {
        "embed_tokens": 131084288,
        "LLM layers": 6476267520 + 4096,
        "projector": 20979712,
        "SAM image encoder": 637026048,
        "SAM prompt encoder": 6476 - 256,  # without the buffer of random frequencies
        "SAM mask decoder": 4058340,
        "text_hidden_fcs": 17830144,
        "lm_head": 131084288,
    },
    "13b": {
        "embed_tokens": 163855360,
        "LLM layers": 12688179200 + 5120,
        "projector": 31467520,
        "SAM image encoder": 637026048,
        "SAM prompt encoder": 6476 - 256,
        "SAM mask decoder": 4058340,
        "text_hidden_fcs": 27530496,
        "lm_head": 163855360,
    },
}
"""Sums over the tensors of the released checkpoints."""


def options(**changes) -> TrainOptions:
    return dataclasses.replace(TrainOptions(), **changes)


def need(chosen: TrainOptions, stage: int, gpus: int) -> Memory:
    return memory(chosen, training_model(chosen), stage, gpus)


@pytest.mark.parametrize("size", STORED)
def test_parts_as_in_the_released_checkpoints(size):
    chosen = options(version=f"liuhaotian/llava-v1.5-{size}")
    model = training_model(chosen)
    assert all(parameter.is_meta for parameter in model.parameters())
    found = {part.name: part.parameters for part in count_parts(model)}
    assert {name: found[name] for name in STORED[size]} == STORED[size]
    assert found["CLIP"] == 303_507_456  # of the published ViT-L/14-336


@pytest.mark.parametrize("rank", [0, 16])
def test_parts_as_in_the_tiny_model(rank):
    chosen = parser.load(TrainOptions, REPOSITORY / "configs" / "tiny.yaml")
    chosen = dataclasses.replace(chosen, lora_r=rank)
    model, _ = build_model(chosen.model, chosen.lora, chosen.sasp, chosen.losses)
    expected = {
        name: (value.shape, value.requires_grad) for name, value in unwrap(model).named_parameters()
    }
    meta = training_model(chosen)
    assert {n: (p.shape, p.requires_grad) for n, p in meta.named_parameters()} == expected
    parts = count_parts(meta)
    assert sum(part.parameters for part in parts) == sum(p.numel() for p in model.parameters())
    assert sum(part.trained for part in parts) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    assert (parts[1].name, parts[1].parameters > 0) == ("LoRA", rank > 0)


def test_a_released_folder_holds_its_added_tokens(micro_merged, micro_parts):
    assert llm_config(str(micro_merged)).vocab_size == 803
    assert llm_config(str(micro_parts.llava)).vocab_size == 803
    assert clip_model(str(micro_parts.clip)).config.image_size == 56


def test_formulas_by_hand():
    chosen = options(lora_r=8)
    trained = 131084288 * 2 + 32 * 8 * 4 * 4096 + 4058340 + 17830144
    frozen = 6476271616 + 20979712 + 303507456 + 637026048 + 6220
    one = need(chosen, 1, 1)
    assert one.weights == 2 * (trained + frozen)
    assert one.optimiser == 12 * trained
    assert one.gradients == (4 + 2 + 2) * trained
    two = need(chosen, 2, 8)
    assert two.weights == one.weights and two.optimiser == 12 * trained / 8
    assert two.gradients == (4 + 2 + 2 / 8) * trained
    three = need(chosen, 3, 8)
    assert three.weights == pytest.approx(2 * (trained + frozen) / 8 + 2e9 * 7 / 8)
    assert three.gradients == (2 + 8 / 8) * trained
    assert need(chosen, 3, 1).weights == pytest.approx(one.weights)
    full = need(options(precision="fp32"), 2, 1)
    assert (full.weights, full.optimiser) == (2 * one.weights, 8 * trained)


def test_more_gpus_and_higher_stages_need_less():
    model = training_model(options())
    totals = [[memory(options(), model, s, n).total for n in (2, 4, 8)] for s in (1, 2, 3)]
    assert all(row == sorted(row, reverse=True) for row in totals)
    for column in zip(*totals, strict=True):
        assert list(column) == sorted(column, reverse=True)


def test_gradient_checkpointing_and_quantisation_save_memory():
    model = training_model(options())
    kept = activations(options(gradient_checkpointing=False), model)
    assert activations(options(), model) < kept / 4
    assert activations(options(batch_size=4), model) == 2 * activations(options(), model)
    whole = memory(options(), model, 2, 1).weights
    assert memory(options(load_in_4bit=True), model, 2, 1).weights < 0.45 * whole
    parts = {bits: {part.name: part.weights for part in count_parts(model, bits)}
             for bits in (None, 8, 4)}  # fmt: skip
    linear, norms = 32 * (4 * 4096**2 + 3 * 4096 * 11008), (32 * 2 + 1) * 4096
    for bits in (4, 8):
        layers = parts[bits].pop("LLM layers")
        assert layers == pytest.approx(linear * bits / 8 * OVERHEAD + 2 * norms)
    assert parts[None].pop("LLM layers") == 2 * (linear + norms)
    assert parts[4] == parts[8] == parts[None]


@pytest.mark.parametrize("preset", sorted((REPOSITORY / "configs").glob("read_*.yaml")))
def test_headers_tell_what_is_computed(preset):
    """`# Memory: ... 20.1 GiB on each of 8 GPUs` is the number of this very configuration."""
    chosen = parser.load(TrainOptions, preset)
    (line,) = [li for li in preset.read_text("utf-8").splitlines() if li.startswith("# Memory:")]
    model = training_model(chosen)
    for gpus in (8, 4):
        total = memory(chosen, model, chosen.zero_stage, gpus).total / GIB
        assert f"{total:.1f} GiB on each of {gpus} GPUs" in line


def test_the_table(capsys):
    preset = str(REPOSITORY / "configs" / "read_7b.yaml")
    assert command.main([preset, "--gpus", "2", "16"]) == 0
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    rows = [line for line in lines if len(line) == 7 and line[1] in ("2", "16")]
    assert [row[0] for row in rows] == ["1", "1", "2*", "2*", "3", "3"]
    for row in rows:
        assert float(row[-1]) == pytest.approx(sum(map(float, row[2:-1])), abs=0.03)
    assert "6,476,271,616" in said and "gradient checkpointing" in said


def test_mistakes(capsys, tmp_path: Path):
    assert command.main([str(tmp_path / "none.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err
    preset = str(REPOSITORY / "configs" / "read_7b.yaml")
    assert command.main([preset, "--gpus", "0"]) == 2
    with pytest.raises(InputError, match="neither 7B nor 13B"):
        llm_config("someone/llava-v1.6-34b")
    with pytest.raises(InputError, match="known are clip-vit"):
        clip_model("google/siglip")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(InputError, match="hidden_size"):
        llm_config(str(tmp_path))
    with pytest.raises(InputError, match="hidden_size"):
        clip_model(str(tmp_path))
    with pytest.raises(InputError, match="--lora_target_modules names wrong"):
        training_model(options(lora_target_modules="wrong"))
    with pytest.raises(InputError, match="out_dim is 64"):
        training_model(options(out_dim=64))

"""Memory that a training needs: parameter counts against real models, formulas by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from model.loading import memory
from model.loading.from_options import build_model
from model.loading.memory import GIB, activations, parts, sizes_of
from model.loading.model_sizes import clip_sizes, llm_sizes
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


@pytest.mark.parametrize("size", STORED)
def test_parts_as_in_the_released_checkpoints(size):
    chosen = options(version=f"liuhaotian/llava-v1.5-{size}")
    found = {part.name: part.parameters for part in parts(chosen, sizes_of(chosen))}
    assert {name: found[name] for name in STORED[size]} == STORED[size]
    assert found["CLIP"] == 303_507_456  # what transformers counts for ViT-L/14-336


@pytest.mark.parametrize("rank", [0, 16])
def test_parts_as_in_the_tiny_model(rank):
    chosen = parser.load(TrainOptions, REPOSITORY / "configs" / "tiny.yaml")
    chosen = dataclasses.replace(chosen, lora_r=rank)
    model, _ = build_model(chosen.model, chosen.lora, chosen.sasp, chosen.losses)
    real = list(model.parameters())
    found = parts(chosen, sizes_of(chosen))
    assert sum(part.parameters for part in found) == sum(p.numel() for p in real)
    trained = sum(p.numel() for p in real if p.requires_grad)
    assert sum(part.trained for part in found) == trained


def test_a_released_folder_holds_its_added_tokens(micro_merged, micro_parts):
    assert llm_sizes(str(micro_merged)).vocabulary == 803
    assert llm_sizes(str(micro_parts.llava)).vocabulary == 803
    assert clip_sizes(str(micro_parts.clip)).patches == 16


def test_formulas_by_hand():
    chosen = options(lora_r=8)
    trained = 131084288 * 2 + 32 * 8 * 4 * 4096 + 4058340 + 17830144
    frozen = 6476271616 + 20979712 + 303507456 + 637026048 + 6220
    one = memory.memory(chosen, 1, 1)
    assert one.weights == 2 * (trained + frozen)
    assert one.optimiser == 12 * trained
    assert one.gradients == (4 + 2 + 2) * trained
    two = memory.memory(chosen, 2, 8)
    assert two.weights == one.weights and two.optimiser == 12 * trained / 8
    assert two.gradients == (4 + 2 + 2 / 8) * trained
    three = memory.memory(chosen, 3, 8)
    assert three.weights == pytest.approx(2 * (trained + frozen) / 8 + 2e9 * 7 / 8)
    assert three.gradients == (2 + 8 / 8) * trained
    assert memory.memory(chosen, 3, 1).weights == pytest.approx(one.weights)
    full = memory.memory(options(precision="fp32"), 2, 1)
    assert (full.weights, full.optimiser) == (2 * one.weights, 8 * trained)


def test_more_gpus_and_higher_stages_need_less():
    totals = [[memory.memory(options(), s, n).total for n in (2, 4, 8)] for s in (1, 2, 3)]
    assert all(row == sorted(row, reverse=True) for row in totals)
    for column in zip(*totals, strict=True):
        assert list(column) == sorted(column, reverse=True)


def test_gradient_checkpointing_and_quantisation_save_memory():
    sizes = sizes_of(options())
    kept = activations(options(gradient_checkpointing=False), sizes)
    assert activations(options(), sizes) < kept / 4
    assert activations(options(batch_size=4), sizes) == 2 * activations(options(), sizes)
    whole = memory.memory(options(), 2, 1).weights
    assert memory.memory(options(load_in_4bit=True), 2, 1).weights < 0.45 * whole


@pytest.mark.parametrize("preset", sorted((REPOSITORY / "configs").glob("read_*.yaml")))
def test_headers_tell_what_is_computed(preset):
    """`# Memory: ... 20.1 GiB on each of 8 GPUs` is the number of this very configuration."""
    chosen = parser.load(TrainOptions, preset)
    (line,) = [li for li in preset.read_text("utf-8").splitlines() if li.startswith("# Memory:")]
    for gpus in (8, 4):
        need = memory.memory(chosen, chosen.zero_stage, gpus).total / GIB
        assert f"{need:.1f} GiB on each of {gpus} GPUs" in line


def test_the_table(capsys):
    preset = str(REPOSITORY / "configs" / "read_7b.yaml")
    assert memory.main([preset, "--gpus", "2", "16"]) == 0
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    rows = [line for line in lines if len(line) == 7 and line[1] in ("2", "16")]
    assert [row[0] for row in rows] == ["1", "1", "2*", "2*", "3", "3"]
    for row in rows:
        assert float(row[-1]) == pytest.approx(sum(map(float, row[2:-1])), abs=0.03)
    assert "6,476,271,616" in said and "gradient checkpointing" in said


def test_mistakes(capsys, tmp_path: Path):
    assert memory.main([str(tmp_path / "none.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err
    preset = str(REPOSITORY / "configs" / "read_7b.yaml")
    assert memory.main([preset, "--gpus", "0"]) == 2
    with pytest.raises(InputError, match="neither 7B nor 13B"):
        llm_sizes("someone/llava-v1.6-34b")
    with pytest.raises(InputError, match="known are clip-vit"):
        clip_sizes("google/siglip")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(InputError, match="hidden_size"):
        llm_sizes(str(tmp_path))
    with pytest.raises(InputError, match="hidden_size"):
        clip_sizes(str(tmp_path))
    with pytest.raises(InputError, match="LoRA on wrong"):
        memory.memory(options(lora_target_modules="wrong"), 2, 1)

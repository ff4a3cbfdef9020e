"""The original's merging script, on weights as zero_to_fp32.py and real peft name them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from deepspeed.utils.zero_to_fp32 import convert_zero_checkpoint_to_fp32_state_dict
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

import merge_lora_weight
import merge_lora_weights_and_save_hf_model as original
import train_read
from model.loading.builder import build_for_training
from tests.conftest import MICRO_SAM
from utils.cli.train_flags import ModelOptions

pytestmark = pytest.mark.slow

RANK = 4


@pytest.fixture
def flags(micro_parts, tmp_path) -> list[str]:
    """As the original's readers type them; the last two tell the sizes of the small SAM."""
    sizes = {k: v for k, v in MICRO_SAM.items() if k != "image_size"}
    return [
        f"--version={micro_parts.llava}",
        f"--vision-tower={micro_parts.clip}",
        f"--vision_pretrained={micro_parts.sam}",
        "--precision=fp32",
        "--model_max_length=512",
        f"--lora_r={RANK}",
        "--lora_alpha=16",
        "--lora_dropout=0.05",
        "--lora_target_modules=q_proj,v_proj",
        "--local-rank=0",
        "--train_mask_decoder",
        "--use_mm_start_end",
        "--conv_type=llava_v1",
        "--vis_save_path=./vis_output",
        f"--save_path={tmp_path / 'merged'}",
        "--out_dim=32",
        f"--sam={json.dumps(sizes)}",
        "--image_size=64",
        "--sasp_down_sample=1",
    ]


def by_peft(micro_parts) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(every weight of a model that real peft wrapped, with its names; what peft merges)."""
    torch.manual_seed(3)
    model, _, _ = build_for_training(
        ModelOptions(
            version=micro_parts.llava,
            vision_tower=micro_parts.clip,
            vision_pretrained=micro_parts.sam,
            sam=MICRO_SAM,
            out_dim=32,
            precision="fp32",
        )
    )
    layers = r"model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
    wrapped = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=16, target_modules=layers))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "vision_tower" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    state = {name: value.clone() for name, value in wrapped.state_dict().items()}
    return state, wrapped.merge_and_unload().state_dict()


def assert_equal(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == {name for name in expected if "vision_tower" not in name}
    for name, value in stored.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("old_names", [True, False], ids=["peft 0.4", "peft of today"])
def test_every_weight_in_one_file(micro_parts, flags, tmp_path, capsys, old_names):
    state, expected = by_peft(micro_parts)
    if old_names:
        state = {name.replace(".base_layer.", "."): value for name, value in state.items()}
        state["base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    assert all(name.startswith("base_model.model.") for name in state)
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight" in state
    torch.save(state, tmp_path / "pytorch_model.bin")
    weight = f"--weight={tmp_path / 'pytorch_model.bin'}"
    assert original.main([*flags, weight]) == 0
    assert_equal(tmp_path / "merged", expected)
    assert f"{tmp_path}: pytorch_model.bin" in capsys.readouterr().out


@pytest.fixture
def run(write_preset, tmp_path) -> Path:
    """A short training's folder."""
    preset = write_preset(epochs=1, steps_per_epoch=2)
    assert train_read.main(["--config", str(preset), "--no_eval"]) == 0
    return tmp_path / "runs" / "read"


@pytest.mark.parametrize("size", ["5GB", "30KB"], ids=["one file", "several files"])
def test_the_trained_weights_of_a_run_alone(run, flags, tmp_path, size):
    assert merge_lora_weight.main(["--exp_dir", str(run)]) == 0
    store = run / "ckpt_model"
    convert_zero_checkpoint_to_fp32_state_dict(
        str(store),
        str(tmp_path / "fp32"),
        max_shard_size=size,
        tag=(store / "latest").read_text(),
        exclude_frozen_parameters=True,
    )
    names = sorted(path.name for path in (tmp_path / "fp32").iterdir())
    assert (len(names) > 2) == (size == "30KB")
    weight = tmp_path / "fp32"
    assert (
        original.main([*flags, "--weight", str(weight / names[0] if size == "5GB" else weight)])
        == 0
    )
    expected = load_file(run / "merged" / "model.safetensors")
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], expected[name]) for name in expected)
    read = json.loads((run / "merged" / "config.json").read_text())
    assert json.loads((tmp_path / "merged" / "config.json").read_text()) == read


def test_what_does_not_fit_is_named(micro_parts, flags, tmp_path, capsys):
    state, _ = by_peft(micro_parts)
    gone = state.pop("base_model.model.lm_head.weight")
    state["base_model.model.lm_head.surprise"] = gone
    torch.save(state, tmp_path / "a.bin")
    flags = [flag for flag in flags if "lora_r=" not in flag]
    code = original.main([*flags, "--lora_r=2", f"--weight={tmp_path / 'a.bin'}"])
    said = capsys.readouterr().err
    assert code == 2 and "1 missing: lm_head.weight" in said
    assert "1 unexpected: base_model.model.lm_head.surprise" in said
    assert "8 of another size" in said and "[4, 32] instead of [2, 32]" in said
    assert "Give the --version, --lora_r" in said and not (tmp_path / "merged").exists()


def test_mistakes_in_the_flags(flags, tmp_path, capsys):
    (tmp_path / "merged").mkdir()
    with pytest.raises(SystemExit) as left:
        original.main([*flags, "--weight=/nowhere.bin", "--load_in_4bit"])
    said = capsys.readouterr().err
    assert left.value.code == 2
    for part in ("--weight=/nowhere.bin: does not exist", "zero_to_fp32.py", "--load_in_4bit"):
        assert part in said
    assert f"--save_path={tmp_path / 'merged'}: exists and is no merged model" in said

"""A trained LoRA as an adapter folder, on bases with and without SAM."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model import SaspParams, load_read
from model.inference.reader import Reader
from model.loading.adapter import PARTS_FILE, SETTINGS_FILE, save_adapter
from model.loading.builder import build_for_training
from model.loading.lora import add_lora, merge
from tests.conftest import MICRO_SAM
from tests.model.conftest import QUESTION
from tests.released_layouts import LAYOUTS, write_layout
from utils.cli.train_flags import ModelOptions
from utils.errors import InputError
from utils.protocol.conversation import POSITIVE_ANSWER

PARAMS = SaspParams(num_points=9, down_sample=1)


@pytest.fixture(params=["llava-v1.5-7b", "READ-7B"])
def trained(request, micro_parts, tmp_path):
    """(base folder, adapter folder, the same model merged, SAM file or None)."""
    (layout,) = [layout for layout in LAYOUTS if layout.name == request.param]
    base, sam = tmp_path / "base", None if layout.has_masks else micro_parts.sam
    write_layout(base, layout, micro_parts)
    built = build_for_training(
        ModelOptions(
            version=base,
            vision_tower=None,
            vision_pretrained=sam,
            sam=MICRO_SAM,
            out_dim=32,
            precision="fp32",
        ),
        PARAMS,
    )
    torch.manual_seed(3)
    model = add_lora(built.model, r=2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    save_adapter(model, tmp_path / "adapter")
    return base, tmp_path / "adapter", Reader(merge(model).eval(), built.tokenizer), sam


def test_an_adapter_on_its_base_is_the_trained_model(trained, image):
    base, adapter, merged, sam = trained
    reader = load_read(base, adapter=adapter, vision_pretrained=sam)
    state = reader.model.state_dict()
    for name, value in merged.model.state_dict().items():
        assert torch.equal(state[name], value), name
    assert reader.model.config.sasp_params == PARAMS
    one = merged.segment(image, QUESTION, answer=POSITIVE_ANSWER)
    other = reader.segment(image, QUESTION, answer=POSITIVE_ANSWER)
    assert one.token_ids == other.token_ids and np.array_equal(one.mask, other.mask)


def test_the_folder_is_a_standard_one_and_small(trained):
    base, adapter, _, _ = trained
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert settings["peft_type"] == "LORA" and settings["r"] == 2
    assert settings["base_model_name_or_path"] == str(base)
    assert all("lora_" in name for name in load_file(adapter / "adapter_model.safetensors"))
    parts = load_file(adapter / PARTS_FILE)
    kinds = ("lm_head", "embed_tokens", "mask_decoder", "text_hidden_fcs")
    assert all(any(kind in name for kind in kinds) for name in parts)
    assert all(any(kind in name for name in parts) for kind in kinds)


def test_a_folder_that_is_no_adapter(trained, tmp_path):
    base, adapter, _, sam = trained
    with pytest.raises(InputError, match=r"no adapter folder of READ: it lacks adapter_config"):
        load_read(base, adapter=tmp_path / "nothing", vision_pretrained=sam)
    copy = shutil.copytree(adapter, tmp_path / "copy")
    (copy / PARTS_FILE).write_bytes((copy / PARTS_FILE).read_bytes()[:500])
    with pytest.raises(InputError, match="copy does not fit"):
        load_read(base, adapter=copy, vision_pretrained=sam)
    (copy / SETTINGS_FILE).write_text("[]")
    with pytest.raises(InputError, match=f"{SETTINGS_FILE} is damaged"):
        load_read(base, adapter=copy, vision_pretrained=sam)


def test_an_adapter_of_another_base(trained, micro_parts, tmp_path):
    _, adapter, _, _ = trained
    (wide,) = [layout for layout in LAYOUTS if layout.name == "READ-13B"]
    write_layout(tmp_path / "wide", wide, micro_parts)
    with pytest.raises(InputError, match="does not fit .*wide"):
        load_read(tmp_path / "wide", adapter=adapter)


def test_a_model_without_lora_has_no_adapter(trained, tmp_path):
    with pytest.raises(InputError, match="has no LoRA"):
        save_adapter(trained[2].model, tmp_path / "none")

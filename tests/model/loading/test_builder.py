"""Loading, saving, and what is said when weights are missing or do not fit."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from model import ReadConfig, ReadForCausalLM, SaspParams, load_read
from model.loading.builder import build_for_training, save_model
from model.loading.weight_file import load_sam_weights
from model.sam import SamModel, sam_sizes
from tests.model.conftest import QUESTION
from tests.released_tiny import CLIP, SAM, SMALL_SAM, write_released
from utils.cli.train_flags import ModelOptions
from utils.errors import InputError
from utils.protocol.conversation import POSITIVE_ANSWER


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return write_released(tmp_path_factory.mktemp("released") / "tiny")


@pytest.fixture
def copied(small_folder, tmp_path):
    """A copy of the checkpoint to damage."""
    return shutil.copytree(small_folder, tmp_path / "copy")


def same_state(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype and torch.equal(value, second[name]), name


def test_saved_and_loaded_again_it_is_the_same(reader, image, tmp_path):
    params = SaspParams(num_points=11, t_pos=0.7, down_sample=1)
    reader.model.config.sasp_params = params
    with torch.no_grad():
        reader.model.lm_head.weight += 0.01
    save_model(reader.model, reader.tokenizer, tmp_path / "saved")
    again = load_read(tmp_path / "saved")
    same_state(reader.model, again.model)
    assert again.model.config.sasp_params == params
    assert again.model.config.sam == reader.model.config.sam
    one = reader.segment(image, QUESTION, answer=POSITIVE_ANSWER)
    two = again.segment(image, QUESTION, answer=POSITIVE_ANSWER)
    assert np.array_equal(one.segments[0].logits, two.segments[0].logits)
    assert len(two.segments[0].points) == 11
    assert one.token_ids == two.token_ids


def test_a_saved_folder_may_be_moved(copied, image, small_folder):
    """CLIP travels inside; safetensors only, and no weight of CLIP among ours."""
    names = {file.name for file in copied.iterdir()}
    assert "model.safetensors" in names and not any(name.endswith(".bin") for name in names)
    assert not any("vision_tower" in name for name in load_file(copied / "model.safetensors"))
    moved = copied.rename(copied.parent / "elsewhere")
    answer = load_read(moved).segment(image, QUESTION, answer=POSITIVE_ANSWER)
    assert answer.segments
    config = json.loads((moved / "config.json").read_text())
    assert config["mm_vision_tower"] == "vision_tower"


def test_a_released_folder_becomes_one_of_ours(released, image, tmp_path):
    """The SAM sizes and CLIP folder that the user had to name are named no more."""
    reader = load_read(released, vision_tower=CLIP, sam=SAM)
    save_model(reader.model, reader.tokenizer, tmp_path / "ours")
    same_state(reader.model, load_read(tmp_path / "ours").model)


def test_auto_classes_know_read(small_folder, reader):
    config = AutoConfig.from_pretrained(small_folder)
    assert type(config) is ReadConfig and config.sam == reader.model.config.sam
    model = AutoModelForCausalLM.from_pretrained(small_folder)
    assert type(model) is ReadForCausalLM
    same_state(model, reader.model)


def test_sasp_of_the_caller_wins(small_folder):
    params = SaspParams(num_points=7)
    assert load_read(small_folder, sasp=params).model.config.sasp_params == params
    assert load_read(small_folder).model.config.sasp_params == SaspParams()


def test_missing_weights_are_listed(copied):
    weights = load_file(copied / "model.safetensors")
    lost = ["lm_head.weight", "model.text_hidden_fcs.0.2.bias"]
    kept = {name: value for name, value in weights.items() if name not in lost}
    save_file(kept, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="lacks 2 weights") as caught:
        load_read(copied)
    assert all(name in str(caught.value) for name in lost)


def test_other_sam_sizes_are_an_error(released):
    with pytest.raises(InputError, match="another size") as caught:
        load_read(released, vision_tower=CLIP, sam={**SAM, "embed_dim": 64})
    assert "sam=" in str(caught.value) and "visual_model.image_encoder" in str(caught.value)
    with pytest.raises(InputError, match=r"lacks|another size"):
        load_read(released, vision_tower=CLIP, sam={**SAM, "depth": 3})


@pytest.mark.parametrize(
    ("sam", "message"),
    [
        ("vit_x", "choose one of vit_h, vit_l, vit_b"),
        ({"embed_dim": 32}, "missing"),
        ({**SAM, "width": 3}, "unknown"),
        ({**SAM, "image_size": 1000}, "multiple of 16"),
        ({**SAM, "prompt_dim": 64}, "out_dim is 256"),
    ],
)
def test_unusable_sam_settings(small_folder, sam, message):
    with pytest.raises(InputError, match=message):
        load_read(small_folder, sam=sam)


def test_unusable_folders(copied, tmp_path):
    with pytest.raises(InputError, match="no checkpoint at .*nowhere"):
        load_read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no checkpoint at .*empty"):
        load_read(tmp_path / "empty")
    with pytest.raises(InputError, match="CLIP tower"):
        load_read(copied, vision_tower=tmp_path / "empty")
    (copied / "tokenizer.model").unlink()
    with pytest.raises(InputError, match=r"no tokenizer\.model in"):
        load_read(copied)


def test_cut_weights(copied):
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(InputError, match="cannot load .*copy"):
        load_read(copied)


def test_unusable_settings(copied, small_folder):
    with pytest.raises(InputError, match="'fp12' is unknown"):
        load_read(small_folder, dtype="fp12")
    with pytest.raises(InputError, match="needs a GPU"):
        load_read(small_folder, device="cpu", load_in_4bit=True)
    config = json.loads((copied / "config.json").read_text())
    config["sasp"] = {"number": 3}
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="stored SasP settings"):
        load_read(copied)


def start_training(folder, **given):
    """A training that starts from a folder with its own CLIP and SAM."""
    return build_for_training(ModelOptions(folder, vision_tower=None, sam=None, **given))


@pytest.mark.parametrize(
    ("load", "settings", "message"),
    [
        (load_read, {"device": "cpu", "dtype": "bf16"}, "needs a GPU, and the device is a CPU"),
        (load_read, {"device": "cuda"}, "computes in bf16 or fp16, and the dtype is torch.float32"),
        (load_read, {"device": "cuda", "dtype": "bf16"}, "pip install flash-attn"),
        (start_training, {"precision": "fp32"}, "computes in bf16 or fp16"),
        (start_training, {"precision": "bf16"}, "pip install flash-attn"),
    ],
)
def test_flash_attention_is_refused_before_loading(
    small_folder, monkeypatch, load, settings, message
):
    """The small checkpoint says float32, which "auto" takes on a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(
        "model.loading.builder.weight_files", lambda path: pytest.fail("loading began")
    )
    with pytest.raises(InputError, match=message) as caught:
        load(small_folder, attn_implementation="flash_attention_2", **settings)
    assert "choose sdpa" in str(caught.value)


@pytest.mark.parametrize(("dtype", "expected"), [("bf16", torch.bfloat16), ("auto", torch.float32)])
def test_dtypes(small_folder, dtype, expected):
    model = load_read(small_folder, dtype=dtype, device="cpu").model
    assert model.dtype == expected == model.model.vision_tower.clip.dtype
    assert {p.dtype for p in model.parameters()} == {expected}


def stored(folder, **changes) -> ModelOptions:
    """A folder with its own CLIP and SAM, as it is."""
    given = {"vision_tower": None, "sam": None, "precision": "fp32", **changes}
    return ModelOptions(folder, out_dim=ReadConfig.from_pretrained(folder).out_dim, **given)


def test_training_starts_from_a_checkpoint_with_everything(small_folder, reader):
    start = stored(small_folder)
    model, tokenizer, report = build_for_training(start, gradient_checkpointing=False)
    same_state(model, reader.model)
    assert len(tokenizer) == 803
    assert any("all 803 rows" in line for line in report)
    fresh, _, report = build_for_training(stored(small_folder, use_released_param=False))
    name = "model.text_hidden_fcs.0.0.weight"
    assert not torch.equal(fresh.state_dict()[name], model.state_dict()[name])
    assert any("newly initialised" in line for line in report)


def test_sam_checkpoints(tmp_path):
    sizes = sam_sizes(SMALL_SAM)
    source, target = SamModel(sizes), SamModel(sizes)
    path = tmp_path / "sam.pth"
    torch.save(source.state_dict(), path)
    assert len(load_sam_weights(target, path)) == len(source.state_dict())
    same_state(source, target)
    with pytest.raises(InputError, match="no SAM checkpoint of these sizes"):
        load_sam_weights(SamModel(sam_sizes({**SMALL_SAM, "embed_dim": 16})), path)
    with pytest.raises(InputError, match="no SAM weights at"):
        load_sam_weights(target, tmp_path / "nothing.pth")
    path.write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"sam\.pth"):
        load_sam_weights(target, path)

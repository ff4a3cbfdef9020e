"""4 and 8 bits: what is asked for is checked first, and only the decoder's layers are quantised.

bitsandbytes itself needs a GPU; what transformers would hand it is read from its settings here.
"""

import importlib.metadata

import pytest
import torch
from torch import nn
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from model import load_read
from model.loading import builder
from model.loading.builder import build_for_training
from model.loading.quantization import KEPT_PARTS, check_quantization, quantization
from utils.cli.train_flags import ModelOptions
from utils.errors import InputError

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def bitsandbytes(monkeypatch):
    """Let the package seem to be installed."""
    version = importlib.metadata.version
    monkeypatch.setattr(
        "importlib.metadata.version",
        lambda name: "0.48.0" if name == "bitsandbytes" else version(name),
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "bitsandbytes")


@pytest.mark.parametrize(
    ("asked", "device", "message"),
    [
        ({"load_in_4bit": True}, CPU, "load_in_4bit needs a GPU .*leave it out"),
        ({"load_in_8bit": True}, CPU, "load_in_8bit needs a GPU .*leave it out"),
        ({"load_in_4bit": True, "load_in_8bit": True}, GPU, "exclude each other; give one"),
        (
            {"load_in_8bit": True},
            GPU,
            "load_in_8bit needs the package bitsandbytes: pip install bitsandbytes",
        ),
    ],
)
def test_what_cannot_be_had(monkeypatch, asked, device, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=message):
        check_quantization(**{"load_in_4bit": False, "load_in_8bit": False, **asked}, device=device)


def test_what_can(bitsandbytes):
    check_quantization(False, False, CPU)
    check_quantization(True, False, GPU)
    check_quantization(False, True, GPU)


def start_training(folder, **given):
    """A training that starts from a folder with its own CLIP and SAM."""
    return build_for_training(ModelOptions(folder, vision_tower=None, sam=None, **given))


@pytest.mark.parametrize("build", [load_read, start_training])
def test_nothing_is_read_before_the_check(monkeypatch, small_folder, build):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(builder, "_config", lambda path: pytest.fail("something was read"))
    with pytest.raises(InputError, match="load_in_4bit needs a GPU"):
        build(small_folder, load_in_4bit=True)


def test_settings(bitsandbytes):
    assert quantization(False, False, torch.float16) is None
    four = quantization(True, False, torch.float16)
    assert four.quantization_method() == "nf4" and four.bnb_4bit_compute_dtype == torch.float16
    assert four.bnb_4bit_use_double_quant
    assert quantization(False, True, torch.bfloat16).quantization_method() == "llm_int8"


def test_only_the_layers_of_the_decoder_are_quantised(bitsandbytes, reader):
    settings = quantization(True, False, torch.bfloat16)
    kept = HfQuantizer.get_modules_to_not_convert(reader.model, settings.llm_int8_skip_modules)
    chosen = {
        name
        for name, module in reader.model.named_modules()
        if type(module) is nn.Linear and should_convert_module(name, kept)
    }
    layers = reader.model.config.num_hidden_layers
    assert len(chosen) == 7 * layers
    assert all(name.startswith("model.layers.") for name in chosen)
    for part in KEPT_PARTS:
        reader.model.get_submodule(part)


def test_the_model_is_loaded_with_these_settings(bitsandbytes, monkeypatch, small_folder):
    """Up to the call that only a GPU can answer."""
    given = {}

    def from_pretrained(path, **kwargs):
        given.update(kwargs)
        raise RuntimeError("no GPU here")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("model.loading.free_memory.free_memory", lambda device: None)
    monkeypatch.setattr(builder.ReadForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(InputError, match="no GPU here"):
        start_training(small_folder, load_in_8bit=True)
    assert given["quantization_config"].load_in_8bit
    assert given["quantization_config"].llm_int8_skip_modules == list(KEPT_PARTS)
    assert given["dtype"] == torch.bfloat16 and given["device_map"] == {"": GPU}

"""What does not fit into the memory is refused before anything is read, and only that."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from model import ReadConfig, load_read
from model.loading import weights
from model.loading.builder import build_for_training
from model.loading.free_memory import check_memory, largest_unmapped, weight_bytes
from model.loading.meta_model import clip_model
from model.loading.weights import empty_model
from tests.released_tiny import CLIP, GOLDEN
from utils.cli.train_flags import ModelOptions
from utils.errors import InputError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
CLIP_PARAMETERS = 303_507_456
"""Of CLIP ViT-L/14-336's vision model, as published."""

SIZES_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32003,
    "mm_hidden_size": 1024,
    "torch_dtype": "bfloat16",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "vision_tower": "openai/clip-vit-large-patch14-336",
}


@pytest.fixture
def free(monkeypatch):
    """A function that sets the free memory of all devices, in GB."""

    def set_free(gigabytes: float) -> None:
        monkeypatch.setattr("model.loading.free_memory.free_memory", lambda device: gigabytes * 1e9)

    return set_free


@pytest.fixture
def released_7b(tmp_path) -> Path:
    """Everything of a released 7B folder but the values of its two shards: holes of their size."""
    folder = tmp_path / "read-7b"
    folder.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(GOLDEN / "released_tiny" / name, folder)
    config = json.loads((GOLDEN / "released_tiny" / "config.json").read_text()) | SIZES_7B
    (folder / "config.json").write_text(json.dumps(config))
    keys = json.loads((GOLDEN / "checkpoint_keys_7b.json").read_text())
    files = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    places = {name: files[place >= 200] for place, name in enumerate(keys)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    for file in files:
        with open(folder / file, "wb") as hole:
            hole.truncate(7_400_000_000)
    return folder


def parameters_7b() -> int:
    """Of the released checkpoint and CLIP."""
    keys = json.loads((GOLDEN / "checkpoint_keys_7b.json").read_text())
    return sum(math.prod(shape) for shape in keys.values()) + CLIP_PARAMETERS


def numbers(error: pytest.ExceptionInfo) -> list[float]:
    return [float(found) for found in re.findall(r"([\d.]+) GB", str(error.value))]


def test_7b_in_float32_is_refused_on_24_gb(released_7b, free):
    """A CPU's default; the kernel would kill the process while it reads."""
    free(24)
    with pytest.raises(InputError, match=r'read-7b in float32 .*dtype="bf16" \(--precision bf16\)'
                       ) as caught:  # fmt: skip
        load_read(released_7b, device="cpu")
    count = parameters_7b() / 1e9
    assert numbers(caught) == pytest.approx([4 * count, 24, 2 * count], abs=0.06)


@pytest.mark.parametrize(("dtype", "gigabytes"), [("bf16", 16.0), ("fp32", 31.0)])
def test_7b_is_not_refused_where_it_fits(released_7b, free, dtype, gigabytes):
    """The check lets it pass; then the holes turn out to be no weights."""
    free(gigabytes)
    with pytest.raises(InputError, match=r"cannot load .*model-00001-of-00002\.safetensors"):
        load_read(released_7b, device="cpu", dtype=dtype, vision_tower=CLIP)


def test_nothing_is_read_before_the_check(small_folder, free, monkeypatch):
    free(0.001)
    monkeypatch.setattr(weights, "read_tensors", lambda path: pytest.fail("weights were read"))
    start = ModelOptions(small_folder, vision_tower=None, sam=None, precision="fp32")
    for load in (lambda: load_read(small_folder), lambda: build_for_training(start)):
        with pytest.raises(InputError, match=r"needs 0\.0 GB of memory, and 0\.0 GB are free"):
            load()


def test_training_on_a_cpu_is_not_told_to_take_bf16(released_7b, free, monkeypatch):
    """A CPU trains in float32, whatever --precision says."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    free(24)
    with pytest.raises(InputError, match="smaller model or a larger machine") as caught:
        build_for_training(ModelOptions(released_7b, vision_tower=None, precision="fp32"))
    assert "bf16" not in str(caught.value)
    assert numbers(caught) == pytest.approx([4 * parameters_7b() / 1e9, 24], abs=0.06)


def test_what_is_told_is_what_a_model_takes(small_folder):
    for dtype in (torch.float32, torch.bfloat16):
        model = load_read(small_folder, dtype=dtype, device="cpu").model
        state = model.state_dict()
        taken = sum(value.numel() * value.element_size() for value in state.values())
        config = ReadConfig.from_pretrained(small_folder)
        clip = clip_model(str(small_folder / "vision_tower")).num_parameters()
        told = weight_bytes(empty_model(config, dtype), clip, dtype.itemsize)
        assert told == pytest.approx(taken, rel=1e-3)


def test_files_of_old_pytorch_are_read_whole(tmp_path, free):
    weights = {"layer": torch.zeros(250_000)}
    for name, zipped in (("new.bin", True), ("old.bin", False)):
        torch.save(weights, tmp_path / name, _use_new_zipfile_serialization=zipped)
    files = [tmp_path / "new.bin", tmp_path / "old.bin"]
    size = (tmp_path / "old.bin").stat().st_size
    assert largest_unmapped(files) == size and largest_unmapped(files[:1]) == 0
    model = empty_model(ReadConfig.from_pretrained(GOLDEN / "released_tiny"), torch.float32)
    fits = (weight_bytes(model, clip_model(str(CLIP)).num_parameters(), 4) + size / 2) / 1e9
    free(fits)
    check_memory("it", model, files[:1], CLIP, CPU)
    with pytest.raises(InputError, match="it in float32 needs"):
        check_memory("it", model, files, CLIP, CPU)
    check_memory("it", model, files, CLIP, GPU)  # it goes through the memory of the machine
    free(size / 2 / 1e9)
    with pytest.raises(InputError, match=r"old format, needs .* free on cpu"):
        check_memory("it", model, files, CLIP, GPU)


@pytest.mark.parametrize(
    ("dtype", "bits", "free_gb", "remedies"),
    [
        (torch.float32, None, 24, ["--precision bf16", "--load_in_4bit"]),
        (torch.bfloat16, None, 12, ["--load_in_4bit"]),
        (torch.bfloat16, 8, 8, ["--load_in_4bit"]),
        (torch.bfloat16, 4, 4, ["smaller model"]),
    ],
)
def test_remedies_on_a_gpu(free, dtype, bits, free_gb, remedies):
    """Each remedy that is named with its need; 4 and 8 bits count the language model's layers."""
    model = empty_model(ReadConfig(**SIZES_7B), dtype)
    tower = SIZES_7B["vision_tower"]
    free(free_gb)
    with pytest.raises(InputError, match="free on cuda:0") as caught:
        check_memory("it", model, [], tower, GPU, bits)
    assert all(remedy in str(caught.value) for remedy in remedies)
    needed, _, *lesser = numbers(caught)
    assert lesser == sorted(lesser, reverse=True) and all(value < needed for value in lesser)
    layers = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    width = dtype.itemsize if bits is None else bits / 8
    least = (layers * width + (parameters_7b() - layers) * dtype.itemsize) / 1e9
    assert least <= needed + 0.06 and needed < 1.05 * least
    free(needed + 0.1)
    check_memory("it", model, [], tower, GPU, bits)

"""Weight files: one at a time, all formats, and what is said about damaged ones."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import demo
from model.loading import weights
from model.loading.weight_file import load_sam_weights
from model.loading.weights import load_weights, read_tensors, tensor_shapes, weight_files
from model.sam import SamModel, sam_sizes
from tests.released_layouts import STORES, write_weights
from tests.released_tiny import SMALL_SAM
from tests.small_read import write_small_read
from utils.errors import InputError

MEGABYTE = 2**20
SHARDS = 4
MEASURE = """
import os, resource, sys, torch
from pathlib import Path
from torch import nn
from model.loading.weights import load_weights, weight_files

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ParameterList(nn.Parameter(torch.empty(10240, 1024)) for _ in range(4))
        self.model = nn.Module()
        self.model.rotary_emb = nn.Identity()

def load(folder):
    with torch.device("meta"):
        model = Model()
    before = resident()
    result = load_weights(model, weight_files(folder), torch.device("cpu"))
    assert not result.missing and len(result.source) == 4
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, flush=True)

for folder in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        load(folder)
        os._exit(0)
    os.waitpid(child, 0)
"""
"""Four layers of 40 MB, one in each file."""


@pytest.mark.slow
def test_the_peak_is_the_model_and_one_file(tmp_path):
    """In safetensors, and in the formats of today's PyTorch and of PyTorch before 1.6."""
    layer = 10240 * 1024 * 4
    folders = [tmp_path / store for store in ("safetensors", "new", "old")]
    for folder in folders:
        folder.mkdir()
        index = {}
        for number in range(SHARDS):
            part = {f"layers.{number}": torch.full((10240, 1024), float(number))}
            if folder.name == "safetensors":
                index[f"layers.{number}"] = f"{number}.safetensors"
                save_file(part, folder / f"{number}.safetensors")
            else:
                index[f"layers.{number}"] = f"{number}.bin"
                zipped = folder.name == "new"
                torch.save(part, folder / f"{number}.bin", _use_new_zipfile_serialization=zipped)
        write_index(folder, index, folder.name == "safetensors")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, folders)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=True,
    )
    peaks = [int(word) for word in done.stdout.split()[-3:]]
    assert len(peaks) == 3
    assert max(peaks) <= (SHARDS + 1) * layer + 10 * MEGABYTE, peaks
    assert min(peaks) >= SHARDS * layer


def write_index(folder: Path, index: dict[str, str], safe: bool) -> None:
    name = "model.safetensors.index.json" if safe else "pytorch_model.bin.index.json"
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": index}))


def few_weights() -> dict[str, torch.Tensor]:
    return {f"layer.{n}": torch.arange(6.0).reshape(2, 3) + n for n in range(5)}


@pytest.mark.parametrize("store", STORES)
def test_all_stores_hold_the_same(tmp_path, store):
    weights = few_weights()
    write_weights(tmp_path, weights, store)
    files = weight_files(tmp_path)
    assert len(files) == (3 if "shards" in store else 1)
    read = {name: tensor.clone() for file in files for name, tensor in read_tensors(file)}
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], value) for name, value in weights.items())
    shapes = {name: shape for file in files for name, shape in tensor_shapes(file).items()}
    assert shapes == {name: [2, 3] for name in weights}


def test_safetensors_come_first(tmp_path):
    write_weights(tmp_path, few_weights(), "one bin")
    write_weights(tmp_path, few_weights(), "safetensors shards")
    assert {file.suffix for file in weight_files(tmp_path)} == {".safetensors"}


@pytest.mark.parametrize("store", ["one bin", "one safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_damaged_files_are_named(tmp_path, store, damage):
    write_weights(tmp_path, few_weights(), store)
    (file,) = weight_files(tmp_path)
    content = file.read_bytes()
    file.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello"}[damage])
    for read in (lambda path: list(read_tensors(path)), tensor_shapes):
        with pytest.raises(InputError, match=f"cannot load .*{file.name}"):
            read(file)


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def write_evil(path: Path, form: str) -> Path:
    """A file that runs a command wherever pickles are trusted; returns what that would make."""
    mark = path.parent / "ran"
    if form == "pickle":
        path.write_bytes(pickle.dumps({"layer": Evil(mark)}))
    elif form == "TorchScript":
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    else:
        content = {"layer": torch.zeros(2), "more": Evil(mark)}
        torch.save(content, path, _use_new_zipfile_serialization=form == "archive")
    return mark


FORMS = ("archive", "old", "pickle", "TorchScript")
ADVICE = ("weights_only", "trust the source of the checkpoint", "can still be loaded", "Re-running")


def refused(error: BaseException, path: Path) -> bool:
    """Whether the message is ours, and no part of a shown traceback tells how to run the code."""
    shown = "".join(traceback.format_exception(error))
    message = str(error)
    assert f"cannot load {path}" in message and "nothing of it was run" in message
    return not any(advice in shown.replace("weights_only=True", "") for advice in ADVICE)


@pytest.mark.parametrize("form", FORMS)
def test_code_in_a_file_is_not_run(tmp_path, form):
    path = tmp_path / "pytorch_model.bin"
    mark = write_evil(path, form)
    with pytest.raises(InputError) as refusal:
        list(read_tensors(path))
    assert not mark.exists() and refused(refusal.value, path)
    assert form in ("pickle", "TorchScript") or "(posix.system)" in str(refusal.value)
    if form in ("archive", "old"):  # It would have been run.
        torch.load(path, weights_only=False)
        assert mark.exists()


@pytest.mark.parametrize("form", FORMS)
def test_code_in_a_file_of_sam_is_not_run(tmp_path, form):
    path = tmp_path / "sam_vit_h_4b8939.pth"
    mark = write_evil(path, form)
    with pytest.raises(InputError) as refusal:
        load_sam_weights(SamModel(sam_sizes(SMALL_SAM)), path)
    assert not mark.exists() and refused(refusal.value, path)


def test_a_model_folder_with_code_in_it_is_refused_on_the_command_line(tmp_path, capsys):
    folder = write_small_read(tmp_path / "read")
    (folder / "model.safetensors").unlink()
    mark = write_evil(folder / "pytorch_model.bin", "archive")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    given = ["--pretrained_model_path", folder, "--image", tmp_path / "a.png", "--prompt", "cat"]
    assert demo.main(list(map(str, given))) == 2
    told = capsys.readouterr().err
    assert "it names code (posix.system)" in told and "weights_only" not in told
    assert not mark.exists()


def test_a_file_is_closed_before_the_next_is_opened(tmp_path, monkeypatch):
    write_weights(tmp_path, few_weights(), "bin shards")
    order = []

    def watched(path):
        order.append(("open", path.name))
        yield from read_tensors(path)
        order.append(("close", path.name))

    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.ParameterList(torch.empty(2, 3) for _ in range(5))
            self.model = torch.nn.Module()
            self.model.rotary_emb = torch.nn.Identity()

    monkeypatch.setattr(weights, "read_tensors", watched)
    model = Layers()
    load_weights(model, weight_files(tmp_path), torch.device("cpu"))
    assert [what for what, _ in order] == ["open", "close"] * 3
    assert torch.equal(model.layer[4], few_weights()["layer.4"])

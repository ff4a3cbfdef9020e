"""Weights from a checkpoint's files, one file at a time.

At its peak, loading needs the memory of the model and of the largest file.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils import cached_file

from model.config import ReadConfig
from model.loading.weight_file import read_weight_file
from model.read_model import ReadForCausalLM
from utils.errors import InputError, first_line

LAYOUTS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
"""What a folder's weights may be called, the preferred one first."""

UNREADABLE = (
    OSError, RuntimeError, ValueError, KeyError, EOFError, AttributeError,
    SafetensorError, zipfile.BadZipFile,
)  # fmt: skip
"""What a damaged file may raise."""


@dataclass
class LoadResult:
    """Which tensor came from where.

    Args:
        source: name of a tensor of the model -> the file it came from.
        missing: tensors of the model that no file holds; on the device, with no values yet.
        unused: tensors of the files that the model has no place for.
        misfits: tensors of another shape, in words.
    """

    source: dict[str, Path] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    unused: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)


def weight_files(path: str | Path) -> list[Path]:
    """The files with the weights of a folder or hub id, in the order of their names.

    Raises:
        InputError: there are none, or the index names one that is not there.
    """
    for layout in LAYOUTS:
        found = _file(path, layout)
        if found is None:
            continue
        if not layout.endswith(".json"):
            return [found]
        names = _shards_of(found)
        files = {name: _file(path, name) for name in names}
        absent = [name for name, file in files.items() if file is None]
        if absent:
            raise InputError(
                f"{path} lacks {', '.join(absent)}, which {layout} names; copy the files again"
            )
        return [file for file in files.values() if file is not None]
    raise InputError(f"{path} holds no weights: expected one of {', '.join(LAYOUTS)}")


def read_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of one file, on the CPU; each is to be copied before the next is taken.

    Raises:
        InputError: the file is damaged or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (no mapping)
                    yield name, file.get_tensor(name)
        else:
            yield from read_weight_file(path).items()
    except UNREADABLE as error:
        raise InputError(
            f"cannot load {path}: {first_line(error)}. Expected a complete weight file; copy it "
            "again from where it came"
        ) from error


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Names and shapes in one file; no weight is read where the format allows it.

    Raises:
        InputError: as `read_tensors`.
    """
    if path.suffix != ".safetensors":
        return {name: list(value.shape) for name, value in read_tensors(path)}
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except UNREADABLE as error:
        raise InputError(f"cannot load {path}: {first_line(error)}") from error


def empty_model(
    config: ReadConfig, dtype: torch.dtype, attn_implementation: str | None = None
) -> ReadForCausalLM:
    """The model without storage for its weights (on PyTorch's meta device)."""
    options = {"attn_implementation": attn_implementation} if attn_implementation else {}
    with torch.device("meta"):
        model = ReadForCausalLM._from_config(config, dtype=dtype, **options)
    # Rotary frequencies follow from the configuration; checkpoints need not hold them.
    model.model.rotary_emb = LlamaRotaryEmbedding(config)
    return model


def load_weights(
    model: ReadForCausalLM, files: list[Path], device: torch.device, progress: bool = False
) -> LoadResult:
    """Give a model of `empty_model` its weights, file by file, in the dtype it was made with.

    Args:
        model: without storage.
        files: in any order.
        device: where the weights go.
        progress: show a bar.

    Raises:
        InputError: a file is damaged.
    """
    wanted = model.state_dict()
    result = LoadResult(missing=set(wanted))
    size = sum(path.stat().st_size for path in files)
    bar = tqdm(total=size, unit="B", unit_scale=True, desc="loading", disable=not progress)

    for path in files:
        values = {}
        for name, tensor in read_tensors(path):
            bar.update(tensor.nbytes)
            if name not in wanted:
                result.unused.append(name)
            elif tensor.shape != wanted[name].shape:
                result.misfits.append(misfit(name, tensor.shape, wanted[name].shape))
            else:
                values[name] = torch.empty_like(wanted[name], device=device).copy_(tensor)
                result.source[name] = path
            result.missing.discard(name)
        model.load_state_dict(values, strict=False, assign=True)
    bar.close()
    empty = {name: torch.empty_like(wanted[name], device=device) for name in result.missing}
    model.load_state_dict(empty, strict=False, assign=True)
    model.model.rotary_emb.to(device)
    return result


def misfit(name: str, stored: Iterable[int], own: Iterable[int]) -> str:
    """In words: a tensor that has another shape in a file than in the model."""
    return f"{name} {list(stored)} instead of {list(own)}"


def _file(path: str | Path, name: str) -> Path | None:
    """A file of a folder or hub id, or None."""
    if Path(path).is_dir():
        local = Path(path) / name
        return local if local.is_file() else None
    found = cached_file(
        str(path),
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=True,
    )
    return None if found is None else Path(found)


def _shards_of(index: Path) -> list[str]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(Path(name).name) for name in places.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{index} is no index of weight files ({first_line(error)}); copy it again"
        ) from error

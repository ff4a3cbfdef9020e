"""What a training run changed, as a standard peft adapter folder beside an untouched base.

The folder holds `adapter_config.json` and `adapter_model.safetensors` as peft writes them (LoRA
alone), `trained_parts.safetensors` (token embeddings, `lm_head`, SAM's mask decoder, projection)
and `read_settings.json` (what the base's config.json does not say).
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from model.config import ReadConfig
from model.loading.lora import TRAINED_PARTS, unwrap
from model.loading.weights import UNREADABLE, misfit
from model.read_model import ReadForCausalLM
from utils.errors import InputError

LORA_FILES = ("adapter_config.json", "adapter_model.safetensors")
PARTS_FILE = "trained_parts.safetensors"
SETTINGS_FILE = "read_settings.json"
SETTINGS = (
    "sam", "sasp", "out_dim", "conv_type", "mm_use_im_start_end", "seg_token_id", "vocab_size",
)  # fmt: skip


def save_adapter(
    model: PeftModel | ReadForCausalLM, folder: str | Path, dtype: torch.dtype | None = None
) -> None:
    """Write the adapter folder of a model that was made by `add_lora`.

    Args:
        model: LoRA in place, not merged.
        folder: to write to.
        dtype: of the stored trained parts; None keeps the model's. LoRA keeps the model's.

    Raises:
        InputError: the model has no LoRA, or the folder cannot be written.
    """
    if not isinstance(model, PeftModel):
        raise InputError("the model has no LoRA (lora_r is 0): save it whole (save_model)")
    folder, read = Path(folder), unwrap(model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(str(folder), save_embedding_layers=False)
        parts = {
            name: value.detach().to("cpu", dtype or value.dtype).contiguous()
            for name, value in read.state_dict().items()
            if is_trained_part(name)
        }
        save_file(parts, folder / PARTS_FILE, {"format": "pt"})
        settings = {field: getattr(read.config, field) for field in SETTINGS}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot write the adapter folder {folder} ({error}): free space on that disk, or give "
            "another --adapter"
        ) from error


def is_trained_part(name: str) -> bool:
    """Whether a tensor of the model trains in full; LoRA's own are not meant."""
    return any(part in name.split(".") for part in TRAINED_PARTS) and "lora_" not in name


def check_adapter(folder: str | Path) -> Path:
    """The folder, if it holds an adapter.

    Raises:
        InputError: files are missing.
    """
    wanted = (*LORA_FILES, PARTS_FILE, SETTINGS_FILE)
    absent = [name for name in wanted if not (Path(folder) / name).is_file()]
    if absent:
        raise InputError(
            f"{folder} is no adapter folder of READ: it lacks {', '.join(absent)}; expected what "
            "merge_lora_weight.py --adapter (or model.loading.adapter.save_adapter) writes"
        )
    return Path(folder)


def read_settings(folder: Path, config: ReadConfig) -> int:
    """Put the adapter's settings into the configuration of the base.

    Returns:
        the vocabulary's size, `[SEG]` included: the base may still be without.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / SETTINGS_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        for field in SETTINGS:
            if field != "vocab_size":
                setattr(config, field, settings[field])
        return int(settings["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); write the adapter again") from error


def apply_adapter(model: ReadForCausalLM, folder: Path, fold: bool = True) -> ReadForCausalLM:
    """Put the trained parts in and LoRA on.

    Args:
        model: the base, with room for the added tokens.
        folder: see `check_adapter`.
        fold: fold LoRA into the weights; a quantised base keeps it apart.

    Raises:
        InputError: the adapter is damaged or belongs to another base.
    """
    state = model.state_dict()
    wanted = {name for name in state if is_trained_part(name)}
    try:
        with safe_open(folder / PARTS_FILE, framework="pt") as file:
            stored = set(file.keys())
            if stored != wanted:
                raise ValueError(f"unlike the base in {sorted(stored ^ wanted)[:4]}")
            for name in stored:
                value = file.get_tensor(name)
                if value.shape != state[name].shape:
                    raise ValueError(misfit(name, value.shape, state[name].shape))
                with torch.no_grad():
                    state[name].copy_(value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = PeftModel.from_pretrained(model, str(folder))
    except UNREADABLE as error:
        raise InputError(
            f"the adapter {folder} does not fit {model.config._name_or_path}: {error}. Name the "
            "base that it was trained on"
        ) from error
    if fold:
        return wrapped.merge_and_unload()
    return unwrap(wrapped)

"""Load and build READ; the only place where settings become modules."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from model.config import DTYPES, ReadConfig
from model.inference.reader import Reader
from model.llava import tower_source
from model.loading.adapter import apply_adapter, check_adapter, read_settings
from model.loading.free_memory import check_memory
from model.loading.load_report import LoadReport
from model.loading.missing_weights import WeightInitialiser, some
from model.loading.quantization import check_quantization, quantization
from model.loading.weights import (
    LoadResult,
    empty_model,
    load_weights,
    misfit,
    tensor_shapes,
    weight_files,
)
from model.read_model import ReadForCausalLM
from model.sam import sam_sizes, sam_sizes_dict
from model.sasp import SaspParams
from model.shared_prefix import same_attention
from utils.cli.train_flags import LossOptions, ModelOptions
from utils.errors import InputError
from utils.hub.models import check_model, check_tower
from utils.protocol.tokenization import load_tokenizer, seg_token_id

FLASH = "flash_attention_2"
SMALL_BYTES = 500_000_000
"""Weights below this size load without a progress bar."""


def load_read(
    path: str | Path,
    vision_tower: str | Path | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    sasp: SaspParams | None = None,
    sam: str | dict | None = None,
    load_in_4bit: bool = False,
    load_in_8bit: bool = False,
    attn_implementation: str | None = None,
    adapter: str | Path | None = None,
    vision_pretrained: str | Path | None = None,
) -> Reader:
    """Load a READ or SESAME checkpoint, ready to answer.

    Args:
        path: folder in the released layout or written by this project, or a hub id.
        vision_tower: CLIP folder or hub id instead of the one in the configuration.
        dtype: torch dtype, "fp32", "bf16", "fp16", or "auto": the checkpoint's on a GPU, float32
            on a CPU.
        device: "auto" takes a GPU if there is one.
        sasp: SasP settings instead of the stored ones (7B preset if none are stored).
        sam: "vit_h", "vit_l", "vit_b" or a mapping with the fields of `model.sam.SamSizes`; needed
            when the checkpoint does not say it and is no ViT-H.
        load_in_4bit, load_in_8bit: quantise the LLM (GPU with bitsandbytes).
        attn_implementation: "sdpa", "flash_attention_2" (a GPU, 16 bits) or "eager"; None: sdpa.
        adapter: folder of `model.loading.adapter.save_adapter`; `path` is then what training
            started from.
        vision_pretrained: SAM's own file, for an adapter whose base is a plain LLaVA.

    Raises:
        InputError: no checkpoint there, weights that should be in it are not, they do not fit the
            model, or the model does not fit into the free memory.
    """
    device = _device(device)
    check_quantization(load_in_4bit, load_in_8bit, device)
    config = _config(path)
    folder = None if adapter is None else check_adapter(adapter)
    vocabulary = config.vocab_size if folder is None else read_settings(folder, config)
    if sam is not None:
        config.sam = sam_sizes_dict(sam_sizes(sam))
    if sasp is not None:
        config.sasp_params = sasp
    _check_sasp(config)
    tokenizer = load_tokenizer(path)
    config.seg_token_id = seg_token_id(tokenizer)
    weights_dtype = _dtype(dtype, device, config)
    _check_attention(attn_implementation, weights_dtype, device)
    model, initialiser = _loaded(
        path,
        config,
        vision_tower,
        dtype=weights_dtype,
        device=device,
        quantised=quantization(load_in_4bit, load_in_8bit, weights_dtype),
        attn_implementation=attn_implementation,
    )
    if folder is None:
        initialiser.refuse(initialiser.result.missing)
    else:
        initialiser.complete(vision_pretrained, use_released_param=True)
        initialiser.resize_embeddings(vocabulary)
        model = apply_adapter(model, folder, fold=not (load_in_4bit or load_in_8bit))
    return Reader(model.eval(), tokenizer)


@dataclass
class Built:
    """A model to train.

    Args:
        model: READ on the CPU, everything frozen or open as it was loaded.
        tokenizer: its tokenizer.
        report: the lines of `loaded`: a table that says where the weights of each part came from.
        loaded: the same as data.
    """

    model: ReadForCausalLM
    tokenizer: PreTrainedTokenizerBase
    report: list[str]
    loaded: LoadReport

    def __iter__(self):
        return iter((self.model, self.tokenizer, self.report))


def build_for_training(
    start: ModelOptions,
    sasp: SaspParams | None = None,
    losses: LossOptions | None = None,
    train_mask_decoder: bool = True,
    gradient_checkpointing: bool = True,
) -> Built:
    """Build READ on a LLaVA, SESAME or READ checkpoint.

    Args:
        start: what it is built from. A `vision_tower` or `sam` of None is that of the checkpoint.
        sasp: SasP settings; None: those of the checkpoint.
        losses: weights and size of the losses.
        train_mask_decoder: stored with the checkpoint, see `open_trained_parts`.
        gradient_checkpointing: recompute the LLM's activations in the backward pass.

    Raises:
        InputError: something cannot be loaded, weights are missing that nothing provides, or the
            model does not fit into the free memory.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_quantization(start.load_in_4bit, start.load_in_8bit, device)
    weights_dtype = DTYPES[start.precision]
    _check_attention(start.attn_implementation, weights_dtype, device)
    config = _config(start.version)
    config.out_dim = start.out_dim
    if start.sam is not None or config.sam is None:
        config.sam = sam_sizes_dict(sam_sizes(start.sam_settings()))
    if sasp is not None:
        config.sasp_params = sasp
    _check_sasp(config)
    config.train_mask_decoder = train_mask_decoder
    config.mm_use_im_start_end = start.use_mm_start_end
    config.conv_type = start.conv_type
    for name, value in vars(losses or LossOptions()).items():
        setattr(config, name, value)
    tokenizer = load_tokenizer(start.version, start.model_max_length)
    config.seg_token_id = seg_token_id(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    quantised = quantization(start.load_in_4bit, start.load_in_8bit, weights_dtype)
    model, initialiser = _loaded(
        start.version,
        config,
        start.vision_tower,
        dtype=weights_dtype,
        device=device if quantised else torch.device("cpu"),
        quantised=quantised,
        attn_implementation=start.attn_implementation,
        half_helps=device.type == "cuda",
    )
    initialiser.complete(start.vision_pretrained, start.use_released_param)
    initialiser.resize_embeddings(len(tokenizer))
    loaded = initialiser.report()
    if gradient_checkpointing:
        # The name changed within transformers 5.
        enable = getattr(model, "activation_checkpointing_enable", None)
        how = {"use_reentrant": False, "context_fn": same_attention(model.config)}
        (enable or model.gradient_checkpointing_enable)(how)
    return Built(model, tokenizer, loaded.lines(), loaded)


def save_model(
    model: ReadForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> None:
    """Write a folder that `load_read` takes without any flag: safetensors, tokenizer, CLIP."""
    with _quiet(small=sum(p.numel() for p in model.parameters()) < SMALL_BYTES):
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers may save the generic file alone; `load_tokenizer` reads the sentencepiece one.
    vocabulary = Path(folder) / "tokenizer.model"
    if not vocabulary.is_file():
        source = Path(str(tokenizer.vocab_file))
        vocabulary.write_bytes(source.read_bytes())


# --- parts ----------------------------------------------------------------------------------


def _config(path: str | Path) -> ReadConfig:
    message = (
        f"no checkpoint at {path}: expected a folder with config.json (released layout or written "
        "by this project) or a hub id that can be reached"
    )
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise InputError(message)
    check_model(path)
    try:
        return ReadConfig.from_pretrained(str(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{message} ({error})") from error


def _check_sasp(config: ReadConfig) -> None:
    try:
        config.sasp_params  # noqa: B018  (raises when the stored settings are no SaspParams)
    except TypeError as error:
        raise InputError(f"the stored SasP settings {config.sasp} are unusable: {error}") from error


def _check_attention(
    attn_implementation: str | None, dtype: torch.dtype, device: torch.device
) -> None:
    """Whether flash attention can be had here; transformers fails at the first question only."""
    if attn_implementation != FLASH:
        return
    remedy = "choose sdpa (attn_implementation, --attn_implementation)"
    if device.type == "cpu":
        raise InputError(f"{FLASH} needs a GPU, and the device is a CPU: {remedy}")
    if dtype not in (torch.bfloat16, torch.float16):
        raise InputError(
            f"{FLASH} computes in bf16 or fp16, and the dtype is {dtype}: choose one of those "
            f'(dtype="bf16", --precision bf16), or {remedy}'
        )
    if not any(importlib.util.find_spec(name) for name in ("flash_attn", "kernels")):
        raise InputError(
            f"{FLASH} needs the package flash-attn: pip install flash-attn, or {remedy}"
        )


def _loaded(
    path, config, vision_tower, dtype, device, quantised, attn_implementation, half_helps=True
) -> tuple[ReadForCausalLM, WeightInitialiser]:
    """The model with what its files hold, and what is still to be completed."""
    tower = tower_source(config, vision_tower, folder=path)
    files = weight_files(path)
    small = sum(file.stat().st_size for file in files) < SMALL_BYTES
    try:
        with _quiet(small=small):
            model = empty_model(config, dtype, attn_implementation)
            bits = None if quantised is None else 4 if quantised.load_in_4bit else 8
            check_memory(path, model, files, tower, device, bits, half_helps)
            check_tower(tower)
            if quantised:
                model, result = _quantised(
                    path, config, tower, files, dtype, device, quantised, attn_implementation
                )
            else:
                result = load_weights(model, files, device, progress=not small)
    except (RuntimeError, OSError, ValueError, ImportError) as error:
        raise InputError(
            f"cannot load {path}: {error}. Expected a complete folder in the released layout "
            "(config.json, weights as .bin or .safetensors, tokenizer files)"
        ) from error
    if result.misfits:
        raise InputError(
            f"{path}: {len(result.misfits)} weights have another size than the model: "
            f"{some(result.misfits, 4)}. For those inside visual_model, name the SAM that the "
            "checkpoint was trained with (sam=..., --sam)"
        )
    model.name_or_path = config._name_or_path = str(path)
    initialiser = WeightInitialiser(model, result, path)
    if model.model.vision_tower is None:
        model.load_vision_tower(tower)
    return model.eval(), initialiser


def _quantised(
    path, config, tower, files, dtype, device, quantised, attn_implementation
) -> tuple[ReadForCausalLM, LoadResult]:
    """The same by transformers, which quantises while it loads."""
    attention = {"attn_implementation": attn_implementation} if attn_implementation else {}
    model, info = ReadForCausalLM.from_pretrained(
        str(path),
        config=config,
        vision_tower=tower,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        quantization_config=quantised,
        device_map={"": device},
        **attention,
    )
    place = {name: file for file in files for name in tensor_shapes(file)}
    own = model.state_dict().keys()
    return model, LoadResult(
        source={name: file for name, file in place.items() if name in own},
        missing=set(info["missing_keys"]),
        unused=sorted(place.keys() - own),
        misfits=[misfit(*mismatch) for mismatch in info["mismatched_keys"]],
    )


def _device(device: str | torch.device) -> torch.device:
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is unknown: {error}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} was asked for, but PyTorch sees no GPU; use 'cpu'")
    return chosen


def _dtype(dtype: str | torch.dtype, device: torch.device, config: ReadConfig) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        stored = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
        return stored if device.type != "cpu" else torch.float32
    if dtype in DTYPES:
        return DTYPES[dtype]
    named = getattr(torch, dtype, None)
    if isinstance(named, torch.dtype) and named.is_floating_point:
        return named
    raise InputError(f"dtype {dtype!r} is unknown; choose 'auto', {', '.join(DTYPES)}")


@contextmanager
def _quiet(small: bool) -> Iterator[None]:
    """Keep transformers' own load report away (ours is an error with the names), and its progress
    bars too where nothing takes long."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    if small:
        hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()

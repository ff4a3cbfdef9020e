"""DeepSpeed around the model: optimiser, learning rate, and its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from utils.errors import InputError, first_line
from utils.training.checkpoint import damaged_files

GRADIENT_CLIPPING = 1.0
WEIGHT_DECAY = 0.0
UNREADABLE = (
    OSError, RuntimeError, ValueError, KeyError, EOFError, AssertionError, UnpicklingError,
)  # fmt: skip
"""What DeepSpeed and torch raise when a file of a checkpoint is damaged or missing."""
KEPT_WHOLE = 100_000
"""ZeRO-3: a parameter of at most so many numbers stays on every rank, once it is gathered."""


def learning_rate(step: int, highest: float, warmup_steps: int, total_steps: int) -> float:
    """The learning rate of optimiser step `step` (from 1): linear up, then linear down."""
    if step <= warmup_steps:
        return highest * step / warmup_steps
    left = total_steps - step + 1
    return highest * max(0, left) / max(1, total_steps - warmup_steps)


def engine_settings(precision: str, zero_stage: int, batch_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration; when gradients are reduced is up to `Gradients`."""
    return {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": GRADIENT_CLIPPING,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "zero_optimization": {
            "stage": zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": False,
            "stage3_param_persistence_threshold": KEPT_WHOLE,
        },
        "data_types": {"grad_accum_dtype": "fp32"} if zero_stage == 3 else {},
        "steps_per_print": 1_000_000_000,
    }


def build_engine(
    model: nn.Module,
    *,
    betas: tuple[float, float],
    settings: dict[str, Any],
) -> Any:
    """A DeepSpeed engine with AdamW over the parameters that require a gradient.

    Args:
        model: already on its device; for ZeRO-3 still on the CPU, since no GPU need hold all of it.
        betas: of AdamW; the learning rate comes with each step (`Gradients.deliver`).
        settings: see `engine_settings`.
    """
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel("ERROR")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings["zero_optimization"]["stage"] == 3:
        settings = _partitioned(model, settings)
    optimiser = torch.optim.AdamW(trained, lr=0.0, betas=betas, weight_decay=WEIGHT_DECAY)
    exact = {name: buffer.clone() for name, buffer in model.named_buffers() if _is_fp32(buffer)}
    engine, _, _, _ = deepspeed.initialize(
        model=model,
        optimizer=optimiser,
        model_parameters=trained,
        config=settings,
    )
    _restore_buffers(model, exact)
    return engine


def _partitioned(model: nn.Module, settings: dict[str, Any]) -> dict[str, Any]:
    """Spread the weights over the ranks, one after the other; the settings that fit the model.

    All gradients of a micro step fit into one bucket, so that they are reduced in the order of the
    parameters and not in the order in which they arise.
    """
    import deepspeed

    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    zero = {**settings["zero_optimization"], "reduce_bucket_size": trained}
    settings = {**settings, "zero_optimization": zero}
    sixteen = {name: settings[name]["enabled"] for name in ("bf16", "fp16")}
    dtype = torch.bfloat16 if sixteen["bf16"] else torch.float16 if sixteen["fp16"] else None
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype or parameter.dtype)
    deepspeed.zero.Init(module=model, config_dict_or_path=settings)
    device = deepspeed.get_accelerator().current_device_name()
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
    return settings


@contextmanager
def gathered_parameters(engine: Any) -> Iterator[None]:
    """Until the end of `with`, ranks may run different modules; every rank has to enter it.

    With ZeRO-3 every rank holds all weights meanwhile, and no module gathers or releases its own.
    """
    if engine.zero_optimization_stage() != 3:
        yield
        return
    import deepspeed

    modules = engine.optimizer.parameter_offload
    with deepspeed.zero.GatheredParameters(engine.module.parameters()):
        for hook in (*modules.forward_hooks, *modules.backward_hooks):
            hook.remove()
        modules.forward_hooks, modules.backward_hooks = [], []
        try:
            yield
        finally:
            modules._register_deepspeed_module(engine.module)


def _is_fp32(buffer: torch.Tensor) -> bool:
    return buffer.dtype == torch.float32


def _restore_buffers(model: nn.Module, exact: dict[str, torch.Tensor]) -> None:
    """Undo the rounding of float32 buffers to 16 bits: rotary frequencies need every digit."""
    for name, value in exact.items():
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner)._buffers[leaf] = value


def save_engine(engine: Any, folder: Path, tag: str) -> None:
    """Write the trained parts and the optimiser's state below `folder / tag`; all ranks call it.

    Raises:
        InputError: the files cannot be written.
    """
    try:
        engine.save_checkpoint(
            str(folder), tag=tag, save_latest=False, exclude_frozen_parameters=True
        )
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"cannot write the checkpoint {folder / tag} ({first_line(error)}); the checkpoints "
            "before it stay usable: free space on that disk, then go on with --auto_resume"
        ) from error


def load_engine(engine: Any, folder: Path, tag: str) -> None:
    """Continue from what `save_engine` wrote; all ranks call it.

    Raises:
        InputError: the files are missing or damaged; it names them.
    """
    try:
        path, _ = engine.load_checkpoint(str(folder), tag=tag, load_module_strict=False)
    except UNREADABLE as error:
        raise _unreadable(folder / tag, error) from error
    if path is None:
        raise InputError(f"{folder / tag} holds no DeepSpeed checkpoint")


def load_trained(model: nn.Module, folder: Path, tag: str) -> None:
    """Put the trained parts of a checkpoint into `model`, in its own dtype, without an engine.

    Any ZeRO stage and any number of ranks may have written it; with ZeRO-3 one tensor is put
    together at a time.

    Raises:
        InputError: the files are damaged, or parts are missing or unexpected.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    try:
        stored = get_fp32_state_dict_from_zero_checkpoint(
            str(folder), tag=tag, exclude_frozen_parameters=True, lazy_mode=True
        )
    except UNREADABLE as error:
        raise _unreadable(folder / tag, error) from error
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name for name, _ in model.named_buffers()}
    missing = sorted(trained.keys() - stored.keys())
    unexpected = sorted(stored.keys() - trained.keys() - buffers)
    if missing or unexpected:
        raise InputError(
            f"{folder / tag} does not fit the configured model: {len(missing)} parts missing "
            f"{missing[:3]}, {len(unexpected)} unexpected {unexpected[:3]}; "
            "use the config.yaml of the run that wrote it"
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            if parameter.shape != stored[name].shape:
                raise InputError(
                    f"{folder / tag}: {name} has shape {tuple(stored[name].shape)}, the model "
                    f"wants {tuple(parameter.shape)}; use the run's own config.yaml"
                )
            parameter.copy_(stored[name].contiguous())


def _unreadable(checkpoint: Path, error: BaseException) -> InputError:
    """The error that a checkpoint is damaged, with the files that are."""
    damaged = damaged_files(checkpoint)
    reason = f"damaged: {', '.join(damaged)}" if damaged else first_line(error)
    return InputError(f"cannot read the checkpoint {checkpoint} ({reason})")

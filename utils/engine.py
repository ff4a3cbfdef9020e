"""DeepSpeed around the model: optimiser, learning rate, gradients, and its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.errors import InputError

GRADIENT_CLIPPING = 1.0
WEIGHT_DECAY = 0.0


def learning_rate(step: int, highest: float, warmup_steps: int, total_steps: int) -> float:
    """The learning rate of optimiser step `step` (from 1): linear up, then linear down."""
    if step <= warmup_steps:
        return highest * step / warmup_steps
    left = total_steps - step + 1
    return highest * max(0, left) / max(1, total_steps - warmup_steps)


def engine_settings(precision: str, zero_stage: int, batch_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration. Gradients are accumulated by `Gradients`, not by DeepSpeed."""
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
        },
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
        model: already on its device.
        betas: of AdamW; the learning rate comes with each step (`Gradients.deliver`).
        settings: see `engine_settings`.
    """
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel("ERROR")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
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


def _is_fp32(buffer: torch.Tensor) -> bool:
    return buffer.dtype == torch.float32


def _restore_buffers(model: nn.Module, exact: dict[str, torch.Tensor]) -> None:
    """Undo the rounding of float32 buffers to 16 bits: rotary frequencies need every digit."""
    for name, value in exact.items():
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner)._buffers[leaf] = value


class _Deliver(torch.autograd.Function):
    """A scalar whose gradient with respect to each parameter is a tensor computed before."""

    @staticmethod
    def forward(ctx, gradients, *parameters):
        ctx.gradients = gradients
        return parameters[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx, grad_output):
        return None, *ctx.gradients


class Gradients:
    """Gradients of one optimiser step, summed on this rank and handed to DeepSpeed at once.

    ZeRO-2 reduces gradients in the order in which they arise, and adds up what arises at the same
    place on every rank. A rank whose pictures have no mask runs another graph: another order,
    other parameters without a gradient, sums of unlike things or a stall. Here every rank delivers
    the same parameters in the same order, with zeros where nothing arose.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.sums: list[torch.Tensor | None] = [None] * len(self.parameters)

    def add(self, loss: torch.Tensor) -> None:
        """Add the gradient of a scalar; its graph is freed."""
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for index, (parameter, gradient) in enumerate(zip(self.parameters, found, strict=True)):
            if gradient is None:
                continue
            total = self.sums[index]
            if total is None:
                self.sums[index] = _own_copy(parameter, gradient)
            else:
                total += gradient

    def are_finite(self) -> bool:
        """Whether no sum holds an infinity or NaN."""
        checks = [total.isfinite().all() for total in self.sums if total is not None]
        return bool(torch.stack(checks).all()) if checks else True

    def deliver(self, engine: Any, lr: float) -> None:
        """Reduce over the ranks, clip, step; then start from zero. Every rank has to call it."""
        for group in engine.optimizer.param_groups:
            group["lr"] = lr
        gradients = [
            torch.zeros_like(parameter) if total is None else total.to(parameter.dtype)
            for parameter, total in zip(self.parameters, self.sums, strict=True)
        ]
        self.sums = [None] * len(self.parameters)
        engine.backward(_Deliver.apply(gradients, *self.parameters))
        engine.step()


def _own_copy(parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """float32, with memory of its own: a gradient may be an expanded scalar or shared."""
    return torch.empty_like(parameter, dtype=torch.float32, requires_grad=False).copy_(gradient)


def loss_scale(engine: Any) -> float:
    """Factor on the loss against underflow: above 1 with fp16 only."""
    return float(getattr(engine.optimizer, "loss_scale", 1.0))


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
            f"cannot write the checkpoint {folder / tag} ({_first_line(error)}); the checkpoints "
            "before it stay usable: free space on that disk, then go on with --auto_resume"
        ) from error


def load_engine(engine: Any, folder: Path, tag: str) -> None:
    """Continue from what `save_engine` wrote; all ranks call it.

    Raises:
        InputError: the files are missing or damaged.
    """
    try:
        path, _ = engine.load_checkpoint(str(folder), tag=tag, load_module_strict=False)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise InputError(
            f"cannot read the checkpoint {folder / tag} ({_first_line(error)})"
        ) from error
    if path is None:
        raise InputError(f"{folder / tag} holds no DeepSpeed checkpoint")


def load_trained(model: nn.Module, folder: Path, tag: str) -> None:
    """Put the trained parts of a checkpoint into `model`, in its own dtype, without an engine.

    Raises:
        InputError: the files are damaged, or parts are missing or unexpected.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    try:
        stored = get_fp32_state_dict_from_zero_checkpoint(
            str(folder), tag=tag, exclude_frozen_parameters=True
        )
    except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise InputError(
            f"cannot read the checkpoint {folder / tag} ({_first_line(error)})"
        ) from error
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
            parameter.copy_(stored[name])


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

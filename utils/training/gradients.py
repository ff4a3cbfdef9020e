"""Gradients of one optimiser step: summed over micro steps, then handed to DeepSpeed's optimiser.

ZeRO-2 and 3 reduce gradients in the order in which they arise, and add up what arises at the same
place on every rank. A rank whose images have no mask would run another graph: another order,
other parameters without a gradient, sums of unlike things or a stall.
"""

from __future__ import annotations

from typing import Any

import torch


def gradients_of(engine: Any) -> Gradients | PartitionedGradients:
    """What the ZeRO stage of a DeepSpeed engine needs."""
    partitioned = engine.zero_optimization_stage() == 3
    return PartitionedGradients(engine) if partitioned else Gradients(engine)


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
    """ZeRO-1 and 2: summed on this rank and handed to DeepSpeed at once.

    Every rank delivers the same parameters in the same order, with zeros where nothing arose.
    """

    def __init__(self, engine: Any):
        """`engine`: its `module` is the model."""
        self.engine = engine
        self.parameters = [p for p in engine.module.parameters() if p.requires_grad]
        self.sums: list[torch.Tensor | None] = [None] * len(self.parameters)

    def forward(self, batch: Any) -> Any:
        """The model's output, whose loss can be added."""
        return self.engine.module(batch)

    def add(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradient of a scalar; its graph is freed.

        Args:
            loss: one micro step's part of the loss.
            last: no other micro step follows before `deliver`.
        """
        loss = loss * loss_scale(self.engine)
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for index, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            if gradient is None:
                continue
            total = self.sums[index]
            if total is None:
                self.sums[index] = _own_copy(parameter, gradient)
            else:
                total += gradient

    def are_finite(self) -> bool:
        """Whether no sum of this rank holds an infinity or NaN."""
        return _are_finite(total for total in self.sums if total is not None)

    def deliver(self, lr: float) -> None:
        """Reduce over the ranks, clip, step; then start from zero. Every rank has to call it."""
        gradients = [
            torch.zeros_like(parameter) if total is None else total.to(parameter.dtype)
            for parameter, total in zip(self.parameters, self.sums, strict=True)
        ]
        self.sums = [None] * len(self.parameters)
        self.engine.backward(_Deliver.apply(gradients, *self.parameters))
        _step(self.engine, lr)


class PartitionedGradients:
    """ZeRO-3: no rank has a whole gradient; DeepSpeed reduces each micro step's as it arises.

    The forward passes of all ranks have to run the same modules in the same order, since each
    module gathers its weights from all ranks: see `ReadForCausalLM.uniform_forward`.
    """

    def __init__(self, engine: Any):
        """`engine`: of ZeRO-3."""
        self.engine = engine
        self.parameters = [p for p in engine.module.parameters() if p.requires_grad]

    def forward(self, batch: Any) -> Any:
        """The model's output, whose loss has to be added. Every rank has to call it."""
        return self.engine(batch)

    def add(self, loss: torch.Tensor, last: bool) -> None:
        """As `Gradients.add`; every rank has to call it, whatever its loss."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss)

    def are_finite(self) -> bool:
        """Whether this rank's share of the gradients holds no infinity or NaN."""
        from deepspeed.utils import safe_get_local_grad

        return _are_finite(safe_get_local_grad(parameter) for parameter in self.parameters)

    def deliver(self, lr: float) -> None:
        """Clip and step; then start from zero. Every rank has to call it."""
        _step(self.engine, lr)


def loss_scale(engine: Any) -> float:
    """Factor on the loss against underflow: above 1 with fp16 only."""
    return float(getattr(engine.optimizer, "loss_scale", 1.0))


def _step(engine: Any, lr: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    engine.step()


def _are_finite(tensors: Any) -> bool:
    checks = [tensor.isfinite().all() for tensor in tensors]
    return bool(torch.stack(checks).all()) if checks else True


def _own_copy(parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """float32, with memory of its own: a gradient may be an expanded scalar or shared."""
    return torch.empty_like(parameter, dtype=torch.float32, requires_grad=False).copy_(gradient)

"""Gradients that reach DeepSpeed complete and in one order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from utils.training.gradients import Gradients, PartitionedGradients, gradients_of, loss_scale


class PlainEngine:
    """An engine that does what it is told: backward and nothing else."""

    def __init__(self, model: nn.Module, stage: int = 2):
        self.module, self.stage = model, stage
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        self.arrived: list[str] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(
                    lambda _, name=name: self.arrived.append(name)
                )

    def zero_optimization_stage(self) -> int:
        return self.stage

    def backward(self, loss):
        loss.backward()

    def step(self):
        pass


def two_parts() -> nn.ModuleDict:
    torch.manual_seed(0)
    parts = nn.ModuleDict(
        {"text": nn.Linear(3, 3), "mask": nn.Linear(3, 1), "idle": nn.Linear(2, 2)}
    )
    parts["text"].bias.requires_grad_(False)
    return parts


def with_and_without_mask(model: nn.ModuleDict, has_mask: bool) -> torch.Tensor:
    hidden = model["text"](torch.ones(3))
    return hidden.sum() + (model["mask"](hidden).sum() if has_mask else 0.0)


def test_delivered_gradients_are_the_sum_of_what_was_added():
    model = two_parts()
    wanted = torch.autograd.grad(
        with_and_without_mask(model, True) + with_and_without_mask(model, False),
        [model["text"].weight, model["mask"].weight],
    )
    engine = PlainEngine(model)
    gradients = Gradients(engine)
    gradients.add(with_and_without_mask(model, True), last=False)
    gradients.add(with_and_without_mask(model, False), last=True)
    gradients.deliver(lr=0.5)
    torch.testing.assert_close(model["text"].weight.grad, wanted[0])
    torch.testing.assert_close(model["mask"].weight.grad, wanted[1])
    assert model["idle"].weight.grad.abs().sum() == 0
    assert model["text"].bias.grad is None
    assert engine.optimizer.param_groups[0]["lr"] == 0.5


def test_the_order_does_not_depend_on_what_has_a_mask():
    arrived = []
    for has_mask in (True, False):
        model = two_parts()
        engine = PlainEngine(model)
        gradients = Gradients(engine)
        gradients.add(with_and_without_mask(model, has_mask), last=True)
        gradients.deliver(lr=0.1)
        arrived.append(engine.arrived)
    assert arrived[0] == arrived[1]
    assert len(arrived[0]) == 5


def test_infinite_gradients_are_seen():
    model = two_parts()
    gradients = Gradients(PlainEngine(model))
    assert gradients.are_finite()
    gradients.add(with_and_without_mask(model, True) * float("inf"), last=True)
    assert not gradients.are_finite()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_stage_decides_who_sums(stage):
    found = gradients_of(PlainEngine(two_parts(), stage))
    assert isinstance(found, PartitionedGradients if stage == 3 else Gradients)


def test_the_loss_is_scaled_in_half_precision_only():
    engine = PlainEngine(two_parts())
    assert loss_scale(engine) == 1.0
    plain, scaled = Gradients(engine), Gradients(engine)
    plain.add(with_and_without_mask(engine.module, True), last=True)
    engine.optimizer.loss_scale = 8.0
    scaled.add(with_and_without_mask(engine.module, True), last=True)
    for one, other in zip(plain.sums, scaled.sums, strict=True):
        if one is not None:
            torch.testing.assert_close(other, 8 * one)

"""Learning rate, and gradients that reach DeepSpeed complete and in one order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from utils.engine import Gradients, engine_settings, learning_rate, loss_scale


def test_learning_rate_goes_up_then_down():
    rates = [learning_rate(step, 1.0, 4, 10) for step in range(1, 11)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[-1] == pytest.approx(1 / 6)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(1, 1.0, 0, 10) == 1.0
    assert learning_rate(3, 1.0, 100, 5) == pytest.approx(0.03)


class PlainEngine:
    """An engine that does what it is told: backward and nothing else."""

    def __init__(self, model: nn.Module):
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        self.arrived: list[str] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(
                    lambda _, name=name: self.arrived.append(name)
                )

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
    engine, gradients = PlainEngine(model), Gradients(model.parameters())
    gradients.add(with_and_without_mask(model, True))
    gradients.add(with_and_without_mask(model, False))
    gradients.deliver(engine, lr=0.5)
    torch.testing.assert_close(model["text"].weight.grad, wanted[0])
    torch.testing.assert_close(model["mask"].weight.grad, wanted[1])
    assert model["idle"].weight.grad.abs().sum() == 0
    assert model["text"].bias.grad is None
    assert engine.optimizer.param_groups[0]["lr"] == 0.5


def test_the_order_does_not_depend_on_what_has_a_mask():
    arrived = []
    for has_mask in (True, False):
        model = two_parts()
        engine, gradients = PlainEngine(model), Gradients(model.parameters())
        gradients.add(with_and_without_mask(model, has_mask))
        gradients.deliver(engine, lr=0.1)
        arrived.append(engine.arrived)
    assert arrived[0] == arrived[1]
    assert len(arrived[0]) == 5


def test_infinite_gradients_are_seen():
    model = two_parts()
    gradients = Gradients(model.parameters())
    assert gradients.are_finite()
    gradients.add(with_and_without_mask(model, True) * float("inf"))
    assert not gradients.are_finite()


def test_settings_and_loss_scale():
    settings = engine_settings("bf16", 2, 4)
    assert settings["bf16"]["enabled"] and not settings["fp16"]["enabled"]
    assert settings["zero_optimization"]["stage"] == 2
    assert settings["train_micro_batch_size_per_gpu"] == 4
    assert loss_scale(PlainEngine(two_parts())) == 1.0

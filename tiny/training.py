"""Every pre-training: AdamW, linear warm-up, cosine decay, gradient norm at most 1."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from tqdm import trange

from tiny.schedule import Schedule

WARM_UP = 200


class Training:
    """The steps of a training: iterate over `bar`, and call `step` each time.

    AdamW (0.9, 0.98), weight decay 0.01; `schedule.lr` after `WARM_UP` steps, 1 % of it at the end.

    Args:
        label: of the progress bar.
        schedule: for the steps and the rate.
        module: is trained; its gradient is clipped.
        further: parameters that are trained as well.
    """

    def __init__(
        self,
        label: str,
        schedule: Schedule,
        module: nn.Module,
        further: Iterable[nn.Parameter] = (),
    ):
        self.module = module
        parameters = [*module.parameters(), *further]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=schedule.lr, betas=(0.9, 0.98), weight_decay=0.01
        )

        def factor(step: int) -> float:
            if step < WARM_UP:
                return (step + 1) / WARM_UP
            progress = min(1.0, (step - WARM_UP) / max(1, schedule.steps - WARM_UP))
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.bar = trange(schedule.steps, desc=label)

    def step(self, loss: torch.Tensor, **shown: torch.Tensor) -> None:
        """One step against the loss; it is shown on the bar with further values."""
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        values = {"loss": loss, **shown}
        self.bar.set_postfix({k: f"{v.item():.3f}" for k, v in values.items()}, refresh=False)

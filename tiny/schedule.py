"""The optimiser of every pre-training: AdamW, linear warm-up, cosine decay."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], lr: float, steps: int, warmup: int = 200
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW (0.9, 0.98), weight decay 0.01; `lr` after `warmup` steps, 1 % of it at the end."""
    optimizer = torch.optim.AdamW(list(parameters), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

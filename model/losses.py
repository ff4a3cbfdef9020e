"""The training losses: cross entropy, BCE and DICE.

Legend: M masks, K trained tokens, H x W original picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

DICE_SCALE = 1000.0
DICE_SMOOTH = 1e-6


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy, mean over the trained tokens; zero (with gradient) if there are none.

    Args:
        logits: float[K, vocabulary].
        labels: int64[K].
    """
    if len(labels) == 0:
        return logits.float().sum()
    return F.cross_entropy(logits.float(), labels)


def bce_per_mask(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy with logits, mean over pixels: float32[M, H, W] -> float32[M]."""
    loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return loss.flatten(1).mean(dim=1)


def dice_per_mask(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """1 - DICE on probabilities, sums scaled by 1/1000: float32[M, H, W] -> float32[M]."""
    share, truth = logits.sigmoid().flatten(1), truth.flatten(1)
    overlap = 2 * (share * truth / DICE_SCALE).sum(dim=1)
    total = (share / DICE_SCALE).sum(dim=1) + (truth / DICE_SCALE).sum(dim=1)
    return 1 - (overlap + DICE_SMOOTH) / (total + DICE_SMOOTH)


def mask_losses(
    logits: Sequence[torch.Tensor], truths: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean BCE and DICE over all masks of a batch.

    The maps of H x W that lead to a loss are made for one mask at a time, and again in the
    backward pass: nothing of that size is kept but the arguments.

    Args:
        logits: per picture float32[n, H, W].
        truths: per picture uint8[n, H, W]; values other than 1 are background.

    Returns:
        the two means, or None if the batch has no mask.

    Raises:
        ValueError: a picture has another number of masks than `[SEG]` tokens.
    """
    bce, dice = [], []
    for number, (logit, truth) in enumerate(zip(logits, truths, strict=True)):
        if logit.shape != truth.shape:
            raise ValueError(
                f"picture {number} of the batch: {tuple(logit.shape)} mask logits, "
                f"{tuple(truth.shape)} truth masks; one mask is needed for each [SEG]"
            )
        if len(logit) == 0:
            continue
        for one in zip(logit.split(1), truth.split(1), strict=True):
            found = checkpoint(_both_losses, *one, use_reentrant=False, preserve_rng_state=False)
            bce.append(found[0])
            dice.append(found[1])
    if not bce:
        return None
    return torch.cat(bce).mean(), torch.cat(dice).mean()


def _both_losses(logits: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """BCE and DICE of float32[M, H, W] logits against uint8[M, H, W], float32[M] each."""
    target = (truth == 1).to(logits.dtype)
    return bce_per_mask(logits, target), dice_per_mask(logits, target)


def zero_of(*modules: torch.nn.Module) -> torch.Tensor:
    """0, with a zero gradient for every trained parameter of the modules."""
    trained = (p for module in modules for p in module.parameters() if p.requires_grad)
    return sum((p.float().sum() * 0.0 for p in trained), torch.zeros(()))

"""The training losses: cross entropy, BCE and DICE.

Legend: M masks, K trained tokens, H x W the image, or less (`loss_size`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

DICE_SCALE = 1000.0
DICE_SMOOTH = 1e-6


def loss_size(size: Sequence[int], most_pixels: int) -> tuple[int, int]:
    """The size in which the mask losses of an image of (H, W) are computed.

    Args:
        size: (H, W).
        most_pixels: bound on H * W; 0: none.

    Returns:
        (H, W) itself where it is within the bound, else sides of the same ratio within it.
    """
    height, width = size
    if not most_pixels or height * width <= most_pixels:
        return height, width
    factor = (most_pixels / (height * width)) ** 0.5
    return max(1, int(height * factor)), max(1, int(width * factor))


def shrink_truth(truth: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Truth masks in a smaller size: an object where it covers at least half of a pixel's area.

    Args:
        truth: uint8[n, H, W]; values other than 1 are background, before and after.
        size: (h, w).

    Returns:
        `truth` itself if it has this size, else uint8[n, h, w] of 0 and 1.
    """
    if tuple(truth.shape[1:]) == tuple(size):
        return truth
    small = [
        F.interpolate((one == 1).float()[None, None], size=size, mode="area")[0] >= 0.5
        for one in truth
    ]
    return torch.cat(small).to(truth.dtype) if small else truth.new_zeros((0, *size))


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
    logits: Sequence[torch.Tensor], truths: Sequence[torch.Tensor], most_pixels: int = 0
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean BCE and DICE over all masks of a batch.

    The maps of H x W that lead to a loss are made for one mask at a time, and again in the
    backward pass: nothing of that size is kept but the arguments.

    Args:
        logits: per image float32[n, h, w], h and w as `loss_size` tells.
        truths: per image uint8[n, H, W]; values other than 1 are background.
        most_pixels: bound on h * w, see `loss_size`; 0: none.

    Returns:
        the two means, or None if the batch has no mask.

    Raises:
        ValueError: an image has another number of masks than `[SEG]` tokens.
    """
    bce, dice = [], []
    for number, (logit, full) in enumerate(zip(logits, truths, strict=True)):
        truth = shrink_truth(full, loss_size(full.shape[1:], most_pixels))
        if logit.shape != truth.shape:
            raise ValueError(
                f"image {number} of the batch: {tuple(logit.shape)} mask logits, "
                f"{tuple(truth.shape)} truth masks; one mask is needed for each [SEG]"
            )
        if len(logit) == 0:
            continue
        for one in zip(logit.split(1), truth.split(1), strict=True):
            pair = checkpoint(_both_losses, *one, use_reentrant=False, preserve_rng_state=False)
            bce.append(pair[0])
            dice.append(pair[1])
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

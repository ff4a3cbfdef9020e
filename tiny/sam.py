"""Tiny SAM: SAM's own modules in small sizes, trained on point prompts.

Losses: binary cross-entropy and DICE of the mask, squared error of the predicted IoU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from model.sam import SamModel, sam_sizes
from tiny.images import Images, sam_frame
from tiny.schedule import Schedule
from tiny.training import Training
from utils.protocol.image_transforms import normalise_for_sam

SIZES = {
    "embed_dim": 96,
    "depth": 4,
    "num_heads": 4,
    "global_attn_indexes": [0, 1, 2, 3],
    "image_size": 128,
    "prompt_dim": 64,
    "decoder_mlp_dim": 256,
}
POINTS = 20


def normalise(pixels: np.ndarray, sizes: np.ndarray) -> torch.Tensor:
    """uint8[B, S, S, 3] -> float32[B, 3, S, S]; the padding is 0 after normalisation."""
    frames = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return normalise_for_sam(frames, [(int(height), int(width)) for height, width in sizes])


def predict(
    sam: SamModel,
    pixels: torch.Tensor,
    owner: torch.Tensor,
    points: torch.Tensor,
    labels: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One mask for each of N point prompts.

    Args:
        pixels: float32[B, 3, S, S].
        owner: int64[N], the image of each prompt.
        points: float32[N, P, 2], (x, y) in SAM's frame.
        labels: int64[N, P], 1 / 0 / -1.

    Returns:
        logits float32[N, S, S] and predicted IoU float32[N].
    """
    sparse, _ = sam.prompt_encoder(points=(points, labels), boxes=None, masks=None)
    logits, quality = sam.decode(sam.encode(pixels)[owner], sparse)
    side = pixels.shape[-1]
    logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    return logits[:, 0], quality


def sample_points(
    mask: np.ndarray, size: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points as a similarity map would give them: grid cells in disorder, a few of them wrong.

    Args:
        mask: uint8[S, S].
        size: height and width of the image's part.

    Returns:
        float32[POINTS, 2] (x, y) and int64[POINTS], positives first, then negatives, then -1.
    """
    cells = int(rng.integers(7, 13))
    cell = min(size) / cells
    rows, columns = (int(np.ceil(v / cell)) for v in size)
    y, x = np.mgrid[0:rows, 0:columns].reshape(2, -1)
    points = (np.stack([x, y], axis=1) + 0.5) * cell + rng.normal(0, 0.2 * cell, (len(x), 2))
    points = np.clip(points, 0, np.array(size)[::-1] - 1)
    inside = mask[points[:, 1].astype(int), points[:, 0].astype(int)] > 0
    inside ^= rng.random(len(inside)) < 0.02
    positives = rng.permutation(np.flatnonzero(inside))[: int(rng.integers(1, 13))]
    negatives = rng.permutation(np.flatnonzero(~inside))[: int(rng.integers(0, 13))]
    if not len(positives):
        y, x = np.nonzero(mask)
        positives, points[0] = np.array([0]), np.array([x.mean(), y.mean()])
        negatives = negatives[negatives != 0]
    chosen = np.concatenate([positives, negatives])[:POINTS]
    labels = np.concatenate([np.ones(len(positives)), np.zeros(len(negatives))])[:POINTS]
    filling = rng.integers(0, len(points), POINTS - len(chosen))
    chosen = np.concatenate([chosen, filling])
    labels = np.concatenate([labels, -np.ones(len(filling))])
    return points[chosen].astype(np.float32), labels.astype(np.int64)


def _batch(
    images: Images, indices: np.ndarray, rng: np.random.Generator
) -> tuple[torch.Tensor, ...]:
    """Pixels [B, 3, S, S]; of N prompts: image, points, labels, truth, valid area [N, S, S]."""
    owner, points, labels, truth, valid = [], [], [], [], []
    for row, index in enumerate(indices):
        height, width = images.sizes[index]
        inside = np.zeros(images.masks.shape[-2:], np.float32)
        inside[:height, :width] = 1
        for number in range(len(images.things[index])):
            mask = images.masks[index, number]
            xy, label = sample_points(mask, images.sizes[index], rng)
            owner.append(row)
            points.append(xy)
            labels.append(label)
            truth.append(mask.astype(np.float32))
            valid.append(inside)
    stacked = [torch.from_numpy(np.stack(v)) for v in (points, labels, truth, valid)]
    pixels = normalise(images.pixels[indices], images.sizes[indices])
    return pixels, torch.tensor(owner), *stacked


def mask_losses(
    logits: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """BCE, DICE and the true IoU [N]; pixels beyond the image do not count."""
    pixelwise = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * valid
    bce = (pixelwise.sum((1, 2)) / valid.sum((1, 2))).mean()
    p = logits.sigmoid() * valid
    dice = 1 - (2 * (p * truth).sum((1, 2)) + 1) / (p.sum((1, 2)) + truth.sum((1, 2)) + 1)
    return bce, dice.mean(), intersection_over_union(logits, truth, valid)


def intersection_over_union(
    logits: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor
) -> torch.Tensor:
    """float32[N]."""
    hard = (logits > 0).float() * valid
    return (hard * truth).sum((1, 2)) / ((hard + truth) > 0).float().sum((1, 2)).clamp(min=1)


def train(out: Path, schedule: Schedule) -> dict[str, float]:
    """Train, write `out`, return what was measured on new images."""
    torch.manual_seed(schedule.seed)
    rng = np.random.default_rng(schedule.seed)
    side = SIZES["image_size"]
    data, new = (
        sam_frame(schedule.images, schedule.seed, side),
        sam_frame(schedule.unseen, schedule.seed + 1, side),
    )
    sam = SamModel(sam_sizes(SIZES)).train()
    training = Training("sam", schedule, sam)
    for _ in training.bar:
        pixels, owner, points, labels, truth, valid = _batch(
            data, rng.integers(0, schedule.images, schedule.batch), rng
        )
        logits, quality = predict(sam, pixels, owner, points, labels)
        bce, dice, iou = mask_losses(logits, truth, valid)
        loss = 2 * bce + 0.5 * dice + 0.5 * F.mse_loss(quality, iou.detach())
        training.step(loss, iou=iou.mean())
    result = evaluate(sam.eval(), new)
    torch.save(sam.state_dict(), out)
    return result


@torch.no_grad()
def evaluate(sam: SamModel, images: Images) -> dict[str, float]:
    """Mean IoU on new images with true points, for all things and for the two sizes."""
    rng = np.random.default_rng(0)
    scores, sizes = [], []
    for start in range(0, len(images.pixels), 50):
        indices = np.arange(start, min(start + 50, len(images.pixels)))
        pixels, owner, points, labels, truth, valid = _batch(images, indices, rng)
        logits, _ = predict(sam, pixels, owner, points, labels)
        scores.append(intersection_over_union(logits, truth, valid))
        sizes += [thing.size for i in indices for thing in images.things[i]]
    iou, sizes = torch.cat(scores).numpy(), np.array(sizes)
    return {
        "iou": float(iou.mean()),
        **{f"iou_{size}": float(iou[sizes == size].mean()) for size in ("small", "large")},
    }

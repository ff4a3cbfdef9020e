"""SasP written out step by step: one mask, one point, one full-size map at a time.

The plain reading of the method that `model.sasp` is tested and measured against; it shares nothing
but `SaspParams`. Sizes are (H, W); coordinates are (x, y) in pixels of the original image.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from model.sasp import SaspParams

FRAME = 336
"""Side of CLIP's centre crop."""


def padding_of(length: int, shortest: int, side: int) -> int:
    """Cells that the centre crop took off at either end of an axis; -1 where rounding adds one."""
    scale = side / shortest
    return (int(length * scale) - side) // 2


def pad(grid: torch.Tensor, size: tuple[int, int], value: float) -> torch.Tensor:
    """Put a cropped square float[d, d] back into the whole image's grid float[h, w]."""
    rows, columns = (padding_of(length, min(size), grid.shape[0]) for length in size)
    return F.pad(grid, (columns, columns, rows, rows), value=value)


def resize(grid: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear, float[h, w] -> float[H, W]."""
    return F.interpolate(grid[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def discrete(
    similarity: torch.Tensor, size: tuple[int, int], params: SaspParams
) -> tuple[list[tuple[int, int]], list[int]]:
    """Choose cells of one map: points as whole (x, y), and their labels.

    Args:
        similarity: float32[V].
    """
    height, width = size
    side = math.isqrt(len(similarity))
    down = max(1, side // params.down_sample)
    reduced = resize(similarity.reshape(side, side), (down, down))
    lowest, highest = reduced.min(), reduced.max()
    constant = bool(lowest == highest)
    scaled = torch.zeros_like(reduced) if constant else (reduced - lowest) / (highest - lowest)
    if params.thresholds == "std":
        mean, deviation = scaled.mean(), scaled.std(unbiased=False)
        t_pos = float(mean + params.std_factor * deviation)
        t_neg = float(mean - params.std_factor * deviation)
    else:
        t_pos, t_neg = (float(torch.tensor(t)) for t in (params.t_pos, params.t_neg))
    grid = pad(scaled, size, -1.0)

    positives, negatives, neutrals = [], [], []
    for row, values in enumerate(grid.tolist()):
        for column, value in enumerate(values):
            if value < 0:
                continue
            if constant or t_neg < value < t_pos:
                neutrals.append((0.0, row, column))
            elif value >= t_pos:
                positives.append((-value, row, column))
            else:
                negatives.append((value, row, column))
    chosen = [
        (row, column, label)
        for label, cells in ((1, positives), (0, negatives), (-1, neutrals))
        for _, row, column in sorted(cells)
    ][: params.num_points]

    rows, columns = grid.shape
    points = [
        (centre(column, width, columns), centre(row, height, rows)) for row, column, _ in chosen
    ]
    return points, [label for _, _, label in chosen]


def centre(cell: int, length: int, cells: int) -> int:
    """The whole pixel in the middle of a cell along one axis, computed in float32."""
    place = np.float32(cell + 0.5) * np.float32(length / cells)
    return int(min(place, np.float32(length - 1)))


def continuous(
    similarity: torch.Tensor, points: list[tuple[int, int]], size: tuple[int, int]
) -> torch.Tensor:
    """DtoC of one map, every point over every pixel.

    Args:
        similarity: float[V]; its dtype is that of the computation.
        points: P whole (x, y).

    Returns:
        float[P, 2].
    """
    height, width = size
    side = math.isqrt(len(similarity))
    lowest, highest = similarity.min(), similarity.max()
    spread = highest - lowest if highest > lowest else torch.ones_like(lowest)
    scaled = ((similarity - lowest) / spread).reshape(side, side)
    full = resize(pad(resize(scaled, (FRAME, FRAME)), size, 0.0), size)
    share = full.flatten().softmax(dim=0).reshape(height, width)
    y, x = torch.meshgrid(
        torch.arange(height, dtype=full.dtype), torch.arange(width, dtype=full.dtype), indexing="ij"
    )
    moved = []
    for x_0, y_0 in points:
        weight = torch.exp(-((x - x_0) ** 2 + (y - y_0) ** 2)) * share
        weight = weight / weight.sum()
        moved.append(torch.stack([(weight * x).sum(), (weight * y).sum()]))
    return torch.stack(moved) if moved else full.new_zeros((0, 2))


def reference_points(
    similarity: torch.Tensor,
    size: tuple[int, int],
    params: SaspParams,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `model.sasp.similarity_to_points`, mask by mask.

    Args:
        similarity: float32[V] or float32[N, V].
        dtype: of the continuous part; float64 shows what the exact result is.

    Returns:
        points dtype[..., P, 2] and labels int64[..., P].
    """
    if similarity.dim() == 2:
        pairs = [reference_points(one, size, params, dtype) for one in similarity]
        return torch.stack([p for p, _ in pairs]), torch.stack([label for _, label in pairs])
    if params.prompt == "text":
        return similarity.new_zeros((0, 2), dtype=dtype), torch.zeros(0, dtype=torch.int64)
    points, labels = discrete(similarity.detach(), size, params)
    if params.prompt == "discrete":
        moved = torch.tensor(points, dtype=dtype).reshape(-1, 2)
    else:
        moved = continuous(similarity.to(dtype), points, size)
    return moved, torch.tensor(labels, dtype=torch.int64)

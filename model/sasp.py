"""SasP, "Similarity as Points": point prompts from the similarity between `[SEG]` and the image.

Pure functions on tensors; usable with any `<SEG>` model and any SAM. The names SasP and
DtoC ("discrete to continuous") are the paper's. Their settings are `SaspParams`.

Legend: N similarity maps, V = side * side image tokens, D width of the language model, P points,
H x W original image. Coordinates are (x, y) in pixels of the original image.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from utils.protocol.geometry import crop_padding
from utils.protocol.sasp_params import SaspParams

POSITIVE, NEGATIVE, NEUTRAL = 1, 0, -1
"""Point labels as SAM's prompt encoder reads them; a neutral point carries no position."""

CLIP_FRAME = 336
"""Side of the frame in which the continuous map undoes the centre crop."""

WINDOW_RADIUS = 10
"""Pixels around a point that can weigh in DtoC: exp(-11**2) is zero in float32."""


PRESETS = {
    "7b": SaspParams(),
    "13b_stage1": SaspParams(num_points=10, down_sample=1),
    "13b_stage2": SaspParams(down_sample=1),
    "13b_eval": SaspParams(num_points=60, t_pos=0.6, down_sample=1),
}
"""The published settings of the released models."""


def similarity_map(image_states: torch.Tensor, seg_state: torch.Tensor) -> torch.Tensor:
    """Plain dot product of the image tokens with the state that predicts `[SEG]`.

    Args:
        image_states: float[..., V, D], last hidden states after the final norm.
        seg_state: float[..., D].

    Returns:
        float32[..., V].
    """
    return torch.einsum("...vd,...d->...v", image_states.float(), seg_state.float())


def similarity_to_points(
    similarity: torch.Tensor, size: tuple[int, int], params: SaspParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose point prompts from similarity maps; differentiable through DtoC.

    Positive points come first by falling similarity, then negative ones by rising similarity, then
    neutral ones in raster order. A constant map has only neutral points, with finite gradients.

    Args:
        similarity: float[V] or float[N, V] over a square grid of image tokens.
        size: (H, W) of the original image in pixels.
        params: see `SaspParams`.

    Returns:
        points: float32[..., P, 2], (x, y) in pixels of the original image.
        labels: int64[..., P]: 1 positive, 0 negative, -1 neutral. P = 0 for `prompt="text"`.

    Raises:
        ValueError: V is not a square, or the shape is neither [V] nor [N, V].
    """
    if similarity.dim() not in (1, 2):
        raise ValueError(f"similarity has shape {tuple(similarity.shape)}; expected [V] or [N, V]")
    side = round(similarity.shape[-1] ** 0.5)
    if side * side != similarity.shape[-1]:
        raise ValueError(f"{similarity.shape[-1]} image tokens do not form a square grid")
    grids = similarity.float().reshape(-1, side, side)
    if params.prompt == "text":
        points = grids.new_zeros((len(grids), 0, 2))
        labels = torch.zeros((len(grids), 0), dtype=torch.int64, device=grids.device)
    else:
        points, labels = discrete_points(grids.detach(), size, params)
        if params.prompt == "points":
            points = discrete_to_continuous(grids, points, size)
    if similarity.dim() == 1:
        return points[0], labels[0]
    return points, labels


def discrete_points(
    grids: torch.Tensor, size: tuple[int, int], params: SaspParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps 1-5 of SasP: classify the cells of the reduced map and keep the first P of them.

    Args:
        grids: float32[N, side, side].
        size: (H, W) of the original image.

    Returns:
        points float32[N, P, 2] with whole-numbered (x, y); labels int64[N, P].
    """
    down = max(1, grids.shape[-1] // params.down_sample)
    reduced = F.interpolate(
        grids[:, None], size=(down, down), mode="bilinear", align_corners=False
    )[:, 0].flatten(1)
    lowest, highest = reduced.amin(dim=1, keepdim=True), reduced.amax(dim=1, keepdim=True)
    usable = highest > lowest
    values = (reduced - lowest) / torch.where(usable, highest - lowest, torch.ones_like(highest))

    if params.thresholds == "std":
        mean, std = (
            values.mean(dim=1, keepdim=True),
            values.std(dim=1, unbiased=False, keepdim=True),
        )
        t_pos, t_neg = mean + params.std_factor * std, mean - params.std_factor * std
    else:
        t_pos, t_neg = values.new_tensor(params.t_pos), values.new_tensor(params.t_neg)
    positive = (values >= t_pos) & usable
    negative = (values <= t_neg) & usable & ~positive

    # One stable sort inside the classes, one over them; raster order remains among neutrals.
    inside = torch.where(positive, -values, torch.where(negative, values, torch.zeros_like(values)))
    rank = torch.where(positive, 0, torch.where(negative, 1, 2))
    cells = _cells_in_image(down, size, grids.device)
    order = cells[inside[:, cells].argsort(dim=1, stable=True)]
    order = order.gather(1, rank.gather(1, order).argsort(dim=1, stable=True))
    kept = order[:, : params.num_points]

    labels = torch.where(positive, POSITIVE, torch.where(negative, NEGATIVE, NEUTRAL))
    return _cell_centres(kept, down, size), labels.gather(1, kept)


def _cells_in_image(down: int, size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Numbers int64[cells] of the cells that remain when the centre crop is undone.

    All of them, but for the border that a rounded-down size cuts off (`crop_padding` < 0).
    """
    rows_off, columns_off = (max(0, -padding) for padding in crop_padding(size, down))
    cells = torch.arange(down * down, device=device).reshape(down, down)
    return cells[rows_off : down - rows_off, columns_off : down - columns_off].flatten()


def _cell_centres(cells: torch.Tensor, down: int, size: tuple[int, int]) -> torch.Tensor:
    """Cell numbers int64[N, P] of the cropped square to (x, y) in the whole image, truncated.

    In float32, as the original: the size of a cell is rounded to float32 before it is multiplied.
    In float64 a point lies one pixel off in 2-4 % of the image sizes, such as 200 x 1600.
    """
    height, width = size
    rows_off, columns_off = crop_padding(size, down)
    rows, columns = down + 2 * rows_off, down + 2 * columns_off
    x = (cells % down + columns_off).float().add(0.5) * (width / columns)
    y = (cells // down + rows_off).float().add(0.5) * (height / rows)
    return torch.stack([x.clamp(max=width - 1), y.clamp(max=height - 1)], dim=-1).trunc()


def discrete_to_continuous(
    grids: torch.Tensor, points: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """DtoC: replace a point by the mean position of its surroundings, weighted by the map.

    The full-size map M is linear in the scaled grid and separable, M = A_y s A_x^T, so only the
    rows of A_y and A_x inside the window around each point are used. The weight of a pixel is
    exp(-distance**2) * softmax(M); the softmax's denominator cancels.

    Args:
        grids: float32[N, side, side]; gradients flow to it.
        points: float32[N, P, 2], whole-numbered (x, y) in the original image.
        size: (H, W) of the original image.

    Returns:
        float32[N, P, 2], (x, y) in pixels of the original image.
    """
    height, width = size
    side = grids.shape[-1]
    lowest, highest = grids.amin(dim=(1, 2), keepdim=True), grids.amax(dim=(1, 2), keepdim=True)
    spread = highest - lowest
    scaled = (grids - lowest) / torch.where(spread > 0, spread, torch.ones_like(spread))

    rows_off, columns_off = crop_padding(size, CLIP_FRAME)
    along_y = upscaling_matrix(side, CLIP_FRAME, rows_off, height, grids.device)
    along_x = upscaling_matrix(side, CLIP_FRAME, columns_off, width, grids.device)

    steps = torch.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1, device=grids.device)
    x = points[..., 0].long()[..., None] + steps
    y = points[..., 1].long()[..., None] + steps
    outside_x, outside_y = (x < 0) | (x >= width), (y < 0) | (y >= height)
    x_rows = along_x[x.clamp(0, width - 1)]
    y_rows = along_y[y.clamp(0, height - 1)]
    window = torch.matmul(torch.matmul(y_rows, scaled[:, None]), x_rows.transpose(-1, -2))

    squares = steps.float().square()
    x_cost = squares.expand(outside_x.shape).masked_fill(outside_x, torch.inf)
    y_cost = squares.expand(outside_y.shape).masked_fill(outside_y, torch.inf)
    weights = (window - y_cost[..., :, None] - x_cost[..., None, :]).flatten(-2).softmax(dim=-1)
    weights = weights.unflatten(-1, (len(steps), len(steps)))
    # Offsets, not absolute coordinates: their sums keep full precision on large images.
    offsets = torch.stack(
        [weights.sum(dim=-2) @ steps.float(), weights.sum(dim=-1) @ steps.float()], dim=-1
    )
    return points + offsets


def upscaling_matrix(
    side: int, frame: int, padding: int, length: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """One axis of the full-size map: side -> frame (bilinear), zero-padded, -> length (bilinear).

    Returns:
        float32[length, side].
    """
    cells = torch.eye(side, device=device)[None]
    in_frame = F.interpolate(cells, size=frame, mode="linear", align_corners=False)
    in_frame = F.pad(in_frame, (padding, padding))
    return F.interpolate(in_frame, size=length, mode="linear", align_corners=False)[
        0
    ].T.contiguous()

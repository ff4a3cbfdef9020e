"""Where `[SEG]` stands and which hidden states belong to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class SegTokens:
    """M `[SEG]` tokens in reading order.

    Args:
        row: int64[M], the conversation of each.
        column: int64[M], its place in `input_ids`.
        state_position: int64[M], the position whose state predicts it, once the image is in.
    """

    row: torch.Tensor
    column: torch.Tensor
    state_position: torch.Tensor


def locate_seg(input_ids: torch.Tensor, text_position: torch.Tensor, seg_id: int) -> SegTokens:
    """Find every `[SEG]`.

    Args:
        input_ids: int64[N, T].
        text_position: int64[N, T], see `SplicedPrompt`.
        seg_id: id of `[SEG]`.
    """
    row, column = (input_ids == seg_id).nonzero(as_tuple=True)
    return SegTokens(row, column, text_position[row, column] - 1)


def image_hidden_states(
    states: torch.Tensor, image_start: torch.Tensor, count: int
) -> torch.Tensor:
    """The V states at the image positions of the given rows.

    Args:
        states: float[M, L, D].
        image_start: int64[M]; -1 (no image) gives the first V positions.
        count: V.

    Returns:
        float[M, V, D].
    """
    places = image_start.clamp(min=0)[:, None] + torch.arange(count, device=states.device)
    return states[torch.arange(len(states), device=states.device)[:, None], places]

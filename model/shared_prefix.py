"""What the conversations about an image have in common runs through the language model once.

The states of a causal model depend on nothing behind them, so the tokens up to and including the
image have the same ones in every conversation that begins like that. Such conversations, a row
of T + V - 1 positions each in `model.llava.splice_image`, become one row:

    prefix | rest of the first conversation | rest of the second | ...

A rest sees the prefix and itself, and its positions continue those of the prefix. States, losses
and gradients are those of separate rows (with dropout, those of one draw for the prefix).

Legend: see `model.llava`; R rows of M positions take the place of N rows of L.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from transformers import LlamaModel, PreTrainedConfig

from model.attention import attention_by
from model.llava import SplicedPrompt
from utils.protocol.constants import IMAGE_TOKEN_INDEX

MASKED_ATTENTION = ("sdpa", "eager")
"""Implementations that take any mask. In the place of others (FlashAttention), "sdpa" attends."""

PADDING = -1


@dataclass
class Packing:
    """How N separate rows of L positions become R rows of M.

    Args:
        source: int64[R, M]: the position n * L + l that each one holds; 0 on padding.
        position: int64[R, M]: its distance from the begin of its conversation.
        segment_id: int64[R, M]: 0 the prefix, 1 and up the rests, -1 padding.
        place: int64[N, L]: the position r * M + m where each one went; 0 for padding.
    """

    source: torch.Tensor
    position: torch.Tensor
    segment_id: torch.Tensor
    place: torch.Tensor

    def to(self, device: torch.device) -> Packing:
        """The same on another device."""
        return Packing(*(value.to(device) for value in vars(self).values()))

    def pack(self, rows: torch.Tensor) -> torch.Tensor:
        """float[N, L, D] -> float[R, M, D]."""
        return rows.flatten(0, 1)[self.source]

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """float[R, M, D] -> float[N, L, D]; what stands at padding means nothing."""
        return packed.flatten(0, 1)[self.place]

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Who sees whom, as what is added to scores: dtype[R, 1, M, M], 0 or the lowest number.

        Padding sees the prefix, so that no row of scores is empty.
        """
        query, key = self.segment_id[:, :, None], self.segment_id[:, None, :]
        visible = ((key == 0) | (key == query)).tril()[:, None]
        return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)


def forward_packed(
    llm: LlamaModel, spliced: SplicedPrompt, packing: Packing | None
) -> torch.Tensor:
    """Last states float[N, L, D] of separate rows, by way of their packing if there is one."""
    if packing is None:
        return llm(
            inputs_embeds=spliced.embeds, attention_mask=spliced.attention_mask, use_cache=False
        ).last_hidden_state
    usual = llm.config._attn_implementation
    name = usual if usual in MASKED_ATTENTION else "sdpa"
    embeds = packing.pack(spliced.embeds)
    with attention_by(llm.config, name):
        states = llm(
            inputs_embeds=embeds,
            attention_mask=packing.mask(embeds.dtype),
            position_ids=packing.position,
            use_cache=False,
        ).last_hidden_state
    return packing.unpack(states)


def same_attention(
    config: PreTrainedConfig,
) -> Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """For gradient checkpointing (`context_fn`): recompute with the attention of the forward."""
    return lambda: (nullcontext(), attention_by(config, config._attn_implementation))


def pack_shared_prefix(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_index: torch.Tensor,
    image_tokens: int,
) -> Packing | None:
    """The packing of a batch, or None where separate rows do no more.

    Conversations share a row if they are about the same image and have the same tokens before
    it; their prefix also takes in what they have in common behind it.

    Args:
        input_ids: int64[N, T], at most one -200 in a row.
        attention_mask: bool[N, T], padding on either side.
        image_index: int64[N], the image of each.
        image_tokens: V.
    """
    rows = _rows(input_ids.tolist(), attention_mask.tolist(), image_tokens)
    if rows is None:
        return None
    groups: dict[tuple[int, ...], list[_Row]] = {}
    for number, (row, image) in enumerate(zip(rows, image_index.tolist(), strict=True)):
        before = row.ids.index(IMAGE_TOKEN_INDEX) if row.has_image else 0
        key = (image, *row.ids[:before]) if row.has_image else (-1, number)
        groups.setdefault(key, []).append(row)
    if len(groups) == len(rows):
        return None

    length = input_ids.shape[1] + max((image_tokens - 1) * row.has_image for row in rows)
    source, position, segment_id, placed = [], [], [], []
    for number, group in enumerate(groups.values()):
        shared = _common(group) if len(group) > 1 else 0
        prefix = torch.arange(shared)
        pieces = [(group[0], 0, prefix)]
        pieces += [(row, n, torch.arange(shared, len(row.ids))) for n, row in enumerate(group, 1)]
        source.append(torch.cat([row.number * length + row.begin + at for row, _, at in pieces]))
        position.append(torch.cat([at for _, _, at in pieces]))
        segment_id.append(torch.cat([torch.full_like(at, n) for _, n, at in pieces]))
        filled = 0
        for row, _, rest in pieces[1:]:
            placed.append((row, number, torch.cat([prefix, rest + filled])))
            filled += len(rest)
    width = max(map(len, position))
    place = torch.zeros((len(rows), length), dtype=torch.int64)
    for row, number, columns in placed:
        place[row.number, row.begin : row.begin + len(columns)] = number * width + columns
    packing = Packing(_padded(source, 0), _padded(position, 0), _padded(segment_id, PADDING), place)
    return packing.to(input_ids.device)


@dataclass
class _Row:
    """A conversation without its padding.

    Args:
        number: its row.
        begin: where it begins there.
        ids: its tokens, the image's -200 once for each of its positions.
        has_image: whether there is one.
    """

    number: int
    begin: int
    ids: list[int]
    has_image: bool


def _rows(
    input_ids: list[list[int]], mask: list[list[bool]], image_tokens: int
) -> list[_Row] | None:
    """The conversations; None if one has gaps, or padding for an image."""
    rows = []
    for number, (tokens, used) in enumerate(zip(input_ids, mask, strict=True)):
        count = sum(used)
        begin = used.index(True) if count else 0
        ids = tokens[begin : begin + count]
        has_image = IMAGE_TOKEN_INDEX in ids
        if not all(used[begin : begin + count]) or has_image != (IMAGE_TOKEN_INDEX in tokens):
            return None
        if has_image:
            at = ids.index(IMAGE_TOKEN_INDEX)
            ids[at : at + 1] = [IMAGE_TOKEN_INDEX] * image_tokens
        rows.append(_Row(number, begin, ids, has_image))
    return rows


def _common(group: list[_Row]) -> int:
    """Positions in which all of these begin alike."""
    for count, tokens in enumerate(zip(*(row.ids for row in group), strict=False)):
        if len(set(tokens)) > 1:
            return count
    return min(len(row.ids) for row in group)


def _padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

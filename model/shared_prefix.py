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

from model.inference.prefix_cache import attention_by
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
        asking, asked = self.segment_id[:, :, None], self.segment_id[:, None, :]
        seen = ((asked == 0) | (asked == asking)).tril()[:, None]
        return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


@dataclass
class _Row:
    """A conversation: its tokens, where they begin in `input_ids`, and its image's place."""

    number: int
    ids: list[int]
    begin: int
    image: int | None

    def start(self, length: int) -> int:
        """Position n * L + l where it begins."""
        return self.number * length + self.begin


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
    rows = _rows(input_ids.tolist(), attention_mask.tolist())
    if rows is None:
        return None
    grow = image_tokens - 1
    groups: dict[tuple[bool, tuple[int, ...]], list[_Row]] = {}
    for row, image in zip(rows, image_index.tolist(), strict=True):
        alone = row.image is None
        same = (row.number,) if alone else (image, *row.ids[: row.image])
        groups.setdefault((alone, same), []).append(row)
    if len(groups) == len(rows):
        return None

    length = input_ids.shape[1] + (grow if any(row.image is not None for row in rows) else 0)
    joined = [_join(group, 0 if alone else grow, length) for (alone, _), group in groups.items()]
    width = max(len(made.segment_id) for made in joined)
    place = torch.zeros(len(rows) * length, dtype=torch.int64)
    for number, made in enumerate(joined):
        for start, columns in made.columns.items():
            place[start : start + len(columns)] = number * width + columns
    packing = Packing(
        source=_padded([made.source for made in joined], 0),
        position=_padded([made.position for made in joined], 0),
        segment_id=_padded([made.segment_id for made in joined], PADDING),
        place=place.view(len(rows), length),
    )
    return packing.to(input_ids.device)


@dataclass
class _Joined:
    """One row of a packing, int64[M] each; and where in it each conversation went.

    Args:
        columns: first of its positions n * L + l -> the column of each of them.
    """

    source: torch.Tensor
    position: torch.Tensor
    segment_id: torch.Tensor
    columns: dict[int, torch.Tensor]


def _join(group: list[_Row], added: int, length: int) -> _Joined:
    """Lay out conversations in one row; `added` positions come with their image."""
    shared = _common(group) + added if len(group) > 1 else 0
    prefix = torch.arange(shared)
    source, position, part = [group[0].start(length) + prefix], [prefix], [torch.zeros_like(prefix)]
    columns, filled = {}, shared
    for number, row in enumerate(group, start=1):
        rest = torch.arange(shared, len(row.ids) + added)
        source.append(row.start(length) + rest)
        position.append(rest)
        part.append(torch.full_like(rest, number))
        columns[row.start(length)] = torch.cat([prefix, rest - shared + filled])
        filled += len(rest)
    return _Joined(torch.cat(source), torch.cat(position), torch.cat(part), columns)


def _rows(ids: list[list[int]], mask: list[list[bool]]) -> list[_Row] | None:
    """The conversations without their padding; None if one has gaps, or padding for an image."""
    rows = []
    for number, (tokens, used) in enumerate(zip(ids, mask, strict=True)):
        count = sum(used)
        begin = used.index(True) if count else 0
        kept = tokens[begin : begin + count]
        if not all(used[begin : begin + count]):
            return None
        if kept.count(IMAGE_TOKEN_INDEX) != tokens.count(IMAGE_TOKEN_INDEX):
            return None
        image = kept.index(IMAGE_TOKEN_INDEX) if IMAGE_TOKEN_INDEX in kept else None
        rows.append(_Row(number, kept, begin, image))
    return rows


def _common(group: list[_Row]) -> int:
    """Tokens that all of these begin with."""
    for count, tokens in enumerate(zip(*(row.ids for row in group), strict=False)):
        if len(set(tokens)) > 1:
            return count
    return min(len(row.ids) for row in group)


def _padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

"""A KV cache of rows: questions enter with the keys and values of their picture, and leave.

Legend: R rows, H heads, S slots (positions) of a row, d width of a head. A row holds its picture's
part of the prompt in slots 0..p-1 and its own tokens behind it, without gaps; what lies behind a
row's length is finite rubbish that the attention mask hides. The rows in use are always the first
ones, so that every step works on views.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache, DynamicLayer

CHUNK = 64
"""Slots by which a cache grows."""


@dataclass
class Span:
    """What the next forward writes and sees.

    Args:
        rows: the rows it runs on.
        seen: slots before its own in the longest row.
        new: its tokens in a row.
        places: int64[r], the slot of each row's one new token; None: slots seen..seen+new-1.
    """

    rows: slice
    seen: int
    new: int
    places: torch.Tensor | None = None


class RowLayer(DynamicLayer):
    """Keys and values float[R, H, S, d] of one layer, written in place."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.span = Span(slice(0, 0), 0, 0)

    def allocate(self, rows: int, slots: int, like: torch.Tensor) -> None:
        """Have room for that many rows and slots, heads as in `like` float[., H, ., d]."""
        self.keys = self._grown(self.keys, rows, slots, like)
        self.values = self._grown(self.values, rows, slots, like)
        self.dtype, self.device = like.dtype, like.device
        self.is_initialized = True

    def _grown(
        self, old: torch.Tensor | None, rows: int, slots: int, like: torch.Tensor
    ) -> torch.Tensor:
        # Zeros, since a masked NaN would still spoil the attention's sum.
        new = like.new_zeros((rows, like.shape[1], slots, like.shape[3]))
        if old is not None:
            new[: len(old), :, : old.shape[2]] = old
        return new

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write float[r, H, t, d] into the span; returns all that its rows see."""
        span = self.span
        end = span.seen + span.new
        if not self.is_initialized:
            self.allocate(span.rows.stop, end, key_states)
        keys, values = self.keys[span.rows, :, :end], self.values[span.rows, :, :end]
        if span.places is None:
            keys[:, :, span.seen :] = key_states
            values[:, :, span.seen :] = value_states
        else:
            rows = torch.arange(len(span.places), device=span.places.device)
            keys[rows, :, span.places] = key_states[:, :, 0]
            values[rows, :, span.places] = value_states[:, :, 0]
        return keys, values

    def get_seq_length(self) -> int:
        """Slots before the next token of the longest row."""
        return self.span.seen

    def get_mask_sizes(self, query_length: int, *args) -> tuple[int, int]:
        """Slots seen with the new ones, and the first of them."""
        return self.span.seen + self.span.new, 0


class RowCache(Cache):
    """The cache of all layers; see the head of this file.

    Args:
        layers: number of decoder layers.
    """

    def __init__(self, layers: int):
        self.rows_of_layers = [RowLayer() for _ in range(layers)]
        super().__init__(layers=list(self.rows_of_layers))
        self.rows = 0
        self.slots = 0

    def reserve(self, rows: int, slots: int, like: RowCache | None = None) -> None:
        """Grow to hold at least that many rows and slots; slots grow in chunks.

        Args:
            like: a cache with the heads and the type of this one, needed as long as it is empty.
        """
        if rows <= self.rows and slots <= self.slots:
            return
        self.rows = max(rows, self.rows)
        if slots > self.slots:
            self.slots = -(-slots // CHUNK) * CHUNK
        source = self if like is None else like
        for layer, other in zip(self.rows_of_layers, source.rows_of_layers, strict=True):
            layer.allocate(self.rows, self.slots, other.keys)

    def set_span(self, span: Span) -> None:
        """Say what the next forward writes and sees."""
        for layer in self.rows_of_layers:
            layer.span = span

    def copy_prefix(self, prefix: RowCache, rows: slice, length: int) -> None:
        """Write the first `length` slots of the one row of `prefix` into the given rows."""
        for mine, theirs in zip(self.rows_of_layers, prefix.rows_of_layers, strict=True):
            mine.keys[rows, :, :length] = theirs.keys[:, :, :length]
            mine.values[rows, :, :length] = theirs.values[:, :, :length]

    def move_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` slots of a row to another row."""
        for layer in self.rows_of_layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

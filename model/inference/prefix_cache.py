"""Keys and values of questions that share images, and the attention over them.

What the prompts about an image share is kept once for all of its questions; each question has a
row of its own for what follows. Attention looks at both as if they stood in one row.

Legend: R rows, G images, H heads of keys, p positions of the shared part, S slots of a row (its
own tokens from slot 0 on, without gaps), t new tokens of a row, d width of a head. The rows and
images in use are always the first ones, so that every step works on views.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from inspect import signature

import torch
from transformers import AttentionInterface, LlamaModel, PreTrainedConfig
from transformers.cache_utils import Cache, DynamicLayer

from model.attention import attention_by

CHUNK = 32
"""Slots by which rows grow."""

NAME = "rows_of_images"
"""Of the attention, among those of transformers."""

_ARGUMENTS = signature(LlamaModel.forward).parameters
CACHE_ARGUMENT = "cache" if "cache" in _ARGUMENTS else "past_key_values"
"""What transformers' forward calls its cache: another name since 5.24."""

Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values float[1, H, p, d] of every layer."""


@dataclass
class CacheSlice:
    """What the next forward writes and sees.

    Args:
        rows: the rows it runs on, r of them.
        end: slots they see, the new ones included.
        places: rows and slots, twice int64[r], of each row's one new token; None: new tokens take
            the slots before `end`.
        hidden: bool[r or 1, 1, t, end], slots that a new token must not see.
        images: the images of these rows, and maybe others, g of them.
        members: int64[g, m], rows of each image counted from the first of `rows`, padded with 0.
        image: int64[r], of each row, counted from the first of `images`.
        member: int64[r], its place among the rows of its image.
    """

    rows: slice
    end: int
    places: tuple[torch.Tensor, torch.Tensor] | None
    hidden: torch.Tensor
    images: slice
    members: torch.Tensor
    image: torch.Tensor
    member: torch.Tensor

    def by_image(self, values: torch.Tensor) -> torch.Tensor:
        """Of rows float[r, H, n, x] -> of images float[g, H, m * n, x]."""
        together = values[self.members].transpose(1, 2)
        return together.flatten(2, 3)

    def by_row(self, values: torch.Tensor) -> torch.Tensor:
        """The inverse of `by_image`."""
        count = self.members.shape[1]
        apart = values.unflatten(2, (count, values.shape[2] // count)).transpose(1, 2)
        return apart[self.image, self.member]


class SharedPrefixLayer(DynamicLayer):
    """One layer: `keys`, `values` float[R, H, S, d]; `shared` twice float[G, H, p, d]."""

    keys: torch.Tensor
    values: torch.Tensor
    cache_slice: CacheSlice
    """Set before every forward."""
    shared: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write float[r, H, t, d] into the slice; returns all that its rows have of their own."""
        cache_slice = self.cache_slice
        keys, values = (
            self.keys[cache_slice.rows, :, : cache_slice.end],
            self.values[cache_slice.rows, :, : cache_slice.end],
        )
        if cache_slice.places is None:
            keys[:, :, -key_states.shape[2] :] = key_states
            values[:, :, -key_states.shape[2] :] = value_states
        else:
            rows, places = cache_slice.places
            keys[rows, :, places] = key_states[:, :, 0]
            values[rows, :, places] = value_states[:, :, 0]
        return keys, values


class SharedPrefixCache(Cache):
    """The cache of all layers; see the head of this file.

    Args:
        layers: number of decoder layers.
    """

    def __init__(self, layers: int):
        self.rows_of_layers = [SharedPrefixLayer() for _ in range(layers)]
        super().__init__(layers=list(self.rows_of_layers))
        self.rows = self.slots = self.images = 0
        self.image_of_row: list[int] = []

    # --- room -------------------------------------------------------------------------------

    def reserve(self, rows: int, slots: int) -> None:
        """Have room for at least that many rows and slots; slots grow in chunks.

        There has to be an image already.
        """
        if rows <= self.rows and slots <= self.slots:
            return
        self.rows = max(rows, self.rows)
        if slots > self.slots:
            self.slots = -(-slots // CHUNK) * CHUNK
        for layer in self.rows_of_layers:
            _, heads, _, width = layer.keys.shape
            layer.keys = _grown(layer.keys, (self.rows, heads, self.slots, width))
            layer.values = _grown(layer.values, layer.keys.shape)
            layer.is_initialized = True

    def add_image(self, shared: Layers) -> int:
        """Keep what the prompts about one more image share; returns the image's number."""
        number = self.images
        self.images += 1
        for layer, (keys, values) in zip(self.rows_of_layers, shared, strict=True):
            if layer.shared is None:
                layer.shared = keys.clone(), values.clone()
                layer.keys = layer.values = keys[:0, :, :0]
            elif number == len(layer.shared[0]):
                shape = (2 * number, *keys.shape[1:])
                layer.shared = _grown(layer.shared[0], shape), _grown(layer.shared[1], shape)
            layer.shared[0][number], layer.shared[1][number] = keys[0], values[0]
        return number

    def drop_image(self, number: int) -> None:
        """Let go of an image that no row has any more; the last one takes its number."""
        self.images -= 1
        if number == self.images:
            return
        for layer in self.rows_of_layers:
            for part in layer.shared or ():
                part[number] = part[self.images]
        self.image_of_row = [number if p == self.images else p for p in self.image_of_row]

    def move_row(self, source: int, target: int, length: int) -> None:
        """Copy a row with `length` slots to another row."""
        self.image_of_row[target] = self.image_of_row[source]
        for layer in self.rows_of_layers:
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    # --- forwards ---------------------------------------------------------------------------

    def set_slice(self, rows: slice, lengths: Sequence[int], new: int) -> None:
        """Say what the next forward writes and sees.

        Args:
            rows: its rows.
            lengths: slots that each of them has filled; all 0 unless `new` is 1.
            new: tokens that each of them gets.
        """
        device = self.rows_of_layers[0].keys.device
        end = max(lengths) + new
        slots = torch.arange(end, device=device)
        if new == 1:
            last = torch.tensor(lengths, device=device)
            places = torch.arange(len(lengths), device=device), last
            hidden = (slots > last[:, None])[:, None, None]
        else:
            places, hidden = None, (slots > slots[:, None])[None, None]
        numbers = self.image_of_row[rows]
        first, beyond = min(numbers), max(numbers) + 1
        members: list[list[int]] = [[] for _ in range(first, beyond)]
        member = []
        for row, number in enumerate(numbers):
            member.append(len(members[number - first]))
            members[number - first].append(row)
        most = max(map(len, members))
        padded = [row + [0] * (most - len(row)) for row in members]
        cache_slice = CacheSlice(
            rows,
            end,
            places,
            hidden,
            slice(first, beyond),
            torch.tensor(padded, device=device),
            torch.tensor(numbers, device=device) - first,
            torch.tensor(member, device=device),
        )
        for layer in self.rows_of_layers:
            layer.cache_slice = cache_slice


def _grown(old: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A larger copy; what is new is zero, since a masked NaN would still spoil a sum."""
    new = old.new_zeros(tuple(shape))
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    rows: SharedPrefixCache,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention over the shared part and the rows' own tokens, for transformers' interface.

    Each image's shared keys meet the queries of all its rows in one product.

    Args:
        module: a LLaMA attention layer.
        query: float[r, heads, t, d].
        key, value: float[r, H, end, d], the rows' own.
        attention_mask: unused: the cache's slice says what each token sees.
        scaling: of the scores.
        rows: the cache, its slice set.

    Returns:
        float[r, t, heads, d], and no weights.
    """
    layer = rows.rows_of_layers[int(str(module.layer_idx))]
    cache_slice = layer.cache_slice
    assert layer.shared is not None  # by `add_image`
    shared_key, shared_value = (part[cache_slice.images] for part in layer.shared)
    count, heads, new, width = query.shape
    groups = heads // key.shape[1]
    # Heads that share a key stand one behind the other, as if they were more tokens.
    queries = (query * scaling).reshape(count, key.shape[1], groups * new, width)
    hidden = cache_slice.hidden if groups == 1 else cache_slice.hidden.repeat(1, 1, groups, 1)
    own = (queries @ key.transpose(2, 3)).masked_fill(hidden, float("-inf"))
    shared = cache_slice.by_row(cache_slice.by_image(queries) @ shared_key.transpose(2, 3))
    weights = torch.cat([shared, own], dim=-1).softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    of_shared, of_own = weights.split([shared.shape[-1], own.shape[-1]], dim=-1)
    output = of_own @ value + cache_slice.by_row(cache_slice.by_image(of_shared) @ shared_value)
    return output.view(count, heads, new, width).transpose(1, 2), None


AttentionInterface.register(NAME, attend)


def shared_prefix_attention(config: PreTrainedConfig) -> AbstractContextManager[None]:
    """Inside, the model of this configuration attends by `attend`."""
    return attention_by(config, NAME)

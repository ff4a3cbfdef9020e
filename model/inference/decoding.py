"""Answering many questions together: one row of a KV cache for each, greedy decoding.

A question's prompt has two parts: the one up to the end of its image, which all questions about
that image share and which runs through the language model once (`encode_prefix`), and its own
tokens behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from transformers import DynamicCache

from model.attention import ATTENTION_LOCK
from model.inference.prefix_cache import (
    CACHE_ARGUMENT,
    Layers,
    SharedPrefixCache,
    shared_prefix_attention,
)
from model.llava import splice_image
from model.read_model import ReadForCausalLM


@dataclass(eq=False)
class Prefix:
    """The shared part of the prompts about an image.

    Args:
        layers: its keys and values.
        length: its positions p, the image's V included.
        image_states: float[V, D], states of the image after the final norm.
        name: stands for it where it must not be kept itself.
    """

    layers: Layers
    length: int
    image_states: torch.Tensor
    name: object = field(default_factory=object)


@dataclass(eq=False)
class Request:
    """A question on its way to its answer.

    Args:
        input_ids: its tokens behind the prefix.
        answer_start: where in `input_ids` a given answer begins; None: the model answers.
        tokens: the answer so far, end token included.
        seg_index: where in `tokens` its `[SEG]` stand.
        seg_hidden_states: float[D] for each of them: the state that predicts it.
    """

    input_ids: list[int]
    answer_start: int | None = None
    tokens: list[int] = field(default_factory=list)
    seg_index: list[int] = field(default_factory=list)
    seg_hidden_states: list[torch.Tensor] = field(default_factory=list)

    def restart(self) -> None:
        """Forget the answer."""
        self.tokens, self.seg_index, self.seg_hidden_states = [], [], []


@torch.no_grad()
def encode_prefix(model: ReadForCausalLM, ids: list[int], features: torch.Tensor) -> Prefix:
    """Run the shared part of the prompts about an image.

    Args:
        model: READ.
        ids: token ids, -200 at the image.
        features: float[1, V, D] from `encode_clip`.
    """
    row = torch.tensor([ids], device=model.device)
    known = torch.ones_like(row, dtype=torch.bool)
    nothing = torch.zeros(1, dtype=torch.int64, device=model.device)
    spliced = splice_image(row, known, model.llm.embed_tokens, features, nothing)
    length = spliced.embeds.shape[1]
    cache = DynamicCache()
    with ATTENTION_LOCK:
        hidden = model.llm(
            inputs_embeds=spliced.embeds,
            attention_mask=spliced.attention_mask,
            position_ids=torch.arange(length, device=model.device)[None],
            use_cache=True,
            **{CACHE_ARGUMENT: cache},
        ).last_hidden_state
    first = int(spliced.image_start[0])
    layers: Any = [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[union-attr]
    # A copy, so that the other states are let go.
    return Prefix(layers, length, hidden[0, first : first + features.shape[1]].clone())


R = TypeVar("R", bound=Request)


class DecodingBatch(Generic[R]):
    """The questions that are being answered, one row of the cache each.

    Requests enter by `place` (any number of images) and one `prefill`; `step` adds a token to
    each row. Both return the requests that are finished, whose rows are free again.

    Args:
        model: READ.
        max_new_tokens: most tokens of an answer.
    """

    def __init__(self, model: ReadForCausalLM, max_new_tokens: int):
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.clear()

    def __len__(self) -> int:
        return len(self.requests)

    def clear(self) -> list[R]:
        """Let go of everything, memory included; returns the requests that were under way."""
        requests: list[R] = list(getattr(self, "requests", []))
        self.cache = SharedPrefixCache(self.model.config.num_hidden_layers)
        self.images: list[object] = []
        self.requests: list[R] = []
        self.lengths: list[int] = []
        self.placed: list[R] = []
        self.shared = 0
        return requests

    def place(self, requests: list[R], prefix: Prefix) -> None:
        """Give each of these requests a row that knows its image.

        Args:
            requests: questions about one image.
            prefix: what they share; equally long for all images.
        """
        if prefix.name not in self.images:
            self.cache.add_image(prefix.layers)
            self.images.append(prefix.name)
        self.shared = prefix.length
        self.placed += requests
        self.cache.image_of_row += [self.images.index(prefix.name)] * len(requests)

    def unplace(self) -> None:
        """Take back what was placed and not prefilled."""
        self.placed = []
        del self.cache.image_of_row[len(self.requests) :]
        self._drop_images()

    @torch.no_grad()
    def prefill(self) -> list[R]:
        """Run the placed requests' own tokens; returns those that are finished."""
        placed, device, first = self.placed, self.model.device, len(self.requests)
        lengths = [len(request.input_ids) for request in placed]
        longest = max(lengths)
        self.cache.reserve(first + len(placed), longest)
        self.cache.set_slice(slice(first, first + len(placed)), [0] * len(placed), longest)
        ids = torch.tensor(
            [r.input_ids + [0] * (longest - len(r.input_ids)) for r in placed], device=device
        )
        positions = self.shared + torch.arange(longest, device=device)
        hidden = self._forward(ids, positions.expand(len(placed), -1))

        self.placed = []
        self.requests += placed
        self.lengths += lengths
        finished = []
        generating = []
        for row, request in enumerate(placed):
            if request.answer_start is None:
                generating.append(row)
            else:
                self._record_given(request, hidden[row])
                finished.append(first + row)
        if generating:
            rows = torch.tensor(generating, device=device)
            last = hidden[rows, torch.tensor(lengths, device=device)[rows] - 1]
            finished += self._append_tokens([first + row for row in generating], last)
        return self._free(finished)

    @torch.no_grad()
    def step(self) -> list[R]:
        """One more token for each row; returns the requests that are finished."""
        device, count = self.model.device, len(self.requests)
        self.cache.reserve(count, max(self.lengths) + 1)
        self.cache.set_slice(slice(0, count), self.lengths, 1)
        last = torch.tensor([request.tokens[-1:] for request in self.requests], device=device)
        places = torch.tensor(self.lengths, device=device)
        hidden = self._forward(last, self.shared + places[:, None])
        self.lengths = [length + 1 for length in self.lengths]
        return self._free(self._append_tokens(list(range(count)), hidden[:, 0]))

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """States float[r, t, D] of tokens int64[r, t] at their positions."""
        with shared_prefix_attention(self.model.config):
            return self.model.llm(
                inputs_embeds=self.model.llm.embed_tokens(ids),
                position_ids=positions,
                use_cache=True,
                rows=self.cache,
                **{CACHE_ARGUMENT: self.cache},
            ).last_hidden_state

    def _record_given(self, request: R, hidden: torch.Tensor) -> None:
        """Take the `[SEG]` states of a given answer from the states float[T, D] of its tokens."""
        start = request.answer_start or 0
        request.tokens = request.input_ids[start:]
        for index, token in enumerate(request.tokens):
            if token == self.model.seg_token_id:
                request.seg_index.append(index)
                request.seg_hidden_states.append(hidden[start + index - 1].clone())

    def _append_tokens(self, rows: list[int], last: torch.Tensor) -> list[int]:
        """Choose a token for each of `rows` from its state float[r, D]; returns the ended rows."""
        tokens = self.model.lm_head(last).float().argmax(dim=-1).tolist()
        ended = []
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            request = self.requests[row]
            if token == self.model.seg_token_id:
                request.seg_index.append(len(request.tokens))
                request.seg_hidden_states.append(last[place].clone())
            request.tokens.append(token)
            full = len(request.tokens) >= self.max_new_tokens
            if full or token == self.model.config.eos_token_id:
                ended.append(row)
        return ended

    def _free(self, rows: list[int]) -> list[R]:
        """Free these rows; the last rows in use move into the gaps."""
        ended = set(rows)
        requests = [self.requests[row] for row in rows]
        kept = len(self.requests) - len(ended)
        movers = (row for row in range(kept, len(self.requests)) if row not in ended)
        for gap in sorted(row for row in ended if row < kept):
            row = next(movers)
            self.cache.move_row(row, gap, self.lengths[row])
            self.requests[gap], self.lengths[gap] = self.requests[row], self.lengths[row]
        del self.requests[kept:], self.lengths[kept:], self.cache.image_of_row[kept:]
        self._drop_images()
        return requests

    def _drop_images(self) -> None:
        """Let go of the images that no row asks about any more."""
        used = set(self.cache.image_of_row)
        for number in sorted(set(range(len(self.images))) - used, reverse=True):
            self.cache.drop_image(number)
            last = self.images.pop()
            if number < len(self.images):
                self.images[number] = last

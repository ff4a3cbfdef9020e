"""Greedy generation on a KV cache: the same answers as without one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import DynamicCache

from model.llava import splice_image
from model.read_model import ReadForCausalLM
from model.seg_tokens import image_states


@dataclass
class Generated:
    """N answers.

    Args:
        token_ids: new tokens of each answer, the end token included.
        seg_states: per answer float[s, D]: the states that predicted its `[SEG]` tokens.
        seg_index: per answer, where they stand in `token_ids`.
        image_states: float[N, V, D].
    """

    token_ids: list[list[int]]
    seg_states: list[torch.Tensor]
    seg_index: list[list[int]]
    image_states: torch.Tensor


@torch.no_grad()
def generate(
    model: ReadForCausalLM,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    image_features: torch.Tensor,
    image_index: torch.Tensor,
    max_new_tokens: int = 512,
) -> Generated:
    """Answer N prompts together.

    Args:
        model: READ.
        input_ids: int64[N, T], padded on the left, -200 at the picture.
        attention_mask: bool[N, T].
        image_features: float[B, V, D] from `encode_clip`.
        image_index: int64[N].
        max_new_tokens: most tokens of one answer.
    """
    spliced = splice_image(
        input_ids, attention_mask, model.model.embed_tokens, image_features, image_index
    )
    mask = spliced.attention_mask
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache()
    hidden = model.model(
        inputs_embeds=spliced.embeds,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    pictures = image_states(hidden, spliced.image_start, image_features.shape[1])

    rows = len(input_ids)
    tokens: list[list[int]] = [[] for _ in range(rows)]
    seg_states: list[list[torch.Tensor]] = [[] for _ in range(rows)]
    seg_index: list[list[int]] = [[] for _ in range(rows)]
    ended = [False] * rows
    last, position = hidden[:, -1], positions[:, -1:]
    for step in range(max_new_tokens):
        chosen = model.lm_head(last).float().argmax(dim=-1)
        for row, token in enumerate(chosen.tolist()):
            if ended[row]:
                continue
            tokens[row].append(token)
            if token == model.seg_token_id:
                seg_states[row].append(last[row])
                seg_index[row].append(step)
            ended[row] = token == model.config.eos_token_id
        if all(ended) or step + 1 == max_new_tokens:
            break
        position = position + 1
        mask = torch.cat([mask, mask.new_ones((rows, 1))], dim=1)
        last = model.model(
            inputs_embeds=model.model.embed_tokens(chosen)[:, None],
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
    return Generated(
        tokens,
        [torch.stack(s) if s else hidden.new_zeros((0, hidden.shape[-1])) for s in seg_states],
        seg_index,
        pictures,
    )

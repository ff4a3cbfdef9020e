"""Answering as the original does: every question alone, without a cache.

For every token, CLIP and the whole prompt run again; for every question, SAM's encoder. The
yardstick of `benchmarks/inference.py`, and of the tests for the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from model import Reader
from model.inference.inputs import load_views
from model.outputs import ImageContext, SegQuery
from utils.protocol.conversation import build_prompt, user_turn
from utils.protocol.tokenization import encode_prompt


@dataclass
class PlainAnswer:
    """What the engine has to reproduce.

    Args:
        token_ids: the answer, end token included.
        seg_index: where in it `[SEG]` stands.
        logits: float32[s, H, W], the masks.
        present: there is a mask that is not empty.
    """

    token_ids: list[int]
    seg_index: list[int]
    logits: np.ndarray
    present: bool


@torch.no_grad()
def ask_plainly(
    reader: Reader,
    image: np.ndarray,
    question: str,
    max_new_tokens: int,
    answer: str | None = None,
) -> PlainAnswer:
    """Answer one question about one image.

    Args:
        reader: model and tokenizer; nothing else of it is used.
        image: uint8[H, W, 3], RGB.
        question: as the user types it.
        max_new_tokens: most tokens of the answer.
        answer: given words instead of generated ones.
    """
    model, config = reader.model, reader.model.config
    views = load_views(image, model.views)

    def prompt(words: str | None) -> list[int]:
        text = build_prompt(
            [(user_turn(question), words)], config.conv_type, config.mm_use_im_start_end
        )
        return encode_prompt(text, reader.tokenizer)

    start = len(prompt(None))
    ids = prompt(answer)
    hidden = _states(reader, views.clip, ids)
    while answer is None:
        ids.append(int(model.lm_head(hidden[-1]).float().argmax()))
        if ids[-1] == config.eos_token_id or len(ids) - start == max_new_tokens:
            break
        hidden = _states(reader, views.clip, ids)
    shift = model.image_tokens - 1
    image = ids.index(-200)
    image_states = hidden[image : image + model.image_tokens]
    embedding = model.encode_sam(views.sam[None], [views.sam_size])
    context = ImageContext(embedding, views.sam_size, views.size)
    token_ids = ids[start:]
    seg_index = [n for n, token in enumerate(token_ids) if token == model.seg_token_id]
    logits = np.zeros((len(seg_index), *views.size), np.float32)
    for n, place in enumerate(seg_index):
        state = hidden[start + place + shift - 1][None]
        (prediction,) = model.predict_masks([context], [SegQuery(state, image_states)])
        logits[n] = prediction.logits[0].cpu().numpy()
    return PlainAnswer(token_ids, seg_index, logits, bool((logits > 0).any()))


def _states(reader: Reader, clip: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """States float[L, D] of a whole prompt, its image encoded again."""
    model = reader.model
    row = torch.tensor([ids], device=model.device)
    features = model.encode_clip(clip[None])
    return model.prompt_states(
        row,
        torch.ones_like(row, dtype=torch.bool),
        features,
        torch.zeros(1, dtype=torch.int64, device=model.device),
    ).hidden[0]

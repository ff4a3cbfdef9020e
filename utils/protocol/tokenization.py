"""LLaVA's tokenization: text pieces around the image, one BOS, `[SEG]` as a token.

`dataset.tokenization` is the public name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AddedToken, LlamaTokenizer, PreTrainedTokenizerBase

from utils.errors import InputError
from utils.protocol.constants import (
    ADDED_TOKENS,
    IGNORE_INDEX,
    IMAGE_TOKEN,
    IMAGE_TOKEN_INDEX,
    SEG_TOKEN,
)

END_OF_ANSWER = "</s>"
_ANSWER_STARTS = ("ASSISTANT:", "[/INST]")


def load_tokenizer(
    path: str | Path, model_max_length: int | None = None
) -> PreTrainedTokenizerBase:
    """Load LLaMA's tokenizer with `[SEG]`, `<im_start>`, `<im_end>` as the weights expect them.

    Released folders store the added tokens without their flags; they are set again here, so that
    they swallow the white space on both sides.

    Args:
        path: folder with `tokenizer.model`, or a hub id.
        model_max_length: overrides the stored limit (tokens of one prompt).

    Raises:
        InputError: no tokenizer there.
    """
    options: dict[str, Any] = (
        {} if model_max_length is None else {"model_max_length": model_max_length}
    )
    folder = Path(path)
    if folder.is_dir() and not (folder / "tokenizer.model").is_file():
        raise InputError(
            f"no tokenizer.model in {folder}: expected the slow tokenizer files of a LLaVA, SESAME "
            "or READ checkpoint; copy them from the model they belong to"
        )
    try:
        tokenizer = LlamaTokenizer.from_pretrained(
            str(path), legacy=True, use_fast=False, padding_side="right", **options
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot load a tokenizer from {path!s}: it is neither a local folder with "
            f"tokenizer.model nor a hub id that can be reached ({error})"
        ) from error
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.add_tokens(
        [
            AddedToken(token, lstrip=True, rstrip=True, normalized=False, special=False)
            for token in ADDED_TOKENS
        ]
    )
    return tokenizer


def seg_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of `[SEG]`: 32000 in released checkpoints."""
    return cast(int, tokenizer.convert_tokens_to_ids(SEG_TOKEN))


def encode_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a prompt: one BOS, `<image>` as -200.

    Args:
        prompt: text with any number of `<image>`; each piece is tokenized on its own.
    """
    ids: list[int] = [tokenizer.bos_token_id]
    for number, piece in enumerate(prompt.split(IMAGE_TOKEN)):
        if number:
            ids.append(IMAGE_TOKEN_INDEX)
        piece_ids = tokenizer(piece, add_special_tokens=True).input_ids
        ids.extend(piece_ids[1:] if piece_ids[:1] == [tokenizer.bos_token_id] else piece_ids)
    return ids


def answer_labels(prompt: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Labels of a prompt: the assistant's answers with their `</s>`, -100 elsewhere.

    Args:
        prompt: the text behind `ids`.
        ids: `encode_prompt(prompt)`.

    Returns:
        as many labels as ids. A last turn without an answer has none.
    """
    labels = [IGNORE_INDEX] * len(ids)
    start = 1
    for round_text in prompt.split(END_OF_ANSWER):
        marker = next((m for m in _ANSWER_STARTS if m in round_text), None)
        if marker is None:
            break
        instruction = round_text[: round_text.index(marker) + len(marker)]
        # Both counts include one BOS; it stands for the `</s>` that ends the round.
        end = start + len(encode_prompt(round_text, tokenizer))
        first = start + len(encode_prompt(instruction, tokenizer)) - 1
        for position in range(first, min(end, len(ids))):
            labels[position] = ids[position]
        start = end
    return labels


def encode_batch(
    prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    padding: str = "right",
) -> dict[str, torch.Tensor]:
    """Tokenize prompts and pad them to one length.

    Args:
        prompts: N full conversations.
        padding: "right" (training) or "left" (generation).

    Returns:
        `input_ids` int64[N, T] (-200 at the image), `attention_mask` bool[N, T],
        `labels` int64[N, T].

    Raises:
        InputError: unknown `padding`.
    """
    rows = [encode_prompt(prompt, tokenizer) for prompt in prompts]
    labels = [answer_labels(p, ids, tokenizer) for p, ids in zip(prompts, rows, strict=True)]
    return pad_rows(rows, labels, tokenizer.pad_token_id, padding)


def pad_rows(
    rows: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    pad_id: int,
    padding: str = "right",
) -> dict[str, torch.Tensor]:
    """Pad token and label rows to one length; see `encode_batch` for the result."""
    if padding not in ("right", "left"):
        raise InputError(f"padding {padding!r} is unknown; choose 'right' or 'left'")
    length = max(map(len, rows), default=0)
    input_ids = torch.full((len(rows), length), pad_id, dtype=torch.int64)
    targets = torch.full((len(rows), length), IGNORE_INDEX, dtype=torch.int64)
    mask = torch.zeros((len(rows), length), dtype=torch.bool)
    for n, (ids, label) in enumerate(zip(rows, labels, strict=True)):
        place = slice(0, len(ids)) if padding == "right" else slice(length - len(ids), length)
        input_ids[n, place] = torch.tensor(ids, dtype=torch.int64)
        targets[n, place] = torch.tensor(label, dtype=torch.int64)
        mask[n, place] = True
    return {"input_ids": input_ids, "attention_mask": mask, "labels": targets}

"""From samples to a batch: tokens, views, and a mask for each `[SEG]`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from utils.errors import InputError
from utils.protocol.batch import Batch, Sample
from utils.protocol.constants import IGNORE_INDEX, IMAGE_POSITIONS
from utils.protocol.image_transforms import ImageViews
from utils.protocol.tokenization import answer_labels, encode_prompt, pad_rows, seg_token_id

__all__ = ["Batch", "Sample", "collate"]


def collate(
    samples: Sequence[Sample],
    tokenizer: PreTrainedTokenizerBase,
    views: ImageViews | None = None,
    padding: str = "right",
) -> Batch:
    """Join samples.

    Text longer than `tokenizer.model_max_length - IMAGE_POSITIONS` tokens is cut on the right. An
    expression that loses a `[SEG]` by that is dropped with its masks and counted in
    `Batch.dropped`.

    Args:
        samples: B samples; each has one mask for each `[SEG]` in its conversations.
        tokenizer: from `load_tokenizer`.
        views: make the image views here (in a worker), and keep no full-size image; None leaves
            them to the model.
        padding: "right" (training) or "left".

    Returns:
        see `Batch`.

    Raises:
        InputError: a sample whose number of masks and of `[SEG]` tokens differ.
    """
    limit, seg_id = tokenizer.model_max_length - IMAGE_POSITIONS, seg_token_id(tokenizer)
    rows: list[list[int]] = []
    labels: list[list[int]] = []
    image_index: list[int] = []
    masks: list[torch.Tensor] = []
    dropped = 0
    for number, sample in enumerate(samples):
        kept: list[np.ndarray] = []
        used = 0
        for prompt in sample.conversations:
            ids = encode_prompt(prompt, tokenizer)
            count = ids.count(seg_id)
            mine = sample.masks[used : used + count]
            used += count
            if ids[:limit].count(seg_id) < count:
                dropped += 1
                cut_ids, cut_number = ids[:limit], number
                continue
            rows.append(ids[:limit])
            labels.append(answer_labels(prompt, ids, tokenizer)[:limit])
            image_index.append(number)
            kept.extend(mine)
        if used != len(sample.masks):
            raise InputError(
                f"{sample.image_path}: {len(sample.masks)} masks, but {used} [SEG] in its "
                "conversations; one mask is needed for each [SEG]"
            )
        size = sample.image.shape[:2]
        stacked = np.stack(kept) if kept else np.zeros((0, *size), dtype=np.uint8)
        masks.append(torch.from_numpy(stacked))
    if dropped and not rows:
        # Nothing is left to train on: a row without labels and [SEG] keeps the ranks in step.
        rows.append([token for token in cut_ids if token != seg_id])
        labels.append([IGNORE_INDEX] * len(rows[0]))
        image_index.append(cut_number)
    padded = pad_rows(rows, labels, tokenizer.pad_token_id, padding)
    batch = Batch(
        input_ids=padded["input_ids"],
        attention_mask=padded["attention_mask"],
        labels=padded["labels"],
        image_index=torch.tensor(image_index, dtype=torch.int64),
        original_sizes=[(sample.image.shape[0], sample.image.shape[1]) for sample in samples],
        masks=masks,
        images=[sample.image for sample in samples],
        image_paths=[sample.image_path for sample in samples],
        dropped=dropped,
    )
    return batch if views is None else batch.with_views(views)

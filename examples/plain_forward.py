"""READ's forward on one page: one conversation per row, nothing shared, nothing cached.

    python -m examples.plain_forward MODEL IMAGE "QUESTION" MASK.png

The page to read first. `ReadForCausalLM.forward` computes the same (a test holds it to 1e-5), with
the image's part of the prompt run once for all its questions and masks decoded together.

Legend: T text tokens, V image tokens (24 x 24 = 576 for CLIP ViT-L/14-336), D width of the language
model, P points, H x W original image size. Coordinates are (x, y) in pixels of the original image.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from dataset.tokenization import encode_prompt
from model import ReadForCausalLM, load_read
from model.sasp import similarity_to_points
from utils.protocol.conversation import POSITIVE_ANSWER, build_prompt, user_turn

IMAGE_TOKEN_INDEX, IGNORE_INDEX = -200, -100
SAM_MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
SAM_STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)


@dataclass
class Row:
    """A conversation about an image.

    Args:
        image: uint8[H, W, 3], RGB.
        input_ids: int64[T], -200 at the image's place.
        labels: int64[T], -100 where nothing is trained.
        masks: float32[n, H, W] truth in {0, 1}, one for each `[SEG]`.
    """

    image: np.ndarray
    input_ids: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor


def hidden_states_of(read: ReadForCausalLM, row: Row) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The language model over one conversation, the image in the place of -200.

    Returns:
        hidden states float[T + V - 1, D] after the final norm, labels int64[T + V - 1], and the
        position of the first image token.
    """
    tower, llm = read.model.vision_tower, read.model
    clip_pixels = tower.processor(images=Image.fromarray(row.image), return_tensors="pt")
    clip_states = tower.clip(clip_pixels["pixel_values"], output_hidden_states=True).hidden_states
    features = llm.mm_projector(clip_states[-2][0, 1:])  # [V, D], the class token dropped
    start = int((row.input_ids == IMAGE_TOKEN_INDEX).nonzero())
    before, after = row.input_ids[:start], row.input_ids[start + 1 :]
    embeds = torch.cat([llm.embed_tokens(before), features, llm.embed_tokens(after)])
    ignored = torch.full((len(features),), IGNORE_INDEX)
    labels = torch.cat([row.labels[:start], ignored, row.labels[start + 1 :]])
    return llm(inputs_embeds=embeds[None]).last_hidden_state[0], labels, start


def sam_embedding(read: ReadForCausalLM, image: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
    """SAM's image embedding float[1, 256, 64, 64], and the image's size (h, w) in its frame."""
    sam, (height, width) = read.model.visual_model, image.shape[:2]
    side = sam.sizes.image_size  # 1024
    scale = side / max(height, width)
    h, w = int(height * scale + 0.5), int(width * scale + 0.5)
    resized = np.array(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
    pixels = (torch.from_numpy(resized).permute(2, 0, 1).float() - SAM_MEAN) / SAM_STD
    return sam.image_encoder(F.pad(pixels, (0, side - w, 0, side - h))[None]), (h, w)


def mask_of(
    read: ReadForCausalLM,
    seg_state: torch.Tensor,
    image_states: torch.Tensor,
    embedding: torch.Tensor,
    input_size: tuple[int, int],
    size: tuple[int, int],
) -> torch.Tensor:
    """From the state that predicts `[SEG]`, float[D], to mask logits float32[H, W].

    Args:
        image_states: float[V, D], the hidden states of the image tokens.
        embedding, input_size: of `sam_embedding`.
        size: (H, W).
    """
    sam = read.model.visual_model
    text = read.model.text_hidden_fcs[0](seg_state)  # [256], the text prompt
    similarity = image_states @ seg_state  # [V], plain dot product
    points, labels = similarity_to_points(similarity, size, read.config.sasp_params)  # [P, 2], [P]
    points = points * torch.tensor([input_size[1] / size[1], input_size[0] / size[0]])
    sparse, dense = sam.prompt_encoder(points=(points[None], labels[None]), boxes=None, masks=None)
    low, _ = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=torch.cat([sparse, text[None, None]], dim=1),  # [1, P + 2, 256]
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    side = sam.sizes.image_size
    frame = F.interpolate(low, (side, side), mode="bilinear", align_corners=False)
    frame = frame[..., : input_size[0], : input_size[1]]
    return F.interpolate(frame, size, mode="bilinear", align_corners=False)[0, 0]


def run(read: ReadForCausalLM, row: Row) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """One conversation: token logits float[L, vocabulary], labels int64[L], masks float32[H, W]."""
    hidden, labels, start = hidden_states_of(read, row)
    grown = len(hidden) - len(row.input_ids)  # V - 1 positions more than input_ids
    image_states = hidden[start : start + grown + 1]
    embedding, input_size = sam_embedding(read, row.image)
    masks = []
    for place in (row.input_ids == read.seg_token_id).nonzero()[:, 0].tolist():
        seg_state = hidden[place + grown - 1]  # the position before [SEG], which predicts it
        size = row.image.shape[:2]
        masks.append(mask_of(read, seg_state, image_states, embedding, input_size, size))
    return read.lm_head(hidden), labels, masks


def forward(read: ReadForCausalLM, rows: list[Row]) -> dict[str, Any]:
    """Losses of a batch, scalars with the configured weights applied; "mask_logits" is a list."""
    logits, labels, masks = [], [], []
    truths: list[torch.Tensor] = []
    for row in rows:
        row_logits, row_labels, row_masks = run(read, row)
        logits.append(row_logits[:-1])  # a position predicts the next token
        labels.append(row_labels[1:])
        masks.extend(row_masks)
        truths.extend(row.masks)
    config = read.config
    ce = F.cross_entropy(torch.cat(logits), torch.cat(labels), ignore_index=IGNORE_INDEX)
    bce = [F.binary_cross_entropy_with_logits(m, t) for m, t in zip(masks, truths, strict=True)]
    dice = [dice_loss(m.sigmoid(), t) for m, t in zip(masks, truths, strict=True)]
    losses = {
        "ce_loss": config.ce_loss_weight * ce,
        "mask_bce_loss": config.bce_loss_weight * torch.stack(bce).mean(),
        "mask_dice_loss": config.dice_loss_weight * torch.stack(dice).mean(),
    }
    return {**losses, "loss": sum(losses.values()), "mask_logits": masks}


def dice_loss(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """1 - (2 sum(pt) / 1000 + 1e-6) / (sum(p) / 1000 + sum(t) / 1000 + 1e-6)."""
    return 1 - (2 * (p * t).sum() / 1000 + 1e-6) / (p.sum() / 1000 + t.sum() / 1000 + 1e-6)


def main(argv: list[str]) -> None:
    """Ask one question with its answer given ("teacher forced"), and save the mask."""
    folder, image_file, question, mask_file = argv
    reader = load_read(folder)
    prompt = build_prompt([(user_turn(question), POSITIVE_ANSWER)])
    ids = torch.tensor(encode_prompt(prompt, reader.tokenizer))
    row = Row(np.array(Image.open(image_file).convert("RGB")), ids, ids, torch.zeros(0))
    with torch.no_grad():
        (mask,) = run(reader.model, row)[2]
    Image.fromarray((mask > 0).numpy()).save(mask_file)
    print(f"{int((mask > 0).sum())} of {mask.numel()} pixels, written to {mask_file}")


if __name__ == "__main__":
    main(sys.argv[1:])

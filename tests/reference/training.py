"""A training pass as the original works: the yardstick of `benchmarks/training.py`.

Every expression is a row of its own with the whole image in it, and CLIP runs for each of them.
The projection runs on every position; `lm_head` gives float32 logits of every position. SAM's
encoder sees one image at a time. SasP weighs a map of the whole image for each point
(`tests/reference/sasp.py`). The modules themselves (attention, LoRA, SAM) are those of the project.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from model import ReadForCausalLM
from model.llava import splice_image
from model.losses import bce_per_mask, dice_per_mask
from model.sasp import similarity_map
from model.seg_tokens import image_hidden_states, locate_seg
from tests.reference.sasp import reference_points
from utils.protocol.batch import Batch
from utils.protocol.constants import IGNORE_INDEX


def plain_losses(model: ReadForCausalLM, batch: Batch) -> dict[str, torch.Tensor]:
    """Losses with their weights: `loss`, `ce_loss`, `mask_bce_loss`, `mask_dice_loss`.

    Args:
        model: READ, LoRA in place or not.
        batch: with views; each of its images has a mask.
    """
    core, config = model.model, model.config
    sam, sizes = core.visual_model, batch.original_sizes
    rows = torch.arange(len(batch.input_ids))
    assert batch.clip_pixels is not None and batch.sam_pixels is not None
    spliced = splice_image(
        batch.input_ids,
        batch.attention_mask,
        core.embed_tokens,
        model.encode_clip(batch.clip_pixels[batch.image_index]),
        rows,
    )
    hidden = core(
        inputs_embeds=spliced.embeds, attention_mask=spliced.attention_mask, use_cache=False
    ).last_hidden_state

    logits = model.lm_head(hidden).float()
    labels = torch.full(hidden.shape[:2], IGNORE_INDEX)
    labels.scatter_(1, spliced.text_position, batch.labels)
    ce = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    projected = core.text_hidden_fcs[0](hidden)
    seg = locate_seg(batch.input_ids, spliced.text_position, model.seg_token_id)
    image_of_mask = batch.image_index[seg.row]
    bce, dice = [], []
    for image, size in enumerate(sizes):
        input_size = batch.sam_sizes[image]
        embedding = model.encode_sam(batch.sam_pixels[image : image + 1], [input_size])
        chosen = image_of_mask == image
        row, place = seg.row[chosen], seg.state_position[chosen]
        seen = image_hidden_states(hidden[row], spliced.image_start[row], model.image_tokens)
        similarity = similarity_map(seen, hidden[row, place])
        points, kinds = reference_points(similarity, size, config.sasp_params)
        prompt = sam.sparse_prompt(points, kinds, projected[row, place], size, input_size)
        low, _ = sam.decode(embedding.expand(len(prompt), -1, -1, -1), prompt)
        masks = sam.upscale(low, input_size, size)
        truth = (batch.masks[image] == 1).float()
        bce.append(bce_per_mask(masks, truth))
        dice.append(dice_per_mask(masks, truth))
    losses = {
        "ce_loss": config.ce_loss_weight * ce,
        "mask_bce_loss": config.bce_loss_weight * torch.cat(bce).mean(),
        "mask_dice_loss": config.dice_loss_weight * torch.cat(dice).mean(),
    }
    return {"loss": sum(losses.values(), torch.zeros(())), **losses}

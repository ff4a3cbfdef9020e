"""What an answer's masks are made from, kept so that they can be made again in another way.

Neither the language model nor SAM's image encoder runs again. Legend: see `model.llava` and
`model.sam`; n `[SEG]` tokens of one answer, P points. Points are (x, y) in pixels of the original
image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.outputs import MaskPrediction
from model.read_model import ReadForCausalLM
from model.sam import SamModel
from model.sasp import SaspParams, similarity_map


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What the model made of an image.

    Args:
        size: (H, W) of the original.
        sam_size: (h, w) of the image inside the SAM view.
        clip_features: float[V, D], CLIP's patches after the projector.
        image_states: float[V, D], the language model's states of the image after the final norm.
        embedding: float[1, C, h', w'], SAM's image embedding.
    """

    size: tuple[int, int]
    sam_size: tuple[int, int]
    clip_features: torch.Tensor
    image_states: torch.Tensor
    embedding: torch.Tensor


@dataclass(frozen=True, eq=False)
class SegStates:
    """What the masks of an answer are made from.

    Args:
        image: shared by all answers about it.
        seg_hidden_states: float[n, D], the states that predict each `[SEG]`.
    """

    image: ImageFeatures
    seg_hidden_states: torch.Tensor


@torch.no_grad()
def resegment(
    model: ReadForCausalLM, states: SegStates, params: SaspParams | None = None
) -> MaskPrediction:
    """The masks of an answer with other SasP parameters; None: the model's own."""
    image, count = states.image, len(states.seg_hidden_states)
    (prediction,) = model.predict_masks(
        states.seg_hidden_states,
        image.image_states.expand(count, -1, -1),
        torch.zeros(count, dtype=torch.int64, device=states.seg_hidden_states.device),
        image.embedding,
        [image.sam_size],
        [image.size],
        params,
    )
    return prediction


@torch.no_grad()
def segment_from_points(
    model: ReadForCausalLM,
    states: SegStates,
    points: torch.Tensor,
    labels: torch.Tensor,
    text: bool = True,
    sam: SamModel | None = None,
) -> MaskPrediction:
    """The masks of an answer with given points.

    Args:
        model: READ.
        states: of the answer.
        points: float32[n, P, 2]; P = 0 leaves them out.
        labels: int64[n, P]: 1 positive, 0 negative, -1 no point.
        text: whether the projected `[SEG]` is part of the prompt; without it SAM sees points alone.
        sam: another SAM of the same sizes and the same frozen image encoder, such as the one
            before training; default: the model's.

    Raises:
        ValueError: neither points nor text.
    """
    if not text and not points.shape[1]:
        raise ValueError("SAM needs points or text; there are neither")
    image, sam = states.image, sam or model.model.visual_model
    device = states.seg_hidden_states.device
    points, labels = points.to(device), labels.to(device)
    texts = model.model.text_hidden_fcs[0](states.seg_hidden_states) if text else None
    prompt = sam.sparse_prompt(points, labels, texts, image.size, image.sam_size)
    low, scores = sam.decode(image.embedding.expand(len(points), -1, -1, -1), prompt)
    return MaskPrediction(
        logits=sam.upscale(low, image.sam_size, image.size),
        scores=scores.float(),
        similarity=similarity_map(
            image.image_states.expand(len(states.seg_hidden_states), -1, -1),
            states.seg_hidden_states,
        ),
        points=points,
        point_labels=labels,
    )

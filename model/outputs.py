"""What the stages of the forward hand on. Legend: see `model.llava` and `model.sam`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import ModelOutput

from model.sasp import similarity_map


@dataclass(frozen=True, eq=False)
class ImageContext:
    """An image as its masks need it.

    Args:
        embedding: float[1, C, h', w'], SAM's image embedding.
        input_size: (h, w) of the image inside the SAM view.
        size: (H, W) of the original image.
    """

    embedding: torch.Tensor
    input_size: tuple[int, int]
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class SegQuery:
    """n `[SEG]` tokens that ask for masks of one image.

    Args:
        seg_state: float[n, D], the hidden state that predicts each of them.
        image_states: float[V, D], hidden states of the image tokens, or float[n, V, D].
    """

    seg_state: torch.Tensor
    image_states: torch.Tensor

    def similarity(self) -> torch.Tensor:
        """float32[n, V], see `similarity_map`."""
        image_states = self.image_states.expand(len(self.seg_state), -1, -1)
        return similarity_map(image_states, self.seg_state)


@dataclass(frozen=True, eq=False)
class MaskPrompt:
    """What n masks of one image are decoded from.

    Args:
        tokens: float[n, K, C], SAM's sparse prompt.
        similarity: float32[n, V].
        points: float32[n, P, 2], (x, y) in the original image.
        point_labels: int64[n, P].
    """

    tokens: torch.Tensor
    similarity: torch.Tensor
    points: torch.Tensor
    point_labels: torch.Tensor


@dataclass
class MaskPrediction:
    """n masks of one image.

    Args:
        logits: float32[n, H, W]; above 0 is the object.
        scores: float32[n], SAM's predicted IoU.
        similarity: float32[n, V].
        points: float32[n, P, 2], (x, y) in the original image.
        point_labels: int64[n, P].
    """

    logits: torch.Tensor
    scores: torch.Tensor
    similarity: torch.Tensor
    points: torch.Tensor
    point_labels: torch.Tensor


@dataclass
class ReadOutput(ModelOutput):
    """Losses with their weights applied, and per image mask logits float32[n, H, W]."""

    loss: torch.Tensor | None = None
    ce_loss: torch.Tensor | None = None
    mask_bce_loss: torch.Tensor | None = None
    mask_dice_loss: torch.Tensor | None = None
    mask_loss: torch.Tensor | None = None
    mask_logits: list[torch.Tensor] | None = None


@dataclass
class PromptStates:
    """What the language model makes of a batch of prompts.

    Args:
        hidden: float[N, L, D] after the final norm; on padding, anything.
        text_position: int64[N, T] and image_start: int64[N], see `SplicedPrompt`.
    """

    hidden: torch.Tensor
    text_position: torch.Tensor
    image_start: torch.Tensor

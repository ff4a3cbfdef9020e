"""LLaVA on today's transformers: CLIP tower, projector, and the image inside the text.

Legend: B images, N conversations, T text tokens, V image tokens, D width of the language model,
L = T + V - 1 positions once the image has taken its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPImageProcessorPil, CLIPVisionModel

from model.config import ReadConfig
from utils.errors import InputError
from utils.hub.models import check_tower, find_tower
from utils.protocol.constants import IMAGE_TOKEN_INDEX
from utils.protocol.image_transforms import clip_normalisation, normalise_for_clip


class VisionTower(nn.Module):
    """Frozen CLIP; hidden state `select_layer` without its class token."""

    pixel_table: torch.Tensor

    def __init__(
        self,
        clip: CLIPVisionModel,
        processor: CLIPImageProcessorPil,
        select_layer: int,
        source: str,
    ):
        super().__init__()
        self.clip = clip.requires_grad_(False).eval()
        self.processor = processor
        self.select_layer = select_layer
        self.source = source
        self.register_buffer("pixel_table", clip_normalisation(processor), persistent=False)

    def train(self, mode: bool = True) -> VisionTower:
        """Stays in evaluation mode: it is never trained."""
        return super().train(False)

    @property
    def side(self) -> int:
        """Image tokens along one side of the grid."""
        return self.clip.config.image_size // self.clip.config.patch_size

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """CLIP views -> features float[B, V, width].

        Args:
            pixels: uint8[B, 3, C, C] as cropped, or float[B, 3, C, C] normalised.
        """
        if pixels.dtype == torch.uint8:
            pixels = normalise_for_clip(pixels, self.pixel_table)
        pixels = pixels.to(self.clip.dtype)
        states = self.clip(pixels, output_hidden_states=True).hidden_states
        return states[self.select_layer][:, 1:]


def tower_source(
    config: ReadConfig, source: str | Path | None = None, folder: str | Path | None = None
) -> str | Path:
    """Where a model's CLIP tower is: a folder or a hub id.

    Args:
        config: of the model.
        source: what the caller names; None takes the configuration's.
        folder: checkpoint folder, in or beside which a relative name is looked for.

    Raises:
        InputError: no tower is named.
    """
    named = source or config.mm_vision_tower or config.vision_tower
    if not named:
        raise InputError(
            "no CLIP tower is named in the checkpoint's config.json (mm_vision_tower); "
            "give one with vision_tower (--vision_tower)"
        )
    return find_tower(str(named), folder) if source is None and folder is not None else named


def load_vision_tower(
    source: str | Path, select_layer: int = -2, dtype: torch.dtype = torch.float32
) -> VisionTower:
    """Load CLIP from a folder or a hub id.

    Raises:
        InputError: nothing usable there.
    """
    check_tower(source)
    try:
        clip = CLIPVisionModel.from_pretrained(str(source), dtype=dtype)
        processor = CLIPImageProcessorPil.from_pretrained(str(source))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"cannot load the CLIP tower {str(source)!r}: expected a folder with config.json, "
            "preprocessor_config.json and weights, or a hub id that can be reached; "
            f"name it with vision_tower (--vision_tower) ({error})"
        ) from error
    return VisionTower(clip, processor, select_layer, str(source))


def build_projector(kind: str, clip_width: int, width: int) -> nn.Sequential:
    """`mlp2x_gelu`: Linear-GELU-Linear from CLIP's width to D.

    Raises:
        InputError: another kind.
    """
    if kind != "mlp2x_gelu":
        raise InputError(
            f"projector {kind!r} is not supported; LLaVA-1.5, SESAME and READ use 'mlp2x_gelu'"
        )
    return nn.Sequential(nn.Linear(clip_width, width), nn.GELU(), nn.Linear(width, width))


@dataclass
class SplicedPrompt:
    """Prompts with the image in place.

    Args:
        embeds: float[N, L, D].
        attention_mask: bool[N, L].
        text_position: int64[N, T]: where each entry of `input_ids` went; the image's entry
            points at its first image token.
        image_start: int64[N]: position of the first image token, -1 without an image.
    """

    embeds: torch.Tensor
    attention_mask: torch.Tensor
    text_position: torch.Tensor
    image_start: torch.Tensor


def splice_image(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    embeddings: nn.Embedding,
    image_features: torch.Tensor,
    image_index: torch.Tensor,
) -> SplicedPrompt:
    """Replace the -200 of each prompt by the V features of its image.

    Args:
        input_ids: int64[N, T], at most one -200 in a row.
        attention_mask: bool[N, T].
        embeddings: the token embedding table.
        image_features: float[B, V, D].
        image_index: int64[N], the image of each prompt.

    Raises:
        InputError: a prompt with more than one image.
    """
    rows, length = input_ids.shape
    is_image = input_ids == IMAGE_TOKEN_INDEX
    if bool((is_image.sum(dim=1) > 1).any()):
        raise InputError("a prompt holds more than one <image>; a conversation has one image")
    images, count, _ = image_features.shape
    has_image = is_image.any(dim=1)
    grow = count - 1 if bool(has_image.any()) else 0
    steps = torch.arange(length, device=input_ids.device)
    start = torch.where(has_image, is_image.int().argmax(dim=1), length)
    position = steps + grow * (steps > start[:, None])

    tokens = embeddings(input_ids.clamp(min=0))
    source = torch.cat(
        [
            tokens.flatten(0, 1),
            image_features.flatten(0, 1).to(tokens.dtype),
            tokens.new_zeros((1, tokens.shape[-1])),
        ]
    )
    pick = torch.full((rows, length + grow), len(source) - 1, device=input_ids.device)
    pick.scatter_(1, position, torch.arange(rows * length, device=pick.device).view(rows, length))
    mask = torch.zeros_like(pick, dtype=torch.bool)
    mask.scatter_(1, position, attention_mask)
    if grow:
        with_image = has_image.nonzero()[:, 0]
        cells = torch.arange(count, device=pick.device)
        places = start[with_image, None] + cells
        features = rows * length + image_index[with_image, None] * count + cells
        pick[with_image[:, None], places] = features
        mask[with_image[:, None], places] = True
    return SplicedPrompt(source[pick], mask, position, torch.where(has_image, start, -1))

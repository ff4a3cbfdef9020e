"""SAM through the public `segment_anything` package: its modules, our wiring.

The package's own builders fix every size, so its modules are put together here; the parameter names
are SAM's own.

Legend: B images, M masks, P points, C prompt width (256), S SAM frame (1024), h = w = S / 16
cells. Coordinates are (x, y) in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import nn
from torch.nn import functional as F

from model.loading.weight_file import read_weight_file
from model.sam_attention import fuse_attention
from utils.errors import InputError

PATCH = 16


@dataclass(frozen=True)
class SamSizes:
    """Sizes of a SAM; everything else is as the published ViT-H is built.

    Args:
        embed_dim, depth, num_heads, global_attn_indexes: of the image encoder.
        image_size: side S of the square input, a multiple of 16.
        prompt_dim: width C of prompts and image embedding.
        decoder_mlp_dim: hidden width in the mask decoder's transformer.
        window_size: side of the encoder's attention windows, in cells.
    """

    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    image_size: int = 1024
    prompt_dim: int = 256
    decoder_mlp_dim: int = 2048
    window_size: int = 14


PRESETS = {
    "vit_h": SamSizes(1280, 32, 16, (7, 15, 23, 31)),
    "vit_l": SamSizes(1024, 24, 16, (5, 11, 17, 23)),
    "vit_b": SamSizes(768, 12, 12, (2, 5, 8, 11)),
}


def sam_sizes(sam: str | Mapping | None) -> SamSizes:
    """Sizes from a preset's name or a mapping; None is ViT-H.

    Raises:
        InputError: unknown name or field, or a missing field.
    """
    if sam is None:
        return PRESETS["vit_h"]
    if isinstance(sam, str):
        if sam not in PRESETS:
            raise InputError(
                f"SAM {sam!r} is unknown; choose one of {', '.join(PRESETS)} or give a mapping "
                "with embed_dim, depth, num_heads, global_attn_indexes"
            )
        return PRESETS[sam]
    values = dict(sam)
    if "global_attn_indexes" in values:
        values["global_attn_indexes"] = tuple(values["global_attn_indexes"])
    known = SamSizes.__dataclass_fields__
    unknown = sorted(set(values) - set(known))
    needed = ("embed_dim", "depth", "num_heads", "global_attn_indexes")
    missing = [name for name in needed if name not in values]
    if unknown or missing:
        raise InputError(
            f"SAM sizes {dict(sam)}: unknown {unknown}, missing {missing}; "
            f"known are {', '.join(known)}"
        )
    sizes = SamSizes(**values)
    if sizes.image_size % PATCH or sizes.prompt_dim % 8:
        raise InputError(
            f"SAM sizes {dict(sam)}: image_size must be a multiple of {PATCH} and prompt_dim of 8"
        )
    return sizes


def sam_sizes_dict(sizes: SamSizes) -> dict:
    """The sizes as plain data for a checkpoint's configuration."""
    return {**asdict(sizes), "global_attn_indexes": list(sizes.global_attn_indexes)}


class Float32PositionEncoding(PositionEmbeddingRandom):
    """SAM's random Fourier features, computed in float32 whatever the weights' dtype is."""

    def _pe_encoding(self, coords: torch.Tensor) -> torch.Tensor:
        matrix = self.positional_encoding_gaussian_matrix.float()
        angles = 2 * torch.pi * ((2 * coords.float() - 1) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class SamModel(nn.Module):
    """Image encoder, prompt encoder and mask decoder; only the decoder is ever trained."""

    def __init__(self, sizes: SamSizes):
        super().__init__()
        self.sizes = sizes
        cells = sizes.image_size // PATCH
        self.image_encoder = ImageEncoderViT(
            img_size=sizes.image_size,
            patch_size=PATCH,
            embed_dim=sizes.embed_dim,
            depth=sizes.depth,
            num_heads=sizes.num_heads,
            mlp_ratio=4,
            out_chans=sizes.prompt_dim,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=sizes.window_size,
            global_attn_indexes=sizes.global_attn_indexes,
        )
        self.prompt_encoder = PromptEncoder(
            embed_dim=sizes.prompt_dim,
            image_embedding_size=(cells, cells),
            input_image_size=(sizes.image_size, sizes.image_size),
            mask_in_chans=16,
        )
        self.prompt_encoder.pe_layer = Float32PositionEncoding(sizes.prompt_dim // 2)
        self.mask_decoder = MaskDecoder(
            transformer_dim=sizes.prompt_dim,
            transformer=TwoWayTransformer(
                depth=2,
                embedding_dim=sizes.prompt_dim,
                num_heads=8,
                mlp_dim=sizes.decoder_mlp_dim,
            ),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=sizes.prompt_dim,
        )
        fuse_attention(self)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Image embedding of SAM views.

        Args:
            pixels: float[B, 3, S, S], normalised.

        Returns:
            float[B, C, h, w].
        """
        return self.image_encoder(pixels.to(self.image_encoder.patch_embed.proj.weight.dtype))

    def sparse_prompt(
        self,
        points: torch.Tensor,
        labels: torch.Tensor,
        text: torch.Tensor | None,
        size: tuple[int, int],
        input_size: tuple[int, int],
    ) -> torch.Tensor:
        """The prompt tokens of M masks on one image: points, SAM's padding point, text.

        Args:
            points: float32[M, P, 2] in the original image's frame; P = 0 leaves out the points
                and the padding point.
            labels: int64[M, P]: 1, 0 or -1.
            text: float[M, C], the projected `[SEG]` state; None leaves it out.
            size: (H, W) of the original image.
            input_size: (h, w) of the image inside the SAM view.

        Returns:
            float[M, P + 2, C], or float[M, 1, C] without points; one token less without text.
        """
        if text is not None and points.shape[1] == 0:
            return text[:, None]
        scale = points.new_tensor([input_size[1] / size[1], input_size[0] / size[0]])
        tokens, _ = self.prompt_encoder(points=(points * scale, labels), boxes=None, masks=None)
        if text is None:
            return tokens
        return torch.cat([tokens.to(text.dtype), text[:, None]], dim=1)

    def attend(
        self, embeddings: torch.Tensor, sparse: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The decoder's two-way transformer: prompt and image look at each other.

        Args:
            embeddings: float[M, C, h, w], the image embedding for each mask.
            sparse: float[M, K, C] prompt tokens.

        Returns:
            tokens float[M, O + K, C], SAM's own O output tokens (predicted IoU, masks) first and
            the prompt behind them, and cells float[M, h * w, C]; both updated.
        """
        decoder, prompts = self.mask_decoder, self.prompt_encoder
        dtype = decoder.iou_token.weight.dtype
        outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([outputs.expand(len(sparse), -1, -1), sparse.to(dtype)], dim=1)
        dense = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1).to(dtype)
        positions = prompts.get_dense_pe().to(dtype).expand(len(sparse), -1, -1, -1)
        return decoder.transformer(embeddings.to(dtype) + dense, positions, tokens)

    def decode(
        self, embeddings: torch.Tensor, sparse: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask logits from prompts; the first of SAM's four masks ("multimask_output=False").

        Unlike the package's `predict_masks`, every mask may belong to another image, and only the
        first mask's hypernetwork runs.

        Args:
            embeddings, sparse: as in `attend`.

        Returns:
            logits float[M, 1, 4h, 4w] and predicted IoU float[M].
        """
        decoder = self.mask_decoder
        states, cells = self.attend(embeddings, sparse)
        _, channels, height, width = embeddings.shape
        cells = cells.transpose(1, 2).reshape(-1, channels, height, width)
        upscaled = decoder.output_upscaling(cells)
        weights = decoder.output_hypernetworks_mlps[0](states[:, 1])
        logits = torch.einsum("mc,mcyx->myx", weights, upscaled)[:, None]
        return logits, decoder.iou_prediction_head(states[:, 0])[:, 0]

    def upscale(
        self, logits: torch.Tensor, input_size: tuple[int, int], size: tuple[int, int]
    ) -> torch.Tensor:
        """Bring mask logits of one image to its original size: to S, crop the padding, resize.

        Args:
            logits: float[M, 1, 4h, 4w].
            input_size: (h, w) of the image inside the SAM view.
            size: (H, W) of the original image.

        Returns:
            float32[M, H, W].
        """
        if len(logits) == 0:
            return logits.float().sum().expand(0, *size)
        side = self.sizes.image_size
        frame = F.interpolate(
            logits.float(), size=(side, side), mode="bilinear", align_corners=False
        )
        frame = frame[..., : input_size[0], : input_size[1]]
        return F.interpolate(frame, size=size, mode="bilinear", align_corners=False)[:, 0]


def load_sam_weights(model: SamModel, path: str | Path) -> list[str]:
    """Fill a SAM from a published checkpoint (`sam_vit_h_4b8939.pth`), strictly.

    Returns:
        the names that were loaded.

    Raises:
        InputError: no such file, or it does not fit the sizes.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"no SAM weights at {path} (--vision_pretrained): expected a checkpoint of the "
            "segment-anything project such as sam_vit_h_4b8939.pth"
        )
    try:
        state = read_weight_file(path)
        model.load_state_dict(state)
    except (RuntimeError, OSError, ValueError, EOFError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is no SAM checkpoint of these sizes ({model.sizes}): {error}"
        ) from error
    return sorted(state)

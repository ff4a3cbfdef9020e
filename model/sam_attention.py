"""The segment-anything package's attention in PyTorch's fused form: same parameters and results."""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import Attention as PackageEncoderAttention
from segment_anything.modeling.image_encoder import get_rel_pos
from segment_anything.modeling.transformer import Attention as PackageDecoderAttention
from torch import nn
from torch.nn import functional as F


class EncoderAttention(PackageEncoderAttention):
    """Of the image encoder: of all scores only their bias is stored.

    With 4096 cells the scores of an image are the largest thing in the encoder, and the package
    holds several copies of them.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[B, h, w, width] -> the same; B images or windows of h x w cells."""
        images, height, width, _ = x.shape
        parts = self.qkv(x).view(images, height, width, 3, self.num_heads, -1)
        cells, key, value = parts.permute(3, 0, 4, 1, 2, 5)
        along_y = get_rel_pos(height, height, self.rel_pos_h)
        along_x = get_rel_pos(width, width, self.rel_pos_w)
        # Contiguous, so that their sum is too: a copy of it would be as large as the scores.
        bias_y = torch.einsum("bnyxc,ykc->bnyxk", cells, along_y).contiguous()
        bias_x = torch.einsum("bnyxc,xkc->bnyxk", cells, along_x).contiguous()
        bias = bias_y[..., :, None] + bias_x[..., None, :]
        output = F.scaled_dot_product_attention(
            cells.flatten(2, 3),
            key.flatten(2, 3),
            value.flatten(2, 3),
            bias.flatten(4, 5).flatten(2, 3),
            scale=self.scale,
        )
        output = output.view(images, self.num_heads, height, width, -1).permute(0, 2, 3, 1, 4)
        return self.proj(output.flatten(3))


class DecoderAttention(PackageDecoderAttention):
    """Of the mask decoder: no matrix of weights is stored."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        heads = [
            self._separate_heads(project(states), self.num_heads)
            for project, states in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        ]
        return self.out_proj(self._recombine_heads(F.scaled_dot_product_attention(*heads)))


def fuse_attention(sam: nn.Module) -> None:
    """Give the package's attention modules in `sam` the fused forward; parameters stay."""
    fused: dict[type[nn.Module], type[nn.Module]] = {
        PackageEncoderAttention: EncoderAttention,
        PackageDecoderAttention: DecoderAttention,
    }
    for module in sam.modules():
        module.__class__ = fused.get(type(module), type(module))

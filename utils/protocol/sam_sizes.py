"""Sizes of a SAM: what the command line, the model and its stored configuration agree on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields

from utils.errors import InputError

SAM_PATCH = 16
"""Pixels of a side of the image encoder's patches."""


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

    @property
    def cells(self) -> int:
        """Side h = w of the image embedding."""
        return self.image_size // SAM_PATCH


SAM_PRESETS = {
    "vit_h": SamSizes(1280, 32, 16, (7, 15, 23, 31)),
    "vit_l": SamSizes(1024, 24, 16, (5, 11, 17, 23)),
    "vit_b": SamSizes(768, 12, 12, (2, 5, 8, 11)),
}
SAM_FIELDS = {item.name: item for item in fields(SamSizes)}
SAM_REQUIRED = tuple(name for name, item in SAM_FIELDS.items() if item.default is MISSING)


def sam_sizes(sam: str | Mapping | None) -> SamSizes:
    """Sizes from a preset's name or a mapping; None is ViT-H.

    Raises:
        InputError: unknown name or field, or a missing field.
    """
    if sam is None:
        return SAM_PRESETS["vit_h"]
    if isinstance(sam, str):
        if sam not in SAM_PRESETS:
            raise InputError(
                f"SAM {sam!r} is unknown; choose one of {', '.join(SAM_PRESETS)} or give a mapping "
                f"with {', '.join(SAM_REQUIRED)}"
            )
        return SAM_PRESETS[sam]
    values = dict(sam)
    if "global_attn_indexes" in values:
        values["global_attn_indexes"] = tuple(values["global_attn_indexes"])
    unknown = sorted(set(values) - set(SAM_FIELDS))
    missing = [name for name in SAM_REQUIRED if name not in values]
    if unknown or missing:
        raise InputError(
            f"SAM sizes {dict(sam)}: unknown {unknown}, missing {missing}; "
            f"known are {', '.join(SAM_FIELDS)}"
        )
    sizes = SamSizes(**values)
    if sizes.image_size % SAM_PATCH or sizes.prompt_dim % 8:
        raise InputError(
            f"SAM sizes {dict(sam)}: image_size must be a multiple of {SAM_PATCH} and prompt_dim "
            "of 8"
        )
    return sizes


def sam_sizes_dict(sizes: SamSizes) -> dict:
    """The sizes as plain data for a checkpoint's configuration."""
    return {**asdict(sizes), "global_attn_indexes": list(sizes.global_attn_indexes)}

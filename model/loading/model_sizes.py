"""How many parameters a READ has, part by part, from its sizes alone: nothing is loaded.

Sizes come from `config.json` of a local folder, or from the names of the published models. Legend:
D width of the LLM, F its hidden width, L its layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from utils.cli import checks
from utils.errors import InputError

ADDED_TOKENS = 3
"""`[SEG]`, `<im_start>`, `<im_end>`."""
SAM_PATCH = 16


@dataclass(frozen=True)
class LlmSizes:
    """Sizes of a LLaMA.

    Args:
        hidden_size, intermediate_size, layers, heads, kv_heads: D, F, L and attention heads.
        vocabulary: rows of the token embedding, the added tokens included.
    """

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def kv_width(self) -> int:
        return self.hidden_size // self.heads * self.kv_heads

    def linear(self) -> dict[str, tuple[int, int]]:
        """Name of each linear map of a layer -> (in, out)."""
        d, f, kv = self.hidden_size, self.intermediate_size, self.kv_width
        return {
            "q_proj": (d, d),
            "k_proj": (d, kv),
            "v_proj": (d, kv),
            "o_proj": (d, d),
            "gate_proj": (d, f),
            "up_proj": (d, f),
            "down_proj": (f, d),
        }


@dataclass(frozen=True)
class ClipSizes:
    """Sizes of a CLIP vision tower."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    layers: int = 24
    image_size: int = 336
    patch_size: int = 14

    @property
    def patches(self) -> int:
        """Image tokens V."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class SamSizes:
    """Sizes of a SAM; its prompt encoder and mask decoder follow from `prompt_dim`."""

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
        return self.image_size // SAM_PATCH


LLMS = {
    "7b": LlmSizes(4096, 11008, 32, 32, 32, 32000 + ADDED_TOKENS),
    "13b": LlmSizes(5120, 13824, 40, 40, 40, 32000 + ADDED_TOKENS),
}
CLIPS = {
    "clip-vit-large-patch14-336": ClipSizes(),
    "clip-vit-large-patch14": ClipSizes(image_size=224),
}
SAMS = {
    "vit_h": SamSizes(1280, 32, 16, (7, 15, 23, 31)),
    "vit_l": SamSizes(1024, 24, 16, (5, 11, 17, 23)),
    "vit_b": SamSizes(768, 12, 12, (2, 5, 8, 11)),
}


def llm_sizes(version: str) -> LlmSizes:
    """Sizes of the LLM of `--version`: a local folder, or a name that tells 7B or 13B.

    Raises:
        InputError: neither.
    """
    config = checks.model_config(version)
    if config:
        try:
            found = LlmSizes(
                config["hidden_size"],
                config["intermediate_size"],
                config["num_hidden_layers"],
                config["num_attention_heads"],
                config.get("num_key_value_heads") or config["num_attention_heads"],
                config["vocab_size"],
            )
        except KeyError as error:
            raise InputError(
                f"{version}/config.json: {error} is missing; expected a LLaVA or READ"
            ) from error
        has_tokens = "train_mask_decoder" in config or "out_dim" in config
        more = 0 if has_tokens else ADDED_TOKENS
        return LlmSizes(**{**vars(found), "vocabulary": found.vocabulary + more})
    name = version.lower()
    said = re.search(r"(?<!\d)(7|13)b(?![a-z])", name)
    if said:
        return LLMS[said.group(0)]
    if "sesame" in name:
        return LLMS["7b"]
    raise InputError(
        f"the size of {version} is unknown: it is no folder here and its name tells neither 7B "
        "nor 13B; give --version as a folder with config.json"
    )


def clip_sizes(tower: str) -> ClipSizes:
    """Sizes of `--vision_tower`: a local folder, or a published CLIP ViT-L/14.

    Raises:
        InputError: neither.
    """
    config = checks.model_config(tower)
    if config:
        vision = {"image_size": 224, "patch_size": 14, **config.get("vision_config", config)}
        try:
            return ClipSizes(
                vision["hidden_size"],
                vision["intermediate_size"],
                vision["num_hidden_layers"],
                vision["image_size"],
                vision["patch_size"],
            )
        except KeyError as error:
            raise InputError(f"{tower}/config.json: {error} is missing; expected a CLIP") from error
    name = tower.rstrip("/").rpartition("/")[2].lower()
    if name in CLIPS:
        return CLIPS[name]
    raise InputError(
        f"the size of {tower} is unknown: it is no folder here; known are {', '.join(CLIPS)}"
    )


def sam_sizes(sam: str | Mapping[str, Any]) -> SamSizes:
    """Sizes of `--sam`, as a name or a mapping that was checked before (`utils.cli.checks.sam`)."""
    if isinstance(sam, str):
        return SAMS[sam]
    return SamSizes(**{**sam, "global_attn_indexes": tuple(sam["global_attn_indexes"])})


def count_llm_layers(llm: LlmSizes) -> int:
    """All layers and the norm behind them, without embedding and `lm_head`."""
    weights = sum(inside * out for inside, out in llm.linear().values())
    return llm.layers * (weights + 2 * llm.hidden_size) + llm.hidden_size


def count_lora(llm: LlmSizes, rank: int, targets: str) -> int:
    """LoRA of this rank on the named maps of every layer."""
    names = [name.strip() for name in targets.split(",") if name.strip()]
    maps = llm.linear()
    unknown = [name for name in names if name not in maps]
    if unknown and rank:
        raise InputError(f"LoRA on {', '.join(unknown)}: known are {', '.join(maps)}")
    return llm.layers * sum(rank * sum(maps[name]) for name in names) if rank else 0


def count_clip(clip: ClipSizes) -> int:
    """The vision tower with its class token, positions and both outer norms."""
    d, f = clip.hidden_size, clip.intermediate_size
    embedding = d + 3 * clip.patch_size**2 * d + (clip.patches + 1) * d
    layer = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 4 * d
    return embedding + clip.layers * layer + 4 * d


def count_projector(clip: ClipSizes, llm: LlmSizes) -> int:
    """Linear - GELU - Linear from CLIP's width to D."""
    return _linear(clip.hidden_size, llm.hidden_size) + _linear(llm.hidden_size, llm.hidden_size)


def count_projection(llm: LlmSizes, out_dim: int) -> int:
    """`text_hidden_fcs`: Linear(D, D) - ReLU - Linear(D, out_dim)."""
    return _linear(llm.hidden_size, llm.hidden_size) + _linear(llm.hidden_size, out_dim)


def count_sam_encoder(sam: SamSizes) -> int:
    """Image encoder: patches, positions, blocks with relative positions, neck."""
    e, c = sam.embed_dim, sam.prompt_dim
    block = 4 * e + _linear(e, 3 * e) + _linear(e, e) + _linear(e, 4 * e) + _linear(4 * e, e)
    sides = [
        sam.cells if index in sam.global_attn_indexes else sam.window_size
        for index in range(sam.depth)
    ]
    relative = sum(2 * (2 * side - 1) * (e // sam.num_heads) for side in sides)
    neck = e * c + 9 * c * c + 4 * c
    return _linear(3 * SAM_PATCH**2, e) + sam.cells**2 * e + sam.depth * block + relative + neck


def count_prompt_encoder(sam: SamSizes) -> int:
    """Six embeddings and the convolutions for mask prompts."""
    c = sam.prompt_dim
    convolutions = (4 * 4 + 4) + 2 * 4 + (4 * 16 * 4 + 16) + 2 * 16 + _linear(16, c)
    return 6 * c + convolutions


def count_mask_decoder(sam: SamSizes) -> int:
    """Two-way transformer of two layers, upscaling, four mask heads, IoU head."""
    c, f = sam.prompt_dim, sam.decoder_mlp_dim
    half = c // 2
    own, cross = 4 * _linear(c, c), 3 * _linear(c, half) + _linear(half, c)
    layer = own + 2 * cross + _linear(c, f) + _linear(f, c) + 4 * 2 * c
    transformer = 2 * layer + cross + 2 * c
    upscaling = (4 * c * (c // 4) + c // 4) + 2 * (c // 4) + (4 * (c // 4) * (c // 8) + c // 8)
    masks = 4 * (2 * _linear(c, c) + _linear(c, c // 8))
    iou = 2 * _linear(c, c) + _linear(c, 4)
    return transformer + 5 * c + upscaling + masks + iou


def _linear(inside: int, out: int) -> int:
    return inside * out + out

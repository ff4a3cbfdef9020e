"""READ models with random weights: nothing to download, the proportions of the real ones."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from benchmarks.output import ROOT
from model import ReadConfig, Reader, ReadForCausalLM
from model.inference.prompts import PromptFormat
from model.llava import VisionTower
from model.sam import sam_sizes, sam_sizes_dict
from utils.protocol.image_transforms import default_clip_processor
from utils.protocol.tokenization import load_tokenizer, seg_token_id

TOKENIZER = ROOT / "tests" / "data" / "golden" / "released_tiny"
VOCABULARY = 803
FIRST_WORDS = (300, 301)
STRENGTH = 40.0
"""Of the parts that lead to `[SEG]`; the decoder layers add values of about 10."""


@dataclass(frozen=True)
class Size:
    """Widths and depths of the three parts."""

    width: int
    inner: int
    layers: int
    heads: int
    clip_width: int
    clip_layers: int
    clip_heads: int
    sam: str | dict
    vocabulary: int = VOCABULARY


SMALL_SAM = {
    "embed_dim": 96,
    "depth": 3,
    "num_heads": 2,
    "global_attn_indexes": [2],
    "prompt_dim": 64,
    "decoder_mlp_dim": 512,
}
SIZES = {
    "tiny": Size(64, 128, 2, 4, 32, 2, 2, {**SMALL_SAM, "embed_dim": 32, "image_size": 128}),
    "cpu": Size(1024, 2752, 12, 16, 192, 6, 3, SMALL_SAM),
    "7b": Size(4096, 11008, 32, 32, 1024, 24, 16, "vit_h"),
    "13b": Size(5120, 13824, 40, 40, 1024, 24, 16, "vit_h"),
}
"""All see 24 x 24 image tokens and SAM frames of 1024 ("tiny": 128)."""


def random_reader(size: Size, device: str, dtype: torch.dtype, seed: int = 0) -> Reader:
    """A reader with weights made on the device.

    The decoder layers weigh more than usual at the start of a training, so that answers depend on
    the question; each holds a `[SEG]`, and the end token is never chosen.
    """
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = _model(size)
    finally:
        torch.set_default_dtype(default)
    model.to(device)  # CLIP's pixel table comes from NumPy, on the CPU whatever the context says
    with torch.no_grad():
        for layer in model.model.layers:
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                part.weight.normal_(std=(3 / size.width) ** 0.5)
            for part in (layer.self_attn.v_proj, layer.mlp.gate_proj, layer.mlp.up_proj):
                part.weight.normal_(std=size.width**-0.5)
            layer.self_attn.o_proj.weight.normal_(std=3 * size.width**-0.5)
            layer.mlp.down_proj.weight.normal_(std=3 * size.inner**-0.5)
        model.model.embed_tokens.weight.normal_(std=1.0)
        model.lm_head.weight.normal_(std=size.width**-0.5)
        model.lm_head.weight[model.config.eos_token_id] = 0
    tokenizer = load_tokenizer(TOKENIZER)
    model.config.seg_token_id = seg_token_id(tokenizer)
    reader = Reader(model.eval().requires_grad_(False), tokenizer)
    say_seg(reader)
    return reader


def _model(size: Size) -> ReadForCausalLM:
    sam = sam_sizes(size.sam)
    config = ReadConfig(
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        vocab_size=size.vocabulary,
        max_position_embeddings=4096,
        mm_hidden_size=size.clip_width,
        sam=sam_sizes_dict(sam),
        out_dim=sam.prompt_dim,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = ReadForCausalLM(config)
    clip = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=size.clip_width,
            intermediate_size=4 * size.clip_width,
            num_hidden_layers=size.clip_layers,
            num_attention_heads=size.clip_heads,
            image_size=336,
            patch_size=14,
        )
    )
    model.model.vision_tower = VisionTower(clip, default_clip_processor(), -2, "random")
    return model


def say_seg(reader: Reader) -> None:
    """Let every answer begin with two fixed words and `[SEG]`, and go on as it likes.

    The embedding of each of these tokens gets a strong part of its own, which survives the decoder
    layers and to which the next one's row of `lm_head` answers.
    """
    model = reader.model
    embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight
    last = PromptFormat(model, reader.tokenizer).prompt("What?")[1][-1]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for token, then in itertools.pairwise((last, *FIRST_WORDS, model.seg_token_id)):
            direction = torch.randn(head.shape[1], generator=generator)
            embeddings[token] += (STRENGTH * direction).to(embeddings)
            head[then] = (direction / direction.norm()).to(head)


def random_image(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth colours with some noise, uint8[height, width, 3]."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.integers(-20, 20, (height, width, 3))
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def questions(count: int) -> list[str]:
    """Different questions of usual length."""
    things = ("dog", "red cup", "man on the left", "chair", "second car", "tree", "lamp", "bag")
    forms = (
        "What is the {} in this image? Please output segmentation mask.",
        "Where is the {}? Please output segmentation mask.",
        "Can you segment the {}?",
    )
    return [
        forms[n // len(things) % len(forms)].format(things[n % len(things)]) for n in range(count)
    ]

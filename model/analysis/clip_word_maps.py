"""Word x CLIP: what CLIP itself makes of words and patches, without LLaVA.

It needs the folder of a whole CLIP: text tower, both projections, and the tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch.nn import functional as F
from transformers import AutoConfig, CLIPModel, CLIPTokenizer

from model.analysis.similarity_maps import on_grid
from model.llava import VisionTower
from utils.errors import InputError
from utils.protocol.image_transforms import normalise_for_clip

TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Sets of files, one of which a local folder has to hold."""


class WordClip:
    """A whole CLIP that compares words with the patches of an image.

    Args:
        clip: both towers.
        tokenizer: CLIP's.
        pixel_table: float32[3, 256], see `utils.protocol.image_transforms.clip_normalisation`.
    """

    def __init__(self, clip: CLIPModel, tokenizer: CLIPTokenizer, pixel_table: torch.Tensor):
        self.clip = clip.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.pixel_table = pixel_table

    @torch.no_grad()
    def maps(self, pixels: torch.Tensor, words: Sequence[str]) -> torch.Tensor:
        """cos(text embedding, projection(norm(patch state of the last layer))).

        Args:
            pixels: uint8[3, C, C], CLIP's crop.
            words: n texts, as they are, cut where CLIP's text ends (77 tokens).

        Returns:
            float32[n, side, side] over CLIP's crop.
        """
        device, vision = self.clip.device, self.clip.vision_model
        normalised = normalise_for_clip(pixels[None].to(device), self.pixel_table.to(device))
        patches = vision(normalised.to(self.clip.dtype)).last_hidden_state[0, 1:]
        patches = self.clip.visual_projection(vision.post_layernorm(patches))
        tokens = self.tokenizer(list(words), padding=True, truncation=True, return_tensors="pt")
        texts = self.clip.text_model(**tokens.to(device)).pooler_output
        texts = self.clip.text_projection(texts)
        return on_grid(F.normalize(texts.float(), dim=-1) @ F.normalize(patches.float(), dim=-1).T)


def load_word_clip(tower: VisionTower) -> WordClip:
    """The whole CLIP of which the model has the image tower.

    Raises:
        InputError: its folder has no text tower or no tokenizer.
    """
    source, folder = tower.source, Path(tower.source)
    try:
        kind = AutoConfig.from_pretrained(source).model_type
        if kind != "clip":
            raise InputError(
                f"the CLIP folder {source} holds an image tower alone ({kind}); word x CLIP needs "
                "the whole CLIP, such as openai/clip-vit-large-patch14-336 (--vision_tower)"
            )
        if folder.is_dir() and not any(
            all((folder / name).is_file() for name in files) for files in TOKENIZER_FILES
        ):
            raise InputError(
                f"the CLIP folder {source} has no tokenizer; word x CLIP needs tokenizer.json, or "
                "vocab.json and merges.txt, beside its config.json"
            )
        clip = CLIPModel.from_pretrained(source, dtype=tower.clip.dtype)
        tokenizer = CLIPTokenizer.from_pretrained(source)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"cannot load the whole CLIP {source} for word x CLIP ({error}); copy its folder again "
            "from its source"
        ) from error
    return WordClip(clip.to(tower.clip.device), tokenizer, tower.pixel_table)

"""A whole CLIP, both towers and the tokenizer, in small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from tests.released_tiny import CLIP

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def write_whole_clip(folder: Path) -> Path:
    """Random weights; an image tower of the sizes of `tests.released_tiny.CLIP`.

    Its tokenizer knows letters alone, no pairs of them.
    """
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), BEGIN, END]
    torch.manual_seed(0)
    text = {
        "vocab_size": len(words),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 24,
        "bos_token_id": words.index(BEGIN),
        "eos_token_id": words.index(END),
        "pad_token_id": words.index(END),
    }
    vision = json.loads((CLIP / "config.json").read_text())
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    ).save_pretrained(folder)
    shutil.copy(CLIP / "preprocessor_config.json", folder)
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    marks = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **marks}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder

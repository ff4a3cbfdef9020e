"""Tiny tokenizer: sentencepiece BPE in LLaMA's form, stored as slow-tokenizer files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import sentencepiece

from tiny.corpus import draw_lesson
from tiny.images import draw_scenes
from utils.files import write_json
from utils.protocol.constants import SEG_TOKEN
from utils.protocol.conversation import POSITIVE_ANSWER, SYSTEM_LLAVA_V1

_SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def corpus(scenes: int, seed: int) -> list[str]:
    """The prompts of a few thousand lessons, line by line."""
    rng = np.random.default_rng(seed)
    lines = []
    for scene in draw_scenes(scenes, seed):
        for _ in range(8):
            lesson = draw_lesson(scene.things, rng)
            answer = "".join(lesson.answer)
            lines.append(f"{SYSTEM_LLAVA_V1} USER: {lesson.question} ASSISTANT: {answer}")
        lines.append(POSITIVE_ANSWER.replace(SEG_TOKEN, ""))
    return lines


def train(out: Path, scenes: int, pieces: int, seed: int) -> dict[str, float]:
    """Train on the lessons of `scenes` images and write the tokenizer files into `out`."""
    lines = corpus(scenes, seed)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.model").write_bytes(model.getvalue())
    added = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    tokens = {name: {"content": text, **added} for name, text in _SPECIAL.items()}
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        **{name: {"__type": "AddedToken", **value} for name, value in tokens.items()},
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        "model_max_length": 512,
        "pad_token": None,
        "padding_side": "right",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
    }
    write_json(out / "tokenizer_config.json", config, indent=2)
    write_json(out / "special_tokens_map.json", {**tokens, "pad_token": "<unk>"}, indent=2)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    lengths = [len(processor.encode(line)) for line in lines]
    return {"pieces": processor.get_piece_size(), "tokens_per_prompt": float(np.mean(lengths))}

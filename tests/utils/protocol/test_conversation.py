"""Prompts are protocol: their very characters."""

from __future__ import annotations

import pytest

from utils.errors import InputError
from utils.protocol.conversation import (
    SYSTEM_LLAVA_LLAMA_2,
    SYSTEM_LLAVA_V1,
    build_prompt,
    user_turn,
)


def test_llava_v1_with_two_turns():
    prompt = build_prompt([(user_turn("a?"), "b."), ("c?", "d.")])
    assert prompt == (
        f"{SYSTEM_LLAVA_V1} USER: <im_start><image><im_end>\na? ASSISTANT: b.</s>"
        "USER: c? ASSISTANT: d.</s>"
    )


def test_llava_v1_ends_where_the_model_goes_on():
    assert build_prompt([("a?", None)], use_im_start_end=False).endswith("USER: a? ASSISTANT:")


def test_llava_llama_2_with_two_turns():
    prompt = build_prompt([("a?", "b."), ("c?", None)], "llava_llama_2")
    assert prompt == (
        f"[INST] <<SYS>>\n{SYSTEM_LLAVA_LLAMA_2}\n<</SYS>>\n\na? [/INST] b. </s>"
        "<s>[INST] c? [/INST]"
    )


def test_bad_conversations():
    with pytest.raises(InputError, match="llava_v1, llava_llama_2"):
        build_prompt([("a?", None)], "vicuna")
    with pytest.raises(InputError, match="last turn"):
        build_prompt([("a?", None), ("b?", "c")])

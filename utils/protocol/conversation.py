"""Conversation formats. The weights were trained on these very strings."""

from __future__ import annotations

from collections.abc import Sequence

from utils.errors import InputError
from utils.protocol.constants import IM_END_TOKEN, IM_START_TOKEN, IMAGE_TOKEN

CONVERSATION_TYPES = ("llava_v1", "llava_llama_2")

SYSTEM_LLAVA_V1 = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
SYSTEM_LLAVA_LLAMA_2 = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)

MASK_REQUEST = "Please output segmentation mask."
"""The evaluation ends every question with it; the weights answer with a mask then."""
QUESTION_OF_CLASS = f"What is {{class_name}} in this image? {MASK_REQUEST}"
QUESTION_OF_SENTENCE = f"{{sent}} {MASK_REQUEST}"
POSITIVE_ANSWER = "Sure, the segmentation result is [SEG]."
"""The fixed evaluation templates ("simple")."""


def wrap_image_token(text: str) -> str:
    """Put `<im_start>`, `<im_end>` around every `<image>` (config `mm_use_im_start_end`)."""
    return text.replace(IMAGE_TOKEN, IM_START_TOKEN + IMAGE_TOKEN + IM_END_TOKEN)


def user_turn(question: str) -> str:
    """The first user turn about an image: the image, a line feed, the question as typed."""
    return f"{IMAGE_TOKEN}\n{question}"


def asks_for_mask(question: str) -> bool:
    """Whether a question asks for a segmentation mask, as those of evaluation and training do."""
    return "segmentation mask" in question.lower()


def with_mask_request(question: str) -> str:
    """A question in the words of the evaluation, or as it is if it asks for a mask already."""
    return question if asks_for_mask(question) else QUESTION_OF_SENTENCE.format(sent=question)


def build_prompt(
    turns: Sequence[tuple[str, str | None]],
    conv_type: str = "llava_v1",
    use_im_start_end: bool = True,
) -> str:
    """Join (question, answer) turns into the text that is tokenized.

    Args:
        turns: the answer of the last turn may be None: then the prompt ends where the model
            has to go on (`ASSISTANT:` or `[/INST]`).
        conv_type: one of `CONVERSATION_TYPES`.
        use_im_start_end: wrap `<image>` in `<im_start>`/`<im_end>`.

    Raises:
        InputError: unknown `conv_type`, or an answer is missing before the last turn.
    """
    if conv_type not in CONVERSATION_TYPES:
        raise InputError(
            f"conversation type {conv_type!r} is unknown; "
            f"choose one of {', '.join(CONVERSATION_TYPES)} (--conv_type)"
        )
    if any(answer is None for _, answer in turns[:-1]):
        raise InputError("only the last turn of a conversation may be without an answer")
    join = _llava_v1 if conv_type == "llava_v1" else _llava_llama_2
    prompt = join(turns)
    return wrap_image_token(prompt) if use_im_start_end else prompt


def _llava_v1(turns: Sequence[tuple[str, str | None]]) -> str:
    text = SYSTEM_LLAVA_V1 + " "
    for question, answer in turns:
        text += f"USER: {question} ASSISTANT:" + ("" if answer is None else f" {answer}</s>")
    return text


def _llava_llama_2(turns: Sequence[tuple[str, str | None]]) -> str:
    text = ""
    for number, (question, answer) in enumerate(turns):
        if number == 0:
            question = f"<<SYS>>\n{SYSTEM_LLAVA_LLAMA_2}\n<</SYS>>\n\n{question}"
        else:
            text += "<s>"
        text += f"[INST] {question} [/INST]" + ("" if answer is None else f" {answer} </s>")
    return text

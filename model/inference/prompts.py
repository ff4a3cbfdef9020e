"""From questions to token ids and back."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase

from model.read_model import ReadForCausalLM
from utils.errors import InputError
from utils.protocol.constants import IMAGE_TOKEN, IMAGE_TOKEN_INDEX, SEG_TOKEN
from utils.protocol.conversation import build_prompt, user_turn
from utils.protocol.tokenization import END_OF_ANSWER, encode_prompt

Question = str | tuple[str, str]
"""A question, or a question with the answer that is given to it."""

_AROUND_SEG = re.compile(rf"\s*{re.escape(SEG_TOKEN)}\s*([.,;:!?]?)")


class PromptFormat:
    """Prompts as this model was trained on them.

    Args:
        model: READ with its CLIP tower.
        tokenizer: from `load_tokenizer`.
    """

    def __init__(self, model: ReadForCausalLM, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self._conv_type = model.config.conv_type
        self._wrapped = model.config.mm_use_im_start_end
        self._room = model.config.max_position_embeddings - (model.image_tokens - 1)

    def prompt(self, question: str, answer: str | None = None) -> tuple[list[int], list[int]]:
        """Token ids of a prompt: the part that all questions about an image share, and the rest.

        The shared part ends with the image (-200), or with the `<im_end>` behind it.

        Raises:
            InputError: a question that is none, or longer than the model has room for.
        """
        text = build_prompt([(user_turn(question), answer)], self._conv_type, self._wrapped)
        ids = encode_prompt(text, self.tokenizer)
        if len(ids) > self._room:
            extra = len(ids) - self._room
            raise InputError(
                f"the prompt is {extra} tokens longer than the {self._room} that the model has "
                "room for beside its image; shorten the question"
            )
        shared = ids.index(IMAGE_TOKEN_INDEX) + (2 if self._wrapped else 1)
        return ids[:shared], ids[shared:]

    def text(self, ids: list[int]) -> str:
        """An answer's tokens as words."""
        words = str(self.tokenizer.decode(ids, skip_special_tokens=False))
        # [SEG] swallows the white space around it when it is tokenized; put back what reads well.
        return _AROUND_SEG.sub(_spaced_seg, words.replace(END_OF_ANSWER, "")).strip()


def _spaced_seg(match: re.Match[str]) -> str:
    return f" {SEG_TOKEN}{match[1]} "


def question_of(asked: Question, answer: str | None = None) -> tuple[str, str | None]:
    """The question, and the answer given to it: its own, else `answer`.

    Raises:
        InputError: see `check_question`.
    """
    question, given = asked if isinstance(asked, tuple) else (asked, answer)
    check_question(question)
    return question, given


def check_question(question: object) -> None:
    """Refuse what cannot be asked.

    Raises:
        InputError: no text, text with `<image>` in it, or with half a character.
    """
    if not isinstance(question, str) or not question.strip():
        raise InputError(
            f"the question is {question!r}; expected a sentence such as "
            "'Which part lets the plane steer?'"
        )
    if IMAGE_TOKEN in question:
        raise InputError(
            f"the question {question!r} holds {IMAGE_TOKEN}, which stands for the image and is "
            "added by itself; leave it out"
        )
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the question {question!r} is no valid Unicode text: character {error.start + 1} is a "
            "lone surrogate, half of a character or a byte that is not UTF-8; type it again"
        ) from error

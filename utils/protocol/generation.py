"""How questions are asked."""

from __future__ import annotations

from dataclasses import dataclass

from utils.errors import InputError


@dataclass(frozen=True)
class GenerationOptions:
    """How questions are asked; decoding is greedy.

    Args:
        answer: given words instead of generated ones ("teacher forced").
        max_new_tokens: most tokens of a generated answer.
        force_seg: append the positive answer where the model gave no `[SEG]`.
        batch_questions: questions that are answered at once; more take more memory.
        keep_states: whether answers carry what their masks were made from.

    Raises:
        InputError: a number below 1.
    """

    answer: str | None = None
    max_new_tokens: int = 512
    force_seg: bool = False
    batch_questions: int = 16
    keep_states: bool = False

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_questions"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")

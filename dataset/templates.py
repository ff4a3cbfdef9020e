"""The sentences around a question and its answer.

"simple" is the fixed evaluation set, "varied" the training set in `assets/templates.json`; any
other name is a file of that form.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.constants import SEG_TOKEN
from utils.conversation import POSITIVE_ANSWER, QUESTION_OF_CLASS, QUESTION_OF_SENTENCE
from utils.errors import InputError

VARIED_FILE = Path(__file__).parent / "assets" / "templates.json"

PLACEHOLDERS = {
    "short_question": ("{class_name}",),
    "long_question": ("{sent}",),
    "positive_answer": ("[SEG]",),
    "denial_answer": ("{class_name}",),
    "correction_answer": ("{class_name}", "{gt_name}"),
}
"""The five families and what each of their templates has to hold, exactly once."""

_MARKS = re.compile(rf"\{{\w+\}}|{re.escape(SEG_TOKEN)}")


@dataclass(frozen=True)
class Templates:
    """Five families of templates; a draw takes one at random with the given generator."""

    short_question: tuple[str, ...]
    long_question: tuple[str, ...]
    positive_answer: tuple[str, ...]
    denial_answer: tuple[str, ...]
    correction_answer: tuple[str, ...]

    def question(self, text: str, is_sentence: bool, rng: np.random.Generator) -> str:
        """Ask for a phrase ("the red circle") or put a full sentence."""
        if is_sentence:
            return _pick(self.long_question, rng).replace("{sent}", text)
        return _pick(self.short_question, rng).replace("{class_name}", text.lower())

    def positive(self, rng: np.random.Generator) -> str:
        """An answer with one `[SEG]`."""
        return _pick(self.positive_answer, rng)

    def denial(self, class_name: str, rng: np.random.Generator) -> str:
        """Say that the asked object is not there."""
        return _pick(self.denial_answer, rng).replace("{class_name}", class_name.lower())

    def correction(self, class_name: str, gt_name: str, rng: np.random.Generator) -> str:
        """Say that the asked object is not there, and name what is."""
        chosen = _pick(self.correction_answer, rng)
        return chosen.replace("{class_name}", class_name.lower()).replace(
            "{gt_name}", gt_name.lower()
        )


SIMPLE = Templates(
    short_question=(QUESTION_OF_CLASS,),
    long_question=(QUESTION_OF_SENTENCE,),
    positive_answer=(POSITIVE_ANSWER,),
    denial_answer=("Sorry, there is no {class_name} in this image.",),
    correction_answer=("Sorry, there is no {class_name} in this image, but there is {gt_name}.",),
)


def load_templates(name: str | Path = "simple") -> Templates:
    """Load a set of templates.

    Args:
        name: "simple", "varied", or a JSON file with the five families as lists of strings.

    Raises:
        InputError: unreadable file, a family missing or empty, or a placeholder missing.
    """
    if name == "simple":
        return SIMPLE
    path = VARIED_FILE if name == "varied" else Path(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"templates {name!r}: choose 'simple', 'varied' or a JSON file with the lists "
            f"{', '.join(PLACEHOLDERS)} (--templates) ({error})"
        ) from error
    return Templates(**{family: _family(content, family, path) for family in PLACEHOLDERS})


def _family(content: object, family: str, path: Path) -> tuple[str, ...]:
    entries = content.get(family) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: {family} must be a list with at least one template")
    for entry in entries:
        found = sorted(_MARKS.findall(entry)) if isinstance(entry, str) else None
        if found != sorted(PLACEHOLDERS[family]):
            raise InputError(
                f"{path}: {family} template {entry!r} must hold "
                f"{', '.join(PLACEHOLDERS[family])} once each, and no other placeholder"
            )
    return tuple(entries)


def _pick(entries: tuple[str, ...], rng: np.random.Generator) -> str:
    return entries[int(rng.integers(len(entries)))]

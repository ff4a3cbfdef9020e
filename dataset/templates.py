"""The sentences around a question and its answer.

"simple" is the fixed evaluation set, "varied" the training set in `assets/templates.json`; any
other name is a file of that form. `python -m dataset.templates qa_template.py OUT.json` makes one
of the original's template file (see `dataset.import_templates`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.template_rules import MARKS, OPTIONAL, PLACEHOLDERS, UNUSED, fault, without_image
from utils.errors import InputError
from utils.protocol.conversation import POSITIVE_ANSWER, QUESTION_OF_CLASS, QUESTION_OF_SENTENCE

VARIED_FILE = Path(__file__).parent / "assets" / "templates.json"

ASKED_OBJECT = "object"
"""Stands for what a sentence asks about, in a positive answer that names a class."""


@dataclass(frozen=True)
class Templates:
    """Families of templates; a draw takes one at random with the given generator.

    `positive_answer` is the pool for classes and expressions, `long_positive_answer` the one for
    ReasonSeg; if that is empty, the first is used there too.
    """

    short_question: tuple[str, ...]
    long_question: tuple[str, ...]
    positive_answer: tuple[str, ...]
    denial_answer: tuple[str, ...]
    correction_answer: tuple[str, ...]
    long_positive_answer: tuple[str, ...] = ()

    def question(
        self, text: str, is_sentence: bool, rng: np.random.Generator, keep_case: bool = False
    ) -> str:
        """Ask for a phrase ("the red circle"), in lower case unless told, or put a sentence."""
        if is_sentence:
            return _pick(self.long_question, rng).replace("{sent}", text)
        phrase = text if keep_case else text.lower()
        return _pick(self.short_question, rng).replace("{class_name}", phrase)

    def positive(self, class_name: str, rng: np.random.Generator) -> str:
        """An answer with one `[SEG]` about a class or an expression."""
        return _pick(self.positive_answer, rng).replace("{class_name}", class_name.lower())

    def long_positive(self, asked: str, is_sentence: bool, rng: np.random.Generator) -> str:
        """An answer with one `[SEG]` to a question of ReasonSeg; a sentence names no class."""
        pool = self.long_positive_answer or self.positive_answer
        name = ASKED_OBJECT if is_sentence else asked.lower()
        return _pick(pool, rng).replace("{class_name}", name)

    def denial(self, class_name: str, rng: np.random.Generator) -> str:
        """Say that the asked object is not there."""
        return _pick(self.denial_answer, rng).replace("{class_name}", class_name.lower())

    def correction(self, class_name: str, gt_name: str, rng: np.random.Generator) -> str:
        """Say that the asked object is not there, and name what is."""
        names = {"{class_name}": class_name.lower(), "{gt_name}": gt_name.lower()}
        chosen = _pick(self.correction_answer, rng)
        return MARKS.sub(lambda mark: names[mark[0]], chosen)


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
        name: "simple", "varied", or a JSON file with the families as lists of strings.

    Raises:
        InputError: unreadable file, a family missing or empty, an unknown one, or a placeholder
            missing.
    """
    if name == "simple":
        return SIMPLE
    path = VARIED_FILE if name == "varied" else Path(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"templates {name!r}: choose 'simple', 'varied' or a JSON file with the lists "
            f"{', '.join(PLACEHOLDERS)} (--templates) ({error})"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object with the lists {', '.join(PLACEHOLDERS)}")
    if unknown := sorted(set(content) - {*PLACEHOLDERS, *UNUSED}):
        raise InputError(
            f"{path}: unknown list {unknown[0]!r}; known are {', '.join((*PLACEHOLDERS, *UNUSED))}"
        )
    given = [family for family in PLACEHOLDERS if family not in OPTIONAL or family in content]
    return Templates(**{family: _family(content, family, path) for family in given})


def _family(content: dict, family: str, path: Path) -> tuple[str, ...]:
    entries = content.get(family)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: {family} must be a list with at least one template")
    for entry in entries:
        if not isinstance(entry, str):
            marks = ", ".join(PLACEHOLDERS[family][0]) or "words"
            raise InputError(f"{path}: {family} template {entry!r} must hold {marks} in a string")
        if reason := fault(entry, family):
            raise InputError(f"{path}: {family} template {entry!r} {reason}")
    return tuple(without_image(entry, family) for entry in entries)


def _pick(entries: tuple[str, ...], rng: np.random.Generator) -> str:
    return entries[int(rng.integers(len(entries)))]


if __name__ == "__main__":
    from dataset.import_templates import main

    raise SystemExit(main())

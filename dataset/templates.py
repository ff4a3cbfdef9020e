"""The sentences around a question and its answer.

"simple" is the fixed evaluation set, "varied" the training set in `assets/templates.json`; any
other name is a file of that form. `python -m dataset.templates qa_template.py OUT.json` makes one
of the original's template file (see `dataset.template_import`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.constants import IMAGE_TOKEN, SEG_TOKEN
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
"""The five families and what each of their templates has to hold; `[SEG]` exactly once."""

_MARKS = re.compile(rf"\{{[^{{}}]*\}}|{re.escape(SEG_TOKEN)}")


@dataclass(frozen=True)
class Templates:
    """Five families of templates; a draw takes one at random with the given generator."""

    short_question: tuple[str, ...]
    long_question: tuple[str, ...]
    positive_answer: tuple[str, ...]
    denial_answer: tuple[str, ...]
    correction_answer: tuple[str, ...]

    def question(
        self, text: str, is_sentence: bool, rng: np.random.Generator, keep_case: bool = False
    ) -> str:
        """Ask for a phrase ("the red circle"), in lower case unless told, or put a sentence."""
        if is_sentence:
            return _pick(self.long_question, rng).replace("{sent}", text)
        phrase = text if keep_case else text.lower()
        return _pick(self.short_question, rng).replace("{class_name}", phrase)

    def positive(self, rng: np.random.Generator) -> str:
        """An answer with one `[SEG]`."""
        return _pick(self.positive_answer, rng)

    def denial(self, class_name: str, rng: np.random.Generator) -> str:
        """Say that the asked object is not there."""
        return _pick(self.denial_answer, rng).replace("{class_name}", class_name.lower())

    def correction(self, class_name: str, gt_name: str, rng: np.random.Generator) -> str:
        """Say that the asked object is not there, and name what is."""
        names = {"{class_name}": class_name.lower(), "{gt_name}": gt_name.lower()}
        chosen = _pick(self.correction_answer, rng)
        return _MARKS.sub(lambda mark: names[mark[0]], chosen)


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
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"templates {name!r}: choose 'simple', 'varied' or a JSON file with the lists "
            f"{', '.join(PLACEHOLDERS)} (--templates) ({error})"
        ) from error
    return Templates(**{family: _family(content, family, path) for family in PLACEHOLDERS})


def fault(template: str, family: str) -> str:
    """Why a string cannot be a template of a family; "" if it can."""
    found = _MARKS.findall(template)
    needed = PLACEHOLDERS[family]
    if set(found) != set(needed) or found.count(SEG_TOKEN) > 1:
        held = f"holds {', '.join(sorted(found))}" if found else "holds no placeholder"
        return f"must hold {', '.join(needed)} and no other placeholder, [SEG] only once ({held})"
    if any(sign in _MARKS.sub("", template) for sign in "{}"):
        return "must hold no other braces than those of its placeholders"
    if IMAGE_TOKEN in template:
        return f"must not hold {IMAGE_TOKEN}, which is put in front of the question"
    if not template.isprintable() and not template.replace("\n", " ").isprintable():
        return "must hold printable characters only"
    return ""


def _family(content: object, family: str, path: Path) -> tuple[str, ...]:
    entries = content.get(family) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: {family} must be a list with at least one template")
    for entry in entries:
        if not isinstance(entry, str):
            marks = ", ".join(PLACEHOLDERS[family])
            raise InputError(f"{path}: {family} template {entry!r} must hold {marks} in a string")
        if reason := fault(entry, family):
            raise InputError(f"{path}: {family} template {entry!r} {reason}")
    return tuple(entries)


def _pick(entries: tuple[str, ...], rng: np.random.Generator) -> str:
    return entries[int(rng.integers(len(entries)))]


if __name__ == "__main__":
    from dataset.template_import import main

    raise SystemExit(main())

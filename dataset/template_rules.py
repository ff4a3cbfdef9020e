"""What a template of each family has to hold, and what it may hold."""

from __future__ import annotations

import re
import unicodedata

from utils.protocol.constants import IMAGE_TOKEN, SEG_TOKEN

PLACEHOLDERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "short_question": (("{class_name}",), ()),
    "long_question": (("{sent}",), ()),
    "positive_answer": (("[SEG]",), ("{class_name}",)),
    "denial_answer": ((), ("{class_name}",)),
    "correction_answer": (("{gt_name}",), ("{class_name}",)),
    "long_positive_answer": (("[SEG]",), ("{class_name}",)),
}
"""Family -> what each of its templates must hold (`[SEG]` exactly once), and what it may hold."""

OPTIONAL = ("long_positive_answer",)
"""Families that a file may leave out: ReasonSeg then has the positive answers of the others."""

UNUSED = ("explanatory_question",)
"""Lists that a file may hold and that nothing draws from: the original has one, also unused."""

IMAGE_FIRST = f"{IMAGE_TOKEN}\n"
"""Questions in a file may begin with it; it is added to every question by itself."""

MARKS = re.compile(rf"\{{[^{{}}]*\}}|{re.escape(SEG_TOKEN)}")
"""A placeholder, or `[SEG]`."""


def without_image(template: str, family: str) -> str:
    """A template as it is used: a question without the `<image>` and line feed in front of it."""
    return template.removeprefix(IMAGE_FIRST) if family.endswith("question") else template


def fault(template: str, family: str) -> str:
    """Why a string cannot be a template of a family; "" if it can."""
    text = without_image(template, family)
    if not text.strip():
        return "must hold words"
    found = MARKS.findall(text)
    must, may = PLACEHOLDERS[family]
    if not set(must) <= set(found) <= {*must, *may} or found.count(SEG_TOKEN) > 1:
        allowed = f"must hold {', '.join(must)}" if must else "needs no placeholder"
        allowed += f", may hold {', '.join(may)}" if may else ""
        held = f"holds {', '.join(sorted(found))}" if found else "holds no placeholder"
        return f"{allowed} and no other placeholder, [SEG] only once ({held})"
    if any(sign in MARKS.sub("", text) for sign in "{}"):
        return "must hold no other braces than those of its placeholders"
    if IMAGE_TOKEN in text:
        return f"must hold {IMAGE_TOKEN} at most in front of a question, with a line feed behind it"
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text if sign not in "\n\t"):
        return "must hold no control characters and no halves of characters"
    return ""

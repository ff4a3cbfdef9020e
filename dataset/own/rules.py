"""What the words and paths in one's own data have to look like (docs/own_data.md)."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from dataset.json_files import is_sayable, is_text
from utils.errors import InputError
from utils.protocol.constants import ADDED_TOKENS, IMAGE_TOKEN

HOW = "docs/own_data.md shows the three forms"


def plain_name(name: str, what: str) -> str:
    """A name that is no path.

    Raises:
        InputError: it is empty, or leads to another folder.
    """
    if not name or name.startswith(".") or any(sign in name for sign in "/\\:\0"):
        raise InputError(f"the {what} {name!r}: give a plain name, not a path")
    return name


def inside(given: Any, where: str) -> PurePosixPath:
    """A path that stays below the folder of the data set.

    Raises:
        InputError: it is absolute, has "..", or is no path at all.
    """
    if not isinstance(given, str) or not given or not given.isprintable():
        raise InputError(f"{where}: {given!r} is not the path of an image; {HOW}")
    path = PurePosixPath(given)
    if path.is_absolute() or PureWindowsPath(given).drive or ".." in path.parts or "\\" in given:
        raise InputError(
            f"{where}: the path {given!r} leaves the data set's folder; give one relative to its "
            "images/ folder, without '..' and with '/' between folders"
        )
    return path


def asked(given: Any, where: str) -> str:
    """The text of a question.

    Raises:
        InputError: it is no text, or holds a token that has a meaning of its own in prompts.
    """
    if not isinstance(given, str) or not is_text(given):
        raise InputError(f"{where}: {given!r} is not a sentence or phrase; {HOW}")
    if not is_sayable(given):
        raise InputError(
            f"{where}: {given!r} holds {IMAGE_TOKEN} or another of {', '.join(ADDED_TOKENS)}, "
            "which have a meaning of their own in prompts; reword it"
        )
    return given


def looks_like_sentence(text: str) -> bool:
    """Whether a text is put as it is ("Where is it?"), not as the name of an object."""
    return text.rstrip().endswith((".", "?", "!"))

"""Mistakes of the user, told clearly: the value, the allowed set and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

EXIT_CODE = 2


class InputError(Exception):
    """Something given by the user (a path, a flag, a file's content) cannot be used."""


class InputErrors(InputError):
    """Several mistakes, reported together.

    Args:
        messages: one line each.
    """

    def __init__(self, messages: Sequence[str]):
        self.messages = list(messages)
        super().__init__("\n".join(self.messages))


def first_line(error: BaseException) -> str:
    """The first line of what a library says, or the kind of error if it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]

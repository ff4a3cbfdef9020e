"""Mistakes of the user, told clearly: the value, the allowed set and the remedy."""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable, Sequence

EXIT_CODE = 2
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


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


def cli(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap an entry point: an `InputError` becomes `error: ...` on stderr and exit code 2.

    So does a disk that is full or read-only, wherever it is met.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except InputErrors as error:
            for message in error.messages:
                print(f"error: {message}", file=sys.stderr)
            return EXIT_CODE
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_CODE
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            what = error.filename or "the output"
            print(
                f"error: cannot write {what} ({error.strerror}): make room on that disk, or give "
                "another folder, then start the same command again",
                file=sys.stderr,
            )
            return EXIT_CODE

    return run

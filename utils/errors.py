"""Mistakes of the user, told clearly: the value, the allowed set and the remedy."""

from __future__ import annotations

import errno
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from utils.process.interrupts import interruptible, is_first_rank, tell_interrupted

EXIT_CODE = 2
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
FIRST_RANK_TELLS_S = 10.0
"""Longer than a launcher takes to end the other ranks once the first one has ended."""


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


def let_first_rank_tell() -> None:
    """Wait on every rank but the first, before it tells a mistake or ends because of one.

    If the first rank has made the same mistake, it tells it, and the launcher ends the others
    meanwhile: one message instead of one from each rank.
    """
    if not is_first_rank():
        time.sleep(FIRST_RANK_TELLS_S)


def cli(
    main: Callable[..., int | None] | None = None, *, interrupted: str = ""
) -> Callable[..., Any]:
    """Wrap an entry point (`@cli`, `@cli(interrupted=...)`).

    An `InputError` becomes `error: ...` on stderr and exit code 2, and so does a disk that is full
    or read-only, wherever it is met; Ctrl-C becomes one line and 130.

    Args:
        main: the entry point.
        interrupted: what the line after Ctrl-C says besides: what is kept, how to go on.
    """
    if main is None:
        return functools.partial(cli, interrupted=interrupted)

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        try:
            with interruptible(interrupted):
                return main(*args, **kwargs) or 0
        except InputError as error:
            let_first_rank_tell()
            for message in error.messages if isinstance(error, InputErrors) else [error]:
                print(f"error: {message}", file=sys.stderr)
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
        except KeyboardInterrupt:
            return tell_interrupted(interrupted)

    return run

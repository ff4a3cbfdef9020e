"""Ctrl-C ends a command in one line with exit code 130, also while it is importing."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import popen_fork
from types import FrameType

EXIT_CODE = 130
"""128 + SIGINT."""
FORKING = popen_fork.__file__
AGAIN_S = 0.1


def is_first_rank() -> bool:
    """Whether this process speaks for all that the launcher started."""
    return os.environ.get("RANK", "0") == "0"


def tell_interrupted(hint: str = "") -> int:
    """Print the line (first rank only); returns the exit code.

    Args:
        hint: what is kept and how to go on; "" if there is nothing to say.
    """
    if is_first_rank():
        sys.stdout.flush()
        print(f"\ninterrupted{': ' * bool(hint)}{hint}", file=sys.stderr, flush=True)
    return EXIT_CODE


@contextmanager
def interruptible(hint: str = "") -> Iterator[None]:
    """Until the end of `with`, SIGINT raises KeyboardInterrupt; within an import it ends all.

    Modules that are being imported may swallow a KeyboardInterrupt or turn it into an error of
    their own, and nothing is at work then that could be lost. While a process is forked it would be
    swallowed, too: it comes a moment later. Forked children end without a word. Where SIGINT has
    another handler already, and outside of the main thread, nothing is changed.

    Args:
        hint: see `tell_interrupted`.
    """
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if before is not signal.default_int_handler or not in_main_thread:
        yield
        return
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            os._exit(EXIT_CODE)
        if _within(frame, "<frozen importlib"):
            os._exit(tell_interrupted(hint))
        if _within(frame, FORKING):
            signal.signal(signal.SIGALRM, handle)
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
            return
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _within(frame: FrameType | None, file: str) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(file):
            return True
        frame = frame.f_back
    return False


def ignore_interrupts() -> None:
    """In a worker process: Ctrl-C is for its parent, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

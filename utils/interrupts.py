"""Ctrl-C ends a command in one line with exit code 130, also while it is importing."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130
"""128 + SIGINT."""


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
    their own, and nothing is at work then that could be lost. Where SIGINT has another handler
    already, and outside of the main thread, nothing is changed.

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
        if os.getpid() == process and _importing(frame):
            os._exit(tell_interrupted(hint))
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False

"""A helper process ends with the process that started it, also when that one is killed."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading

PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that a process gets when its parent has died."""


def end_with_parent(_: int | None = None) -> None:
    """In a process of `multiprocessing`: end at once when the parent is gone, however it ended.

    Without it a forked helper waits for ever: it holds both ends of the pipes that it reads from
    and writes to, so it is never told that nobody is at the other end. The pipe watched here is
    closed with the parent, or with the sibling that was forked later and inherited it. The argument
    is a worker's number, which a DataLoader gives to its `worker_init_fn`.
    """
    threading.Thread(target=_follow, name="end with parent", daemon=True).start()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def terminate_with_parent() -> None:
    """In a program that is about to start: SIGTERM, which it may handle, when its parent has died.

    For `subprocess`, whose programs know nothing of each other; what `multiprocessing` starts runs
    `end_with_parent` instead.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

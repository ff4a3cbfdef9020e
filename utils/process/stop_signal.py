"""SIGTERM and SIGUSR1, as a scheduler sends them: noted, so that the training can end in order."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

STOP_CODE = 143
"""Exit code of a training that a signal ended: 128 + SIGTERM."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopSignal:
    """Between `with` and its end the signals are noted instead of ending the process.

    In a forked child they keep their meaning. Outside of the main thread nothing is changed.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.before: dict[int, Any] = {}
        self.process = os.getpid()

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.name is not None

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if os.getpid() != self.process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.name = signal.Signals(number).name


def outlive_the_first() -> None:
    """For a process that loads data: the first SIGTERM and all SIGUSR1 are for its parent.

    A scheduler signals every process of a job. A loader that died at once would take the step at
    work with it; the parent ends its loaders itself.
    """

    def first(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, first)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

"""How long each stage of a computation takes."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

Timer = Callable[[str], AbstractContextManager[None]]
"""Measures what runs inside `with timer("stage"):`; a `Stopwatch`, or `null_timer`."""

_NOTHING = nullcontext()


def null_timer(stage: str) -> AbstractContextManager[None]:
    """Measures nothing and costs nothing; takes the place of a `Stopwatch`."""
    return _NOTHING


class Stopwatch:
    """Adds up the seconds spent in `with timer("stage"):`.

    Args:
        device: what the stages run on; work on a GPU is waited for at both ends of a stage, unless
            another thread than this one measures.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = torch.device(device)
        self._thread = threading.get_ident()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure one stage."""
        self._wait()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            self.seconds[stage] += time.perf_counter() - start

    def _wait(self) -> None:
        if self._device.type == "cuda" and threading.get_ident() == self._thread:
            torch.cuda.synchronize(self._device)

    def shares(self) -> dict[str, float]:
        """Each stage's part of the sum of all stages, largest first."""
        total = sum(self.seconds.values())
        ordered = sorted(self.seconds.items(), key=lambda pair: -pair[1])
        return {stage: seconds / total for stage, seconds in ordered} if total else {}

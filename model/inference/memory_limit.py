"""Running out of memory: how it shows, and what it has taught."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class MemoryLimit:
    """What running out of memory has taught: the rows that fit, and whether it was told."""

    rows: int | None = None
    told: bool = False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, on a GPU or a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return any(sign in text for sign in ("out of memory", "can't allocate memory", "ALLOC_FAILED"))

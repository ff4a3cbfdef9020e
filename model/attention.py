"""Which attention the language model computes, chosen for one forward at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedConfig

ATTENTION_LOCK = threading.RLock()
"""Held by a forward of the language model, since its attention is a setting of the whole model."""


@contextmanager
def attention_by(config: PreTrainedConfig, name: str) -> Iterator[None]:
    """Inside, the model of this configuration attends by that implementation; one thread a time."""
    with ATTENTION_LOCK:
        usual = config._attn_implementation
        config._attn_implementation = name
        try:
            yield
        finally:
            config._attn_implementation = usual

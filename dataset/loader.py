"""The training data in the order of the steps: a function of (seed, step, rank) alone.

Micro step m of rank r takes the samples with numbers `(m * world_size + r) * batch_size + j`. A run
that is resumed at step s starts at the micro step where s began, and sees what it would have seen.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from utils.errors import InputError
from utils.process.parent_process import end_with_parent
from utils.process.stop_signal import outlive_the_first
from utils.protocol.batch import Batch, MicroBatch, Sample

ATTEMPT_STRIDE = 1 << 40
"""Distance between the number of a sample and those taken in its place if it is broken."""
MOST_ATTEMPTS = 20


class SampleSource(Protocol):
    """A training set: sample number `index` depends on its seed and `index` only."""

    def sample(self, index: int) -> Sample: ...


class _ReplacingDataset(Dataset):
    """Sample by number; a broken one is replaced by another one, and its message kept."""

    def __init__(self, source: SampleSource):
        self.source = source

    def __getitem__(self, index: int) -> tuple[Sample, list[str]]:
        broken: list[str] = []
        for attempt in range(MOST_ATTEMPTS):
            try:
                return self.source.sample(index + attempt * ATTEMPT_STRIDE), broken
            except InputError as error:
                broken.append(str(error))
        raise InputError(
            f"{MOST_ATTEMPTS} draws in a row could not be read, the last one: {broken[-1]}"
        )


@dataclass
class _Collate:
    collate: Callable[[list[Sample]], Batch]

    def __call__(self, items: list[tuple[Sample, list[str]]]) -> MicroBatch:
        broken = [message for _, messages in items for message in messages]
        batch = self.collate([sample for sample, _ in items])
        return MicroBatch(batch, len(items) + len(broken), broken)


@dataclass
class _BatchSampler:
    """Sample numbers of each micro step of one rank."""

    first: int
    last: int
    batch_size: int
    rank: int
    world_size: int

    def __iter__(self) -> Iterator[list[int]]:
        for micro in range(self.first, self.last):
            start = (micro * self.world_size + self.rank) * self.batch_size
            yield list(range(start, start + self.batch_size))

    def __len__(self) -> int:
        return max(0, self.last - self.first)


def micro_batches(
    source: SampleSource,
    collate: Callable[[list[Sample]], Batch],
    *,
    micro_steps: tuple[int, int],
    batch_size: int,
    rank: int,
    world_size: int,
    workers: int,
    pin: bool = False,
) -> Iterator[MicroBatch]:
    """The micro steps from the first up to, not including, the last.

    Args:
        source: the training set.
        collate: samples to a batch; runs in the workers, so it has to be picklable.
        micro_steps: (first, last), counted from the start of the whole training.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    loader: DataLoader[Any] = DataLoader(
        _ReplacingDataset(source),
        batch_sampler=_BatchSampler(*micro_steps, batch_size, rank, world_size),
        num_workers=workers,
        collate_fn=_Collate(collate),
        pin_memory=pin,
        worker_init_fn=_begin_worker,
    )
    return iter(loader)


def _begin_worker(_: int) -> None:
    """Requests to stop are for the main process, which ends its workers; they end with it."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    outlive_the_first()
    torch.set_num_threads(1)

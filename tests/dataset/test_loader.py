"""The order of the data depends on (step, rank) alone; broken samples are replaced and told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dataset.loader import micro_batches
from utils.errors import InputError
from utils.protocol.batch import Batch, Sample


class Numbers:
    """Sample number n is named n; those in `broken` cannot be read."""

    def __init__(self, broken=()):
        self.broken = set(broken)

    def sample(self, index: int) -> Sample:
        if index in self.broken:
            raise InputError(f"cannot read image {index}")
        return Sample(str(index), np.zeros((1, 1, 3), np.uint8), [], np.zeros((0, 1, 1)), [])


class AllBroken:
    def sample(self, index: int) -> Sample:
        raise InputError(f"cannot read image {index}")


def names_only(samples: list[Sample]) -> Batch:
    empty = torch.zeros(0)
    return Batch(empty, empty, empty, empty, [], [], image_paths=[s.image_path for s in samples])


def order(first: int, last: int, rank: int, world: int, workers: int = 0, source=None):
    found = micro_batches(
        source or Numbers(), names_only, micro_steps=(first, last), batch_size=2,
        rank=rank, world_size=world, workers=workers,
    )  # fmt: skip
    return list(found)


def test_ranks_share_the_numbers_and_resuming_changes_nothing():
    ranks = [[d.batch.image_paths for d in order(0, 6, rank, 2)] for rank in (0, 1)]
    flat = [name for pair in zip(*ranks, strict=True) for part in pair for name in part]
    assert flat == [str(number) for number in range(24)]
    for rank in (0, 1):
        resumed = [d.batch.image_paths for d in order(4, 6, rank, 2)]
        assert resumed == ranks[rank][4:]


def test_workers_change_nothing():
    alone = [d.batch.image_paths for d in order(0, 5, 0, 1)]
    assert [d.batch.image_paths for d in order(0, 5, 0, 1, workers=2)] == alone


def test_a_broken_sample_is_replaced_and_told():
    first, second = order(0, 2, 0, 1, source=Numbers(broken=[1]))
    assert (first.tried, first.broken) == (3, ["cannot read image 1"])
    assert (second.tried, second.broken) == (2, [])
    assert len(first.batch.image_paths) == 2


def test_when_nothing_can_be_read():
    with pytest.raises(InputError, match="20 draws in a row"):
        order(0, 1, 0, 1, source=AllBroken())

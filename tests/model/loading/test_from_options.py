"""What the command line hands to `load_read`."""

from __future__ import annotations

import pytest
import torch

from model.loading import from_options
from utils.cli.options import DemoOptions, TestOptions


class Stop(Exception):
    """The model would be loaded now."""


@pytest.fixture
def device_of(monkeypatch):
    """A function from options to the device that reaches `load_read` on a machine with 4 GPUs."""
    seen = []

    def load(*_, device, **__):
        seen.append(torch.device(device))
        raise Stop

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(from_options, "load_read", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)

    def find(options):
        with pytest.raises(Stop):
            from_options.load_from_options(options)
        return seen.pop()

    return find


def test_ranks_of_torchrun_load_on_gpus_of_their_own(device_of, monkeypatch):
    """It sets LOCAL_RANK and gives no flag."""
    for rank in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert device_of(TestOptions()) == torch.device("cuda", rank)


def test_processes_by_hand_load_on_gpus_of_their_own(device_of):
    found = [device_of(TestOptions(process_num=n, world_size=4)) for n in range(4)]
    assert found == [torch.device("cuda", n) for n in range(4)]
    assert device_of(TestOptions(local_rank=2, process_num=1, world_size=4)).index == 2


def test_the_demo_takes_the_gpu_of_its_flag(device_of):
    assert device_of(DemoOptions(local_rank=3)) == torch.device("cuda", 3)
    assert device_of(DemoOptions()) == torch.device("cuda", 0)

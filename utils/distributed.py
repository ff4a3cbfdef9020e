"""Several processes that train together: starting them, agreeing, and gathering what they found."""

from __future__ import annotations

import atexit
import datetime
import os
import socket
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed

from utils.errors import EXIT_CODE

LONGEST_WAIT = datetime.timedelta(hours=2)
"""A rank may validate or save this long while the others wait."""


@dataclass(frozen=True)
class Process:
    """This process among all ranks.

    Args:
        rank, world: its number and how many there are.
        device: where it computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Sums over all ranks; every rank has to call it."""
        numbers = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world > 1:
            torch.distributed.all_reduce(numbers)
        return numbers.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in their order; every rank has to call it."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def wait_for_all(self) -> None:
        """Go on when every rank has come here."""
        self.total(0.0)


def stop_together(process: Process, message: str) -> None:
    """End all ranks with one message; every rank has to call it.

    Raises:
        SystemExit: on every rank, after rank 0 has told.
    """
    if process.is_first:
        print(f"error: {message}", file=sys.stderr, flush=True)
    process.wait_for_all()
    raise SystemExit(EXIT_CODE)


def start(local_rank: int) -> Process:
    """Join the ranks that the launcher started (`deepspeed`, `torchrun`), or be the only one.

    A process joins once and leaves when it ends: DeepSpeed keeps groups that do not survive more.

    Args:
        local_rank: number on this machine as given by flag; the launcher's LOCAL_RANK wins.
    """
    import deepspeed

    local = int(os.environ.setdefault("LOCAL_RANK", str(max(local_rank, 0))))
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local)
    else:
        _use_gloo_alone(deepspeed)
    if not torch.distributed.is_initialized():
        deepspeed.init_distributed(
            "nccl" if on_gpu else "gloo",
            verbose=False,
            timeout=LONGEST_WAIT,
            auto_mpi_discovery=False,
        )
        atexit.register(_leave)
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    return Process(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def lost_a_rank(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank is gone."""
    said = str(error)
    return any(
        word in said for word in ("closed by peer", "reset by peer", "remote process exited")
    )


def _use_gloo_alone(deepspeed: Any) -> None:
    """Keep DeepSpeed from compiling its shared-memory reduction: gloo does, without a compiler."""
    compatible = getattr(deepspeed.ops, "__compatible_ops__", {})
    if "deepspeed_shm_comm" in compatible:
        compatible["deepspeed_shm_comm"] = False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

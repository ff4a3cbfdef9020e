"""Several processes that train together: starting them, agreeing, and gathering what they found."""

from __future__ import annotations

import atexit
import datetime
import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed

from utils.errors import EXIT_CODE, InputError
from utils.process.free_port import free_port

LONGEST_WAIT = datetime.timedelta(hours=2)
"""A rank may validate or save this long while the others wait."""

OF_A_LOST_RANK = (
    "closed by peer",
    "closed by remote peer",
    "reset by peer",
    "connection was likely closed",
    "broken pipe",
    "remote process exit",  # NCCL says "exited" or "exiting"
    "nccl communicator was aborted",
    "watchdog caught collective operation timeout",
    "nccl operation timed out",
    "timed out in blocking wait",
    "timed out waiting",
    "application timeout caused pair closure",
    "retrieving nccluniqueid",
)
"""What gloo, NCCL and the store of the ranks say, in lower case, when another rank is gone."""


@dataclass(frozen=True)
class Process:
    """This process among all ranks.

    Args:
        rank, world_size: its number and how many there are.
        device: where it computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def all_reduce_sum(self, *values: float) -> list[float]:
        """Sums over all ranks; every rank has to call it."""
        numbers = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world_size > 1:
            torch.distributed.all_reduce(numbers)
        return numbers.tolist()

    def all_gather(self, value: Any) -> list[Any]:
        """The value of every rank, in their order; every rank has to call it."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Go on when every rank has come here."""
        self.all_reduce_sum(0.0)


def abort_all_ranks(process: Process, message: str) -> None:
    """End all ranks with one message; every rank has to call it.

    Raises:
        SystemExit: on every rank, after rank 0 has told.
    """
    if process.is_first:
        print(f"error: {message}", file=sys.stderr, flush=True)
    process.barrier()
    raise SystemExit(EXIT_CODE)


def own_device(local_rank: int, process_num: int = 0) -> torch.device:
    """Where this process computes: a GPU of its own, which becomes the current one, or the CPU.

    Args:
        local_rank: `--local_rank`: the GPU to use where no launcher tells it by LOCAL_RANK, as
            `torchrun` and `deepspeed` do.
        process_num: number among processes that were started by hand. With `--local_rank` left at
            0 they take the GPUs in turn.

    Raises:
        InputError: there is no such GPU.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    launched = os.environ.get("LOCAL_RANK")
    number = int(launched) if launched else max(local_rank, 0) or process_num % count
    if number >= count:
        given = f"LOCAL_RANK={number}" if launched else f"--local_rank={number}"
        raise InputError(
            f"{given}: PyTorch sees {count} GPU{'s' * (count > 1)} here, numbered from 0; start at "
            f"most {count} processes on this machine (--nproc_per_node of torchrun, --include of "
            "deepspeed), or show more GPUs (CUDA_VISIBLE_DEVICES)"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def start(local_rank: int) -> Process:
    """Join the ranks that the launcher started (`deepspeed`, `torchrun`), or be the only one.

    A process joins once and leaves when it ends: DeepSpeed keeps groups that do not survive more.

    Args:
        local_rank: number on this machine as given by flag; the launcher's LOCAL_RANK wins.

    Raises:
        InputError: there are fewer GPUs than ranks on this machine.
    """
    import deepspeed

    device = own_device(local_rank)
    os.environ.setdefault("LOCAL_RANK", str(max(local_rank, 0)))
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(free_port()))
    on_gpu = device.type == "cuda"
    if not on_gpu:
        _use_gloo_alone(deepspeed)
    if not torch.distributed.is_initialized():
        deepspeed.init_distributed(
            "nccl" if on_gpu else "gloo",
            verbose=False,
            timeout=LONGEST_WAIT,
            auto_mpi_discovery=False,
        )
        atexit.register(_leave)
    return Process(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def lost_a_rank(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank is gone."""
    message = str(error).lower()
    return any(words in message for words in OF_A_LOST_RANK)


def _use_gloo_alone(deepspeed: Any) -> None:
    """Keep DeepSpeed from compiling its shared-memory reduction: gloo does, without a compiler."""
    compatible = getattr(deepspeed.ops, "__compatible_ops__", {})
    if "deepspeed_shm_comm" in compatible:
        compatible["deepspeed_shm_comm"] = False

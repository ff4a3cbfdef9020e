"""Which GPU a process takes, and by which words a lost rank is recognised."""

from __future__ import annotations

import pytest
import torch

from utils.errors import InputError
from utils.training import distributed
from utils.training.distributed import lost_a_rank, own_device

FROM_NCCL = [
    # torch and NCCL, `getNcclErrorDetailedMessage` and `ncclGetErrorString`
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, remote process "
    "exited or there was a network error, NCCL version 2.27.5\nncclRemoteError: A call failed "
    "possibly due to a network error or a remote process exiting prematurely.\nLast error:\n"
    "socketProgress: Connection closed by remote peer node7<41234>",
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting "
    "prematurely.",
    "NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)\nLast error:\n"
    "socketProgress: Connection closed by remote peer localhost<51234>",
    "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=41, OpType=ALLREDUCE, "
    "NumelIn=1, NumelOut=1, Timeout(ms)=7200000) ran for 7200012 milliseconds before timing out.",
    "NCCL communicator was aborted on rank 0. ",
    "NCCL communicator was aborted on rank 3.  Original reason for failure was: [Rank 3] Work "
    "WorkNCCL(SeqNum=9, OpType=BROADCAST) timed out in blocking wait.",
    "[1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value "
    "store by key '0', but store->get('0') got error: Socket Timeout",
]
FROM_OTHERS = [
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:546] Connection closed by peer "
    "[127.0.0.1]:29876",
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:525] Read error [127.0.0.1]:2912: "
    "Connection reset by peer",
    "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting "
    "7200000ms for recv operation to complete",
    "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or "
    "crash?",
]
OF_THIS_RANK = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB",
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, invalid usage (run with "
    "NCCL_DEBUG=WARN for details), NCCL version 2.27.5\nncclInvalidUsage: This usually reflects "
    "invalid usage of NCCL library.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0",
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    "DataLoader worker (pid 71) exited unexpectedly with exit code 1.",
]


@pytest.mark.parametrize("said", FROM_NCCL + FROM_OTHERS)
def test_a_lost_rank_is_recognised(said):
    assert lost_a_rank(RuntimeError(said))


@pytest.mark.parametrize("said", OF_THIS_RANK)
def test_a_mistake_of_this_rank_is_not_blamed_on_another(said):
    assert not lost_a_rank(RuntimeError(said))


@pytest.fixture
def gpus(monkeypatch):
    """A function that makes PyTorch see so many GPUs; it returns the list of those made current.

    DeepSpeed is imported before: it looks for GPUs once and would believe in these ever after.
    """
    import deepspeed  # noqa: F401

    monkeypatch.delenv("LOCAL_RANK", raising=False)

    def show(count: int) -> list[int]:
        current: list[int] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        return current

    return show


@pytest.mark.parametrize(
    ("launched", "local_rank", "process_num", "expected"),
    [
        ("1", 0, 0, 1),  # torchrun
        ("3", 3, 0, 3),  # deepspeed gives both
        ("2", 0, 1, 2),
        (None, 0, 0, 0),
        (None, 2, 0, 2),
        (None, 2, 3, 2),  # the flag says which
        (None, 0, 3, 3),
        (None, 0, 5, 1),  # more processes than GPUs, by hand: in turn
    ],
)
def test_each_process_takes_its_gpu(gpus, monkeypatch, launched, local_rank, process_num, expected):
    current = gpus(4)
    if launched is not None:
        monkeypatch.setenv("LOCAL_RANK", launched)
    assert own_device(local_rank, process_num) == torch.device("cuda", expected)
    assert current == [expected]


def test_without_a_gpu_it_is_the_cpu(gpus, monkeypatch):
    assert gpus(0) == []
    monkeypatch.setenv("LOCAL_RANK", "7")
    assert own_device(0, 3) == torch.device("cpu")


@pytest.mark.parametrize(("launched", "flag"), [("2", 0), (None, 2)])
def test_more_ranks_than_gpus(gpus, monkeypatch, launched, flag):
    current = gpus(2)
    if launched is not None:
        monkeypatch.setenv("LOCAL_RANK", launched)
    with pytest.raises(InputError, match=r"=2: PyTorch sees 2 GPUs here.* at most 2 processes"):
        own_device(flag)
    assert not current


def test_training_joins_on_the_same_device(gpus, monkeypatch):
    """More ranks than GPUs end before the ranks meet."""
    gpus(1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("deepspeed.init_distributed", lambda *_, **__: pytest.fail("joined"))
    with pytest.raises(InputError, match="LOCAL_RANK=1"):
        distributed.start(0)

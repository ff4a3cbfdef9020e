"""Free memory: of the system, of control groups, of a GPU."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from model.loading import free_memory as module
from model.loading.free_memory import check_free, free_memory, left_in_groups
from utils.errors import InputError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def write_group(folder: Path, limit: object, used: int, cached: int, first: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if first else (
        "memory.max", "memory.current"
    )  # fmt: skip
    total = "total_" if first else ""
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(
        f"anon 5\n{total}inactive_file {cached}\n{total}active_file 2\nother 1\n"
    )


@pytest.fixture
def own(tmp_path):
    """A function that writes what /proc/self/cgroup says."""

    def write(text: str) -> Path:
        (tmp_path / "cgroup").write_text(text)
        return tmp_path / "cgroup"

    return write


def test_groups_of_today(tmp_path, own):
    """Also those above; cached files can be dropped, so they count as free."""
    root = tmp_path / "fs"
    write_group(root / "jobs", 1000, 700, 100)
    write_group(root / "jobs" / "mine", "max", 600, 100)
    write_group(root / "jobs" / "mine" / "step", 900, 500, 30)
    write_group(root / "other", 1, 1, 0)
    assert left_in_groups(own("0::/jobs/mine/step\n"), root) == [900 - 500 + 32, 1000 - 700 + 102]


def test_groups_of_old_systems(tmp_path, own):
    """In a container the path is that of the host, and only its root is mounted."""
    root = tmp_path / "fs"
    write_group(root / "memory", 800, 300, 50, first=True)
    write_group(root / "cpu", 1, 1, 0, first=True)
    text = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/docker/abc\n"
    assert left_in_groups(own(text), root) == [800 - 300 + 52]


def test_without_groups(tmp_path, own):
    assert left_in_groups(tmp_path / "nothing", tmp_path) == []
    assert left_in_groups(own("0::/\n"), tmp_path / "nothing") == []


def test_a_group_over_its_limit_has_nothing_left(tmp_path, own):
    write_group(tmp_path / "fs", 100, 500, 3)
    assert left_in_groups(own("0::/\n"), tmp_path / "fs") == [0]


def test_of_a_cpu(monkeypatch):
    monkeypatch.setattr(module, "left_in_groups", list)
    lines = Path("/proc/meminfo").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    told = 1024 * (kilobytes["MemAvailable"] + kilobytes["SwapFree"])
    assert free_memory(CPU) == pytest.approx(told, rel=0.2)
    monkeypatch.setattr(module, "left_in_groups", lambda: [7000, 5000])
    assert free_memory(CPU) == 5000


def test_swap_counts(monkeypatch):
    """Slow is not killed."""
    monkeypatch.setattr(module, "left_in_groups", list)
    before = free_memory(CPU)
    swap = psutil.swap_memory()._replace(free=10**12)
    monkeypatch.setattr(psutil, "swap_memory", lambda: swap)
    assert free_memory(CPU) > before + 0.9 * 10**12


def test_of_a_gpu(monkeypatch):
    """What PyTorch keeps without using it is free for this process."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 400)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 150)
    assert free_memory(GPU) == 1250


def test_other_devices_do_not_tell():
    assert free_memory(torch.device("meta")) is None
    check_free(1e15, torch.device("meta"), "it", "do something")


def test_both_numbers_and_the_remedy(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda device: 24_000_000_000)
    check_free(24e9, CPU, "it", "do something")
    with pytest.raises(InputError, match=r"^it needs 29\.7 GB of memory, and 24\.0 GB are free on"
                       " cpu: do something$"):  # fmt: skip
        check_free(29.7e9, CPU, "it", "do something")
    with pytest.raises(InputError, match=r"29\.7 GB of GPU memory, .* free on cuda:0"):
        check_free(29.7e9, GPU, "it", "do something")

"""How much memory is free on a device, and checks before it is taken."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from model.loading.meta_model import clip_model
from model.loading.quantization import bytes_per_weight
from model.read_model import ReadForCausalLM
from utils.errors import InputError

GB = 1e9


@dataclass(frozen=True)
class GroupFiles:
    """How a version of Linux' control groups names what we need.

    Args:
        limit, used: files with one number each, or "max".
        cached: lines of memory.stat with cached files, which count as used and can be dropped.
    """

    limit: str
    used: str
    cached: tuple[str, ...]


FIRST = GroupFiles(
    "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
)
SECOND = GroupFiles("memory.max", "memory.current", ("inactive_file", "active_file"))


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still take; None for a device that does not tell.

    On a GPU: what the driver has left, and what PyTorch keeps without using it. On a CPU: what the
    system can give, swap included, and no more than the control groups of this process (those of a
    container, of a job) allow.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    system = psutil.virtual_memory().available + psutil.swap_memory().free
    return min([system, *left_in_groups()])


def check_free(needed: float, device: torch.device, what: str, remedy: str) -> None:
    """Raise an error if so many bytes cannot be had; else the kernel kills without a word.

    Args:
        needed: bytes.
        device: where.
        what: what needs them.
        remedy: how to go on.

    Raises:
        InputError: names what is needed and what is free.
    """
    free = free_memory(device)
    if free is None or needed <= free:
        return
    where = "GPU memory" if device.type == "cuda" else "memory"
    raise InputError(
        f"{what} needs {needed / GB:.1f} GB of {where}, and {free / GB:.1f} GB are free on "
        f"{device}: {remedy}"
    )


def check_memory(
    path: str | Path,
    model: ReadForCausalLM,
    files: list[Path],
    tower: str | Path,
    device: torch.device,
    bits: int | None = None,
    half_helps: bool = True,
) -> None:
    """Compare what loading takes with what is free.

    Args:
        path: folder or hub id, for the message.
        model: of `model.loading.weights.empty_model`, in the dtype it will have.
        files: its weights.
        tower: CLIP's folder or name.
        device: where the model goes.
        bits: 4 or 8 for a quantised language model.
        half_helps: whether the caller could ask for a 16-bit dtype instead.

    Raises:
        InputError: it does not fit; the message names both numbers and the remedy.
    """

    def needs(width: int = model.dtype.itemsize, bits: int | None = bits) -> float:
        return weight_bytes(model, clip, width, bits)

    try:
        clip = clip_model(str(tower)).num_parameters()
    except InputError:  # its size is unknown; loading it will tell
        clip = 0
    held = largest_unmapped(files)
    ways = []
    if bits is None and model.dtype.itemsize > 2 and half_helps:
        half = (needs(width=2) + held) / GB
        ways.append(f'dtype="bf16" (--precision bf16) needs {half:.1f} GB')
    if bits is None and device.type == "cuda":
        ways.append(f"4 bits (--load_in_4bit) need {needs(width=2, bits=4) / GB:.1f} GB")
    elif bits == 8:
        ways.append(f"--load_in_4bit needs {needs(bits=4) / GB:.1f} GB")
    ways.append("otherwise end other programs, or take a smaller model or a larger machine")
    name = str(model.dtype).removeprefix("torch.")
    what = f"{path} in {f'{bits} bits' if bits else name}"
    if device.type == "cpu":
        check_free(needs() + held, device, what, "; ".join(ways))
        return
    if held:
        what_held = f"{what}, whose files have an old format,"
        check_free(held, torch.device("cpu"), what_held, ways[-1])
    check_free(needs(), device, what, "; ".join(ways))


def weight_bytes(model: ReadForCausalLM, clip: int, width: int, bits: int | None = None) -> float:
    """Bytes of all weights.

    Args:
        model: on any device, without its CLIP tower.
        clip: parameters of that.
        width: bytes of a number that is not quantised.
        bits: 4 or 8 if the language model's linear layers are quantised.
    """
    return width * clip + sum(
        value.numel() * bytes_per_weight(name, value, width, bits)
        for name, value in model.state_dict().items()
    )


def largest_unmapped(files: list[Path]) -> int:
    """Bytes of the largest weight file that has to be read whole: one of PyTorch before 1.6."""
    whole = [f for f in files if f.suffix != ".safetensors" and not zipfile.is_zipfile(f)]
    return max((file.stat().st_size for file in whole), default=0)


def left_in_groups(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Bytes that each control group of this process, and each above it, still allows.

    Args:
        own: file that names the groups, one a line: number:controllers:path.
        root: where they are mounted.
    """
    found = []
    for folder, files in _groups(own, root):
        try:
            limit = int((folder / files.limit).read_text())
            used = int((folder / files.used).read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # no such file, or no limit: "max"
            continue
        counts = dict(line.split()[:2] for line in lines)
        cached = sum(int(counts.get(name, 0)) for name in files.cached)
        found.append(max(0, limit - used + cached))
    return found


def _groups(own: Path, root: Path) -> Iterator[tuple[Path, GroupFiles]]:
    """Folders of the groups that may limit memory, from the innermost to the mount point.

    In a container the path may be that of the host, of which only the mount point is seen.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, files = (root / "memory", FIRST) if controllers else (root, SECOND)
        inner = top / path.lstrip("/")
        for folder in (inner, *inner.parents):
            yield folder, files
            if folder == top:
                break

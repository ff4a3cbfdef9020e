"""Start training or evaluation once for each GPU of this machine, and end as one command.

    python launch.py [--num_gpus N | --include localhost:0,1] [--master_port P] ENTRY.py FLAGS...

Does what `torchrun --standalone` does, with these differences: the flags are checked before
anything starts, nothing but the ranks' own lines is printed, Ctrl-C and SIGTERM reach each rank
once, a rank may take the time it needs to save, and the exit code is that of the first rank that
failed. GPUs of several machines (`--hostfile`, `--include HOST:0,1@HOST:0`) are left to DeepSpeed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from dataset import flag_checks
from utils.cli import parser
from utils.cli.entry_point import cli
from utils.cli.options import TestOptions, TrainOptions
from utils.errors import InputError
from utils.hub.models import check_models
from utils.process.free_port import free_port
from utils.process.interrupts import EXIT_CODE as INTERRUPTED
from utils.process.parent_process import terminate_with_parent

ENTRIES: dict[str, tuple[type, parser.Check, str]] = {
    "train_read.py": (TrainOptions, flag_checks.training_flags, "version"),
    "test_read.py": (TestOptions, flag_checks.evaluation_flags, "pretrained_model_path"),
}
"""Name -> its options, the check of its data, and the flag that names the model."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
GRACE_S = 30.0
"""What the other ranks get to end in, once one has failed."""
POLL_S = 0.1


def local_gpus(include: str) -> str | None:
    """ "0,1" of "localhost:0,1", "" of "localhost" (all of them), None for other machines.

    Raises:
        InputError: it is no `--include` of DeepSpeed.
    """
    nodes, form = include.split("@"), re.compile(r"[A-Za-z0-9][\w.-]*(:\d+(,\d+)*)?")
    for node in nodes:
        gpus = node.partition(":")[2].split(",")
        if not form.fullmatch(node) or len(set(gpus)) < len(gpus):
            raise InputError(
                f"{include!r} names no GPUs: give their number, such as 8, or HOST:GPU,GPU with @ "
                "between machines and each GPU once, such as localhost:0,1"
            )
    host, _, listed = nodes[0].partition(":")
    return listed if len(nodes) == 1 and host in ("localhost", "127.0.0.1") else None


class Ranks:
    """The processes of one launch.

    Args:
        command: what each of them runs.
        count: how many there are.
        port: where they meet; 0: a free one.
        gpus: numbers of the GPUs to use; "": those that are visible.
    """

    def __init__(self, command: list[str], count: int, port: int, gpus: str):
        environment = {
            **os.environ,
            **({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}),
            "OMP_NUM_THREADS": os.environ.get(
                "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count))
            ),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port or free_port()),
        }
        self.signalled: int | None = None
        self.processes: list[subprocess.Popen] = []
        for number in FORWARDED:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._forward)
        # In a session of their own: the terminal's Ctrl-C reaches them through `_forward` alone.
        for rank in range(count):
            self.processes.append(
                subprocess.Popen(
                    command,
                    env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    start_new_session=True,
                    preexec_fn=terminate_with_parent,
                )
            )
        if self.signalled is not None:  # while not all of them were there
            self._send(self.signalled)

    def wait(self) -> int:
        """Until all have ended; returns the exit code of the first that failed, else 0."""
        failed: int | None = None
        deadline = float("inf")
        while None in (codes := [process.poll() for process in self.processes]):
            if failed is None and self.signalled is None:
                failed = next((rank for rank, code in enumerate(codes) if code), None)
                if failed is not None:
                    deadline = time.monotonic() + GRACE_S
                    self._send(signal.SIGTERM)
            if time.monotonic() > deadline:
                self._send(signal.SIGKILL)
            time.sleep(POLL_S)
        if self.signalled == signal.SIGINT:
            return INTERRUPTED
        ended = [process.wait() for process in self.processes]
        if failed is None:
            failed = next((rank for rank, code in enumerate(ended) if code), 0)
        code = ended[failed]
        if code >= 0:
            return code
        if self.signalled is None:
            print(
                f"error: process {failed} of {len(ended)} was ended by {signal.Signals(-code).name}"
                + ("; was there enough memory?" if -code == signal.SIGKILL else ""),
                file=sys.stderr,
            )
        return 128 - code

    def _send(self, number: int) -> None:
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)

    def _forward(self, number: int, _: FrameType | None) -> None:
        """A second Ctrl-C ends them at once."""
        again = self.signalled == number == signal.SIGINT
        self.signalled = number
        # Losing the terminal asks for the same as a scheduler does.
        asked = signal.SIGTERM if number == signal.SIGHUP else number
        self._send(signal.SIGKILL if again else asked)


def visible_gpus() -> int:
    """How many GPUs PyTorch sees; 1 where there is none."""
    import torch

    return torch.cuda.device_count() or 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="launch.py",
        description="Start training or evaluation once for each GPU.",
        allow_abbrev=False,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--num_gpus", metavar="N", help="processes (default: one for each GPU)")
    where.add_argument("--include", metavar="HOST:GPU,...", help="GPUs, as deepspeed --include")
    parser.add_argument("--hostfile", metavar="FILE", help="machines, as deepspeed --hostfile")
    parser.add_argument(
        "--master_port", type=int, default=0, help="where the processes meet (default: a free one)"
    )
    parser.add_argument("entry", metavar="ENTRY.py", help=" or ".join(ENTRIES))
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="of the entry point")
    return parser


@cli
def main(argv: list[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    name = Path(given.entry).name
    if name not in ENTRIES:
        raise InputError(f"{given.entry} is not started by launch.py: give {' or '.join(ENTRIES)}")
    if given.num_gpus is not None and not re.fullmatch(r"0*[1-9]\d*", given.num_gpus):
        raise InputError(f"--num_gpus={given.num_gpus}: give a whole number above 0")
    gpus = local_gpus(given.include) if given.include else ""
    own = gpus is not None and given.hostfile is None
    launcher = ["deepspeed"] if not own else [sys.executable, __file__]
    for flag in ("num_gpus", "include", "hostfile", "master_port"):
        if value := getattr(given, flag):
            launcher += [f"--{flag}", str(value)]
    command = [given.entry, *given.flags]
    if "--dry_run" in given.flags:
        print(f"would run: {shlex.join([*launcher, *command])}\n", flush=True)
    kind, check, model = ENTRIES[name]
    options: Any = parser.parse(kind, given.flags, checks=[check], prog=name, show=False)
    check_models(getattr(options, model), options.vision_tower)
    if not own:
        os.execvp(launcher[0], [*launcher, *command])
    count = int(given.num_gpus) if given.num_gpus else len(gpus.split(",")) if gpus else 0
    ranks = Ranks(
        [sys.executable, "-u", *command], count or visible_gpus(), given.master_port, gpus or ""
    )
    return ranks.wait()


if __name__ == "__main__":
    sys.exit(main())

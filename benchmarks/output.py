"""What benchmarks share: dtypes, a process for each side, Markdown tables, the files of results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from utils.files import write_file, write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def device_name(device: str) -> str:
    """The GPU, or "CPU"."""
    return torch.cuda.get_device_name() if torch.device(device).type == "cuda" else "CPU"


def cpu_name(threads: int | None = None) -> str:
    """The machine of a measurement on the CPU."""
    return f"{platform.machine()}, CPU only, threads: {threads or torch.get_num_threads()}"


def in_a_process(module: str, *flags: Any, threads: int = 1) -> Any:
    """Run `python -m MODULE FLAGS` and read the last line that it prints, which is JSON."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, flags)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(*parts: str) -> str:
    """Parts of a page in Markdown, an empty line between them."""
    return "\n\n".join(parts) + "\n"


def save(out: Path | None, name: str, text: str, result: Any = None) -> None:
    """Print a page; with a folder, write it there as `NAME.md`, and the numbers as `NAME.json`."""
    print(text)
    if out is not None:
        write_file(out / f"{name}.md", text)
        if result is not None:
            write_json(out / f"{name}.json", result)


def kept(problems: Sequence[str]) -> bool:
    """Whether all promises are kept; prints the problems."""
    for problem in problems:
        print(problem, file=sys.stderr)
    return not problems

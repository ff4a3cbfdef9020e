"""`python -m utils.memory CONFIG [--gpus N ...]`: the GPU memory of a training, computed.

The formulas stand in `model.loading.memory`, which is imported once the flags are read.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from utils.cli.entry_point import cli
from utils.cli.options import TrainOptions
from utils.cli.parser import load
from utils.errors import InputError

GPU_COUNTS = (1, 2, 4, 8)


@cli
def main(argv: list[str] | None = None) -> int:
    """Entry point; exit code 2 on mistakes of the user."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.memory", description="Memory that a training needs, computed."
    )
    parser.add_argument("config", help="a preset of configs/, or config.yaml of a run")
    parser.add_argument(
        "--gpus", type=int, nargs="+", default=list(GPU_COUNTS), help="numbers of GPUs"
    )
    given = parser.parse_args(argv)
    if min(given.gpus) < 1:
        raise InputError(f"--gpus {min(given.gpus)}: give 1 or more")
    options = load(TrainOptions, given.config)
    print(import_module("model.loading.memory").describe(options, given.gpus))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A run that is continued: what has to stay as it was, and what is told when it changes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.cli import parser
from utils.cli.differences import Difference, differences
from utils.cli.options import TrainOptions
from utils.errors import InputErrors

CONFIG_FILE = "config.yaml"
KEPT = (
    "version", "vision_tower", "vision_pretrained", "use_released_param", "sam", "image_size",
    "out_dim", "lora_r", "lora_alpha", "lora_target_modules", "train_mask_decoder", "precision",
)  # fmt: skip
"""What must not change when a run is continued: its checkpoints would not fit."""
KEPT_IN_TRAINING = (*KEPT, "zero_stage")
"""The same where the optimiser's state is needed, too."""
OF_A_START = ("log_base_dir", "exp_name", "resume", "auto_resume", "eval_only", "local_rank")
"""What says where a run lies and how it is started, not how it trains."""
WITHOUT_EFFECT = {"start_epoch": "the checkpoint says where the run stands"}


def changes(options: TrainOptions, saved_file: Path) -> list[Difference]:
    """What differs from the settings that a run has had so far; paths by where they lead.

    Raises:
        InputErrors: a checkpoint of that run depends on one of them.
    """
    if not saved_file.is_file():
        return []
    flags = parser.flags_of(TrainOptions)

    def settings(of: TrainOptions) -> dict[str, Any]:
        values = {name: getattr(of, name) for name in flags if name not in OF_A_START}
        paths = {n: v for n, v in values.items() if flags[n].path and v and os.path.exists(v)}
        return values | {name: os.path.realpath(path) for name, path in paths.items()}

    changed = differences(settings(parser.load(TrainOptions, saved_file)), settings(options))
    kept = KEPT if options.eval_only else KEPT_IN_TRAINING
    refused = [
        f"--{one.name}={one.now} differs from {one.before} in {saved_file}; a continued run keeps "
        "it: use that value, or another --exp_name"
        for one in changed
        if one.flag in kept
    ]
    if refused:
        raise InputErrors(refused)
    return changed


def changes_message(
    changed: Sequence[Difference], origins: dict[str, str], saved_file: Path, step: int
) -> str:
    """A heading and a line for each value that is not as it was before `step`.

    Args:
        changed: see `changes`; not empty.
        origins: flag -> where its value comes from, if it is not the default.
        saved_file: the settings of before.
        step: of the checkpoint that training goes on from.
    """
    lines = [f"changed since {saved_file}, with effect from step {step + 1} on:"]
    for one in changed:
        without = f"; no effect: {WITHOUT_EFFECT[one.flag]}" if one.flag in WITHOUT_EFFECT else ""
        origin = origins.get(one.flag, "the default")
        lines.append(f"  {one.name}: {one.before} -> {one.now} ({origin}{without})")
    return "\n".join(lines)

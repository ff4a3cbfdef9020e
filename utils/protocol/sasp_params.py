"""Settings of SasP: what the command line, the model and its stored configuration agree on."""

from __future__ import annotations

from dataclasses import dataclass

from utils.errors import InputErrors
from utils.protocol.constants import PROMPTS

THRESHOLDS = ("fixed", "std")


@dataclass(frozen=True)
class SaspParams:
    """Everything that selects the points; stored with the checkpoint.

    Args:
        num_points: points per mask (P at most; all cells if there are fewer).
        t_pos: a cell is positive from this value of the min-max scaled map on.
        t_neg: a cell is negative up to this value.
        down_sample: the token grid is reduced by this factor before points are chosen.
        thresholds: "fixed" uses `t_pos`/`t_neg`; "std" uses mean +/- `std_factor` * std of the
            map (the paper's formula).
        std_factor: k of the "std" thresholds.
        prompt: "points" moves the points by DtoC, "discrete" leaves them on the cell centres,
            "text" gives SAM no points at all (the paper's ablation).
    """

    num_points: int = 30
    t_pos: float = 0.8
    t_neg: float = 0.2
    down_sample: int = 2
    thresholds: str = "fixed"
    std_factor: float = 0.5
    prompt: str = "points"

    def __post_init__(self) -> None:
        problems = []
        if self.num_points < 1:
            problems.append(f"num_points is {self.num_points}; it must be at least 1")
        if self.down_sample < 1:
            problems.append(f"down_sample is {self.down_sample}; it must be at least 1")
        if self.thresholds not in THRESHOLDS:
            problems.append(f"thresholds is {self.thresholds!r}; choose 'fixed' or 'std'")
        if self.prompt not in tuple(PROMPTS):
            choices = ", ".join(map(repr, PROMPTS))
            problems.append(f"prompt is {self.prompt!r}; choose one of {choices}")
        if self.thresholds == "fixed" and not 0 <= self.t_neg < self.t_pos <= 1:
            problems.append(
                f"t_neg = {self.t_neg}, t_pos = {self.t_pos}: need 0 <= t_neg < t_pos <= 1"
            )
        if self.std_factor < 0:
            problems.append(f"std_factor is {self.std_factor}; it must not be negative")
        if problems:
            raise InputErrors([f"SasP: {problem}" for problem in problems])

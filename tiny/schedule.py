"""How long and how fast a part is trained; nothing heavy is imported."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """How a part is trained: images drawn, unseen ones to measure on, steps, images a step."""

    images: int
    unseen: int
    steps: int
    batch: int
    lr: float
    seed: int

"""The curves of a training run, read back from its TensorBoard events."""

from __future__ import annotations

from pathlib import Path


def read_curves(run_dir: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of a run: name, such as `train/loss`, -> (step, value) in the order of steps.

    A run without events has no curves. Where a step was logged twice (a run that was continued),
    the later value counts.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: sorted({event.step: event.value for event in events.Scalars(name)}.items())
        for name in events.Tags()["scalars"]
    }

"""What a training run tells: progress bar, TensorBoard events, `metrics.jsonl`, console lines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.files import append_lines, mend_lines, read_lines

METRICS_FILE = "metrics.jsonl"


class RunLog:
    """The log of rank 0; on other ranks every method does nothing.

    Args:
        run_dir: the run folder.
        active: whether this rank writes.
        total_steps: length of the progress bar.
        start_step: steps already done; later lines of an interrupted attempt are dropped.
        wandb_settings: the configuration for Weights & Biases, or None to leave it out.
    """

    def __init__(
        self,
        run_dir: Path,
        active: bool,
        total_steps: int,
        start_step: int = 0,
        wandb_settings: dict[str, Any] | None = None,
    ):
        self.run_dir = run_dir
        self.active = active
        if not active:
            return
        from torch.utils.tensorboard import SummaryWriter

        drop_after(run_dir / METRICS_FILE, start_step)
        self.writer = SummaryWriter(str(run_dir), purge_step=start_step + 1 if start_step else None)
        self.bar = tqdm(total=total_steps, initial=start_step, desc="training", unit="step")
        self.wandb = None
        if wandb_settings is not None:
            import wandb

            self.wandb = wandb.init(
                project="READ", name=run_dir.name, dir=str(run_dir), config=wandb_settings
            )

    def advance(self, values: dict[str, float]) -> None:
        """Move the bar by a step and show these values beside it."""
        if self.active:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})
            self.bar.update(1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write one point of each curve, such as `train/loss` or `val/ciou`."""
        if not self.active:
            return
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(values, step=step)

    def validation(self, line: dict[str, Any]) -> None:
        """Append one validation to `metrics.jsonl` and its main numbers to the curves."""
        if not self.active:
            return
        append_lines(self.run_dir / METRICS_FILE, [line])
        names = ("giou", "ciou", "see_accuracy")
        values = {f"val/{name}": line[name] for name in names if line.get(name) is not None}
        self.scalars(line["step"], values)
        self.writer.flush()

    def forget_validation(self, step: int) -> None:
        """Drop the line of a validation that is done again, because its score was not kept."""
        if self.active:
            drop_after(self.run_dir / METRICS_FILE, step - 1)

    def log(self, text: str) -> None:
        """One line on the console, above the bar."""
        if self.active:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Write out what is buffered."""
        if self.active:
            self.bar.close()
            self.writer.close()
            if self.wandb is not None:
                self.wandb.finish()


def drop_after(path: Path, step: int) -> None:
    """Keep the lines up to `step`: later ones belong to steps that are done again."""
    mend_lines(path, [line for line in read_lines(path) if line["step"] <= step])


def read_curves(run_dir: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of a run: name, such as `train/loss`, -> (step, value) in the order of steps.

    A run without TensorBoard events has none. Where a step was logged twice (a run that was
    continued), the later value counts.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: sorted({event.step: event.value for event in events.Scalars(name)}.items())
        for name in events.Tags()["scalars"]
    }

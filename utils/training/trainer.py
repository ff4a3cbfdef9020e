"""The training loop. It is given a model, data and a validation, and knows none of their kinds."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from utils.errors import InputError
from utils.process.stop_signal import STOP_CODE, StopSignal
from utils.protocol.batch import MicroBatch
from utils.training.checkpoint import (
    LATEST,
    CheckpointStore,
    RunState,
    free_bytes,
    next_state,
    tag_of,
)
from utils.training.distributed import Process, abort_all_ranks
from utils.training.engine import gathered_parameters, learning_rate, save_engine
from utils.training.gradients import gradients_of, loss_scale
from utils.training.run_log import RunLog

LOSSES = ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "mask_loss")
SPARE_BYTES = 64 * 1024**2
"""Free space that is left beside a checkpoint of the size of the last one."""
BROKEN_SHARE = 0.01
FEW_SAMPLES, FEW_BROKEN = 100, 3
"""So many samples, or so many broken ones, are needed before their share says anything."""


def too_many_broken(broken: int, tried: int) -> bool:
    """More than 1 % of the samples could not be read, and there were enough of them to say so."""
    return broken > BROKEN_SHARE * tried and (tried >= FEW_SAMPLES or broken >= FEW_BROKEN)


@dataclass(frozen=True)
class Schedule:
    """When what happens.

    Args:
        total_steps: optimiser steps in all.
        steps_per_epoch: validation and a checkpoint follow each epoch, and the last step.
        micro_steps: forward passes per optimiser step.
        save_every: further checkpoints after this many steps; 0: none.
        print_freq: steps between two points of the curves.
        seed: of dropout.
        highest_lr, warmup_steps: see `utils.training.engine.learning_rate`.
    """

    total_steps: int
    steps_per_epoch: int
    micro_steps: int
    save_every: int
    print_freq: int
    seed: int
    highest_lr: float
    warmup_steps: int

    def lr(self, step: int) -> float:
        return learning_rate(step, self.highest_lr, self.warmup_steps, self.total_steps)

    def ends_epoch(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0 or step == self.total_steps

    def saves(self, step: int) -> bool:
        return self.ends_epoch(step) or (self.save_every > 0 and step % self.save_every == 0)


@dataclass
class Trainer:
    """Runs the steps of a `Schedule`.

    Args:
        engine: DeepSpeed engine around the model (`utils.training.engine.build_engine`).
        batches: of the micro steps, from the first one that is still to be done.
        validate: scores the model; every rank calls it and gets the merged summary
            (`giou`, `ciou`, ...). None: no validation.
        state: where the run stands; None at the start.
        stop: notes requests to end; they are followed between two steps.
    """

    engine: Any
    batches: Iterator[MicroBatch]
    schedule: Schedule
    process: Process
    store: CheckpointStore
    log: RunLog
    validate: Callable[[], dict[str, Any]] | None = None
    state: RunState | None = None
    stop: StopSignal = field(default_factory=StopSignal)
    tried: int = 0
    broken: int = 0
    dropped: int = 0

    def __post_init__(self) -> None:
        self.counted = 0
        self.losses = torch.zeros(len(LOSSES))
        self.model: nn.Module = self.engine.module
        self.gradients = gradients_of(self.engine)

    def run(self, first_step: int, validate_first: bool = False) -> RunState | None:
        """Do the steps after `first_step`; returns the state at the last checkpoint.

        Args:
            first_step: steps already done.
            validate_first: the checkpoint of `first_step` was saved, but not validated.

        Raises:
            SystemExit: a loss is not finite or too much data is broken, or a signal asked to
                stop, after a checkpoint was saved; rank 0 has told.
            InputError: a checkpoint cannot be written.
        """
        self.model.train()
        if validate_first:
            self.log.forget_validation(first_step)
            self._validate(first_step)
        for step in range(first_step + 1, self.schedule.total_steps + 1):
            lr = self.schedule.lr(step)
            stopping = self._step(step, lr)
            self._report(step, lr)
            if stopping or self.schedule.saves(step):
                self._save(step)
            if stopping and (step < self.schedule.total_steps or self.validate is not None):
                self._end(step)
            if self.schedule.ends_epoch(step):
                self._validate(step)
        return self.state

    # --- one step ---------------------------------------------------------------------------

    def _step(self, step: int, lr: float) -> bool:
        """Forward and backward passes of this rank, agreement of all ranks, optimiser step.

        Returns whether a signal asked one of the ranks to stop.
        """
        bad: list[str] = []
        tried = broken = dropped = 0
        for micro in range(self.schedule.micro_steps):
            micro_batch = next(self.batches)
            batch = micro_batch.batch
            tried += micro_batch.tried
            broken += len(micro_batch.broken)
            dropped += batch.dropped
            for message in micro_batch.broken:
                self._log_everywhere(f"skipped: {message}")
            torch.manual_seed(self._seed(step, micro))
            output = self.gradients.forward(batch)
            loss, images = output["loss"], ", ".join(batch.image_paths)
            if not math.isfinite(loss.item()):
                bad.append(f"loss {loss.item()} with {images}")
            last = micro == self.schedule.micro_steps - 1
            self.gradients.add(loss * (1 / self.schedule.micro_steps), last)
            self._count(output)
        if not bad and loss_scale(self.engine) == 1.0 and not self.gradients.are_finite():
            bad.append(f"a gradient is not finite with {images}")
        stopping = self._agree(step, bad, tried, broken, dropped)
        self.gradients.deliver(lr)
        return stopping

    def _seed(self, step: int, micro: int) -> int:
        """Dropout depends on the place in the training, not on what ran before."""
        place = (
            step * self.schedule.micro_steps + micro
        ) * self.process.world_size + self.process.rank
        return (self.schedule.seed * 1_000_003 + place) % 2**63

    def _agree(self, step: int, bad: list[str], tried: int, broken: int, dropped: int) -> bool:
        """Stop on all ranks together if one has a reason to; whether one was asked to end."""
        counts = self.process.all_reduce_sum(len(bad), tried, broken, dropped, self.stop.asked)
        failures, tried, broken, dropped, asked = (int(count) for count in counts)
        self.tried += tried
        self.broken += broken
        self.dropped += dropped
        if failures:
            failed = "; ".join(line for lines in self.process.all_gather(bad) for line in lines)
            abort_all_ranks(
                self.process,
                f"step {step}: {failed}. {self._last_good()}; lower --lr or look at these images",
            )
        if too_many_broken(self.broken, self.tried):
            abort_all_ranks(
                self.process,
                f"step {step}: {self.broken} of {self.tried} draws could not be read, more than "
                "1 %; the lines beginning with 'skipped' name the files: repair or remove them",
            )
        return asked > 0

    def _last_good(self) -> str:
        """What a training that stops now can go on from."""
        last = self.store.load(LATEST)
        if last is None:
            return "No checkpoint was overwritten; this run has not written one yet"
        return (
            f"No checkpoint was overwritten; the last good one is {self.store.folder / last.tag} "
            f"(step {last.step}), --auto_resume goes on from it"
        )

    def _end(self, step: int) -> None:
        """Leave on all ranks after a signal; the checkpoint of `step` is complete."""
        if self.process.is_first:
            name = self.stop.name or "a signal to another rank"
            print(
                f"stopped by {name} after step {step}: the checkpoint "
                f"{self.store.folder / tag_of(step)} is complete; the same command with "
                "--auto_resume goes on from it",
                file=sys.stderr,
                flush=True,
            )
        self.process.barrier()
        raise SystemExit(STOP_CODE)

    def _log_everywhere(self, text: str) -> None:
        if self.process.is_first:
            self.log.log(text)
        else:
            print(text, flush=True)

    # --- reports ----------------------------------------------------------------------------

    def _count(self, output: Any) -> None:
        losses = torch.stack([output[name].detach().float() for name in LOSSES])
        self.losses = losses if self.counted == 0 else self.losses + losses
        self.counted += 1

    def _report(self, step: int, lr: float) -> None:
        if step % self.schedule.print_freq and not self.schedule.ends_epoch(step):
            self.log.advance({"lr": lr})
            return
        *values, count = self.process.all_reduce_sum(*self.losses.tolist(), self.counted)
        self.counted = 0
        means = {name: value / count for name, value in zip(LOSSES, values, strict=True)}
        curves = {f"train/{name}": value for name, value in means.items()} | {"train/lr": lr}
        if self.broken:
            curves["train/broken_draws"] = self.broken
        if self.dropped:
            curves["train/dropped_expressions"] = self.dropped
        self.log.scalars(step, curves)
        self.log.advance(
            {"loss": means["loss"], "ce": means["ce_loss"], "mask": means["mask_loss"], "lr": lr}
        )

    def _validate(self, step: int) -> None:
        """Score the checkpoint that was just saved; write the line of `metrics.jsonl`."""
        if self.validate is None:
            return
        with gathered_parameters(self.engine):
            summary = self.validate()
        self.model.train()
        score = float(summary["ciou"])
        epoch = math.ceil(step / self.schedule.steps_per_epoch)
        state = next_state(self.state, step, self.process.world_size, score)
        best = state.best_tag == tag_of(step)
        self.log.validation({"step": step, "epoch": epoch, "best": best, **summary})
        self.log.log(
            f"step {step} (epoch {epoch}): gIoU {summary['giou']:.4f}, cIoU {score:.4f}"
            + (", the best so far" if best else "")
        )
        if self.process.is_first:
            self.store.complete(state)
        self.state = state
        if self.process.all_reduce_sum(self.stop.asked)[0] and step < self.schedule.total_steps:
            self._end(step)

    # --- checkpoints ------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        """Write a checkpoint; `utils.training.checkpoint` says what holds when interrupted."""
        state = next_state(self.state, step, self.process.world_size, None)
        if self.process.is_first:
            self._check_space()
            self.store.begin(state.tag)
        self.process.barrier()
        save_engine(self.engine, self.store.folder, state.tag)
        self.store.flush(state.tag)
        self.process.barrier()
        if self.process.is_first:
            self.store.complete(state)
        self.process.barrier()
        self.state = state

    def _check_space(self) -> None:
        """Fail before writing when the disk cannot take another checkpoint."""
        if self.state is None:
            return
        last = self.store.folder / self.state.tag
        needed = sum(path.stat().st_size for path in last.rglob("*") if path.is_file())
        free = free_bytes(self.store.folder)
        if free < needed + SPARE_BYTES:
            raise InputError(
                f"{self.store.folder}: {free / 1e9:.2f} GB are free, a checkpoint needs "
                f"{(needed + SPARE_BYTES) / 1e9:.2f} GB; the checkpoint {last} stays usable: "
                "free space, then go on with --auto_resume"
            )

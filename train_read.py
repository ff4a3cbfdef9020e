"""Train READ: `deepspeed train_read.py --config FILE`, or by torchrun, or by plain python.

Parse, build, loop. The loop is `utils.training.trainer.Trainer`; what a run writes:
docs/reproduce.md. What takes seconds to import is imported once the flags are read.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset import flag_checks
from dataset.catalog import REFER_FAMILIES, SETS
from utils.cli import parser
from utils.cli.entry_point import cli
from utils.cli.options import TrainOptions
from utils.errors import EXIT_CODE, InputError, InputErrors
from utils.hub.models import check_models
from utils.process.interrupts import is_first_rank, tell_interrupted
from utils.process.run_lock import LOCK_FILE, RunLock
from utils.protocol.conversation import POSITIVE_ANSWER
from utils.training.checkpoint import BEST, CHECKPOINTS, LATEST, TAG, CheckpointStore, RunState
from utils.training.resumption import CONFIG_FILE, changes, changes_message

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn

    from model.loading.builder import Built
    from model.read_model import ReadForCausalLM
    from utils.protocol.batch import EvalItem
    from utils.training.distributed import Process
    from utils.training.trainer import Schedule

LOAD_REPORT = "load_report.txt"


def validation_items(options: TrainOptions) -> Sequence[EvalItem]:
    """What is asked: a referring set with the templates of training, others with the fixed ones."""
    from dataset.evaluation import evaluation_set

    wanted = flag_checks.selection(options.val_dataset, options.val_split)
    refers = wanted.name in SETS and SETS[wanted.name].family in REFER_FAMILIES
    templates = options.templates if refers else "simple"
    return evaluation_set(
        options.dataset_dir, *wanted, templates=templates, polygon_fill=options.polygon_fill
    )


def validation(
    items: Sequence[EvalItem],
    model: PeftModel | ReadForCausalLM,
    built: Built,
    process: Process,
) -> Callable[[], dict[str, Any]]:
    """A function that scores the model as it is then, teacher forced, over all ranks."""
    from model.inference.reader import Reader
    from model.loading.lora import unwrap
    from utils.evaluation.evaluator import EvalResult, evaluate, reader_predict

    predict = reader_predict(Reader(unwrap(model), built.tokenizer), answer=POSITIVE_ANSWER)

    def score() -> dict[str, Any]:
        model.eval()
        own = evaluate(
            predict, items, rank=process.rank, world=process.world_size, label="validation"
        )
        merged = EvalResult()
        for part in process.all_gather(own):
            merged.merge(part)
        summary = merged.summary()
        return {**summary.pop("all"), **summary}

    return score


def find_start(
    options: TrainOptions, own: CheckpointStore, process: Process
) -> tuple[CheckpointStore | None, RunState | None]:
    """The checkpoint to start from: `--resume`, else this run's own with `--auto_resume`.

    Raises:
        InputError: there is none where `--resume` points, or it was written by another number of
            ranks, or the run folder is in use and `--auto_resume` is off.
    """
    if process.is_first and own.folder.is_dir() and options.resume is None:
        own.repair()
    process.barrier()
    source, name = own, BEST if options.eval_only else LATEST
    if options.resume:
        given = Path(os.path.abspath(options.resume))
        one = TAG.fullmatch(given.name) is not None
        source, name = CheckpointStore(given.parent if one else given), given.name if one else name
    state = source.load(name)
    if state is None and options.resume:
        raise InputError(f"--resume={options.resume} holds no checkpoint; give RUN/{CHECKPOINTS}")
    if state is None:
        return None, None
    if options.resume is None and not options.auto_resume:
        if options.eval_only:
            return None, None
        raise InputError(
            f"{own.folder} holds checkpoints and --auto_resume is off: nothing is overwritten; "
            "choose another --exp_name, or continue with --auto_resume"
        )
    elsewhere = source.folder.resolve() != own.folder.resolve()
    if elsewhere and not options.eval_only and own.load(LATEST) is not None:
        raise InputError(
            f"{own.folder} holds checkpoints already; choose another --exp_name for what "
            f"continues {options.resume}"
        )
    if state.world != process.world_size and not options.eval_only:
        raise InputError(
            f"{source.folder / state.tag} was written by {state.world} ranks, now there are "
            f"{process.world_size}: start the same number"
        )
    if elsewhere:
        state = dataclasses.replace(state, best_score=None, best_tag=None)
    return source, state


def schedule_of(options: TrainOptions) -> Schedule:
    """When what happens in the training."""
    from utils.training.trainer import Schedule

    return Schedule(
        total_steps=options.total_steps,
        steps_per_epoch=options.steps_per_epoch,
        micro_steps=options.grad_accumulation_steps,
        save_every=options.save_every,
        print_freq=options.print_freq,
        seed=options.seed,
        highest_lr=options.lr,
        warmup_steps=options.warmup_steps,
    )


def hold_run_folder(options: TrainOptions, process: Process, held: ExitStack) -> None:
    """Keep other processes out of the run folder until `held` ends.

    Raises:
        SystemExit: one is there; on every rank, after rank 0 has told.
    """
    from utils.training.distributed import abort_all_ranks

    lock = RunLock(
        options.run_dir / LOCK_FILE,
        f"the run folder {options.run_dir}",
        "choose another --log_base_dir or --exp_name",
    )
    refused = None
    if process.is_first:
        try:
            held.enter_context(lock)
        except InputError as error:
            refused = str(error)
    refused = process.all_gather(refused)[0]
    if refused is not None:
        abort_all_ranks(process, refused)


def train(options: TrainOptions, process: Process, origins: Callable[[], dict[str, str]]) -> None:
    """Everything after parsing; `origins` says of each value where it comes from."""
    with ExitStack() as held:
        hold_run_folder(options, process, held)
        train_alone(options, process, origins)


def train_alone(
    options: TrainOptions, process: Process, origins: Callable[[], dict[str, str]]
) -> None:
    """Train or validate; no other process writes to the run folder meanwhile."""
    import torch
    from torch import nn

    from dataset.collate import collate
    from dataset.loader import micro_batches
    from dataset.training import training_set
    from model.loading.from_options import build_model
    from utils.training import engine
    from utils.training.run_log import RunLog
    from utils.training.trainer import Trainer

    own = CheckpointStore(options.run_dir / CHECKPOINTS, keep=options.keep_checkpoints)
    source, state = find_start(options, own, process)
    changed = [] if source is None else changes(options, source.folder.parent / CONFIG_FILE)
    first_step = state.step if state else options.start_epoch * options.steps_per_epoch
    schedule = schedule_of(options)
    goes_on = source is not None and source.folder.resolve() == own.folder.resolve()
    not_scored = goes_on and state is not None and state.score is None
    owed = not_scored and not options.no_eval and schedule.ends_epoch(first_step)
    if state and not options.eval_only and first_step >= options.total_steps and not owed:
        log(
            process,
            f"step {first_step} of {options.total_steps} is done: finished; raise --epochs to go "
            "on, or choose another --exp_name",
        )
        return
    if source is not None and changed and not options.eval_only:
        saved_file = source.folder.parent / CONFIG_FILE
        log(process, changes_message(changed, origins(), saved_file, first_step))

    data = None if options.eval_only else training_set(options)
    unseen = None if options.no_eval else validation_items(options)
    torch.manual_seed(options.seed)
    model, built = build_model(
        options.model, options.lora, options.sasp, options.losses, options.gradient_checkpointing
    )
    for line in built.report:
        log(process, line)
    if process.is_first and not options.eval_only:
        text = "\n".join(built.report) + "\n"
        (options.run_dir / LOAD_REPORT).write_text(text, encoding="utf-8")
    partitioned = data is not None and options.zero_stage == 3
    if not (options.load_in_4bit or options.load_in_8bit or partitioned):
        nn.Module.to(model, process.device)
    score = None if unseen is None else validation(unseen, model, built, process)
    if data is None:
        validate_only(options, process, model, score, source, state)
        return

    built.model.uniform_forward = partitioned
    ds = engine.build_engine(
        model,
        betas=(options.beta1, options.beta2),
        settings=engine.engine_settings(options.precision, options.zero_stage, options.batch_size),
    )
    if source is not None and state is not None:
        state = load_checkpoint(ds, source, state, process, goes_on)
        log(process, f"continuing from {source.folder / state.tag}, step {state.step}")
    if process.is_first:
        parser.save(options, options.run_dir / CONFIG_FILE)
    run_log = RunLog(
        options.run_dir,
        active=process.is_first,
        total_steps=options.total_steps,
        start_step=first_step,
        wandb_settings=dataclasses.asdict(options) if options.use_wandb else None,
    )
    trainer = Trainer(
        engine=ds,
        batches=micro_batches(
            data,
            partial(collate, tokenizer=built.tokenizer, views=built.model.views),
            micro_steps=(
                first_step * options.grad_accumulation_steps,
                options.total_steps * options.grad_accumulation_steps,
            ),
            batch_size=options.batch_size,
            rank=process.rank,
            world_size=process.world_size,
            workers=options.workers,
            pin=process.device.type == "cuda",
        ),
        schedule=schedule,
        process=process,
        store=own,
        log=run_log,
        validate=score,
        state=state,
    )
    try:
        with trainer.stop:
            final = trainer.run(first_step, validate_first=owed)
    finally:
        run_log.close()
    if final is not None:
        best = "not validated" if final.best_score is None else f"cIoU {final.best_score:.4f}"
        log(process, f"finished: best checkpoint {final.best_tag} ({best}) in {own.folder}")


def load_checkpoint(
    ds: Any, source: CheckpointStore, state: RunState, process: Process, goes_on: bool
) -> RunState:
    """Put a checkpoint into the engine; a run goes back to it if it is not its newest one.

    Raises:
        InputError: it is damaged; the message says what can be done.
    """
    from utils.training import engine

    with source.or_another(state.tag):
        engine.load_engine(ds, source.folder, state.tag)
    if goes_on and process.is_first:
        newest = source.pointer(LATEST)
        state = state if newest == state.tag else source.go_back(state)
    return process.all_gather(state)[0]


def validate_only(
    options: TrainOptions,
    process: Process,
    model: nn.Module,
    score: Callable[[], dict[str, Any]] | None,
    source: CheckpointStore | None,
    state: RunState | None,
) -> None:
    """`--eval_only`: score the best checkpoint of the run, or the model it would start from."""
    from utils.files import append_lines
    from utils.training import engine
    from utils.training.run_log import METRICS_FILE

    if source is not None and state is not None:
        with source.or_another(state.tag):
            engine.load_trained(model, source.folder, state.tag)
        log(process, f"evaluating {source.folder / state.tag}")
    else:
        log(process, f"evaluating {options.version}: there is no checkpoint")
    summary = score() if score else {}
    if process.is_first:
        options.run_dir.mkdir(parents=True, exist_ok=True)
        line = {"step": state.step if state else 0, "eval_only": True, **summary}
        append_lines(options.run_dir / METRICS_FILE, [line])
    log(process, f"gIoU {summary['giou']:.4f}, cIoU {summary['ciou']:.4f}")


def log(process: Process, text: str) -> None:
    """One line on the console, from rank 0."""
    if process.is_first:
        print(text, flush=True)


def interrupted(options: TrainOptions) -> int:
    """What to tell after Ctrl-C: nothing was saved half-way."""
    return tell_interrupted(
        f"the checkpoints in {options.run_dir / CHECKPOINTS} are complete; the same command with "
        "--auto_resume goes on from the newest"
    )


def check_data(options: TrainOptions) -> None:
    """The quick part of `python -m dataset.doctor`, before anything is loaded.

    Raises:
        InputErrors: data that the run needs is missing. What is broken is told only: training
            skips and counts it.
    """
    from dataset.doctor.checkup import quick, wanted_sets

    wanted = wanted_sets(options, not options.eval_only, not options.no_eval)
    findings = quick(options.dataset_dir, wanted)
    missing = [str(finding) for finding in findings if finding.kind == "missing"]
    if missing:
        more = f"python -m dataset.doctor --dataset_dir {options.dataset_dir} tells more"
        raise InputErrors([*missing, more])
    for finding in findings:
        print(f"warning: {finding}", file=sys.stderr)


@cli
def main(argv: list[str] | None = None) -> int:
    """Entry point; exit code 2 on mistakes of the user, 130 after an interruption."""
    options = parser.parse(
        TrainOptions, argv, checks=[flag_checks.training_flags], prog="train_read.py"
    )
    if is_first_rank():
        check_models(options.version, options.vision_tower)
        check_data(options)
    import torch

    from utils.training import distributed

    if not torch.cuda.is_available():
        options = dataclasses.replace(options, precision="fp32")
    try:
        origins = partial(parser.origins, TrainOptions, argv)
        train(options, distributed.start(options.local_rank), origins)
    except KeyboardInterrupt:
        return interrupted(options)
    except RuntimeError as error:
        if not distributed.lost_a_rank(error):
            raise
        print(f"stopped: another rank ended ({str(error).splitlines()[0]})", file=sys.stderr)
        return EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())

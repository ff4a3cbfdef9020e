"""Evaluate READ: write predictions (`--cmd inference`) and compute metrics (`--cmd metrics`).

Started plainly, by `torchrun` or `deepspeed`, or by hand as several processes with
`--process_num` and `--world_size`. A run that was killed goes on where it stopped. Metrics need
neither the model nor the data: what does is imported where it is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset.flag_checks import evaluation_flags, selection
from utils.cli.entry_point import cli
from utils.cli.options import TestOptions
from utils.cli.parser import parse, save
from utils.errors import InputError
from utils.evaluation.prediction_locks import part_lock, refuse_other_writers, start_lock
from utils.evaluation.predictions import PredictionFile, check_run, fingerprint, forget, resolved
from utils.hub.models import check_models
from utils.protocol.constants import POLYGON_FILLS
from utils.protocol.conversation import POSITIVE_ANSWER

if TYPE_CHECKING:
    from utils.process.run_lock import RunLock
    from utils.protocol.batch import EvalItem
    from utils.training.distributed import Process

MODES = {
    "generated": ("generated",),
    "teacher_forced": ("teacher_forced",),
    "both": ("teacher_forced", "generated"),
}
FORCED_ANSWER = {"generated": None, "teacher_forced": POSITIVE_ANSWER}
TITLES = {
    "generated": "Generated answers",
    "teacher_forced": "Teacher-forced answers",
}


def items_of(options: TestOptions, mode: str) -> Sequence[EvalItem]:
    """The questions of a mode: without a generated answer, nothing can be denied."""
    from dataset.evaluation import evaluation_set

    return evaluation_set(
        options.dataset_dir,
        *selection(options.val_dataset, options.val_split),
        templates=options.templates,
        false_premises=mode == "generated" and options.false_premises,
        polygon_fill=options.polygon_fill,
    )


def run_settings(options: TestOptions, sasp: list[dict[str, Any]], world: int) -> dict[str, Any]:
    """What makes two runs the same one; kept beside the predictions.

    Args:
        options: of the command line.
        sasp: the SasP parameters, and those of the other settings of an ablation.
        world: number of processes.
    """
    modes = MODES[options.eval_mode]
    ablation = {"ablation": sasp[1:]} if options.ablate else {}
    # Runs stored before the flag existed lack it, and have its default.
    fill = (
        {"polygon_fill": options.polygon_fill} if options.polygon_fill != POLYGON_FILLS[0] else {}
    )
    return {
        **ablation,
        **fill,
        "model": fingerprint(options.pretrained_model_path),
        "dataset_dir": resolved(options.dataset_dir),
        "data": str(selection(options.val_dataset, options.val_split)),
        "templates": resolved(options.templates),
        "items": len(items_of(options, modes[0])),
        "modes": list(modes),
        "false_premises": options.false_premises,
        "conv_type": options.conv_type,
        "max_new_tokens": options.max_new_tokens,
        "sasp": sasp[0],
        "world": world,
    }


def infer(options: TestOptions, rank: int, world: int, forgetting: RunLock | None = None) -> None:
    """Answer this process' share of the questions; its part of the folder is held.

    Args:
        options: of the command line.
        rank, world: this process and the number of processes.
        forgetting: delete what is in the folder first, unless somebody else than the holder of
            this lock writes there.
    """
    from model.analysis.ablation import Ablation, grid
    from model.loading.from_options import load_from_options
    from utils.evaluation.evaluator import evaluate, reader_predict

    folder = options.vis_save_path
    reader = load_from_options(options)
    own = reader.model.config.sasp_params
    settings = grid(own, options.budgets()) if options.ablate else [own]
    gathered = 2 * options.batch_questions
    sweep = Ablation(reader.model, settings[1:], gathered) if options.ablate else None
    described = run_settings(options, [asdict(params) for params in settings], world)
    with start_lock(folder):
        if forgetting is not None:
            refuse_other_writers(folder, forgetting)
            forget(folder)
        check_run(folder, described)
    if rank == 0:
        save(options, Path(folder) / "config.yaml")
    for mode in MODES[options.eval_mode]:
        file = PredictionFile(folder, rank, world, mode)
        if file.done and rank == 0:
            print(f"{TITLES[mode]}: going on after {len(file.done)} images in {file.path}")
        evaluate(
            reader_predict(
                reader,
                FORCED_ANSWER[mode],
                max_new_tokens=options.max_new_tokens,
                batch_questions=options.batch_questions,
                keep_states=options.ablate,
            ),
            items_of(options, mode),
            rank=rank,
            world=world,
            skip_broken=options.skip_broken,
            done=file.done,
            on_item=file.write,
            on_skip=file.skip,
            sweep=sweep,
            label=TITLES[mode].lower(),
        )


def hold_parts(options: TestOptions, process: Process, held: ExitStack) -> None:
    """Keep other processes from the parts of all ranks until `held` ends.

    Raises:
        SystemExit: one is there; on every rank, after rank 0 has told.
    """
    from utils.training.distributed import abort_all_ranks

    folder = options.vis_save_path
    for turn in (True, False):  # the first rank deletes what is there before another one begins
        refused = None
        if process.is_first == turn:
            try:
                own = held.enter_context(part_lock(folder, process.rank, process.world_size))
                if turn and not options.resume:
                    refuse_other_writers(folder, own)
                    forget(folder)
            except InputError as error:
                refused = str(error)
        if messages := [text for text in process.all_gather(refused) if text is not None]:
            abort_all_ranks(process, messages[0])


def show(options: TestOptions) -> None:
    """Compute the metrics of the folder; print the tables, save `metrics.json` and the page."""
    from utils.reports.page import table_text
    from utils.reports.protocol_page import run_tables
    from utils.reports.score_folder import ABLATION_FILE, METRICS_FILE, PAGE_FILE, score_folder

    folder = Path(options.vis_save_path)
    scored = score_folder(folder, page=options.report, image_folder=options.dataset_dir)
    for table in [*scored.tables, *run_tables(folder, list(scored.modes))]:
        print(table_text(table), end="\n\n")
    for mode, scores in scored.modes.items():
        for message in scores.result.skipped:
            print(f"left out ({mode}): {message}")
    print(f"metrics: {folder / METRICS_FILE}", flush=True)
    if options.report:
        print(f"report:  {folder / PAGE_FILE}", flush=True)
    if scored.ablation:
        print(f"ablation: {folder / ABLATION_FILE}.json, .csv, .html", flush=True)


@cli(interrupted="finished predictions are kept; the same command goes on")
def main(argv: list[str] | None = None) -> None:
    options = parse(TestOptions, argv, checks=[evaluation_flags], prog="test_read.py")
    if options.cmd == "metrics":
        show(options)
        return
    check_models(options.pretrained_model_path, options.vision_tower)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from utils.training import distributed

        process = distributed.start(options.local_rank)
        with ExitStack() as held:
            hold_parts(options, process, held)
            infer(options, process.rank, process.world_size)
            process.barrier()
            if process.is_first:
                show(options)
        return
    alone = options.world_size == 1
    with part_lock(options.vis_save_path, options.process_num, options.world_size) as own:
        forgetting = own if alone and not options.resume else None
        infer(options, options.process_num, options.world_size, forgetting)
        if alone:
            show(options)
        else:
            print(f"process {options.process_num} is done; when all are: --cmd metrics")


if __name__ == "__main__":
    sys.exit(main())

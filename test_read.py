"""Evaluate READ: write predictions (`--cmd inference`) and compute metrics (`--cmd metrics`).

Started plainly, by `torchrun` or `deepspeed`, or by hand as several processes with
`--process_num` and `--world_size`. A run that was killed goes on where it stopped. Metrics need
neither the model nor the data: what does is imported where it is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config import parse, save
from utils.conversation import POSITIVE_ANSWER
from utils.errors import cli
from utils.hub import check_models
from utils.options import TestOptions
from utils.predictions import PredictionFile, check_run, fingerprint, forget

if TYPE_CHECKING:
    from utils.batch import EvalItem

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
        *options.validation(),
        templates=options.templates,
        false_premises=mode == "generated" and options.false_premises,
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
    return {
        **ablation,
        "model": fingerprint(options.pretrained_model_path),
        "dataset_dir": os.path.abspath(options.dataset_dir),
        "data": str(options.validation()),
        "templates": options.templates,
        "items": len(items_of(options, modes[0])),
        "modes": list(modes),
        "false_premises": options.false_premises,
        "conv_type": options.conv_type,
        "max_new_tokens": options.max_new_tokens,
        "sasp": sasp[0],
        "world": world,
    }


def infer(options: TestOptions, rank: int, world: int, alone: bool) -> None:
    """Answer this process' share of the questions.

    Args:
        options: of the command line.
        rank, world: this process and the number of processes.
        alone: no other process writes to the folder at this moment.
    """
    from model.ablation import Ablation, grid
    from model.opening import open_reader
    from utils.evaluator import evaluate, reader_predict

    folder = options.vis_save_path
    reader = open_reader(options)
    own = reader.model.config.sasp_params
    settings = grid(own, options.budgets()) if options.ablate else [own]
    gathered = 2 * options.batch_questions
    vary = Ablation(reader.model, settings[1:], gathered) if options.ablate else None
    if not options.resume and alone:
        forget(folder)
    check_run(folder, run_settings(options, [asdict(params) for params in settings], world))
    if rank == 0:
        save(options, Path(folder) / "config.yaml")
    for mode in MODES[options.eval_mode]:
        file = PredictionFile(folder, rank, world, mode)
        if file.done and rank == 0:
            print(f"{TITLES[mode]}: going on after {len(file.done)} pictures in {file.path}")
        evaluate(
            reader_predict(
                reader,
                FORCED_ANSWER[mode],
                options.max_new_tokens,
                options.batch_questions,
                keep_states=options.ablate,
            ),
            items_of(options, mode),
            rank=rank,
            world=world,
            skip_broken=options.skip_broken,
            done=file.done,
            on_item=file.write,
            on_skip=file.skip,
            vary=vary,
            label=TITLES[mode].lower(),
        )


def show(options: TestOptions) -> None:
    """Compute the metrics of the folder; print the tables, save `metrics.json` and the page."""
    from utils.report import table_text
    from utils.scoring import ABLATION_FILE, METRICS_FILE, PAGE_FILE, score_folder

    folder = Path(options.vis_save_path)
    found = score_folder(folder, page=options.report, picture_folder=options.dataset_dir)
    for table in found.tables:
        print(table_text(table), end="\n\n")
    for mode, scores in found.modes.items():
        for message in scores.result.skipped:
            print(f"left out ({mode}): {message}")
    print(f"metrics: {folder / METRICS_FILE}", flush=True)
    if options.report:
        print(f"report:  {folder / PAGE_FILE}", flush=True)
    if found.ablation:
        print(f"ablation: {folder / ABLATION_FILE}.json, .csv, .html", flush=True)


@cli(interrupted="finished predictions are kept; the same command goes on")
def main(argv: list[str] | None = None) -> None:
    options = parse(TestOptions, argv, prog="test_read.py")
    folder = options.vis_save_path
    if options.cmd == "metrics":
        show(options)
        return
    check_models(options.pretrained_model_path, options.vision_tower)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from utils import distributed

        process = distributed.start(options.local_rank)
        if process.is_first and not options.resume:
            forget(folder)
        process.wait_for_all()
        infer(options, process.rank, process.world, alone=False)
        process.wait_for_all()
        if not process.is_first:
            return
    else:
        infer(options, options.process_num, options.world_size, options.world_size == 1)
        if options.world_size > 1:
            print(f"process {options.process_num} is done; when all are: --cmd metrics")
            return
    show(options)


if __name__ == "__main__":
    sys.exit(main())

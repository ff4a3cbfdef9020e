"""The main job on the embedded default, from drawing the data to a report (see quickstart.sh).

Draws a toy world with every data set, trains the `tiny` preset on their mixture with DeepSpeed,
validates, merges LoRA, evaluates on unseen images with an ablation of SasP, runs the demo, and
writes one HTML page.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.cli.entry_point import cli
from utils.cli.flags import option
from utils.cli.parser import REPOSITORY, Problem, locate, parse, resolve
from utils.errors import InputError
from utils.process.free_port import free_port
from utils.process.run_lock import LOCK_FILE, RunLock

MARK = "quickstart"
IMAGES = 2500
FAST_IMAGES, FAST_STEPS = 600, 150
PREDICTIONS, FALSE_PREMISES = "predictions", "predictions_fprefcoco"
"""Folders of the two evaluations."""


def holds_anything(folder: Path) -> bool:
    """Whether a folder holds more than the lock that a killed run left."""
    return any(path.name != LOCK_FILE for path in folder.iterdir())


@dataclass(frozen=True)
class QuickstartOptions:
    """Train and show a small READ, start to finish."""

    fast: bool = option(False, "a short training on few images, to see that everything works")
    out: str = option(str(REPOSITORY / "quickstart_output"), "folder for everything it writes")
    preset: str = option("configs/tiny.yaml", "configuration of the training", path=True)
    images: int | None = option(
        None, "toy images of ReasonSeg, a tenth of it for every other set; none: 2500"
    )
    steps: int | None = option(None, "training steps; none: what the preset says")
    seed: int = option(0, "the toy world and the training follow from it")

    def problems(self) -> list[Problem]:
        """Everything that keeps this configuration from running."""
        folder = Path(self.out)
        problems = []
        if folder.exists() and holds_anything(folder) and not (folder / MARK).exists():
            problems.append(
                Problem(f"--out={self.out}: holds files of something else; give another folder")
            )
        if not os.path.isfile(locate(self.preset)):
            problems.append(Problem(f"--preset={self.preset}: no such file; see configs/", True))
        for name, least in (("images", 60), ("steps", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                problems.append(Problem(f"--{name}={value}: give at least {least}"))
        if self.seed < 0:
            problems.append(Problem(f"--seed={self.seed}: give 0 or more"))
        return problems

    @property
    def image_count(self) -> int:
        """How many toy images ReasonSeg gets."""
        return self.images or (FAST_IMAGES if self.fast else IMAGES)

    def length_flags(self) -> list[str]:
        """Flags of `train_read.py` that shorten the preset."""
        steps = self.steps or (FAST_STEPS if self.fast else None)
        if steps is None:
            return []
        warm_up = str(max(1, steps // 4))
        return ["--epochs", "1", "--steps_per_epoch", str(steps), "--warmup_steps", warm_up]


@dataclass
class Steps:
    """Runs the commands one after another and keeps their times.

    Args:
        count: how many there will be, for the headings.
    """

    count: int
    seconds: dict[str, float] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)

    def heading(self, title: str) -> None:
        print(f"\n=== {len(self.seconds) + 1}/{self.count} {title}", flush=True)

    def run(self, title: str, command: list[str]) -> None:
        """Run a command in the repository; its output goes straight through.

        Raises:
            InputError: it did not succeed.
        """
        self.heading(title)
        shown = shlex.join(command)
        print(f"$ {shown}", flush=True)
        self.commands.append(shown)
        start = time.monotonic()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        # In a session of its own: Ctrl-C is for this process, which starts afresh the next time.
        child = subprocess.Popen(
            command, cwd=REPOSITORY, env={**os.environ, "PATH": path}, start_new_session=True
        )
        try:
            code = child.wait()
        except KeyboardInterrupt:
            os.killpg(child.pid, signal.SIGKILL)
            raise
        if code:
            raise InputError(
                f"{title} failed (exit code {code}); the lines above say why. "
                "The command can be run again by itself"
            )
        self.seconds[title] = time.monotonic() - start


def empty(folder: Path) -> None:
    """Make the folder ready for this run; what an earlier one left there goes, but for the lock."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()
    (folder / MARK).write_text("Written by quickstart.sh; replaced when it runs again.\n")


def planned(options: QuickstartOptions, folder: Path) -> list[tuple[str, list[str]]]:
    """(title, command) of every step but the last two, which need what these have written."""
    python = sys.executable
    data, run, merged = folder / "data", folder / "runs" / "tiny", folder / "merged"
    world = ["--out", str(data), "--images", str(options.image_count), "--seed", str(options.seed)]
    launcher = ["deepspeed", "--num_gpus", "1", "--master_port", str(free_port())]
    place = ["--dataset_dir", str(data), "--log_base_dir", str(run.parent), "--exp_name", run.name]
    preset = os.path.abspath(locate(options.preset))
    train = ["train_read.py", "--config", preset, *place, "--seed", str(options.seed)]
    evaluation = [python, "test_read.py", "--pretrained_model_path", str(merged)]
    evaluation += ["--dataset_dir", str(data), "--max_new_tokens", "64"]
    reasons = ["--val_dataset", "ReasonSeg|test", "--eval_mode", "both", "--ablate"]
    reasons += ["--vis_save_path", str(folder / PREDICTIONS)]
    premises = ["--val_dataset", "fprefcoco|val", "--eval_mode", "generated"]
    premises += ["--vis_save_path", str(folder / FALSE_PREMISES)]
    return [
        ("toy world", [python, "-m", "dataset.toy", *world]),
        ("training", [*launcher, *train, *options.length_flags()]),
        ("merging LoRA", ["bash", "merge_lora_weight.sh", str(run), str(merged)]),
        ("evaluation on unseen images", [*evaluation, *reasons]),
        ("evaluation on false premises", [*evaluation, *premises]),
    ]


def demo_command(folder: Path, image: str, question: str) -> list[str]:
    """One question about one image."""
    place = ["--pretrained_model_path", str(folder / "merged")]
    place += ["--vis_save_dir", str(folder / "demo")]
    return [sys.executable, "demo.py", *place, "--image", image, "--prompt", question]


def run_steps(options: QuickstartOptions, folder: Path) -> Steps:
    """Everything that is a command of its own."""
    commands = planned(options, folder)
    steps = Steps(count=len(commands) + 2)
    for title, command in commands:
        steps.run(title, command)
    asked = unseen_question(folder / "data")
    steps.run("demo on an unseen image", demo_command(folder, *asked))
    return steps


def show_steps(options: QuickstartOptions) -> None:
    """What a dry run says: the commands."""
    folder = Path(options.out).absolute()
    commands = [command for _, command in planned(options, folder)]
    for command in [*commands, demo_command(folder, "IMAGE", "QUESTION")]:
        print(f"would run: {shlex.join(command)}")
    print(f"would write: {folder / 'report.html'}\n", flush=True)


def unseen_question(data: Path) -> tuple[str, str]:
    """A test image and the first question about it."""
    from dataset.reason_seg import ReasonSegEval

    item = ReasonSegEval(str(data), split="test")[0]
    return item.image_path, item.questions[0].text


def mixture_table(run: Path, steps: int) -> Any:
    """What the training drew from which data sets in so many steps."""
    from dataset.catalog import DATA_FLAGS
    from dataset.flag_checks import mixture
    from dataset.mixture import Mixture
    from utils.cli.options import TrainOptions
    from utils.cli.parser import load
    from utils.reports.page import Table

    options = load(TrainOptions, run / "config.yaml")
    rates = mixture(options)
    # The parts are not needed to tell which of them is drawn.
    parts: Any = [(name, None) for name in rates]
    mixed = Mixture(parts, list(rates.values()), options.seed)
    draws = steps * options.batch_size * options.grad_accumulation_steps
    drawn = Counter(mixed.names[mixed.choice(index)] for index in range(draws))
    rows = [
        [
            f"{name} ({getattr(options, DATA_FLAGS[name]).replace('||', ', ')})",
            f"{rate:g}",
            str(drawn[name]),
        ]
        for name, rate in rates.items()
    ]
    header = ["data set", "rate", "images drawn"]
    return Table("Training data", header, rows, "All are toy data in the layouts of the real sets.")


def read_metrics(folder: Path) -> dict[str, Any]:
    """What an evaluation wrote."""
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def main_figures(folder: Path, seconds: dict[str, float]) -> list[tuple[str, str, str]]:
    """(name, value, remark): the numbers to see first."""
    from utils.reports.page import number

    metrics = read_metrics(folder / PREDICTIONS)
    premises = read_metrics(folder / FALSE_PREMISES)["generated"]["all"]
    generated, forced = metrics["generated"], metrics["teacher_forced"]
    direct = generated["per_kind"].get("direct", {})
    minutes = sum(seconds.values()) / 60
    questions = f"{generated['objects']['questions']} questions, generated answers"
    return [
        ("gIoU, all kinds of question", number(generated["objects"]["giou"]), questions),
        ("gIoU, direct questions", number(direct.get("giou")), "colour and shape are named"),
        ("cIoU, all kinds of question", number(generated["objects"]["ciou"]), questions),
        (
            "See",
            number(generated["all"]["see_accuracy"]),
            "there or not; every question asked once true, once false",
        ),
        (
            "gIoU / cIoU, teacher forced",
            f"{number(forced['all']['giou'])} / {number(forced['all']['ciou'])}",
            "the answer's words are given",
        ),
        (
            "See / Segment, false premises",
            f"{number(premises['see_accuracy'])} / {number(premises['ciou'])}",
            f"toy FP-RefCOCO val, {premises['questions']} questions, generated answers",
        ),
        (
            "minutes",
            f"{minutes:.1f}",
            f"all steps; training {seconds['training'] / 60:.1f}",
        ),
    ]


def write_page(options: QuickstartOptions, folder: Path, steps: Steps) -> Path:
    """Ask the trained model for what the page shows, and write the page."""
    from dataset.reason_seg import ReasonSegEval
    from model import load_read
    from utils.evaluation.evaluator import reader_predict
    from utils.evaluation.predictions import read_run
    from utils.reports.ablation_page import prompt_table
    from utils.reports.charts import Curve, line_chart
    from utils.reports.page import Report, kind_table, write_report
    from utils.reports.score_folder import read_ablation
    from utils.reports.showcase import answer_examples
    from utils.training.run_log import read_curves

    steps.heading("report")
    data = str(folder / "data")
    reader = load_read(folder / "merged")
    curves = read_curves(folder / "runs" / "tiny")
    losses = {"total": "loss", "answer (CE)": "ce_loss", "mask BCE": "mask_bce_loss"}
    losses["mask DICE"] = "mask_dice_loss"
    lines = [Curve(name, curves.get(f"train/{key}", [])) for name, key in losses.items()]
    scores = [
        Curve(name, curves.get(f"val/{key}", []))
        for name, key in {"gIoU": "giou", "cIoU": "ciou"}.items()
    ]
    run = read_run(folder / PREDICTIONS)
    results = run.results
    premises = read_run(folder / FALSE_PREMISES).results
    predict = reader_predict(reader, max_new_tokens=64)
    unseen = ReasonSegEval(data, split="test", false_premises=True)
    millions = sum(weight.numel() for weight in reader.model.parameters()) / 1e6
    steps_done = max((step for step, _ in curves.get("train/loss", [])), default=0)
    config = (folder / "runs" / "tiny" / "config.yaml").read_text(encoding="utf-8")
    report = Report(
        title="READ, the tiny preset",
        intro=(
            f"A READ with {millions:.1f} million parameters, trained for {steps_done} steps "
            f"({steps.seconds['training'] / 60:.1f} minutes) on toy images drawn for this run in "
            f"the layouts of all data sets, on the same code path as the 7B model. "
            "All numbers and images below are of images it has not seen."
        ),
        figures=main_figures(folder, steps.seconds),
        charts=[
            ("Losses", line_chart(lines, "step", window=max(1, len(lines[0].pairs) // 15))),
            ("Validation, teacher forced", line_chart(scores, "step", y_limits=(0, 1))),
        ],
        tables=[
            kind_table(
                "Generated answers",
                results["generated"],
                note="Absent: nothing is there, an empty mask is right and counts IoU 1.",
            ),
            kind_table("Teacher-forced answers", results["teacher_forced"], see=False),
            kind_table(
                "False premises: toy FP-RefCOCO val",
                premises["generated"],
                note="Half of the sentences name something that is not in the image.",
            ),
            prompt_table(read_ablation(run)["teacher_forced"]),
            mixture_table(folder / "runs" / "tiny", steps_done),
        ],
        examples=answer_examples(predict, unseen),
        details=[("Commands", "\n".join(steps.commands)), ("Configuration of training", config)],
    )
    return write_report(folder / "report.html", report)


@cli(interrupted="bash quickstart.sh starts afresh")
def main(argv: list[str] | None = None) -> None:
    given = sys.argv[1:] if argv is None else argv
    if "--dry_run" in given:
        resolved, *_ = resolve(QuickstartOptions, given, "quickstart.sh")
        if resolved is not None:
            show_steps(resolved)
    options = parse(QuickstartOptions, given, prog="quickstart.sh", show=False)
    import torch

    # So small a model gains little from a second thread, and threads that wait for each other on a
    # busy machine are many times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not torch.cuda.is_available():
        # Otherwise DeepSpeed says at every start that it found no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    folder = Path(options.out).absolute()
    with RunLock(folder / LOCK_FILE, f"the folder {folder}", "give another --out"):
        empty(folder)
        steps = run_steps(options, folder)
        page = write_page(options, folder, steps)

        from utils.reports.page import Table, table_text

        rows = [list(row) for row in main_figures(folder, steps.seconds)]
        table = Table("READ, the tiny preset", ["on unseen images", "", ""], rows)
        print("\n" + table_text(table))
        print(f"report: {page}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""See how `[SEG]` works: maps, points and masks of every question, scores, and a page of them.

For each model, `OUT/MODEL/` holds a line a question, its images and the tables;
`OUT/dashboard.html` shows the models side by side. An analysis that was killed goes on where it
stopped; `--cmd dashboard` writes tables and page again, without a model.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from dataset.flag_checks import evaluation_flags, selection
from utils.analysis.dashboard import write_dashboard
from utils.analysis.files import AnalysisFile, analysed_folders, forget_analysis, write_tables
from utils.analysis.layers import MAP_SIDE, draw_question
from utils.analysis.question_scores import analyse_question, is_known
from utils.analysis.records import FINAL, QuestionAnalysis
from utils.cli.analysis_flags import read_layers
from utils.cli.entry_point import cli
from utils.cli.options import AnalyzeOptions
from utils.cli.parser import parse, save
from utils.errors import InputError
from utils.evaluation.predictions import check_run, fingerprint, resolved
from utils.hub.models import check_models
from utils.process.run_lock import LOCK_FILE, RunLock
from utils.protocol.constants import POLYGON_FILLS
from utils.protocol.conversation import POSITIVE_ANSWER
from utils.protocol.generation import GenerationOptions
from utils.reports.page import Table, table_text
from utils.reports.page import number as number_text

if TYPE_CHECKING:
    from model.analysis.probe import ProbeQuery, SegProbe, SegTrace
    from utils.protocol.batch import EvalItem


def items_of(options: AnalyzeOptions) -> Sequence[EvalItem]:
    """The images with their questions: without a generated answer, nothing can be denied."""
    from dataset.evaluation import evaluation_set
    from dataset.own.image_folder import ImageFolder

    if options.images is not None:
        return ImageFolder(options.images)
    return evaluation_set(
        options.dataset_dir,
        *selection(options.val_dataset, options.val_split),
        templates=options.templates,
        false_premises=options.eval_mode == "generated" and options.false_premises,
        polygon_fill=options.polygon_fill,
    )


def open_analyst(options: AnalyzeOptions) -> tuple[SegProbe, list[str]]:
    """The model, and notes on what cannot be seen of it.

    Raises:
        InputError: it cannot be loaded, has no such layers, or lacks what `--word` needs.
    """
    from model.analysis.clip_word_maps import load_word_clip
    from model.analysis.pretrained_sam import load_pretrained_sam
    from model.analysis.probe import SegProbe
    from model.loading.from_options import load_from_options

    reader = load_from_options(options)
    notes, word, pretrained_sam = [], None, None
    tower = reader.model.llm.vision_tower
    try:
        word = load_word_clip(tower) if tower is not None else None
    except InputError as error:
        if options.word is not None:
            raise
        notes.append(f"No word x CLIP: {error}.")
    if options.vision_pretrained is not None:
        pretrained_sam = load_pretrained_sam(options.vision_pretrained, reader.model.sam)
    else:
        notes.append("No SAM with the points only: it needs SAM as before training.")
    layers: list[int] = []
    if options.layers is not None:
        try:
            layers = read_layers(options.layers, reader.model.config.num_hidden_layers)
        except ValueError as error:
            raise InputError(f"--layers={options.layers}: {error}") from error
    analyst = SegProbe(
        reader,
        GenerationOptions(
            POSITIVE_ANSWER if options.eval_mode == "teacher_forced" else None,
            options.max_new_tokens,
            batch_questions=options.batch_questions,
        ),
        layers,
        word,
        pretrained_sam,
    )
    return analyst, notes


def run_settings(
    options: AnalyzeOptions, analyst: SegProbe, notes: list[str], count: int
) -> dict[str, Any]:
    """What makes two analyses the same one; kept beside the questions."""
    images = options.dataset_dir if options.images is None else options.images
    sam = options.vision_pretrained
    wanted = selection(options.val_dataset, options.val_split)
    # Analyses stored before the flag existed lack it, and have its default.
    fill = (
        {"polygon_fill": options.polygon_fill} if options.polygon_fill != POLYGON_FILLS[0] else {}
    )
    return {
        **fill,
        "model": fingerprint(options.pretrained_model_path),
        "data": "images" if options.images is not None else str(wanted),
        "dataset_dir": resolved(images),
        "templates": resolved(options.templates),
        "items": count,
        "mode": options.eval_mode,
        "false_premises": options.false_premises,
        "conv_type": options.conv_type,
        "max_new_tokens": options.max_new_tokens,
        "layers": list(analyst.layers),
        "word": options.word,
        "vision_pretrained": None if sam is None else resolved(sam),
        "sasp": asdict(analyst.reader.model.config.sasp_params),
        "notes": notes,
    }


@dataclass(frozen=True, eq=False)
class Chosen:
    """Questions about an image that are to be analysed.

    Args:
        image_index: its index in the data.
        item: the image with all of its questions.
        numbers: which of them.
    """

    image_index: int
    item: EvalItem
    numbers: list[int]


def choose(items: Sequence[EvalItem], file: AnalysisFile, most: int | None) -> Iterator[Chosen]:
    """What is not analysed yet, of the first `most` questions."""
    taken = sum(one.image_index < file.first_open for one in file.questions)
    for image_index in range(file.first_open, len(items)):
        if most is not None and taken >= most:
            return
        item = items[image_index]
        count = len(item.questions) if most is None else min(len(item.questions), most - taken)
        taken += count
        numbers = [number for number in range(count) if not file.has(image_index, number)]
        if numbers:
            yield Chosen(image_index, item, numbers)


def analyze(options: AnalyzeOptions, folder: Path) -> None:
    """Look at one model's answers, into its folder."""
    items = items_of(options)
    analyst, notes = open_analyst(options)
    if not options.resume:
        forget_analysis(folder)
    settings = run_settings(options, analyst, notes, len(items))
    check_run(folder, settings, "analysis", "--out")
    save(replace(options, models=None), folder / "config.yaml")
    file = AnalysisFile(folder)
    if file.questions:
        print(f"{folder.name}: going on after {len(file.questions)} questions in {file.path}")
    under_way: deque[Chosen] = deque()

    def asked() -> Iterator[tuple[np.ndarray, list[ProbeQuery]]]:
        for chosen in choose(items, file, options.max_questions):
            under_way.append(chosen)
            yield chosen.item.image, _questions(chosen, options.word)

    total = min(len(items), options.max_questions or len(items))
    with tqdm(
        total=total, initial=min(file.first_open, total), desc=folder.name, unit="image"
    ) as bar:
        for seen in analyst.stream(asked()):
            chosen = under_way.popleft()
            file.write(
                [
                    _line(chosen, number, one, folder)
                    for number, one in zip(chosen.numbers, seen, strict=True)
                ]
            )
            bar.update()


def _questions(chosen: Chosen, word: str | None) -> list[ProbeQuery]:
    from model.analysis.probe import ProbeQuery

    asked = [chosen.item.questions[number] for number in chosen.numbers]
    return [
        ProbeQuery(one.text, word or one.phrase or one.text, one.forced_answer) for one in asked
    ]


def _line(chosen: Chosen, number: int, seen: SegTrace, folder: Path) -> QuestionAnalysis:
    """A question's scores, once its images are drawn."""
    image, truth = chosen.item.image, chosen.item.questions[number].truth
    height, width = image.shape[:2]
    factor = min(1, MAP_SIDE / max(height, width))
    shape = max(1, round(height * factor)), max(1, round(width * factor))
    images = draw_question(
        image,
        {name: one.over((height, width), shape) for name, one in seen.maps.items()},
        seen.points,
        seen.labels,
        {**seen.masks, FINAL: seen.answer.mask},
        truth if is_known(truth) else None,
        folder,
        f"{chosen.image_index:05d}_{number:02d}",
    )
    return replace(analyse_question(chosen.image_index, number, chosen.item, seen), images=images)


def show(out: Path) -> None:
    """Write tables and page of an analysis; print the measures of all models."""
    summaries = [write_tables(folder) for folder in analysed_folders(out)]
    heads = ["", *(f"{one['model']} ({one['questions']} questions)" for one in summaries)]
    measures = [one["measures"]["all"] for one in summaries]
    print(table_text(Table("How [SEG] works", heads, _rows(measures))), end="\n\n")
    if layers := _rows([one["layers"] for one in summaries]):
        print(table_text(Table("Best S-IoU [SEG] x LLaVA by layer", heads, layers)), end="\n\n")
    for one in summaries:
        for note in one["notes"]:
            print(f"{one['model']}: {note}")
    print(f"page: {write_dashboard(out)}", flush=True)


def _rows(measures: Sequence[dict[str, dict[str, float | None]]]) -> list[list[str]]:
    """A row for each name, a cell for each model."""
    names = dict.fromkeys(name for one in measures for name in one)
    return [[name, *(_cell(one.get(name)) for one in measures)] for name in names]


def _cell(measures: dict[str, float | None] | None) -> str:
    if measures is None or measures["value"] is None:
        return number_text(None)
    if measures["low"] is None:
        return number_text(measures["value"])
    value, low, high = (number_text(measures[name]) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


@cli(interrupted="finished questions are kept; the same command goes on")
def main(argv: list[str] | None = None) -> None:
    options = parse(AnalyzeOptions, argv, checks=[evaluation_flags], prog="analyze_read.py")
    out = Path(options.out)
    with RunLock(out / LOCK_FILE, f"the folder of the analysis {out}", "give another --out"):
        if options.cmd == "analyze":
            for path in options.model_paths.values():
                check_models(path, options.vision_tower)
            for name, path in options.model_paths.items():
                analyze(replace(options, pretrained_model_path=path), out / name)
        show(out)


if __name__ == "__main__":
    sys.exit(main())

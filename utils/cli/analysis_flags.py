"""The flags of the analysis, by group. `utils.cli.options` joins and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from utils.cli.flags import POSITIVE, option
from utils.cli.parser import Problem

ALL_LAYERS = "all"


@dataclass(frozen=True)
class AnalyzedFlags:
    """What is analysed."""

    cmd: Literal["analyze", "dashboard"] = option(
        "analyze", "look at a model, or write tables and page of what is in --out again"
    )
    models: list[str] | None = option(
        None,
        "several models on the same questions, in place of --pretrained_model_path",
    )
    images: str | None = option(
        None,
        "folder of images with questions (questions.jsonl, or NAME.txt beside NAME.jpg), "
        "in place of --val_dataset",
        path=True,
    )
    eval_mode: Literal["teacher_forced", "generated"] = option(
        "teacher_forced", "the answer is given, or the model generates it"
    )
    max_questions: int | None = option(None, "only so many questions; none: all", limit=POSITIVE)


@dataclass(frozen=True)
class MapFlags:
    """Similarity maps."""

    layers: str | None = option(
        None,
        "layers of [SEG] x LLaVA to compare, such as 0-32 or 0,8,16-32, or all; 0: what enters "
        "the language model",
    )
    word: str | None = option(
        None, "word for word x CLIP; none: what the data call the object (needs the whole CLIP)"
    )
    vision_pretrained: str | None = option(
        None,
        "SAM's own .pth file as before training, to see what the points alone are worth to it",
        path=True,
    )


@dataclass(frozen=True)
class AnalysisFlags:
    """Output."""

    out: str = option("./analysis", "folder to write: a folder for each model, dashboard.html")
    resume: bool = option(True, "go on after the questions that are already analysed")


def read_layers(text: str, last: int) -> list[int]:
    """Layers that `--layers` names, in order, each once.

    Args:
        text: numbers and ranges "FIRST-LAST", joined by commas, or "all".
        last: number of the last layer.

    Raises:
        ValueError: it is none of these, or goes beyond `last`; the message says which part.
    """
    if text.strip() == ALL_LAYERS:
        return list(range(last + 1))
    chosen: set[int] = set()
    for part in text.split(","):
        ends = [end.strip() for end in part.split("-")]
        if len(ends) > 2 or not all(end.isdecimal() for end in ends):
            raise ValueError(f"{part.strip()!r} is no layer and no range of layers")
        first, final = int(ends[0]), int(ends[-1])
        if first > final:
            raise ValueError(f"the range {part.strip()} runs backwards")
        if final > last:
            raise ValueError(f"layer {final} is beyond the last one, {last}")
        chosen.update(range(first, final + 1))
    return sorted(chosen)


def layer_problems(text: str | None, last: int | None, model: str) -> list[Problem]:
    """`--layers` has to name layers that the model has.

    Args:
        text: the flag.
        last: number of the model's last layer; None: not known yet.
        model: its name.
    """
    try:
        if text is not None:
            read_layers(text, 10_000 if last is None else last)
    except ValueError as error:
        allowed = "LAST" if last is None else last
        return [
            Problem(
                f"--layers={text}: {error}; give numbers and ranges from 0 to {allowed} such as "
                f"0,2-{allowed}, or all (model {model})"
            )
        ]
    return []

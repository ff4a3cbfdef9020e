"""The model card of a merged folder: what it comes from, its metrics, how to load it."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from utils.cli import checks, parser
from utils.cli.options import StartOptions, TrainOptions
from utils.files import read_lines
from utils.hub.models import check_model
from utils.training.run_log import METRICS_FILE

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

CARD_FILE = "README.md"
TEMPLATE = Path(__file__).parent / "assets" / "model_card.md.j2"
LIBRARY = "read-segmentation"
TAGS = ("read", "reasoning-segmentation", "referring-image-segmentation", "multimodal")
METRICS = {"giou": "gIoU", "ciou": "cIoU"}
"""Key in a line of `metrics.jsonl` -> label. With the words given, See would tell nothing."""

LICENCE_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
"""A `license_name` in the form that the hub asks for; others stand in the text alone."""


class Checkpoint(NamedTuple):
    """What a run says of the checkpoint that is merged.

    Args:
        step: optimiser steps done.
        best: whether it is the best one of its run.
        metrics: its validation, a line of `metrics.jsonl`; empty if there was none.
    """

    step: int
    best: bool
    metrics: dict[str, Any]


class TrainingData(NamedTuple):
    """The data that a model was trained and validated on.

    Args:
        mixture: name of `--dataset` -> (rate, the sets that it was drawn from).
        hub_names: of the published sets among them, in a form that the hub's metadata can hold.
        validation: what `--val_dataset` says, with its split.
        name, split: of the validation set.
    """

    mixture: dict[str, tuple[float, list[str]]]
    hub_names: list[str]
    validation: str
    name: str
    split: str


class Licence(NamedTuple):
    """The licence that a model card names, and where its text stands."""

    name: str | None = None
    link: str | None = None


def validation_of(run_dir: Path, step: int) -> dict[str, Any]:
    """The line of `metrics.jsonl` that the training wrote at this step; empty: none.

    Lines of `--eval_only` do not count: they may be about another data set.
    """
    lines = read_lines(run_dir / METRICS_FILE)
    own = [line for line in lines if line.get("step") == step and not line.get("eval_only")]
    return own[-1] if own else {}


def model_card(
    start: StartOptions,
    repo: str | None,
    checkpoint: Checkpoint | None = None,
    trained_on: TrainingData | None = None,
) -> ModelCard:
    """The card of a merged model.

    Args:
        start: the flags of the run (`TrainOptions`), or those of the model alone.
        repo: hub id that the folder gets; None: it stays here.
        checkpoint, trained_on: None: nothing is known but the weights.
    """
    from huggingface_hub import ModelCard, ModelCardData

    shown = TrainOptions if isinstance(start, TrainOptions) and checkpoint else StartOptions
    names = [item.name for item in fields(shown)]
    plain = shown(**{name: without_folder(getattr(start, name)) for name in names})
    base_id = start.version if is_on_hub(start.version) else None
    measured = checkpoint.metrics if checkpoint else {}
    metrics = [(METRICS[key], measured[key]) for key in METRICS if measured.get(key) is not None]
    licence = licence_of(start.version)
    title = repo.rpartition("/")[2] if repo else getattr(plain, "exp_name", "READ")
    data = ModelCardData(
        base_model=base_id,
        datasets=(trained_on.hub_names if trained_on else None) or None,
        eval_results=[eval_result(trained_on, *pair) for pair in metrics] or None,
        library_name=LIBRARY,
        license="other",
        license_name=licence.name if LICENCE_NAME.fullmatch(licence.name or "") else None,
        license_link=licence.link,
        model_name=title if metrics else None,
        pipeline_tag="image-segmentation",
        tags=list(TAGS),
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        repo=repo,
        precision=start.precision,
        base=plain.version,
        base_id=base_id,
        tower=plain.vision_tower,
        tower_id=start.vision_tower if is_on_hub(start.vision_tower) else None,
        sam=plain.sam if isinstance(plain.sam, str) else "other sizes, see the flags",
        sam_file=plain.vision_pretrained,
        mixture=trained_on.mixture if trained_on else {},
        step=checkpoint.step if checkpoint else None,
        best=checkpoint.best if checkpoint else False,
        metrics=metrics,
        questions=measured.get("questions"),
        evaluated=trained_on.validation if trained_on else None,
        licence=licence.name,
        licence_link=licence.link,
        flags=parser.to_text(plain),
    )


def eval_result(evaluated: TrainingData | None, label: str, value: float) -> EvalResult:
    """One metric as the hub stores it, and the set that it was measured on."""
    from huggingface_hub import EvalResult

    assert evaluated is not None  # a checkpoint without its run has no metrics
    return EvalResult(
        task_type="image-segmentation",
        dataset_type=evaluated.name,
        dataset_name=evaluated.name,
        dataset_split=evaluated.split,
        metric_type=label.lower(),
        metric_name=f"{label}, teacher forced",
        metric_value=round(value, 4),
    )


def is_on_hub(source: str) -> bool:
    """Whether a model is named by its hub id, not by a folder that is here."""
    return checks.is_hub_id(source) and not os.path.exists(source)


def without_folder(value: Any) -> Any:
    """An absolute path becomes its last part, so that no card tells how a machine is laid out."""
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def licence_of(model: str) -> Licence:
    """The licence that the card of a model names, in its folder or on the hub.

    A model without a card, or whose card cannot be had, names none. A link to a file in the
    model's own repository becomes a whole one.
    """
    from huggingface_hub import ModelCard, hf_hub_url

    on_hub = is_on_hub(model)
    try:
        if on_hub:
            check_model(model)
        source = model if on_hub else str(Path(model) / CARD_FILE)
        data = ModelCard.load(source, ignore_metadata_errors=True).data
    except Exception:  # noqa: BLE001  (a card is anybody's text; merging does not depend on it)
        return Licence()
    name = data.license_name or data.license
    link = data.license_link
    if not isinstance(name, str) or name == "other":
        name = None
    if not isinstance(link, str):
        link = None
    elif "://" not in link:
        link = hf_hub_url(model, link) if on_hub else None
    return Licence(name, link)

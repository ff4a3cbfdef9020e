"""What data a model was trained and validated on, for its card."""

from __future__ import annotations

from pathlib import Path

from dataset import catalog
from dataset.flag_checks import mixture, selection
from utils.cli.options import TrainOptions
from utils.hub.model_card import TrainingData


def training_data(options: TrainOptions) -> TrainingData:
    """The sources of `--dataset` that are drawn at all, and the set of `--val_dataset`."""
    sources = {}
    for name, rate in mixture(options).items():
        flag = catalog.DATA_FLAGS.get(name)
        specs = getattr(options, flag).split("||") if flag else [name]
        if rate > 0:
            # No folder: a card does not tell how a machine is laid out.
            sources[name] = (rate, [Path(spec.partition("|")[0]).name for spec in specs])
    names = [source for _, of_name in sources.values() for source in of_name]
    wanted = selection(options.val_dataset, options.val_split)
    return TrainingData(sources, hub_names(names), str(wanted), wanted.name, wanted.split)


def hub_names(sources: list[str]) -> list[str]:
    """The published sets among the sources, by hub id if one is known, else by name.

    Names that the hub's metadata cannot hold ("refcoco+") are left to the text of the card.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    names = []
    for source in sources:
        if source not in catalog.SETS:
            continue
        name = catalog.SETS[source].url.partition("/datasets/")[2] or source
        try:
            validate_repo_id(name)
        except HFValidationError:
            continue
        names.append(name)
    return names

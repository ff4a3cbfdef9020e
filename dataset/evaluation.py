"""The evaluation set that `--val_dataset` names."""

from __future__ import annotations

from collections.abc import Sequence

from dataset.catalog import EVALUATION_SETS
from dataset.own.sets import OwnEval
from dataset.reason_seg import ReasonSegEval
from dataset.refer.sets import ReferSegEval
from dataset.templates import load_templates
from utils.protocol.batch import EvalItem
from utils.protocol.constants import POLYGON_FILLS

TEMPLATE_SEED = 42
"""Chance of templates that are not fixed: the seed of the published evaluations."""


def evaluation_set(
    dataset_dir: str,
    name: str,
    split: str,
    split_by: str | None = None,
    *,
    templates: str = "simple",
    false_premises: bool = False,
    polygon_fill: str = POLYGON_FILLS[0],
) -> Sequence[EvalItem]:
    """Images with all of their questions.

    Args:
        dataset_dir: the data folder.
        name: ReasonSeg, one of the referring sets, or a set of one's own below `own/`.
        split: "val", "test", "testA", ...; for ReasonSeg also "short", "long", "overall".
        split_by: of a referring set, when it is not the published one.
        templates: wording of the questions: "simple", "varied" or a file; of the answers that a
            teacher-forced evaluation gives too, except for ReasonSeg, whose answer is fixed.
        false_premises: ask about objects that are not there as well.
        polygon_fill: of ReasonSeg's true masks, one of `POLYGON_FILLS`.

    Raises:
        InputError: data or templates are missing or wrong; for an item: its files are broken.
    """
    chosen = load_templates(templates)
    if name == "ReasonSeg":
        return ReasonSegEval(
            dataset_dir, split, false_premises, chosen, TEMPLATE_SEED, polygon_fill
        )
    if name in EVALUATION_SETS:
        return ReferSegEval(
            dataset_dir,
            name,
            split,
            split_by=split_by,
            templates=chosen,
            seed=TEMPLATE_SEED,
            false_premises=false_premises,
        )
    return OwnEval(
        dataset_dir,
        name,
        split,
        templates=chosen,
        seed=TEMPLATE_SEED,
        false_premises=false_premises,
    )

"""Is the data all there, and whole? `python -m dataset.doctor --dataset_dir DIR [--deep] [--json]`.

Prints a table with a row for each data set, where the sets come from, and what is wrong with them:
file, fault, remedy. What is checked follows from the same flags that training takes:

* `--dataset A||B` (or `--config PRESET.yaml`): what these need; `--val_dataset NAME|SPLIT`: what an
  evaluation on it needs. Without the latter every split of the sets that is there. Of sets of your
  own always every split.
* neither of them: all of the published mixture, ReasonSeg's validation split, and whatever else is
  there (ReasonSeg's test split, sets of your own below `own/`).

Without `--deep` annotation files are read and compared with the files on disk, and a few images
of each set are decoded; with it every image, label map and mask is. Everything is opened by the
loaders of training; their indexes of annotation files go to a temporary folder. `--cache` also
writes those that training reads, which the first training would otherwise do.

Exit code: 0 everything that is needed can be used, 1 something is missing or broken, 2 bad flags.
Less images than the published set has are shown, and are no fault.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset import flag_checks
from dataset.catalog import DATA_FLAGS, REFER_FAMILIES, SETS
from utils.cli.entry_point import cli
from utils.cli.flags import flags_of
from utils.cli.options import TrainOptions
from utils.cli.parser import read_preset
from utils.cli.train_flags import DataFlags
from utils.errors import InputError, InputErrors

if TYPE_CHECKING:
    from dataset.doctor.checkup import Wanted
    from dataset.doctor.report import SetReport

_TAKEN = (
    *("dataset_dir", "dataset", "sample_rates", *DATA_FLAGS.values()),
    *("val_dataset", "val_split"),
)
_FOUND = 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dataset.doctor",
        description="Check the data sets on disk: what is missing or broken, and where to get it.",
        epilog="Exit code: 0 all is well, 1 something needed is missing or broken, 2 bad flags.",
        allow_abbrev=False,
    )
    helps = {name: flag.help for name, flag in flags_of(DataFlags).items()}
    for name in _TAKEN:
        default = f" (default: {getattr(DataFlags, name)})" if name.endswith("_data") else ""
        parser.add_argument(f"--{name}", metavar="VALUE", help=helps[name] + default)
    parser.add_argument("--config", metavar="FILE.yaml", help="take these flags from a preset")
    parser.add_argument("--deep", action="store_true", help="decode every image and mask")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that decode (default: one per core)",
    )
    parser.add_argument(
        "--cache", action="store_true", help="also write the indexes that training reads"
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    return parser


def _flags(given: argparse.Namespace) -> tuple[DataFlags, bool, bool]:
    """(data flags: by hand, else of the preset, else the defaults; whether training was named;
    whether validation was).
    """
    values: dict[str, Any] = {}
    training = validation = False
    if given.config is not None:
        preset, problems = read_preset(given.config, flags_of(TrainOptions))
        if problems:
            raise InputErrors([problem.message for problem in problems])
        values = {name: value for name, value in preset.items() if name in flags_of(DataFlags)}
        training, validation = not preset.get("eval_only"), not preset.get("no_eval")
    values |= {name: getattr(given, name) for name in _TAKEN if getattr(given, name) is not None}
    if given.dataset is not None and "sample_rates" in values and given.sample_rates is None:
        values.pop("sample_rates")
    training = training or given.dataset is not None
    validation = validation or given.val_dataset is not None
    return DataFlags(**values), training, validation


def _wanted(flags: DataFlags, training: bool, validation: bool) -> list[Wanted]:
    """What these flags ask for; without any: the default mixture and whatever else is there."""
    from dataset.doctor.checkup import Wanted, wanted_sets

    everything = not training and not validation
    problems = flag_checks.training(flags) if training or everything else []
    problems += flag_checks.evaluation(flags) if validation or everything else []
    wrong = [problem.message for problem in problems if not problem.missing]
    if wrong:
        raise InputErrors(wrong)
    wanted = wanted_sets(flags, training or everything, validation or everything)
    if not validation and not everything:
        return [_with_all_splits(flags, want) for want in wanted]
    if not everything:
        return wanted
    test = Path(flags.dataset_dir) / SETS["ReasonSeg"].root / "test"
    extra = [Wanted("ReasonSeg", "reason_seg", ("test",))] if test.is_dir() else []
    own = flag_checks.own_names(flags.dataset_dir)
    return wanted + extra + [Wanted(name, None) for name in own]


def _with_all_splits(flags: DataFlags, want: Wanted) -> Wanted:
    """With the splits of ReasonSeg that are there, where no flag says which are needed."""
    if want.family != "reason_seg":
        return want
    folder = Path(flags.dataset_dir) / SETS[want.name].root
    there = [split for split in ("train", "val", "test") if (folder / split).is_dir()]
    return replace(want, splits=tuple(dict.fromkeys((*want.splits, *there))))


def _write_indexes(root: Path, wanted: Sequence[Wanted], reports: Sequence[SetReport]) -> None:
    """Open the sets that are in order as training would: it then finds their indexes made."""
    from dataset.refer.sets import ReferSet
    from dataset.sampling import SamplingOptions
    from dataset.sem_seg.sampling import SemSegTrain
    from dataset.vqa import VqaTrain

    sound = {report.name for report in reports if not report.errors}
    for want in wanted:
        if want.name not in sound:
            continue
        if want.family == "sem_seg":
            SemSegTrain(root, want.name, SamplingOptions())
        elif want.family == "vqa":
            VqaTrain(root, want.name, SamplingOptions())
        elif want.family in REFER_FAMILIES:
            ReferSet(root, want.name, want.split_by)


@cli
def main(argv: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    if given.workers < 0:
        raise InputError(f"--workers={given.workers}: give 0 or more")
    flags, training, validation = _flags(given)
    root = Path(flags.dataset_dir)
    if not root.is_dir():
        raise InputError(
            f"--dataset_dir={root}: no such folder; give the folder that holds ade20k/, "
            "refer_seg/, reason_seg/ and so on, or write toy data with python -m dataset.toy"
        )
    # The loaders take seconds to import: mistakes in flags are told before.
    from dataset.doctor.checkup import examine
    from dataset.doctor.printing import as_json, as_text
    from dataset.doctor.report import Level

    level = Level.DEEP if given.deep else Level.FULL
    wanted = _wanted(flags, training, validation)
    reports = examine(root, wanted, level, given.workers, show=True)
    if given.cache:
        _write_indexes(root, wanted, reports)
    if given.json:
        print(json.dumps(as_json(root, level, reports), ensure_ascii=False, indent=2))
    else:
        colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print(as_text(root, level, reports, colours))
    return _FOUND if any(report.errors for report in reports) else 0


if __name__ == "__main__":
    raise SystemExit(main())

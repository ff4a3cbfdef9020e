"""Is the data that a training or an evaluation needs there, and whole?

`wanted_sets` says what flags ask for, `examine` checks it, `quick` is the part for the start of a
run. `python -m dataset.doctor` is the command line.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from dataset.catalog import DATA_FLAGS, OWN_FOLDER, SETS, SetFacts, splits_of
from dataset.doctor import sources
from dataset.doctor.dataset_check import DatasetCheck
from dataset.doctor.decode import Decoder
from dataset.doctor.report import Finding, Level, SetReport
from dataset.flag_checks import selection
from utils.cli.train_flags import DataFlags

Inspect = Callable[[DatasetCheck], None]


@dataclass(frozen=True)
class Wanted:
    """One data set that is to be checked.

    Args:
        name: of the set.
        family: name in `--dataset`; None: a set of the user's own, below own/.
        splits: that have to be in it; a split of ReasonSeg is a row of its own.
        split_by: of its references; None: the published one, or what stands in for it.
    """

    name: str
    family: str | None
    splits: tuple[str, ...] = ()
    split_by: str | None = None


def wanted_sets(options: DataFlags, training: bool, validation: bool) -> list[Wanted]:
    """The sets that flags need, each once; their names have been checked before.

    Args:
        training: the sets of `--dataset` that are ever drawn.
        validation: the set of `--val_dataset`.
    """
    wanted: dict[tuple[str, str | None, str | None], list[str]] = {}
    for name in drawn(options) if training else []:
        if name not in DATA_FLAGS:
            own, _, split = name.partition("|")
            wanted.setdefault((own, None, None), []).append(split or "train")
            continue
        for source in getattr(options, DATA_FLAGS[name]).split("||"):
            parts = wanted.setdefault((source.partition("|")[0], name, None), [])
            parts += splits_of(source) or ("train",)
    if validation:
        selected = selection(options.val_dataset, options.val_split)
        family = SETS[selected.name].family if selected.name in SETS else None
        parts = wanted.setdefault((selected.name, family, selected.split_by), [])
        parts += splits_of(f"|{selected.split}") if family else (selected.split,)
    return [
        Wanted(name, family, tuple(dict.fromkeys(parts)), split_by)
        for (name, family, split_by), parts in wanted.items()
    ]


def drawn(options: DataFlags) -> list[str]:
    """Names in `--dataset` whose rate is not 0."""
    names = options.dataset.split("||")
    if options.sample_rates is None:
        return names
    rates = options.sample_rates.split(",")
    return [name for name, rate in zip(names, rates, strict=True) if float(rate) > 0]


def examine(
    dataset_dir: str | Path,
    wanted: Sequence[Wanted],
    level: Level = Level.FULL,
    workers: int = 1,
    show: bool = False,
) -> list[SetReport]:
    """Check data sets.

    Args:
        dataset_dir: the folder with all of them.
        wanted: what is checked.
        level: how thorough.
        workers: processes that decode, in a deep check.
        show: progress bars on stderr.

    Returns:
        A report for each set; for each split of ReasonSeg.
    """
    decoder = Decoder(workers, show and level == Level.DEEP)
    rows = [row for want in wanted for row in _rows(want)]
    hidden = not show or level == Level.DEEP
    bar = tqdm(rows, desc="data sets", unit="set", disable=hidden, leave=False)
    for number, (report, spec, inspect) in enumerate(bar, start=1):
        bar.set_postfix_str(report.name)
        decoder.prefix = f"[{number}/{len(rows)}] "
        with tempfile.TemporaryDirectory(prefix="read-doctor-") as scratch:
            check = DatasetCheck(Path(dataset_dir), report, level, decoder, Path(scratch))
            if report.facts is None or check.needed(spec):
                inspect(check)
    return [report for report, _, _ in rows]


def quick(dataset_dir: str | Path, wanted: Sequence[Wanted]) -> list[Finding]:
    """What keeps a run from starting, as far as that is seen within seconds.

    Folders and files that have to be there, listings of folders, a few images of each set;
    annotation files of up to a megabyte are read whole, of others the first and last bytes.

    Returns:
        Errors and warnings, worst first; none if all is well.
    """
    reports = examine(dataset_dir, wanted, Level.QUICK)
    order = ("error", "warning")
    return sorted(
        (f for report in reports for f in report.findings if f.severity in order),
        key=lambda finding: order.index(finding.severity),
    )


def _rows(want: Wanted) -> list[tuple[SetReport, str, Inspect]]:
    """(report, `NAME|SPLIT` if it matters, how it is checked) of each row of a set."""
    name, facts = want.name, SETS.get(want.name)
    if want.family is None:
        inspect = partial(sources.own, name=name, wanted=want.splits)
        return [(SetReport(f"{OWN_FOLDER}/{name}", None), "", inspect)]
    if facts is None:
        inspect = partial(sources.conversations, name=name)
        return [(SetReport(name, None, unit="conversations"), "", inspect)]
    if facts.family == "reason_seg":
        return [
            (
                _report(facts, f"{name}|{split}", split, split),
                f"{name}|{split}",
                partial(sources.reason_seg, split=split),
            )
            for split in want.splits
        ]
    inspect = partial(sources.refer_seg, name=name, splits=want.splits, split_by=want.split_by)
    if facts.family == "vqa":
        inspect = partial(sources.conversations, name=name)
    elif facts.family == "sem_seg":
        with_parts = name in sources.PARTS
        inspect = partial(sources.coco_parts if with_parts else sources.label_maps, name=name)
    return [(_report(facts, name, "images", "annotations"), "", inspect)]


def _report(facts: SetFacts, name: str, images: str, annotations: str) -> SetReport:
    return SetReport(
        name,
        facts,
        unit=facts.unit,
        expected_images=facts.expected.get(images),
        expected_annotations=facts.expected.get(annotations),
    )

"""The flags that name data: what they say, and checks of names, rates and places."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dataset import catalog
from utils.cli import checks
from utils.cli.parser import Problem, suggest

PUBLISHED_RATES = {"sem_seg": 10.0, "reason_seg": 10.0}
"""Sample rates of the 7B model; 1 for all others."""
TEMPLATE_SETS = ("varied", "simple")


class Selection(NamedTuple):
    """What is evaluated.

    Args:
        name: of the set.
        split: "val", "test", "testA", ...
        split_by: of a referring set, None for the published one.
    """

    name: str
    split: str
    split_by: str | None = None

    def __str__(self) -> str:
        return "|".join(part for part in (self.name, self.split_by, self.split) if part)


def selection(val_dataset: str, val_split: str | None) -> Selection:
    """Read `NAME`, `NAME|SPLIT` or `NAME|SPLIT_BY|SPLIT`; `--val_split` wins over the last part.

    Of fprefcoco* there is one division only, and the original's commands name another
    (`fprefcoco|unc|val`): SPLIT_BY says nothing there.
    """
    name, *rest = val_dataset.split("|")
    split = val_split or (rest[-1] if rest and rest[-1] else "val")
    alone = name in catalog.SETS and catalog.SETS[name].family == "correct_refer_seg"
    return Selection(name, split, rest[0] if len(rest) > 1 and rest[0] and not alone else None)


def published_rate(name: str) -> float:
    """How often a data set of `--dataset` is drawn without `--sample_rates`."""
    return PUBLISHED_RATES.get(name, 1.0)


def mixture(options: Any) -> dict[str, float]:
    """Data set of `--dataset` -> how often it is drawn; the flags have been checked before."""
    names = options.dataset.split("||")
    if options.sample_rates is None:
        return {name: published_rate(name) for name in names}
    return dict(zip(names, map(float, options.sample_rates.split(",")), strict=True))


def is_own(dataset_dir: str | Path, name: str) -> bool:
    """Whether the data folder has a set of one's own of that name."""
    plain = name not in ("", ".", "..") and os.path.basename(name) == name
    return plain and (Path(dataset_dir) / catalog.OWN_FOLDER / name).is_dir()


def own_names(dataset_dir: str | Path) -> list[str]:
    """Sets of one's own in the data folder."""
    folder = Path(dataset_dir) / catalog.OWN_FOLDER
    return (
        sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )


def training_flags(options: Any) -> list[Problem]:
    """All flags of a training that name data: for `parse(TrainOptions, checks=[...])`."""
    problems = data_folder(options)
    problems += [] if options.eval_only else training(options)
    problems += template_file(options)
    return problems + ([] if options.no_eval else evaluation(options))


def evaluation_flags(options: Any) -> list[Problem]:
    """All flags of an evaluation or analysis that name data, if it asks a data set at all."""
    if not options.asks_dataset:
        return []
    return data_folder(options) + evaluation(options) + template_file(options)


def template_file(options: Any) -> list[Problem]:
    """`--templates`: a built-in set or a file."""
    if options.templates in TEMPLATE_SETS:
        return []
    names = ", ".join(TEMPLATE_SETS)
    return checks.file("templates", options.templates, "a file of templates", f"or one of {names}")


def evaluation(options: Any) -> list[Problem]:
    """`--val_dataset`, `--val_split`: a known set whose files are there."""
    wanted = selection(options.val_dataset, options.val_split)
    if wanted.name not in catalog.EVALUATION_SETS:
        if is_own(options.dataset_dir, wanted.name):
            return []
        return [_unknown("val_dataset", wanted.name, catalog.EVALUATION_SETS, options.dataset_dir)]
    if options.val_dataset.count("|") > 2:
        return [
            Problem(
                f"--val_dataset={options.val_dataset}: give NAME, NAME|SPLIT or "
                "NAME|SPLIT_BY|SPLIT, for example refcocog|umd|val"
            )
        ]
    split = "test" if wanted.split in catalog.PARTS_OF_TEST else wanted.split
    return _missing("val_dataset", options.dataset_dir, wanted.name, split, wanted.split_by)


def training(options: Any) -> list[Problem]:
    """`--dataset` and the flags with its sources: known names whose files are there."""
    names = options.dataset.split("||")
    rates, problems = _rates(options, names)
    for name, rate in zip(names, rates, strict=True):
        if name in catalog.DATA_FLAGS:
            problems += _family(options, name, needed=rate > 0)
        elif not is_own(options.dataset_dir, name.partition("|")[0]):
            problems.append(_unknown("dataset", name, catalog.DATA_FLAGS, options.dataset_dir))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        problems.append(
            Problem(f"--dataset names {', '.join(twice)} twice; name it once, with a higher rate")
        )
    return problems


def _family(options: Any, name: str, needed: bool) -> list[Problem]:
    """The sources of one family of data sets."""
    flag = catalog.DATA_FLAGS[name]
    given = getattr(options, flag)
    problems = []
    for spec in given.split("||"):
        if name == "vqa":
            problems += _vqa(options.dataset_dir, flag, spec) if needed else []
            continue
        source, _, split = spec.partition("|")
        known = [known for known, facts in catalog.SETS.items() if facts.family == name]
        if source not in known:
            hint = suggest(source, known)
            problems.append(
                Problem(f"--{flag}: unknown source {source!r}{hint}; known: {', '.join(known)}")
            )
        elif needed:
            problems += _missing(flag, options.dataset_dir, source, split or "train")
    return problems


def _vqa(dataset_dir: str, flag: str, name: str) -> list[Problem]:
    if name in catalog.SETS:
        return _missing(flag, dataset_dir, name, "train")
    path = Path(dataset_dir) / "llava_dataset" / f"{name}.json"
    if path.is_file() or not os.path.isdir(dataset_dir):
        return []
    return [Problem(f"--{flag}: {path} does not exist; expected conversations as JSON", True)]


def _missing(
    flag: str, dataset_dir: str, name: str, split: str, split_by: str | None = None
) -> list[Problem]:
    """Files and folders of a set that are not there."""
    if not os.path.isdir(dataset_dir):
        return []  # told once, by `data_folder`
    absent = []
    for need in catalog.needed_paths(dataset_dir, name, f"{name}|{split}"):
        paths: Sequence[Path] = (need.path, *need.alternatives)
        if need.what == "references" and split_by:
            paths = [path for path in paths if f"({split_by})" in path.name]
        if any(path.is_dir() if need.is_folder else path.is_file() for path in paths):
            continue
        path = paths[0] if paths else need.path.with_name(f"refs({split_by}).p")
        absent.append(f"{path.relative_to(dataset_dir)} ({need.what})")
    if not absent:
        return []
    return [
        Problem(
            f"--{flag}: {name} is not complete, in {dataset_dir} there is no "
            f"{', no '.join(absent)}; {catalog.SETS[name].how_to_get}",
            missing=True,
        )
    ]


def data_folder(options: Any) -> list[Problem]:
    """`--dataset_dir` has to be a folder."""
    if os.path.isdir(options.dataset_dir):
        return []
    return [
        Problem(
            f"--dataset_dir={options.dataset_dir}: no such folder; give the one that holds "
            "ade20k/, refer_seg/, reason_seg/ and so on, or write toy data with "
            f"python -m dataset.toy --out {options.dataset_dir}",
            missing=True,
        )
    ]


def _rates(options: Any, names: Sequence[str]) -> tuple[list[float], list[Problem]]:
    """One rate for each name, and what is wrong with `--sample_rates`."""
    if options.sample_rates is None:
        return [published_rate(name) for name in names], []
    given = f"--sample_rates={options.sample_rates}"
    usable = [1.0] * len(names)
    try:
        rates = [float(rate) for rate in options.sample_rates.split(",")]
    except ValueError:
        return usable, [Problem(f"{given}: give numbers joined by commas, one per data set")]
    if len(rates) != len(names):
        return usable, [
            Problem(
                f"{given}: {len(rates)} rates for {len(names)} data sets in --dataset; "
                "give one for each"
            )
        ]
    if not all(0 <= rate < float("inf") for rate in rates) or max(rates) == 0:
        return usable, [
            Problem(f"{given}: give numbers from 0, at least one of them above 0, none infinite")
        ]
    return rates, []


def _unknown(flag: str, name: str, known: Iterable[str], dataset_dir: str) -> Problem:
    own = own_names(dataset_dir)
    hint = suggest(name, [*known, *own])
    folder = Path(dataset_dir) / catalog.OWN_FOLDER
    return Problem(
        f"--{flag}: unknown data set {name!r}{hint}; known: {', '.join([*known, *own])}, "
        f"or a set of your own in {folder / 'NAME'}"
    )

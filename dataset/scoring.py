"""Any model's masks under every published protocol: `python -m utils.evaluation.score`.

    python -m utils.evaluation.score PREDICTIONS --truth SET [--protocols a,b]
        [--compare OTHER ...] [--at_least giou=0.58] [--out DIR]

PREDICTIONS are masks in any form of `utils.evaluation.mask_formats`. SET is a JSON-lines file or a
folder of such files, a predictions folder of this project, or the name of a data set
("ReasonSeg|val") in `--dataset_dir`. Exit codes: 0; 1 if `--at_least` is not reached; 2 for
mistakes in what was given. Files are scored without torch; a data set by name needs it, and
`--write_truth FILE` keeps its truth for machines without.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from utils.cli.entry_point import cli
from utils.errors import InputError, InputErrors
from utils.evaluation.alignment import Predictions, align
from utils.evaluation.comparison import Comparison, compare
from utils.evaluation.mask_counts import Truth
from utils.evaluation.mask_formats import read_any
from utils.evaluation.mask_rows import number_expressions, read_truths, truth_line
from utils.evaluation.predictions import RUN_FILE
from utils.evaluation.protocol_scores import METRICS, ProtocolScores, Run, score_protocols
from utils.evaluation.protocols import PRESETS, SEGS, TEXTS, Protocol, choose_protocols
from utils.protocol.rle import encode_truth

SCORES_FILE = "protocols.json"
PAGE_FILE = "protocols.html"
UNMET = 1


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.evaluation.score",
        description="Score masks under every published protocol that applies to them.",
        allow_abbrev=False,
    )
    flags: dict[str, dict[str, Any]] = {
        "predictions": {"help": "file or folder of masks"},
        "--truth": {
            "help": "JSON lines, a predictions folder of this project, or the set NAME|SPLIT; "
            "default: what lies beside the predictions"
        },
        "--dataset_dir": {"default": "dataset_folder", "help": "where the set NAME lies"},
        "--protocols": {
            "help": "joined by commas, the first one for --at_least and --compare; default: all "
            f"that apply ({', '.join(PRESETS)})"
        },
        "--compare": {
            "nargs": "+",
            "default": [],
            "metavar": "OTHER",
            "help": "predictions to compare with",
        },
        "--at_least": {
            "nargs": "+",
            "default": [],
            "metavar": "METRIC=VALUE",
            "help": f"exit code 1 if it is not reached; METRIC: {', '.join(METRICS)}, or "
            "PROTOCOL:METRIC",
        },
        "--seg": {"choices": SEGS, "default": "", "help": "how [SEG] came into the answers"},
        "--text": {
            "choices": list(TEXTS),
            "default": "",
            "help": "how the questions reached the model",
        },
        "--mode": {"help": "of a folder with two ways of asking: generated or teacher_forced"},
        "--no_target_pixels": {
            "type": int,
            "help": "GRES and GSVA: fewer predicted pixels are none; some of their scripts use 50 "
            "(default: 0)",
        },
        "--false_premises": {
            "action": argparse.BooleanOptionalAction,
            "help": "whether the set NAME asks about what is not there; default: unless [SEG] "
            "was given",
        },
        "--templates": {"default": "simple", "help": "wording of the questions of the set NAME"},
        "--write_truth": {"metavar": "FILE", "help": "write the truth as JSON lines"},
        "--images": {"metavar": "DIR", "help": "for the page: where images of relative path are"},
        "--out": {"metavar": "DIR", "help": f"write {SCORES_FILE} and {PAGE_FILE} there"},
    }
    for flag, settings in flags.items():
        parser.add_argument(flag, **settings)
    return parser.parse_args(argv)


def read_limits(given: Sequence[str]) -> list[tuple[str, str, float]]:
    """`--at_least` as (protocol or "", metric, value).

    Raises:
        InputErrors: unknown protocols or metrics, or no numbers.
    """
    limits, wrong = [], []
    for one in given:
        name, _, value = one.partition("=")
        protocol, _, metric = name.rpartition(":")
        try:
            limit = float(value)
        except ValueError:
            limit = float("nan")
        if metric not in METRICS or (protocol and protocol not in PRESETS) or limit != limit:
            wrong.append(
                f"--at_least {one}: give METRIC=NUMBER or PROTOCOL:METRIC=NUMBER; metrics: "
                f"{', '.join(METRICS)}; protocols: {', '.join(PRESETS)}"
            )
        limits.append((protocol, metric, limit))
    if wrong:
        raise InputErrors(wrong)
    return limits


def set_truths(name: str, options: argparse.Namespace, seg: str) -> list[Truth]:
    """The truth of a data set by name; imports torch.

    Raises:
        InputErrors: no such set, or its files are missing or broken.
    """
    from dataset import flag_checks
    from dataset.evaluation import evaluation_set

    flags = SimpleNamespace(val_dataset=name, val_split=None, dataset_dir=options.dataset_dir)
    problems = [*flag_checks.data_folder(flags), *flag_checks.evaluation(flags)]
    if problems:
        told = [problem.message.replace("--val_dataset", "--truth") for problem in problems]
        raise InputErrors([f"--truth {name}: no such file or folder", *told])
    absent = options.false_premises if options.false_premises is not None else seg != "given"
    items = evaluation_set(
        options.dataset_dir,
        *flag_checks.selection(name, None),
        templates=options.templates,
        false_premises=absent,
    )
    truths = []
    for index in range(len(items)):
        item = items[index]
        for number, question in enumerate(item.questions):
            code, ignored = encode_truth(question.truth)
            height, width = question.truth.shape
            truths.append(
                Truth(
                    id=f"{index}/{number}",
                    image=item.image_path,
                    question=question.text,
                    size=(height, width),
                    objects=(code,),
                    ignored=ignored,
                    exists=question.exists,
                    kind=question.kind,
                    expression=-1,
                )
            )
    return number_expressions(truths)


def truths_for(predictions: Predictions, options: argparse.Namespace) -> list[Truth]:
    """What `--truth` names, or what lies beside the predictions.

    Raises:
        InputError: there is none.
    """
    given = options.truth
    if given and (Path(given) / RUN_FILE).exists():
        predictions = read_any(given, options.mode)
    elif given and (Path(given).exists() or given.endswith(".jsonl")):
        return read_truths(Path(given))
    elif given:
        return set_truths(given, options, predictions.seg)
    if predictions.truths is None:
        raise InputError(
            f"{predictions.name} holds no truth: --truth FILE.jsonl, or --truth NAME|SPLIT with "
            "--dataset_dir"
        )
    return predictions.truths


def open_predictions(path: str, options: argparse.Namespace) -> Predictions:
    """Predictions, with what the command line tells of how they were made.

    Raises:
        InputError: see `read_any`; or the command line contradicts the files.
    """
    predictions = read_any(path, options.mode)
    told = {"seg": options.seg, "text": TEXTS.get(options.text, "")}
    for flag, value in told.items():
        known = getattr(predictions, flag)
        if value and known and value != known:
            raise InputError(
                f"--{flag} {getattr(options, flag)}: {path} says {known}; leave it out"
            )
        setattr(predictions, flag, known or value)
    return predictions


def reference(run: Run, scores: Sequence[ProtocolScores], chosen: bool) -> Protocol:
    """The protocol of `--at_least` and `--compare`: the first of `--protocols`, else the one of
    the run's published row, else the first that applies."""
    applied = {one.protocol.name: one.protocol for one in scores}
    first = next(iter(applied.values()))
    return first if chosen else applied.get(run.row, first)


def unmet(
    limits: Sequence[tuple[str, str, float]], scores: Sequence[ProtocolScores], default: Protocol
) -> list[str]:
    """Which limits are not reached, a line each.

    Raises:
        InputError: a protocol that a limit names was not scored.
    """
    applied = {one.protocol.name: one.metrics for one in scores}
    lines = []
    for protocol, metric, limit in limits:
        name = protocol or default.name
        if name not in applied:
            raise InputError(
                f"--at_least {protocol}:{metric}: {protocol} was not scored; these were: "
                f"{', '.join(applied)}"
            )
        value = applied[name][metric].value
        if value is None or value < limit:
            found = "nothing to count" if value is None else f"{value:.4f}"
            lines.append(f"not reached: {name}:{metric} is {found}, at least {limit:g} was asked")
    return lines


def as_json(
    run: Run, scores: Sequence[ProtocolScores], reasons: dict, comparisons: Sequence[Comparison]
) -> dict[str, Any]:
    """Plain data for `protocols.json`."""

    def plain(metrics: dict) -> dict[str, Any]:
        return {
            key: {"value": found.value, "interval": found.interval}
            for key, found in metrics.items()
        }

    return {
        "predictions": run.name,
        "questions": len(run.questions),
        "row": run.row or None,
        "protocols": {
            one.protocol.name: {
                **vars(one.protocol),
                "questions": one.questions,
                "metrics": plain(one.metrics),
            }
            for one in scores
        },
        "not_applied": reasons,
        "comparisons": [
            {
                "other": one.other.name,
                "protocol": one.protocol.name,
                "differences": plain(one.differences),
                "kinds": [vars(tally) for tally in one.tallies],
                "worst": [run.questions[n][0].id for n in one.worst],
            }
            for one in comparisons
        ],
    }


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except (OSError, UnicodeEncodeError) as error:
        raise InputError(f"cannot write {path} ({error}): give another place") from error


@cli
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 1 if a limit is not reached, 2 on mistakes of the user."""
    options = parse_arguments(argv)
    names = options.protocols.split(",") if options.protocols else None
    if (options.no_target_pixels or 0) < 0:
        raise InputError(f"--no_target_pixels {options.no_target_pixels}: give 0 or more")
    protocols = choose_protocols(names, options.no_target_pixels)
    limits = read_limits(options.at_least)
    predictions = open_predictions(options.predictions, options)
    truths = truths_for(predictions, options)
    if options.write_truth:
        _write(Path(options.write_truth), "".join(map(truth_line, truths)))
    run = align(predictions, truths)
    others = [align(open_predictions(path, options), truths) for path in options.compare]
    return show(run, others, protocols, limits, options, chosen=names is not None)


def show(
    run: Run,
    others: Sequence[Run],
    protocols: Sequence[Protocol],
    limits: Sequence[tuple[str, str, float]],
    options: argparse.Namespace,
    chosen: bool,
) -> int:
    """Score, print, write; the exit code."""
    from utils.reports.page import table_text
    from utils.reports.protocol_page import (
        comparison_tables,
        difference_table,
        protocol_page,
        score_tables,
    )

    scores, reasons = score_protocols(run, protocols)
    if not scores:
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise InputError(f"no protocol applies to {run.name} ({told}); give other --protocols")
    standard = reference(run, scores, chosen)
    comparisons = [compare(run, other, standard) for other in others]
    lines = unmet(limits, scores, standard)
    differences = difference_table(scores)
    tables = [*score_tables(run, scores), *([differences] if differences else [])]
    tables += [table for one in comparisons for table in comparison_tables(one)]
    for table in tables:
        print(table_text(table), *filter(None, [table.note]), sep="\n", end="\n\n")
    for note in run.notes:
        print(note)
    for name, reason in reasons.items():
        print(f"does not apply: {name}: {reason}")
    for one in scores:
        if remark := one.unknown:
            print(f"applies only {remark}: {one.protocol.name}")
    if options.out:
        roots = [Path(options.images)] if options.images else []
        folder = Path(options.out)
        found = as_json(run, scores, reasons, comparisons)
        _write(folder / SCORES_FILE, json.dumps(found, indent=1, allow_nan=False) + "\n")
        _write(folder / PAGE_FILE, protocol_page(run, scores, reasons, comparisons, roots))
        print(f"page: {folder / PAGE_FILE}")
    for line in lines:
        print(line, file=sys.stderr)
    return UNMET if lines else 0


if __name__ == "__main__":
    sys.exit(main())

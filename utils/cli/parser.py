"""Command lines made from dataclasses: one dataclass per entry point holds every flag.

A field declared with `flags.option(...)` becomes `--field_name`. Values come from three places,
later ones win: the default, the YAML file of `--config`, the flags given by hand. All mistakes are
collected and reported together. `problems()` of the dataclass adds its own checks.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from utils.cli.entry_point import let_first_rank_tell
from utils.cli.flags import Flag, convert, flags_of
from utils.errors import EXIT_CODE, InputErrors
from utils.files import write_file

REPOSITORY = Path(__file__).resolve().parents[2]
NO_VALUE = object()

Options = TypeVar("Options")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration.

    Args:
        message: names the value, what is allowed and the remedy.
        missing: True when the configuration itself is sound but something it needs is not on
            this machine (a path, a package, a loader): a dry run only warns of it.
    """

    message: str
    missing: bool = False


Check = Callable[[Any], list[Problem]]


def _build_parser(cls: type, flags: dict[str, Flag], prog: str | None) -> argparse.ArgumentParser:
    description = (cls.__doc__ or "").strip().splitlines()[0]
    parser = argparse.ArgumentParser(
        prog=prog, description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    general = parser.add_argument_group("configuration")
    general.add_argument("--config", metavar="FILE.yaml", help="preset; flags given by hand win")
    general.add_argument(
        "--dry_run", action="store_true", help="check and print the configuration, do nothing"
    )
    defaults = _defaults(cls)
    groups: dict[str, Any] = {}
    for flag in flags.values():
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        default = defaults.get(flag.name)
        text = f"{flag.help} (default: {default})".replace("%", "%%")
        groups[flag.group].add_argument(
            f"--{flag.name}",
            nargs="*" if flag.is_list else "?",
            const=None if flag.is_list else "true" if flag.is_switch else NO_VALUE,
            metavar="|".join(str(c) for c in flag.choices) if flag.choices else "VALUE",
            help=text + (f"; off: --no_{flag.name}" if _negation(flag, flags) else ""),
        )
        if _negation(flag, flags):
            parser.add_argument(
                f"--no_{flag.name}",
                dest=flag.name,
                action="store_const",
                const="false",
                help=argparse.SUPPRESS,
            )
    return parser


def _negation(flag: Flag, flags: dict[str, Flag]) -> bool:
    """Whether `--no_NAME` exists: not for names that begin with it, nor over another flag."""
    return flag.is_switch and not flag.name.startswith("no_") and f"no_{flag.name}" not in flags


def _defaults(cls: type) -> dict[str, Any]:
    defaults = {}
    for item in dataclasses.fields(cls):
        if item.default is not dataclasses.MISSING:
            defaults[item.name] = item.default
        elif item.default_factory is not dataclasses.MISSING:
            defaults[item.name] = item.default_factory()
    return defaults


def _underscores(argument: str) -> str:
    """`--local-rank=0` is `--local_rank=0`; values stay as they are."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return "--" + name.replace("-", "_") + equals + value


def suggest(name: str, known: Iterable[str]) -> str:
    """ ", did you mean ...?" for names close to `name`, or ""."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f", did you mean {' or '.join(close)}?" if close else ""


def read_preset(path: str | Path, flags: dict[str, Flag]) -> tuple[dict[str, Any], list[Problem]]:
    """Values of a YAML preset by field name, with everything that is wrong in it."""
    file = locate(str(path))
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, [Problem(f"--config {path}: no such file; presets lie in configs/")]
    except (OSError, UnicodeDecodeError) as error:
        return {}, [Problem(f"--config {path}: cannot be read ({error}); give a YAML file")]
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        return {}, [Problem(f"--config {path}: is not valid YAML ({where})")]
    if content is None:
        return {}, []
    if not isinstance(content, dict):
        return {}, [Problem(f"--config {path}: has to be a mapping of flag names to values")]
    values: dict[str, Any] = {}
    problems = []
    for name, value in content.items():
        if name not in flags:
            hint = suggest(str(name), flags)
            problems.append(Problem(f"--config {path}: unknown key {name!r}{hint}"))
            continue
        try:
            values[name] = convert(flags[name], value)
        except ValueError as error:
            problems.append(Problem(f"--config {path}: {error}"))
            continue
        if flags[name].path and isinstance(values[name], str):
            values[name] = locate(values[name])
    return values, problems


def locate(path: str) -> str:
    """A relative path that is not in the working directory but in the repository: that one."""
    inside = REPOSITORY / path
    if path and not os.path.exists(path) and not os.path.isabs(path) and inside.exists():
        return str(inside)
    return path


def resolve(
    cls: type[Options],
    argv: list[str],
    prog: str | None = None,
    checks: Sequence[Check] = (),
) -> tuple[Options | None, list[Problem], dict[str, str], bool]:
    """Read preset and flags without printing or leaving.

    Returns:
        (options, or None if values are unusable; problems; origin of each value that is not a
        default; whether `--dry_run` was given)
    """
    flags = flags_of(cls)
    parser = _build_parser(cls, flags, prog)
    known, rest = parser.parse_known_args([_underscores(argument) for argument in argv])
    given = vars(known)
    dry_run = given.pop("dry_run", False)
    preset = given.pop("config", None)
    problems: list[Problem] = []
    values = _defaults(cls)
    origins: dict[str, str] = {}
    if preset is not None:
        from_preset, problems = read_preset(preset, flags)
        values.update(from_preset)
        origins.update(dict.fromkeys(from_preset, str(preset)))
    for name, value in given.items():
        if value is NO_VALUE or value == []:
            problems.append(Problem(f"--{name} needs a value: {flags[name].expects}"))
            continue
        try:
            values[name] = convert(flags[name], value)
            origins[name] = "by hand"
        except ValueError as error:
            problems.append(Problem(str(error)))
    problems += _unknown(rest, [*flags, "config", "dry_run"])
    for name in flags:
        if name not in values:
            problems.append(Problem(f"--{name} is required: {flags[name].help}"))
    complete = all(name in values for name in flags)
    options = cls(**values) if complete else None
    if options is not None:
        for name, flag in flags.items():
            value = values[name]
            if flag.limit and value is not None and not flag.limit.holds(value):
                problems.append(Problem(f"--{name}={value}: {flag.limit.remedy}"))
        own = getattr(cls, "problems", None)
        for check in [own, *checks] if own else checks:
            problems += check(options)
    return options, problems, origins, dry_run


def origins(cls: type, argv: list[str] | None = None) -> dict[str, str]:
    """Where each value comes from that is not a default: "by hand", or the preset's path."""
    return resolve(cls, sys.argv[1:] if argv is None else argv)[2]


def _unknown(rest: list[str], names: list[str]) -> list[Problem]:
    problems = []
    for argument in rest:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0]
            bare = name.removeprefix("no_")
            hint = suggest(name, names) or suggest(bare, names)
            problems.append(Problem(f"unknown flag --{name}{hint or '; --help lists all flags'}"))
        else:
            problems.append(Problem(f"unexpected argument {argument!r}; --help lists all flags"))
    return problems


def parse(
    cls: type[Options],
    argv: list[str] | None = None,
    *,
    checks: Sequence[Check] = (),
    prog: str | None = None,
    show: bool = True,
) -> Options:
    """Options from the command line; leaves with exit code 2 after listing every mistake.

    Args:
        cls: a dataclass whose fields are made by `flags.option`; its method `problems()`, if any,
            returns further `Problem`s.
        argv: arguments without the program's name; default: those of this process.
        checks: further checks, of what only the rooms above know: data, models.
        prog: the program's name in `--help`.
        show: print the resolved configuration (a dry run always does). Only rank 0 prints it.

    Raises:
        SystemExit: 2 on mistakes; 0 after `--dry_run` or `--help`.
    """
    given = sys.argv[1:] if argv is None else argv
    options, problems, origins, dry_run = resolve(cls, given, prog, checks)
    first = os.environ.get("RANK", "0") == "0"
    fatal = [problem for problem in problems if not (dry_run and problem.missing)]
    if first and options is not None and (dry_run or (show and not fatal)):
        print(to_text(options, origins), flush=True)
    if dry_run and first:
        for problem in problems:
            if problem.missing:
                print(f"warning: {problem.message}", file=sys.stderr)
    if options is None or fatal:
        if first:
            for problem in fatal:
                print(f"error: {problem.message}", file=sys.stderr)
        let_first_rank_tell()
        raise SystemExit(EXIT_CODE)
    if dry_run:
        raise SystemExit(0)
    return options


def to_text(options: Any, origins: dict[str, str] | None = None) -> str:
    """The configuration as YAML under a heading per group, origins as comments."""
    lines: list[str] = []
    group = None
    for name, flag in flags_of(type(options)).items():
        if flag.group != group:
            lines += [""] * (group is not None) + [f"# {flag.group}"]
            group = flag.group
        value = yaml.safe_dump(getattr(options, name), width=10_000, default_flow_style=True)
        text = value.removesuffix("...\n").rstrip("\n")
        origin = f"    # {origins[name]}" if origins and name in origins else ""
        lines.append(f"{name}: {text}{origin}")
    return "\n".join(lines) + "\n"


def save(options: Any, path: str | Path) -> None:
    """Write the configuration as YAML; paths that exist become absolute, so it works anywhere."""
    absolute = {
        name: os.path.abspath(getattr(options, name))
        for name, flag in flags_of(type(options)).items()
        if flag.path and getattr(options, name) and os.path.exists(getattr(options, name))
    }
    write_file(path, to_text(dataclasses.replace(options, **absolute)))


def load(cls: type[Options], path: str | Path) -> Options:
    """Read what `save` wrote; keys it lacks keep their defaults.

    Raises:
        InputErrors: the file is missing, not YAML, or has unknown keys.
    """
    values, problems = read_preset(path, flags_of(cls))
    if problems:
        raise InputErrors([problem.message for problem in problems])
    return cls(**{**_defaults(cls), **values})

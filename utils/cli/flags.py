"""One flag of a command line: how a dataclass field declares it and how its value is read."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

MAPPING_HINT = "{key: value, ...}"
TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")


class Limit(NamedTuple):
    """What a number has to be, as a test and in words."""

    holds: Callable[[float], bool]
    remedy: str


POSITIVE = Limit(lambda value: value > 0, "give a number above 0")
NOT_NEGATIVE = Limit(lambda value: value >= 0, "give 0 or more")
BELOW_ONE = Limit(lambda value: 0 <= value < 1, "give a number from 0 up to, not including, 1")


def option(
    default: Any,
    help: str,
    choices: tuple[Any, ...] | None = None,
    path: bool = False,
    limit: Limit | None = None,
) -> Any:
    """A dataclass field that is a flag.

    Args:
        default: value when neither the preset nor the command line gives one; lists and
            mappings are copied for every instance.
        help: one line for `--help`.
        choices: the allowed values, if there are few (a `Literal` type says the same).
        path: True for a file or folder: a relative path in a preset is then looked up in the
            working directory first, in the repository next.
        limit: of a number; one that is None keeps it.
    """
    metadata = {"help": help, "choices": choices, "path": path, "limit": limit}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Flag:
    """What the command line needs to know of one field."""

    name: str
    kinds: tuple[type, ...]
    item: type | None
    optional: bool
    choices: tuple[Any, ...] | None
    help: str
    group: str
    path: bool
    limit: Limit | None

    @property
    def is_switch(self) -> bool:
        return self.kinds == (bool,)

    @property
    def is_list(self) -> bool:
        return list in self.kinds

    @property
    def expects(self) -> str:
        """What a value has to look like, in words."""
        if self.choices:
            return "one of " + ", ".join(str(choice) for choice in self.choices)
        words = {
            bool: "True or False",
            int: "a whole number",
            float: "a number",
            str: "text",
            dict: f"a mapping {MAPPING_HINT}",
        }
        if self.is_list:
            return f"a list, each item {words.get(self.item or str, 'text')}"
        kinds = " or ".join(words[kind] for kind in self.kinds)
        return kinds + (" or none" if self.optional else "")


def flags_of(cls: type) -> dict[str, Flag]:
    """The flags of an options class, by name: those of its first base first, its own last.

    The heading of a flag is the first line of the docstring of the class that declares it.
    """
    hints = typing.get_type_hints(cls)
    owners = {}
    for base in reversed(cls.__mro__):
        owners.update(dict.fromkeys(inspect.get_annotations(base), base))
    order = [*cls.__mro__[1:], cls]
    flags = {}
    for item in sorted(dataclasses.fields(cls), key=lambda item: order.index(owners[item.name])):
        kinds, inner, optional, choices = _read_type(hints[item.name])
        flags[item.name] = Flag(
            name=item.name,
            kinds=kinds,
            item=inner,
            optional=optional,
            choices=item.metadata.get("choices") or choices,
            help=item.metadata.get("help", ""),
            group=(owners[item.name].__doc__ or "").strip().partition("\n")[0].rstrip("."),
            path=item.metadata.get("path", False),
            limit=item.metadata.get("limit"),
        )
    return flags


def _read_type(hint: Any) -> tuple[tuple[type, ...], type | None, bool, tuple | None]:
    """(kinds, type of list items, may be None, allowed values) of a type annotation."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        return (type(allowed[0]),), None, False, allowed
    if origin in (typing.Union, types.UnionType):
        kinds: tuple[type, ...] = ()
        inner: type | None = None
        choices: tuple[Any, ...] | None = None
        for part in typing.get_args(hint):
            if part is type(None):
                continue
            part_kinds, part_inner, _, part_choices = _read_type(part)
            kinds += part_kinds
            inner, choices = inner or part_inner, choices or part_choices
        return kinds, inner, type(None) in typing.get_args(hint), choices
    if origin in (list, dict):
        arguments = typing.get_args(hint)
        return (origin,), (arguments[0] if origin is list and arguments else None), False, None
    return (hint,), None, False, None


def convert(flag: Flag, value: Any) -> Any:
    """Turn text from the command line or a value from YAML into the field's type.

    Raises:
        ValueError: the value does not fit; the message says what does.
    """
    nothing = ("none", "null", "") if flag.optional else ("none", "null")
    if value is None or (isinstance(value, str) and value.lower() in nothing):
        if flag.optional:
            return None
        raise ValueError(f"--{flag.name}={value}: give {flag.expects}")
    if flag.is_list:
        parts = value if isinstance(value, list) else str(value).split(",")
        parts = [piece for part in parts for piece in _split(part)]
        items = dataclasses.replace(flag, kinds=(flag.item or str,), item=None, optional=False)
        return [convert(items, piece) for piece in parts]
    for kind in sorted(flag.kinds, key=lambda kind: kind is str):
        try:
            result = _convert_to(kind, value)
        except (TypeError, ValueError, yaml.YAMLError):
            continue
        if flag.choices and result not in flag.choices:
            break
        return result
    raise ValueError(f"--{flag.name}={value}: give {flag.expects}")


def _split(part: Any) -> list[Any]:
    return [piece.strip() for piece in part.split(",")] if isinstance(part, str) else [part]


def _convert_to(kind: type, value: Any) -> Any:
    if kind is bool:
        word = str(value).lower()
        if word in TRUE_WORDS + FALSE_WORDS:
            return word in TRUE_WORDS
        raise ValueError(value)
    if kind is dict:
        result = yaml.safe_load(value) if isinstance(value, str) else value
        if isinstance(result, dict):
            return result
        raise ValueError(value)
    if isinstance(value, bool | dict | list):
        raise ValueError(value)
    if kind is int and isinstance(value, float) and value != int(value):
        raise ValueError(value)
    return kind(value)

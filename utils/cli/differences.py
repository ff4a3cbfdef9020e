"""What differs between two sets of settings, value by value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

ABSENT = "not set"


class Difference(NamedTuple):
    """A value that differs, with the names of the mappings that it lies in: "sasp.t_pos"."""

    name: str
    before: str
    now: str

    @property
    def flag(self) -> str:
        """The outermost name."""
        return self.name.partition(".")[0].partition("[")[0]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Every value that is not the same, mappings and lists of them taken apart.

    Lists of mappings of different lengths differ by their lengths alone. Absolute paths are the
    same if they lead to the same place; a value that is not set is None.
    """
    one, other = _leaves(_counted(before, now)), _leaves(_counted(now, before))
    names = [*now, *(name for name in before if name not in now)]
    values = [
        Difference(name, _text(one, name), _text(other, name))
        for name in {*one, *other}
        if _place(one.get(name)) != _place(other.get(name))
    ]
    return sorted(values, key=lambda one: (names.index(one.flag), one.name))


def _is_mappings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _counted(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, with "N settings" for a list of mappings that the others have in another length."""
    return {
        name: f"{len(value)} settings"
        if _is_mappings(value) and len(value) != len(others.get(name) or ())
        else value
        for name, value in values.items()
    }


def _leaves(values: Any, name: str = "") -> dict[str, Any]:
    """Name -> value that is no mapping, nor a list of mappings."""
    if isinstance(values, Mapping):
        parts = [(f"{name}.{key}" if name else str(key), value) for key, value in values.items()]
    elif _is_mappings(values):
        parts = [(f"{name}[{number}]", value) for number, value in enumerate(values)]
    else:
        return {name: values}
    return {leaf: inner for part, value in parts for leaf, inner in _leaves(value, part).items()}


def _place(value: Any) -> Any:
    return os.path.realpath(value) if isinstance(value, str) and os.path.isabs(value) else value


def _text(leaves: dict[str, Any], name: str) -> str:
    if name not in leaves:
        return ABSENT
    value = leaves[name]
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)

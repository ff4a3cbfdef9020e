"""Ways to damage a file: its bytes, or the values inside of a JSON document or pickle."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np

EXTREME = [
    None,
    True,
    0,
    -1,
    1,
    255,
    256,
    2**31,
    2**63,
    -(2**64),
    10**400,
    0.5,
    -0.0,
    1e9,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "x" * 50_000,
    "\ud800",
    "\x00",
    "[SEG]",
    "<image>",
    "</s> {class_name} {}",
    "../../../etc/passwd",
    "/etc/passwd",
    "no_such_file.jpg",
    [],
    {},
    [[]],
    [None],
    [1, 2],
    [1e300] * 6,
    [-(10**9)] * 4 + [10**9] * 4,
    [[0, 0, 10**7, 0, 10**7, 10**7]],
    {"size": [24, 30], "counts": "0"},
    {"size": [10**9, 10**9], "counts": [10**18]},
    {"size": [24, 30], "counts": [-5, 725]},
    {"size": [24, 30], "counts": "PPPPPPPPPPPPPPPPPPPPPPP1"},
    {"a": {"b": {"c": 1}}},
]


def damage_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip, cut, insert, repeat or blank some bytes."""
    changed = bytearray(data)
    length = len(changed)
    start, end = sorted(int(n) for n in rng.integers(0, length + 1, size=2))
    match int(rng.integers(7)):
        case 0 | 1:
            for place in rng.integers(0, length, size=int(rng.integers(1, 12))):
                changed[place] = int(rng.integers(256))
        case 2:
            changed = changed[:start]
        case 3:
            changed = changed[:start] + rng.bytes(int(rng.integers(1, 40))) + changed[start:]
        case 4:
            changed = changed[:start] + changed[end:]
        case 5:
            changed[start : start + 40] = bytes(len(changed[start : start + 40]))
        case _:
            place = int(rng.integers(length))
            changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def damage_value(content: Any, rng: np.random.Generator) -> Any:
    """A copy of lists and dicts with one to three fields removed, replaced, doubled or nested."""
    content = copy.deepcopy(content)
    for _ in range(int(rng.integers(1, 4))):
        places = _places(content)
        if not places:
            return content
        holder, key = places[int(rng.integers(len(places)))]
        match int(rng.integers(8)):
            case 0 | 1:
                del holder[key]
            case 2:
                holder[key] = _nested(holder[key], int(rng.integers(2, 90)))
            case 3 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case 4:
                other_holder, other_key = places[int(rng.integers(len(places)))]
                holder[key] = copy.deepcopy(other_holder[other_key])
            case 5 if isinstance(holder[key], int | float):
                holder[key] = holder[key] * float(rng.choice([-1, 1.5, 1e6]))
            case _:
                holder[key] = copy.deepcopy(EXTREME[int(rng.integers(len(EXTREME)))])
    return content


def _places(content: Any) -> list[tuple[Any, Any]]:
    """(list or dict, position or key) of every value inside."""
    found: list[tuple[Any, Any]] = []
    queue = [content]
    while queue and len(found) < 3000:
        holder = queue.pop()
        keys: list[Any] = []
        if isinstance(holder, dict):
            keys = list(holder)
        elif isinstance(holder, list):
            keys = list(range(len(holder)))
        found += [(holder, key) for key in keys]
        queue += [holder[key] for key in keys]
    return found


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def damage_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Mostly a value in the document, else its bytes, or brackets without end."""
    u = rng.random()
    if u < 0.25:
        return damage_bytes(data, rng)
    if u < 0.28:
        inside = int(rng.integers(1, len(data)))
        return data[:inside] + b"[" * 60_000 + data[inside:]
    changed = damage_value(json.loads(data), rng)
    return json.dumps(changed, ensure_ascii=bool(rng.random() < 0.7)).encode(
        "utf-8", "surrogatepass"
    )


def damage_pickle(data: bytes, rng: np.random.Generator) -> bytes:
    """A value in the document, written in some protocol, or bytes of the file."""
    if rng.random() < 0.4:
        return damage_bytes(data, rng)
    changed = damage_value(pickle.loads(data), rng)
    return pickle.dumps(changed, protocol=int(rng.integers(0, 6)))

"""Two thousand damaged files end in numbers or in one error, never in a traceback."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from dataset import scoring
from tests.dataset.test_scoring import by_id, questions, write_coco, write_npz, write_png
from tests.stored_runs import make_items, write_ours
from utils.evaluation.mask_rows import truth_line

pytestmark = pytest.mark.slow

ODD = [
    *(None, True, -1, 0, 3, 2**31, 10**30, 0.5, float("nan"), float("inf")),
    *("", "a", "P", "\u00e9", "\ud800", "0" * 50, [], [[]], {}, [None], [1, -1], {"size": [1, 1]}),
]
"""Values that stand in the place of others."""


def places(value, path=()):
    """Paths to everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in inner:
        yield (*path, key)
        if isinstance(part, dict | list):
            yield from places(part, (*path, key))


def with_odd_value(rows, rng):
    """One value replaced by an odd one, or left out, or all rows twice."""
    rows = copy.deepcopy(rows)
    known = list(places(rows))
    path = known[rng.integers(len(known))]
    parent = rows
    for key in path[:-1]:
        parent = parent[key]
    choice = int(rng.integers(len(ODD) + 2))
    if choice < len(ODD):
        parent[path[-1]] = ODD[choice]
    elif choice == len(ODD):
        del parent[path[-1]]
    else:
        parent[path[-1]] = [parent[path[-1]]] * 2
    return rows


def with_odd_bytes(content: bytes, rng) -> bytes:
    """Cut off, with changed bytes, or with a piece missing, doubled or inserted."""
    place, end = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    noise = rng.integers(0, 256, 4, dtype=np.uint8).tobytes()
    return [
        content[:place],
        content[:place] + noise + content[place + 4 :],
        content[:place] + content[end:],
        content[:end] + content[place:],
        content[:place] + noise + content[place:],
    ][rng.integers(5)]


def jsonl(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def check(code: int, errors: str, seen: set) -> None:
    """0, or 2 with at least one line, all of them errors."""
    seen.add(code)
    lines = errors.splitlines()
    assert (code, lines) == (0, []) or (code == 2 and lines)
    assert all(line.startswith("error: ") for line in lines)


def errors(capsys, seen) -> tuple[str, set]:
    return capsys.readouterr().err, seen


def score(*arguments) -> int:
    """Under two protocols, so that something applies to every form."""
    return scoring.main([*map(str, arguments), "--protocols", "fprefcoco,visionreasoner"])


@pytest.fixture
def sound(tmp_path) -> dict[str, Path]:
    """A sound file of every form."""
    truth = tmp_path / "truth.jsonl"
    truth.write_text("".join(truth_line(one) for one, _ in questions()))
    ours = tmp_path / "ours"
    write_ours(ours, make_items(tmp_path, 2))
    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps([{"ann_id": n, "intersection": n, "union": 4} for n in range(4)]))
    return {
        "truth": truth,
        "coco": write_coco(tmp_path),
        "npz": write_npz(tmp_path),
        "png": write_png(tmp_path),
        "counts": counts,
        "ours": ours,
    }


def test_odd_values(sound, tmp_path, capsys):
    """1,200 files of JSON with one odd value each."""
    rng = np.random.default_rng(0)
    path, coco, truth = tmp_path / "odd.jsonl", tmp_path / "odd.json", tmp_path / "odd_truth.jsonl"
    answers = [by_id(one) for one in questions()]
    truths = [json.loads(line) for line in sound["truth"].read_text().splitlines()]
    results = json.loads(sound["coco"].read_text())
    counts = json.loads(sound["counts"].read_text())
    seen: set[int] = set()
    for _ in range(300):
        path.write_text(jsonl(with_odd_value(answers, rng)))
        check(score(path, "--truth", sound["truth"]), *errors(capsys, seen))
        path.write_text(jsonl(answers))
        truth.write_text(jsonl(with_odd_value(truths, rng)))
        check(score(path, "--truth", truth), *errors(capsys, seen))
        coco.write_text(json.dumps(with_odd_value(results, rng)))
        check(score(coco, "--truth", sound["truth"]), *errors(capsys, seen))
        coco.write_text(json.dumps(with_odd_value(counts, rng)))
        check(score(coco), *errors(capsys, seen))
    assert seen == {0, 2}


def test_odd_bytes(sound, capsys):
    """800 files of every form with damaged bytes."""
    rng = np.random.default_rng(1)
    truth = ["--truth", sound["truth"]]
    (mask, *_) = sorted(sound["png"].glob("*.png"))
    files = [
        (sound["coco"], sound["coco"], truth),
        (sound["npz"], sound["npz"], truth),
        (mask, sound["png"], truth),
        (sound["counts"], sound["counts"], []),
        (sound["ours"] / "predictions_0_of_1.jsonl", sound["ours"], []),
    ]
    seen: set[int] = set()
    for file, given, more in files:
        content = file.read_bytes()
        for _ in range(160):
            file.write_bytes(with_odd_bytes(content, rng))
            check(score(given, *more), *errors(capsys, seen))
        file.write_bytes(content)
    assert seen == {0, 2}

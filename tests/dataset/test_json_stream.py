"""Lists of JSON documents, streamed: the same elements and mistakes as of the whole document."""

import json
import random
import tracemalloc

import pytest

import dataset.json_stream
from dataset.json_stream import JsonLists


@pytest.fixture(params=[1, 2, 3, 7, 64, 1 << 20])
def window(request, monkeypatch) -> int:
    """Sizes of the window, also so small that everything is cut somewhere."""
    monkeypatch.setattr(dataset.json_stream, "_WINDOW", request.param)
    return request.param


def value(rng: random.Random, depth: int = 3):
    kind = rng.randrange(9 if depth else 6)
    if kind < 6:
        text = "".join(
            rng.choice('ab"\\/\n\t{}[],: \u00e9\u4e2d\U0001f600') for _ in range(rng.randrange(9))
        )
        return [None, True, rng.randrange(-999, 99999), rng.random() * 1e5, -1.5e-7, text][kind]
    if kind < 8:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {f"k{n}": value(rng, depth - 1) for n in range(rng.randrange(4))}


def lists_of(content) -> list:
    if isinstance(content, list):
        return [("", element) for element in content]
    if not isinstance(content, dict):
        return []
    return [(k, element) for k, v in content.items() if isinstance(v, list) for element in v]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_random_documents(tmp_path, window, indent, ascii_only):
    path = tmp_path / "a.json"
    for seed in range(60):
        rng = random.Random(seed)
        content = rng.choice(
            [value(rng), {f"l{n}": value(rng) for n in range(4)}, [value(rng)] * 3]
        )
        text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
        path.write_text(text, encoding="utf-8", newline="")
        lists = JsonLists(path)
        assert list(lists) == lists_of(content)
        named = (
            {k for k, v in content.items() if isinstance(v, list)}
            if isinstance(content, dict)
            else set()
        )
        assert lists.found == (named or ({""} if isinstance(content, list) else set()))


def test_random_mistakes(tmp_path, window):
    """What json.loads refuses is refused, what it takes is taken; cuts, changes and additions."""
    path = tmp_path / "a.json"
    whole = json.dumps(
        {"images": [{"id": 1}, {"id": 22}], "info": {"a": 1.5}, "annotations": [[], "x"]}
    )
    refused = 0
    for seed in range(400):
        rng = random.Random(seed)
        at = rng.randrange(len(whole))
        text = rng.choice(
            [
                whole[:at],
                whole[:at] + whole[at + 1 :],
                whole[:at] + rng.choice('{}[],:"1 ') + whole[at:],
            ]
        )
        path.write_text(text)
        try:
            expected = lists_of(json.loads(text))
        except ValueError:
            refused += 1
            with pytest.raises(ValueError, match=r"char \d+"):
                list(JsonLists(path))
        else:
            assert list(JsonLists(path)) == expected, text
    assert refused > 200


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_encodings_of_json(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_text('{"a": ["\u00e9", "\\ud800", NaN]}', encoding=encoding)
    (first, second, third) = [element for _, element in JsonLists(path)]
    assert (first, second) == ("\u00e9", "\ud800")
    assert third != third


def test_unreadable_text(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": ["\xff"]}')
    with pytest.raises(ValueError, match="decode"):
        list(JsonLists(path))
    path.write_text("[" * 100_000)
    with pytest.raises(RecursionError):
        list(JsonLists(path))
    with pytest.raises(OSError, match="No such file"):
        list(JsonLists(tmp_path / "nowhere.json"))


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "a.json"
    element = json.dumps({"id": 1, "segmentation": [[1.5, 2.5]], "note": "-" * 600})
    with path.open("w") as file:
        file.write('{"annotations": [' + ", ".join([element] * 30_000) + "]}")
    assert path.stat().st_size > 15 << 20
    tracemalloc.start()
    assert sum(1 for _ in JsonLists(path)) == 30_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_an_endless_element_is_a_mistake(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset.json_stream, "_LONGEST", 1 << 16)
    monkeypatch.setattr(dataset.json_stream, "_WINDOW", 1 << 12)
    path = tmp_path / "a.json"
    path.write_text('{"annotations": ["' + "a" * (1 << 20))
    with pytest.raises(ValueError, match="Unterminated string"):
        list(JsonLists(path))

"""The index of big annotation files: built once, rebuilt when outdated or damaged, shared."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from dataset.annotation_index import FOLDER, FORMAT, AnnotationIndex
from tests.conftest import REPOSITORY
from utils.errors import InputError


class Builder:
    """Counts how often it was asked."""

    def __init__(self, source: Path):
        self.source = source
        self.calls = 0

    def __call__(self):
        self.calls += 1
        for number, name in enumerate(json.loads(self.source.read_text())):
            group = "train" if number % 3 else "val"
            yield group, {"name": name, "number": number, "deep": [1.5, None, {"é": "\ud800"}]}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "big file (x).json"
    path.parent.mkdir()
    path.write_text(json.dumps([f"name {n}" for n in range(100)]))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("READ_CACHE_DIR", str(folder))
    return folder


def check(store: AnnotationIndex) -> None:
    assert store.groups() == {"val": 34, "train": 66}
    expected = {"name": "name 3", "number": 3, "deep": [1.5, None, {"é": "\ud800"}]}
    assert store.get("val", 1) == expected
    assert store.get("train", 65)["name"] == "name 98"


def test_records_come_back_as_they_were_built(source):
    store = AnnotationIndex.open([source], "names", Builder(source))
    check(store)
    assert store.path == source.parent / FOLDER / f"{source.name}.names.sqlite"
    assert not list(store.path.parent.glob("*.part"))
    with pytest.raises(KeyError):
        store.get("test", 0)
    for position in (-1, 66):
        with pytest.raises(IndexError):
            store.get("train", position)


def test_it_is_built_once_until_a_source_changes(source):
    build = Builder(source)
    other = source.with_name("second.json")
    other.write_text("1")
    for _ in range(3):
        check(AnnotationIndex.open([source, other], "names", build))
    assert build.calls == 1
    other.write_text("2")
    check(AnnotationIndex.open([source, other], "names", build))
    assert build.calls == 2
    os.utime(source, ns=(1, 1))
    check(AnnotationIndex.open([source, other], "names", build))
    assert build.calls == 3
    check(AnnotationIndex.open([source], "other kind", build))
    assert build.calls == 4


def test_the_index_moves_with_its_data(source, tmp_path):
    build = Builder(source)
    check(AnnotationIndex.open([source], "names", build))
    source.parent.rename(tmp_path / "moved")
    check(AnnotationIndex.open([tmp_path / "moved" / source.name], "names", build))
    assert build.calls == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "text", "old"])
def test_a_damaged_index_is_built_again(source, damage):
    build = Builder(source)
    path = AnnotationIndex.open([source], "names", build).path
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 1
    else:
        raw = {"cut": raw[:-900], "empty": bytearray(), "text": bytearray(b"x" * 5000)}.get(
            damage, raw.replace(b'"format": %d' % FORMAT, b'"format": 0')
        )
    path.write_bytes(raw)
    check(AnnotationIndex.open([source], "names", build))
    assert build.calls == 2


def test_an_index_that_breaks_while_open_is_named(source):
    store = AnnotationIndex.open([source], "names", Builder(source))
    store.path.write_bytes(store.path.read_bytes()[:4096])
    with pytest.raises(InputError, match=r"\.sqlite was damaged"):
        store.get("train", 60)
    store.path.unlink()
    with pytest.raises(InputError, match=r"\.sqlite was damaged"):
        pickle.loads(pickle.dumps(store)).get("train", 60)


def test_another_folder_is_taken_where_the_data_cannot_be_written(source, cache, tmp_path):
    (source.parent / FOLDER).write_text("a file in the way")
    build = Builder(source)
    for _ in range(2):
        store = AnnotationIndex.open([source], "names", build)
        check(store)
        assert store.path.parent == cache
    assert build.calls == 1
    same_name = tmp_path / "elsewhere" / source.name
    same_name.parent.mkdir()
    same_name.write_text('["other"]')
    (same_name.parent / FOLDER).write_text("a file in the way")
    assert AnnotationIndex.open([same_name], "names", Builder(same_name)).groups() == {"val": 1}
    check(AnnotationIndex.open([source], "names", build))
    assert build.calls == 1


def test_no_folder_at_all_names_the_remedy(source, tmp_path):
    with pytest.raises(InputError, match="READ_CACHE_DIR"):
        AnnotationIndex.open([source], "names", Builder(source), cache_dir=source)


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json"):
        AnnotationIndex.open([tmp_path / "gone.json"], "names", list)


def test_errors_of_the_builder_leave_nothing_behind(source):
    def build():
        yield "train", {}
        raise InputError("broken in the middle")

    with pytest.raises(InputError, match="broken in the middle"):
        AnnotationIndex.open([source], "names", build)
    left = [path.suffix for path in (source.parent / FOLDER).iterdir()]
    assert left == [".lock"]


def read_some(store: AnnotationIndex, results) -> None:
    results.put([store.get("train", n)["number"] for n in range(5)])


def test_processes_read_with_their_own_connection(source):
    store = AnnotationIndex.open([source], "names", Builder(source))
    expected = [store.get("train", n)["number"] for n in range(5)]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=read_some, args=(store, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert found == [expected, expected]
    check(store)
    check(pickle.loads(pickle.dumps(store)))


RANK = """
import sys, time
from pathlib import Path
from dataset.annotation_index import AnnotationIndex

source, log = Path(sys.argv[1]), Path(sys.argv[2])

def build():
    with log.open("a") as file:
        file.write("built\\n")
    time.sleep(0.5)
    yield "train", {"a": 1}

print(AnnotationIndex.open([source], "names", build).get("train", 0))
"""


def test_ranks_that_start_at_once_build_once(source, tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", RANK, str(source), str(log)]
    ranks = [
        subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [rank.communicate(timeout=60)[0].strip() for rank in ranks] == ["{'a': 1}"] * 3
    assert log.read_text() == "built\n"

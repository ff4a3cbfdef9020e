"""Refs files: plain data of every protocol are read; whatever could execute is refused."""

from __future__ import annotations

import io
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from dataset.refer.index import main
from dataset.refer.refs_file import _PlainUnpickler, load_refs
from utils.errors import InputError

REFS = [
    {
        "ref_id": 7,
        "ann_id": 1719310,
        "category_id": 1,
        "image_id": 581857,
        "split": "train",
        "file_name": "COCO_train2014_000000581857_16.jpg",
        "sent_ids": [0, 1],
        "sentences": [
            {"sent": "the café lady", "sent_id": 0, "tokens": ["the", "café"], "raw": "THE Café"},
            {"sent": "blue shirt", "sent_id": 1, "tokens": [], "raw": "blue", "exist": False},
        ],
    },
    {
        "ref_id": 2**40,
        "ann_id": [3, -1],
        "image_id": 5,
        "split": "testA",
        "sentences": [{"sent": "dog", "is_false_premise": True, "gt_sent": "cat"}],
    },
]


def write(folder: Path, data: bytes, name: str = "refs(unc).p") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def check(refs: list[dict]) -> None:
    assert [r["ref_id"] for r in refs] == [7, 2**40]
    assert [r["ann_id"] for r in refs] == [1719310, [3, -1]]
    assert [r["image_id"] for r in refs] == [581857, 5]
    assert [r["split"] for r in refs] == ["train", "testA"]
    first, second = refs[0]["sentences"]
    assert first["sent"] == "the café lady" and first["tokens"] == ["the", "café"]
    assert first["exist"] is None and second["exist"] is False
    (third,) = refs[1]["sentences"]
    assert third["is_false_premise"] is True and third["gt_sent"] == "cat"


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_every_protocol(tmp_path, protocol):
    check(load_refs(write(tmp_path, pickle.dumps(REFS, protocol))))


def test_tuples_and_shared_text_are_plain(tmp_path):
    refs = [dict(ref, sentences=tuple(ref["sentences"])) for ref in REFS]
    for ref in refs:
        ref["ann_id"] = tuple(ref["ann_id"]) if isinstance(ref["ann_id"], list) else ref["ann_id"]
    check(load_refs(write(tmp_path, pickle.dumps(refs))))


PYTHON_2 = (
    # As Python 2 writes them: strings of bytes in utf-8 or cp1252, unicode, and long numbers.
    b"(lp0\n(dp1\nS'ref_id'\np2\nI7\nsS'ann_id'\np3\nL9L\nsS'image_id'\np4\nL5L\nsS'split'\np5\n"
    b"S'train'\np6\nsS'sentences'\np7\n(lp8\n(dp9\nS'sent'\np10\nS'caf\\xc3\\xa9'\np11\nsS'raw'\n"
    b"S'caf\\xe9'\nsS'exist'\nI01\nsa(dg10\nVcaf\\u00e9\nsasa.",
    b"\x80\x02]q\x00}q\x01(U\x06ref_idK\x07U\x06ann_id\x8a\x01\x09U\x08image_idK\x05U\x05split"
    b"U\x05trainU\x09sentences](}(U\x04sentU\x05caf\xc3\xa9U\x03rawU\x04caf\xe9U\x05exist\x88u"
    b"}U\x04sentX\x05\x00\x00\x00caf\xc3\xa9seua.",
)


@pytest.mark.parametrize("data", PYTHON_2)
def test_what_python_2_wrote(tmp_path, data):
    (ref,) = load_refs(write(tmp_path, data))
    assert [ref[name] for name in ("ref_id", "ann_id", "image_id", "split")] == [7, 9, 5, "train"]
    assert [s["sent"] for s in ref["sentences"]] == ["café", "café"]
    assert ref["sentences"][0]["raw"] == "café"
    assert ref["sentences"][0]["exist"] is True


class Touch:
    """Unpickling this creates a file."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


class State:
    """Unpickling this runs the `__setstate__` of whatever is named."""

    def __init__(self):
        self.value = 1


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def programs(marker: Path) -> dict[str, bytes]:
    """Pickles that create the marker when they are loaded, in all the ways there are."""
    name = str(marker)
    quoted = repr(name).encode()
    made = {f"reduce, protocol {p}": pickle.dumps([Touch(marker)], p) for p in range(6)}
    made |= {
        "inst": b"(S" + quoted + b"\nS'w'\niio\nopen\n.",
        "obj": b"(cio\nopen\n" + text(name) + text("w") + b"o.",
        "stack global": b"\x80\x04" + text("io") + text("open") + b"\x93(" + text(name) + b"X\x01"
        b"\x00\x00\x00wtR.",
        "inside a ref": pickle.dumps([{**REFS[0], "file_name": Touch(marker)}]),
        "dropped again": pickle.dumps(REFS)[:-1] + pickle.dumps(Touch(marker), 0)[:-1] + b"0.",
        "after the list's start": b"]" + pickle.dumps(Touch(marker), 0)[:-1] + b"a.",
    }
    return made


PROGRAMS = sorted(programs(Path("/tmp/x")))


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_refused_and_not_run(tmp_path, name):
    marker = tmp_path / "marker"
    data = programs(marker)[name]
    path = write(tmp_path, data)
    with pytest.raises(InputError, match=r"refs\(unc\)\.p is refused.*[Nn]othing.*executed"):
        load_refs(path)
    with pytest.raises(pickle.UnpicklingError, match="it names"):
        _PlainUnpickler(io.BytesIO(data)).load()
    assert not marker.exists()
    # The same file does run when it is loaded the ordinary way: the test would notice.
    pickle.loads(data)
    assert marker.exists()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"cos\nsystem\n(S'echo'\ntR.", r"os\.system"),
        (b"(S'echo'\nios\nsystem\n.", r"os\.system"),
        (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x8c\x04echo\x85R.", r"os\.system"),
        (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00\x8c\x06system\x93.", r"\?\.system"),
        (b"\x80\x02cio\nFileIO\n)\x81.", r"io\.FileIO"),
        (b"Pevil\n.", "PERSID 'evil'"),
        (b"K\x01Q.", "BINPERSID"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"}}b.", "BUILD"),
        (b"\x80\x04\x8f.", "EMPTY_SET"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (pickle.dumps([State()]), "State"),
        (pickle.dumps([{**REFS[0], "ref_id": np.int64(7)}]), "numpy"),
        (pickle.dumps(np.zeros(3), 2), "numpy"),
    ],
)
def test_what_was_found_is_named(tmp_path, data, named):
    with pytest.raises(InputError, match=f"refused.*{named}.*source again"):
        load_refs(write(tmp_path, data))


def test_the_second_line_refuses_persistent_ids():
    for data in (b"Pevil\n.", b"K\x01Q."):
        with pytest.raises(pickle.UnpicklingError, match="outside of the file"):
            _PlainUnpickler(io.BytesIO(data)).load()


def cyclic() -> bytes:
    refs: list = [dict(REFS[0])]
    refs[0]["sentences"] = refs
    return pickle.dumps(refs)


def shared() -> bytes:
    sentence = [{"sent": "a", "tokens": ["x"] * 100}] * 1000
    return pickle.dumps([{**REFS[0], "sentences": sentence}] * 1000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b".",
        b"garbage",
        pickle.dumps(REFS)[:-40],
        pickle.dumps({"a": 1}),
        pickle.dumps("text"),
        pickle.dumps([1]),
        pickle.dumps([{}]),
        pickle.dumps([{**REFS[0], "sentences": None}]),
        pickle.dumps([{**REFS[0], "sentences": ["a"]}]),
        pickle.dumps([{**REFS[0], "sentences": [{"sent": 3}]}]),
        pickle.dumps([{**REFS[0], "sentences": [{"sent": "a", "exist": "no"}]}]),
        pickle.dumps([{**REFS[0], "ann_id": None}]),
        pickle.dumps([{**REFS[0], "ann_id": 1.5}]),
        pickle.dumps([{**REFS[0], "ann_id": [[1]]}]),
        pickle.dumps([{**REFS[0], "image_id": True}]),
        pickle.dumps([{**REFS[0], "split": 1}]),
        b"]r\xff\xff\xff\x7f.",
        b"]p99999999999\n.",
        b"]p-1\n.",
        b"j\xff\xff\xff\x7f.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x00].",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00].",
        b"\x80\x09].",
        b"})" + b"\x85" * 500_000 + b"Ns.",
        cyclic(),
        shared(),
    ],
)
def test_damaged_pickles_name_the_file(tmp_path, data):
    with pytest.raises(InputError, match=r"refs\(unc\)\.p is damaged"):
        load_refs(write(tmp_path, data))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"refs\(x\)\.p"):
        load_refs(tmp_path / "refs(x).p")


def test_random_damage_gives_refs_or_an_error_with_the_name(tmp_path):
    rng = np.random.default_rng(0)
    whole = [pickle.dumps(REFS, protocol) for protocol in range(6)]
    read = 0
    for turn in range(3000):
        raw = bytearray(whole[turn % 6])
        for place in rng.integers(0, len(raw), size=rng.integers(1, 4)):
            raw[place] = rng.integers(256)
        cut = len(raw) if turn % 5 else int(rng.integers(len(raw)))
        try:
            refs = load_refs(write(tmp_path, bytes(raw[:cut])))
        except InputError as error:
            assert "refs(unc).p" in str(error)
        else:
            read += 1
            json.dumps(refs).encode()
    assert 100 < read < 2900


def test_the_converted_file_is_read_instead(tmp_path, capsys):
    path = write(tmp_path, pickle.dumps(REFS, 2))
    assert main([str(path)]) == 0
    converted = tmp_path / "refs(unc).json"
    assert str(converted) in capsys.readouterr().out
    check(load_refs(converted))
    check(load_refs(path))
    path.write_bytes(b"broken")
    check(load_refs(path))
    path.unlink()
    check(load_refs(path))
    for broken in ("{", "{}", "[1]", "[" * 100_000):
        converted.write_text(broken)
        with pytest.raises(InputError, match=r"refs\(unc\)\.json is damaged.*convert it again"):
            load_refs(path)


def test_the_converter_reads_the_pickle_and_refuses_programs(tmp_path, capsys):
    path = write(tmp_path, pickle.dumps(REFS))
    (tmp_path / "refs(unc).json").write_text("an old, broken one")
    out = tmp_path / "other.json"
    assert main([str(path), str(out)]) == 0
    check(load_refs(out))
    marker = tmp_path / "marker"
    evil = write(tmp_path, pickle.dumps(Touch(marker)), "refs(evil).p")
    assert main([str(evil)]) == 2
    assert "io.open" in capsys.readouterr().err
    assert not marker.exists() and not (tmp_path / "refs(evil).json").exists()
    assert main([str(path), str(path / "in_a_file.json")]) == 2
    assert "cannot write" in capsys.readouterr().err

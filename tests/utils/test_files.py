"""Files are whole or as before; lines of JSON survive a kill in the middle of one."""

import json
import resource
from contextlib import contextmanager

import pytest

from utils.errors import InputError
from utils.files import append_lines, mend_lines, read_lines, replacing, write_file, write_json


@contextmanager
def full_disk(size: int):
    """No file gets larger than `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_is_written_with_its_folder(tmp_path):
    path = tmp_path / "new" / "file"
    assert write_file(path, "é\r\n") == path and path.read_bytes() == "é\r\n".encode()
    write_file(str(path), b"\0")
    assert path.read_bytes() == b"\0"
    write_json(path, {"ä": [1]})
    assert path.read_text("utf-8") == '{\n "ä": [\n  1\n ]\n}\n'
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = write_file(tmp_path / "file", "old")
    with full_disk(100), pytest.raises(InputError, match=r"cannot write .*file \(.+\): buy one"):
        write_file(path, "x" * 101, "buy one")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path):
    path = write_file(tmp_path / "file", "old")
    with pytest.raises(KeyError), replacing(path) as partial:
        partial.write_text("new")
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_lines(tmp_path):
    path = tmp_path / "new" / "lines"
    assert read_lines(path, "mend it") == []
    append_lines(path, [{"a": "ä\u2028\x85"}, [1]])
    append_lines(path, [None])
    assert read_lines(path, "mend it") == [{"a": "ä\u2028\x85"}, [1], None]
    assert path.read_bytes().count(b"\n") == 3
    with full_disk(path.stat().st_size), pytest.raises(InputError, match="it goes on where"):
        append_lines(path, ["much"])


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_half_written_last_line_is_left_out(tmp_path, cut):
    """Also where the cut is inside of a character."""
    path = tmp_path / "lines"
    append_lines(path, [[1], ["ää"]])
    path.write_bytes(path.read_bytes()[:-cut])
    whole = cut == 1  # the line feed alone is missing
    assert read_lines(path, "mend it") == [[1], ["ää"]][: 1 + whole]
    mend_lines(path, read_lines(path, "mend it"))
    append_lines(path, [[3]])
    assert read_lines(path, "mend it") == [[1], *([["ää"]] if whole else []), [3]]


def test_damage_elsewhere_is_named_or_left_out(tmp_path):
    path = tmp_path / "lines"
    path.write_text('[1]\n{"a\n[2]\n')
    with pytest.raises(InputError, match=r"lines, line 2, is damaged \(.+\): mend it"):
        read_lines(path, "mend it")
    assert read_lines(path) == [[1], [2]]
    with pytest.raises(InputError, match="line 1, is damaged"):
        read_lines(path, "mend it", parse=lambda line: line["name"])


def test_lines_that_are_whole_are_not_written_again(tmp_path):
    path = tmp_path / "lines"
    mend_lines(path, [])
    assert not path.exists()
    append_lines(path, [[1], [2]])
    before = path.stat()
    mend_lines(path, [[1], [2]])
    assert path.stat().st_ino == before.st_ino
    mend_lines(path, [[2]])
    assert json.loads(path.read_text()) == [2]

"""One process to a run folder: the lock ends with its holder and is not left to its children."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from utils.errors import InputError
from utils.run_lock import LOCK_FILE, RunLock


def forked(work) -> int:
    """Run `work` in a forked process; returns its pid."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def is_free(folder: Path) -> bool:
    try:
        with RunLock(folder):
            return True
    except InputError:
        return False


def test_one_at_a_time(tmp_path):
    folder = tmp_path / "runs" / "read"
    with RunLock(folder):
        with pytest.raises(InputError, match=rf"in use by process {os.getpid()} on .*--exp_name"):
            RunLock(folder).__enter__()
        assert not is_free(folder)
        assert is_free(tmp_path / "runs" / "other")
    assert is_free(folder)


def test_a_killed_holder_lets_go(tmp_path):
    ready, told = os.pipe()

    def hold() -> None:
        with RunLock(tmp_path):
            os.write(told, b"x")
            signal.pause()

    child = forked(hold)
    os.read(ready, 1)
    assert not is_free(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert is_free(tmp_path)


def test_children_that_outlive_the_holder_block_nobody(tmp_path):
    with RunLock(tmp_path):
        child = forked(signal.pause)
    free = is_free(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert free


def test_the_end_of_a_child_keeps_the_lock(tmp_path):
    with RunLock(tmp_path):
        os.waitpid(forked(lambda: None), 0)
        assert not is_free(tmp_path)


def test_an_unreadable_note_is_no_obstacle(tmp_path):
    with RunLock(tmp_path):
        (tmp_path / LOCK_FILE).write_text("{")
        with pytest.raises(InputError, match="in use by another process"):
            RunLock(tmp_path).__enter__()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another --log_base_dir"):
        RunLock(tmp_path / "file").__enter__()


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with RunLock(tmp_path):
        assert "disk without locks" in capsys.readouterr().err

"""One process to a run folder: the lock ends with its holder and is not left to its children."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from utils.errors import InputError
from utils.process.run_lock import LOCK_FILE, RunLock, holder_of


def lock_of(folder: Path, wait: bool = False) -> RunLock:
    return RunLock(folder / LOCK_FILE, f"the folder {folder}", "choose another --exp_name", wait)


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
        with lock_of(folder):
            return True
    except InputError:
        return False


def test_one_at_a_time(tmp_path):
    folder = tmp_path / "runs" / "read"
    with lock_of(folder):
        with pytest.raises(InputError, match=rf"in use by process {os.getpid()} on .*--exp_name"):
            lock_of(folder).__enter__()
        assert not is_free(folder)
        assert is_free(tmp_path / "runs" / "other")
    assert is_free(folder)


def test_a_killed_holder_lets_go(tmp_path):
    ready, told = os.pipe()

    def hold() -> None:
        with lock_of(tmp_path):
            os.write(told, b"x")
            signal.pause()

    child = forked(hold)
    os.read(ready, 1)
    assert not is_free(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert is_free(tmp_path)


def test_children_that_outlive_the_holder_block_nobody(tmp_path):
    with lock_of(tmp_path):
        child = forked(signal.pause)
    free = is_free(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert free


def test_the_end_of_a_child_keeps_the_lock(tmp_path):
    with lock_of(tmp_path):
        os.waitpid(forked(lambda: None), 0)
        assert not is_free(tmp_path)


def test_an_unreadable_note_is_no_obstacle(tmp_path):
    with lock_of(tmp_path):
        (tmp_path / LOCK_FILE).write_text("{")
        with pytest.raises(InputError, match="in use by another process"):
            lock_of(tmp_path).__enter__()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to the folder .*--exp_name"):
        lock_of(tmp_path / "file").__enter__()


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with lock_of(tmp_path):
        assert "disk without locks" in capsys.readouterr().err


def test_nothing_stays_of_a_lock(tmp_path):
    with lock_of(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_waiting_process_gets_a_lock_that_counts(tmp_path):
    """Its file is removed by the holder while it waits: it has to take the new one."""
    with lock_of(tmp_path):
        ready, told = os.pipe()

        def wait() -> None:
            os.write(told, b"x")
            with lock_of(tmp_path, wait=True):
                os.write(told, b"y")
                signal.pause()

        child = forked(wait)
        os.read(ready, 1)
        time.sleep(0.3)
        os.set_blocking(ready, False)
        with pytest.raises(BlockingIOError):
            os.read(ready, 1)
        os.set_blocking(ready, True)
    assert os.read(ready, 1) == b"y"
    assert holder_of(tmp_path / LOCK_FILE) == f"process {child} on {socket.gethostname()}"
    assert not is_free(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert holder_of(tmp_path / LOCK_FILE) is None and is_free(tmp_path)


def test_looking_who_holds_a_lock_keeps_nobody_out(tmp_path):
    """Many look while one takes the lock again and again; none ever holds it."""
    (tmp_path / LOCK_FILE).touch()

    def look() -> None:
        while True:
            holder_of(tmp_path / LOCK_FILE)
            time.sleep(0.0005)

    children = [forked(look) for _ in range(2)]
    try:
        for _ in range(300):
            with lock_of(tmp_path):
                pass
            (tmp_path / LOCK_FILE).touch()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(InputError, match="cannot write to the folder .*No space left on device"):
        lock_of(tmp_path).__enter__()
    monkeypatch.undo()
    assert is_free(tmp_path)

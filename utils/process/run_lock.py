"""One process at a time writes to a folder: a lock that ends with its holder, however it ends.

The operating system holds the lock (flock) and drops it when the holder is gone, also after
kill -9. The file only tells who holds it; it goes with the lock, and one that a killed holder left
is taken over. Forked children, such as those that load images, let go of it at once, so that one
that outlives its parent blocks nobody.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path

from utils.errors import InputError

LOCK_FILE = "run.lock"
NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_TRIES, _PAUSE_S = 5, 0.05
"""`holder_of` takes a lock for a moment: that is no reason to refuse it to somebody else."""
_held: set[int] = set()


def _let_go() -> None:
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


class RunLock:
    """Holds a folder, or a part of it, between `with` and its end.

    Args:
        path: the lock's file; its folder is made if it does not exist.
        what: is held, for messages: "the run folder runs/read".
        choose: how to write elsewhere, for messages: "choose another --exp_name".
        wait: until another holder is done, instead of refusing.

    Raises:
        InputError: on entering, when another process holds it or it cannot be written.
    """

    def __init__(self, path: Path, what: str, choose: str, wait: bool = False):
        self.path, self.what, self.choose, self.wait = path, what, choose, wait
        self.handle: int | None = None

    def __enter__(self) -> RunLock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while self.handle is None:
                self.handle = self._acquire()
            _held.add(self.handle)
            holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n"
            os.ftruncate(self.handle, 0)
            os.pwrite(self.handle, holder.encode(), 0)
        except OSError as error:
            self.__exit__()
            raise InputError(
                f"cannot write to {self.what} ({error.strerror}: {self.path}); {self.choose}"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self.handle in _held:
            _held.discard(self.handle)
            if _is_file(self.handle, self.path):
                with contextlib.suppress(OSError):
                    self.path.unlink()
            with contextlib.suppress(OSError):
                fcntl.flock(self.handle, fcntl.LOCK_UN)
            os.close(self.handle)
        self.handle = None

    def _acquire(self) -> int | None:
        """The locked file; None if its holder removed it meanwhile, so that it counts no more.

        Raises:
            OSError: it cannot be opened.
            InputError: another process holds it.
        """
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        tries = 1 if self.wait else _TRIES
        for left in reversed(range(tries)):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if self.wait else fcntl.LOCK_NB))
                break
            except OSError as error:
                if error.errno in NO_LOCKS_HERE:
                    print(
                        f"warning: {self.path.parent} lies on a disk without locks; see that no "
                        "other process writes there",
                        file=sys.stderr,
                    )
                    return handle
                if left:
                    time.sleep(_PAUSE_S)
                    continue
                holder = _holder(handle)
                os.close(handle)
                raise InputError(
                    f"{self.what} is in use by {holder}; wait for it or end it, or {self.choose}"
                ) from error
        if _is_file(handle, self.path):
            return handle
        os.close(handle)
        return None


def holder_of(path: Path) -> str | None:
    """Who holds a lock now: "process 123 on HOST"; None: nobody."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError as error:
        return None if error.errno in NO_LOCKS_HERE else _holder(handle)
    finally:
        os.close(handle)


def _is_file(handle: int, path: Path) -> bool:
    """Whether `path` names the open file still."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _holder(handle: int) -> str:
    try:
        holder = json.loads(os.pread(handle, 4096, 0))
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

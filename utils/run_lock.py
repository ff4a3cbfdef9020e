"""One process at a time writes to a run folder: a lock that ends with its holder, however it ends.

The operating system holds the lock (flock) and drops it when the holder is gone, also after
kill -9; the file `run.lock` stays and only tells who holds it. Forked children, such as those that
load pictures, let go of it at once, so that one that outlives its parent blocks nobody.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
from pathlib import Path

from utils.errors import InputError

LOCK_FILE = "run.lock"
NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_held: set[int] = set()


def _let_go() -> None:
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


class RunLock:
    """Holds a run folder between `with` and its end.

    Raises:
        InputError: on entering, when another process holds it or it cannot be written.
    """

    def __init__(self, run_dir: Path):
        self.path = run_dir / LOCK_FILE
        self.handle: int | None = None

    def __enter__(self) -> RunLock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(
                f"cannot write to the run folder {self.path.parent} ({error.strerror}); choose "
                "another --log_base_dir or --exp_name"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS_HERE:
                holder = _holder(handle)
                os.close(handle)
                raise InputError(
                    f"the run folder {self.path.parent} is in use by {holder}; wait for it or end "
                    "it, or choose another --exp_name"
                ) from error
            print(
                f"warning: {self.path.parent} lies on a disk without locks; see that no other "
                "process writes there",
                file=sys.stderr,
            )
        self.handle = handle
        _held.add(handle)
        told = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n"
        os.ftruncate(handle, 0)
        os.pwrite(handle, told.encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self.handle in _held:
            _held.discard(self.handle)
            with contextlib.suppress(OSError):
                fcntl.flock(self.handle, fcntl.LOCK_UN)
            os.close(self.handle)


def _holder(handle: int) -> str:
    try:
        told = json.loads(os.pread(handle, 4096, 0))
        return f"process {told['pid']} on {told['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

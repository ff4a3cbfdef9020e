"""Big annotation files, indexed once: records by group and position in an SQLite file.

Annotation files of the published sets hold up to a gigabyte of JSON. They are read once, and what a
draw needs is written, record by record, into a file that is opened read-only afterwards: start-up
takes a moment, and a worker holds nothing but the record it is working on.

The file is `.read_index/{source name}.{kind}.sqlite` beside the first source. Where that folder
cannot be written or is full it is in `$READ_CACHE_DIR`, else `$XDG_CACHE_HOME/read`, else
`~/.cache/read`, and at last in the folder for temporary files; the name then holds a hash of the
source's path.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock
from tqdm import tqdm

from utils.errors import InputError

FORMAT = 2
"""Raised when the layout of the file or of the records changes: older files are made again."""
FOLDER = ".read_index"

SMALL_SOURCE = 1 << 20
"""Sources up to so many bytes are compared by content too, larger ones by size and time alone."""
_QUICK_SOURCES = 8 << 20
"""Sources up to so many bytes are indexed without a progress bar."""
_GROUP_STRIDE = 1 << 40
_CHECKSUM_AT = 68
"""SQLite keeps four bytes of its header for the application; the checksum of the rest is there."""

Build = Callable[[], Iterable[tuple[str, dict]]]


class AnnotationIndex:
    """Records of big annotation files, by group and position, in an SQLite file written once.

    A store is picklable and cheap to fork: each process opens its own read-only connection.
    Made by `AnnotationIndex.open`.

    Args:
        path: a complete index file.
        groups: group -> number of its records, in order of appearance.
    """

    def __init__(self, path: Path, groups: dict[str, int]):
        self.path = path
        self._groups = groups
        self._starts = {name: n * _GROUP_STRIDE for n, name in enumerate(groups)}
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    @classmethod
    def open(
        cls, sources: Sequence[Path], kind: str, build: Build, cache_dir: Path | None = None
    ) -> AnnotationIndex:
        """Open the index of some files, making it if it is missing, outdated or damaged.

        Several processes that ask at once build it once.

        Args:
            sources: the files that `build` reads; the index is outdated when the size or the time
                of one changes.
            kind: what is indexed; part of the file's name.
            build: yields (group, record); a record is a dict that JSON can hold.
            cache_dir: where the index is kept, instead of the folders named above.

        Raises:
            InputError: a source is missing, no folder can be written, or what `build` raises.
        """
        sources = [Path(source) for source in sources]
        stamp = {
            "format": FORMAT,
            "kind": kind,
            "sources": [_stamp(sources[0], s) for s in sources],
        }
        places = _places(sources[0], kind, cache_dir)
        for path in places:
            store = cls._existing(path, stamp)
            if store is not None:
                return store
        refused = []
        for path in places:
            try:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
                with FileLock(f"{path}.lock"):
                    store = cls._existing(path, stamp)
                    if store is None:
                        _write(path, stamp, build)
                        store = cls._existing(path, stamp)
                if store is not None:
                    return store
                refused.append(f"{path.parent}: the file written there reads back differently")
            except (OSError, NotImplementedError, sqlite3.Error) as error:
                refused.append(f"{path.parent}: {error}")
        raise InputError(
            f"no index of {sources[0]} can be written ({'; '.join(refused)}): set READ_CACHE_DIR "
            "to a folder with write permission and free space"
        )

    @classmethod
    def _existing(cls, path: Path, stamp: dict) -> AnnotationIndex | None:
        """The store in a file, or None if the file is missing, outdated or damaged."""
        try:
            if not _intact(path):
                return None
            connection = _connect(path)
            try:
                (text,) = connection.execute("SELECT content FROM about").fetchone()
            finally:
                connection.close()
            about = json.loads(text)
            groups = about.pop("groups")
        except (OSError, sqlite3.Error, TypeError, ValueError, KeyError, AttributeError):
            return None
        return cls(path, groups) if about == stamp else None

    def groups(self) -> dict[str, int]:
        """Group -> number of records, in order of appearance."""
        return dict(self._groups)

    def get(self, group: str, position: int) -> dict:
        """A record, as `build` gave it.

        Raises:
            KeyError, IndexError: no such group or position.
            InputError: the index was damaged after it was opened.
        """
        if not 0 <= position < self._groups[group]:
            raise IndexError(f"{position} of {self._groups[group]} records of {group!r}")
        key = self._starts[group] + position
        try:
            query = "SELECT content FROM records WHERE id = ?"
            (packed,) = self._connected().execute(query, (key,)).fetchone()
            return json.loads(zlib.decompress(packed))
        except (sqlite3.Error, zlib.error, TypeError, ValueError) as error:
            raise InputError(
                f"the index {self.path} was damaged or removed while in use ({error}): delete it "
                "and start again; it is made anew"
            ) from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None or self._process != os.getpid():
            self._connection, self._process = _connect(self.path), os.getpid()
        return self._connection

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None}


def _stamp(first: Path, source: Path) -> list:
    """What tells a changed source: name from the first one's folder, size, time, content."""
    try:
        state = source.stat()
        content = zlib.crc32(source.read_bytes()) if state.st_size <= SMALL_SOURCE else 0
    except OSError as error:
        raise InputError(f"cannot read {source} ({error}): check the path") from error
    name = os.path.relpath(source, first.parent)
    return [name, state.st_size, state.st_mtime_ns, content]


def _places(source: Path, kind: str, cache_dir: Path | None) -> list[Path]:
    """Index files that may be used, the best first."""
    full = str(source.resolve())
    unique = f"{source.name}.{hashlib.sha256(full.encode()).hexdigest()[:16]}.{kind}.sqlite"
    if cache_dir is not None:
        return [Path(cache_dir) / unique]
    given = os.environ.get("READ_CACHE_DIR")
    shared = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    places = [
        source.parent / FOLDER / f"{source.name}.{kind}.sqlite",
        (Path(given) if given else Path(shared) / "read") / unique,
    ]
    last = Path(tempfile.gettempdir()) / f"read-index-{os.getuid()}"
    if not last.exists() or last.stat().st_uid == os.getuid():
        places.append(last / unique)
    return places


def _connect(path: Path) -> sqlite3.Connection:
    # "immutable": no locks and no look at the file system's times; the file never changes.
    address = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
    return sqlite3.connect(address, uri=True, check_same_thread=False)


def _checksum(path: Path) -> tuple[int, int]:
    """The checksum of a file without its own four bytes, and the one written there."""
    with path.open("rb") as file:
        head = file.read(_CHECKSUM_AT)
        written = int.from_bytes(file.read(4), "big")
        found = zlib.crc32(head)
        while block := file.read(1 << 20):
            found = zlib.crc32(block, found)
    return found, written


def _intact(path: Path) -> bool:
    found, written = _checksum(path)
    return found == written


def _write(path: Path, stamp: dict, build: Build) -> None:
    """Write an index into a temporary file, then put it in place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        part.chmod(0o644)
        connection = sqlite3.connect(part, isolation_level=None)
        try:
            _fill(connection, stamp, build, path.name)
        finally:
            connection.close()
        checksum, _ = _checksum(part)
        with part.open("r+b") as file:
            file.seek(_CHECKSUM_AT)
            file.write(checksum.to_bytes(4, "big"))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _fill(connection: sqlite3.Connection, stamp: dict, build: Build, label: str) -> None:
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE records (id INTEGER PRIMARY KEY, content BLOB NOT NULL)")
    connection.execute("CREATE TABLE about (content TEXT NOT NULL)")
    connection.execute("BEGIN")
    groups: dict[str, int] = {}
    starts: dict[str, int] = {}
    size = sum(source[1] for source in stamp["sources"])
    quick = size < _QUICK_SOURCES
    for group, record in tqdm(build(), f"index {label}", unit=" records", disable=quick):
        start = starts.setdefault(group, len(starts) * _GROUP_STRIDE)
        position = groups.get(group, 0)
        packed = zlib.compress(json.dumps(record, separators=(",", ":")).encode(), 1)
        connection.execute("INSERT INTO records VALUES (?, ?)", (start + position, packed))
        groups[group] = position + 1
    connection.execute("INSERT INTO about VALUES (?)", (json.dumps({**stamp, "groups": groups}),))
    connection.execute("COMMIT")

"""Files that a kill or a full disk never leaves half written, and lines of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from utils.errors import InputError

OTHER_FOLDER = "give another folder, or make room"
GO_ON = "make room, then start the same command again; it goes on where it stopped"


@contextmanager
def writing(path: str | Path, remedy: str = OTHER_FOLDER) -> Iterator[None]:
    """Make the folder of `path`; an `OSError` inside becomes an `InputError` with the remedy."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error}): {remedy}") from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; what is there at the end takes its place.

    The content is on the disk before the name changes. If the block fails, `path` stays as it is.
    """
    partial = Path(f"{path}.{os.getpid()}.partial")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: str | Path, content: str | bytes, remedy: str = OTHER_FOLDER) -> Path:
    """Write a whole file, text as UTF-8; whoever reads meanwhile finds the old one or the new one.

    Returns:
        its path.

    Raises:
        InputError: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(path, remedy), replacing(path) as partial:
        partial.write_bytes(data)
    return Path(path)


def write_json(path: str | Path, data: Any, remedy: str = OTHER_FOLDER, **options: Any) -> Path:
    """`write_file` of JSON with a line feed; `options` are those of `json.dumps`."""
    text = json.dumps(data, **{"ensure_ascii": False, "indent": 1, **options})
    return write_file(path, text + "\n", remedy)


def to_lines(records: Iterable[Any]) -> str:
    """A line of JSON for each record."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def append_lines(path: str | Path, records: Iterable[Any], remedy: str = GO_ON) -> None:
    """Append a line of JSON for each record; they are on the disk when this returns.

    Raises:
        InputError: the file cannot be written.
    """
    text = to_lines(records)
    with writing(path, remedy), open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_lines(
    path: str | Path, damaged: str | None = None, parse: Callable[[Any], Any] = lambda line: line
) -> list[Any]:
    """The records of a file of JSON lines; a last one that is half written is left out.

    Args:
        path: without such a file there are no records.
        damaged: what to do about another damaged line; None: such lines are left out as well.
        parse: makes a record of a line; raises ValueError, KeyError or TypeError if it cannot.

    Raises:
        InputError: another line is damaged.
    """
    pieces: list[bytes] = []
    with suppress(FileNotFoundError):
        pieces = Path(path).read_bytes().rstrip().split(b"\n")
    records = []
    for number, piece in enumerate(pieces, start=1):
        try:
            records.append(parse(json.loads(piece)))
        except (ValueError, KeyError, TypeError) as error:
            if damaged is not None and number < len(pieces):
                raise InputError(
                    f"{path}, line {number}, is damaged ({error}): {damaged}"
                ) from error
    return records


def mend_lines(path: str | Path, records: Iterable[Any]) -> None:
    """Let a file of JSON lines hold these records and no others, such as a half-written line.

    Raises:
        InputError: the file has to change and cannot be written.
    """
    text = to_lines(records)
    if Path(path).exists() and Path(path).read_bytes() != text.encode():
        write_file(path, text, GO_ON)

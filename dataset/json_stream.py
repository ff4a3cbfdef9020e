"""The lists of JSON files of any size, element by element.

Annotation files of a gigabyte would take several times that as objects. Here the text goes through
a window of a megabyte, and the standard library's decoder reads one element of a list at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_WINDOW = 1 << 20
_LONGEST = 1 << 27
"""No element of an annotation file has more characters; a longer one is a mistake in its text."""
_SPACE = re.compile(r"[ \t\n\r]*")
_ENDS = (*" \t\n\r,]}",)
_DECODER = json.JSONDecoder()


class JsonLists:
    """Elements of the lists at the top of a JSON document, in the order of the file.

    Iterating yields (key, element): of an object every value that is a list, under its key; a
    document that is a list itself has the key "". Other values are read over.

    Args:
        path: of the file, in UTF-8 or another encoding that JSON allows.

    Raises:
        OSError: while iterating: the file cannot be read.
        ValueError: while iterating: it is no JSON; the message says where. RecursionError: it is
            nested too deeply.
    """

    def __init__(self, path: Path):
        self.path = path
        self.found: set[str] = set()
        """Keys of the lists so far, also of empty ones."""

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        self.found = set()
        with self.path.open("rb") as raw:
            encoding = json.detect_encoding(raw.read(4))
        with self.path.open(encoding=encoding, newline="") as file:
            text = _Text(file)
            match text.next_sign():
                case "[":
                    yield from self._list("", text)
                case "{":
                    yield from self._object(text)
                case _:
                    text.value()
            if text.next_sign():
                raise text.error("Extra data")

    def _object(self, text: _Text) -> Iterator[tuple[str, Any]]:
        text.take("{")
        while text.next_sign() != "}":
            if text.next_sign() != '"':
                raise text.error("Expecting property name enclosed in double quotes")
            key = text.value()
            text.take(":")
            if text.next_sign() == "[":
                yield from self._list(key, text)
            else:
                text.value()
            if text.next_sign() != "}":
                text.take(",")
                if text.next_sign() == "}":
                    raise text.error("Expecting property name enclosed in double quotes")
        text.take("}")

    def _list(self, key: str, text: _Text) -> Iterator[tuple[str, Any]]:
        self.found.add(key)
        text.take("[")
        while text.next_sign() != "]":
            yield key, text.value()
            if text.next_sign() != "]":
                text.take(",")
                if text.next_sign() == "]":
                    raise text.error("Expecting value")
        text.take("]")


class _Text:
    """A window on the text of a file, moving forward.

    Args:
        file: opened for reading.
    """

    def __init__(self, file: TextIO):
        self._file, self._ended = file, False
        self._window, self._at, self._before = "", 0, 0

    def next_sign(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            found = _SPACE.match(self._window, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._window) or self._ended:
                return self._window[self._at : self._at + 1]
            self._read_on()

    def take(self, sign: str) -> None:
        """Pass a character that has to come next."""
        if self.next_sign() != sign:
            raise self.error(f"Expecting {sign!r}")
        self._at += 1

    def value(self) -> Any:
        """Pass a whole value, and return it."""
        self.next_sign()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                # It may only be cut by the window's edge.
                if self._ended or len(self._window) - self._at > _LONGEST:
                    raise self.error(error.msg, error.pos) from error
            else:
                # A number may go on behind the window's edge: 1.5e|-7.
                is_closed = self._window[self._at] in '"[{' or self._window[end : end + 1] in _ENDS
                if (end < len(self._window) and is_closed) or self._ended:
                    self._at = end
                    return value
            self._read_on()

    def error(self, message: str, position: int | None = None) -> ValueError:
        """The error that the text is no JSON, with the place in the file."""
        place = self._before + (self._at if position is None else position)
        return ValueError(f"{message}: char {place}")

    def _read_on(self) -> None:
        """Drop what is passed and double the window's rest, so that long values cost no more."""
        rest = self._window[self._at :]
        more = self._file.read(max(_WINDOW, len(rest)))
        self._before += self._at
        self._window, self._at, self._ended = rest + more, 0, not more

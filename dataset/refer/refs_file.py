"""Reading `refs(SPLIT_BY).p`: pickles of plain data, and nothing else.

A pickle is a program, and the ordinary loader runs it. Here its instructions are read first,
without running any: one that is not needed for lists, dicts, strings and numbers (above all one
that names a class or function) makes the whole file refused. Only then is it loaded, by a loader
that can look up nothing. What comes out is copied field by field into fresh dicts.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from utils.errors import InputError

_TEXT = """
STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
BINBYTES SHORT_BINBYTES BINBYTES8
"""
_OTHER = """
INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT NONE NEWTRUE NEWFALSE
EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
MARK POP POP_MARK DUP MEMOIZE PROTO FRAME STOP
"""
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_STRINGS = frozenset(_TEXT.split())
_RECALLS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_MEMO = _RECALLS | {"PUT", "BINPUT", "LONG_BINPUT"}
_TUPLES = frozenset({"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_HARMLESS = frozenset(_OTHER.split()) - {"FRAME"}
_PLAIN = _STRINGS | _MEMO | _TUPLES | _HARMLESS | {"FRAME"}
"""Every instruction that a file may hold."""

_NAMES = {"GLOBAL", "INST"}
_MOST_TUPLES = 20_000
"""Tuples nested much deeper than this, used as a key, end the interpreter."""
_TEXT_FACTOR = 16
"""Text copied out of a file, in multiples of its size: strings in it are shared, within reason."""

_DAMAGES = (
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RecursionError,
    MemoryError,
)
_AGAIN = "get it from its source again"


class _PlainUnpickler(pickle.Unpickler):
    """Second line of defence: looks up nothing, whatever the first let through."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to an object outside of the file")


def load_refs(path: str | Path) -> list[dict]:
    """Read the referring expressions of a set.

    Args:
        path: `refs(SPLIT_BY).p`, or `.json` as `python -m dataset.refer_index` writes it. If a
            `.json` lies beside a `.p` it is read instead.

    Returns:
        One dict for each ref: ref_id, ann_id (an id or a list of them), category_id, image_id,
        split, file_name, sentences: a list of dicts with sent, sent_id, tokens, raw, gt_sent,
        is_false_premise, exist. ann_id, image_id, split, sentences and sent are always there;
        others that the file lacks are None.

    Raises:
        InputError: the file is missing, damaged, or holds anything but plain data; the message
            names it.
    """
    path = refs_file(Path(path))
    if path.suffix == ".json":
        return _refs_of_json(path)
    return refs_of_pickle(path)


def refs_file(path: Path) -> Path:
    """The file that is read for `refs(SPLIT_BY).p`: the `.json` beside it, if there is one."""
    converted = path.with_suffix(".json")
    return converted if converted.is_file() else path


def refs_of_pickle(path: Path) -> list[dict]:
    """As `load_refs`, from the pickle itself, whatever lies beside it."""
    data = _bytes(path)
    found = _foreign(path, data)
    if found is not None:
        raise InputError(
            f"{path} is refused: a refs file is plain data, but this pickle holds {found}. Nothing "
            f"in it was executed. Do not open it with other programs; {_AGAIN}"
        )
    try:
        # Strings of Python 2 stay bytes here: some are utf-8, some are not.
        content = _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    except _DAMAGES as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    return _Picker(path, len(data)).refs(content)


def _refs_of_json(path: Path) -> list[dict]:
    data = _bytes(path)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    return _Picker(path, len(data)).refs(content)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the refs file {path} ({error}): {_AGAIN}") from error


def _damaged(path: Path, reason: str) -> InputError:
    remedy = "convert it again or delete it" if path.suffix == ".json" else _AGAIN
    return InputError(f"the refs file {path} is damaged ({reason}): {remedy}")


def _foreign(path: Path, data: bytes) -> str | None:
    """What a pickle holds beside plain data, in words; None if nothing. Runs none of it."""
    recent: deque[str] = deque(["?", "?"], maxlen=2)
    tuples = 0
    try:
        for name, argument in _instructions(data):
            if name in _HARMLESS:
                continue
            if name in _STRINGS:
                recent.append(str(argument))
            elif name in _RECALLS:
                recent.append("?")
            if name not in _PLAIN:
                return _describe(name, argument, recent)
            if name in _TUPLES:
                tuples += 1
            # Places beyond the file's size would take memory in proportion to their number.
            beyond = name in _MEMO and not 0 <= int(argument) < len(data)
            if beyond or (name == "FRAME" and argument > len(data)):
                raise ValueError(f"{name} {argument} points outside of {len(data)} bytes")
            if tuples > _MOST_TUPLES:
                raise ValueError(f"more than {_MOST_TUPLES} tuples, where lists are expected")
    except _DAMAGES as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    return None


def _instructions(data: bytes) -> Iterator[tuple[str, Any]]:
    """Name and argument of each instruction up to the end.

    As `pickletools.genops`, which however takes no `\\xe9` in the strings of Python 2.
    """
    stream = io.BytesIO(data)
    name = ""
    while name != "STOP":
        code = stream.read(1)
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise ValueError(f"no instruction {code!r}" if code else "it ends too early")
        name = opcode.name
        if name == "STRING":
            yield name, stream.readline().decode("latin-1").strip().strip("'\"")
        else:
            yield name, None if opcode.arg is None else opcode.arg.reader(stream)


def _describe(name: str, argument: Any, recent: Iterable[str]) -> str:
    if name in _NAMES:
        return repr(".".join(str(argument).split(" ", 1)))
    if name == "STACK_GLOBAL":
        return repr(".".join(recent))
    detail = "" if argument is None else f" {str(argument)[:60]!r}"
    return f"the instruction {name}{detail}"


class _Picker:
    """Copies the known fields, and no more of them than a file of this size can hold.

    Structures in a pickle may share parts or contain themselves: without a limit a small file could
    become arbitrarily large.
    """

    def __init__(self, path: Path, size: int):
        self.path = path
        self.entries_left = size
        self.text_left = _TEXT_FACTOR * size

    def refs(self, content: Any) -> list[dict]:
        """All refs of a file's content."""
        if not isinstance(content, list):
            raise _damaged(self.path, f"a list of refs is expected, not {type(content).__name__}")
        refs = []
        for number, entry in enumerate(content):
            try:
                refs.append(self._ref(entry))
            except (TypeError, ValueError) as error:
                raise _damaged(self.path, f"ref number {number}: {error}") from error
        return refs

    def _ref(self, entry: Any) -> dict:
        fields = self._fields(entry)
        return {
            "ref_id": self._id(fields, "ref_id", needed=False),
            "ann_id": self._ann_ids(fields.get("ann_id")),
            "category_id": self._id(fields, "category_id", needed=False),
            "image_id": self._id(fields, "image_id"),
            "split": self._text(fields, "split"),
            "file_name": self._text(fields, "file_name", needed=False),
            "sentences": [self._sentence(s) for s in self._list(fields.get("sentences"))],
        }

    def _sentence(self, entry: Any) -> dict:
        fields = self._fields(entry)
        tokens = fields.get("tokens")
        return {
            "sent": self._text(fields, "sent"),
            "sent_id": self._id(fields, "sent_id", needed=False),
            "tokens": None if tokens is None else [self._string(t) for t in self._list(tokens)],
            "raw": self._text(fields, "raw", needed=False),
            "gt_sent": self._text(fields, "gt_sent", needed=False),
            "is_false_premise": self._flag(fields, "is_false_premise"),
            "exist": self._flag(fields, "exist"),
        }

    def _ann_ids(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [self._id({"ann_id": v}, "ann_id") for v in self._list(value)]
        return self._id({"ann_id": value}, "ann_id")

    def _fields(self, entry: Any) -> dict:
        self._take()
        if not isinstance(entry, dict):
            raise TypeError(f"a dict is expected, not {type(entry).__name__}")
        return {k.decode("latin-1") if isinstance(k, bytes) else k: v for k, v in entry.items()}

    def _list(self, value: Any) -> list:
        if not isinstance(value, list | tuple):
            raise TypeError(f"a list is expected, not {type(value).__name__}")
        self._take(len(value))
        return list(value)

    def _id(self, fields: dict, name: str, needed: bool = True) -> Any:
        value = fields.get(name)
        if isinstance(value, bytes | str):
            return self._string(value)
        if (value is None and not needed) or (
            isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
        ):
            return value
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")

    def _flag(self, fields: dict, name: str) -> bool | None:
        value = fields.get(name)
        if value is None or isinstance(value, bool | int):
            return None if value is None else bool(value)
        raise TypeError(f"{name} must be true or false, not {type(value).__name__}")

    def _text(self, fields: dict, name: str, needed: bool = True) -> str | None:
        value = fields.get(name)
        if value is None and not needed:
            return None
        if not isinstance(value, bytes | str):
            raise TypeError(f"{name} must be text, not {type(value).__name__}")
        return self._string(value)

    def _string(self, value: Any) -> str:
        """Text that can be encoded; bytes are utf-8, or else cp1252."""
        if not isinstance(value, bytes | str):
            raise TypeError(f"text is expected, not {type(value).__name__}")
        self.text_left -= len(value)
        if self.text_left < 0:
            raise ValueError("the same text again and again")
        if isinstance(value, bytes):
            try:
                return value.decode("utf-8")
            except UnicodeDecodeError:
                return value.decode("cp1252", "replace")
        return value.encode("utf-8", "replace").decode("utf-8")

    def _take(self, count: int = 1) -> None:
        self.entries_left -= count
        if self.entries_left < 0:
            raise ValueError("the same entries again and again")

"""The original's template file, turned into our families.

    python -m dataset.templates qa_template.py OUT.json

The file is read as syntax (`ast.parse`) and never run. What is understood: strings, sums of them,
f-strings of names that hold strings; lists and tuples of strings, their sums, `+=`, `*list`,
`append` and `extend`. Every string in a list ends up in OUT.json exactly as the file spells it; a
string that does not, or code that may hold strings and is not understood, is an error.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dataset.template_rules import OPTIONAL, UNUSED, fault
from utils.cli.entry_point import cli
from utils.errors import InputError, InputErrors
from utils.files import write_json
from utils.protocol.constants import IMAGE_TOKEN

LISTS = {
    "SHORT_QUESTION_TEMPLATE": "short_question",
    "LONG_QUESTION_TEMPLATE": "long_question",
    "SHORT_ANSWER_TEMPLATE": "positive_answer",
    "NEG_ANSWER_TEMPLATE": "denial_answer",
    "CORRECT_ANSWER_TEMPLATE": "correction_answer",
    "LONG_ANSWER_TEMPLATE": "long_positive_answer",
    "EXPLANATORY_QUESTION_TEMPLATE": "explanatory_question",
}
"""Lists of the original's file -> our families."""

KNOWN_NAMES = {"DEFAULT_IMAGE_TOKEN": IMAGE_TOKEN}
"""Names that the file imports from elsewhere, and what they stand for."""

LARGEST_FILE = 4 << 20
LONGEST_TEMPLATE = 10_000
MOST_TEMPLATES = 100_000
_MOST_TOLD = 20


class Template(NamedTuple):
    """A string in a list, and the line of the file where it begins."""

    text: str
    line: int


def read_template_file(path: str | Path) -> dict[str, list[str]]:
    """Read a template file without running it.

    Args:
        path: the Python file.

    Returns:
        family -> its templates as they are written, duplicates kept, in the order of the file.

    Raises:
        InputError: the file is no readable Python, a list is missing, or something in it is not
            understood or cannot be a template; every such line is named.
    """
    path = Path(path)
    try:
        reader = _Reader(_parse(path))
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply to be a file of templates") from error
    problems = reader.problems or [*_missing(reader), *_lost(reader)]
    found = {}
    for name, family in LISTS.items():
        if entries := reader.entries(name):
            found[family] = [entry.text for entry in entries]
        for entry in entries if family not in UNUSED else ():
            if why := fault(entry.text, family):
                problems.append((entry.line, f"{name}: {entry.text!r} {why}"))
    if problems:
        raise InputErrors(_told(path, sorted(set(problems))))
    return found


def _parse(path: Path) -> ast.Module:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path}: larger than 4 MB; expected the original's qa_template.py")
        return ast.parse(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(
            f"cannot read {path} ({error.strerror or error}); give your copy of qa_template.py"
        ) from error
    except (SyntaxError, ValueError, MemoryError) as error:
        raise InputError(
            f"{path} is not a Python file ({error}); give an unchanged copy of qa_template.py"
        ) from error


def _missing(reader: _Reader) -> Iterator[tuple[int, str]]:
    for name, family in LISTS.items():
        if family not in (*OPTIONAL, *UNUSED) and not reader.entries(name):
            yield 0, f"there is no list {name} with at least one string"


def _lost(reader: _Reader) -> Iterator[tuple[int, str]]:
    """Strings in lists that are part of none of the original's."""
    kept = {id(entry) for name in LISTS for entry in reader.entries(name)}
    for entry in reader.templates:
        if id(entry) not in kept:
            yield entry.line, f"{entry.text!r} ends up in none of {', '.join(LISTS)}"


def _told(path: Path, problems: Sequence[tuple[int, str]]) -> list[str]:
    told = [
        f"{path}, line {line}: {text}" if line else f"{path}: {text}" for line, text in problems
    ]
    more = [f"{path}: and {len(told) - _MOST_TOLD} more"] if len(told) > _MOST_TOLD else []
    remedy = "give an unchanged copy of qa_template.py, or correct these lines; nothing was written"
    return [*told[:_MOST_TOLD], *more, remedy]


class _Unknown(Exception):
    """A piece of code that is not understood; the text says why."""


Value = str | list[Template] | tuple[Template, ...]


class _Reader:
    """What the names at the top level of a file stand for.

    Args:
        module: the file's syntax.
    """

    def __init__(self, module: ast.Module):
        self.names: dict[str, Value | None] = dict(KNOWN_NAMES)
        """None: a value that is not understood, and holds no string."""
        self.templates: list[Template] = []
        """Every string of every list."""
        self.problems: list[tuple[int, str]] = []
        for statement in module.body:
            try:
                self._read(statement)
            except _Unknown as error:
                self._note(statement, error)

    def entries(self, name: str) -> Sequence[Template]:
        """The strings of a list; none if there is no such list."""
        value = self.names.get(name)
        return value if isinstance(value, list | tuple) else ()

    def _read(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.FunctionDef() | ast.ClassDef():
                pass
            case ast.Expr(ast.Constant()):  # a docstring
                pass
            case ast.Expr(ast.Call(ast.Attribute(ast.Name(name), change), [given], [])):
                self._grow(name, change, given)
            case ast.Assign(targets, value):
                self._assign(targets, value)
            case ast.AnnAssign(target, _, value):
                if value is not None:
                    self._assign([target], value)
            case ast.AugAssign(ast.Name(name), ast.Add(), value):
                before = self._named(name)
                if isinstance(before, list):
                    _extend(before, self._value(value))
                else:
                    self.names[name] = _sum(before, self._value(value))
            case _:
                raise _Unknown("this is not understood; the file is not run")

    def _assign(self, targets: Sequence[ast.expr], node: ast.expr) -> None:
        names = [target.id if isinstance(target, ast.Name) else "" for target in targets]
        if names[0].startswith("__"):  # such as __all__
            return
        value: Value | None = None
        is_empty = isinstance(node, ast.List | ast.Tuple) and not node.elts
        if is_empty or set(names) & set(LISTS) or any(map(self._holds_strings, ast.walk(node))):
            if not all(names):
                raise _Unknown("strings and lists have to be given a name of their own")
            value = self._value(node)
        self.names.update(dict.fromkeys(names, value))

    def _holds_strings(self, node: ast.AST) -> bool:
        """Whether a piece of code brings strings along: as such, or by a name."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id) is not None
        return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)

    def _grow(self, name: str, change: str, given: ast.expr) -> None:
        before = self._named(name)
        if not isinstance(before, list) or change not in ("append", "extend"):
            raise _Unknown("this is not understood; the file is not run")
        _extend(before, self._list([given]) if change == "append" else self._value(given))

    def _named(self, name: str) -> Value:
        value = self.names.get(name)
        if value is None:
            raise _Unknown(f"the file gives {name} no string and no list of strings")
        return value

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(str() as text):
                return text
            case ast.Name(name):
                return self._named(name)
            case ast.BinOp(left, ast.Add(), right):
                return _sum(self._value(left), self._value(right))
            case ast.JoinedStr(parts):
                return _short("".join(self._part(part) for part in parts))
            case ast.List(elements):
                return self._list(elements)
            case ast.Tuple(elements):
                return tuple(self._list(elements))
        raise _Unknown("more than strings and lists of them; the file is not run")

    def _part(self, node: ast.expr) -> str:
        """A piece of an f-string."""
        if isinstance(node, ast.FormattedValue):
            if node.conversion != -1 or node.format_spec:
                raise _Unknown("an f-string that computes; the file is not run")
            node = node.value
        return self._text(node)

    def _text(self, node: ast.expr) -> str:
        value = self._value(node)
        if not isinstance(value, str):
            raise _Unknown("a list where a string should stand")
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise _Unknown("a string with halves of characters (surrogates)")
        return value

    def _list(self, elements: Sequence[ast.expr]) -> list[Template]:
        """The strings of a list; elements that are not understood are problems of their own."""
        entries: list[Template] = []
        for element in elements:
            try:
                if isinstance(element, ast.Starred):
                    _extend(entries, self._value(element.value))
                else:
                    entries.append(Template(self._text(element), element.lineno))
                    self.templates.append(entries[-1])
            except _Unknown as error:
                self._note(element, error)
        return entries

    def _note(self, node: ast.stmt | ast.expr, error: _Unknown) -> None:
        self.problems.append((node.lineno, f"{_code(node)}: {error}"))


def _sum(left: Value, right: Value) -> Value:
    if isinstance(left, str) and isinstance(right, str):
        return _short(left + right)
    if isinstance(left, list) and isinstance(right, list):
        return _extend(list(left), right)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return tuple(_extend(list(left), right))
    raise _Unknown("a sum of things of different kinds")


def _extend(entries: list[Template], more: Value) -> list[Template]:
    if isinstance(more, str):
        raise _Unknown("the letters of a string, one by one")
    if len(entries) + len(more) > MOST_TEMPLATES:
        raise _Unknown(f"more than {MOST_TEMPLATES} strings")
    entries += more
    return entries


def _short(text: str) -> str:
    if len(text) > LONGEST_TEMPLATE:
        raise _Unknown(f"longer than {LONGEST_TEMPLATE} characters")
    return text


def _code(node: ast.AST) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 80 else text[:77] + "..."


@cli
def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `python -m dataset.templates`."""
    parser = argparse.ArgumentParser(
        prog="python -m dataset.templates",
        description="Turn the original's qa_template.py, read as syntax and never run, into a file "
        "for --templates. Every template is taken as it is written; what is not understood is an "
        "error.",
    )
    parser.add_argument("source", type=Path, help="your copy of dataloaders/qa_template.py")
    parser.add_argument("out", type=Path, help="JSON file to write")
    given = parser.parse_args(argv)
    found = read_template_file(given.source)
    write_json(given.out, found, indent=2)
    for name, family in LISTS.items():
        unused = " (nothing draws from it)" if family in UNUSED else ""
        print(f"{len(found.get(family, [])):4d} {family} from {name}{unused}")
    print(f"written: {given.out}; use it with --templates {given.out}")


if __name__ == "__main__":
    raise SystemExit(main())

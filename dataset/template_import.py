"""The original's template file, turned into our five families.

    python -m dataset.templates qa_template.py OUT.json [--map FAMILY=LIST_NAME ...]

The file is read as syntax (`ast.parse`) and never run: strings are taken where they stand in lists
at its top level, also as sums of strings and of names that the file itself gives a string.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataset.templates import PLACEHOLDERS, fault
from utils.constants import IMAGE_TOKEN, SEG_TOKEN
from utils.errors import InputError, cli

LARGEST_FILE = 4 << 20
LONGEST_TEMPLATE = 10_000
KNOWN_NAMES = {"DEFAULT_IMAGE_TOKEN": IMAGE_TOKEN}
"""Names that the file imports from elsewhere, and what they stand for."""

ALIASES = {
    "sentence": "sent",
    "class": "class_name",
    "cls": "class_name",
    "cls_name": "class_name",
    "name": "class_name",
    "gt": "gt_name",
    "gt_sent": "gt_name",
    "gt_class": "gt_name",
    "gt_class_name": "gt_name",
    "correct_name": "gt_name",
}
"""Other names of the placeholders."""

_QUESTION, _ANSWER = re.compile("QUEST"), re.compile("ANSWER|NEG|DEN[IY]|ABSEN|REJECT|REFUS")
_FIELD = re.compile(r"\{(\w*)\}")
_IMAGE_FIRST = re.compile(rf"^\s*{re.escape(IMAGE_TOKEN)}\s*")


@dataclass
class Imported:
    """What was found in a template file.

    Args:
        families: family -> its templates, duplicates kept, in the order of the file.
        taken: (list, family) -> how many templates.
        left_out: (list, template or piece of code, why).
    """

    families: dict[str, list[str]]
    taken: dict[tuple[str, str], int] = field(default_factory=dict)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)

    def report(self) -> str:
        """One line for each list and family, then what was left out and why."""
        lines = [f"{count:4d} {family} from {name}" for (name, family), count in self.taken.items()]
        if self.left_out:
            lines.append(f"left out ({len(self.left_out)}):")
        return "\n".join(
            lines + [f"  {name}: {text!r}: {why}" for name, text, why in self.left_out]
        )


def read_template_file(path: str | Path, mapping: Sequence[tuple[str, str]] = ()) -> Imported:
    """Read a template file without running it.

    Args:
        path: the Python file.
        mapping: (family, list): this family comes from this list (several may be given), and the
            list is used for nothing else.

    Raises:
        InputError: the file is no readable Python, has no lists of strings, or a family stays
            empty; a family or list of `mapping` is unknown.
    """
    path = Path(path)
    try:
        lists, left_out = _lists(_parse(path))
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply to be a file of templates") from error
    if not lists:
        raise InputError(
            f"{path}: no list of strings at the top level of the file; expected lists such as "
            "SHORT_QUESTION_LIST = [...]"
        )
    chosen = _check_mapping(path, mapping, lists)
    found = Imported({family: [] for family in PLACEHOLDERS}, left_out=left_out)
    for name, entries in lists.items():
        for entry in entries:
            _assign(found, name, entry, chosen.get(name), {family for family, _ in mapping})
    for family, entries in found.families.items():
        if not entries:
            marks = " and ".join(PLACEHOLDERS[family])
            raise InputError(
                f"{path}: no template for {family} (strings with {marks}); the file has the lists "
                f"{', '.join(lists)}. Name one: --map {family}=LIST_NAME\n{found.report()}"
            )
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


class _Unknown(Exception):
    """A piece of code that is not a string or a list of strings; the text says why."""


def _lists(module: ast.Module) -> tuple[dict[str, list[str]], list[tuple[str, str, str]]]:
    """The lists of strings at the top level, and what in them could not be read."""
    strings = dict(KNOWN_NAMES)
    lists: dict[str, list[str]] = {}
    left_out: list[tuple[str, str, str]] = []
    for statement in module.body:
        for name, node, more in _assignments(statement):
            try:
                if isinstance(node, ast.Dict):
                    for key, value in zip(node.keys, node.values, strict=True):
                        inner = f"{name}.{_string(key, strings)}" if key else name
                        lists[inner] = _entries(inner, value, strings, lists, left_out)
                elif isinstance(node, (ast.List, ast.Tuple)) or name in lists or more:
                    entries = _entries(name, node, strings, lists, left_out)
                    lists[name] = lists.get(name, []) + entries if more else entries
                else:
                    strings[name] = _string(node, strings)
            except _Unknown as error:
                strings.pop(name, None)
                try:
                    lists[name] = _entries(name, node, strings, lists, left_out)
                except _Unknown:
                    left_out.append((name, _code(node), str(error)))
    return {name: entries for name, entries in lists.items() if entries}, left_out


def _assignments(statement: ast.stmt) -> list[tuple[str, ast.expr, bool]]:
    """(name, value, whether it is added to what the name holds)."""
    if isinstance(statement, ast.Assign):
        names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        return [(name, statement.value, False) for name in names]
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return [(statement.target.id, statement.value, False)] if statement.value else []
    if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        value = [(statement.target.id, statement.value, True)]
        return value if isinstance(statement.op, ast.Add) else []
    return []


def _entries(
    name: str,
    node: ast.expr,
    strings: dict[str, str],
    lists: dict[str, list[str]],
    left_out: list[tuple[str, str, str]],
) -> list[str]:
    """The strings of a list, a sum of lists, or the name of a list."""
    if isinstance(node, ast.Name) and node.id in lists:
        return list(lists[node.id])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [_entries(name, side, strings, lists, left_out) for side in (node.left, node.right)]
        return sides[0] + sides[1]
    if not isinstance(node, (ast.List, ast.Tuple)):
        raise _Unknown("not a list of strings")
    entries = []
    for element in node.elts:
        try:
            if isinstance(element, ast.Starred):
                entries += _entries(name, element.value, strings, lists, left_out)
            else:
                entries.append(_string(element, strings))
        except _Unknown as error:
            left_out.append((name, _code(element), str(error)))
    return entries


def _string(node: ast.expr, strings: dict[str, str]) -> str:
    """A string constant, a sum of them, or a name that stands for one."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    elif isinstance(node, ast.Name):
        if node.id not in strings:
            raise _Unknown(f"the file gives {node.id} no string")
        text = strings[node.id]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        text = _string(node.left, strings) + _string(node.right, strings)
    elif isinstance(node, ast.JoinedStr):
        text = "".join(_part(part, strings) for part in node.values)
    else:
        raise _Unknown("more than strings joined by +; the file is not run")
    if len(text) > LONGEST_TEMPLATE:
        raise _Unknown(f"longer than {LONGEST_TEMPLATE} characters")
    return text


def _part(node: ast.expr, strings: dict[str, str]) -> str:
    """A piece of an f-string: text, or a name that stands for a string."""
    if not isinstance(node, ast.FormattedValue):
        return _string(node, strings)
    if node.conversion != -1 or node.format_spec or not isinstance(node.value, ast.Name):
        raise _Unknown("an f-string that computes; the file is not run")
    return _string(node.value, strings)


def _code(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 80 else text[:77] + "..."


def _check_mapping(
    path: Path, mapping: Sequence[tuple[str, str]], lists: dict[str, list[str]]
) -> dict[str, str]:
    for family, name in mapping:
        if family not in PLACEHOLDERS:
            known = ", ".join(PLACEHOLDERS)
            raise InputError(f"--map {family}={name}: unknown family; known: {known}")
        if name not in lists:
            raise InputError(
                f"--map {family}={name}: {path} has no list of strings {name}; it has "
                f"{', '.join(lists)}"
            )
    return {name: family for family, name in mapping}


def _assign(
    found: Imported, name: str, entry: str, mapped: str | None, mapped_families: set[str]
) -> None:
    """Put one string into its family, or among those left out."""
    text = _normal(entry, name)
    family = mapped or _family(text, name)
    if family is None:
        why = "neither its placeholders nor the list's name tell its family; use --map"
    elif mapped is None and family in mapped_families:
        why = f"{family} comes from another list (--map)"
    else:
        why = fault(text, family)
    if family is None or why:
        found.left_out.append((name, entry, why))
        return
    found.families[family].append(text)
    found.taken[name, family] = found.taken.get((name, family), 0) + 1


def _normal(entry: str, name: str) -> str:
    """Without `<image>` in front, and with our names for the placeholders."""
    text = _IMAGE_FIRST.sub("", entry).strip()
    bare = text.count("{}")
    if bare == 1:
        text = text.replace("{}", "{sent}" if "LONG" in name.upper() else "{class_name}")
    elif bare == 2 and not _QUESTION.search(name.upper()):
        text = text.replace("{}", "{class_name}", 1).replace("{}", "{gt_name}", 1)
    return _FIELD.sub(lambda match: "{" + ALIASES.get(match[1], match[1]) + "}", text)


def _family(text: str, name: str) -> str | None:
    """The family that a string belongs to by its placeholders and the name of its list."""
    fields = set(_FIELD.findall(text))
    question = bool(_QUESTION.search(name.upper()))
    if SEG_TOKEN in text:
        return None if question else "positive_answer"
    if "sent" in fields:
        return "long_question"
    if question:
        return "short_question" if "class_name" in fields else None
    if "gt_name" in fields:
        return "correction_answer"
    if "class_name" in fields and _ANSWER.search(name.upper()):
        return "denial_answer"
    return None


def _pair(text: str) -> tuple[str, str]:
    family, _, name = text.partition("=")
    if not family or not name:
        raise argparse.ArgumentTypeError(f"{text!r}: expected FAMILY=LIST_NAME")
    return family, name


@cli
def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `python -m dataset.templates`."""
    parser = argparse.ArgumentParser(
        prog="python -m dataset.templates",
        description="Turn the original's qa_template.py, read as syntax and never run, into a file "
        "for --templates.",
    )
    parser.add_argument("source", type=Path, help="your copy of dataloaders/qa_template.py")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--map",
        type=_pair,
        action="append",
        default=[],
        metavar="FAMILY=LIST_NAME",
        help="take a family from this list; may be repeated. Families: " + ", ".join(PLACEHOLDERS),
    )
    given = parser.parse_args(argv)
    found = read_template_file(given.source, given.map)
    try:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(
            json.dumps(found.families, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise InputError(f"cannot write {given.out} ({error.strerror or error})") from error
    print(found.report())
    print(f"written: {given.out}; use it with --templates {given.out}")

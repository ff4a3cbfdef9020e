"""Imports point down: between the packages, between the rooms of each, and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
ABOVE = {"tiny", "tests", "benchmarks", "examples"}
FORBIDDEN = {
    "utils": {"model", "dataset", "web", *ABOVE},
    "dataset": {"model", "web", *ABOVE},
    "model": {"dataset", "web", *ABOVE},
    "web": {"dataset", *ABOVE},
}
FILES = "the files of the package itself"
ROOMS: dict[str, list[tuple[str, ...]]] = {
    "utils": [
        ("__init__",),
        ("errors",),
        ("files", "stopwatch"),
        ("protocol",),
        ("metrics",),
        ("process",),
        ("cli",),
        ("training", "evaluation"),
        ("reports",),
        ("analysis",),
        ("hub",),
        ("memory",),  # the command alone
    ],
    "dataset": [
        (FILES,),
        ("own", "refer", "sem_seg"),
        ("training", "evaluation"),
        ("preview", "doctor", "toy", "refer_index", "scoring"),
    ],
    "model": [(FILES,), ("inference",), ("loading",), ("analysis",), ("__init__",)],
}
"""Floors from the lowest up. A room imports itself and what lies on lower floors, no neighbour."""
ENTRIES = {path.stem for path in ROOT.glob("*.py")}


def imported(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if file_of(whole) else str(node.module)


def file_of(module: str) -> Path | None:
    """The file of a module of this repository."""
    plain = ROOT.joinpath(*module.split("."))
    files = (plain.with_suffix(".py"), plain / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def place(path: Path) -> tuple[int, str]:
    """(floor, room) of a file in its package.

    A new file or folder of a package whose own files have no floor has to be given one in `ROOMS`.
    """
    package, name, *_ = path.relative_to(ROOT).with_suffix("").parts
    for floor, rooms in enumerate(ROOMS[package]):
        if name in rooms:
            return floor, name
    assert (FILES,) in ROOMS[package], f"{path}: on which floor of ROOMS[{package!r}]?"
    return 0, FILES


def files_of(*packages: str) -> list[Path]:
    return [path for name in packages for path in sorted((ROOT / name).rglob("*.py"))]


def test_imports_between_packages_point_down():
    upward = {
        str(path.relative_to(ROOT)): sorted(wrong)
        for package, forbidden in FORBIDDEN.items()
        for path in files_of(package)
        if (wrong := {name.split(".")[0] for name in imported(path)} & (forbidden | ENTRIES))
    }
    assert upward == {}


def test_imports_between_rooms_point_down():
    wrong = []
    for package in ROOMS:
        for path in files_of(package):
            floor, room = place(path)
            for name in imported(path):
                file = file_of(name)
                if file is None or name.split(".")[0] != package:
                    continue
                other_floor, other_room = place(file)
                if other_room != room and other_floor >= floor:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_no_circles():
    graph = {
        str(path): {str(file) for name in imported(path) if (file := file_of(name))}
        for path in files_of(*FORBIDDEN)
    }
    TopologicalSorter(graph).prepare()


def test_no_entry_point_imports_another():
    wrong = {
        path.stem: sorted(found)
        for path in ROOT.glob("*.py")
        if (found := {name.split(".")[0] for name in imported(path)} & ENTRIES)
    }
    assert wrong == {}


def test_files_are_short():
    files = [*ROOT.glob("*.py"), *files_of(*FORBIDDEN, *ABOVE, "docs")]
    lengths = {str(path): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}

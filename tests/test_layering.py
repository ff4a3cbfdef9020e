"""Imports point down: utils < dataset, model < entry points; dataset and model never meet.

Rooms, the packages inside these, have an order of their own.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
ABOVE = {"tiny", "tests", "benchmarks", "examples"}
FORBIDDEN = {
    "utils": {"model", "dataset", "web", *ABOVE},
    "dataset": {"model", "web", *ABOVE},
    "model": {"dataset", "web", *ABOVE},
    "web": {"dataset", *ABOVE},
}
ROOMS = [
    *("utils.process", "utils.protocol", "utils.cli", "utils.training", "utils.hub"),
    *("utils.evaluation", "utils.reports", "utils.analysis"),
    *("dataset.refer", "dataset.sem_seg", "dataset.own", "dataset.toy", "dataset.doctor"),
    *("model.inference", "model.loading", "model.analysis"),
]
"""Each imports only rooms that stand before it."""
ENTRIES = {path.stem for path in ROOT.glob("*.py")}


def modules(path: Path) -> set[str]:
    """Names of all modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def imported(path: Path) -> set[str]:
    """First parts of these names."""
    return {name.split(".")[0] for name in modules(path)}


def test_imports_point_down():
    upward = {
        str(path.relative_to(ROOT)): sorted(wrong)
        for folder, forbidden in FORBIDDEN.items()
        for path in (ROOT / folder).rglob("*.py")
        if (wrong := imported(path) & (forbidden | ENTRIES))
    }
    assert upward == {}


def test_rooms_import_rooms_before_them():
    rooms = {path.parent for top in FORBIDDEN for path in (ROOT / top).glob("*/__init__.py")}
    assert {".".join(room.relative_to(ROOT).parts) for room in rooms} == set(ROOMS)
    upward = [
        (str(path.relative_to(ROOT)), other)
        for number, room in enumerate(ROOMS)
        for path in (ROOT / room.replace(".", "/")).rglob("*.py")
        for other in sorted({".".join(name.split(".")[:2]) for name in modules(path)})
        if other in ROOMS[number + 1 :]
    ]
    assert upward == []


def test_files_are_short():
    names = (*FORBIDDEN, *ABOVE, "docs")
    folders = [ROOT / name for name in names]
    files = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    lengths = {str(path): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}

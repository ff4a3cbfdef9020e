"""Imports point down: utils < dataset, model < entry points; dataset and model never meet."""

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
ENTRIES = {path.stem for path in ROOT.glob("*.py")}


def imported(path: Path) -> set[str]:
    """First parts of all module names that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


def test_imports_point_down():
    upward = {
        str(path.relative_to(ROOT)): sorted(wrong)
        for folder, forbidden in FORBIDDEN.items()
        for path in (ROOT / folder).rglob("*.py")
        if (wrong := imported(path) & (forbidden | ENTRIES))
    }
    assert upward == {}


def test_files_are_short():
    names = (*FORBIDDEN, *ABOVE, "docs")
    folders = [ROOT / name for name in names]
    files = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    lengths = {str(path): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}

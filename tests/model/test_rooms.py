"""The rooms of `model`: the network knows none of them, inference knows no analysis."""

import ast
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[2] / "model"
FORBIDDEN = {
    "": ("model.inference", "model.analysis", "model.loading"),
    "inference": ("model.analysis", "model.loading"),
    "loading": ("model.analysis",),
}


def modules_of(path: Path) -> set[str]:
    """Modules that a file imports, wherever in the file."""
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_between_rooms(room):
    files = [path for path in (MODEL / room).glob("*.py") if path != MODEL / "__init__.py"]
    assert len(files) > 5
    upward = {
        f"{path.name}: {module}"
        for path in files
        for module in modules_of(path)
        if module.startswith(FORBIDDEN[room])
    }
    assert not upward

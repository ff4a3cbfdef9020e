"""Every required package says who imports it, and that file does."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = [
    (file.name, line)
    for file in sorted(ROOT.glob("requirements*.txt"))
    for line in file.read_text("utf-8").splitlines()
    if line and not line.startswith(("#", "-r "))
]


def imports(file: Path) -> set[str]:
    """First parts of the names of the modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    return names


@cache
def owners() -> dict[str, set[str]]:
    """Module -> the installed packages that bring it, in small letters with hyphens."""
    found = metadata.packages_distributions().items()
    return {module: {re.sub(r"[-_.]+", "-", n).lower() for n in names} for module, names in found}


def modules_of(package: str) -> set[str]:
    """Top-level modules that an installed package brings."""
    return {module for module, names in owners().items() if package.lower() in names}


@pytest.mark.parametrize(("file", "line"), LINES, ids=[line.split(" ")[0] for _, line in LINES])
def test_who_imports_it(file, line):
    requirement, _, user = line.partition("  # ")
    assert user, f"{file}: {requirement} does not say who imports it"
    package = re.split(r"[<>=\[,]", requirement)[0]
    if user.endswith(".py"):
        known = modules_of(package) or {package}
        assert imports(ROOT / user) & known, f"{file}: {user} does not import {package}"
    elif not user.startswith("by "):
        assert (ROOT / user).exists()

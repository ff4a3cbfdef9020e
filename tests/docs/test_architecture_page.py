"""`docs/architecture.md`: its rooms and tree are the real ones, its walks name what there is."""

from __future__ import annotations

import ast
import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
STEPS = re.findall(r"^\| .+ \| `([\w/]+\.py)` \| `([\w.]+)` \|$", PAGE, re.MULTILINE)
ROOMS = re.findall(r"^\| `([\w/]+)/` \| .+ \|$", PAGE, re.MULTILINE)
WALKS = re.findall(r"^## (From .+)$", PAGE, re.MULTILINE)


def files_of_the_project() -> set[str]:
    """Paths below the repository that belong to it."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return set(listed.stdout.splitlines())
    patterns = [*(ROOT / ".gitignore").read_text("utf-8").split(), ".*"]
    found = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]

    def ignored(path: Path, pattern: str) -> bool:
        parts = path.parts[:1] if pattern.startswith("/") else path.parts
        parts = tuple(p for p in parts if p != path.name) if pattern.endswith("/") else parts
        return any(fnmatch(part, pattern.strip("/")) for part in parts)

    return {str(path) for path in found if not any(ignored(path, p) for p in patterns)}


def told_tree() -> dict[str, set[str]]:
    """Folder -> the names that the page lists in it, two spaces deeper; "" is the repository."""
    (block,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.S | re.M)
    told: dict[str, set[str]] = {}
    open_folders = [""]
    for line in block.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        del open_folders[depth + 1 :]
        told.setdefault(open_folders[depth], set()).add(name)
        open_folders.append(open_folders[depth] + name)
    return told


def test_the_tree_is_the_real_one():
    told = told_tree()
    real: dict[str, set[str]] = {folder: set() for folder in told}
    for path in files_of_the_project():
        for folder in told:
            inner, slash, _ = path.removeprefix(folder).partition("/")
            if not path.startswith(folder) or inner.startswith("."):
                continue
            if not folder or (path.endswith(".py") and inner != "__init__.py"):
                real[folder].add(inner + slash)
    assert told == real


def test_the_rooms_are_the_packages():
    packages = [path for name in ("model", "dataset", "utils", "web") for path in rooms(name)]
    assert sorted(ROOMS) == sorted(packages)


def test_the_map_of_the_readme_names_every_room():
    (block,) = re.findall(
        r"^```text\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.S | re.M
    )
    named, outer = [], ""
    for line in block.splitlines():
        names = re.findall(r"(\w+)/", re.split(r"\s{2,}", line.strip())[0])
        if line.startswith(" "):
            named += [f"{outer}/{name}" for name in names]
        else:
            named += names
            outer = names[0] if names else ""
    assert all((ROOT / name).is_dir() for name in named)
    assert set(ROOMS) <= set(named) and len(block.splitlines()) <= 25


def rooms(folder: str) -> list[str]:
    """A package and those below it."""
    return [str(path.parent.relative_to(ROOT)) for path in (ROOT / folder).rglob("__init__.py")]


def definitions(body: list[ast.stmt], before: str = "") -> set[str]:
    """Functions and classes of a module, methods as `Class.method`."""
    names = set()
    for node in body:
        if isinstance(node, ast.ClassDef):
            names |= {before + node.name, *definitions(node.body, f"{before}{node.name}.")}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(before + node.name)
    return names


@pytest.mark.parametrize(("file", "name"), STEPS)
def test_each_step_of_the_walks_is_in_its_file(file, name):
    assert name in definitions(ast.parse((ROOT / file).read_text("utf-8")).body)


def test_there_are_four_walks():
    assert len(WALKS) == 4
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    assert len(rows) == len(STEPS) + len(WALKS) + len(ROOMS) + 1

"""Every command in the shell scripts and in the README is one that the entry points accept."""

import ast
import dataclasses
import importlib
import re
import shlex
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

import dataset.toy.world
from dataset.preview import PreviewOptions
from model import Answer
from quickstart import QuickstartOptions
from utils.config import resolve
from utils.options import AnalyzeOptions, DemoOptions, MergeOptions, TestOptions, TrainOptions

ROOT = Path(__file__).parents[1]
ENTRIES = {
    "train_read.py": TrainOptions,
    "test_read.py": TestOptions,
    "demo.py": DemoOptions,
    "analyze_read.py": AnalyzeOptions,
    "merge_lora_weight.py": MergeOptions,
    "quickstart.py": QuickstartOptions,
}
RECIPES = {
    "ReasonSeg": "read_7b",
    "ReferSeg": "read_7b_referseg",
    "Scratch": "read_7b_scratch",
    "13B-stage1": "read_13b_stage1",
    "13B-stage2": "read_13b_stage2",
}
SCRIPTS = {
    "train_read.sh": ["", "ReasonSeg", "ReferSeg 4", "ReasonSeg 8 24999 --epochs 4", *RECIPES],
    "val_read.sh": [
        "",
        "some/model",
        "some/model 1 --config configs/eval_13b.yaml",
        "some/model 2 refcoco|testA",
        "some/model 1 --no_resume",
    ],
    "test_read.sh": ["", "some/model", "some/model 2 fprefcocog|val --skip_broken"],
    "demo.sh": ["", "some/model", "some/model --force_seg", "--load_in_4bit", "--web --port 0"],
    "analyze_read.sh": ["", "some/model", "some/model --images pictures --layers 0-32"],
    "merge_lora_weight.sh": ["runs/tiny", "runs/tiny out", "runs/tiny --checkpoint latest"],
    "quickstart.sh": ["", "--fast"],
}
MODULES = {"dataset.preview": PreviewOptions, "dataset.doctor": TrainOptions}
"""Started by `python -m`. The flags of the doctor are some of those of training, and a few more."""
DOCTOR_ALONE = {"--deep", "--json", "--cache"}
NOT_ENTRIES = {"run_tests.sh"}
CAPTURE = """exec() { printf '%s\\n' "$@"; exit 0; }; . "$0" """


def command_of(script: str, arguments: list[str]) -> list[str]:
    """The command that a script would become: it is read by a shell whose `exec` prints."""
    bash = ["bash", "-c", CAPTURE, str(ROOT / script), *arguments]
    done = subprocess.run(bash, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout, done.stderr
    return done.stdout.splitlines()


def complaints(words: list[str]) -> list[str]:
    """What is wrong with a command, other than files that are not on this machine."""
    if "dataset.toy" in words:
        drawn = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dataset.toy.world, "write_world", lambda *given: drawn.append(given))
            code = dataset.toy.world.main(words[words.index("dataset.toy") + 1 :])
        return [] if code == 0 and drawn else [f"{words}: exit code {code}"]
    for module, options in MODULES.items():
        if module in words:
            given = [w for w in words[words.index(module) + 1 :] if w not in DOCTOR_ALONE]
            _, problems, _, _ = resolve(options, given)
            return [f"{' '.join(words)}: {p.message}" for p in problems if not p.missing]
    place = next((n for n, word in enumerate(words) if Path(word).name in ENTRIES), None)
    if place is None:
        return [f"{' '.join(words)}: starts no entry point"]
    options = ENTRIES[Path(words[place]).name]
    _, problems, _, _ = resolve(options, words[place + 1 :])
    return [f"{' '.join(words)}: {p.message}" for p in problems if not p.missing]


def readme_commands() -> list[str]:
    """The lines of the README's bash blocks, continued lines joined, comments left out."""
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def test_every_script_is_known():
    assert {path.name for path in ROOT.glob("*.sh")} == set(SCRIPTS) | NOT_ENTRIES


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts(script):
    for arguments in SCRIPTS[script]:
        words = command_of(script, arguments.split())
        assert complaints(words) == []


def test_every_recipe_has_its_script_and_tells_so():
    presets = {path.stem for path in (ROOT / "configs").glob("read_*.yaml")}
    assert set(RECIPES.values()) == presets
    for name, preset in RECIPES.items():
        words = command_of("train_read.sh", [name, "8"])
        path = Path(words[words.index("--config") + 1])
        assert path == ROOT / "configs" / f"{preset}.yaml"
        header = path.read_text("utf-8").partition("\nversion:")[0]
        assert f"bash train_read.sh {name} 8" in header
        for topic in ("Published", "Memory", "Needs", "Lengths"):
            assert f"# {topic}:" in header
        resolved, _, _, _ = resolve(TrainOptions, words[words.index("--config") :])
        assert resolved.exp_name == preset
    done = subprocess.run(
        ["bash", str(ROOT / "train_read.sh"), "70B"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "give ReferSeg, ReasonSeg, Scratch" in done.stderr


@pytest.mark.parametrize(("script", "count"), [("val_read.sh", 12), ("test_read.sh", 3)])
def test_all_published_evaluations(script, count, tmp_path):
    copy = tmp_path / script
    shutil.copy(ROOT / script, copy)
    (tmp_path / "test_read.py").write_text("import sys; print(sys.argv[4], *sys.argv[-2:])")
    bash = ["bash", str(copy), "some/model", "1", "all", "--dataset_dir", "DATA"]
    done = subprocess.run(bash, capture_output=True, text=True, check=True)
    asked = [line.split()[0] for line in done.stdout.splitlines()]
    header = re.findall(rf'^#   bash {script} MODEL 1 "(.*?)"', copy.read_text("utf-8"), re.M)
    assert asked == header and len(set(asked)) == count
    assert done.stdout.count("--dataset_dir DATA") == count


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_tell_what_they_do(script):
    lines = (ROOT / script).read_text("utf-8").splitlines()
    header = "\n".join(line for line in lines[1:30] if line.startswith("#"))
    assert f"bash {script}" in header
    assert "Hardware" in header or "CPU" in header


@pytest.mark.parametrize("script", SCRIPTS)
def test_examples_in_script_headers(script):
    text = (ROOT / script).read_text("utf-8")
    found = re.findall(r"^#.*?(bash \w+\.sh\b[^\[\n]*)$", text, re.M)
    for example in found:
        name, *arguments = shlex.split(re.split(r"\s{2,}", example)[0])[1:]
        assert complaints(command_of(name, arguments)) == []


def test_readme():
    commands = readme_commands()
    assert len(commands) >= 6
    for line in commands:
        words = shlex.split(line)
        if words[:2] == ["bash", "run_tests.sh"]:
            continue
        if words[0] == "bash":
            words = command_of(words[1], words[2:])
        assert complaints(words) == []


def files_of_the_project() -> set[str]:
    """Paths below the repository that belong to it."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return set(listed.stdout.splitlines())
    patterns = [*(ROOT / ".gitignore").read_text("utf-8").split(), ".*"]
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return {
        str(path)
        for path in found
        if not any(fnmatch(part, p.strip("/")) for part in path.parts for p in patterns)
    }


def test_the_tree_of_the_readme_is_the_real_one():
    text = (ROOT / "README.md").read_text("utf-8")
    (block,) = re.findall(r"^```text\n(.*?)^```", text, re.S | re.M)
    told: dict[str, set[str]] = {"": set()}
    for line in block.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            told[""].add(name)
            folder = name
        else:
            told.setdefault(folder, set()).add(name)
    real: dict[str, set[str]] = {folder: set() for folder in told}
    for path in files_of_the_project():
        first, slash, rest = path.partition("/")
        if not first.startswith("."):
            real[""].add(first + slash)
        if f"{first}/" in told and rest.endswith(".py"):
            inner, slash, _ = rest.partition("/")
            real[f"{first}/"] |= {inner + slash} - {"__init__.py"}
    assert told == real


def test_python_in_the_readme():
    text = (ROOT / "README.md").read_text("utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names)
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "answer":
                assert node.attr in {field.name for field in dataclasses.fields(Answer)}

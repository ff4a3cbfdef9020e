"""Every command in the shell scripts, README and docs is one that the entry points accept."""

import ast
import dataclasses
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import dataset.toy.world
from dataset.flag_checks import evaluation_flags, training_flags
from dataset.preview import PreviewOptions
from model import Answer
from quickstart import QuickstartOptions
from utils.cli.options import (
    AnalyzeOptions,
    DemoOptions,
    MergeOptions,
    OriginalMergeOptions,
    TestOptions,
    TrainOptions,
)
from utils.cli.parser import Check, resolve

ROOT = Path(__file__).parents[1]
ENTRIES: dict[str, tuple[type, list[Check]]] = {
    "train_read.py": (TrainOptions, [training_flags]),
    "test_read.py": (TestOptions, [evaluation_flags]),
    "demo.py": (DemoOptions, []),
    "analyze_read.py": (AnalyzeOptions, [evaluation_flags]),
    "merge_lora_weight.py": (MergeOptions, []),
    "merge_lora_weights_and_save_hf_model.py": (OriginalMergeOptions, []),
    "quickstart.py": (QuickstartOptions, []),
}
RECIPES = {
    "ReasonSeg": "read_7b",
    "ReferSeg": "read_7b_referseg",
    "Scratch": "read_7b_scratch",
    "13B-stage1": "read_13b_stage1",
    "13B-stage2": "read_13b_stage2",
}
SCRIPTS = {
    "train_read.sh": [
        "",
        "ReasonSeg",
        "ReferSeg 4",
        "ReasonSeg 8 24999 --epochs 4",
        "ReferSeg localhost:0,1 15990",
        "ReasonSeg a:0,1@b:0 --seed 1",
        *RECIPES,
    ],
    "val_read.sh": [
        "",
        "some/model",
        "some/model 1 --config configs/eval_13b.yaml",
        "some/model 2 refcoco|testA",
        "some/model 1 --no_resume",
    ],
    "test_read.sh": ["", "some/model", "some/model 2 fprefcocog|val --skip_broken"],
    "demo.sh": ["", "some/model", "some/model --force_seg", "--load_in_4bit", "--web --port 0"],
    "analyze_read.sh": ["", "some/model", "some/model --images images --layers 0-32"],
    "merge_lora_weight.sh": ["runs/tiny", "runs/tiny out", "runs/tiny --checkpoint latest"],
    "quickstart.sh": ["", "--fast"],
}
MODULES: dict[str, tuple[type, list[Check]]] = {
    "dataset.preview": (PreviewOptions, []),
    "dataset.doctor": (TrainOptions, [training_flags]),
}
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
    if "utils.evaluation.score" in words:
        scoring = importlib.import_module("dataset.scoring")
        given = words[words.index("utils.evaluation.score") + 1 :]
        return [] if scoring.parse_arguments(given).predictions else [f"{words}: no predictions"]
    if "dataset.toy" in words:
        drawn = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dataset.toy.world, "write_world", lambda *given: drawn.append(given))
            code = dataset.toy.world.main(words[words.index("dataset.toy") + 1 :])
        return [] if code == 0 and drawn else [f"{words}: exit code {code}"]
    for module, (options, checks) in MODULES.items():
        if module in words:
            given = [w for w in words[words.index(module) + 1 :] if w not in DOCTOR_ALONE]
            _, problems, _, _ = resolve(options, given, checks=checks)
            return [f"{' '.join(words)}: {p.message}" for p in problems if not p.missing]
    place = next((n for n, word in enumerate(words) if Path(word).name in ENTRIES), None)
    if place is None:
        return [f"{' '.join(words)}: starts no entry point"]
    options, checks = ENTRIES[Path(words[place]).name]
    _, problems, _, _ = resolve(options, words[place + 1 :], checks=checks)
    return [f"{' '.join(words)}: {p.message}" for p in problems if not p.missing]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def page_commands(page: Path) -> list[str]:
    """The lines of a page's bash blocks, continued lines joined, comments left out."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)
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
    (tmp_path / "utils").mkdir()
    shutil.copy(ROOT / "utils" / "start.sh", tmp_path / "utils")
    (tmp_path / "test_read.py").write_text("import sys; print(sys.argv[4], *sys.argv[-2:])")
    bash = ["bash", str(copy), "some/model", "1", "all", "--dataset_dir", "DATA"]
    done = subprocess.run(bash, capture_output=True, text=True, check=True)
    asked = [line.split()[0] for line in done.stdout.splitlines()]
    header = re.findall(rf'^#   bash {script} MODEL 1 "(.*?)"', copy.read_text("utf-8"), re.M)
    assert asked == header and len(set(asked)) == count
    assert done.stdout.count("--dataset_dir DATA") == count


def shell(command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A line of a shell; its Python is that of these tests where the project has no .venv."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "PATH": path},
    )  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_as_the_first_argument(script, tmp_path):
    """From another folder; it shows a command that takes the flags it shows, and writes nothing."""
    done = shell(f"bash {ROOT / script} --dry_run", tmp_path)
    assert done.returncode == 0 and list(tmp_path.iterdir()) == [], done.stderr
    if "would make .venv" in done.stdout:
        return
    told = [line for line in done.stdout.splitlines() if line.startswith("would run: ")]
    assert told and all("--dry_run" in line for line in told) or script == "quickstart.sh"
    for line in told:
        words = shlex.split(line.removeprefix("would run: "))
        if not any(Path(word).name.endswith(".sh") for word in words):
            assert complaints([word for word in words if word != "--dry_run"]) == []
    options = yaml.safe_load(done.stdout.rpartition("\n# ")[2].partition("\n")[2])
    assert isinstance(options, dict) and options


@pytest.mark.parametrize("where", ["--dry_run {}", "{} --dry_run"])
def test_gpus_by_their_numbers(where):
    done = shell("bash train_read.sh " + where.format("ReferSeg localhost:0,1 15990"))
    assert done.returncode == 0, done.stderr
    first, _, configuration = done.stdout.partition("\n")
    assert "--include localhost:0,1 --master_port 15990" in first and "referseg.yaml" in first
    assert "exp_name: read_7b_referseg" in configuration
    done = shell("bash train_read.sh " + where.format("ReferSeg host1:0,1@host2:0 15990"))
    assert done.stdout.startswith("would run: deepspeed --include host1:0,1@host2:0 --master_port")


@pytest.mark.parametrize("gpus", ["localhost:0,0", "localhost:x", "0", "-1", "a b"])
def test_no_gpus(gpus):
    done = shell(f"bash train_read.sh ReferSeg '{gpus}' --dry_run")
    assert done.returncode == 2 and done.stderr.count("error:") == 1, done.stderr
    assert gpus in done.stderr and "Traceback" not in done.stderr


def test_merging_without_a_run_tells_what_there_is(tmp_path):
    script = f"bash {ROOT / 'merge_lora_weight.sh'}"
    done = shell(script, tmp_path)
    assert done.returncode == 2 and "usage:" in done.stdout and "no run" in done.stdout
    checkpoints = tmp_path / "runs" / "seven" / "ckpt_model"
    checkpoints.mkdir(parents=True)
    (checkpoints / "best").write_text("step_00000500")
    done = shell(script, tmp_path)
    assert done.returncode == 2 and done.stderr == ""
    assert "bash merge_lora_weight.sh runs/seven " in done.stdout
    assert "step_00000500" in done.stdout
    done = shell(f"{script} --dry_run", tmp_path)
    assert done.returncode == 0 and "exp_dir: runs/seven" in done.stdout


HEAVY = ("torch", "transformers", "deepspeed", "peft", "gradio")
HELPS = [
    *ENTRIES, "launch.py", "dataset.doctor", "dataset.preview", "dataset.toy", "dataset.templates",
    "dataset.refer_index", "utils.memory", "utils.evaluation.score", "tiny.pretrain",
]  # fmt: skip


@pytest.mark.parametrize("entry", HELPS)
def test_help_imports_nothing_heavy(entry):
    run = f"run_path({entry!r}" if entry.endswith(".py") else f"run_module({entry!r}"
    program = (
        f"import runpy, sys\nsys.argv = ['x', '--help']\ntry:\n runpy.{run}, "
        "run_name='__main__')\nexcept SystemExit as left:\n assert not left.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    assert "usage:" in done.stdout


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


INSTALLATION = [
    "python3 -m venv .venv",
    "source .venv/bin/activate",
    "pip install -r requirements.txt",
]


def test_commands_of_the_pages_are_found():
    found = {page.name: len(page_commands(page)) for page in PAGES}
    assert found["README.md"] >= 15 and found["reproduce.md"] >= 15
    for name in ("data.md", "evaluation.md", "analysis.md", "web.md", "own_data.md"):
        assert found[name] >= 2, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page(page, tmp_path):
    """DATASET_DIR of a page is a folder with an own set NAME, as the page describes it."""
    for split in ("train", "val", "test"):
        (tmp_path / "own" / "NAME" / split).mkdir(parents=True)
    for line in page_commands(page):
        words = shlex.split(line.replace("DATASET_DIR", str(tmp_path)))
        if line in INSTALLATION or words == ["bash", "run_tests.sh"]:
            continue
        if words[0] == "bash":
            words = command_of(words[1], words[2:])
        assert complaints(words) == []


def test_installation_stands_before_what_needs_it():
    lines = page_commands(ROOT / "README.md")
    first = lines.index(INSTALLATION[0])
    assert lines[first : first + 3] == INSTALLATION
    assert not any(line.startswith(("python ", "deepspeed ")) for line in lines[:first])
    requirements = INSTALLATION[2].split()[-1]
    assert (ROOT / requirements).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_of_a_page(page):
    text = page.read_text("utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names)
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "answer":
                assert node.attr in {field.name for field in dataclasses.fields(Answer)}

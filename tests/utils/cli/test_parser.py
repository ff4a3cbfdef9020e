"""Command lines from dataclasses: every way to give a value, and every mistake told at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml

from utils.cli import parser
from utils.cli.flags import flags_of, option
from utils.cli.parser import REPOSITORY, Problem, parse, resolve
from utils.errors import InputErrors


@dataclass(frozen=True)
class Basic:
    """First group."""

    number: int = option(3, "a number")
    rate: float = option(0.5, "a rate")
    name: str = option("x", "a name", choices=("x", "y"))
    switch: bool = option(True, "a switch")
    no_eval: bool = option(False, "no evaluation")


@dataclass(frozen=True)
class Sample(Basic):
    """Own group."""

    items: list[int] = option([1, 2], "some numbers")
    maybe: int | None = option(None, "perhaps a number")
    mode: Literal["slow", "fast"] = option("slow", "a mode")
    either: str | dict = option("plain", "text or a mapping")
    place: str | None = option(None, "a path", path=True)

    def problems(self) -> list[Problem]:
        found = []
        if self.number < 0:
            found.append(Problem(f"--number={self.number}: give 0 or more"))
        if self.place is not None and not Path(self.place).exists():
            found.append(Problem(f"--place={self.place}: does not exist", missing=True))
        return found


def values(*argv: str) -> Sample:
    options, problems, _, _ = resolve(Sample, list(argv))
    assert problems == []
    assert options is not None
    return options


def messages(*argv: str) -> list[str]:
    return [problem.message for problem in resolve(Sample, list(argv))[1]]


def test_defaults():
    assert values() == Sample()


def test_types():
    got = values("--number=7", "--rate", "3e-4", "--maybe", "5", "--mode", "fast", "--name", "y")
    assert (got.number, got.rate, got.maybe, got.mode, got.name) == (7, 3e-4, 5, "fast", "y")
    assert values("--maybe", "none").maybe is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--switch"], True),
        (["--no_switch"], False),
        (["--switch=False"], False),
        (["--switch", "false"], False),
        (["--switch=True"], True),
        (["--no_switch", "--switch"], True),
    ],
)
def test_booleans(given, expected):
    assert values(*given).switch is expected


def test_a_flag_called_no_something():
    assert values("--no_eval").no_eval is True
    assert values("--no_eval=False").no_eval is False
    assert "unknown flag --no_no_eval" in messages("--no_no_eval")[0]


def test_lists():
    assert values("--items", "4", "5").items == [4, 5]
    assert values("--items=4,5").items == [4, 5]


def test_mapping_on_the_command_line():
    assert values("--either", "{a: 1, b: [2]}").either == {"a": 1, "b": [2]}
    assert values("--either", "text").either == "text"


def test_dashes_are_underscores():
    assert values("--no-eval").no_eval is True


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--numbr=1"], ["unknown flag --numbr", "did you mean number"]),
        (["--no_swich"], ["unknown flag --no_swich", "switch"]),
        (["--zzzzzz"], ["unknown flag --zzzzzz", "--help"]),
        (["stray"], ["unexpected argument 'stray'"]),
        (["--number=many"], ["--number=many", "a whole number"]),
        (["--number=1.5"], ["--number=1.5", "a whole number"]),
        (["--rate=fast"], ["--rate=fast", "a number"]),
        (["--name=z"], ["--name=z", "one of x, y"]),
        (["--mode=medium"], ["--mode=medium", "one of slow, fast"]),
        (["--switch=maybe"], ["--switch=maybe", "True or False"]),
        (["--items=1,x"], ["--items=x", "a whole number"]),
        (["--number"], ["--number needs a value"]),
        (["--number=none"], ["--number=none", "a whole number"]),
        (["--number=-1"], ["--number=-1", "0 or more"]),
        (["--config=nowhere.yaml"], ["nowhere.yaml", "no such file"]),
    ],
)
def test_one_mistake(given, words):
    (message,) = messages(*given)
    for word in words:
        assert word in message


def test_all_mistakes_at_once(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Sample, ["--numbr=1", "--rate=fast", "--mode=medium", "--place=/nowhere"], prog="p")
    assert stop.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4


def test_preset_and_flags(tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("number: 8\nrate: 1e-3\nswitch: false\nitems: [9]\neither: {a: 1}\n")
    options, problems, origins, _ = resolve(Sample, ["--config", str(preset), "--number=9"])
    assert problems == []
    assert options == Sample(number=9, rate=1e-3, switch=False, items=[9], either={"a": 1})
    assert origins["number"] == "by hand"
    assert origins["rate"] == str(preset)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("numbr: 1\n", ["unknown key 'numbr'", "did you mean number"]),
        ("number: many\n", ["--number=many", "a whole number"]),
        ("- 1\n", ["mapping"]),
        ("a: b: c\n", ["not valid YAML"]),
        ("number: [1]\n", ["--number"]),
    ],
)
def test_mistakes_in_a_preset(tmp_path, text, words):
    preset = tmp_path / "preset.yaml"
    preset.write_text(text)
    (message,) = messages("--config", str(preset))
    for word in ["preset.yaml", *words]:
        assert word in message


def test_an_empty_preset_changes_nothing(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert values("--config", str(tmp_path / "empty.yaml")) == Sample()


def test_paths_in_a_preset_are_found_in_the_repository(tmp_path, monkeypatch):
    preset = tmp_path / "preset.yaml"
    preset.write_text("place: utils/cli/parser.py\n")
    monkeypatch.chdir(tmp_path)
    assert values("--config", str(preset)).place == str(REPOSITORY / "utils" / "cli" / "parser.py")
    (tmp_path / "utils" / "cli").mkdir(parents=True)
    (tmp_path / "utils" / "cli" / "parser.py").write_text("")
    assert values("--config", str(preset)).place == "utils/cli/parser.py"


def test_dry_run_warns_of_missing_paths(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Sample, ["--dry_run", "--place=/nowhere", "--number=4"])
    assert stop.value.code == 0
    captured = capsys.readouterr()
    assert "number: 4    # by hand" in captured.out
    assert "warning: --place=/nowhere" in captured.err


def test_dry_run_reports_mistakes(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Sample, ["--dry_run", "--place=/nowhere", "--number=-4"])
    assert stop.value.code == 2
    assert "error: --number=-4" in capsys.readouterr().err


def test_missing_paths_are_errors_otherwise(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Sample, ["--place=/nowhere"])
    assert stop.value.code == 2
    assert "error: --place=/nowhere" in capsys.readouterr().err


def test_what_is_printed_is_grouped_and_a_preset(tmp_path, capsys):
    options = parse(Sample, ["--either={a: 1}", "--rate=1e-5"])
    text = capsys.readouterr().out
    assert text.index("# First group") < text.index("number: 3") < text.index("# Own group")
    (tmp_path / "again.yaml").write_text(text)
    assert values("--config", str(tmp_path / "again.yaml")) == options


@pytest.mark.slow
def test_only_rank_0_prints(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    parse(Sample, [])
    with pytest.raises(SystemExit):
        parse(Sample, ["--numbr=1"])
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_save_and_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    options = Sample(number=5, either={"a": [1, 2]}, place="here", maybe=4)
    parser.save(options, tmp_path / "config.yaml")
    loaded = parser.load(Sample, tmp_path / "config.yaml")
    assert loaded.place == str(tmp_path / "here")
    assert (loaded.number, loaded.either, loaded.maybe) == (5, {"a": [1, 2]}, 4)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["number"] == 5


def test_load_reports_what_is_wrong(tmp_path):
    (tmp_path / "config.yaml").write_text("numbr: 1\nrate: fast\n")
    with pytest.raises(InputErrors) as caught:
        parser.load(Sample, tmp_path / "config.yaml")
    assert len(caught.value.messages) == 2


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Sample, ["--help"], prog="p")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name, flag in flags_of(Sample).items():
        assert f"--{name}" in text
        assert flag.help in " ".join(text.split())

"""The original's template file: read as syntax, sorted into families, never run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dataset.template_import import main, read_template_file
from dataset.templates import PLACEHOLDERS, load_templates
from utils.errors import InputError

REPOSITORY = Path(__file__).parents[2]
LIKE_THE_ORIGINAL = r'''
"""Questions and answers."""
from .utils import DEFAULT_IMAGE_TOKEN

IS_THERE = "If it is there, "
SHORT_QUESTION_LIST = [
    DEFAULT_IMAGE_TOKEN + "\n" + "Mark the {class_name} here.",
    DEFAULT_IMAGE_TOKEN + "\n" + "Where is {class_name}? " "Show {class_name}.",
    DEFAULT_IMAGE_TOKEN + "\n" + IS_THERE + "mark the {class_name}.",
    f"{DEFAULT_IMAGE_TOKEN}\n{IS_THERE}show it.",
]
LONG_QUESTION_LIST = (
    DEFAULT_IMAGE_TOKEN + "\n" + "{sent} Answer with a mask.",
    DEFAULT_IMAGE_TOKEN + "\n" + "{sent} Answer with a mask.",
)
EXPLANATORY_QUESTION_LIST = ["Please explain why."]
ANSWER_LIST: list = ["It is [SEG].", "[SEG].", "The {class_name} is [SEG]."]
ANSWER_LIST += ["Sure, [SEG]."]
NEG_ANSWER_LIST = ["No {class_name} here.", "None."]
CORRECT_ANSWER_LIST = ["No {class_name}, but there is {gt_name}."]
'''


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "qa_template.py"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_every_family_is_found(write):
    found = read_template_file(write(LIKE_THE_ORIGINAL))
    assert found.families == {
        "short_question": [
            "Mark the {class_name} here.",
            "Where is {class_name}? Show {class_name}.",
            "If it is there, mark the {class_name}.",
        ],
        "long_question": ["{sent} Answer with a mask."] * 2,
        "positive_answer": ["It is [SEG].", "[SEG].", "Sure, [SEG]."],
        "denial_answer": ["No {class_name} here."],
        "correction_answer": ["No {class_name}, but there is {gt_name}."],
    }
    assert found.taken["ANSWER_LIST", "positive_answer"] == 3
    left = {text: (name, why) for name, text, why in found.left_out}
    assert left["The {class_name} is [SEG]."][0] == "ANSWER_LIST"
    assert "must hold [SEG] and no other" in left["The {class_name} is [SEG]."][1]
    assert "--map" in left["Please explain why."][1]
    assert {"None.", "<image>\nIf it is there, show it."} < set(left)


def test_the_written_file_is_loaded_by_the_command_line(write, tmp_path):
    out = tmp_path / "mine" / "templates.json"
    command = [sys.executable, "-m", "dataset.templates", write(LIKE_THE_ORIGINAL), out]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 short_question from SHORT_QUESTION_LIST" in done.stdout
    assert "left out (" in done.stdout and "--templates" in done.stdout
    assert load_templates(out).correction_answer == ("No {class_name}, but there is {gt_name}.",)
    assert list(json.loads(out.read_text())) == list(PLACEHOLDERS)


def test_other_names_of_placeholders_and_lists(write):
    text = """
TEMPLATES = {"SHORT_QUESTIONS": ["Find {}."], "LONG_QUESTIONS": ["{} Please show it."]}
YES_ANSWERS = ["It is [SEG]."] + ["See [SEG]."]
ABSENT = ["No {cls_name}."]
CORRECTIONS = ["No {class_name} but {gt_sent}.", "Not {}, it is {}."]
ALL = [*YES_ANSWERS]
"""
    found = read_template_file(write(text)).families
    assert found["short_question"] == ["Find {class_name}."]
    assert found["long_question"] == ["{sent} Please show it."]
    assert found["positive_answer"] == ["It is [SEG].", "See [SEG]."] * 2
    assert found["denial_answer"] == ["No {class_name}."]
    assert found["correction_answer"][1] == "Not {class_name}, it is {gt_name}."


def test_a_map_wins_over_the_names(write):
    text = LIKE_THE_ORIGINAL + 'MORE = ["There is nothing like {class_name}."]\n'
    found = read_template_file(write(text), [("denial_answer", "MORE")])
    assert found.families["denial_answer"] == ["There is nothing like {class_name}."]
    assert any(name == "NEG_ANSWER_LIST" and "--map" in why for name, _, why in found.left_out)
    with pytest.raises(InputError, match="has no list of strings NOTHING; it has SHORT_QUEST"):
        read_template_file(write(text), [("denial_answer", "NOTHING")])
    with pytest.raises(InputError, match="unknown family; known: short_question"):
        read_template_file(write(text), [("denials", "MORE")])


def test_nothing_is_run(write, tmp_path):
    marker = tmp_path / "executed"
    hostile = f"""
import os
open({str(marker)!r}, "w").write("import")
os.system("touch {marker}")
def run():
    open({str(marker)!r}, "w")
run()
class Trap:
    open({str(marker)!r}, "w")
EVIL_ANSWER_LIST = [
    open({str(marker)!r}, "w").name,
    __import__("os").system("touch {marker}"),
    f"{{open({str(marker)!r}, 'w')}} {{class_name}}",
    (lambda: open({str(marker)!r}, "w"))(),
    "no {{class_name}}".format(class_name=open({str(marker)!r}, "w")),
    "x" * 10 ** 10,
    *[open({str(marker)!r}, "w")],
]
EVIL_LIST = [open({str(marker)!r}, "w") for _ in range(3)]
"""
    found = read_template_file(write(hostile + LIKE_THE_ORIGINAL))
    assert not marker.exists()
    evil = [why for name, _, why in found.left_out if name.startswith("EVIL")]
    assert len(evil) == 8 and all("not run" in why or "computes" in why for why in evil[:7])
    subprocess.run([sys.executable, write(hostile)], capture_output=True)
    assert marker.exists()  # running it would have been noticed


def test_strings_that_grow_are_cut_off(write):
    doubling = 'A0 = "aaaaaaaaaa"\n' + "".join(f"A{n + 1} = A{n} + A{n}\n" for n in range(40))
    found = read_template_file(write(doubling + LIKE_THE_ORIGINAL))
    assert any("longer than" in why for _, _, why in found.left_out)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SHORT = [", "is not a Python file"),
        ("A = 'x'\x00", "is not a Python file"),
        ("x = 1\n", "no list of strings"),
        ("A = [" + "(" * 5000 + "'a'" + ")" * 5000 + "]", "not a Python file|nested too deeply"),
        ("A = [" + " + ".join(["'a'"] * 50_000) + "]", "not a Python file|nested too deeply"),
        (LIKE_THE_ORIGINAL.replace("NEG_ANSWER_LIST", "OTHER"), "--map denial_answer=LIST_NAME"),
        (LIKE_THE_ORIGINAL.replace("{gt_name}", "it"), "no template for correction_answer"),
    ],
)
def test_unusable_files_are_named(write, text, message):
    path = write(text)
    with pytest.raises(InputError, match=message) as caught:
        read_template_file(path)
    assert str(path) in str(caught.value)


def test_mistakes_at_the_command_line(write, tmp_path, capsys):
    assert main([str(tmp_path / "nowhere.py"), str(tmp_path / "out.json")]) == 2
    assert "give your copy of qa_template.py" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([str(write(LIKE_THE_ORIGINAL)), str(tmp_path / "file" / "out.json")]) == 2
    assert "cannot write" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(write(LIKE_THE_ORIGINAL)), "out.json", "--map", "denial_answer"])
    assert "expected FAMILY=LIST_NAME" in capsys.readouterr().err

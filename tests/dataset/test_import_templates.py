"""The original's template file: read as syntax, every string kept as it is written, never run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataset.import_templates import LISTS, main, read_template_file
from dataset.templates import PLACEHOLDERS, UNUSED, load_templates
from utils.errors import InputError, InputErrors
from utils.protocol.constants import IMAGE_TOKEN

REPOSITORY = Path(__file__).parents[2]
SMALL = r"""
from .utils import DEFAULT_IMAGE_TOKEN

IS_THERE = "If it is there, "
SHORT_QUESTION_TEMPLATE = [
    DEFAULT_IMAGE_TOKEN + "\n" + "Mark the {class_name} here.",
]
LONG_QUESTION_TEMPLATE = [DEFAULT_IMAGE_TOKEN + "\n" + "{sent} Answer with a mask."]
SHORT_ANSWER_TEMPLATE = ["It is [SEG]."]
LONG_ANSWER_TEMPLATE = ["Sure, [SEG]."]
NEG_ANSWER_TEMPLATE = ["No {class_name} here."]
CORRECT_ANSWER_TEMPLATE = ["No {class_name}, but there is {gt_name}."]
"""
COUNTS = {
    "SHORT_QUESTION_TEMPLATE": 100,
    "LONG_QUESTION_TEMPLATE": 49,
    "NEG_ANSWER_TEMPLATE": 100,
    "LONG_ANSWER_TEMPLATE": 35,
    "SHORT_ANSWER_TEMPLATE": 81,
    "CORRECT_ANSWER_TEMPLATE": 99,
    "EXPLANATORY_QUESTION_TEMPLATE": 3,
}
"""Of the original's file: 467 templates."""


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "qa_template.py"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def executed(source: str) -> dict[str, list[str]]:
    """What Python itself makes of a template file: the lists by name."""
    names = {"DEFAULT_IMAGE_TOKEN": IMAGE_TOKEN}
    lines = [line for line in source.splitlines() if not line.startswith("from .")]
    exec("\n".join(lines), names)  # the test's own text
    return {name: list(names[name]) for name in LISTS if name in names}


def like_the_original() -> str:
    """467 made-up templates in the original's lists, spelled as sums, with its share of marks."""
    lines = ["from .utils import DEFAULT_IMAGE_TOKEN", ""]

    def add(name: str, entries: list[str]) -> None:
        lines.extend([f"{name} = [", *(f"    {entry}," for entry in entries), "]"])

    first = r'DEFAULT_IMAGE_TOKEN + "\n" + '
    add("SHORT_QUESTION_TEMPLATE", [f'{first}"Is {{class_name}} here ({n})? "' for n in range(100)])
    add("LONG_QUESTION_TEMPLATE", [f"{first}\"{{sent}}  Mask {n}, 'please'.\"" for n in range(49)])
    mine = ["The {class_name} is [SEG]"] * 50 + ["Sure, [SEG]"] * 31
    add("SHORT_ANSWER_TEMPLATE", [f'"{text} ({n})."' for n, text in enumerate(mine)])
    add("LONG_ANSWER_TEMPLATE", [f'"Here, no. {n}: [SEG]."' for n in range(35)])
    denials = ["None here"] * 24 + ["No {class_name}"] * 76
    add("NEG_ANSWER_TEMPLATE", [f'"{text} ({n})."' for n, text in enumerate(denials)])
    add(
        "CORRECT_ANSWER_TEMPLATE",
        [f'"{n}: no {{class_name}}, " "but {{gt_name}}."' for n in range(99)],
    )
    add("EXPLANATORY_QUESTION_TEMPLATE", [f'"Please explain ({n})."' for n in range(3)])
    return "\n".join(lines) + "\n"


def test_all_467_templates_of_a_file_like_the_original(write, tmp_path, capsys):
    source, out = like_the_original(), tmp_path / "out" / "templates.json"
    expected = executed(source)
    assert {name: len(entries) for name, entries in expected.items()} == COUNTS
    assert sum("{class_name}" in text for text in expected["SHORT_ANSWER_TEMPLATE"]) == 50
    assert sum("{class_name}" not in text for text in expected["NEG_ANSWER_TEMPLATE"]) == 24
    assert main([str(write(source)), str(out)]) == 0
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written == {LISTS[name]: entries for name, entries in expected.items()}
    assert sum(map(len, written.values())) == 467
    printed = capsys.readouterr().out
    assert "  81 positive_answer from SHORT_ANSWER_TEMPLATE" in printed
    assert "   3 explanatory_question from EXPLANATORY_QUESTION_TEMPLATE (nothing" in printed

    templates = load_templates(out)
    for family in PLACEHOLDERS:
        used = tuple(text.removeprefix("<image>\n") for text in written[family])
        assert getattr(templates, family) == used
    assert not any(IMAGE_TOKEN in text for text in templates.short_question)
    assert templates.short_question[0] == "Is {class_name} here (0)? "  # spaces stay


def test_the_command_line_converts_and_loads(write, tmp_path):
    out = tmp_path / "templates.json"
    command = [sys.executable, "-m", "dataset.templates", write(SMALL), out]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 short_question from SHORT_QUESTION_TEMPLATE" in done.stdout
    assert load_templates(out).correction_answer == ("No {class_name}, but there is {gt_name}.",)


SHAPES = {
    "constants": 'NEG_ANSWER_TEMPLATE = ["a", "b" "c", "it\'s {class_name}", """two\nlines"""]',
    "sums": 'NEG_ANSWER_TEMPLATE = ["a " + IS_THERE + "b" + ("c" + "d")]',
    "f-strings": 'NEG_ANSWER_TEMPLATE = [f"{IS_THERE}no {{class_name}}", f"none", f"{IS_THERE}"]',
    "f-string sums": 'SHORT_QUESTION_TEMPLATE = [f"{DEFAULT_IMAGE_TOKEN}\\n" + "A {class_name}?"]',
    "f-string of a constant": "NEG_ANSWER_TEMPLATE = [f\"{'no'} {{class_name}}\"]",
    "no image in front": 'SHORT_QUESTION_TEMPLATE = ["A {class_name}?", " B {class_name} ? "]',
    "placeholders or none": 'SHORT_ANSWER_TEMPLATE = ["[SEG]", "{class_name}: {class_name} [SEG]"]',
    "tuple": 'NEG_ANSWER_TEMPLATE = ("a", "b") + ("c",)',
    "tuple without brackets": 'NEG_ANSWER_TEMPLATE = "a", "b"',
    "type": 'NEG_ANSWER_TEMPLATE: list[str] = ["a", "b"]',
    "grown": 'NEG_ANSWER_TEMPLATE = ["a"]\nNEG_ANSWER_TEMPLATE += ["b", "a"]',
    "grown tuple": 'NEG_ANSWER_TEMPLATE = ("a",)\nNEG_ANSWER_TEMPLATE += ("b",)',
    "grown by a tuple": 'NEG_ANSWER_TEMPLATE = ["a"]\nNEG_ANSWER_TEMPLATE += ("b", "c")',
    "appended": 'NEG_ANSWER_TEMPLATE.append("b " + IS_THERE)\nNEG_ANSWER_TEMPLATE.extend(["c"])',
    "joined": 'A = ["a"]\nB = ["b"]\nNEG_ANSWER_TEMPLATE = A + B + ["c"] + A',
    "starred": 'A = ["a"]\nB = ("b",)\nNEG_ANSWER_TEMPLATE = [*A, "x", *B, *["y", "z"]]',
    "itself": "NEG_ANSWER_TEMPLATE = NEG_ANSWER_TEMPLATE + NEG_ANSWER_TEMPLATE",
    "two names": 'NEG_ANSWER_TEMPLATE = LONGER = ["a"]\nLONGER += ["b"]',
    "one list twice": 'A = ["[SEG]"]\nSHORT_ANSWER_TEMPLATE = A\nLONG_ANSWER_TEMPLATE = A\nA += A',
    "string that grows": 'S = "a"\nS += " b"\nNEG_ANSWER_TEMPLATE = [S, S + S]',
    "odd signs": 'NEG_ANSWER_TEMPLATE = ["caf\u00e9\u00a0\u200b\u4e2d", "\\t tab", " \\n "  "x "]',
    "no second pool": "LONG_ANSWER_TEMPLATE = []",
    "other things": 'import re\nSIZE = 3\nRNG = re.compile\n__all__ = ["SIZE"]\n\n'
    'def pick(list):\n    """Words."""\n    return list[0]\n\n\nclass Nothing:\n    pass',
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read_as_python_reads_it(write, tmp_path, shape):
    added = SHAPES[shape]
    # A list that the shape makes anew is taken out of the file: it would be lost.
    statements = re.split(r"\n(?=[A-Z])", SMALL)
    if shape not in ("itself", "appended"):
        statements = [
            one
            for one in statements
            if f"{one.split(' ')[0]} =" not in added and f"{one.split(' ')[0]}:" not in added
        ]
    text = "\n".join(statements)
    source = text + added + "\n"
    expected = {LISTS[n]: entries for n, entries in executed(source).items() if entries}
    assert read_template_file(write(source)) == expected
    assert main([str(tmp_path / "qa_template.py"), str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == expected
    load_templates(tmp_path / "out.json")


def test_random_files_are_read_as_python_reads_them(write):
    """Lists put together at random from pieces: strings, sums, f-strings, other lists."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        lines = ['FULL = " Thanks."', "from .utils import DEFAULT_IMAGE_TOKEN"]
        for name, family in LISTS.items():
            marks = [*PLACEHOLDERS[family][0]] if family in PLACEHOLDERS else []
            may = [*PLACEHOLDERS[family][1]] if family in PLACEHOLDERS else []
            pieces = []
            for number in range(int(rng.integers(1, 7))):
                held = marks + [mark for mark in may if rng.random() < 0.5]
                words = f"{name[:5]} {number} " + " and ".join(held)
                form = int(rng.integers(5))
                quoted = repr(words + " ?")
                if form == 1:
                    quoted = f"{words!r} + {' ' * int(rng.integers(3))!r} + FULL"
                if form == 2:
                    doubled = words.replace("{", "{{").replace("}", "}}")
                    quoted = f'f"{doubled}{{FULL}}"'
                if form == 3:
                    quoted = f"({words!r}\n    ' more')"
                if form == 4 and family.endswith("question"):
                    quoted = f'DEFAULT_IMAGE_TOKEN + "\\n" + {words!r}'
                pieces.append(quoted)
            cut = int(rng.integers(len(pieces) + 1))
            head = "[" + "".join(f"{piece}, " for piece in pieces[:cut]) + "]"
            tail = "[" + "".join(f"{piece}, " for piece in pieces[cut:]) + "]"
            ways = [
                [f"{name} = {head} + {tail}"],
                [f"{name} = {head}", f"{name} += {tail}"],
                [f"PART_{name} = {tail}", f"{name} = [*{head}, *PART_{name}]"],
                [f"{name} = {head}", f"{name}.extend({tail})"],
            ]
            lines += ways[int(rng.integers(len(ways)))]
        source = "\n".join(lines) + "\n"
        expected = {LISTS[n]: entries for n, entries in executed(source).items()}
        assert read_template_file(write(source)) == expected, source


@pytest.mark.parametrize(
    ("added", "line", "words"),
    [
        ('SHORT_ANSWER_TEMPLATE += ["a".upper() + " [SEG]"]', 13, "'a'.upper()"),
        ('NEG_ANSWER_TEMPLATE += ["good", 7, "fine"]', 13, "7"),
        ('NEG_ANSWER_TEMPLATE += [b"raw"]', 13, "b'raw'"),
        ('NEG_ANSWER_TEMPLATE += [\n  "x",\n  "%s" % "y",\n]', 15, "'%s' % 'y'"),
        ('NEG_ANSWER_TEMPLATE += [f"{IS_THERE!r} no"]', 13, "computes"),
        ('NEG_ANSWER_TEMPLATE += [["a"]]', 13, "a list where a string"),
        ('NEG_ANSWER_TEMPLATE += "abc"', 13, "letters of a string"),
        ('NEG_ANSWER_TEMPLATE += [UNKNOWN + "x"]', 13, "gives UNKNOWN no string"),
        ('NEG_ANSWER_TEMPLATE = [x for x in ["a"]]', 13, "more than strings"),
        ('NEG_ANSWER_TEMPLATE = ["another"]', 11, "'No {class_name} here.' ends up in none"),
        ('MORE_ANSWERS = ["It is there: [SEG]."]', 13, "'It is there: [SEG].' ends up in none"),
        ('TEMPLATES = {"a": ["It is [SEG]."]}', 13, "TEMPLATES = {'a'"),
        ('NEG_ANSWER_TEMPLATE.insert(0, "x")', 13, "NEG_ANSWER_TEMPLATE.insert"),
        ("NEG_ANSWER_TEMPLATE.clear()", 13, "NEG_ANSWER_TEMPLATE.clear"),
        ("del NEG_ANSWER_TEMPLATE[0]", 13, "del NEG"),
        ('if IS_THERE:\n    NEG_ANSWER_TEMPLATE += ["x"]', 13, "if IS_THERE"),
        ('NEG_ANSWER_TEMPLATE += [""]', 13, "must hold words"),
        ('NEG_ANSWER_TEMPLATE += ["no {name}"]', 13, "'no {name}' needs no placeholder, may"),
        ('NEG_ANSWER_TEMPLATE += ["no {}"]', 13, "no other placeholder"),
        ('NEG_ANSWER_TEMPLATE += ["no \\x1b[0m"]', 13, "control characters"),
        ('NEG_ANSWER_TEMPLATE += ["no \\ud800"]', 13, "halves of characters"),
        ('EXPLANATORY_QUESTION_TEMPLATE = ["why \\ud800"]', 13, "halves of characters"),
        ('SHORT_QUESTION_TEMPLATE += ["What?"]', 13, "must hold {class_name}"),
        ('SHORT_QUESTION_TEMPLATE += ["{class_name} <image>?"]', 13, "in front of a question"),
        ('LONG_QUESTION_TEMPLATE += [DEFAULT_IMAGE_TOKEN + "{sent}"]', 13, "a line feed behind it"),
        ('SHORT_ANSWER_TEMPLATE += ["[SEG] and [SEG]"]', 13, "[SEG] only once"),
        ('SHORT_ANSWER_TEMPLATE += ["Sure."]', 13, "must hold [SEG]"),
        ('CORRECT_ANSWER_TEMPLATE += ["no {class_name}"]', 13, "must hold {gt_name}"),
    ],
)
def test_what_is_not_understood_is_an_error(write, tmp_path, capsys, added, line, words):
    path, out = write(SMALL + added + "\n"), tmp_path / "out.json"
    assert main([str(path), str(out)]) == 2
    told = capsys.readouterr().err
    assert any(
        f"{path}, line {line}: " in message and words in message for message in told.splitlines()
    ), told
    assert "nothing was written" in told
    assert not out.exists()


def test_every_mistake_is_told_and_long_lists_are_cut(write):
    lines = "\n".join(f'    "mistake {n} {{oops}}",' for n in range(50))
    with pytest.raises(InputErrors) as caught:
        read_template_file(write(f"{SMALL}NEG_ANSWER_TEMPLATE += [\n{lines}\n]\n"))
    assert len(caught.value.messages) == 22
    assert "and 30 more" in caught.value.messages[-2]


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
    with pytest.raises(InputErrors) as caught:
        read_template_file(write(hostile + SMALL))
    assert not marker.exists()
    lines = {int(message.split("line ")[1].split(":")[0]) for message in caught.value.messages[:-1]}
    assert lines == {3, 4, 7, *range(11, 18), 19}
    subprocess.run([sys.executable, write(hostile)], capture_output=True)
    assert marker.exists()  # running it would have been noticed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SHORT = [", "is not a Python file"),
        ("A = 'x'\x00", "is not a Python file"),
        ("x = 1\n", "there is no list SHORT_QUESTION_TEMPLATE"),
        ("A = [" + "(" * 5000 + "'a'" + ")" * 5000 + "]", "not a Python file|nested too deeply"),
        ("A = [" + " + ".join(["'a'"] * 50_000) + "]", "not a Python file|nested too deeply"),
        (SMALL.replace("NEG_ANSWER_TEMPLATE", "OTHER"), "there is no list NEG_ANSWER_TEMPLATE"),
        (
            'A0 = "aaaaaaaaaa"\n' + "".join(f"A{n + 1} = A{n} + A{n}\n" for n in range(40)) + SMALL,
            "longer than",
        ),
        (
            SMALL + "NEG_ANSWER_TEMPLATE += NEG_ANSWER_TEMPLATE\n" * 40,
            "more than 100000 strings",
        ),
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
    assert main([str(write(SMALL)), str(tmp_path / "file" / "out.json")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_the_families_are_those_that_are_loaded():
    assert sorted(LISTS.values()) == sorted((*PLACEHOLDERS, *UNUSED))

"""The training templates: five families, enough of them, each with exactly its placeholders."""

import json
import re
from dataclasses import fields

import numpy as np
import pytest

from dataset.templates import OPTIONAL, PLACEHOLDERS, VARIED_FILE, Templates, load_templates
from utils.errors import InputError
from utils.protocol.constants import SEG_TOKEN
from utils.protocol.conversation import user_turn

FAMILIES = [field.name for field in fields(Templates)]
ALLOWED = {
    "short_question": ["{class_name}"],
    "long_question": ["{sent}"],
    "positive_answer": [],
    "denial_answer": ["{class_name}"],
    "correction_answer": ["{class_name}", "{gt_name}"],
}


@pytest.fixture(scope="module")
def varied() -> dict[str, list[str]]:
    return json.loads(VARIED_FILE.read_text(encoding="utf-8"))


def test_the_file_holds_the_five_families(varied):
    assert list(varied) == [family for family in FAMILIES if family not in OPTIONAL]
    assert list(PLACEHOLDERS) == FAMILIES


@pytest.mark.parametrize("family", ALLOWED)
def test_every_family_is_varied(varied, family):
    entries = varied[family]
    assert len(entries) >= 40
    assert len({" ".join(entry.lower().split()) for entry in entries}) == len(entries)
    openings = {" ".join(re.findall(r"[\w{}]+", entry)[:4]) for entry in entries}
    if family != "long_question":  # its beginning is the sentence itself
        assert len(openings) > 0.9 * len(entries)


@pytest.mark.parametrize("family", ALLOWED)
def test_placeholders_are_exactly_the_allowed_ones(varied, family):
    for entry in varied[family]:
        assert sorted(re.findall(r"\{[^}]*\}", entry)) == ALLOWED[family], entry
        assert entry.count(SEG_TOKEN) == (family == "positive_answer"), entry
        assert "<image>" not in entry
        assert entry == entry.strip()
        assert entry.isascii()
        assert entry[-1] in ".?", entry


def test_no_family_repeats_another(varied):
    everything = [entry for entries in varied.values() for entry in entries]
    assert len(set(everything)) == len(everything)


def test_the_reader_fills_them_in():
    templates, rng = load_templates("varied"), np.random.default_rng(0)
    texts = [
        templates.question("The Red Kite", False, rng),
        templates.question("What flies here?", True, rng),
        templates.positive("The Red Kite", rng),
        templates.denial("The Red Kite", rng),
        templates.correction("The Red Kite", "The Blue Kite", rng),
    ]
    assert "the red kite" in texts[0] and "What flies here?" in texts[1]
    assert texts[2].count(SEG_TOKEN) == 1
    assert "the red kite" in texts[3]
    assert "the red kite" in texts[4] and "the blue kite" in texts[4]
    assert not any("{" in text for text in texts)


def test_a_placeholder_may_stand_twice_and_texts_are_not_templates(varied, tmp_path):
    path = tmp_path / "mine.json"
    twice = {"denial_answer": ["No {class_name}. Not one {class_name}."]}
    twice["correction_answer"] = ["{class_name}? {gt_name}! Not {class_name}."]
    path.write_text(json.dumps({**varied, **twice}), encoding="utf-8")
    templates, rng = load_templates(path), np.random.default_rng(0)
    assert templates.denial("Cow", rng) == "No cow. Not one cow."
    assert templates.correction("{gt_name}", "Cow", rng) == "{gt_name}? cow! Not {gt_name}."


def test_two_pools_of_positive_answers(varied, tmp_path):
    path, rng = tmp_path / "mine.json", np.random.default_rng(0)
    short = {"positive_answer": ["{class_name}, that is {class_name}: [SEG]."]}
    path.write_text(json.dumps({**varied, **short}), encoding="utf-8")
    one = load_templates(path)
    assert one.positive("The Cow", rng) == "the cow, that is the cow: [SEG]."
    assert one.long_positive("The Cow", False, rng) == "the cow, that is the cow: [SEG]."
    assert one.long_positive("Who moos?", True, rng) == "object, that is object: [SEG]."
    both = {**varied, **short, "long_positive_answer": ["Here: [SEG]."]}
    path.write_text(json.dumps({**both, "explanatory_question": ["Why?"]}), encoding="utf-8")
    two = load_templates(path)
    assert two.positive("The Cow", rng) == "the cow, that is the cow: [SEG]."
    assert two.long_positive("The Cow", False, rng) == "Here: [SEG]."


def test_placeholders_that_may_lack_and_the_image_in_front(varied, tmp_path):
    path, rng = tmp_path / "mine.json", np.random.default_rng(0)
    own = {
        "short_question": ["<image>\n  {class_name} ?"],
        "long_question": ["<image>\n{sent} "],
        "denial_answer": ["Nothing."],
        "correction_answer": ["Only {gt_name}."],
    }
    path.write_text(json.dumps({**varied, **own}), encoding="utf-8")
    templates = load_templates(path)
    assert user_turn(templates.question("Cow", False, rng)) == "<image>\n  cow ?"
    assert user_turn(templates.question("Who?", True, rng)) == "<image>\nWho? "
    assert templates.denial("Cow", rng) == "Nothing."
    assert templates.correction("Cow", "Hen", rng) == "Only hen."


def test_a_draw_follows_from_its_generator():
    templates = load_templates("varied")
    draws = [
        [templates.positive("", rng) for _ in range(20)]
        for rng in (np.random.default_rng(3), np.random.default_rng(3), np.random.default_rng(4))
    ]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"denial_answer": []}, "denial_answer must be a list"),
        ({"denial_answer": None}, "denial_answer must be a list"),
        ({"correction_answer": ["no {class_name}"]}, "must hold {gt_name}, may hold {class_name}"),
        ({"denial_answer": [" "]}, "must hold words"),
        ({"long_positive_answer": []}, "long_positive_answer must be a list"),
        ({"long_positive_answer": ["Sure."]}, r"must hold \[SEG\]"),
        ({"long_answer": ["[SEG]"]}, "unknown list 'long_answer'; known are short_question"),
        ({"positive_answer": ["Sure."]}, r"must hold \[SEG\]"),
        ({"positive_answer": ["[SEG] and [SEG]"]}, r"must hold \[SEG\]"),
        ({"denial_answer": ["no {class_name} [SEG]"]}, "no other placeholder"),
        ({"short_question": [7]}, "must hold {class_name}"),
        ({"short_question": ["{class_name} or {class name}"]}, "no other placeholder"),
        ({"short_question": ["{class_name} and {}"]}, "no other placeholder"),
        ({"short_question": ["{class_name} {"]}, "no other braces"),
        ({"short_question": ["<image> {class_name}"]}, "at most in front of a question"),
        ({"short_question": ["\ud800 {class_name}"]}, "halves of characters"),
    ],
)
def test_unusable_files_are_refused(varied, tmp_path, change, message):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**varied, **change}), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_templates(path)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(InputError, match="choose 'simple', 'varied' or a JSON file"):
        load_templates("fancy")
    path = tmp_path / "broken.json"
    for damaged in ("{", "[" * 100_000, "[]", "7", "\x00"):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"broken\.json"):
            load_templates(path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"broken\.json"):
        load_templates(path)

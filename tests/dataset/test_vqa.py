"""Conversations about images: all turns, the image in front, and entries that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dataset.collate import collate
from dataset.sampling import SamplingOptions
from dataset.tokenization import load_tokenizer, seg_token_id
from dataset.vqa import VqaTrain, plain, question_answer_turns
from tests.conftest import TOKENIZER
from tests.dataset.handmade import drawn, write_image, write_json
from utils.errors import InputError
from utils.protocol.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX

SIZE = (9, 14)
NAME = "llava_instruct_150k"
IMAGE = "<im_start><image><im_end>\n"


def entry(*values: str, number: int = 0, first: str = "human", **changes) -> dict:
    """An entry whose turns take turns, beginning with the given role."""
    roles = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    turns = [{"from": roles[n % 2], "value": value} for n, value in enumerate(values)]
    image = f"{number:012d}.jpg"
    return {"id": f"{number:012d}", "image": image, "conversations": turns, **changes}


def write(root: Path, *entries, name: str = NAME) -> Path:
    for number in range(3):
        write_image(root / f"coco/train2017/{number:012d}.jpg", SIZE, number)
    return write_json(root / f"llava_dataset/{name}.json", list(entries))


def only(root: Path, *entries, **settings):
    """The sample of a file; all its draws are the same where it has one entry."""
    write(root, *entries)
    return VqaTrain(root, NAME, SamplingOptions(**settings)).sample(0)


def turns(prompt: str) -> str:
    """What follows the system text."""
    return prompt[prompt.index("USER: ") :]


def test_the_whole_conversation_is_one_prompt(tmp_path):
    values = ["<image>\nWhat is it?", "A cat.", "Which colour?", "Black."]
    sample = only(tmp_path, entry(*values, number=2))
    assert [turns(prompt) for prompt in sample.conversations] == [
        f"USER: {IMAGE}What is it? ASSISTANT: A cat.</s>USER: Which colour? ASSISTANT: Black.</s>"
    ]
    assert (sample.masks.shape, sample.masks.dtype) == ((0, *SIZE), np.uint8)
    assert (sample.exists, sample.questions, sample.kind) == ([False], ["What is it?"], "vqa")
    assert sample.image.shape == (*SIZE, 3)
    assert sample.image_path == str(tmp_path / "coco/train2017/000000000002.jpg")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["What is it?\n<image>", "A cat."], f"{IMAGE}What is it? ASSISTANT: A cat.</s>"),
        (["A<image>B", "C <image>"], f"{IMAGE}AB ASSISTANT: C</s>"),
        (
            ["What?", "A cat.", "<image>\nWhy?", "So."],
            f"{IMAGE}What? ASSISTANT: A cat.</s>USER: Why? ASSISTANT: So.</s>",
        ),
        (["<image>", "A cat."], f"{IMAGE} ASSISTANT: A cat.</s>"),
        (["<im<image>age> <image>x", "y"], f"{IMAGE}x ASSISTANT: y</s>"),
        (["What?", "A cat.", "Never answered?"], f"{IMAGE}What? ASSISTANT: A cat.</s>"),
    ],
)
def test_the_image_stands_in_front_of_the_first_question(tmp_path, given, expected):
    assert turns(only(tmp_path, entry(*given)).conversations[0]) == f"USER: {expected}"


def test_answers_before_the_first_question_are_dropped(tmp_path):
    sample = only(tmp_path, entry("Hello.", "<image>\nWhat?", "A cat.", first="gpt"))
    assert turns(sample.conversations[0]) == f"USER: {IMAGE}What? ASSISTANT: A cat.</s>"


def test_conversation_format_is_that_of_the_settings(tmp_path):
    sample = only(
        tmp_path,
        entry("What?", "A cat.", "Why?", "So."),
        conv_type="llava_llama_2",
        use_im_start_end=False,
    )
    text = sample.conversations[0]
    assert text.startswith("[INST] <<SYS>>")
    assert text.endswith("<image>\nWhat? [/INST] A cat. </s><s>[INST] Why? [/INST] So. </s>")


def test_special_tokens_in_the_text_are_only_text(tmp_path):
    """A `[SEG]` that somebody wrote has no mask, and `</s>` does not end the answer."""
    sample = only(tmp_path, entry("Is [SEG] a word?", "No, [SEG]</s> and <im_start> are tokens."))
    tokenizer = load_tokenizer(TOKENIZER)
    batch = collate([sample], tokenizer)
    ids = batch.input_ids[0].tolist()
    assert seg_token_id(tokenizer) not in ids
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.convert_tokens_to_ids("<im_start>")) == 1
    assert ids.count(IMAGE_TOKEN_INDEX) == 1
    answered = [token for token in batch.labels[0].tolist() if token != IGNORE_INDEX]
    assert "are tokens." in tokenizer.decode(answered)
    assert batch.masks[0].shape == (0, *SIZE)
    assert plain(" [[SEG]] <s>") == "[[ SEG ]] < s >"


def test_entries_without_an_image_are_left_out(tmp_path):
    bare = [
        {"id": "t", "conversations": []},
        entry("a", "b", image=None),
        entry("c", "d", image=""),
    ]
    write(tmp_path, *bare, entry("What?", "A cat."), *bare)
    train = VqaTrain(tmp_path, NAME, SamplingOptions())
    assert {train.sample(index).questions[0] for index in range(40)} == {"What?"}


def test_files_and_entries_are_drawn_evenly(tmp_path):
    write(tmp_path, entry("a", "b", number=0), name="one")
    write(tmp_path, entry("c", "d", number=1), entry("e", "f", number=2), name="two")
    train = VqaTrain(tmp_path, "one||two", SamplingOptions(seed=4))
    number = 2000
    questions = [train.sample(index).questions[0] for index in range(number)]
    for question, share in (("a", 0.5), ("c", 0.25), ("e", 0.25)):
        error = np.sqrt(share * (1 - share) / number)
        assert abs(questions.count(question) / number - share) < 3 * error


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_and_the_first_step_change_nothing(tmp_path, workers):
    write(tmp_path, *(entry(f"question {n}", f"answer {n}", number=n % 3) for n in range(50)))
    train = VqaTrain(tmp_path, NAME, SamplingOptions(seed=5))
    alone = drawn(train, 0, 6, workers=0)
    assert drawn(train, 0, 6, workers) == alone
    assert drawn(train, 2, 6, workers) == alone[2:]
    assert drawn(VqaTrain(tmp_path, NAME, SamplingOptions(seed=6)), 0, 6, 0) != alone


@pytest.mark.parametrize(
    "conversation",
    [
        None,
        [],
        {"from": "human", "value": "x"},
        ["human"],
        [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}],
        [
            {"from": "human", "value": "a"},
            {"from": "gpt", "value": "b"},
            {"from": "gpt", "value": "c"},
        ],
        [{"from": "user", "value": "a"}, {"from": "gpt", "value": "b"}],
        [{"from": "human", "value": "a"}],
        [{"from": "gpt", "value": "a"}],
        [{"from": "human", "value": 3}, {"from": "gpt", "value": "b"}],
        [{"from": "human", "value": "a"}, {"from": "gpt", "value": " "}],
        [{"from": "human", "value": "a"}, {"from": "gpt", "value": "<image>"}],
        [{"from": "human"}, {"from": "gpt", "value": "b"}],
        [{"from": "human", "value": "\ud800"}, {"from": "gpt", "value": "b"}],
        [{"from": [], "value": "a"}, {"from": "gpt", "value": "b"}],
    ],
)
def test_a_conversation_that_cannot_be_used_is_named(tmp_path, conversation):
    write(tmp_path, entry(number=1, conversations=conversation))
    train = VqaTrain(tmp_path, NAME, SamplingOptions())
    with pytest.raises(InputError, match=rf"{NAME}\.json is damaged \(entry '000000000001'"):
        train.sample(0)


def test_turns_of_an_odd_number():
    said = [("gpt", "hello"), ("human", "a"), ("gpt", "b"), ("human", "c")]
    conversation = [{"from": role, "value": text} for role, text in said]
    assert question_answer_turns(conversation) == [("a", "b")]


@pytest.mark.parametrize(
    "content",
    [{}, [], [3], [entry("a", "b", image=3)], [entry("a", "b", image="\ud800")], [{"id": 1}]],
)
def test_damaged_files_are_named(tmp_path, content):
    write_json(tmp_path / "llava_dataset" / f"{NAME}.json", content)
    with pytest.raises(InputError, match=rf"{NAME}\.json is damaged"):
        VqaTrain(tmp_path, NAME, SamplingOptions())


def test_missing_files_are_named_with_their_source(tmp_path):
    with pytest.raises(InputError, match=rf"{NAME}\.json.*LLaVA.*http"):
        VqaTrain(tmp_path, NAME, SamplingOptions())
    with pytest.raises(InputError, match="--vqa_data"):
        VqaTrain(tmp_path, "", SamplingOptions())
    write(tmp_path, entry("a", "b", number=1))
    (tmp_path / "coco/train2017/000000000001.jpg").unlink()
    with pytest.raises(InputError, match=rf"no image at .*1\.jpg, but .*{NAME}\.json"):
        VqaTrain(tmp_path, NAME, SamplingOptions()).sample(0)


def test_random_damage_gives_a_sample_or_an_error_with_a_name(tmp_path):
    path = write(tmp_path, entry("<image>\nWhat?", "A cat.", "Why?", "So.", number=1))
    whole, rng, read = path.read_bytes(), np.random.default_rng(0), 0
    assert json.loads(whole)
    for _ in range(300):
        raw = bytearray(whole)
        for place in rng.integers(0, len(raw), size=rng.integers(1, 4)):
            raw[place] = rng.integers(32, 127)
        path.write_bytes(raw)
        try:
            sample = VqaTrain(tmp_path, NAME, SamplingOptions()).sample(0)
        except InputError as error:
            assert f"{NAME}.json" in str(error)
        else:
            assert sample.masks.shape == (0, *SIZE)
            assert sample.conversations[0].count("<image>") == 1
            read += 1
    assert 10 < read < 290

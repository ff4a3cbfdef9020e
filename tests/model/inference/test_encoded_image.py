"""Questions about an open image, one after the other, and answers heard while they are made."""

from typing import Any

import numpy as np
import pytest
import torch

from model import Answer, Reader, load_read
from model.inference.prompts import PromptFormat
from model.inference.scheduler import MemoryLimit, Scheduler, State
from model.inference.seg_states import resegment
from tests.model.babble import QUESTIONS, babbling
from tests.model.conftest import QUESTION
from utils.errors import InputError
from utils.protocol.generation import GenerationOptions
from utils.stopwatch import null_timer

LENGTH = 8


@pytest.fixture
def babbler(small_folder) -> Reader:
    """A reader of its own, whose answers differ."""
    return babbling(load_read(small_folder))


@pytest.fixture
def runs(babbler, monkeypatch) -> dict[str, list]:
    """How often CLIP and SAM's encoder run, and the lengths of what the language model reads."""
    seen: dict[str, list] = {"clip": [], "sam": [], "words": []}
    inner = babbler.model.model

    def note(name, value):
        return lambda module, given, named: seen[name].append(value(given, named))

    one = {"clip": inner.vision_tower, "sam": inner.visual_model.image_encoder}
    for name, module in one.items():
        module.register_forward_pre_hook(note(name, lambda *_: 1), with_kwargs=True)
    inner.register_forward_pre_hook(
        note("words", lambda _, named: named["inputs_embeds"].shape[1]), with_kwargs=True
    )
    return seen


def same(answer: Answer, other: Answer) -> bool:
    assert len(answer.segments) == len(other.segments)
    for one, two in zip(answer.segments, other.segments, strict=True):
        np.testing.assert_allclose(one.logits, two.logits, atol=1e-5)
    return answer.token_ids == other.token_ids and np.array_equal(answer.mask, other.mask)


def test_follow_up_questions_reuse_what_the_first_one_made(babbler, image, runs):
    alone = [babbler.segment(image, question, max_new_tokens=LENGTH) for question in QUESTIONS]
    assert sum(len(answer.segments) for answer in alone) > 2
    longest = max(runs["words"])
    for runs_of_one in runs.values():
        runs_of_one.clear()
    opened = babbler.open(image)
    assert opened.size == image.shape[:2]
    answers = [babbler.segment(opened, question, max_new_tokens=LENGTH) for question in QUESTIONS]
    assert all(map(same, answers, alone))
    assert len(runs["clip"]) == len(runs["sam"]) == 1
    assert runs["words"].count(longest) == 1 and runs["words"][0] == longest


def test_another_prompt_format_is_read_anew(babbler, image, runs):
    opened = babbler.open(image)
    babbler.segment(opened, QUESTION, max_new_tokens=LENGTH)
    babbler.model.config.conv_type = "llava_llama_2"
    again = babbler.segment(opened, QUESTION, max_new_tokens=LENGTH)
    assert len(runs["clip"]) == 1
    assert same(again, babbler.segment(image, QUESTION, max_new_tokens=LENGTH))


def test_what_is_forgotten_is_made_anew(talking, image):
    opened = talking.open(image)
    before = talking.segment(opened, QUESTION, max_new_tokens=LENGTH)
    opened.clear()
    assert same(talking.segment(opened, QUESTION, max_new_tokens=LENGTH), before)


def test_out_of_memory_lets_go_of_it(babbler, image, monkeypatch):
    opened = babbler.open(image)
    items = [(opened, QUESTIONS[:4])]
    expected = babbler.segment_batch(items, max_new_tokens=LENGTH)
    step, failures = type(babbler.model).encode_sam, [torch.OutOfMemoryError("out of memory")]

    def fail_once(*arguments):
        if failures:
            raise failures.pop()
        return step(*arguments)

    monkeypatch.setattr(type(babbler.model), "encode_sam", fail_once)
    opened.clear()
    with pytest.warns(RuntimeWarning, match="out of memory"):
        answers = babbler.segment_batch(items, max_new_tokens=LENGTH)
    assert all(map(same, answers, expected))


def test_an_image_of_another_reader_is_refused(talking, small_folder, image):
    with pytest.raises(InputError, match="another reader"):
        load_read(small_folder).segment(talking.open(image), QUESTION)


@pytest.mark.parametrize("force_seg", [False, True])
def test_an_answer_is_heard_while_it_is_made(babbler, image, force_seg):
    for question in QUESTIONS:
        *words, answer = babbler.stream_answer(
            image, question, max_new_tokens=LENGTH, force_seg=force_seg, keep_states=True
        )
        plain = babbler.segment(image, question, max_new_tokens=LENGTH, force_seg=force_seg)
        assert same(answer, plain) and answer.text == plain.text
        assert words[0] == "" and words[-1] == answer.text
        assert len(set(words)) > 3
        assert all(answer.text.startswith(part.split("[SEG]")[0].strip()) for part in words)
        if answer.segments:
            made = resegment(babbler.model, answer.states).logits[0].numpy()
            np.testing.assert_allclose(made, answer.segments[0].logits, atol=1e-5)


def test_one_may_stop_listening(talking, image):
    talking.model.train()
    saying = talking.stream_answer(talking.open(image), QUESTION)
    assert next(saying) == ""
    next(saying)
    assert not talking.model.training
    saying.close()
    assert talking.model.training


def test_a_question_that_is_none_is_refused(talking, image):
    with pytest.raises(InputError, match="expected a sentence"):
        list(talking.stream_answer(image, " "))


@pytest.mark.parametrize("force_seg", [False, True])
def test_an_image_comes_through_its_states(babbler, image, force_seg):
    items = [(image, QUESTIONS[:5]), (image[:40], QUESTIONS[5:]), (image, []), (image, ["Why?"])]
    options = GenerationOptions(max_new_tokens=3, batch_questions=2, force_seg=force_seg)
    prompt_format = PromptFormat(babbler.model, babbler.tokenizer)
    scheduler = Scheduler(babbler.model.eval(), prompt_format, options, MemoryLimit(), null_timer)
    states: dict[Any, list[State]] = {}
    for _ in scheduler.steps(items):
        for one in scheduler.images:
            passed = states.setdefault(one, [])
            passed += [one.state] if one.state not in passed[-1:] else []
    for one, passed in states.items():
        assert passed == sorted(passed, key=list(State).index)
        if len(one.questions) > options.batch_questions:
            assert passed == [State.READING, State.ENCODED, State.ANSWERING]
    assert len(states) == len(items)

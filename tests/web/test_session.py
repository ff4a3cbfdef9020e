"""What one visitor has open, without a browser."""

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.model.babble import QUESTIONS
from tests.web.conftest import LIMITS
from utils.errors import InputError
from web.engine import Engine
from web.session import MODES, Session
from web.sessions import Sessions
from web.uploads import Uploads
from web.widgets import answer_status

QUESTION = QUESTIONS[0]
"""Answered with two `[SEG]`."""
PHRASE = "Please output segmentation mask."


@pytest.fixture
def asked(session, upload) -> Session:
    """With an answer of two layers."""
    session.open(upload)
    list(session.ask(QUESTION, {}))
    return session


@pytest.fixture
def no_encoders(reader):
    """From now on nothing but SAM's decoder may run."""

    def refuse(*_):
        raise AssertionError("an encoder or the language model ran again")

    inner = reader.model.model
    parts = (inner.layers[0], inner.vision_tower, inner.visual_model.image_encoder)
    hooks = [part.register_forward_pre_hook(refuse) for part in parts]
    yield
    for hook in hooks:
        hook.remove()


def masks(session) -> list[np.ndarray]:
    return [segment.mask for segment in session.layers()[0]]


def fresh(reader, image, question=QUESTION, **changes) -> list[np.ndarray]:
    """Masks of a reader that has these SasP parameters from the beginning."""
    config = reader.model.config
    before, config.sasp_params = (
        config.sasp_params,
        dataclasses.replace(config.sasp_params, **changes),
    )
    try:
        answer = reader.segment(image, question, max_new_tokens=LIMITS.new_tokens)
    finally:
        config.sasp_params = before
    return [segment.mask for segment in answer.segments]


def same(some, others) -> bool:
    return len(some) == len(others) and all(map(np.array_equal, some, others))


def place(session, x, y) -> list[float]:
    """Where on the shown image a pixel of the image is."""
    height, width = session.size
    shown_height, shown_width = session.renderer.size
    return [(x + 0.5) * shown_width / width, (y + 0.5) * shown_height / height]


def test_an_answer_is_that_of_the_reader(asked, reader, image):
    plain = reader.segment(image, QUESTION, max_new_tokens=LIMITS.new_tokens)
    assert asked.answer.text == plain.text and asked.dialogue == [(QUESTION, plain.text)]
    assert asked.answer.token_ids == plain.token_ids and asked.answer.present
    assert same(masks(asked), fresh(reader, image)) and len(masks(asked)) == 2
    assert np.array_equal(asked.answer.mask, plain.mask)
    assert asked.shown == [0, 1] and asked.similarity().shape == asked.overlay().shape


def test_the_words_come_one_after_the_other(session, upload):
    session.open(upload)
    words = list(session.ask(QUESTION, {}))
    assert words[0] == "" and words[-1] == session.answer.text and len(set(words)) > 3


@pytest.mark.parametrize(
    "changes",
    [{"num_points": 2}, {"prompt": "text"}, {"prompt": "discrete", "num_points": 9.0}]
    + [{"thresholds": "std", "std_factor": 1}, {"t_pos": 0.999, "t_neg": 0.99}],
)
def test_settings_make_other_masks_without_the_model(asked, reader, image, changes, request):
    kinds = {"num_points": int}
    wanted = {name: kinds.get(name, type(value))(value) for name, value in changes.items()}
    expected = fresh(reader, image, **wanted)
    before = masks(asked)
    request.getfixturevalue("no_encoders")
    asked.set(changes)
    assert same(masks(asked), expected) and not same(masks(asked), before)
    asked.set({})
    assert same(masks(asked), before)


def test_settings_hold_for_the_next_question(session, upload, reader, image):
    session.open(upload)
    list(session.ask(QUESTION, {"num_points": 2}))
    assert same(masks(session), fresh(reader, image, num_points=2))


def test_points_are_added_removed_and_reset(asked, no_encoders):
    before, overlay = masks(asked), asked.overlay()
    base = asked.answer.segments[0]
    asked.click(place(asked, 5, 50), "positive")
    asked.click(place(asked, 60, 8), "negative")
    edited = asked.answer.segments[0]
    added = edited.points[len(base.points) :]
    np.testing.assert_allclose(added, [[5, 50], [60, 8]], atol=0.51)
    assert edited.point_labels[-2:].tolist() == [1, 0]
    assert not np.array_equal(edited.mask, before[0]) and np.array_equal(masks(asked)[1], before[1])
    assert not np.array_equal(asked.overlay(), overlay)
    asked.click(place(asked, 6, 49), "remove")
    assert asked.answer.segments[0].point_labels.tolist() == [*base.point_labels, 0]
    x, y = base.points[3].tolist()
    asked.click(place(asked, x, y), "remove")
    assert len(asked.answer.segments[0].points) == len(base.points)
    with pytest.raises(InputError, match="no point near"):
        asked.click(place(asked, 6, 49), "remove")
    asked.set({"num_points": 2})
    assert asked.answer.segments[0].point_labels.tolist()[2:] == [0]
    asked.set({})
    asked.reset_points()
    assert same(masks(asked), before)


def test_points_of_the_second_layer(asked):
    first, second = masks(asked)
    asked.choose(1)
    asked.click(place(asked, 5, 50), "negative")
    changed = masks(asked)
    assert np.array_equal(changed[0], first) and not np.array_equal(changed[1], second)


def test_layers_are_shown_one_by_one(asked):
    both = asked.overlay(with_points=False)
    asked.show([1])
    assert asked.layers()[1] == [1] and not np.array_equal(asked.overlay(False), both)
    asked.show([])
    assert np.array_equal(asked.overlay(False), asked.renderer.plain)


def test_an_image_without_a_mask(session, upload, reader, monkeypatch):
    monkeypatch.setattr(session, "limits", dataclasses.replace(LIMITS, new_tokens=1))
    monkeypatch.setattr("web.limits.FEWEST_TOKENS", 1)
    session.open(upload)
    list(session.ask("cat", {}))
    assert not session.answer.present and masks(session) == []
    assert session.similarity() is None and np.array_equal(
        session.overlay(), session.renderer.plain
    )
    session.set({"num_points": 3})
    with pytest.raises(InputError, match="no answer to change"):
        session.click([1, 1], "positive")
    list(session.ask("cat", {}, force_seg=True))
    assert len(masks(session)) == 1


def test_follow_up_questions_run_no_encoder(asked, reader):
    inner, ran = reader.model.model, []
    parts = (inner.vision_tower, inner.visual_model.image_encoder)
    hooks = [part.register_forward_pre_hook(lambda *_: ran.append(1)) for part in parts]
    list(asked.ask(QUESTIONS[2], {}))
    for hook in hooks:
        hook.remove()
    assert ran == [] and len(asked.dialogue) == 2


def test_the_phrase_of_the_evaluation_is_asked_with_and_recommended(reader, upload):
    session = Session(Engine(reader), dataclasses.replace(LIMITS, new_tokens=2))
    session.open(upload)
    hinted = set()
    for question in QUESTIONS:
        list(session.ask(question, {}, ask_for_mask=True))
        assert session.dialogue[-1][0] == session.pending_question == f"{question} {PHRASE}"
        assert "Tick" not in answer_status(session)
        list(session.ask(question, {}))
        assert session.dialogue[-1][0] == session.pending_question == question
        hint = "Tick" in answer_status(session)
        assert hint == (not session.answer.present)
        hinted.add(hint)
    assert hinted == {True, False}


def test_another_image_forgets_the_talk(asked, upload, tmp_path):
    token = asked.token
    asked.open(upload)
    assert asked.dialogue and asked.token == token
    copy = tmp_path / "other.png"
    copy.write_bytes(Path(upload).read_bytes())
    asked.open(str(copy))
    assert not asked.dialogue and asked.answer is None and asked.token != token
    with pytest.raises(InputError):
        asked.open(str(tmp_path / "none.png"))
    with pytest.raises(InputError, match="open an image"):
        list(asked.ask(QUESTION, {}))


def test_an_image_that_is_exchanged_while_the_model_speaks(session, upload, tmp_path):
    session.open(upload)
    saying = session.ask(QUESTION, {})
    next(saying)
    session.close()
    with pytest.raises(InputError, match="Another image"):
        list(saying)
    assert session.answer is None


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda s: list(s.ask("", {})), "type a question"),
        (lambda s: list(s.ask("why " * 30_000, {})), "119,999 characters"),
        (lambda s: list(s.ask(["a"], {})), "type a question"),
        (lambda s: list(s.ask("What is <image>?", {})), "<image>"),
        (lambda s: s.set({"t_pos": "high"}), "t_pos is no number"),
        (lambda s: s.set({"num_points": float("nan")}), "no number"),
        (lambda s: s.set({"num_points": 10**6}), "at most 400"),
        (lambda s: s.set({"num_points": 10**400}), "no number"),
        (lambda s: s.set({"num_points": 0}), "at least 1"),
        (lambda s: s.set({"t_pos": 0.1}), "t_neg < t_pos"),
        (lambda s: s.set({"prompt": {"a": 1}}), "choose one of 'text', 'discrete', 'points'"),
        (lambda s: s.click([1e9, 0], "positive"), "outside"),
        (lambda s: s.click("middle", "positive"), "no place"),
        (lambda s: s.click([1, None], "positive"), "no number"),
        (lambda s: s.click([1, 1], "explode"), "positive, negative, remove"),
        (lambda s: s.show([7]), "no such layer"),
        (lambda s: s.show("all"), "no such layer"),
        (lambda s: s.choose([0, 1]), "no such layer"),
    ],
)
def test_what_is_forged_is_refused_and_changes_nothing(asked, act, told):
    before = masks(asked)
    with pytest.raises(InputError, match=told):
        act(asked)
    assert same(masks(asked), before) and asked.shown == [0, 1] and asked.chosen == 0


def test_points_have_an_end(asked, monkeypatch):
    monkeypatch.setattr("web.limits.MOST_POINTS", 2)
    for mode in MODES[:2]:
        asked.click([1, 1], mode)
    with pytest.raises(InputError, match="at most 2"):
        asked.click([1, 1], "positive")


def test_many_visitors_at_once(reader, upload, image):
    sessions = [Session(Engine(reader), LIMITS)]
    sessions += [Session(sessions[0].engine, LIMITS) for _ in range(7)]
    questions = [QUESTIONS[n % len(QUESTIONS)] for n in range(8)]

    def work(session, question):
        session.open(upload)
        list(session.ask(question, {}))
        session.set({"num_points": 3})

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip(sessions, questions, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for session, question in zip(sessions, questions, strict=True):
        assert same(masks(session), fresh(reader, image, question, num_points=3))
        assert session.dialogue[0][0] == question


def test_visitors_make_room_and_leave(session, tmp_path):
    now = [0.0]
    made = []

    def make():
        made.append(Session(session.engine, LIMITS))
        return made[-1]

    sessions = Sessions(make, most=2, seconds=10, clock=lambda: now[0])
    one, two = sessions.enter("one"), sessions.enter("two")
    assert sessions.enter("one") is one and sessions.by_token(two.token) is two
    drawn = Uploads(tmp_path, LIMITS).write(b"png", two.drawn)
    three = sessions.enter("three")
    assert not drawn.exists()
    assert sessions.find("two") is None and sessions.find("one") is one and len(sessions) == 2
    now[0] = 9.0
    assert sessions.find("three") is three
    now[0] = 11.0
    assert sessions.find("one") is None and sessions.find("three") is three
    sessions.leave("three")
    sessions.leave(None)
    assert sessions.find(None) is None and len(sessions) == 0
    assert sessions.by_token(three.token) is None

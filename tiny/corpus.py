"""Questions and answers about toy images, as LLaVA is taught before READ's training.

Plain visual question answering: no `[SEG]` and no mask. Some questions carry the wording of READ's
evaluation, and are answered in words ("Sure, it is the red circle.").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset.toy.questions import (
    KINDS,
    Query,
    absent,
    answerable,
    ask,
    deny,
    with_article,
)
from dataset.toy.scene import PLACES, Thing
from utils.protocol.conversation import QUESTION_OF_CLASS, QUESTION_OF_SENTENCE

NOTHING = -1
_NUMBERS = ("No", "One", "Two", "Three", "Four")
_AFFIRM = ("Sure, it is {}.", "Sure, the result is {}.", "Yes, this is {}.", "It is {}.")


@dataclass(frozen=True)
class Lesson:
    """A question and its answer.

    Args:
        question: the user's turn without the image.
        answer: pieces of text; joined they are the answer.
        about: for each piece the number of the thing it speaks of, or `NOTHING`.
    """

    question: str
    answer: tuple[str, ...]
    about: tuple[int, ...]


def draw_lesson(things: Sequence[Thing], rng: np.random.Generator) -> Lesson:
    """One lesson about an image: half of them requests, the rest attributes, counts, lists."""
    choice = rng.random()
    if choice < 0.5:
        return _request(things, rng)
    if choice < 0.65:
        return _is_there(things, rng)
    if choice < 0.9:
        return _attribute(things, rng)
    if choice < 0.95:
        return _count(things, rng)
    return _list(things)


def _pick(options: Sequence, rng: np.random.Generator):
    return options[int(rng.integers(len(options)))]


def _draw_query(things: Sequence[Thing], rng: np.random.Generator) -> tuple[Query, int]:
    """A query that is true of exactly one thing, or of none, with equal chance."""
    while True:
        kind, true = _pick(KINDS, rng), rng.random() < 0.5
        queries = (answerable if true else absent)(things, kind)
        if queries:
            query = _pick(queries, rng)
            return query, _number(query, things)


def _number(query: Query, things: Sequence[Thing]) -> int:
    return next((i for i, thing in enumerate(things) if query.matches(thing)), NOTHING)


def _request(things: Sequence[Thing], rng: np.random.Generator) -> Lesson:
    query, number = _draw_query(things, rng)
    question = ask(query, rng, is_sentence=bool(rng.random() < 0.5))
    if question.is_sentence:
        text = QUESTION_OF_SENTENCE.format(sent=question.text)
    else:
        text = QUESTION_OF_CLASS.format(class_name=question.text.lower())
    if number == NOTHING:
        return Lesson(text, (deny(query, things, bool(rng.random() < 0.7)),), (NOTHING,))
    answer = _pick(_AFFIRM, rng).format(f"the {things[number].name}")
    return Lesson(text, (answer,), (number,))


def _is_there(things: Sequence[Thing], rng: np.random.Generator) -> Lesson:
    query, number = _draw_query(things, rng)
    text = f"Is there {with_article(query.missing)} in this image?"
    if number == NOTHING:
        return Lesson(text, (f"No, there is no {query.missing}.",), (NOTHING,))
    return Lesson(text, (f"Yes, there is {with_article(things[number].name)}.",), (number,))


def _attribute(things: Sequence[Thing], rng: np.random.Generator) -> Lesson:
    """Ask for one attribute of a thing that is named by others."""
    while True:
        attribute = _pick(("colour", "shape", "size", "place"), rng)
        queries = [
            query
            for kind in KINDS[:-1]
            for query in answerable(things, kind)
            if all(name != attribute for name, _ in query.wanted)
        ]
        if queries:
            break
    query = _pick(queries, rng)
    number, phrase = _number(query, things), _pick(query.phrases, rng)
    value = getattr(things[number], attribute)
    text, answer = {
        "colour": (f"What colour is {phrase}?", f"It is {value}."),
        "shape": (f"What shape is {phrase}?", f"It is a {value}."),
        "size": (f"Is {phrase} small or large?", f"It is {value}."),
        "place": (f"Where is {phrase}?", f"It is at the {value}."),
    }[attribute]
    return Lesson(text, (answer,), (number,))


def _count(things: Sequence[Thing], rng: np.random.Generator) -> Lesson:
    attribute = _pick(("", "colour", "shape", "size"), rng)
    if not attribute:
        return Lesson("How many objects are there?", (f"{_NUMBERS[len(things)]}.",), (NOTHING,))
    value = getattr(_pick(things, rng), attribute)
    count = sum(getattr(thing, attribute) == value for thing in things)
    name = f"{value}s" if attribute == "shape" else f"{value} objects"
    return Lesson(f"How many {name} are there?", (f"{_NUMBERS[count]}.",), (NOTHING,))


def _list(things: Sequence[Thing]) -> Lesson:
    """Name all things in the order top left, top right, bottom left, bottom right."""
    order = sorted(range(len(things)), key=lambda i: list(PLACES).index(things[i].place))
    pieces = []
    for rank, number in enumerate(order):
        joint = "" if rank == 0 else (" and " if rank == len(order) - 1 else ", ")
        pieces.append(joint + with_article(things[number].name))
    pieces[0] = pieces[0][0].upper() + pieces[0][1:]
    pieces[-1] += "."
    return Lesson("What is in this image?", tuple(pieces), tuple(order))

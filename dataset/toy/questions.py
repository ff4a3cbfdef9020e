"""What can be asked about a toy image, and what is true of it.

A query is a condition on one thing. It is asked about an image as true only if exactly one thing
meets it, and as a false premise only if none does: no question is ambiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset.toy.scene import COLOURS, PLACES, SHAPES, SIZES, Thing

KINDS = ("direct", "colour", "shape", "size", "position", "reasoning")

_LIKE_COLOUR = {
    "red": ("a ripe tomato", "a fire engine"),
    "orange": ("a carrot", "a pumpkin"),
    "yellow": ("a ripe banana", "a lemon"),
    "green": ("fresh grass", "a frog"),
    "blue": ("the deep sea", "a clear sky"),
    "purple": ("a ripe plum", "an aubergine"),
}
_LIKE_SHAPE = {
    "circle": (("that can roll", "can roll"), ("without corners", "has no corners")),
    "square": (
        ("with four equal sides", "has four equal sides"),
        ("shaped like a window", "is shaped like a window"),
    ),
    "triangle": (
        ("with three corners", "has three corners"),
        ("with three sides", "has three sides"),
    ),
    "star": (("with five points", "has five points"), ("that shines at night", "shines at night")),
}


@dataclass(frozen=True)
class Query:
    """A condition and the ways to ask for it.

    Args:
        kind: one of `KINDS`.
        wanted: (attribute of `Thing`, value) pairs that must all hold.
        phrases: for "What is {phrase} in this image?" (ReasonSeg's `is_sentence` = false).
        sentences: full questions (`is_sentence` = true).
        missing: goes into "there is no {missing} in the image".
    """

    kind: str
    wanted: tuple[tuple[str, str], ...]
    phrases: tuple[str, ...]
    sentences: tuple[str, ...]
    missing: str

    def matches(self, thing: Thing) -> bool:
        return all(getattr(thing, name) == value for name, value in self.wanted)

    def count(self, things: Sequence[Thing]) -> int:
        return sum(self.matches(thing) for thing in things)


@dataclass(frozen=True)
class Question:
    """One way to ask a query."""

    query: Query
    text: str
    is_sentence: bool


def _direct() -> list[Query]:
    return [
        Query(
            "direct",
            (("colour", colour), ("shape", shape)),
            (f"the {colour} {shape}",),
            (
                f"Where is the {colour} {shape}?",
                f"Please find the {colour} {shape}.",
                f"Show me the {colour} {shape}.",
            ),
            f"{colour} {shape}",
        )
        for colour in COLOURS
        for shape in SHAPES
    ]


def _colour() -> list[Query]:
    return [
        Query(
            "colour",
            (("colour", colour),),
            (f"the {colour} object", f"the {colour} thing"),
            (f"Which object is {colour}?", f"Please find the {colour} object."),
            f"{colour} object",
        )
        for colour in COLOURS
    ]


def _shape() -> list[Query]:
    return [
        Query(
            "shape",
            (("shape", shape),),
            (f"the {shape}",),
            (f"Which object is a {shape}?", f"Where is the {shape}?"),
            shape,
        )
        for shape in SHAPES
    ]


def _size() -> list[Query]:
    words = {"small": ("small", "little"), "large": ("large", "big")}
    return [
        Query(
            "size",
            (("size", size),),
            (f"the {words[size][0]} object", f"the {words[size][1]} thing"),
            (f"Which object is {words[size][0]}?", f"Show me the {words[size][1]} thing."),
            f"{size} object",
        )
        for size in SIZES
    ]


def _position() -> list[Query]:
    return [
        Query(
            "position",
            (("place", place),),
            (f"the object in the {place} corner", f"the thing at the {place}"),
            (f"What lies in the {place} corner?", f"Which object is at the {place}?"),
            f"object at the {place}",
        )
        for place in PLACES
    ]


def _reasoning() -> list[Query]:
    queries = [
        Query(
            "reasoning",
            (("colour", colour),),
            (f"the object with the colour of {first}", f"the thing coloured like {second}"),
            (f"What has the colour of {second}?", f"Which object is coloured like {first}?"),
            f"object with the colour of {first}",
        )
        for colour, (first, second) in _LIKE_COLOUR.items()
    ]
    for shape, (first, second) in _LIKE_SHAPE.items():
        queries.append(
            Query(
                "reasoning",
                (("shape", shape),),
                (f"the object {first[0]}", f"the thing {second[0]}"),
                (f"Which object {first[1]}?", f"What {second[1]}?"),
                f"object {first[0]}",
            )
        )
    return queries


QUERIES: dict[str, list[Query]] = {
    "direct": _direct(),
    "colour": _colour(),
    "shape": _shape(),
    "size": _size(),
    "position": _position(),
    "reasoning": _reasoning(),
}


def answerable(things: Sequence[Thing], kind: str) -> list[Query]:
    """The queries of a kind that exactly one thing meets."""
    return [query for query in QUERIES[kind] if query.count(things) == 1]


def absent(things: Sequence[Thing], kind: str) -> list[Query]:
    """The queries of a kind that no thing meets.

    For "direct", those whose colour and shape both occur, on different things, come alone if there
    are any: they cannot be denied by looking at the colour or the shape only.
    """
    queries = [query for query in QUERIES[kind] if query.count(things) == 0]
    if kind == "direct":
        near = [
            query
            for query in queries
            if all(any(getattr(t, name) == value for t in things) for name, value in query.wanted)
        ]
        return near or queries
    return queries


def ask(query: Query, rng: np.random.Generator, is_sentence: bool) -> Question:
    """One of the query's phrases or sentences, by chance."""
    choices = query.sentences if is_sentence else query.phrases
    return Question(query, choices[int(rng.integers(len(choices)))], is_sentence)


def with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def look_alike(query: Query, things: Sequence[Thing]) -> Thing:
    """The thing that meets most of the query's conditions; the first one if several do."""
    return max(things, key=lambda t: sum(getattr(t, n) == v for n, v in query.wanted))


def deny(query: Query, things: Sequence[Thing], correct: bool) -> str:
    """The answer to a false premise, naming what is there instead if `correct`."""
    answer = f"Sorry, there is no {query.missing} in the image"
    if correct:
        answer += f", but there is {with_article(look_alike(query, things).name)}"
    return answer + "."

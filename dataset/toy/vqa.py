"""Toy conversations about an image in words, as LLaVA-Instruct keeps them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dataset.toy.questions import KINDS, absent, answerable, with_article
from dataset.toy.scene import PLACES, Thing

_NUMBERS = ("No", "One", "Two", "Three", "Four")
_IMAGE = "<image>"


def conversation_entry(image_id: int, file_name: str, things: Sequence[Thing], rng) -> dict:
    """An entry of `llava_instruct_150k.json`: two to four turns, the image in the first.

    Args:
        rng: `numpy.random.Generator`.
    """
    order = rng.permutation(len(_ASKS))[: int(rng.integers(2, 5))]
    turns = [_ASKS[int(i)](things, rng) for i in order]
    first = turns[0][0]
    placed = f"{_IMAGE}\n{first}" if rng.random() < 0.5 else f"{first}\n{_IMAGE}"
    conversations = []
    for number, (question, answer) in enumerate(turns):
        conversations.append({"from": "human", "value": question if number else placed})
        conversations.append({"from": "gpt", "value": answer})
    return {"id": f"{image_id:012d}", "image": file_name, "conversations": conversations}


def _count(things: Sequence[Thing], rng: np.random.Generator) -> tuple[str, str]:
    attribute = ("", "colour", "shape", "size")[int(rng.integers(4))]
    if not attribute:
        return "How many objects are there?", f"{_NUMBERS[len(things)]}."
    value = getattr(things[int(rng.integers(len(things)))], attribute)
    count = sum(getattr(thing, attribute) == value for thing in things)
    name = f"{value}s" if attribute == "shape" else f"{value} objects"
    return f"How many {name} are there?", f"{_NUMBERS[count]}."


def _colour(things: Sequence[Thing], rng: np.random.Generator) -> tuple[str, str]:
    queries = [q for kind in ("shape", "size", "position") for q in answerable(things, kind)]
    query = queries[int(rng.integers(len(queries)))]
    phrase = query.phrases[int(rng.integers(len(query.phrases)))]
    thing = next(t for t in things if query.matches(t))
    return f"What colour is {phrase}?", f"It is {thing.colour}."


def _corner(things: Sequence[Thing], rng: np.random.Generator) -> tuple[str, str]:
    place = list(PLACES)[int(rng.integers(len(PLACES)))]
    found = [with_article(thing.name) for thing in things if thing.place == place]
    answer = f"{found[0][0].upper()}{found[0][1:]}." if found else "Nothing."
    return f"What is in the {place} corner?", answer


def _is_there(things: Sequence[Thing], rng: np.random.Generator) -> tuple[str, str]:
    kind, true = KINDS[int(rng.integers(4))], rng.random() < 0.5
    queries = (answerable if true else absent)(things, kind)
    if not queries:
        return _corner(things, rng)
    query = queries[int(rng.integers(len(queries)))]
    question = f"Is there {with_article(query.missing)} in this image?"
    if query.count(things) == 0:
        return question, f"No, there is no {query.missing}."
    thing = next(t for t in things if query.matches(t))
    return question, f"Yes, there is {with_article(thing.name)}."


def _list(things: Sequence[Thing], rng: np.random.Generator) -> tuple[str, str]:
    """All things in the order top left, top right, bottom left, bottom right."""
    order = sorted(things, key=lambda thing: list(PLACES).index(thing.place))
    names = [with_article(thing.name) for thing in order]
    text = ", ".join(names[:-1]) + f" and {names[-1]}."
    return "What is in this image?", text[0].upper() + text[1:]


_ASKS: tuple[Callable[[Sequence[Thing], np.random.Generator], tuple[str, str]], ...] = (
    _count, _colour, _corner, _is_there, _list,
)  # fmt: skip

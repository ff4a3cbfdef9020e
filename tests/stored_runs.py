"""A random evaluation as predictions of ours."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import InputError
from utils.evaluation.evaluator import evaluate
from utils.evaluation.predictions import PredictionFile, check_run
from utils.protocol.batch import EvalItem, EvalQuestion

MODE = "generated"


@dataclass
class FakeSegment:
    mask: np.ndarray


class FakeAnswer:
    """An answer with any number of `[SEG]`."""

    def __init__(self, text, masks, size):
        self.text, self.segments = text, [FakeSegment(mask) for mask in masks]
        self.mask = np.any([np.zeros(size, bool), *masks], axis=0)
        self.present = bool(self.mask.any())


def make_items(folder: Path, count: int, seed: int = 0) -> list[EvalItem]:
    """Images of different sizes with one to four questions; some truths hold 255."""
    rng = np.random.default_rng(seed)
    items = []
    for index in range(count):
        height, width = rng.integers(6, 30, 2)
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        path = folder / f"image {index:02d}.png"
        Image.fromarray(image).save(path)
        questions = []
        for number in range(rng.integers(1, 5)):
            truth = np.zeros((height, width), np.uint8)
            there = rng.random() < 0.6
            if there:
                top, left = rng.integers(0, height - 3), rng.integers(0, width - 3)
                truth[top : top + 6, left : left + 9] = 1
            if rng.random() < 0.3:
                truth[:2] = np.where(truth[:2] == 0, 255, truth[:2])
            kind = ("direct" if number % 2 else "reasoning") if there else "absent"
            questions.append(EvalQuestion(f"what is {number} <in> {index}?", truth, there, kind))
        items.append(EvalItem(str(path), image, questions))
    return items


def answers_to(item: EvalItem, seed: int = 7) -> list[FakeAnswer]:
    """Right, wrong, missing, invented, empty and twofold answers, the same ones every time."""
    rng = np.random.default_rng([seed, *item.image_path.encode()])
    answers = []
    for question in item.questions:
        size = question.truth.shape
        shifted = np.roll(question.truth == 1, rng.integers(0, 3), axis=rng.integers(0, 2))
        block = np.zeros(size, bool)
        block[: rng.integers(1, size[0]), : rng.integers(1, size[1])] = True
        text, masks = {
            0: ("There is none.", []),
            1: ("It is [SEG].", [block]),
            2: ("It is [SEG] and [SEG].", [shifted, block]),
            3: ("It is [SEG].", [np.zeros(size, bool)]),
        }.get(int(rng.integers(0, 8)), ("Sure, [SEG].", [shifted]))
        answers.append(FakeAnswer(text, masks, size))
    return answers


class Broken(list):
    """Items one of which cannot be read."""

    def __init__(self, items, broken=()):
        super().__init__(items)
        self.broken = set(broken)

    def __getitem__(self, index):
        if index in self.broken:
            raise InputError(f"image {index} <is> no image")
        return super().__getitem__(index)


def write_ours(folder, items, world: int = 1, broken=()) -> None:
    """What `test_read.py` writes."""
    by_image = {item.image.tobytes(): item for item in items}
    items = Broken(items, broken)
    for rank in range(world):
        check_run(folder, {"items": len(items), "modes": [MODE], "world": world, "model": "m"})
        file = PredictionFile(folder, rank, world, MODE)
        evaluate(
            lambda image, _: answers_to(by_image[image.tobytes()]),
            items,
            rank=rank,
            world=world,
            progress=False,
            skip_broken=True,
            on_item=file.write,
            on_skip=file.skip,
        )

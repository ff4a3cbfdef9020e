"""Training draws and evaluation items of data sets that users add."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset.catalog import OWN_FOLDER
from dataset.flag_checks import own_names
from dataset.own.formats import Image, Question, Split, open_split
from dataset.own.rules import HOW, plain_name
from dataset.reason_seg import FALSE_PREMISE_SHARE, NAMELESS
from dataset.sampling import KIND_ABSENT, SamplingOptions, Turn, choose, make_sample
from dataset.templates import SIMPLE, Templates
from utils.errors import InputError
from utils.protocol.batch import EvalItem, EvalQuestion, Sample
from utils.protocol.constants import IGNORE_LABEL


def open_own(dataset_dir: str | Path, name: str, split: str) -> Split:
    """A split of a data set of one's own.

    Raises:
        InputError: there is no such set or split, or its annotations are damaged.
    """
    folder = Path(dataset_dir) / OWN_FOLDER / plain_name(name, "data set")
    if not folder.is_dir():
        there = ", ".join(own_names(dataset_dir)) or "none"
        raise InputError(
            f"no data set {name!r} at {folder} (there: {there}): give one of the published names, "
            f"or put your own data there; {HOW}"
        )
    return open_split(folder, split)


class OwnTrain:
    """Training draws from one's own data; a draw is a function of (seed, index) alone.

    Args:
        dataset_dir: the data folder.
        name: of the folder below `own/`.
        settings: of all draws.
        split: which part is drawn.

    Raises:
        InputError: missing or damaged data.
    """

    def __init__(
        self, dataset_dir: str | Path, name: str, settings: SamplingOptions, split: str = "train"
    ):
        self.images = open_own(dataset_dir, name, split)
        self.stream = f"{OWN_FOLDER}/{name}/{split}"
        self.settings = settings

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int) -> Sample:
        """The sample of a global index; 255 in a mask counts as background.

        Raises:
            InputError: its image or annotation is broken; the message names the file.
        """
        rng = self.settings.rng(self.stream, index)
        image = self.images.load(int(rng.integers(len(self.images))))
        deny = bool(image.absent) and rng.random() < FALSE_PREMISE_SHARE
        questions = image.absent if deny or not image.present else image.present
        chosen = [
            questions[i] for i in choose(rng, len(questions), self.settings.num_classes_per_sample)
        ]
        absent = questions is image.absent
        turns = [self._turn(question, absent, rng) for question in chosen]
        path, kind = str(image.path), KIND_ABSENT if absent else chosen[0].kind
        return make_sample(path, image.image, turns, self.settings, kind)

    def _turn(self, question: Question, absent: bool, rng: np.random.Generator) -> Turn:
        templates = self.settings.templates
        text = templates.question(question.text, question.is_sentence, rng)
        if not absent:
            mask = (question.mask() == 1).astype(np.uint8)
            return Turn(text, _positive(question, templates, rng), mask)
        missing = NAMELESS if question.is_sentence else question.text
        return Turn(text, question.answer or templates.denial(missing, rng), None)


def _positive(question: Question, templates: Templates, rng: np.random.Generator) -> str:
    """From the pool of classes and expressions; to a sentence from the one of ReasonSeg."""
    if question.is_sentence:
        return templates.long_positive(question.text, True, rng)
    return templates.positive(question.text, rng)


class OwnEval(Sequence):
    """Evaluation items of one's own data, decoded when asked for.

    In ReasonSeg's form the first text is asked, as in ReasonSeg; in COCO's form every sentence.

    Args:
        dataset_dir: the data folder.
        name: of the folder below `own/`.
        split: which part.
        templates: around the questions, and of the answers that a teacher-forced evaluation gives.
        seed: of the choice among several templates.
        false_premises: ask about what is not there as well.

    Raises:
        InputError: missing or damaged data; for an item: its files are broken.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        name: str,
        split: str = "val",
        templates: Templates = SIMPLE,
        seed: int = 42,
        false_premises: bool = True,
    ):
        self.images = open_own(dataset_dir, name, split)
        self.templates, self.seed, self.false_premises = templates, seed, false_premises

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> EvalItem:  # type: ignore[override]
        image = self.images.load(range(len(self))[index])
        rng = np.random.default_rng([self.seed, range(len(self))[index]])
        return EvalItem(str(image.path), image.image, self._questions(image, rng))

    def _questions(self, image: Image, rng: np.random.Generator) -> list[EvalQuestion]:
        present = image.present[:1] if image.synonyms else image.present
        questions = [
            EvalQuestion(
                self.templates.question(question.text, question.is_sentence, rng),
                question.mask(),
                exists=True,
                kind=question.kind,
                phrase=question.text,
            )
            for question in present
        ]
        for question in image.absent if self.false_premises else []:
            ignored = question.mask() == IGNORE_LABEL
            questions.append(
                EvalQuestion(
                    self.templates.question(question.text, question.is_sentence, rng),
                    np.where(ignored, IGNORE_LABEL, 0).astype(np.uint8),
                    exists=False,
                    kind=KIND_ABSENT,
                    answer_hint=question.answer,
                    phrase=question.text,
                )
            )
        for asked, question in zip(questions, present, strict=False):  # those of absent ones follow
            asked.forced_answer = _positive(question, self.templates, rng)
        return questions

"""ReasonSeg with false premises: annotation files, training draws, evaluation items.

On disk: `reason_seg/ReasonSeg/{train,val,test}/*.{jpg,json}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset import json_files
from dataset.catalog import WHOLE_TEST
from dataset.masks import draw_reason_seg
from dataset.sampling import KIND_ABSENT, SamplingOptions, Turn, choose, make_sample
from dataset.templates import SIMPLE, Templates
from utils.errors import InputError
from utils.protocol.batch import EvalItem, EvalQuestion, Sample
from utils.protocol.constants import IGNORE_LABEL, POLYGON_FILLS
from utils.protocol.image_files import read_image

FALSE_PREMISE_SHARE = 0.15
"""Share of training draws that use the false-premise question, where there is one."""

_LENGTHS = {"short": False, "long": True}
_STREAM = "reason_seg"
_FORM = "ReasonSeg's JSON with shapes[{label, points}], text[...], is_sentence"
_HOW_TO_GET = "ReasonSeg is distributed with the LISA project; unpack it into reason_seg/ReasonSeg"

NAMELESS = "such thing"
"""Stands for what a sentence asks about in a denial: "There is no such thing in this image."."""


@dataclass(frozen=True)
class FalsePremise:
    """A question about something that is not in the image.

    Args:
        question: phrase or sentence; asked in the case in which it is written, as in the original,
            while phrases about what is there are asked in lower case.
        is_sentence: which of the two.
        answer: the annotated answer, "" if there is none.
    """

    question: str
    is_sentence: bool
    answer: str


@dataclass(frozen=True)
class ReasonSegAnnotation:
    """One annotation file.

    Args:
        mask: uint8[H, W]: 1 object, 0 background, 255 does not count.
        texts: ways to ask for the object.
        is_sentence: the texts are full sentences, not phrases.
        false_premise: questions about absent objects.
        kind: group in reports; "" in the published files, which are "short" and "long" in an
            evaluation.
    """

    mask: np.ndarray
    texts: list[str]
    is_sentence: bool
    false_premise: list[FalsePremise]
    kind: str = ""


def load_annotation(
    json_path: str | Path, size: tuple[int, int], fill: str = POLYGON_FILLS[0]
) -> ReasonSegAnnotation:
    """Read an annotation file (utf-8 or cp1252) and draw its mask.

    Args:
        json_path: the file.
        size: (H, W) of its image.
        fill: whose border pixels, one of `POLYGON_FILLS`.

    Raises:
        InputError: missing or damaged file; the message names it.
    """
    return parse_annotation(read_json(Path(json_path)), size, json_path, fill)


def parse_annotation(
    content: Mapping, size: tuple[int, int], name: str | Path, fill: str = POLYGON_FILLS[0]
) -> ReasonSegAnnotation:
    """An annotation that was read from JSON.

    Args:
        content: with shapes[{label, points}], text[...], is_sentence.
        size: (H, W) of its image.
        name: what messages call it.
        fill: see `load_annotation`.

    Raises:
        InputError: it cannot be used; the message names it.
    """
    try:
        shapes, texts = content["shapes"], content["text"]
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts or not all(json_files.is_sayable(text) for text in texts):
            raise ValueError("text must hold at least one sentence, none with <image> or [SEG]")
        premises = [_false_premise(entry) for entry in content.get("false_premise_QA") or []]
        return ReasonSegAnnotation(
            draw_reason_seg(shapes, size, fill),
            texts,
            bool(content["is_sentence"]),
            premises,
            str(content.get("kind", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise json_files.damaged(name, f"{type(error).__name__}: {error}", _FORM) from error


def read_json(path: Path) -> dict:
    """An annotation file (utf-8 or cp1252), which holds a JSON object."""
    content = json_files.read_json(path, _FORM, _HOW_TO_GET, encodings=("utf-8", "cp1252"))
    if not isinstance(content, dict):
        raise json_files.damaged(path, "the file holds no JSON object", _FORM)
    return content


def _false_premise(entry: Sequence) -> FalsePremise:
    question, is_sentence, answer = (list(entry) + [""])[:3]
    if not json_files.is_sayable(question):
        raise ValueError("a false_premise_QA entry has no question, or one with <image> or [SEG]")
    said = answer if json_files.is_sayable(answer) else ""
    return FalsePremise(question, bool(is_sentence), said)


def missing(premise: FalsePremise) -> str:
    """What a denial calls the object: the phrase itself; a sentence names none."""
    return NAMELESS if premise.is_sentence else premise.question


def list_split(dataset_dir: str | Path, split: str) -> list[tuple[Path, Path]]:
    """Pairs of image and annotation of a split, by name.

    Args:
        dataset_dir: the data folder (`--dataset_dir`).
        split: "train", "val", "test"; several joined by "_" as in the original's flags.

    Raises:
        InputError: the folder is missing or empty, or an image has no annotation.
    """
    pairs: list[tuple[Path, Path]] = []
    for name in split.split("_"):
        folder = Path(dataset_dir) / "reason_seg" / "ReasonSeg" / name
        if not folder.is_dir():
            raise InputError(f"no ReasonSeg split {name!r} at {folder}. {_HOW_TO_GET}")
        images = sorted(folder.glob("*.jpg"))
        if not images:
            raise InputError(f"no images (*.jpg) in {folder}. {_HOW_TO_GET}")
        bare = [image for image in images if not image.with_suffix(".json").is_file()]
        if bare:
            raise InputError(
                f"{len(bare)} images in {folder} have no annotation, such as {bare[0].name}: "
                f"each NAME.jpg needs a NAME.json. {_HOW_TO_GET}"
            )
        pairs += [(image, image.with_suffix(".json")) for image in images]
    return pairs


class ReasonSegTrain:
    """Training draws from ReasonSeg; a draw is a function of (seed, index) alone.

    Args:
        dataset_dir: the data folder.
        spec: `ReasonSeg|train`; several splits joined by "_".
        settings: how samples are drawn and worded.

    Raises:
        InputError: unknown spec or missing data.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        spec: str = "ReasonSeg|train",
        settings: SamplingOptions | None = None,
    ):
        name, _, splits = spec.partition("|")
        if name != "ReasonSeg" or not splits:
            raise InputError(
                f"--reason_seg_data {spec!r}: expected ReasonSeg|SPLIT, for example ReasonSeg|train"
            )
        self.pairs = list_split(dataset_dir, splits)
        self.settings = settings or SamplingOptions()

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int) -> Sample:
        """The sample of a global index.

        Raises:
            InputError: its image or annotation is broken; the message names the file.
        """
        rng = self.settings.rng(_STREAM, index)
        image_path, annotation_path = self.pairs[int(rng.integers(len(self.pairs)))]
        image = read_image(image_path)
        annotation = load_annotation(annotation_path, image.shape[:2], self.settings.polygon_fill)
        if annotation.false_premise and rng.random() < FALSE_PREMISE_SHARE:
            turns = self._false(annotation.false_premise, rng)
        else:
            turns = self._true(annotation, rng)
        return make_sample(str(image_path), image, turns, self.settings, annotation.kind)

    def _true(self, annotation: ReasonSegAnnotation, rng: np.random.Generator) -> list[Turn]:
        templates, texts = self.settings.templates, annotation.texts
        # 255 counts as background in training.
        mask = (annotation.mask == 1).astype(np.uint8)
        return [
            Turn(
                templates.question(texts[n], annotation.is_sentence, rng),
                templates.long_positive(texts[n], annotation.is_sentence, rng),
                mask,
            )
            for n in choose(rng, len(texts), self.settings.num_classes_per_sample)
        ]

    def _false(self, premises: Sequence[FalsePremise], rng: np.random.Generator) -> list[Turn]:
        templates = self.settings.templates
        return [
            Turn(
                templates.question(
                    premises[n].question, premises[n].is_sentence, rng, keep_case=True
                ),
                premises[n].answer or templates.denial(missing(premises[n]), rng),
                None,
            )
            for n in choose(rng, len(premises), self.settings.num_classes_per_sample)
        ]


class ReasonSegEval(Sequence):
    """Evaluation items of a split, decoded when asked for.

    Args:
        dataset_dir: the data folder.
        split: "val", "test", ...; "overall" is "test", "short"/"long" are those of its images
            that are asked by a phrase/sentence.
        false_premises: ask the false-premise questions as well.
        templates: sentences around the questions.
        seed: of templates that are chosen by chance: those of an image are always the same.
        polygon_fill: whose border pixels the true masks have, one of `POLYGON_FILLS`.

    Raises:
        InputError: the data are missing; for an item: its files are broken.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        split: str = "val",
        false_premises: bool = False,
        templates: Templates = SIMPLE,
        seed: int = 42,
        polygon_fill: str = POLYGON_FILLS[0],
    ):
        self.false_premises = false_premises
        self.settings = SamplingOptions(templates=templates, seed=seed, polygon_fill=polygon_fill)
        length = _LENGTHS.get(split)
        whole = split if length is None and split != WHOLE_TEST else "test"
        self.pairs = list_split(dataset_dir, whole)
        if length is not None:
            self.pairs = [
                pair for pair in self.pairs if bool(read_json(pair[1]).get("is_sentence")) == length
            ]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> EvalItem:  # type: ignore[override]
        image_path, annotation_path = self.pairs[index]
        image = read_image(image_path)
        annotation = load_annotation(annotation_path, image.shape[:2], self.settings.polygon_fill)
        rng, templates = self.settings.rng(_STREAM, index), self.settings.templates
        questions = [
            EvalQuestion(
                templates.question(annotation.texts[0], annotation.is_sentence, rng),
                annotation.mask,
                exists=True,
                kind=annotation.kind or ("long" if annotation.is_sentence else "short"),
                phrase=annotation.texts[0],
            )
        ]
        if self.false_premises:
            absent = np.where(annotation.mask == IGNORE_LABEL, IGNORE_LABEL, 0).astype(np.uint8)
            questions += [
                EvalQuestion(
                    templates.question(premise.question, premise.is_sentence, rng, keep_case=True),
                    absent,
                    exists=False,
                    kind=KIND_ABSENT,
                    answer_hint=premise.answer,
                    phrase=premise.question,
                )
                for premise in annotation.false_premise
            ]
        return EvalItem(str(image_path), image, questions)

"""ReasonSeg with false premises: annotation files, training draws, evaluation items.

On disk: `reason_seg/ReasonSeg/{train,val,test}/*.{jpg,json}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.image import read_image
from dataset.masks import draw_reason_seg
from dataset.templates import SIMPLE, load_templates
from utils.batch import EvalItem, EvalQuestion, Sample
from utils.constants import IGNORE_LABEL
from utils.conversation import build_prompt, user_turn
from utils.errors import InputError

FALSE_PREMISE_SHARE = 0.15
"""Share of training draws that use the false-premise question, where there is one."""

KIND_ABSENT = "absent"
_LENGTHS = {"short": False, "long": True}
_HOW_TO_GET = "ReasonSeg is distributed with the LISA project; unpack it into reason_seg/ReasonSeg"


@dataclass(frozen=True)
class FalsePremise:
    """A question about something that is not in the picture.

    Args:
        question: phrase or sentence.
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
        kind: group in reports ("" in the published files).
    """

    mask: np.ndarray
    texts: list[str]
    is_sentence: bool
    false_premise: list[FalsePremise]
    kind: str = ""


def load_annotation(json_path: str | Path, size: tuple[int, int]) -> ReasonSegAnnotation:
    """Read an annotation file (utf-8 or cp1252) and draw its mask.

    Args:
        json_path: the file.
        size: (H, W) of its picture.

    Raises:
        InputError: missing or damaged file; the message names it.
    """
    return parse_annotation(read_json(Path(json_path)), size, json_path)


def parse_annotation(
    content: Mapping, size: tuple[int, int], name: str | Path
) -> ReasonSegAnnotation:
    """An annotation that was read from JSON.

    Args:
        content: with shapes[{label, points}], text[...], is_sentence.
        size: (H, W) of its picture.
        name: what messages call it.

    Raises:
        InputError: it cannot be used; the message names it.
    """
    try:
        shapes, texts = content["shapes"], content["text"]
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError("text must hold at least one sentence")
        premises = [_false_premise(entry) for entry in content.get("false_premise_QA") or []]
        return ReasonSegAnnotation(
            draw_reason_seg(shapes, size),
            texts,
            bool(content["is_sentence"]),
            premises,
            str(content.get("kind", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _damaged(name, f"{type(error).__name__}: {error}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] != "cv2":
            raise
        raise _damaged(name, f"unusable polygon: {error}") from error


def read_json(path: Path) -> dict:
    """An annotation file (utf-8 or cp1252), which holds a JSON object."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"no annotation at {path} ({error}). {_HOW_TO_GET}") from error
    try:
        try:
            content = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError:
            content = json.loads(raw.decode("cp1252"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(content, dict):
        raise _damaged(path, "the file holds no JSON object")
    return content


def _false_premise(entry: Sequence) -> FalsePremise:
    question, is_sentence, answer = (list(entry) + [""])[:3]
    if not isinstance(question, str) or not question.strip():
        raise ValueError("a false_premise_QA entry has no question")
    return FalsePremise(question, bool(is_sentence), answer if isinstance(answer, str) else "")


def _damaged(path: str | Path, reason: str) -> InputError:
    return InputError(
        f"the annotation {path} is damaged ({reason}): expected ReasonSeg's JSON with "
        "shapes[{label, points}], text[...], is_sentence; copy it again from its source"
    )


def list_split(dataset_dir: str | Path, split: str) -> list[tuple[Path, Path]]:
    """Pairs of picture and annotation of a split, by name.

    Args:
        dataset_dir: the data folder (`--dataset_dir`).
        split: "train", "val", "test"; several joined by "_" as in the original's flags.

    Raises:
        InputError: the folder is missing or empty, or a picture has no annotation.
    """
    pairs: list[tuple[Path, Path]] = []
    for name in split.split("_"):
        folder = Path(dataset_dir) / "reason_seg" / "ReasonSeg" / name
        if not folder.is_dir():
            raise InputError(f"no ReasonSeg split {name!r} at {folder}. {_HOW_TO_GET}")
        pictures = sorted(folder.glob("*.jpg"))
        if not pictures:
            raise InputError(f"no pictures (*.jpg) in {folder}. {_HOW_TO_GET}")
        bare = [picture for picture in pictures if not picture.with_suffix(".json").is_file()]
        if bare:
            raise InputError(
                f"{len(bare)} pictures in {folder} have no annotation, such as {bare[0].name}: "
                f"each NAME.jpg needs a NAME.json. {_HOW_TO_GET}"
            )
        pairs += [(picture, picture.with_suffix(".json")) for picture in pictures]
    return pairs


class ReasonSegTrain:
    """Training draws from ReasonSeg; a draw is a function of (seed, index) alone.

    Args:
        dataset_dir: the data folder.
        spec: `ReasonSeg|train`; several splits joined by "_".
        num_classes_per_sample: most sentences of one draw.
        templates: "simple", "varied" or a file.
        conv_type, use_im_start_end: see `build_prompt`.
        seed: of all draws.

    Raises:
        InputError: unknown spec, missing data or templates.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        spec: str = "ReasonSeg|train",
        num_classes_per_sample: int = 3,
        templates: str | Path = "varied",
        conv_type: str = "llava_v1",
        use_im_start_end: bool = True,
        seed: int = 0,
    ):
        name, _, splits = spec.partition("|")
        if name != "ReasonSeg" or not splits:
            raise InputError(
                f"--reason_seg_data {spec!r}: expected ReasonSeg|SPLIT, for example ReasonSeg|train"
            )
        self.pairs = list_split(dataset_dir, splits)
        self.most = num_classes_per_sample
        self.templates = load_templates(templates)
        self.conv_type, self.use_im_start_end = conv_type, use_im_start_end
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def draw(self, index: int) -> Sample:
        """The sample of a global index.

        Raises:
            InputError: its picture or annotation is broken; the message names the file.
        """
        rng = np.random.default_rng([self.seed, index])
        picture, annotation_path = self.pairs[int(rng.integers(len(self.pairs)))]
        image = read_image(picture)
        annotation = load_annotation(annotation_path, image.shape[:2])
        if annotation.false_premise and rng.random() < FALSE_PREMISE_SHARE:
            turns = self._false(annotation.false_premise, rng)
            exists = [False] * len(turns)
            masks = np.zeros((0, *image.shape[:2]), dtype=np.uint8)
        else:
            turns = self._true(annotation, rng)
            exists = [True] * len(turns)
            # 255 counts as background in training.
            masks = np.repeat((annotation.mask == 1).astype(np.uint8)[None], len(turns), axis=0)
        return Sample(
            image_path=str(picture),
            image=image,
            conversations=[
                build_prompt([(user_turn(q), a)], self.conv_type, self.use_im_start_end)
                for q, a in turns
            ],
            masks=masks,
            exists=exists,
            questions=[question for question, _ in turns],
            kind=annotation.kind if exists[0] else KIND_ABSENT,
        )

    def _true(
        self, annotation: ReasonSegAnnotation, rng: np.random.Generator
    ) -> list[tuple[str, str]]:
        count = min(self.most, len(annotation.texts))
        chosen = rng.choice(len(annotation.texts), size=count, replace=False)
        return [
            (
                self.templates.question(annotation.texts[i], annotation.is_sentence, rng),
                self.templates.positive(rng),
            )
            for i in chosen
        ]

    def _false(
        self, premises: Sequence[FalsePremise], rng: np.random.Generator
    ) -> list[tuple[str, str]]:
        count = min(self.most, len(premises))
        chosen = [premises[i] for i in rng.choice(len(premises), size=count, replace=False)]
        return [
            (
                self.templates.question(premise.question, premise.is_sentence, rng),
                premise.answer or self.templates.denial(premise.question, rng),
            )
            for premise in chosen
        ]


class ReasonSegEval(Sequence):
    """Evaluation items of a split, decoded when asked for.

    Args:
        dataset_dir: the data folder.
        split: "val", "test", ...; or "short"/"long": the test pictures asked by a phrase/sentence.
        false_premises: ask the false-premise questions as well.

    Raises:
        InputError: the data are missing; for an item: its files are broken.
    """

    def __init__(self, dataset_dir: str | Path, split: str = "val", false_premises: bool = False):
        self.false_premises = false_premises
        length = _LENGTHS.get(split)
        self.pairs = list_split(dataset_dir, split if length is None else "test")
        if length is not None:
            self.pairs = [
                pair for pair in self.pairs if bool(read_json(pair[1]).get("is_sentence")) == length
            ]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> EvalItem:  # type: ignore[override]
        picture, annotation_path = self.pairs[index]
        image = read_image(picture)
        annotation = load_annotation(annotation_path, image.shape[:2])
        rng = np.random.default_rng(0)
        questions = [
            EvalQuestion(
                SIMPLE.question(annotation.texts[0], annotation.is_sentence, rng),
                annotation.mask,
                exists=True,
                kind=annotation.kind,
            )
        ]
        if self.false_premises:
            absent = np.where(annotation.mask == IGNORE_LABEL, IGNORE_LABEL, 0).astype(np.uint8)
            questions += [
                EvalQuestion(
                    SIMPLE.question(premise.question, premise.is_sentence, rng),
                    absent,
                    exists=False,
                    kind=KIND_ABSENT,
                    answer_hint=premise.answer,
                )
                for premise in annotation.false_premise
            ]
        return EvalItem(str(picture), image, questions)

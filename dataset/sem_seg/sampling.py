"""Training draws from the sets with annotated classes and parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dataset.sampling import SamplingOptions, Turn, choose, make_sample
from dataset.sem_seg.coco_parts import paco_lvis, pascal_part
from dataset.sem_seg.label_maps import (
    ClassName,
    ClassSource,
    LabelledImage,
    ade20k,
    cocostuff,
    mapillary,
)
from utils.errors import InputError
from utils.protocol.batch import Sample

DENIAL_SHARE = 0.07
"""Share of the samples that ask for absent classes, and deny them."""

CORRECTION_SHARE = 0.08
"""Share of the samples that ask for absent classes; the answers name the ones that are there."""

OF_SHARE = 0.5
"""Share of the parts that are called "the tail of the dog"; the others are "dog tail"."""

MOST_ATTEMPTS = 50
"""Images that are tried until one has a class to ask for."""

KIND_CLASS = "class"
"""Kind, in reports, of questions about a class or a part."""

SOURCES: dict[str, Callable[[str | Path], ClassSource]] = {
    "ade20k": ade20k,
    "cocostuff": cocostuff,
    "mapillary": mapillary,
    "paco_lvis": paco_lvis,
    "pascal_part": pascal_part,
}
"""The names of `--sem_seg_data`, and what opens each in a data folder."""


class SemSegTrain:
    """Training draws of classes and parts; a draw is a function of (seed, index) alone.

    A draw takes a source uniformly, then one of its images, then up to `num_classes_per_sample`
    of its annotations (of a label map: classes). They are asked as they are, or absent classes of
    the same source in their place: `DENIAL_SHARE` and `CORRECTION_SHARE` of the samples. No absent
    class is asked twice in a sample; an annotation for which none is left is asked as it is.

    The settings may choose otherwise (docs/faithful.md): with `part_masks="union"` the annotations
    of a class are one, with `premise_draw="class"` the shares are those of the questions.

    Args:
        dataset_dir: the data folder.
        spec: names of `SOURCES` joined by "||".
        settings: how samples are drawn and worded.

    Raises:
        InputError: unknown name, missing or damaged data.
    """

    def __init__(self, dataset_dir: str | Path, spec: str, settings: SamplingOptions):
        unknown = [name for name in spec.split("||") if name not in SOURCES]
        if unknown:
            raise InputError(
                f"--sem_seg_data {spec!r}: {unknown[0]!r} is unknown; join some of "
                f"{', '.join(SOURCES)} by '||'"
            )
        self.sources = [SOURCES[name](dataset_dir) for name in spec.split("||")]
        self.settings = settings

    def sample(self, index: int) -> Sample:
        """The sample of a global index.

        Raises:
            InputError: its image or annotation is broken, or `MOST_ATTEMPTS` images have no
                class to ask for; the message names the file.
        """
        rng = self.settings.rng("sem_seg", index)
        for _ in range(MOST_ATTEMPTS):
            source = self.sources[int(rng.integers(len(self.sources)))]
            image = source.load(int(rng.integers(len(source))))
            turns = self._turns(source, image, rng)
            if turns:
                return make_sample(image.path, image.image, turns, self.settings, KIND_CLASS)
        raise InputError(
            f"{MOST_ATTEMPTS} images in a row show no class to ask for, the last one of "
            f"{source.name}: {image.path}; check that its annotations are complete"
        )

    def _turns(
        self, source: ClassSource, image: LabelledImage, rng: np.random.Generator
    ) -> list[Turn]:
        things = self._chosen(image, rng)
        absent = [image.absent[n] for n in choose(rng, len(image.absent), len(things))]
        templates, names = self.settings.templates, self.settings.class_names
        once = self.settings.premise_draw == "sample"
        u = rng.random() if once else 0.0
        turns = []
        for number, mask in things:
            u = u if once else rng.random()
            asked_true = u >= DENIAL_SHARE + CORRECTION_SHARE or not absent
            name = phrase(source.classes[number if asked_true else absent.pop()], rng, names)
            question = templates.question(name, False, rng)
            if asked_true:
                turns.append(Turn(question, templates.positive(name, rng), mask))
            elif u < DENIAL_SHARE:
                turns.append(Turn(question, templates.denial(name, rng), None))
            else:
                present = phrase(source.classes[number], rng, names)
                turns.append(Turn(question, templates.correction(name, present, rng), None))
        return turns

    def _chosen(
        self, image: LabelledImage, rng: np.random.Generator
    ) -> list[tuple[int, np.ndarray]]:
        """Classes and masks of what is asked; what has no pixel is passed over."""
        groups = [[position] for position in range(len(image.present))]
        if self.settings.part_masks == "union":
            of_class: dict[int, list[int]] = {number: [] for number in sorted(image.present)}
            for position, number in enumerate(image.present):
                of_class[number].append(position)
            groups = list(of_class.values())
        chosen: list[tuple[int, np.ndarray]] = []
        for place in choose(rng, len(groups), len(groups)):
            mask = np.bitwise_or.reduce([image.mask(position) for position in groups[place]])
            if mask.any():
                chosen.append((image.present[groups[place][0]], mask))
            if len(chosen) == self.settings.num_classes_per_sample:
                break
        return chosen


def phrase(name: ClassName, rng: np.random.Generator, class_names: str = "original") -> str:
    """A class in words: "traffic light"; for a part by chance "dog tail" or "the tail of the dog".

    Args:
        name: as the annotations have it.
        class_names: "spaces" puts spaces for underscores.
    """
    halves = [name] if isinstance(name, str) else list(name)
    if class_names == "spaces":
        halves = [half.replace("_", " ") for half in halves]
    if len(halves) == 1:
        return halves[0]
    whole, part = halves
    return f"the {part} of the {whole}" if rng.random() < OF_SHARE else f"{whole} {part}"

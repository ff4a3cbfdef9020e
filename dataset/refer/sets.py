"""Referring segmentation: refclef, RefCOCO/+/g, and their kin with absent objects.

On disk: `refer_seg/{set}/{instances.json,refs(SPLIT_BY).p}` and `refer_seg/images/...`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataset.catalog import REFER_FAMILIES, SETS, SetFacts
from dataset.masks import decode_segmentation
from dataset.refer.index import ReferIndex
from dataset.sampling import KIND_ABSENT, SamplingOptions, Turn, choose, make_sample
from dataset.templates import SIMPLE, Templates
from utils.errors import InputError
from utils.protocol.batch import EvalItem, EvalQuestion, Sample
from utils.protocol.image_files import Read, read_image

KIND = "expression"
"""Kind, in reports, of sentences about what is there."""

CORRECTED = "correct_refer_seg"
"""Family of the sets where the answer about an absent object names the one that is there."""

SOURCES: dict[str, SetFacts] = {
    name: facts for name, facts in SETS.items() if facts.family in REFER_FAMILIES
}
"""Every referring set by name."""

_MOST_ATTEMPTS = 20


class ReferSet:
    """A referring set on disk: its index, its images and their masks.

    Args:
        dataset_dir: the data folder.
        name: one of `SOURCES`.
        split_by: SPLIT_BY of the refs file; by default the one that the set prefers, or else one
            that may stand in for it, with a warning.
        cache_dir: where the index is kept, see `AnnotationIndex.open`.

    Raises:
        InputError: an unknown name, or files that are missing or damaged.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        name: str,
        split_by: str | None = None,
        cache_dir: Path | None = None,
    ):
        if name not in SOURCES:
            raise InputError(f"no referring set {name!r}: choose among {', '.join(SOURCES)}")
        self.source = SOURCES[name]
        self.images = Path(dataset_dir) / self.source.image_folder
        folder = Path(dataset_dir) / self.source.root
        self.refs = _find_refs(folder, self.source, split_by)
        self.index = ReferIndex(self.refs, folder / "instances.json", cache_dir)

    def image(self, record: dict, read: Read = read_image) -> tuple[str, np.ndarray]:
        """Path of an image, and the image uint8[H, W, 3] in the size of its annotations.

        Raises:
            InputError: it is missing, broken, of another size, or unknown to instances.json.
        """
        if "problem" in record:
            raise self.problems(record)[0]
        path = self.images / record["file_name"]
        image = read(path)
        size = (record["height"], record["width"])
        if image.shape[:2] != size:
            raise InputError(
                f"the image {path} has {image.shape[1]} x {image.shape[0]} pixels, but "
                f"{self.index.instances} says {size[1]} x {size[0]}: copy both again from their "
                f"source: {self.source.how_to_get}"
            )
        return str(path), image

    def mask(self, record: dict, ref: dict) -> np.ndarray:
        """The union of a ref's annotations, uint8[H, W] of 0 and 1; empty ones add nothing.

        Raises:
            InputError: an annotation is missing or cannot be decoded.
        """
        if "problem" in ref:
            raise self._broken(f"ref {ref['ref_id']}", ref["problem"])
        size = (record["height"], record["width"])
        mask = np.zeros(size, dtype=np.uint8)
        for ann_id in ref["ann_ids"]:
            try:
                mask |= decode_segmentation(record["segmentations"][str(ann_id)], size)
            except ValueError as error:
                reason = f"the segmentation of its annotation {ann_id} cannot be used: {error}"
                raise self._broken(f"ref {ref['ref_id']}", reason) from error
        return mask

    def problems(self, record: dict) -> list[InputError]:
        """Why an image, or one of its refs, cannot be used."""
        if "problem" in record:
            refs = ", ".join(str(ref["ref_id"]) for ref in record["refs"])
            return [self._broken(f"ref {refs}", record["problem"])]
        broken = [ref for ref in record["refs"] if "problem" in ref]
        return [self._broken(f"ref {ref['ref_id']}", ref["problem"]) for ref in broken]

    def need_split(self, split: str) -> None:
        """Raise an `InputError` if no image has a ref of this split."""
        if split not in self.index.splits:
            there = ", ".join(self.index.splits) or "none"
            raise InputError(
                f"no split {split!r} in {self.index.refs}: choose among those that it has ({there})"
            )

    def _broken(self, what: str, problem: str) -> InputError:
        return InputError(
            f"{what} of {self.index.refs} does not fit {self.index.instances}: {problem}. Both "
            f"files have to be of the same release: {self.source.how_to_get}"
        )


def _find_refs(folder: Path, source: SetFacts, split_by: str | None) -> Path:
    """The refs file of a set; it, or the `.json` beside it, exists.

    Raises:
        InputError: there is none.
    """
    names = [split_by] if split_by else source.split_by
    wanted = names[0]
    for name in names:
        path = folder / f"refs({name}).p"
        if path.is_file() or path.with_suffix(".json").is_file():
            if name != wanted:
                warnings.warn(
                    f"{folder} has no refs({wanted}).p: {path.name} is used, so validation images "
                    "may be in the training split",
                    stacklevel=4,
                )
            return path
    there = sorted({path.name for path in folder.glob("refs(*")})
    raise InputError(
        f"no refs({wanted}).p of {source.name} in {folder} "
        f"({'there: ' + ', '.join(there) if there else 'there is no refs file at all'}): "
        f"{source.how_to_get}"
    )


def _expressions(record: dict) -> list[tuple[dict, str, bool, str | None]]:
    """(ref, text, absent, gt_sent) of each sentence about an image, in order."""
    return [(ref, *sentence) for ref in record["refs"] for sentence in ref["sentences"]]


class ReferSegTrain:
    """Training draws from referring sets; a draw is a function of (seed, index) alone.

    A draw takes a set, an image of its training split, and up to `num_classes_per_sample` of the
    sentences about it. Absent objects get a correction in fprefcoco* where the annotation says
    what is there instead, and a denial otherwise.

    Args:
        dataset_dir: the data folder.
        spec: sets joined by "||", such as `refclef||refcoco||refcoco+||refcocog`.
        settings: of the training.

    Raises:
        InputError: an unknown set, missing or damaged files, or no training split.
    """

    def __init__(self, dataset_dir: str | Path, spec: str, settings: SamplingOptions):
        self.settings, self.stream = settings, f"refer {spec}"
        self.sets = [ReferSet(dataset_dir, name) for name in spec.split("||")]
        for one in self.sets:
            one.need_split("train")

    def __len__(self) -> int:
        """Images over all sets."""
        return sum(one.index.splits["train"] for one in self.sets)

    def sample(self, index: int) -> Sample:
        """The sample of a global index.

        Raises:
            InputError: its image or annotation is broken; the message names the file.
        """
        rng = self.settings.rng(self.stream, index)
        for _ in range(_MOST_ATTEMPTS):
            one = self.sets[int(rng.integers(len(self.sets)))]
            record = one.index.image("train", int(rng.integers(one.index.splits["train"])))
            asked = [entry for entry in _expressions(record) if entry[1]]
            if asked:
                break
        else:
            raise InputError(
                f"{_MOST_ATTEMPTS} images in a row have no sentence to ask, the last one in "
                f"{one.index.refs}: {one.source.how_to_get}"
            )
        path, image = one.image(record)
        chosen = choose(rng, len(asked), self.settings.num_classes_per_sample)
        turns = [self._turn(one, record, asked[i], rng) for i in chosen]
        return make_sample(path, image, turns, self.settings, KIND)

    def _turn(self, one: ReferSet, record: dict, entry: tuple, rng: np.random.Generator) -> Turn:
        ref, text, absent, gt_sent = entry
        templates = self.settings.templates
        question = templates.question(text, False, rng)
        if not absent:
            return Turn(question, templates.positive(text, rng), one.mask(record, ref))
        if one.source.family == CORRECTED and gt_sent:
            return Turn(question, templates.correction(text, gt_sent, rng), None)
        return Turn(question, templates.denial(text, rng), None)


class ReferSegEval(Sequence):
    """Every sentence of a split, by image, in the order of the refs file.

    Args:
        dataset_dir: the data folder.
        name: one of `SOURCES`.
        split: "val", "testA", "testB", "test", "train", as the refs file has them.
        split_by: see `ReferSet`.
        templates: of the questions, and of the answers that a teacher-forced evaluation gives;
            drawn from (seed, image, question).
        seed: of the templates.
        false_premises: ask for absent objects as well; without them, images about which nothing
            else is asked are left out.

    Raises:
        InputError: unknown set or split, missing or damaged files; for an item: its image or an
            annotation is missing or broken. Nothing is left out silently.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        name: str,
        split: str,
        split_by: str | None = None,
        templates: Templates = SIMPLE,
        seed: int = 42,
        false_premises: bool = True,
    ):
        self.set = ReferSet(dataset_dir, name, split_by)
        self.set.need_split(split)
        self.split, self.templates, self.seed = split, templates, seed
        self.false_premises = false_premises
        count = self.set.index.splits[split]
        with_objects = range(count) if false_premises else self.set.index.with_objects(split)
        self.positions = np.array(with_objects, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> EvalItem:  # type: ignore[override]
        record = self.set.index.image(self.split, int(self.positions[index]))
        path, image = self.set.image(record)
        masks: dict[int, np.ndarray] = {}
        questions: list[EvalQuestion] = []
        for number, (ref, text, absent, gt_sent) in enumerate(_expressions(record)):
            if absent and not self.false_premises:
                continue
            rng = np.random.default_rng([self.seed, int(self.positions[index]), number])
            question = self.templates.question(text, False, rng)
            if absent:
                truth = np.zeros(image.shape[:2], dtype=np.uint8)
                hint = SIMPLE.correction(text, gt_sent, rng) if gt_sent else ""
                questions.append(EvalQuestion(question, truth, False, KIND_ABSENT, hint, text))
                continue
            if id(ref) not in masks:
                masks[id(ref)] = self.set.mask(record, ref)
            forced = self.templates.positive(text, rng)
            truth = masks[id(ref)]
            questions.append(EvalQuestion(question, truth, True, KIND, "", text, forced))
        return EvalItem(path, image, questions)

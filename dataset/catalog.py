"""Where the published data sets lie below `--dataset_dir`, where they come from, how big they are.

Facts only: nothing here touches the disk. Numbers that are not known for certain are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA_FLAGS = {
    "sem_seg": "sem_seg_data",
    "refer_seg": "refer_seg_data",
    "correct_refer_seg": "correct_refer_seg_data",
    "vqa": "vqa_data",
    "neg_refer_seg": "neg_refer_seg_data",
    "reason_seg": "reason_seg_data",
}
"""Name in `--dataset` -> the flag that lists its sources."""

REFER_FAMILIES = ("refer_seg", "correct_refer_seg", "neg_refer_seg")
OWN_FOLDER = "own"
"""Folder, below `--dataset_dir`, of sets that users add by themselves."""

FALLBACK_SPLIT_BY = ("unc", "umd", "google", "berkeley")
"""Tried in this order where the preferred references are absent: validation images of one set
may then be training images of another."""

COCO_TRAIN2017 = "coco/train2017"
COCO_TRAIN2014 = "refer_seg/images/mscoco/images/train2014"
SAIAPR = "refer_seg/images/saiapr_tc-12"

SEE_HOME = "see home page"
_COCO_2017 = "http://images.cocodataset.org/zips/train2017.zip"
_COCO_2014 = "http://images.cocodataset.org/zips/train2014.zip"


@dataclass(frozen=True)
class SetFacts:
    """What is known of one published set.

    Args:
        name: in the `--*_data` flags and `--val_dataset`.
        family: name in `--dataset`.
        root: folder of its annotations, relative to `--dataset_dir`.
        folders: that it needs, relative to `--dataset_dir`.
        files: that it needs, relative to `--dataset_dir`; references are in `split_by`.
        image_folder: the folder of its images, relative to `--dataset_dir`.
        split_by: SPLIT_BY of refs(SPLIT_BY).p, the preferred one first.
        source: who distributes it.
        url: its home page, or the file itself.
        images_from: where the images come from, if that is another place.
        licence: as its home page states it.
        expected: counts of the published set, by what is counted: "images", "annotations", or a
            split.
        unit: what "annotations" counts.
        files_hold: what is in `files`.
    """

    name: str
    family: str
    root: str
    image_folder: str
    source: str
    url: str
    licence: str
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    split_by: tuple[str, ...] = ()
    images_from: str = ""
    expected: Mapping[str, int] = field(default_factory=dict)
    unit: str = "annotations"
    files_hold: str = "annotations in COCO's form"

    @property
    def how_to_get(self) -> str:
        """One sentence: where the set comes from."""
        images = f", its images from {self.images_from}" if self.images_from else ""
        return f"get {self.name} from {self.source} ({self.url}){images}"


def _refer(name: str, family: str, preferred: str, expected: dict[str, int]) -> SetFacts:
    saiapr = name == "refclef"
    if family == "refer_seg":
        source, url = "the REFER project", "https://github.com/lichengunc/refer"
        if preferred.endswith("unified"):
            source += " (refs(..._exclude_unified).p: the SESAME project)"
    elif family == "neg_refer_seg":
        source, url = "the R-RefCOCO project", "https://github.com/jianzongwu/robust-ref-seg"
    else:
        source, url = "the SESAME project", "https://github.com/see-say-segment/sesame"
    images = SAIAPR if saiapr else COCO_TRAIN2014
    return SetFacts(
        name=name,
        family=family,
        root=f"refer_seg/{name}",
        image_folder=images,
        source=source,
        url=url,
        licence=SEE_HOME if saiapr else f"{SEE_HOME}; images: terms of COCO and Flickr",
        folders=(images,),
        files=(f"refer_seg/{name}/instances.json",),
        split_by=(preferred, *(by for by in FALLBACK_SPLIT_BY if by != preferred)),
        images_from="the ImageCLEF project (saiapr_tc-12)" if saiapr else _COCO_2014,
        expected=expected,
        unit="references",
    )


_ALL = (
    SetFacts(
        name="ade20k",
        family="sem_seg",
        root="ade20k",
        image_folder="ade20k/images/training",
        source="the MIT scene parsing benchmark",
        url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
        licence=f"{SEE_HOME}: http://sceneparsing.csail.mit.edu",
        folders=("ade20k/images/training", "ade20k/annotations/training"),
        expected={"images": 20_210, "annotations": 20_210},
        unit="label maps",
    ),
    SetFacts(
        name="cocostuff",
        family="sem_seg",
        root="cocostuff",
        image_folder=COCO_TRAIN2017,
        source="the COCO-Stuff project (stuffthingmaps)",
        url="https://github.com/nightrome/cocostuff",
        licence="CC BY 4.0; images: terms of COCO and Flickr",
        folders=("cocostuff/train2017", COCO_TRAIN2017),
        images_from=_COCO_2017,
        expected={"images": 118_287, "annotations": 118_287},
        unit="label maps",
    ),
    SetFacts(
        name="mapillary",
        family="sem_seg",
        root="mapillary",
        image_folder="mapillary/training/images",
        source="Mapillary (Vistas v2.0, after registration)",
        url="https://www.mapillary.com/dataset/vistas",
        licence="CC BY-NC-SA 4.0",
        folders=("mapillary/training/images", "mapillary/training/v2.0/labels"),
        files=("mapillary/config_v2.0.json",),
        expected={"images": 18_000, "annotations": 18_000},
        unit="label maps",
        files_hold="the list of classes",
    ),
    SetFacts(
        name="paco_lvis",
        family="sem_seg",
        root="vlpart/paco",
        image_folder="coco",
        source="the PACO project",
        url="https://github.com/facebookresearch/paco",
        licence=f"{SEE_HOME}; images: terms of COCO and Flickr",
        folders=(COCO_TRAIN2017,),
        files=("vlpart/paco/annotations/paco_lvis_v1_train.json",),
        images_from=_COCO_2017,
        expected={"images": 45_790},
    ),
    SetFacts(
        name="pascal_part",
        family="sem_seg",
        root="vlpart/pascal_part",
        image_folder="vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages",
        source="the VLPart project",
        url="https://github.com/facebookresearch/VLPart",
        licence=SEE_HOME,
        folders=("vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages",),
        files=("vlpart/pascal_part/train.json",),
        images_from="http://host.robots.ox.ac.uk/pascal/VOC/voc2010/",
    ),
    _refer("refclef", "refer_seg", "unc", {}),
    _refer("refcoco", "refer_seg", "unc_exclude_unified", {"images": 19_994}),
    _refer("refcoco+", "refer_seg", "unc_exclude_unified", {"images": 19_992}),
    _refer("refcocog", "refer_seg", "umd_exclude_unified", {"images": 25_799}),
    _refer("R-refcoco", "neg_refer_seg", "unc_exclude_unified", {}),
    _refer("R-refcoco+", "neg_refer_seg", "unc_exclude_unified", {}),
    _refer("R-refcocog", "neg_refer_seg", "umd_exclude_unified", {}),
    _refer("fprefcoco", "correct_refer_seg", "berkeley_exclude_unified", {}),
    _refer("fprefcoco+", "correct_refer_seg", "berkeley_exclude_unified", {}),
    _refer("fprefcocog", "correct_refer_seg", "berkeley_exclude_unified", {}),
    SetFacts(
        name="llava_instruct_150k",
        family="vqa",
        root="llava_dataset",
        image_folder=COCO_TRAIN2017,
        source="the LLaVA project",
        url="https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
        licence=f"{SEE_HOME}; images: terms of COCO and Flickr",
        folders=(COCO_TRAIN2017,),
        files=("llava_dataset/llava_instruct_150k.json",),
        images_from=_COCO_2017,
        expected={"annotations": 157_712},
        unit="conversations",
        files_hold="conversations about images",
    ),
    SetFacts(
        name="ReasonSeg",
        family="reason_seg",
        root="reason_seg/ReasonSeg",
        image_folder="reason_seg/ReasonSeg",
        source="the LISA project",
        url="https://github.com/dvlab-research/LISA#dataset",
        licence=SEE_HOME,
        expected={"train": 239, "val": 200, "test": 779},
    ),
)

SETS: dict[str, SetFacts] = {facts.name: facts for facts in _ALL}
"""All published sets by name, in the order of the training mixture."""

EVALUATION_SETS: dict[str, str] = {
    name: SETS[name].family
    for name in ("ReasonSeg", *(name for name, facts in SETS.items() if facts.split_by))
}
"""Published sets that `--val_dataset` can name, with their family."""


@dataclass(frozen=True)
class Needed:
    """A file or folder that a set needs.

    Args:
        path: the preferred one.
        is_folder: a folder; else a file.
        what: it holds.
        alternatives: used where `path` is absent, best first.
        remedy: where to get it.
    """

    path: Path
    is_folder: bool
    what: str
    alternatives: tuple[Path, ...] = ()
    remedy: str = ""


def reference_files(dataset_dir: str | Path, name: str) -> list[tuple[str, Path, Path]]:
    """(SPLIT_BY, pickle, JSON made of it) of a referring set, the preferred one first."""
    facts = SETS[name]
    root = Path(dataset_dir) / facts.root
    return [(by, root / f"refs({by}).p", root / f"refs({by}).json") for by in facts.split_by]


def splits_of(spec: str) -> tuple[str, ...]:
    """Splits of `NAME|SPLIT`, several joined by "_"; "overall", "short", "long" are in "test"."""
    wanted = spec.rpartition("|")[2].split("_") if "|" in spec else []
    parts = ("test" if part in ("overall", "short", "long") else part for part in wanted)
    return tuple(dict.fromkeys(filter(None, parts)))


def needed_paths(dataset_dir: str | Path, name: str, spec: str = "") -> list[Needed]:
    """Every file and folder that a published set needs.

    Args:
        dataset_dir: the folder with all data sets.
        name: of the set, one of `SETS`.
        spec: `NAME|SPLIT`; matters for ReasonSeg, whose splits are folders ("train" by default).
    """
    facts = SETS[name]
    root = Path(dataset_dir)
    remedy = facts.how_to_get
    if facts.family == "reason_seg":
        return [
            Needed(root / facts.root / split, True, "*.jpg with *.json beside them", remedy=remedy)
            for split in splits_of(spec) or ("train",)
        ]
    needed = []
    for folder in facts.folders:
        what, hint = facts.unit, remedy
        if folder.startswith(facts.image_folder):
            what = "images"
            hint = f"get them from {facts.images_from}" if facts.images_from else remedy
        needed.append(Needed(root / folder, True, what, remedy=hint))
    needed += [Needed(root / file, False, facts.files_hold, remedy=remedy) for file in facts.files]
    if facts.split_by:
        files = [
            path for _, pickle, table in reference_files(root, name) for path in (pickle, table)
        ]
        needed.append(Needed(files[0], False, "references", tuple(files[1:]), remedy))
    return needed


def training_sources(options: Any) -> dict[str, tuple[float, list[str]]]:
    """Name of `--dataset` -> (rate, the sets that it was drawn from); those drawn at all.

    Args:
        options: `utils.cli.options.TrainOptions`.
    """
    sources = {}
    for name, rate in options.mixture().items():
        flag = DATA_FLAGS.get(name)
        specs = getattr(options, flag).split("||") if flag else [name]
        if rate > 0:
            sources[name] = (rate, [spec.partition("|")[0] for spec in specs])
    return sources


def hub_names(mixture: dict[str, tuple[float, list[str]]]) -> list[str]:
    """The published sets among the sources, by hub id if one is known, else by name.

    Names that the hub's metadata cannot hold ("refcoco+") are left to the text of the card.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    names = []
    for source in (source for _, sources in mixture.values() for source in sources):
        if source not in SETS:
            continue
        name = SETS[source].url.partition("/datasets/")[2] or source
        try:
            validate_repo_id(name)
        except HFValidationError:
            continue
        names.append(name)
    return names

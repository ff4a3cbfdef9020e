"""Write a toy world: `python -m dataset.toy --out DIR --images N --seed S [--sets A||B]`.

Every data set of training and evaluation in its real layout, drawn anywhere in seconds; DIR becomes
`--dataset_dir`. A stand-in, not a benchmark: flat shapes on a textured ground and a closed set of
sentences. What it keeps of the real sets: folders, files and keys, names, splits, every form of
annotation, images shared between sets, questions that need reasoning, and false premises.

| `--sets` | folders below DIR | written by |
|---|---|---|
| sem_seg | ade20k, cocostuff + coco, mapillary | semantic.py |
| | vlpart/paco (images in coco), vlpart/pascal_part | parts.py |
| refer_seg, neg_refer_seg, correct_refer_seg | refer_seg/NAME, refer_seg/images | refer.py |
| vqa | llava_dataset (images in coco) | vqa.py |
| reason_seg | reason_seg/ReasonSeg | reason.py |

ReasonSeg gets N images, every other source N / 10 (at least `MIN_SHARE`). Everything is a
function of the seed, to the byte (with the same versions of the libraries), and a set does not
depend on which others are written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dataset.toy import parts, reason, refer, semantic
from dataset.toy.files import draw_scenes, make_room, save_image, save_json, save_labels
from dataset.toy.vqa import conversation_entry
from utils.cli.entry_point import cli
from utils.errors import InputError
from utils.process.run_lock import LOCK_FILE, RunLock

SETS = ("sem_seg", "refer_seg", "correct_refer_seg", "vqa", "neg_refer_seg", "reason_seg")
MIN_IMAGES = 6
MIN_SHARE = 6
REASON_SEG = "reason_seg/ReasonSeg"
_REFER = ("instances.json", *(f"refs({by}).p" for by in dict.fromkeys(refer.SPLIT_BY.values())))
FOLDERS: dict[str, tuple[str, ...]] = {
    "ade20k": ("images", "annotations"),
    "coco": ("train2017",),
    "cocostuff": ("train2017",),
    "mapillary": ("config_v2.0.json", "training"),
    "vlpart/paco": ("annotations",),
    "vlpart/pascal_part": ("train.json", "VOCdevkit"),
    **{f"refer_seg/{name}": _REFER for name in refer.SPLIT_BY},
    "refer_seg/images": ("mscoco", "saiapr_tc-12"),
    "llava_dataset": ("llava_instruct_150k.json",),
    REASON_SEG: reason.SPLITS,
}
"""Folders of a toy world, each with what is written into it."""
_ADE20K, _COCO, _MAPILLARY, _PASCAL, _REFER_COCO, _REFER_CLEF = range(10, 16)
"""Streams of chance, one for each pool of images."""


def share_of(images: int) -> int:
    """How many images every source other than ReasonSeg gets for training."""
    return max(MIN_SHARE, images // 10)


def evaluation_share(images: int) -> int:
    """How many images each further split of the referring sets gets."""
    return max(2, share_of(images) // 10)


def folders_of(sets: Sequence[str]) -> list[str]:
    """The folders, among those of `FOLDERS`, that the sets are written to."""
    names: list[str] = []
    if "sem_seg" in sets:
        names += ["ade20k", "cocostuff", "mapillary", "vlpart/paco", "vlpart/pascal_part"]
    if "sem_seg" in sets or "vqa" in sets:
        names.append("coco")
    referring = [n for family, ns in refer.FAMILIES.items() if family in sets for n in ns]
    names += [f"refer_seg/{name}" for name in referring]
    if referring:
        names.append("refer_seg/images")
    if "vqa" in sets:
        names.append("llava_dataset")
    if "reason_seg" in sets:
        names.append(REASON_SEG)
    return names


def write_world(out: str | Path, images: int, seed: int, sets: Sequence[str] = SETS) -> Path:
    """Write the world and return its folder.

    Args:
        out: becomes the `--dataset_dir` of training; a toy world already there is replaced.
        images: number of ReasonSeg's images over all splits, at least `MIN_IMAGES`.
        seed: at least 0.
        sets: of `SETS`.

    Raises:
        InputError: too few images, a negative seed, an unknown set, or a folder that holds
            something else, is in use or cannot be written.
    """
    out = Path(out)
    if images < MIN_IMAGES:
        raise InputError(f"--images {images} is too few; give at least {MIN_IMAGES}")
    if seed < 0:
        raise InputError(f"--seed {seed} is negative; give 0 or more")
    unknown = [name for name in sets if name not in SETS]
    if unknown or not sets:
        raise InputError(f"--sets {'||'.join(sets)}: give some of {'||'.join(SETS)}")
    with RunLock(out / LOCK_FILE, f"the folder {out}", "choose another --out"):
        try:
            _write_sets(out, images, seed, sets)
        except OSError as error:
            raise InputError(
                f"cannot write the toy world to {out} ({error.strerror or error}): make room, or "
                "choose another --out, then start the same command again"
            ) from error
    return out


def _write_sets(out: Path, images: int, seed: int, sets: Sequence[str]) -> None:
    wanted = folders_of(sets)
    make_room(out, wanted, FOLDERS)
    with tqdm(total=_images(wanted, images), desc="toy world", unit="image") as bar:
        if "reason_seg" in sets:
            reason.write_reason_seg(out / REASON_SEG, images, seed, bar)
        count = share_of(images)
        if "sem_seg" in sets:
            semantic.write_ade20k(out / "ade20k", count, seed, _ADE20K, bar)
            semantic.write_mapillary(out / "mapillary", count, seed, _MAPILLARY, bar)
            folder = out / "vlpart" / "pascal_part"
            parts.write_pascal_part(folder, count, seed, _PASCAL, bar)
        if "coco" in wanted:
            _write_coco(out, count, seed, sets, bar)
        if "refer_seg/images" in wanted:
            _write_referring(out / "refer_seg", images, seed, sets, bar)


def _images(wanted: Sequence[str], images: int) -> int:
    """How many images are drawn in all."""
    pools = sum(name in wanted for name in ("ade20k", "coco", "mapillary", "vlpart/pascal_part"))
    clef, others = "refer_seg/refclef" in wanted, "refer_seg/images" in wanted
    referring = (clef + others) * (share_of(images) + 3 * evaluation_share(images))
    return pools * share_of(images) + referring + (images if REASON_SEG in wanted else 0)


def _write_coco(out: Path, count: int, seed: int, sets: Sequence[str], bar: tqdm) -> None:
    """`coco/train2017`, and what COCO-Stuff, PACO and LLaVA-Instruct say about its images."""
    paco, conversations = parts.paco_file(), []
    for index, rng, scene in draw_scenes(seed, _COCO, count):
        image_id = 30 + 37 * index
        name = f"{image_id:012d}"
        save_image(scene.image, out / "coco" / "train2017" / f"{name}.jpg")
        entry = conversation_entry(image_id, f"{name}.jpg", scene.things, rng)
        conversations.append(entry)
        if "sem_seg" in sets:
            labels = semantic.cocostuff_labels(scene, index)
            save_labels(labels, out / "cocostuff" / "train2017" / f"{name}.png")
            parts.add_paco_image(paco, image_id, f"train2017/{name}.jpg", index, scene)
        bar.update()
    if "sem_seg" in sets:
        save_json(paco.content(), out / "vlpart" / "paco" / parts.PACO_FILE)
    if "vqa" in sets:
        save_json(conversations, out / "llava_dataset" / "llava_instruct_150k.json")


def _write_referring(root: Path, images: int, seed: int, sets: Sequence[str], bar: tqdm) -> None:
    """The images of COCO 2014 and of refclef, and the sets about them."""
    counts = share_of(images), evaluation_share(images)
    folder = root / refer.COCO_IMAGES
    pool = refer.draw_pool(folder, False, counts, seed, _REFER_COCO, bar)
    for family, names in refer.FAMILIES.items():
        for name in names if family in sets else ():
            if name == "refclef":
                folder = root / refer.CLEF_IMAGES
                clef = refer.draw_pool(folder, True, counts, seed, _REFER_CLEF, bar)
                refer.write_set(root / name, name, *clef, seed, _REFER_CLEF + 1)
            else:
                refer.write_set(root / name, name, *pool, seed, _REFER_CLEF + 1)


@cli
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dataset.toy",
        description="Write a toy world: every data set, small, in its real layout.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the data sets")
    parser.add_argument(
        "--images", type=int, default=2500, help="ReasonSeg's images; a tenth for every other set"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sets", default="||".join(SETS), help="which ones; default: all")
    given = parser.parse_args(argv)
    print(write_world(given.out, given.images, given.seed, given.sets.split("||")))

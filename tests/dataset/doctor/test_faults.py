"""Faults planted one by one in a clean tree: the doctor names the file, the fault and a remedy."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataset.doctor.__main__ import main
from tests.dataset import small_tree as tree

ADE = "ade20k/images/training/ADE_train_1.jpg"
ADE_LABELS = "ade20k/annotations/training/ADE_train_1.png"
PACO = "vlpart/paco/annotations/paco_lvis_v1_train.json"
LLAVA = "llava_dataset/llava_instruct_150k.json"
REFCOCO = "refer_seg/refcoco"
REFCOCO_REFS = f"{REFCOCO}/refs(unc_exclude_unified).p"
REASON = "reason_seg/ReasonSeg/train/r1"
CONFIG = "mapillary/config_v2.0.json"

Plant = Callable[[Path], None]


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return tree.write_tree(tmp_path_factory.mktemp("clean"))


@pytest.fixture
def root(clean, tmp_path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "data"))


def cut(name: str, share: float = 0.6) -> Plant:
    def plant(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(share * len(content))])

    return plant


def remove(name: str) -> Plant:
    def plant(root: Path) -> None:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return plant


def write(name: str, content: bytes) -> Plant:
    return lambda root: [None, (root / name).write_bytes(content)][0]


def edit(name: str, change: Callable[[Any], Any]) -> Plant:
    """Change a JSON file in place; a change that returns something replaces it."""

    def plant(root: Path) -> None:
        content = json.loads((root / name).read_text())
        changed = change(content)
        tree.save_json(root / name, content if changed is None else changed)

    return plant


def edit_refs(name: str, change: Callable[[list], Any]) -> Plant:
    def plant(root: Path) -> None:
        content = pickle.loads(tree.refs_path(root, name).read_bytes())
        changed = change(content)
        tree.save_refs(root, name, content if changed is None else changed)

    return plant


def labels(name: str, values: list[int], size: tuple[int, int] = (12, 16)) -> Plant:
    return lambda root: tree.save_labels(root / name, values, size)


def colour_labels(root: Path) -> None:
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(root / ADE_LABELS)


def bigger_image(root: Path) -> None:
    Image.new("RGB", (20, 12)).save(root / tree.COCO / f"{1:012d}.jpg")


def only_notes(name: str) -> Plant:
    """A folder of files of another kind."""

    def plant(root: Path) -> None:
        shutil.rmtree(root / name)
        notes = root / name / "notes.txt"
        notes.parent.mkdir()
        notes.write_text("nothing here")

    return plant


def second_choice_only(root: Path) -> None:
    for path in (root / REFCOCO).glob("refs*"):
        path.unlink()


class Calls:
    """Unpickled by the ordinary loader, it writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


def callable_in_refs(root: Path) -> None:
    tree.save_refs(root, "refcoco", [Calls(root / "executed.txt")])


def entry(number: int, **values: Any) -> Callable[[list], None]:
    return lambda content: content[number].update(values)


def annotation(number: int, **values: Any) -> Callable[[dict], None]:
    return lambda content: content["annotations"][number].update(values)


TURNS = [{"from": "robot", "value": "hi"}, {"from": "gpt", "value": "hello"}]
ALONE = [{"from": "human", "value": "hi"}]

# what is planted: (how, file that has to be named, words of the message, seen without --deep)
FAULTS: dict[str, tuple[Plant, str, str, bool]] = {
    "no ade20k": (remove("ade20k"), "ade20k", "folder does not exist", True),
    "no label maps": (
        remove("ade20k/annotations"),
        "ade20k/annotations/training",
        "folder does not exist",
        True,
    ),
    "no coco images": (remove(tree.COCO), tree.COCO, "folder does not exist", True),
    "no mscoco images": (remove(tree.MSCOCO), tree.MSCOCO, "folder does not exist", True),
    "cut jpeg": (cut(ADE), ADE, "cannot read the image", False),
    "cut coco jpeg": (
        cut(f"{tree.COCO}/{1:012d}.jpg"),
        f"{tree.COCO}/{1:012d}.jpg",
        "cannot read the image",
        False,
    ),
    "empty image": (write(ADE, b""), ADE, "0 bytes", True),
    "text named jpg": (write(ADE, b"a page, not an image"), ADE, "cannot read", False),
    "cut label map": (cut(ADE_LABELS), ADE_LABELS, "cannot read", False),
    "colour label map": (colour_labels, ADE_LABELS, "mode", False),
    "label map of wrong size": (
        labels(ADE_LABELS, [1], (12, 20)),
        ADE_LABELS,
        "20 x 12 pixels",
        False,
    ),
    "ade20k class": (labels(ADE_LABELS, [0, 151]), ADE_LABELS, "151", False),
    "cocostuff class": (
        labels(f"cocostuff/train2017/{1:012d}.png", [182]),
        f"cocostuff/train2017/{1:012d}.png",
        "182",
        False,
    ),
    "mapillary class": (
        labels("mapillary/training/v2.0/labels/m1.png", [3]),
        "mapillary/training/v2.0/labels/m1.png",
        "holds the value 3",
        False,
    ),
    "label map missing": (remove(ADE_LABELS), ADE_LABELS, "does not exist", True),
    "image missing": (remove(ADE), ADE_LABELS, "no image", True),
    "mapillary without config": (remove(CONFIG), CONFIG, "does not exist", True),
    "mapillary class without name": (
        edit(CONFIG, lambda content: content["labels"][1].pop("readable") and None),
        CONFIG,
        "entry 1",
        True,
    ),
    "paco cut": (cut(PACO), PACO, "ends in the middle", True),
    "paco category without name": (
        edit(PACO, lambda content: content["categories"][1].pop("name") and None),
        PACO,
        "categories[1]: has no `name`",
        True,
    ),
    "paco category of three halves": (
        edit(PACO, lambda content: content["categories"][1].update(name="a:b:c")),
        PACO,
        "'a:b:c'",
        True,
    ),
    "paco unknown category": (
        edit(PACO, annotation(3, category_id=77)),
        PACO,
        "category is not in the file",
        True,
    ),
    "paco annotation without image": (
        edit(PACO, annotation(3, image_id=77)),
        PACO,
        "annotation 11: its image",
        True,
    ),
    "paco no annotations": (
        edit(PACO, lambda content: content.pop("annotations") and None),
        PACO,
        "`annotations`",
        True,
    ),
    "paco image of another size": (
        bigger_image,
        f"{tree.COCO}/{1:012d}.jpg",
        "says 16 x 12",
        False,
    ),
    "pascal image missing": (
        remove("vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg"),
        "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg",
        "does not exist",
        True,
    ),
    "pascal polygon": (
        edit("vlpart/pascal_part/train.json", annotation(0, segmentation=[[1, 2, 3, 4, 5, 6, 7]])),
        "vlpart/pascal_part/train.json",
        "annotation 0",
        False,
    ),
    "run lengths of another size": (
        edit(
            f"{REFCOCO}/instances.json",
            annotation(2, segmentation={"size": [9, 9], "counts": [81]}),
        ),
        f"{REFCOCO}/instances.json",
        "annotation 10",
        False,
    ),
    "no refs": (second_choice_only, REFCOCO_REFS, "does not exist", True),
    "no instances": (
        remove(f"{REFCOCO}/instances.json"),
        f"{REFCOCO}/instances.json",
        "does not exist",
        True,
    ),
    "instances cut": (
        cut(f"{REFCOCO}/instances.json"),
        f"{REFCOCO}/instances.json",
        "no valid JSON",
        True,
    ),
    "refs cut": (cut(REFCOCO_REFS), REFCOCO_REFS, "damaged", True),
    "refs with a callable": (callable_in_refs, REFCOCO_REFS, "refused", True),
    "refs without annotation": (
        edit_refs("refcoco", entry(1, ann_id=12345)),
        REFCOCO_REFS,
        "ann_id 12345",
        True,
    ),
    "refs about another image": (
        edit_refs("refcoco", entry(1, ann_id=20)),
        REFCOCO_REFS,
        "belongs to image 2",
        True,
    ),
    "refs without image": (
        edit_refs("refcoco", entry(1, image_id=12345)),
        REFCOCO_REFS,
        "image_id 12345 is not among the images",
        True,
    ),
    "refs without training": (
        edit_refs("refcoco", lambda content: content[2:]),
        REFCOCO_REFS,
        "split 'train'",
        True,
    ),
    "refer image missing": (
        remove(f"{tree.MSCOCO}/COCO_train2014_{1:012d}.jpg"),
        f"{tree.MSCOCO}/COCO_train2014_{1:012d}.jpg",
        "does not exist",
        True,
    ),
    "refclef image missing": (
        remove(f"{tree.SAIAPR}/00/images/1.jpg"),
        f"{tree.SAIAPR}/00/images/1.jpg",
        "does not exist",
        True,
    ),
    "llava image missing": (
        remove(f"{tree.COCO}/{1:012d}.jpg"),
        f"{tree.COCO}/{1:012d}.jpg",
        "llava_instruct_150k.json names it",
        True,
    ),
    "llava role": (edit(LLAVA, entry(1, conversations=TURNS)), LLAVA, f"entry '{1:012d}'", True),
    "llava no answer": (edit(LLAVA, entry(1, conversations=ALONE)), LLAVA, "answer", True),
    "llava no list": (edit(LLAVA, lambda content: {"a": 1}), LLAVA, "no list", True),
    "reason no shapes": (
        edit(f"{REASON}.json", lambda content: content.pop("shapes") and None),
        f"{REASON}.json",
        "shapes",
        True,
    ),
    "reason no text": (
        edit(f"{REASON}.json", lambda content: content.update(text=[])),
        f"{REASON}.json",
        "text",
        True,
    ),
    "reason no json": (remove(f"{REASON}.json"), f"{REASON}.json", "does not exist", True),
    "reason orphan json": (remove(f"{REASON}.jpg"), f"{REASON}.json", "no image", True),
    "reason without images": (
        only_notes(str(Path(REASON).parent)),
        str(Path(REASON).parent),
        "holds no *.jpg",
        True,
    ),
    "ade20k without label maps": (
        only_notes("ade20k/annotations/training"),
        "ade20k",
        "no image NAME.jpg",
        True,
    ),
    "reason split empty": (
        lambda root: [path.unlink() for path in (root / REASON).parent.iterdir()] and None,
        str(Path(REASON).parent),
        "folder is empty",
        True,
    ),
}


def examine(root: Path, capsys, *flags: str) -> tuple[int, list[dict]]:
    """Exit code and all errors."""
    code = main(["--dataset_dir", str(root), "--workers", "1", "--json", *flags])
    found = json.loads(capsys.readouterr().out)
    findings = [finding for one in found["sets"] for finding in one["findings"]]
    return code, [finding for finding in findings if finding["severity"] == "error"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(name, root, capsys):
    plant, file, words, without_deep = FAULTS[name]
    plant(root)
    for flags in [["--deep"], []] if without_deep else [["--deep"]]:
        code, errors = examine(root, capsys, *flags)
        assert code == 1
        told = [error for error in errors if error["path"] == str(root / file)]
        assert any(words in error["problem"] for error in told), errors
        assert all(error["remedy"] for error in errors)
    assert not (root / "executed.txt").exists()

    assert main(["--dataset_dir", str(root), "--workers", "1", "--deep"]) == 1
    printed = capsys.readouterr().out
    assert f"  {file}" in printed
    remedies = [" ".join(error["remedy"].split()) for error in told]
    assert any(remedy in " ".join(printed.split()) for remedy in remedies)


def test_a_second_choice_of_references_is_a_warning(root, capsys):
    path = root / REFCOCO_REFS
    path.rename(path.with_name("refs(unc).p"))
    assert main(["--dataset_dir", str(root), "--workers", "1", "--deep"]) == 0
    printed = capsys.readouterr().out
    assert "warning" in printed
    assert f"{REFCOCO}/refs(unc).p" in printed
    assert "validation images may be in the training split" in " ".join(printed.split())

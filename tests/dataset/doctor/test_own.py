"""The doctor on sets of the user's own: every split, every mistake; big files in little memory."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path

import pytest

from dataset.doctor.__main__ import main
from dataset.faults import MOST_TOLD
from tests.dataset import small_tree as tree

SHAPE = {"label": "saw", "points": [[1, 1], [8, 1], [8, 8]]}
ENTRY = {"image": "a.jpg", "shapes": [SHAPE], "text": ["the saw"], "is_sentence": False}
COCO = {
    "images": [{"id": n, "file_name": f"{n}.jpg", "height": 12, "width": 16} for n in range(4)],
    "categories": [{"id": 1, "name": "saw"}],
    "annotations": [
        {"id": n, "image_id": n, "category_id": 1, "segmentation": [tree.BOX]} for n in range(4)
    ],
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A set with one split in each form, all in order."""
    folder = tmp_path / "own" / "tools"
    tree.save_image(folder / "images/a.jpg")
    for n in range(4):
        tree.save_image(folder / f"images/{n}.jpg")
    for name in ("p", "q"):
        tree.save_image(folder / f"train/{name}.jpg")
        tree.save_json(folder / f"train/{name}.json", {k: ENTRY[k] for k in [*ENTRY][1:]})
    tree.save_json(folder / "val.json", [ENTRY, ENTRY])
    tree.save_json(folder / "test.json", COCO)
    return folder


def doctor(folder: Path, capsys, *flags: str) -> tuple[int, list[str], dict]:
    """Exit code, what every error says, the set."""
    root = str(folder.parents[1])
    code = main(["--dataset_dir", root, "--dataset", "tools", "--workers", "1", "--json", *flags])
    (found,) = json.loads(capsys.readouterr().out)["sets"]
    return code, [f"{one['problem']}; {one['remedy']}" for one in found["findings"]], found


def named(told: list[str], *words: str) -> bool:
    return any(all(word in line for word in words) for line in told)


@pytest.mark.parametrize("flags", [[], ["--deep"]])
def test_every_split_is_checked_and_told(folder, capsys, flags):
    code, told, found = doctor(folder, capsys, *flags)
    assert (code, told) == (0, [])
    assert found["splits"] == {"train": 2, "val": 2, "test": 4}
    assert main(["--dataset_dir", str(folder.parents[1]), "--dataset", "tools", *flags]) == 0
    assert "own/tools: train (2), test (4), val (2)" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--deep"], ["--val_dataset", "tools|train"]])
@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_that_training_does_not_need_is_opened_too(folder, capsys, split, flags):
    (folder / f"{split}.json").write_text("[{")
    code, told, found = doctor(folder, capsys, *flags)
    assert code == 1
    assert named(told, f"{split}.json", "is damaged")
    assert found["splits"][split] == 0 and found["splits"]["train"] == 2


@pytest.mark.parametrize("flags", [[], ["--deep"]])
def test_every_mistake_of_a_list_is_told(folder, capsys, flags):
    no_text = {**ENTRY, "text": []}
    missing = {**ENTRY, "image": "gone.jpg"}
    entries = [ENTRY, 7, {**ENTRY, "image": "../a.jpg"}, no_text, missing, {**ENTRY, "shapes": 1}]
    tree.save_json(folder / "val.json", entries)
    code, told, found = doctor(folder, capsys, *flags)
    assert code == 1 and len(told) == 5
    assert named(told, "val.json, entry 1;", "expected an object")
    assert named(told, "val.json, entry 2:", "leaves the data set's folder")
    assert named(told, "val.json, entry 3", "text")
    assert named(told, "val.json, entry 4", "no image gone.jpg")
    assert named(told, "val.json, entry 5", "shapes")
    assert not list(folder.glob(".read_index/val.json*.sqlite"))  # nothing broken is drawn from


def test_every_mistake_of_a_coco_file_is_told(folder, capsys):
    content = json.loads(json.dumps(COCO))
    content["images"][0]["file_name"] = "/etc/0.jpg"
    content["images"][1]["height"] = 13
    content["images"].append({"id": 9, "file_name": "gone.jpg", "absent": ["x"]})
    content["annotations"][2]["image_id"] = 77
    content["annotations"][3]["segmentation"] = [[1, 2, 3, 4, 5, 6, 7]]
    content["annotations"].append({"id": 5, "image_id": 3, "category_id": 8, "segmentation": []})
    tree.save_json(folder / "test.json", content)
    code, told, _ = doctor(folder, capsys, "--deep")
    assert code == 1 and len(told) == 6
    assert named(told, "images[0]", "leaves the data set's folder")
    assert named(told, "image id 1", "has (height, width) (12, 16)")
    assert named(told, "image id 9", "no image gone.jpg")
    assert named(told, "annotations[2]", "no image has the id 77")
    assert named(told, "image id 3", "segmentation cannot be used")
    assert named(told, "annotations[4]", "no category has the id 8")


@pytest.mark.parametrize("flags", [[], ["--deep"]])
def test_every_mistake_of_a_folder_is_told(folder, capsys, flags):
    tree.save_image(folder / "train/lonely.jpg")
    tree.save_image(folder / "train/twice.jpg")
    tree.save_image(folder / "train/twice.png")
    tree.save_json(folder / "train/twice.json", {k: ENTRY[k] for k in [*ENTRY][1:]})
    tree.save_json(folder / "train/orphan.json", {})
    tree.save_json(folder / "train/q.json", {"text": ["the saw"]})
    code, told, _ = doctor(folder, capsys, *flags)
    assert code == 1 and len(told) == 4
    assert named(told, "lonely.jpg", "has no annotation")
    assert named(told, "several images are called twice")
    assert named(told, "orphan.json", "has no image")
    assert named(told, "q.json", "shapes")


@pytest.mark.parametrize("broken", [7, {**ENTRY, "shapes": 1}])
def test_very_many_mistakes_are_counted(folder, capsys, broken):
    tree.save_json(folder / "val.json", [ENTRY, *[broken] * 300])
    code, told, _ = doctor(folder, capsys)
    assert code == 1 and len(told) == MOST_TOLD + 1
    assert named(told, f"and {300 - MOST_TOLD} more mistakes")


def test_cut_images_of_every_split_are_seen(folder, capsys):
    for name in ("train/p.jpg", "train/q.jpg"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    code, told, _ = doctor(folder, capsys, "--deep")
    assert code == 1 and len(told) == 2
    (folder / "images/2.jpg").write_bytes(b"no image")
    code, told, _ = doctor(folder, capsys)
    assert named(told, "2.jpg")


@pytest.fixture
def published(tmp_path) -> Path:
    return tree.write_tree(tmp_path / "data")


def test_reason_seg_is_checked_in_every_split(published, capsys):
    flags = ["--dataset_dir", str(published), "--workers", "1"]
    assert main([*flags, "--dataset", "reason_seg"]) == 0
    printed = capsys.readouterr().out
    assert all(f"ReasonSeg|{split} " in printed for split in ("train", "val", "test"))
    (published / "reason_seg/ReasonSeg/val/r0.json").write_text("{")
    assert main([*flags, "--dataset", "reason_seg"]) == 1
    assert "r0.json" in capsys.readouterr().out
    # What is named is what counts.
    assert main([*flags, "--dataset", "reason_seg", "--val_dataset", "ReasonSeg|test"]) == 0


def test_annotations_may_come_before_their_images(published, capsys):
    flags = ["--dataset_dir", str(published), "--workers", "1", "--deep", "--dataset", "refer_seg"]
    path = published / "refer_seg/refcoco/instances.json"
    content = json.loads(path.read_text())
    tree.save_json(path, dict(reversed(list(content.items()))))
    assert main(flags) == 0
    content["annotations"][0]["image_id"] = 4711
    content["annotations"][2].pop("segmentation")
    tree.save_json(path, dict(reversed(list(content.items()))))
    capsys.readouterr()
    assert main([*flags, "--json"]) == 1
    problems = [
        finding["problem"]
        for one in json.loads(capsys.readouterr().out)["sets"]
        for finding in one["findings"]
    ]
    assert any("its annotation 0 belongs to image 4711" in problem for problem in problems)
    assert any("its annotation 10 has no segmentation" in problem for problem in problems)


@pytest.mark.parametrize("deep", [False, True])
def test_big_annotation_files_take_little_memory(published, capsys, deep):
    path = published / "refer_seg/refcoco/instances.json"
    content = json.loads(path.read_text())
    polygon = [float(n % 12) for n in range(200)]  # many times as much memory as text
    entry = {**content["annotations"][0], "segmentation": [polygon], "note": "-" * 6000}
    content["annotations"] += [{**entry, "id": 10_000 + n} for n in range(2500)]
    tree.save_json(path, content)
    size = path.stat().st_size
    assert size > 15 << 20
    del content
    for other in published.glob("refer_seg/*/.read_index"):
        shutil.rmtree(other)
    flags = ["--dataset_dir", str(published), "--workers", "1", "--val_dataset", "refcoco|val"]
    main(flags)  # imports
    tracemalloc.start()
    assert main([*flags, "--cache", *(["--deep"] if deep else [])]) == 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 2

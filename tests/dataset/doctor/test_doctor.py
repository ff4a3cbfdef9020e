"""The doctor on a clean tree, its flags and what it prints; planted faults have their own file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.doctor import checkup, decode
from dataset.doctor.__main__ import main
from dataset.doctor.decode import Decoder
from tests.dataset import small_tree as tree
from utils.cli.train_flags import DataFlags
from utils.errors import InputError
from utils.protocol.image_files import Read

ALL_SETS = {
    *("ade20k", "cocostuff", "mapillary", "paco_lvis", "pascal_part", "llava_instruct_150k"),
    *tree.REFERENCES,
    *(f"ReasonSeg|{split}" for split in ("train", "val", "test")),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return tree.write_tree(tmp_path_factory.mktemp("clean"))


@pytest.fixture
def root(clean, tmp_path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "data"))


def doctor(root: Path, *flags: str) -> int:
    return main(["--dataset_dir", str(root), "--workers", "1", *flags])


def as_json(root: Path, capsys, *flags: str) -> dict:
    doctor(root, "--json", *flags)
    return json.loads(capsys.readouterr().out)


def wanted(root: Path, **flags: str) -> list[checkup.Wanted]:
    options = DataFlags(dataset_dir=str(root), **flags)
    return checkup.wanted_sets(options, training=True, validation=True)


@pytest.mark.parametrize("flags", [[], ["--deep"], ["--deep", "--workers", "2"]])
def test_a_clean_tree_is_in_order(clean, capsys, flags):
    assert doctor(clean, *flags) == 0
    assert "All 19 data sets are in order." in capsys.readouterr().out


def test_one_set_is_not_called_all_of_them(root, capsys):
    flags = "--val_dataset", "ReasonSeg|test"
    assert doctor(root, *flags) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.endswith("The data set is in order.")
    assert "The data set holds less than what is published (ReasonSeg|test)" in printed
    shutil.rmtree(root / "reason_seg")
    assert doctor(root, *flags) == 1
    assert "1 error; the data set cannot be used as it is." in capsys.readouterr().out


def test_a_clean_tree_passes_the_quick_check(clean):
    assert checkup.quick(clean, wanted(clean)) == []


def test_counts(clean, capsys):
    found = as_json(clean, capsys, "--deep")
    assert found["ok"] is True
    assert found["level"] == "deep"
    sets = {one["name"]: one for one in found["sets"]}
    assert set(sets) == ALL_SETS
    assert {one["state"] for one in sets.values()} == {"ok"}
    assert {one["images"] for one in sets.values()} == {4}
    assert sets["ade20k"]["annotations"] == 4
    assert sets["ade20k"]["partial"] is True
    assert sets["fprefcoco"]["partial"] is False
    assert sets["ade20k"]["expected_images"] == 20_210
    assert sets["cocostuff"]["expected_images"] == 118_287
    assert sets["paco_lvis"]["annotations"] == 8
    assert sets["ReasonSeg|test"]["expected_annotations"] == 779
    assert sets["llava_instruct_150k"]["expected_annotations"] == 157_712
    for one in sets.values():
        assert one["url"].startswith("http")
        assert one["licence"]


def test_every_set_has_its_row_source_and_licence(clean, capsys):
    doctor(clean)
    printed = capsys.readouterr().out
    for name in ALL_SETS:
        assert f"\n{name} " in printed
    for word in ("published", "20,210", "licence", "http://sceneparsing.csail.mit.edu", "orphan"):
        assert word in printed
    assert max(map(len, printed.splitlines())) <= 120


def test_an_empty_folder_lacks_everything(tmp_path, capsys):
    assert doctor(tmp_path) == 1
    printed = capsys.readouterr().out
    assert printed.count("the folder does not exist; expected") >= 18
    found = as_json(tmp_path, capsys)
    assert {one["state"] for one in found["sets"]} == {"missing"}
    assert {one["name"] for one in found["sets"]} == ALL_SETS - {"ReasonSeg|test"}


def test_only_what_dataset_needs_counts(root, capsys):
    shutil.rmtree(root / "ade20k")
    assert doctor(root, "--dataset", "sem_seg||vqa") == 1
    assert doctor(root, "--dataset", "reason_seg||vqa||refer_seg") == 0
    assert doctor(root, "--dataset", "sem_seg", "--sem_seg_data", "cocostuff||mapillary") == 0
    assert doctor(root, "--dataset", "sem_seg||vqa", "--sample_rates", "0,1") == 0
    assert doctor(root, "--val_dataset", "refcoco|testA") == 0
    capsys.readouterr()
    found = as_json(root, capsys, "--dataset", "vqa", "--val_dataset", "ReasonSeg|test")
    assert [one["name"] for one in found["sets"]] == ["llava_instruct_150k", "ReasonSeg|test"]


def test_a_split_without_references_is_missing(clean, capsys):
    assert doctor(clean, "--val_dataset", "refcoco|testB") == 1
    assert "testB" in capsys.readouterr().out
    assert doctor(clean, "--val_dataset", "refcoco|unc|val") == 1
    assert "refs(unc).p" in capsys.readouterr().out


def test_a_preset_says_what_is_needed(root, tmp_path, capsys):
    preset = tmp_path / "preset.yaml"
    preset.write_text("dataset: vqa||reason_seg\nval_dataset: refcoco|val\nlr: 0.001\n")
    shutil.rmtree(root / "ade20k")
    found = as_json(root, capsys, "--config", str(preset))
    names = [one["name"] for one in found["sets"]]
    assert names == ["llava_instruct_150k", "ReasonSeg|train", "refcoco"]
    assert found["ok"] is True


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dataset", "sem_segg"], "did you mean sem_seg"),
        (["--dataset", "sem_seg", "--sem_seg_data", "ade"], "unknown source 'ade'"),
        (["--val_dataset", "refcocoo|val"], "refcoco"),
        (["--dataset_dir", "/nowhere"], "/nowhere"),
        (["--workers", "-1"], "--workers=-1"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_bad_flags_exit_with_2(clean, capsys, flags, words):
    assert doctor(clean, *flags) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_unknown_flags_exit_with_2(clean, capsys):
    with pytest.raises(SystemExit) as left:
        doctor(clean, "--depth")
    assert left.value.code == 2
    assert "--depth" in capsys.readouterr().err


def test_long_lists_are_cut_in_print_and_whole_in_json(root, capsys):
    for n in range(30):
        tree.save_labels(root / f"ade20k/annotations/training/lonely_{n}.png", [1])
    found = as_json(root, capsys, "--dataset", "sem_seg")
    assert found["sets"][0]["orphan"] == 30
    doctor(root, "--dataset", "sem_seg")
    printed = capsys.readouterr().out
    assert printed.count("lonely_") < 5
    assert "--json lists all" in printed


def test_what_sets_share_is_explained_once(root, capsys):
    shutil.rmtree(root / tree.MSCOCO)
    assert doctor(root) == 1
    printed = capsys.readouterr().out
    assert printed.count(f"error   {tree.MSCOCO}") == 1
    assert "also for refcoco+, refcocog, fprefcocog" in printed


def test_images_without_label_map_matter_only_where_they_are_not_shared(root, capsys):
    tree.save_image(root / tree.COCO / "000000000077.jpg")
    assert doctor(root, "--dataset", "sem_seg") == 0
    assert "1 image" in capsys.readouterr().out
    tree.save_image(root / "mapillary/training/images/m9.jpg")
    assert doctor(root, "--dataset", "sem_seg") == 1


def test_colours_only_on_a_terminal(clean, capsys):
    doctor(clean)
    assert "\033[" not in capsys.readouterr().out


def test_images_and_label_maps_of_other_names(root, capsys):
    for path in (root / "ade20k/annotations/training").iterdir():
        path.rename(path.with_name(f"other_{path.name}"))
    (found,) = as_json(root, capsys, "--dataset", "sem_seg", "--sem_seg_data", "ade20k")["sets"]
    assert (found["orphan"], found["missing"]) == (4, 4)
    (broken,) = [finding for finding in found["findings"] if finding["kind"] == "broken"]
    assert broken["path"] == str(root / "ade20k")
    assert f"no image NAME.jpg in {root}/ade20k/images/training has" in broken["problem"]


@pytest.mark.parametrize(
    "fault",
    [
        lambda root: shutil.rmtree(root / "ade20k"),
        lambda root: (root / "mapillary/config_v2.0.json").unlink(),
        lambda root: [path.unlink() for path in (root / "cocostuff/train2017").iterdir()],
        lambda root: tree.refs_path(root, "fprefcoco").write_bytes(b"\x80\x02]q"),
        lambda root: (root / "reason_seg/ReasonSeg/val/r0.json").unlink(),
        lambda root: (root / "llava_dataset/llava_instruct_150k.json").write_text('[{"id":'),
    ],
)
def test_quick_sees_what_keeps_a_run_from_starting(root, fault):
    fault(root)
    found = checkup.quick(root, wanted(root))
    assert found
    assert found[0].severity == "error"
    assert str(root) in str(found[0])


def test_quick_reads_only_the_ends_of_big_files(root):
    path = root / "llava_dataset/llava_instruct_150k.json"
    entry = json.dumps(json.loads(path.read_text())[0])
    whole = "[" + ",".join([entry] * 10_000) + "]"
    path.write_text(whole)
    assert checkup.quick(root, wanted(root, dataset="vqa")) == []
    path.write_text(whole[:-300])
    (found,) = checkup.quick(root, wanted(root, dataset="vqa"))
    assert found.path == str(path)


def test_converted_references_are_read(root, capsys):
    path = tree.refs_path(root, "refcoco")
    tree.save_json(path.with_suffix(".json"), tree.refs("refcoco", ["x"] * 4))
    path.unlink()
    assert doctor(root, "--dataset", "refer_seg") == 0


def test_indexes_are_written_for_training(root, capsys):
    assert not list(root.rglob("*.sqlite"))
    shutil.rmtree(root / "ade20k")
    (root / "refer_seg/refcocog/instances.json").write_text("{}")
    assert doctor(root, "--cache") == 1
    indexed = {path.parent.parent.name for path in root.rglob("*.sqlite")}
    assert indexed >= {"refcoco", "refclef", "annotations", "pascal_part", "llava_dataset"}
    assert "refcocog" not in indexed


def test_own_sets_are_checked(root, capsys):
    folder = root / "own/tools/train"
    for name in ("a", "b"):
        tree.save_image(folder / f"{name}.jpg")
        shape = {"label": "saw", "points": [[1, 1], [8, 1], [8, 8]]}
        content = {"shapes": [shape], "text": ["the saw"], "is_sentence": False}
        tree.save_json(folder / f"{name}.json", content)
    assert doctor(root, "--deep") == 0
    assert "own/tools" in capsys.readouterr().out
    assert doctor(root, "--dataset", "tools", "--deep") == 0
    assert doctor(root, "--dataset", "tools|val") == 1
    (folder / "b.json").write_text("{}")
    assert doctor(root, "--dataset", "tools", "--deep") == 1
    assert "b.json" in capsys.readouterr().out


def _told(position: int, read: Read) -> tuple:
    if position == 37:
        os._exit(1)
    raise InputError(f"number {position}")


def test_a_file_that_ends_the_process_is_found():
    results = list(Decoder(2, show=False).run(_told, range(150), "numbers"))
    assert results == [None if n == 37 else [f"number {n}"] for n in range(150)]


def test_a_file_that_ends_the_process_is_named(root, capsys, monkeypatch):
    for n in range(20):
        tree.save_image(root / f"ade20k/images/training/more_{n}.jpg")
        tree.save_labels(root / f"ade20k/annotations/training/more_{n}.png", [1])
    whole = decode.read_image
    name = "more_7.jpg"
    monkeypatch.setattr(
        decode, "read_image", lambda path: os._exit(1) if path.name == name else whole(path)
    )
    flags = ["--dataset", "sem_seg", "--sem_seg_data", "ade20k", "--deep", "--workers", "2"]
    (found,) = as_json(root, capsys, *flags)["sets"]
    (finding,) = found["findings"]
    assert Path(finding["path"]).name == name and "ends the process" in finding["problem"]


def test_images_that_sets_share_are_decoded_once(clean, capsys, monkeypatch):
    whole, paths = decode.read_image, []
    monkeypatch.setattr(decode, "read_image", lambda path: [paths.append(path), whole(path)][1])
    assert doctor(clean, "--deep") == 0
    assert len(paths) == len(set(paths)) > 20


def test_many_images_by_many_processes(root, capsys):
    pixels = np.zeros((12, 16, 3), np.uint8)
    for n in range(100, 180):
        Image.fromarray(pixels + n).save(root / f"ade20k/images/training/a{n}.jpg")
        tree.save_labels(root / f"ade20k/annotations/training/a{n}.png", [n % 151])
    tree.save_labels(root / "ade20k/annotations/training/a144.png", [200])
    code = main(["--dataset_dir", str(root), "--workers", "2", "--deep", "--dataset", "sem_seg"])
    assert code == 1
    captured = capsys.readouterr()
    assert captured.out.count(".png") == 1
    assert "a144.png" in captured.out
    assert "ade20k: label maps" in captured.err
    assert "/84 " in captured.err

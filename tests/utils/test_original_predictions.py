"""Predictions as the original lays them out: the same numbers, under whatever names."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.stored_runs import entries_of, make_items, write_original, write_ours
from utils.errors import InputError
from utils.original_masks import read_original
from utils.original_predictions import has_original_layout, list_entries
from utils.rle import encode_mask, encode_truth
from utils.scoring import read_predictions, score_folder

MODE = "generated"
OUTCOME = ("image", "question", "kind", "present", "truth_present", "intersection", "union")


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return make_items(tmp_path_factory.mktemp("pictures"), 9)


@pytest.fixture(scope="module")
def outcomes(items, tmp_path_factory):
    """What our own layout says of every question."""
    folder = tmp_path_factory.mktemp("ours")
    write_ours(folder, items)
    return sorted_outcomes(folder)


def sorted_outcomes(folder) -> list[tuple]:
    records = read_predictions(folder).results[MODE].records
    return sorted(tuple(getattr(record, name) for name in OUTCOME) for record in records)


def write(folder: Path, content, name: str = "preds_fprefcoco_0_of_1.json") -> Path:
    (folder / "segmentation_mask").mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder / "segmentation_mask"


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_same_numbers_as_from_our_layout(items, tmp_path, parts):
    write_ours(tmp_path / "ours", items, world=2)
    write_original(tmp_path / "original", items, parts)
    assert has_original_layout(tmp_path / "original")
    score_folder(tmp_path / "ours")
    score_folder(tmp_path / "original")
    ours, original = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("ours", "original")
    )
    assert ours == original
    assert ours[MODE]["all"]["questions"] == sum(len(item.questions) for item in items)
    assert ours[MODE]["all"]["intervals"]["giou"][0] < ours[MODE]["all"]["giou"]


def test_masks_of_a_picture_in_one_file(items, outcomes, tmp_path):
    """[n, H, W] arrays, taken in the order of the entries, named by the picture."""
    told = [entry for entry, _, _ in entries_of(items)]
    masks = write(tmp_path, told)
    for item in items:
        mine = [x for x in entries_of(items) if x[0]["image_path"] == item.image_path]
        arrays = {"pred_masks": np.stack([x[1] for x in mine])[:, None].astype(np.float32)}
        arrays["gt_masks"] = np.stack([x[2] for x in mine])
        np.savez(masks / f"{Path(item.image_path).stem}.npz", **arrays)
    assert sorted_outcomes(tmp_path) == outcomes


def test_entries_of_pictures_with_lists(items, outcomes, tmp_path):
    """One entry for each picture; masks by position, as logits; a wrapped list."""
    content = []
    for place, item in enumerate(items):
        mine = [x for x in entries_of(items) if x[0]["image_path"] == item.image_path]
        content.append(
            {
                "img_path": item.image_path,
                "query": [x[0]["question"] for x in mine],
                "pred_sent": [x[0]["prediction"] for x in mine],
                "exists": [int(x[0]["gt_exists"]) for x in mine],
                "kind": [x[0]["kind"] for x in mine],
                "mask_path": [f"{place}.npz"] * len(mine),
                "mask_index": list(range(len(mine))),
            }
        )
        logits = [np.where(x[1], 3.5, -2.0).astype(np.float16) for x in mine]
        masks = write(tmp_path, {"results": content})
        np.savez(
            masks / f"{place}.npz", Pred=np.stack(logits), target=np.stack([x[2] for x in mine])
        )
    assert sorted_outcomes(tmp_path) == outcomes


def test_entries_by_picture_with_masks_by_position(items, outcomes, tmp_path):
    entries, by_picture = entries_of(items), {}
    for entry, _, _ in entries:
        short = {"sent": entry["question"], "output_text": entry["prediction"]}
        short |= {"is_false_premise": not entry["gt_exists"], "kind": entry["kind"]}
        by_picture.setdefault(entry["image_path"], []).append(short)
    masks = write(tmp_path, by_picture)
    for number, (_, pred, truth) in enumerate(entries):
        np.savez(masks / f"{number}.npz", prediction=pred.astype(np.uint8) * 255, truth=truth)
    assert sorted_outcomes(tmp_path) == outcomes


def test_masks_as_codes_in_the_entries(items, outcomes, tmp_path):
    content = []
    for entry, pred, truth in entries_of(items):
        code, ignored = encode_truth(truth)
        content.append({**entry, "masks": [encode_mask(pred)], "truth": code, "ignored": ignored})
    write(tmp_path, content)
    assert sorted_outcomes(tmp_path) == outcomes


def test_presence_and_kinds_that_are_not_told(items, outcomes, tmp_path):
    content = []
    masks = write(tmp_path, [])
    for number, (entry, pred, truth) in enumerate(entries_of(items)):
        content.append({name: entry[name] for name in ("image_path", "question", "prediction")})
        np.savez(masks / f"{number}.npz", pred=pred, gt=truth)
    write(tmp_path, content)
    found = sorted_outcomes(tmp_path)
    assert [x[:2] + x[3:] for x in found] == [x[:2] + x[3:] for x in outcomes]
    assert {x[2] for x in found} == {"expression", "absent"}


def test_a_mask_alone_says_what_an_answer_would(tmp_path):
    entry = {"image": "a.jpg", "question": "q", "gt_exists": True}
    masks = write(tmp_path, [])
    pred, truth = np.eye(4, dtype=bool), np.eye(4, dtype=np.uint8)
    np.savez(masks / "0.npz", pred=pred, gt=truth)
    cases = [
        ({"pred_exists": True}, True),
        ({"pred_exists": False}, False),
        ({"answer": "no"}, False),
        ({"answer": "[SEG]", "pred_exists": 0}, False),
    ]
    for told, present in cases:
        write(tmp_path, [{**entry, **told}])
        (record,) = read_original(tmp_path, progress=False).results[MODE].records
        assert (record.present, record.intersection, record.union) == (present, 4, 4)


def test_absent_and_denied_needs_no_mask(tmp_path):
    write(tmp_path, [{"image": "a.jpg", "question": "q", "answer": "no", "exist": False}])
    run = read_original(tmp_path, progress=False)
    (record,) = run.results[MODE].records
    assert (record.present, record.truth_present, record.union) == (False, False, 0)
    assert run.masks(MODE, record) == (None, None)


def test_padded_parts_count_once(items, outcomes, tmp_path):
    write_original(tmp_path, items, parts=2)
    first, second = (tmp_path / f"preds_fprefcoco_{p}_of_2.json" for p in (0, 1))
    told = json.loads(second.read_text())
    second.write_text(json.dumps([*told, json.loads(first.read_text())[0]]))
    assert sorted_outcomes(tmp_path) == outcomes
    assert list_entries(tmp_path)["fprefcoco"].repeated == 1
    assert "counted once" in read_original(tmp_path, progress=False).notes[0]


def test_several_data_sets_are_scored_apart(items, tmp_path):
    write_original(tmp_path, items[:4], dataset="fprefcoco")
    write_original(tmp_path, items[4:], dataset="fprefcoco+")
    results = read_original(tmp_path, progress=False).results
    assert list(results) == ["generated, fprefcoco", "generated, fprefcoco+"]
    assert len({record.image for record in results["generated, fprefcoco"].records}) == 4


def test_missing_and_mixed_parts_are_named(items, tmp_path):
    write_original(tmp_path, items, parts=3)
    (tmp_path / "preds_fprefcoco_1_of_3.json").rename(tmp_path / "kept")
    with pytest.raises(InputError, match=r"missing preds_fprefcoco_1_of_3\.json"):
        read_original(tmp_path, progress=False)
    (tmp_path / "kept").rename(tmp_path / "preds_fprefcoco_0_of_2.json")
    with pytest.raises(InputError, match="keep those of one run"):
        read_original(tmp_path, progress=False)


GOOD = {"image": "a.jpg", "question": "q", "answer": "[SEG]", "gt_exists": True, "mask": "m.npz"}
ONE = np.ones((3, 4), np.uint8)


@pytest.mark.parametrize(
    "entry, arrays, told",
    [
        ({"img": None}, {}, r"question 0: no name of a picture; keys found: .*expected: image,"),
        ({"question": 3}, {}, "no question; keys found"),
        ({"answer": None}, {}, "neither an answer nor"),
        ({"answer": True}, {}, "answer is bool"),
        ({"gt_exists": "yes"}, {}, "'yes' does not say"),
        ({"mask": "other.npz"}, {}, "mask file other.npz is missing"),
        ({}, {"pred": ONE}, r"true mask is missing: .*m\.npz holds pred; expected one of gt"),
        ({}, {"mask": ONE}, r"true mask is missing: .*m\.npz holds mask"),
        ({}, {"gt": ONE}, r"predicted mask is missing: .*holds gt; expected one of pred"),
        ({}, {"arr_0": ONE, "arr_1": ONE}, "holds arr_0, arr_1; expected"),
        ({}, {"pred": ONE, "gt": ONE.T}, r"\[3, 4\] and the true one gt \[4, 3\]"),
        ({}, {"pred": ONE, "gt": ONE * 7}, "0 .background.* found 7"),
        ({}, {"pred": ONE, "gt": ONE * 255}, "no pixel is 1"),
        ({}, {"pred": ONE[0], "gt": ONE}, r"found \[4\] of uint8"),
        ({}, {"pred": ONE * 0.3, "gt": ONE}, "fractions between 0 and 1"),
        ({}, {"pred": np.full((3, 4), np.nan), "gt": ONE}, "NaN"),
        ({}, {"pred": ONE, "gt": np.stack([ONE] * 2)}, "holds 2 masks"),
        ({}, {"pred": np.array([{}]), "gt": ONE}, r"cannot read .*m\.npz"),
        ({"gt_path": "nowhere.npz"}, {"pred": ONE}, "nowhere.npz of its true mask is missing"),
        ({"mask": {"size": [3, 4], "counts": "0"}, "truth": {}}, {}, "mask is damaged"),
    ],
)
def test_what_cannot_be_understood_is_told(tmp_path, entry, arrays, told):
    merged = {**GOOD, **entry}
    if "img" in entry:
        merged.pop("image")
    np.savez(write(tmp_path, [merged]) / "m.npz", **arrays)
    with pytest.raises(InputError, match=told) as caught:
        read_original(tmp_path, progress=False)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1]", "3", "{}", "[]", '{"a": 1}', "\xff"])
def test_files_of_something_else(tmp_path, content):
    (tmp_path / "preds_x_0_of_1.json").write_bytes(content.encode("latin1"))
    with pytest.raises(InputError, match="preds_x_0_of_1.json"):
        read_original(tmp_path, progress=False)


def test_a_damaged_or_shared_mask_file(tmp_path):
    masks = write(tmp_path, [GOOD])
    np.savez(masks / "m.npz", pred=ONE, gt=ONE)
    whole = (masks / "m.npz").read_bytes()
    (masks / "m.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot read .*m\.npz"):
        read_original(tmp_path, progress=False)
    (masks / "m.npz").write_bytes(whole)
    write(tmp_path, [GOOD, {**GOOD, "question": "another"}])
    with pytest.raises(InputError, match="holds 1 masks and 2 questions"):
        read_original(tmp_path, progress=False)
    write(tmp_path, [{**GOOD, "mask_index": 0}, {**GOOD, "mask_index": 0, "question": "other"}])
    with pytest.raises(InputError, match=r"both use mask 0 of .*m\.npz"):
        read_original(tmp_path, progress=False)


def test_two_layouts_in_one_folder_are_refused(items, tmp_path):
    write_ours(tmp_path, items[:2])
    write_original(tmp_path, items[:2])
    with pytest.raises(InputError, match="two sets of predictions"):
        read_predictions(tmp_path)

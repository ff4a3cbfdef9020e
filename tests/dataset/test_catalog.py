"""The facts about the published sets: names, places, splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset.catalog import (
    DATA_FLAGS,
    EVALUATION_SETS,
    SETS,
    needed_paths,
    reference_files,
    splits_of,
)
from utils.cli.train_flags import DataFlags


def test_the_default_mixture_is_made_of_published_sets():
    named = set()
    for family, flag in DATA_FLAGS.items():
        for spec in getattr(DataFlags, flag).split("||"):
            name = spec.partition("|")[0]
            assert SETS[name].family == family
            named.add(name)
    assert named == set(SETS)
    assert len(SETS) == 17


@pytest.mark.parametrize("name", SETS)
def test_every_set_says_where_it_is_from(name):
    facts = SETS[name]
    assert facts.url.startswith("http")
    assert facts.licence
    assert name in facts.how_to_get
    assert facts.url in facts.how_to_get
    assert all(count > 0 for count in facts.expected.values())


@pytest.mark.parametrize("name", SETS)
def test_needed_paths_lie_in_the_data_folder(name):
    needed = needed_paths("data", name)
    assert needed
    for need in needed:
        assert Path("data") in need.path.parents
        assert need.what
        assert need.remedy


@pytest.mark.parametrize(
    ("name", "preferred"),
    [
        ("refclef", "unc"),
        ("refcoco", "unc_exclude_unified"),
        ("refcoco+", "unc_exclude_unified"),
        ("refcocog", "umd_exclude_unified"),
        ("R-refcoco", "unc_exclude_unified"),
        ("R-refcoco+", "unc_exclude_unified"),
        ("R-refcocog", "umd_exclude_unified"),
        ("fprefcoco", "berkeley_exclude_unified"),
        ("fprefcoco+", "berkeley_exclude_unified"),
        ("fprefcocog", "berkeley_exclude_unified"),
    ],
)
def test_preferred_references_come_first(name, preferred):
    files = reference_files("data", name)
    assert files[0] == (
        preferred,
        Path(f"data/refer_seg/{name}/refs({preferred}).p"),
        Path(f"data/refer_seg/{name}/refs({preferred}).json"),
    )
    assert {by for by, _, _ in files} >= {"unc", "umd", "google"}
    assert len({by for by, _, _ in files}) == len(files)
    (need,) = [need for need in needed_paths("data", name) if need.what == "references"]
    assert need.path == files[0][1]
    assert files[1][1] in need.alternatives


def test_splits():
    assert splits_of("ReasonSeg|train") == ("train",)
    assert splits_of("ReasonSeg|train_val") == ("train", "val")
    assert splits_of("ReasonSeg|short_long_test") == ("test",)
    assert splits_of("ReasonSeg|overall") == ("test",)
    assert splits_of("ReasonSeg") == splits_of("ReasonSeg|") == ()
    folders = [need.path.name for need in needed_paths("data", "ReasonSeg", "ReasonSeg|val_test")]
    assert folders == ["val", "test"]


def test_evaluation_sets():
    assert EVALUATION_SETS["ReasonSeg"] == "reason_seg"
    assert EVALUATION_SETS["fprefcocog"] == "correct_refer_seg"
    assert len(EVALUATION_SETS) == 11

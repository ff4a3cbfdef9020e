"""The model card of a run, of weights in a file, and the licence of the base model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, constants

from dataset.catalog import hub_names, training_sources
from tests.hub_stand_in import Repo, serving
from utils.cli import parser
from utils.cli.options import OriginalMergeOptions, TrainOptions
from utils.hub import models
from utils.hub.model_card import Checkpoint, licence_of, model_card, validation_of

ROOT = Path(__file__).parents[3]
LICENSED = """---
license: {name}
license_name: {named}
license_link: {link}
---
"""


@pytest.fixture
def run_7b() -> TrainOptions:
    """The flags of a run of the published recipe."""
    options, *_ = parser.resolve(TrainOptions, ["--config", str(ROOT / "configs/read_7b.yaml")])
    return options


def parsed(card: ModelCard, folder: Path) -> ModelCard:
    """The card, written and read again by the hub's own reader, which checks the metadata."""
    card.save(folder / "README.md")
    return ModelCard.load(folder / "README.md", ignore_metadata_errors=False)


def test_the_card_of_a_run(run_7b, tmp_path):
    metrics = {"step": 500, "giou": 0.59812, "ciou": 0.6761, "see_accuracy": None, "questions": 200}
    sources = training_sources(run_7b)
    named = hub_names(sources)
    checkpoint = Checkpoint(500, True, metrics)
    card = parsed(model_card(run_7b, "me/read-7b", checkpoint, sources, named), tmp_path)
    data = card.data
    assert data.base_model == "tsunghanwu/SESAME"
    assert {"ReasonSeg", "ade20k", "liuhaotian/LLaVA-Instruct-150K"} < set(data.datasets)
    assert not any("+" in name for name in data.datasets) and "refcoco+" in card.text
    assert data.pipeline_tag == "image-segmentation" and data.license == "other"
    assert data.library_name in (ROOT / "pyproject.toml").read_text()
    found = {result.metric_type: result for result in data.eval_results}
    assert {key: result.metric_value for key, result in found.items()} == {
        "giou": 0.5981,
        "ciou": 0.6761,
    }
    assert found["giou"].dataset_name == "ReasonSeg" and found["giou"].dataset_split == "val"
    assert "| gIoU | 0.5981 |" in card.text and "for 200 questions" in card.text
    assert (
        'load_read(snapshot_download("me/read-7b"))' in card.text and "What it is not" in card.text
    )


def test_its_flags_are_a_preset_of_the_same_run(run_7b, tmp_path):
    card = model_card(run_7b, None, Checkpoint(500, True, {}))
    preset = tmp_path / "preset.yaml"
    preset.write_text(card.text.rpartition("```yaml\n")[2].partition("```")[0])
    assert parser.load(TrainOptions, preset) == run_7b
    assert "The checkpoint (step 500) was not validated." in card.text
    assert card.data.eval_results is None


def test_it_tells_nothing_about_the_machine(run_7b, tmp_path):
    (tmp_path / "base").mkdir()
    places = ("version", "vision_tower", "dataset_dir", "log_base_dir", "resume")
    given = {name: str(tmp_path / "base") for name in places}
    weights = str(tmp_path / "sam_vit_h.pth")
    moved = dataclasses.replace(run_7b, vision_pretrained=weights, **given)
    card = parsed(model_card(moved, None, Checkpoint(1, False, {})), tmp_path)
    assert str(tmp_path) not in card.content
    assert "Base model: `base`, a folder" in card.text and "from `sam_vit_h.pth`" in card.text
    assert card.data.base_model is None


def test_weights_in_a_file_come_without_data_and_metrics(tmp_path):
    card = parsed(
        model_card(OriginalMergeOptions(weight="/w/pytorch_model.bin"), None, None), tmp_path
    )
    assert card.data.datasets is None and card.data.eval_results is None
    assert card.text.count("the weights were given in a file, without the run") == 2
    flags = yaml.safe_load(card.text.rpartition("```yaml\n")[2].partition("```")[0])
    assert flags["lora_r"] == 8 and "weight" not in flags and "dataset" not in flags


def test_the_validation_of_the_checkpoint_alone(tmp_path):
    lines = [
        {"step": 2, "giou": 0.1},
        {"step": 4, "giou": 0.2},
        {"step": 4, "giou": 0.9, "eval_only": True},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert validation_of(tmp_path, 4) == lines[1]
    assert validation_of(tmp_path, 3) == {}


@pytest.mark.parametrize(
    "text, name, link",
    [
        (LICENSED.format(name="other", named="llama2", link="https://x.org/L"), "llama2", True),
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0", False),
        (LICENSED.format(name="other", named="llama2", link="LICENSE"), "llama2", False),
        ("---\nlicense: other\n---\n", None, False),
        (LICENSED.format(name="other", named="Own Words 2", link="L"), "Own Words 2", False),
        ("---\nlicense: [a\n---\n", None, False),
        ("No metadata.\n", None, False),
        (None, None, False),
    ],
    ids=["named", "plain", "own file", "unnamed", "not kebab", "broken", "no metadata", "no card"],
)
def test_the_licence_is_what_the_base_says_and_no_other(run_7b, tmp_path, text, name, link):
    base = tmp_path / "base"
    base.mkdir()
    if text is not None:
        (base / "README.md").write_text(text)
    started = dataclasses.replace(run_7b, version=str(base))
    card = parsed(model_card(started, None, Checkpoint(1, True, {})), tmp_path)
    assert card.data.license == "other"
    assert card.data.license_name == (None if name == "Own Words 2" else name)
    assert card.data.license_link == ("https://x.org/L" if link else None)
    assert (f"names: {name}" in card.text) == (name is not None)
    assert ("did not name its licence" in card.text) == (name is None)


def test_the_licence_of_a_base_on_the_hub(monkeypatch, tmp_path):
    text = LICENSED.format(name="other", named="llama2", link="LICENSE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    models._ask.cache_clear()
    with serving() as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.address)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            stand_in.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        stand_in.repos["someone/base"] = Repo(files={"README.md": text.encode()})
        licence = licence_of("someone/base")
        assert licence == ("llama2", f"{stand_in.address}/someone/base/resolve/main/LICENSE")
        assert licence_of("someone/none") == (None, None)
    models._ask.cache_clear()

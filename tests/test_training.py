"""Training in one process: a run, its resumption, and every reason to stop."""

from __future__ import annotations

import importlib.machinery
import json
import resource
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import merge_lora_weight
import train_read
from dataset.reason_seg import ReasonSegTrain
from dataset.sampling import SamplingOptions
from model.loading.builder import load_read
from model.loading.merging import trial_image
from tests.conftest import write_reason_seg
from utils.cli import parser
from utils.cli.options import TrainOptions
from utils.errors import InputError
from utils.files import read_lines
from utils.training.checkpoint import BEST, LATEST, CheckpointStore
from utils.training.run_log import METRICS_FILE


@pytest.fixture
def train(write_preset, tmp_path) -> Callable[..., int]:
    """A function that trains the micro model, given flags and changes of the preset."""

    def run(*flags: str, **changes) -> int:
        preset = write_preset(**{"workers": 0, **changes})
        try:
            return train_read.main(["--config", str(preset), *flags])
        except SystemExit as stop:
            return int(stop.code or 0)

    return run


@pytest.fixture
def run_dir(tmp_path) -> Path:
    return tmp_path / "runs" / "read"


def weights(store: CheckpointStore, pointer: str = LATEST) -> dict[str, torch.Tensor]:
    return get_fp32_state_dict_from_zero_checkpoint(
        str(store.folder), tag=store.load(pointer).tag, exclude_frozen_parameters=True
    )


def without_time(lines: list[dict]) -> list[tuple]:
    return [(line["step"], line["epoch"], line["ciou"], line["giou"]) for line in lines]


def test_a_run_and_what_it_writes(train, run_dir, micro_settings):
    assert train() == 0
    lines = read_lines(run_dir / METRICS_FILE)
    assert [(line["step"], line["epoch"]) for line in lines] == [(2, 1), (4, 2)]
    assert all(line["questions"] == 5 for line in lines)
    best_score = max(line["ciou"] for line in lines)

    store = CheckpointStore(run_dir / "ckpt_model")
    assert store.load(LATEST).step == 4
    assert store.load(BEST).score == store.load(LATEST).best_score == best_score

    saved = parser.load(TrainOptions, run_dir / "config.yaml")
    assert saved.version == micro_settings["version"] and saved.lora_r == 4
    assert "projection head" in (run_dir / "load_report.txt").read_text()

    events = EventAccumulator(str(run_dir)).Reload()
    for name in ("loss", "ce_loss", "mask_bce_loss", "mask_dice_loss", "mask_loss", "lr"):
        assert [point.step for point in events.Scalars(f"train/{name}")] == [1, 2, 3, 4]
    losses = [point.value for point in events.Scalars("train/loss")]
    assert losses[-1] < losses[0]


def test_only_the_named_parts_train(train, run_dir):
    assert train("--epochs=1", "--no_eval") == 0
    names = set(weights(CheckpointStore(run_dir / "ckpt_model")))
    parts = ("lora_", "lm_head", "embed_tokens", "mask_decoder", "text_hidden_fcs")
    buffers = ("inv_freq", "positional_encoding_gaussian_matrix", "position_ids")
    odd = [n for n in names if not any(part in n for part in parts + buffers)]
    assert odd == []
    for part in parts:
        assert any(part in name for name in names)
    assert not any("vision_tower" in n or "image_encoder" in n for n in names if "lora_" in n)


@pytest.mark.slow
def test_resuming_equals_not_stopping(train, run_dir, tmp_path):
    """Same data, dropout, rates and optimiser: the weights are equal to the last bit."""
    assert train("--exp_name=whole", "--epochs=3") == 0
    assert train("--epochs=3", "--max_steps=3") == 0
    assert [line["step"] for line in read_lines(run_dir / METRICS_FILE)] == [2, 3]
    assert train("--epochs=3") == 0
    whole = CheckpointStore(run_dir.parent / "whole" / "ckpt_model")
    resumed = CheckpointStore(run_dir / "ckpt_model")
    for one, other in zip(weights(whole).items(), weights(resumed).items(), strict=True):
        assert one[0] == other[0]
        if "inv_freq" not in one[0]:
            torch.testing.assert_close(one[1], other[1], rtol=0, atol=0)


@pytest.mark.slow
def test_a_finished_run_stays_as_it_is(train, run_dir, capsys):
    assert train("--epochs=1") == 0
    before = (run_dir / METRICS_FILE).read_text()
    assert train("--epochs=1") == 0
    assert "finished" in capsys.readouterr().out
    assert (run_dir / METRICS_FILE).read_text() == before


@pytest.mark.slow
def test_a_run_folder_in_use_is_not_overwritten(train, run_dir, capsys):
    assert train("--epochs=1", "--no_eval") == 0
    assert train("--no_auto_resume") == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert train("--lora_r=2") == 2
    assert "--lora_r=2 differs from 4" in capsys.readouterr().err


@pytest.mark.slow
def test_continuing_another_run(train, run_dir):
    assert train("--exp_name=first", "--epochs=1") == 0
    first = run_dir.parent / "first" / "ckpt_model"
    assert train(f"--resume={first}") == 0
    store = CheckpointStore(run_dir / "ckpt_model")
    assert store.load(LATEST).step == 4
    assert store.load(BEST).step == 4
    assert train(f"--resume={run_dir.parent}") == 2


@pytest.mark.slow
def test_no_eval(train, run_dir):
    assert train("--no_eval", "--save_every=1", "--epochs=1") == 0
    store = CheckpointStore(run_dir / "ckpt_model")
    assert store.load(LATEST).step == store.load(BEST).step == 2
    assert not (run_dir / METRICS_FILE).exists()


@pytest.mark.slow
def test_eval_only_scores_the_best_checkpoint(train, run_dir, capsys):
    assert train() == 0
    store = CheckpointStore(run_dir / "ckpt_model")
    before = sorted(str(path) for path in store.folder.rglob("*"))
    assert train("--eval_only") == 0
    line = read_lines(run_dir / METRICS_FILE)[-1]
    assert line["eval_only"] is True
    assert line["step"] == store.load(BEST).step
    assert line["ciou"] == pytest.approx(store.load(BEST).score, abs=1e-6)
    assert sorted(str(path) for path in store.folder.rglob("*")) == before


def test_eval_only_without_a_checkpoint(train, run_dir, capsys):
    assert train("--eval_only") == 0
    assert "there is no checkpoint" in capsys.readouterr().out
    assert read_lines(run_dir / METRICS_FILE)[0]["step"] == 0
    assert not (run_dir / "ckpt_model").exists()


@pytest.mark.slow
def test_non_finite_loss_stops_and_overwrites_nothing(train, run_dir, capsys):
    assert train("--no_eval", "--max_steps=1") == 0
    store = CheckpointStore(run_dir / "ckpt_model")
    good = weights(store)
    assert train("--no_eval", "--steps_per_epoch=4", "--warmup_steps=0", "--lr=1e30") == 2
    said = capsys.readouterr().err
    assert "error: step 3: " in said
    assert ".jpg" in said and "--auto_resume" in said
    assert f"the last good one is {store.folder / 'step_00000001'} (step 1)" in said
    assert "Traceback" not in said
    assert store.load(LATEST).step == 1
    for name, value in weights(store).items():
        assert torch.equal(value, good[name]), name


@pytest.mark.slow
def test_non_finite_loss_before_the_first_checkpoint(train, capsys):
    assert train("--no_eval", "--steps_per_epoch=4", "--warmup_steps=0", "--lr=1e30") == 2
    assert "this run has not written one yet" in capsys.readouterr().err


def test_kept_checkpoints(train, run_dir):
    assert train("--save_every=1", "--keep_checkpoints=3", "--no_eval") == 0
    kept = sorted(path.name for path in (run_dir / "ckpt_model").glob("step_*"))
    assert kept == ["step_00000002", "step_00000003", "step_00000004"]


def test_a_checkpoint_that_was_not_validated_is_validated_first(train, run_dir, monkeypatch):
    """A validation that fails after the saving costs no step, and is made up for."""

    def fail(self, step: int) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr("utils.training.trainer.Trainer._validate", fail)
        assert train() == 9
    store = CheckpointStore(run_dir / "ckpt_model")
    assert (store.load(LATEST).step, store.load(LATEST).score) == (2, None)
    assert train("--max_steps=2") == 0
    (line,) = read_lines(run_dir / METRICS_FILE)
    assert line["step"] == 2 and store.load(BEST).score == line["ciou"]


def test_weights_and_biases(train, monkeypatch):
    """The optional package gets settings, losses, scores, and the end; no network is needed."""
    points: dict[str, list[int]] = {}
    told: list = []

    def log(values: dict, step: int) -> None:
        for name in values:
            points.setdefault(name, []).append(step)

    wandb = types.ModuleType("wandb")
    wandb.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    wandb.init = lambda **given: told.append(given) or wandb
    wandb.log, wandb.finish = log, lambda: told.append("end")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert train("--use_wandb") == 0
    assert told[0]["config"]["lora_r"] == 4 and told[1:] == ["end"]
    assert points["train/loss"] == points["train/lr"] == [1, 2, 3, 4]
    assert points["val/ciou"] == points["val/giou"] == [2, 4]


def break_image(data: Path, number: int) -> None:
    path = data / "reason_seg" / "ReasonSeg" / "train" / f"{number:03d}.jpg"
    path.write_bytes(path.read_bytes()[:100])


def count_broken(data: Path, seed: int, draws: int) -> int:
    source = ReasonSegTrain(data, settings=SamplingOptions(seed=seed))
    broken = 0
    for index in range(draws):
        try:
            source.sample(index)
        except InputError:
            broken += 1
    return broken


@pytest.fixture
def damaged_data(micro_data, tmp_path) -> Path:
    data = tmp_path / "damaged"
    shutil.copytree(micro_data, data)
    break_image(data, 3)
    return data


def test_a_broken_image_is_skipped_and_told(train, run_dir, damaged_data, capsys):
    seed = next(s for s in range(100) if count_broken(damaged_data, s, 4) == 1)
    assert train("--max_steps=1", f"--seed={seed}", dataset_dir=str(damaged_data)) == 0
    said = capsys.readouterr().out
    assert said.count("skipped: ") == 1 and "003.jpg" in said
    events = EventAccumulator(str(run_dir)).Reload()
    assert events.Scalars("train/broken_draws")[-1].value == 1


def test_too_many_broken_images_stop(train, run_dir, damaged_data, capsys):
    for number in (0, 1, 2):
        break_image(damaged_data, number)
    assert train("--epochs=20", "--no_eval", dataset_dir=str(damaged_data)) == 2
    captured = capsys.readouterr()
    assert "more than 1 %" in captured.err and "draws could not be read" in captured.err
    assert "skipped: " in captured.out


def test_a_broken_annotation_counts_too(train, damaged_data, capsys):
    for path in (damaged_data / "reason_seg" / "ReasonSeg" / "train").glob("*.json"):
        path.write_text("{")
    assert train("--no_eval", dataset_dir=str(damaged_data)) == 2
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(train, run_dir, capsys):
    assert train("--epochs=1") == 0
    store = CheckpointStore(run_dir / "ckpt_model")
    before, limits = weights(store), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        code = train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    said = capsys.readouterr().err
    assert "cannot write the checkpoint" in said and "--auto_resume" in said
    assert store.load(LATEST).step == 2
    assert all(torch.equal(value, before[name]) for name, value in weights(store).items())
    assert train() == 0
    assert store.load(LATEST).step == 4


@pytest.mark.slow
def test_too_little_space_is_told_before_writing(train, monkeypatch, capsys):
    assert train("--epochs=1", "--no_eval") == 0
    monkeypatch.setattr("utils.training.trainer.free_bytes", lambda folder: 1000)
    assert train("--no_eval") == 2
    assert "free space" in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(train, run_dir, capsys):
    assert train("--epochs=1", "--no_eval") == 0
    for path in (run_dir / "ckpt_model").rglob("*_states.pt"):
        path.write_bytes(path.read_bytes()[:1000])
    assert train("--no_eval") == 2
    assert "cannot read the checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_no_lora(train, run_dir):
    assert train("--lora_r=0", "--epochs=1") == 0
    assert merge_lora_weight.main(["--exp_dir", str(run_dir)]) == 0
    assert load_read(run_dir / "merged", device="cpu").model.config.out_dim == 32


def test_without_any_mask(train, micro_data, tmp_path):
    """Only false premises in a batch: the text still trains, with the mask parts at rest."""
    data = tmp_path / "absent"
    shutil.copytree(micro_data, data)
    seed = next(s for s in range(1000) if only_absent(data, s))
    assert train("--max_steps=1", "--batch_size=1", f"--seed={seed}", "--no_eval") == 0


def only_absent(data: Path, seed: int) -> bool:
    source = ReasonSegTrain(data, settings=SamplingOptions(seed=seed))
    return not any(exists for index in range(2) for exists in source.sample(index).exists)


@pytest.mark.slow
def test_merging_rounds_to_the_precision_of_the_run(train, run_dir):
    assert train("--epochs=1", "--no_eval") == 0
    saved = run_dir / "config.yaml"
    text = saved.read_text().replace("precision: fp32", "precision: bf16")
    flash = text.replace("attn_implementation: null", "attn_implementation: flash_attention_2")
    assert flash != text
    saved.write_text(flash)  # which merging, in float32 on a CPU, does without
    assert merge_lora_weight.main(["--exp_dir", str(run_dir)]) == 0
    stored = load_file(run_dir / "merged" / "model.safetensors")
    assert stored["lm_head.weight"].dtype == torch.bfloat16


@pytest.mark.slow
def test_merging(train, run_dir, tmp_path, micro_parts):
    assert train("--sasp_num_points=7") == 0
    out, adapter = tmp_path / "out", tmp_path / "adapter"
    flags = ["--exp_dir", str(run_dir), "--out", str(out), "--adapter", str(adapter)]
    assert merge_lora_weight.main(flags) == 0
    reader = load_read(out, device="cpu")
    base = load_read(micro_parts.llava, adapter=adapter, vision_pretrained=micro_parts.sam)
    state = reader.model.state_dict()
    assert all(torch.equal(state[n], value) for n, value in base.model.state_dict().items())
    assert base.model.config.sasp_params == reader.model.config.sasp_params
    assert reader.model.config.sasp_params.num_points == 7
    assert (out / "model.safetensors").is_file()
    assert json.loads((out / "config.json").read_text())["mm_vision_tower"] == "vision_tower"
    image = trial_image()
    answer = reader.segment(image, "Where is the square?", max_new_tokens=4)
    assert len(answer.token_ids) <= 4 and answer.mask.shape == image.shape[:2]

    moved = tmp_path / "moved"
    out.rename(moved)
    again = load_read(moved, device="cpu").segment(image, "Where is the square?", None, 4)
    assert again.token_ids == answer.token_ids
    assert (again.mask == answer.mask).all()


def test_merging_refuses_what_it_cannot_merge(train, run_dir, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        merge_lora_weight.main(["--exp_dir", str(tmp_path / "nowhere")])
    assert stop.value.code == 2
    assert train("--epochs=1", "--no_eval") == 0
    (run_dir / "config.yaml").write_text(
        (run_dir / "config.yaml").read_text().replace("lora_r: 4", "lora_r: 2")
    )
    assert merge_lora_weight.main(["--exp_dir", str(run_dir)]) == 2
    assert "lora_A" in capsys.readouterr().err
    shutil.rmtree(run_dir / "ckpt_model")
    assert merge_lora_weight.main(["--exp_dir", str(run_dir)]) == 2
    assert "has no best checkpoint" in capsys.readouterr().err


def test_missing_data_is_told_before_anything_loads(write_preset, tmp_path, capsys, monkeypatch):
    data = write_reason_seg(tmp_path / "data", {"train": 2, "val": 2})
    (data / "reason_seg" / "ReasonSeg" / "val" / "000.jpg").unlink()
    (data / "reason_seg" / "ReasonSeg" / "val" / "001.jpg").unlink()
    monkeypatch.setattr("model.loading.from_options.build_model", pytest.fail)
    code = train_read.main(["--config", str(write_preset(dataset_dir=str(data)))])
    assert code == 2
    said = capsys.readouterr().err
    assert "ReasonSeg/val" in said and "dataset.doctor" in said

"""A run that is continued: changed settings are told, a damaged checkpoint is not the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import merge_lora_weight
import train_read
from utils.files import read_lines
from utils.training.checkpoint import BEST, LATEST, CheckpointStore
from utils.training.run_log import METRICS_FILE

pytestmark = pytest.mark.slow


@pytest.fixture
def train(write_preset, capsys) -> Callable[..., tuple[int, str, str]]:
    """A function that trains the micro model; returns (exit code, stdout, stderr)."""

    def run(*flags: str, **changes) -> tuple[int, str, str]:
        preset = write_preset(**{"workers": 0, **changes})
        try:
            code = train_read.main(["--config", str(preset), *flags])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def run_dir(tmp_path) -> Path:
    return tmp_path / "runs" / "read"


def told(out: str) -> list[str]:
    """The lines about what changed."""
    lines = out.splitlines()
    starts = [n for n, line in enumerate(lines) if line.startswith("changed since ")]
    if not starts:
        return []
    end = starts[0] + 1
    while lines[end].startswith("  "):
        end += 1
    return lines[starts[0] : end]


def test_what_changed_is_told_with_where_it_comes_from(train, run_dir, tmp_path, monkeypatch):
    assert train("--epochs=1", "--no_eval", "--lr=0.002")[0] == 0
    preset = tmp_path / "preset.yaml"
    code, out, _ = train("--epochs=3", "--no_eval", "--max_steps=3", "--start_epoch=1")
    assert code == 0
    assert told(out) == [
        f"changed since {run_dir / 'config.yaml'}, with effect from step 3 on:",
        "  epochs: 1 -> 3 (by hand)",
        "  max_steps: none -> 3 (by hand)",
        f"  lr: 0.002 -> 0.001 ({preset})",
        "  start_epoch: 0 -> 1 (by hand; no effect: the checkpoint says where the run stands)",
    ]
    monkeypatch.chdir(tmp_path)
    again = ["--epochs=3", "--no_eval", "--start_epoch=1", "--log_base_dir=runs"]
    code, out, _ = train(*again, "--reason_seg_data=ReasonSeg|val")
    assert code == 0
    assert told(out)[1:] == [
        "  reason_seg_data: ReasonSeg|train -> ReasonSeg|val (by hand)",
        "  max_steps: 3 -> none (the default)",
    ]


def test_the_same_settings_are_not_told(train, tmp_path, monkeypatch, micro_data):
    """Also with the data named by a path that leads to the same place."""
    (tmp_path / "link").symlink_to(micro_data)
    assert train("--max_steps=1", "--no_eval")[0] == 0
    monkeypatch.chdir(tmp_path)
    code, out, _ = train("--max_steps=1", "--no_eval", "--dataset_dir=link", "--save_every=0")
    assert code == 0 and told(out) == [] and "finished" in out


def damage(checkpoint: Path, name: str, how: str) -> None:
    (path,) = checkpoint.glob(name)
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["cut", "empty"])
@pytest.mark.parametrize("name", ["*model_states.pt", "*optim_states.pt"])
def test_a_damaged_file_is_named_with_the_way_out(train, run_dir, name, how):
    assert train("--epochs=3", "--max_steps=2", "--no_eval", "--save_every=1")[0] == 0
    flags = ["--epochs=3", "--keep_checkpoints=2", "--save_every=1"]
    assert train(*flags)[0] == 0
    store = CheckpointStore(run_dir / "ckpt_model")
    newest, best = store.load(LATEST), store.load(BEST)
    assert newest.step == 6
    damage(store.folder / newest.tag, name, how)
    more = ["--epochs=4", *flags[1:]]
    code, _, err = train(*more)
    assert code == 2 and "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    (path,) = (store.folder / newest.tag).glob(name)
    assert (
        f"cannot read the checkpoint {store.folder / newest.tag} (damaged: {path.name}); go on "
        in line
    )
    older = store.folder / "step_00000005"
    assert f"step 5, with the same command and --resume {older}" in line
    if best.step < 5:
        assert f"go on from the best one, step {best.step}, with the same" in line
    assert store.load(LATEST) == newest

    code, out, err = train(*more, f"--resume={older}")
    assert code == 0, err
    assert f"continuing from {older}, step 5" in out
    assert store.load(LATEST).step == 8 and store.load(BEST) is not None
    lines = [line["step"] for line in read_lines(run_dir / METRICS_FILE)]
    assert lines == sorted(set(lines)) and lines[-2:] == [6, 8]
    assert train(*more)[0] == 0


def test_without_another_checkpoint(train, run_dir):
    assert train("--max_steps=2", "--no_eval")[0] == 0
    damage(run_dir / "ckpt_model" / "step_00000002", "*model_states.pt", "cut")
    code, _, err = train("--no_eval")
    assert code == 2 and "no other checkpoint is there: train anew with another --exp_name" in err
    assert merge_lora_weight.main(["--exp_dir", str(run_dir)]) == 2


def test_a_damaged_state_can_be_left_behind(train, run_dir):
    flags = ["--no_eval", "--keep_checkpoints=2", "--save_every=1"]
    assert train("--max_steps=3", *flags)[0] == 0
    store = CheckpointStore(run_dir / "ckpt_model")
    (store.folder / "step_00000003" / "read_state.json").write_text("{")
    code, _, err = train(*flags)
    older = store.folder / "step_00000002"
    assert code == 2 and "read_state.json cannot be read" in err and f"--resume {older}" in err
    assert train(*flags, f"--resume={older}")[0] == 0
    assert store.load(LATEST).step == 4

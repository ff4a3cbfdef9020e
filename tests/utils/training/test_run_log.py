"""The log of a run: curves, `metrics.jsonl`, and what an interrupted attempt leaves in it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils.files import append_lines, read_lines
from utils.training.run_log import METRICS_FILE, RunLog, drop_after


def test_curves_and_validations(tmp_path):
    log = RunLog(tmp_path, active=True, total_steps=2)
    for step in (1, 2):
        log.scalars(step, {"train/loss": 1.0 / step})
        log.advance({"loss": 1.0 / step})
    log.validation({"step": 2, "giou": 0.5, "ciou": 0.25, "see_accuracy": None})
    log.close()
    (line,) = read_lines(tmp_path / METRICS_FILE)
    assert line == {"step": 2, "giou": 0.5, "ciou": 0.25, "see_accuracy": None}
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [point.value for point in events.Scalars("train/loss")] == [1.0, 0.5]
    assert [point.value for point in events.Scalars("val/ciou")] == [0.25]
    assert "val/see_accuracy" not in events.Tags()["scalars"]


def test_weights_and_biases(tmp_path, monkeypatch):
    """The optional package gets the settings, every curve, and the end of the run."""
    told: list = []
    run = SimpleNamespace(
        log=lambda values, step: told.append((step, values)), finish=lambda: told.append("end")
    )
    fake = SimpleNamespace(init=lambda **settings: told.append(settings["config"]) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = RunLog(tmp_path, active=True, total_steps=1, wandb_settings={"lr": 0.1})
    log.scalars(1, {"train/loss": 2.0})
    log.close()
    assert told == [{"lr": 0.1}, (1, {"train/loss": 2.0}), "end"]


def test_other_ranks_write_nothing(tmp_path):
    log = RunLog(tmp_path, active=False, total_steps=2)
    log.scalars(1, {"train/loss": 1.0})
    log.validation({"step": 2})
    log.advance({})
    log.log("text")
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_steps_that_are_done_again_are_dropped(tmp_path):
    path = tmp_path / METRICS_FILE
    for step in (2, 4, 6):
        append_lines(path, [{"step": step}])
    with open(path, "a") as file:
        file.write('{"step": 8, "ci')
    drop_after(path, 4)
    assert [line["step"] for line in read_lines(path)] == [2, 4]
    drop_after(tmp_path / "absent.jsonl", 4)
    assert not (tmp_path / "absent.jsonl").exists()

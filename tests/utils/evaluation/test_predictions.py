"""Predictions on disk: complete, resumable after a kill at any moment, never mixed."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from utils.errors import InputError
from utils.evaluation.evaluator import EvalResult, evaluate
from utils.evaluation.prediction_locks import part_lock
from utils.evaluation.predictions import (
    PredictionFile,
    check_run,
    decode_mask,
    encode_mask,
    fingerprint,
    forget,
    read_run,
    shard_path,
)
from utils.protocol.batch import EvalItem, EvalQuestion

ROOT = Path(__file__).parents[3]
MODE = "generated"


@dataclass
class FakeSegment:
    mask: np.ndarray


class FakeAnswer:
    def __init__(self, mask, text):
        self.mask, self.text, self.present = mask, text, bool(mask.any())
        self.segments = [FakeSegment(mask)] if self.present else []


def make_items(count: int) -> list[EvalItem]:
    items = []
    for index in range(count):
        truth = np.zeros((6, 5), np.uint8)
        truth.ravel()[: index % 7 + 1] = 1
        nothing = EvalQuestion("is it Jürgen's?", np.zeros_like(truth), False, "absent")
        asked = [EvalQuestion(f"what is {index}?", truth, True, "direct"), nothing]
        items.append(EvalItem(f"{index}.png", np.full((6, 5, 3), index, np.uint8), asked))
    return items


def predict(image, questions):
    mask = np.zeros(image.shape[:2], bool)
    mask.ravel()[: image[0, 0, 0] % 5] = True
    return [FakeAnswer(mask, f"answer to {question}") for question in questions]


def run(folder, items, process=0, world=1, slow=0.0):
    """What `test_read.py` does, with a stand-in for the model."""

    def answer(image, questions):
        time.sleep(slow)
        return predict(image, questions)

    check_run(folder, {"items": len(items), "modes": [MODE], "world": world})
    file = PredictionFile(folder, process, world, MODE)
    options = {"rank": process, "world": world, "progress": False, "skip_broken": True}
    return evaluate(answer, items, done=file.done, on_item=file.write, on_skip=file.skip, **options)


def test_masks_survive_the_run_length_code():
    mask = np.random.default_rng(0).random((13, 7)) > 0.5
    code = json.loads(json.dumps(encode_mask(mask)))
    assert code["size"] == [13, 7]
    assert np.array_equal(decode_mask(code), mask)


def test_lines_hold_what_is_promised(tmp_path):
    run(tmp_path, make_items(3))
    lines = [json.loads(x) for x in shard_path(tmp_path, 0, 1).read_text("utf-8").splitlines()]
    assert len(lines) == 6
    line = lines[4]
    assert (line["image"], line["question"], line["kind"]) == ("2.png", "what is 2?", "direct")
    assert (line["present"], line["truth_present"]) == (True, True)
    assert (line["intersection"], line["union"]) == (2, 3)
    assert decode_mask(line["masks"][0]).sum() == 2
    assert lines[1]["question"] == "is it Jürgen's?"


@pytest.mark.parametrize("world", [1, 3])
def test_what_is_read_is_what_was_found(tmp_path, world):
    items = make_items(7)
    found = EvalResult()
    for process in range(world):
        found.merge(run(tmp_path, items, process, world))
    assert read_run(tmp_path).results[MODE].records == found.records


def test_a_file_cut_anywhere_is_completed(tmp_path):
    items = make_items(4)
    run(tmp_path / "whole", items)
    whole = shard_path(tmp_path / "whole", 0, 1).read_bytes()
    for cut in range(0, len(whole), 97):
        folder = tmp_path / str(cut)
        check_run(folder, {"items": 4, "modes": [MODE], "world": 1})
        shard_path(folder, 0, 1).write_bytes(whole[:cut])
        run(folder, items)
        assert shard_path(folder, 0, 1).read_bytes() == whole


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.path.insert(0, sys.argv[2]);"
        "from test_predictions import make_items, run; run(sys.argv[3], make_items(40), slow=0.05)"
    )
    folder = tmp_path / "out"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(ROOT), str(folder)]
    process = subprocess.Popen(command)
    shard = shard_path(folder, 0, 1)
    deadline = time.monotonic() + 60
    while not (shard.exists() and shard.read_bytes().count(b"\n") >= 6):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(InputError, match=r"of 40 images .* goes on where it stopped"):
        read_run(folder)
    lines = [line for line in shard.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"]
    finished = b"".join(lines[: len(lines) // 2 * 2])
    rest = run(folder, make_items(40))
    assert 0 < len({r.item for r in rest.records}) < 40
    assert shard.read_bytes().startswith(finished)
    assert read_run(folder).results[MODE].records == evaluate(predict, make_items(40)).records


def test_damage_elsewhere_is_named(tmp_path):
    run(tmp_path, make_items(3))
    shard = shard_path(tmp_path, 0, 1)
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join([lines[0], b"{broken\n", *lines[2:]]))
    with pytest.raises(InputError, match="line 2, is damaged"):
        PredictionFile(tmp_path, 0, 1, MODE)


def test_two_runs_are_not_mixed(tmp_path):
    check_run(tmp_path, {"items": 3, "modes": [MODE], "world": 1, "model": "a"})
    with pytest.raises(InputError, match=r"\(model: a there, b here\).*--vis_save_path"):
        check_run(tmp_path, {"items": 3, "modes": [MODE], "world": 1, "model": "b"})
    forget(tmp_path)
    check_run(tmp_path, {"items": 3, "modes": [MODE], "world": 1, "model": "b"})


def test_missing_processes_and_folders_are_named(tmp_path):
    run(tmp_path, make_items(3), 0, 2)
    with pytest.raises(InputError, match="predictions_1_of_2.jsonl"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="holds no predictions"):
        read_run(tmp_path / "nowhere")


def test_skipped_images_stay_skipped(tmp_path):
    class Broken(list):
        def __getitem__(self, index):
            if index == 1:
                raise InputError("1.png is no image")
            return super().__getitem__(index)

    run(tmp_path, Broken(make_items(3)))
    result = read_run(tmp_path).results[MODE]
    assert result.skipped == ["1.png is no image"]
    assert {r.item for r in result.records} == {0, 2}
    assert PredictionFile(tmp_path, 0, 1, MODE).done == {0, 1, 2}


def test_new_weights_make_a_new_run(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(500_000))
    before = fingerprint(tmp_path)
    assert before == fingerprint(tmp_path)
    weights.write_bytes(bytes(250_000) + b"x" * 250_000)
    assert fingerprint(tmp_path) != before
    assert fingerprint("owner/name") == "owner/name"


def test_a_model_is_the_same_by_every_path(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(5000))
    (tmp_path / "link").symlink_to(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    for path in ("model", "link", "model/../model", tmp_path / "link"):
        assert fingerprint(path) == fingerprint(tmp_path / "model")
    (tmp_path / "bare").mkdir()
    assert fingerprint("bare") == str(tmp_path / "bare")


def test_the_values_that_differ_are_named_and_no_others(tmp_path, monkeypatch):
    sasp = {"num_points": 30, "t_pos": 0.8, "prompt": "points"}
    run = {"items": 3, "modes": [MODE], "world": 1, "sasp": sasp, "conv_type": None}
    check_run(tmp_path, run)
    other = {**run, "sasp": {**sasp, "t_pos": 0.6}, "modes": ["teacher_forced", MODE]}
    with pytest.raises(InputError) as told:
        check_run(tmp_path, other)
    expected = (
        "another run (modes: generated there, teacher_forced, generated here; "
        "sasp.t_pos: 0.8 there, 0.6 here): give"
    )
    assert expected in str(told.value)
    many = {f"setting_{number:02d}": number for number in range(20)}
    with pytest.raises(InputError, match=r"setting_11: not set there, 11 here; and 8 more\)"):
        check_run(tmp_path, {**run, **many})


def test_an_evaluation_that_still_runs_is_not_called_cut_short(tmp_path):
    items = make_items(3)
    run(tmp_path, items)
    shard = shard_path(tmp_path, 0, 1)
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join(lines[:2]))
    with part_lock(tmp_path, 0, 1):
        with pytest.raises(InputError, match=rf"1 of 3 .*: process {os.getpid()} on .* is still"):
            read_run(tmp_path)
        shard.unlink()
        with pytest.raises(InputError, match="missing: .* is still writing; ask again"):
            read_run(tmp_path)
    with pytest.raises(InputError, match="run test_read.py --cmd inference"):
        read_run(tmp_path)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path, monkeypatch):
    items = make_items(4)
    run(tmp_path / "whole", items)
    sync, synced = os.fsync, []

    def full_after_two(handle):
        synced.append(handle)
        if len(synced) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_after_two)
        with pytest.raises(InputError, match="No space left.*goes on where it stopped"):
            run(tmp_path / "full", items)
    run(tmp_path / "full", items)
    whole = shard_path(tmp_path / "whole", 0, 1).read_bytes()
    assert shard_path(tmp_path / "full", 0, 1).read_bytes() == whole

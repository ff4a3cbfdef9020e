"""`test_read.py` and `demo.py` on a micro model: everything but good answers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import demo
import test_read
from dataset.evaluation import evaluation_set
from dataset.flag_checks import selection
from dataset.toy.world import write_world
from utils.evaluation.predictions import decode_mask, shard_path

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture
def evaluation(micro_merged, micro_data, tmp_path, capsys):
    """Runs `test_read.py`; returns (exit code, stdout, stderr)."""

    def start(*arguments, folder=tmp_path / "out", data=micro_data):
        given = {
            "--pretrained_model_path": micro_merged,
            "--dataset_dir": data,
            "--vis_save_path": folder,
            "--max_new_tokens": 3,
        }
        flags = [str(part) for pair in given.items() for part in pair]
        try:
            code = test_read.main([*flags, *arguments])
        except SystemExit as leaving:
            code = leaving.code
        return code, *capsys.readouterr()

    start.folder = tmp_path / "out"
    return start


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_both_ways_of_asking(evaluation):
    code, out, _ = evaluation("--eval_mode", "both")
    assert code == 0
    assert "Teacher-forced answers" in out and "Generated answers" in out and "gIoU" in out
    lines = lines_of(shard_path(evaluation.folder, 0, 1))
    asked = {(line["mode"], line["item"], line["number"]) for line in lines}
    assert len(asked) == len(lines) == 5 + 5 * 2  # false premises in generated answers alone
    forced = [line for line in lines if line["mode"] == "teacher_forced"]
    assert all(line["truth_present"] and len(line["masks"]) == 1 for line in forced)
    found = metrics_of(evaluation.folder)
    assert found["generated"]["per_kind"]["absent"]["questions"] == 5
    forced_iou = [line["intersection"] / (line["union"] + 1e-5) for line in forced]
    assert found["teacher_forced"]["all"]["giou"] == pytest.approx(np.mean(forced_iou))
    assert decode_mask(forced[0]["masks"][0]).sum() >= forced[0]["intersection"]
    assert (evaluation.folder / "config.yaml").is_file()
    assert "data:image/" in (evaluation.folder / "report.html").read_text("utf-8")


def test_metrics_of_written_predictions(evaluation, capsys):
    evaluation("--eval_mode", "teacher_forced")
    found = metrics_of(evaluation.folder)
    (evaluation.folder / "metrics.json").unlink()
    assert test_read.main(["--cmd", "metrics", "--vis_save_path", str(evaluation.folder)]) == 0
    assert "Teacher-forced answers" in capsys.readouterr().out
    assert metrics_of(evaluation.folder) == found


def test_several_processes_count_each_image_once(evaluation, tmp_path):
    evaluation("--eval_mode", "teacher_forced")
    folder = tmp_path / "shared"
    shares = ["--eval_mode", "teacher_forced", "--world_size", "3", "--process_num"]
    for process in ("2", "0", "1"):
        code, out, _ = evaluation(*shares, process, folder=folder)
        assert code == 0 and "--cmd metrics" in out
    assert evaluation("--cmd", "metrics", folder=folder)[0] == 0
    assert metrics_of(folder) == metrics_of(evaluation.folder)


def test_a_second_start_asks_nothing_again(evaluation, monkeypatch):
    evaluation("--eval_mode", "teacher_forced")
    shard = shard_path(evaluation.folder, 0, 1)
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    code, out, _ = evaluation("--eval_mode", "teacher_forced")
    assert code == 0 and "going on after 2 images" in out
    assert shard.read_bytes() == whole
    code, _, err = evaluation("--eval_mode", "teacher_forced", "--val_split", "test")
    assert code == 2 and "holds the predictions of another run" in err
    assert shard.read_bytes() == whole
    code, _, _ = evaluation("--eval_mode", "teacher_forced", "--val_split", "test", "--no_resume")
    assert code == 0 and len(lines_of(shard)) == 2


@pytest.mark.parametrize("broken", ["001.jpg", "001.json"])
def test_a_broken_file_stops_with_its_path(evaluation, micro_data, tmp_path, broken):
    data = tmp_path / "data"
    shutil.copytree(micro_data, data)
    path = data / "reason_seg" / "ReasonSeg" / "val" / broken
    path.write_bytes(b"\x00 not what it says")
    code, _, err = evaluation("--eval_mode", "teacher_forced", data=data)
    assert code == 2 and str(path) in err and "--skip_broken" in err and "Traceback" not in err
    code, out, _ = evaluation("--eval_mode", "teacher_forced", "--skip_broken", data=data)
    assert code == 0 and "left out (teacher_forced): " in out and str(path) in out
    assert metrics_of(evaluation.folder)["teacher_forced"]["all"]["questions"] == 4
    assert len(metrics_of(evaluation.folder)["teacher_forced"]["skipped"]) == 1


def test_all_mistakes_are_told_at_once(evaluation, tmp_path):
    code, _, err = evaluation(
        "--val_dataset", "RaisonSeg|val", "--world_size", "2", "--process_num", "5", "--unknown"
    )
    assert code == 2
    assert "RaisonSeg" in err and "--process_num=5" in err and "--unknown" in err
    code, _, err = evaluation("--cmd", "metrics", folder=tmp_path / "nowhere")
    assert code == 2 and "nowhere" in err and "--cmd inference" in err


def test_sasp_flags_change_what_the_model_stores(evaluation):
    run = ["--eval_mode", "teacher_forced", "--val_split", "test"]
    assert evaluation(*run, "--sasp_prompt", "text", "--sasp_num_points", "7")[0] == 0
    sasp = json.loads((evaluation.folder / "run.json").read_text())["sasp"]
    assert (sasp["prompt"], sasp["num_points"], sasp["down_sample"]) == ("text", 7, 1)
    code, _, err = evaluation(*run, "--sasp_t_neg", "0.9")
    assert code == 2 and "t_neg" in err and "t_pos" in err


def test_a_folder_that_is_no_model_is_named(evaluation, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = evaluation("--pretrained_model_path", str(tmp_path / "empty"))
    assert code == 2 and "empty" in err and "Traceback" not in err


@pytest.mark.slow
def test_two_ranks_under_torchrun(evaluation, micro_merged, micro_data, tmp_path):
    evaluation("--eval_mode", "teacher_forced")
    folder = tmp_path / "ranks"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "test_read.py"), "--pretrained_model_path", str(micro_merged)]
    command += ["--dataset_dir", str(micro_data), "--vis_save_path", str(folder)]
    command += ["--eval_mode", "teacher_forced", "--max_new_tokens", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Teacher-forced answers") == 1
    assert metrics_of(folder) == metrics_of(evaluation.folder)


def test_demo_with_a_model(micro_merged, micro_data, tmp_path, capsys):
    image = micro_data / "reason_seg" / "ReasonSeg" / "val" / "000.jpg"
    flags = ["--pretrained_model_path", micro_merged, "--image", image]
    flags += ["--prompt", "the red block"]
    flags += ["--vis_save_dir", tmp_path, "--max_new_tokens", "3", "--force_seg"]
    assert demo.main([str(flag) for flag in flags]) == 0
    assert "Say:" in capsys.readouterr().out
    size = Image.open(image).size
    for path in tmp_path.glob("*_mask.png"):
        assert Image.open(path).size == size


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """All evaluation sets, and one of the user's own."""
    data = write_world(tmp_path_factory.mktemp("toy"), 12, 2)
    shutil.copytree(data / "reason_seg" / "ReasonSeg" / "val", data / "own" / "mine" / "val")
    return data


@pytest.mark.parametrize(
    "name",
    [
        "fprefcoco|val",
        "fprefcoco+|testA",
        "fprefcocog|test",
        "R-refcoco|testB",
        "R-refcoco+|val",
        "R-refcocog|test",
        "refcoco|testA",
        "refcoco+|testB",
        "refcocog|umd_exclude_unified|val",
        "refclef|val",
        "ReasonSeg|short",
        "ReasonSeg|overall",
        "mine|val",
    ],
)
def test_every_set_is_asked_in_both_ways(evaluation, toy, name):
    code, out, err = evaluation("--val_dataset", name, "--eval_mode", "both", data=toy)
    assert code == 0, err
    chosen = selection(name, None)
    found = metrics_of(evaluation.folder)
    for mode, with_premises in (("generated", True), ("teacher_forced", False)):
        items = evaluation_set(str(toy), *chosen, false_premises=with_premises)
        questions = [question for item in items for question in item.questions]
        assert found[mode]["all"]["questions"] == len(questions) > 0
        absent = [question for question in questions if not question.exists]
        assert bool(absent) == (with_premises and not name.startswith("ref"))
    assert "Two ways of asking" in out and "gap" in out
    assert "Two ways of asking" in (evaluation.folder / "report.html").read_text("utf-8")

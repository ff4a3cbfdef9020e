"""The quickstart from the toy world to the report, on a micro model and for two steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import quickstart
from utils.cli.options import TrainOptions
from utils.cli.parser import save
from utils.process.run_lock import LOCK_FILE, RunLock

ROOT = Path(__file__).parents[1]
MIXTURE = "sem_seg||refer_seg||correct_refer_seg||vqa||neg_refer_seg||reason_seg"


@pytest.fixture
def start(write_preset, tmp_path):
    """Runs `quickstart.py` from elsewhere; returns the finished process."""
    preset = write_preset(workers=0, batch_size=2, dataset=MIXTURE)

    def run(*arguments):
        command = [sys.executable, str(ROOT / "quickstart.py"), "--preset", str(preset)]
        command += ["--out", "shown", "--images", "60", "--steps", "2", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=280
        )

    return run


@pytest.mark.slow
def test_from_the_toy_world_to_the_report(start, tmp_path):
    done = start()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for number in range(1, 8):
        assert f"=== {number}/7 " in done.stdout
    table = done.stdout[done.stdout.rindex("READ, the tiny preset") :]
    for name in (
        "gIoU, all kinds",
        "gIoU, direct",
        "cIoU, all",
        "See",
        "false premises",
        "minutes",
    ):
        assert name in table
    page = Path(re.findall(r"^report: (.+)$", done.stdout, re.M)[-1])
    assert page == tmp_path / "shown" / "report.html"
    text = page.read_text("utf-8")
    assert text.count('class="card example"') == 6 and text.count("<polyline") >= 4
    assert "Training data" in text and "ade20k, cocostuff" in text
    assert (page.parent / "predictions" / "ablation.html").is_file()
    assert "text + DtoC points" in text and not re.search(r"https?://", text)


def test_a_failing_step_ends_it(start):
    done = start("--seed", "0", "--images", "60", "--steps", "1", "--preset", "broken.yaml")
    assert done.returncode == 2 and "broken.yaml" in done.stderr and "Traceback" not in done.stderr


def test_a_step_that_fails_is_named():
    steps = quickstart.Steps(count=1)
    with pytest.raises(quickstart.InputError, match=r"toy world failed \(exit code 3\)"):
        steps.run("toy world", [sys.executable, "-c", "raise SystemExit(3)"])


def test_only_its_own_folder_is_replaced(tmp_path):
    folder = tmp_path / "out"
    (folder / "old" / "deep").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path)
    (folder / LOCK_FILE).write_text("")
    quickstart.empty(folder)
    assert {path.name for path in folder.iterdir()} == {LOCK_FILE, quickstart.MARK}
    assert quickstart.QuickstartOptions(out=str(folder)).problems() == []
    (folder / quickstart.MARK).unlink()
    assert quickstart.QuickstartOptions(out=str(folder)).problems() == []
    (tmp_path / "mine.txt").write_text("")
    problems = quickstart.QuickstartOptions(out=str(tmp_path)).problems()
    assert any("something else" in problem.message for problem in problems)


def test_a_second_start_in_the_same_folder_deletes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quickstart, "run_steps", lambda *_: pytest.fail("it began"))
    folder = tmp_path / "out"
    with RunLock(folder / LOCK_FILE, f"the folder {folder}", "give another --out"):
        (folder / quickstart.MARK).write_text("")
        (folder / "merged").mkdir()
        assert quickstart.main(["--out", str(folder)]) == 2
        assert (folder / "merged").is_dir()
    said = capsys.readouterr().err
    assert said.startswith(f"error: the folder {folder} is in use by process ")
    assert said.count("\n") == 1


def test_the_page_counts_what_was_drawn(tmp_path):
    options = TrainOptions(dataset="vqa||reason_seg||sem_seg", sample_rates="1,3,0", batch_size=4)
    save(options, tmp_path / "config.yaml")
    table = quickstart.mixture_table(tmp_path, steps=50)
    rows = {row[0].split(" (")[0]: row for row in table.rows}
    drawn = {name: int(row[2]) for name, row in rows.items()}
    assert rows["vqa"][:2] == ["vqa (llava_instruct_150k)", "1"] and drawn["sem_seg"] == 0
    total = 50 * 4 * options.grad_accumulation_steps
    assert sum(drawn.values()) == total and abs(drawn["vqa"] - total / 4) < 4 * total**0.5

"""Merging where it cannot end: a full or a read-only disk, another merge; nothing is lost."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import merge_lora_weight
import train_read
from model.loading import merging
from utils.process.run_lock import RunLock


@pytest.fixture(scope="module")
def trained(micro_settings, tmp_path_factory) -> Path:
    """A finished run of the micro model."""
    import yaml

    folder = tmp_path_factory.mktemp("merging")
    settings = {**micro_settings, "workers": 0, "max_steps": 1, "log_base_dir": str(folder)}
    (folder / "preset.yaml").write_text(yaml.safe_dump(settings))
    assert train_read.main(["--config", str(folder / "preset.yaml"), "--no_eval"]) == 0
    return folder / "read"


@pytest.fixture
def merge(trained, capsys) -> Callable[..., tuple[int, str]]:
    """A function that merges the run; returns the exit code and the last line of stderr."""

    def run(out: Path, *flags: str) -> tuple[int, str]:
        given = ["--exp_dir", str(trained), "--out", str(out), *flags]
        code = merge_lora_weight.main(given)
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return code, (err.strip().splitlines() or [""])[-1]

    return run


@contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own; the test is left where mounting is not allowed."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(["mount", *options]).returncode:
        pytest.skip("no file system can be mounted here; the limit of file sizes is tested instead")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_too_little_space_is_told_before_writing(merge, tmp_path):
    assert merge(tmp_path / "whole")[0] == 0
    size = sum(len(data) for data in content(tmp_path / "whole").values())
    with disk(tmp_path / "small", size // 2 // 1024) as small:
        code, said = merge(small / "merged")
        assert code == 2 and "GB are free" in said and "GB are needed" in said
        assert list(small.iterdir()) == []


def test_the_space_that_is_needed_is_foreseen(merge, tmp_path, monkeypatch):
    found = {}
    monkeypatch.setattr(merging, "check_space", lambda needed, _: found.update(needed))
    out, adapter = tmp_path / "out", tmp_path / "adapter"
    assert merge(out, "--adapter", str(adapter))[0] == 0
    for folder in (out, adapter):
        files = content(folder).items()
        weights = sum(len(d) for n, d in files if not n.endswith((".json", ".md")))
        assert 0.8 * weights < found[folder] <= weights


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True])
def test_a_disk_that_fills_up_meanwhile(merge, tmp_path, monkeypatch, there):
    monkeypatch.setattr(merging, "check_space", lambda *_: None)
    assert merge(tmp_path / "whole")[0] == 0
    size = sum(len(data) for data in content(tmp_path / "whole").values())
    with disk(tmp_path / "small", (size // 2 + there * (size + 65536)) // 1024) as small:
        before = {}
        if there:
            assert merge(small / "merged")[0] == 0
            before = content(small)
        code, said = merge(small / "merged")
        assert code == 2 and "cannot write the merged model" in said
        assert "No space left on device" in said and "another --out" in said
        assert content(small) == before


@pytest.mark.slow
def test_a_file_that_may_not_grow(merge, tmp_path):
    out = tmp_path / "merged"
    assert merge(out)[0] == 0
    before = content(tmp_path)
    with file_limit(200_000):
        code, said = merge(out)
    assert code == 2 and "cannot write the merged model" in said and "another --out" in said
    assert content(tmp_path) == before
    with file_limit(20_000):
        code, said = merge(out, "--adapter", str(tmp_path / "adapter"))
    assert code == 2 and "cannot write the adapter folder" in said and "another --adapter" in said
    assert content(tmp_path) == before


def test_a_folder_that_cannot_be_written(merge, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "model.loading.from_options.build_model", lambda _: pytest.fail("a model was built")
    )
    (tmp_path / "file").write_text("")
    code, said = merge(tmp_path / "file" / "merged")
    assert code == 2 and "cannot write to the folder" in said and "another --out" in said


def test_two_merges_into_one_folder(merge, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "model.loading.from_options.build_model", lambda _: pytest.fail("a model was built")
    )
    out = tmp_path / "merged"
    with RunLock(tmp_path / "merged.lock", f"the folder {out}", "give another --out"):
        code, said = merge(out)
        assert code == 2 and f"the folder {out} is in use by process " in said
    assert list(tmp_path.iterdir()) == []

"""Merging with a model card, and uploading both; the hub's HTTP API is played on this machine."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

import train_read
from tests.hub_stand_in import Hub, Repo, serving

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
MERGE = "merge_lora_weight.py"
WITHOUT_MERGING = (
    "import sys, merge_lora_weight as entry; entry.merge_run = lambda options: options.folder; "
    "sys.exit(entry.main(sys.argv[1:]))"
)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def run(micro_settings, tmp_path_factory) -> Path:
    """A finished run of the micro model, validated twice."""
    folder = tmp_path_factory.mktemp("upload")
    settings = {**micro_settings, "workers": 0, "log_base_dir": str(folder), "exp_name": "small"}
    (folder / "preset.yaml").write_text(yaml.safe_dump(settings))
    assert train_read.main(["--config", str(folder / "preset.yaml")]) == 0
    return folder / "small"


@pytest.fixture(scope="module")
def merged(run, tmp_path_factory) -> Path:
    """The merged folder of that run, card and all; nothing was uploaded."""
    out = tmp_path_factory.mktemp("merged") / "out"
    done = started(None, MERGE, "--exp_dir", str(run), "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


def started(hub: Hub | None, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """A Python program of this repository that takes `hub` for the model hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    home = {"HF_HOME": environment.pop("home", "/nonexistent"), "HF_HUB_DISABLE_XET": "1"}
    at = {"HF_ENDPOINT": hub.address, "HF_TOKEN": hub.token} if hub else {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**kept, **home, **at, **environment},
        timeout=250,
    )


def uploaded(hub: Hub, merged: Path, *flags: str, **environment: str) -> tuple[int, str]:
    """Exit code and stderr of the merging command, whose merging is done already."""
    given = ["--exp_dir", str(merged.parent), "--out", str(merged), *flags]
    (merged.parent / "config.yaml").touch()
    done = started(hub, "-c", WITHOUT_MERGING, *given, **environment)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_merging_uploads_every_byte_and_it_loads_from_there(hub, run, tmp_path):
    out = tmp_path / "out"
    flags = ["--exp_dir", str(run), "--out", str(out), "--push_to_hub", "someone/small-read"]
    done = started(hub, MERGE, *flags, "--private")
    assert done.returncode == 0, done.stderr
    assert f"uploaded: {hub.address}/someone/small-read" in done.stdout
    repo = hub.repos["someone/small-read"]
    assert repo.private and repo.files == content(out)
    assert {"README.md", "config.json", "model.safetensors"} < repo.files.keys()
    assert repo.files["model.safetensors"] in hub.stored.values()
    card = ModelCard.load(out / "README.md")
    assert card.text.count("# small-read") == 1
    clip = str(yaml.safe_load((run / "config.yaml").read_text())["vision_tower"])
    assert clip not in card.content
    shown = card.text.partition("```python\n")[2].partition("answer =")[0]
    assert 'reader = load_read("someone/small-read")' in shown
    loaded = started(hub, "-c", shown, home=str(tmp_path / "home"))
    assert loaded.returncode == 0, loaded.stderr
    asked = [line for line in hub.asked if "resolve/" in line and "safetensors" in line]
    assert any(line.startswith("GET") for line in asked)
    got = [line for line in hub.asked if line.startswith("GET") and "/vision_tower/" in line]
    assert len(got) == sum(name.startswith("vision_tower/") for name in repo.files) > 1


def test_weights_of_an_older_upload_go(hub, merged):
    """Sent in one stream of commits, without LFS: the way of huggingface_hub with hf_xet."""
    hub.large = False
    old = {"model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": b"{}"}
    kept = {"figure.png": b"mine", ".gitattributes": b""}
    hub.repos["someone/old"] = Repo(files={**old, **kept, "config.json": b"{}"})
    code, said = uploaded(hub, merged, "--push_to_hub=someone/old", HF_HUB_DISABLE_XET="0")
    assert code == 0, said
    assert hub.repos["someone/old"].files == {**content(merged), **kept}


def test_a_private_upload_never_goes_to_a_public_repository(hub, merged):
    hub.repos["someone/public"] = Repo()
    code, said = uploaded(hub, merged, "--push_to_hub=someone/public", "--private")
    assert code == 2 and "is there and public, and --private was given" in said
    assert hub.repos["someone/public"].files == {}


@pytest.mark.parametrize(
    "repo, environment, expected",
    [
        ("someone/a", {"HF_TOKEN": ""}, "needs a token that may write, and there is none"),
        ("someone/a", {"HF_TOKEN": "hf_old"}, "the hub does not accept the token"),
        ("other/a", {}, "the token may not write there"),
        ("someone/a", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ("someone/a", {"HF_ENDPOINT": "dead"}, "the hub cannot be reached"),
    ],
    ids=["no token", "wrong token", "no permission", "offline", "dead network"],
)
def test_what_keeps_it_from_the_hub(hub, merged, repo, environment, expected):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        given = {key: dead if value == "dead" else value for key, value in environment.items()}
        before = content(merged)
        code, said = uploaded(hub, merged, f"--push_to_hub={repo}", **given)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and expected in errors[0]
    assert f"the merged model {merged} is complete and stays" in errors[0]
    assert content(merged) == before and hub.repos == {}


def test_a_card_that_the_hub_refuses(hub, merged):
    hub.refuses_card = "the licence is unheard of"
    code, said = uploaded(hub, merged, "--push_to_hub=someone/card")
    assert code == 2 and "the hub refused" in said and "the licence is unheard of" in said
    assert hub.repos["someone/card"].files == {}


def test_the_command_that_it_names_uploads_later(hub, merged):
    hub.breaks_at = "/commit/"
    code, said = uploaded(hub, merged, "--push_to_hub=someone/late", "--private")
    assert code == 2 and "the hub refused" in said and "not today" in said
    assert hub.repos["someone/late"].files == {}
    hub.breaks_at = None
    program, *words = shlex.split(said.rpartition("upload it later with: ")[2])
    assert program == "hf"
    done = started(hub, "-m", "huggingface_hub.cli.hf", *words)
    assert done.returncode == 0, done.stderr
    assert hub.repos["someone/late"].files == content(merged)

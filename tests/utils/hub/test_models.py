"""What cannot be had from the hub is told at once, by its name and with the remedy."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from huggingface_hub import constants

from model import load_read
from utils.errors import InputError
from utils.hub import models

CLIP = "openai/clip-vit-large-patch14-336"


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """As without HF_HUB_OFFLINE; nothing learned before counts."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    models._ask.cache_clear()
    yield
    models._ask.cache_clear()


@pytest.fixture
def dead_hub(monkeypatch) -> list[tuple]:
    """A hub on this machine that takes no connection; the addresses of all that was tried."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    tried = []

    def connect(self: socket.socket, address: tuple) -> None:
        tried.append(address)
        super(socket.socket, self).connect(address)

    monkeypatch.setattr(socket.socket, "connect", connect, raising=False)
    return tried


@pytest.fixture
def answering_hub(monkeypatch):
    """A hub on this machine; set `.reply` to what it says, None for nothing at all."""

    class Hub:
        reply: bytes | None = None
        asked = 0

    server = socket.create_server(("127.0.0.1", 0))
    held = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            Hub.asked += 1
            connection.recv(65536)
            if Hub.reply is None:
                held.append(connection)
            else:
                connection.sendall(Hub.reply)
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    yield Hub
    server.close()
    for connection in held:
        connection.close()


def response(status: str, body: dict, *headers: str) -> bytes:
    text = json.dumps(body)
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", "Connection: close"]
    return "\r\n".join([*lines, *headers, f"Content-Length: {len(text)}", "", text]).encode()


def test_a_merged_folder_whose_clip_is_out_of_reach(micro_merged, dead_hub, tmp_path):
    """Before any weight is read: those of the folder are damaged. Nothing is tried again."""
    config = json.loads((micro_merged / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "mm_vision_tower": CLIP, "vision_tower": CLIP})
    )
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((micro_merged / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    for attempt in (lambda: load_read(tmp_path), lambda: models.check_models(str(tmp_path), None)):
        with pytest.raises(InputError) as error:
            attempt()
        said = str(error.value)
        assert CLIP in said and "cannot be reached" in said and "--vision_tower FOLDER" in said
        assert "\n" not in said
    assert len(dead_hub) <= 2  # huggingface_hub also looks up what program it runs in


def test_a_model_that_is_not_there(dead_hub):
    with pytest.raises(InputError, match="the model 'some/model' is no folder here, and the model"):
        load_read("some/model")


def test_a_misspelt_name(answering_hub):
    answering_hub.reply = response(
        "404 Not Found", {"error": "Repository not found"}, "X-Error-Code: RepoNotFound"
    )
    with pytest.raises(InputError, match="'some/modle' is no folder here and no public model on"):
        models.check_model("some/modle")


def test_a_hub_that_has_it_is_asked_once(answering_hub):
    answering_hub.reply = response("200 OK", {"id": CLIP, "siblings": [], "tags": []})
    models.check_tower(CLIP)
    models.check_tower(CLIP)
    assert answering_hub.asked == 1


def test_a_hub_that_says_nothing(answering_hub, monkeypatch):
    monkeypatch.setattr(models, "PATIENCE_S", 0.5)
    with pytest.raises(InputError, match="cannot be reached"):
        models.check_tower(CLIP)


def test_what_lies_in_the_cache_is_taken_from_there(dead_hub, monkeypatch):
    cached = {(CLIP, "config.json")}
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda name, file: "/somewhere" if (name, file) in cached else None,
    )
    models.check_tower(CLIP)
    assert constants.HF_HUB_OFFLINE is True
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        models.check_model("some/model")


def test_folders_and_paths_are_not_asked_for(answering_hub, tmp_path, monkeypatch):
    (tmp_path / "own" / "clip").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for source in ("own/clip", tmp_path / "own", "/nowhere/at/all", "a/b/c"):
        models.check_tower(source)
    assert answering_hub.asked == 0

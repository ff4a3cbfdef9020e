"""The page's server without a browser: forged requests, and many visitors at once."""

import html
import http.server
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.model.babble import QUESTIONS, images
from tests.small_read import write_small_read
from tests.web import hostile
from tests.web.client import DEFAULTS, Client
from tests.web.conftest import LIMITS
from utils.errors import InputError
from web.serving import serving

pytestmark = pytest.mark.slow

SECRET = "/etc/passwd"
JSON = {"content-type": "application/json"}


@pytest.fixture
def client(server) -> Client:
    return Client(server)


@pytest.fixture
def lives(client, upload, reader, image):
    """After the test, the server answers as if nothing had been."""
    yield
    answer = reader.segment(image, QUESTIONS[0], max_new_tokens=LIMITS.new_tokens)
    told = client.ask(client.image(upload), QUESTIONS[0])
    assert f"{answer.mask.sum()} pixels" in told["status"]


@pytest.fixture(scope="module")
def inner_server():
    """Another server on this machine, which must never hear of us; its address and requests."""
    heard = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_POST = do_GET

        def log_message(self, *_):
            pass

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}/x.png", heard
    listener.shutdown()
    listener.server_close()


def mask_behind(client, files: str) -> np.ndarray:
    """The mask that the download link leads to."""
    link = re.search(r'href="(download/[^"]+/mask\.png)"', files)[1]
    content = client.http.get(f"/{link}").raise_for_status().content
    return np.asarray(Image.open(io.BytesIO(content))) == 255


def test_eight_visitors_at_once_get_their_own_answers(server, reader, tmp_path):
    photos = images(8)
    questions = [QUESTIONS[n % len(QUESTIONS)] for n in range(8)]

    def visit(number: int) -> tuple[str, np.ndarray | None]:
        path = tmp_path / f"{number}.png"
        Image.fromarray(photos[number]).save(path)
        client = Client(server)
        sent = client.image(path)
        client.ask(sent, QUESTIONS[-1])
        told = client.ask(sent, questions[number])
        return told["status"], mask_behind(client, told["files"]) if told["files"] else None

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(visit, range(8)))
    for image, question, (status, mask) in zip(photos, questions, found, strict=True):
        answer = reader.segment(image, question, max_new_tokens=LIMITS.new_tokens)
        assert html.escape(answer.text) in status
        assert (mask is None) == (not answer.segments)
        assert mask is None or np.array_equal(mask, answer.mask)
    assert sum(mask is not None for _, mask in found) > 4


def test_hostile_files(client, lives, tmp_path):
    for name, (_, message) in hostile.FILES.items():
        path = hostile.write(tmp_path, name)
        if name == "heavy.png":
            assert client.upload(path).status_code == 413
            continue
        sent = client.image(path)
        told = client.run(client.event(1, "change"), [sent])
        assert message in told["status"] and 'role="alert"' in told["status"]
        assert message in client.ask(sent, "cat")["status"]


def test_very_long_and_very_strange_questions(client, lives, upload):
    sent = client.image(upload)
    assert "102,400 characters" in client.ask(sent, "a" * 102_400)["status"]
    for question in ("", None, 7, ["a"], {"text": "a"}):
        assert "type a question" in client.ask(sent, question)["status"]
    told = client.ask(sent, f"<script>alert(1)</script> {SECRET} ../ http://127.0.0.1/x.png")
    assert "<script>" not in told["status"] and "<dl" in told["status"]


def test_settings_clicks_and_layers_that_are_forged(client, lives, upload):
    sent = client.image(upload)
    client.ask(sent, QUESTIONS[0])
    for place, value in enumerate(["evil", 1e300, -5, {"a": 1}, None, True, "9"]):
        forged = [*DEFAULTS[:place], value, *DEFAULTS[place + 1 :]]
        told = client.run(client.event(8, "input"), [True, *forged])
        assert 'role="alert"' in str(told.get("status")), told
    select = client.event(2, "select")
    for place in ([1e9, 1], [-3, 2], "x", None, [1], [[1], 2]):
        told = client.run(select, ["positive", True], {"index": place, "value": None})
        assert 'role="alert"' in told["status"]
    told = client.run(select, ["explode", True], {"index": [1, 1], "value": None})
    assert "positive, negative, remove" in told["status"]


def test_no_path_or_url_that_a_visitor_sends_is_opened(client, lives, inner_server):
    address, heard = inner_server
    names = [SECRET, "../../../../etc/passwd", "file:///etc/passwd", address, "/proc/self/environ"]
    names += ["https://example.com/x.png", "", None, ["/etc/passwd"], {"path": SECRET}]
    events = (client.event(1, "change"), client.event(12, "click"))
    for name, event in itertools.product(names, events):
        for more in ({}, {"url": address, "is_stream": True}):
            sent = {"path": name, "meta": {"_type": "gradio.FileData"}, **more}
            data = [sent, "cat", False, False, True, *DEFAULTS][: len(event["inputs"])]
            response = client.join(event, data)
            assert response.status_code == 403 and "root:" not in response.text
    assert heard == []


def test_an_uploaded_file_cannot_be_left_by_its_path(client, lives, upload):
    sent = client.image(upload)
    outside = {**sent, "path": f"{sent['path']}/../../../../../../etc/passwd"}
    assert client.join(client.event(1, "change"), [outside]).status_code == 403
    tricky = {**sent, "url": f"file://{SECRET}", "orig_name": f"../../{SECRET}"}
    assert "80 x 60 pixels" in client.run(client.event(1, "change"), [tricky])["status"]


@pytest.mark.parametrize(
    "path",
    [
        f"/gradio_api/file={SECRET}",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=%2e%2e/%2e%2e/etc/passwd",
        "/gradio_api/file=demo.py",
        "/gradio_api/file=INNER",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=INNER",
        "/assets/../../../../../../etc/passwd",
        "/assets/..%2f..%2f..%2f..%2fetc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/routes.py",
        "/download/../../etc/passwd",
        "/download/none/mask.png",
        "/gradio_api/openapi.json",
        "/gradio_api/runs",
        "/gradio_api/custom_component/x/client/component/..%2f..%2fx",
        "/gradio_api/stream/a/b/c/playlist.m3u8",
        "/monitoring",
        "/monitoring/summary",
        "/docs",
        "/login_check",
    ],
)
def test_addresses_that_lead_nowhere(client, inner_server, path):
    address, heard = inner_server
    response = client.http.get(path.replace("INNER", address))
    assert response.status_code in (403, 404)
    assert "root:" not in response.text and "import " not in response.text and heard == []


def test_no_way_around_the_queue(client):
    paths = ["run/_asked", "api/_asked", "call/_asked", "component_server", "vibe-edit"]
    paths += ["process_recording", "queue/join/../../run/_asked", "stream/1", "deep_link"]
    body = {"data": [{"path": SECRET}], "session_hash": client.session}
    for path in paths:
        assert client.http.post(f"/gradio_api/{path}", json=body).status_code == 404


def test_requests_that_are_no_requests(client, lives):
    join = "/gradio_api/queue/join"
    assert client.http.post(join, content=b"[" * 100_000).status_code == 400
    assert client.http.post(join, content=b"\xff\xfe").status_code == 400
    assert client.http.post(join, content=b"a" * (1 << 21)).status_code == 413
    assert client.http.post(join, content=iter([b"{}"])).status_code == 411
    assert client.http.put(join, json={}).status_code == 404
    assert client.http.post(join, json={"data": []}).status_code in (400, 422)
    assert client.http.post("/gradio_api/upload", content=b"x").status_code in (400, 422)


NUMBERS = [None, "", "x", "1", -1, 10**6, 10**30, 1.5, True, [1], [], {"a": 1}, {}]
"""That are no event of the page."""


@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_events_that_there_are_not(client, number):
    ids = {"event_id": "x", "session_hash": client.session, "data": []}
    for path in ("queue/join", "cancel"):
        response = client.http.post(f"/gradio_api/{path}", json={**ids, "fn_index": number})
        assert response.status_code == 400 and "fn_index" in response.text
        response = client.http.post(f"/gradio_api/{path}", json=ids)
        assert response.status_code == 400 and "fn_index" in response.text


STRANGE = [None, "", "\ud800", -1, 10**30, 1.5, True, [], [[]], {}, {"a": {}}, "a" * 10_000]


@pytest.mark.parametrize("part", ["data", "event_data", "trigger_id", "session_hash", None])
def test_a_strange_request_is_never_a_fault_of_the_server(server, lives, part):
    client = Client(server)
    for value in STRANGE:
        body = {
            "data": [None],
            "event_data": None,
            "fn_index": client.event(1, "change")["id"],
            "trigger_id": None,
            "session_hash": client.session,
        }
        sent = json.dumps({**body, part: value} if part else value)
        for path in ("queue/join", "cancel", "reset"):
            response = client.http.post(f"/gradio_api/{path}", content=sent, headers=JSON)
            assert response.status_code < 500, (path, value)


def test_half_a_character_is_an_error_with_words(client, lives, upload):
    sent = client.image(upload)
    for question in ("a cat \ud83d", "\udc31"):
        status = client.ask(sent, question)["status"]
        assert "lone surrogate" in status and 'role="alert"' in status


def test_answers_come_with_a_policy(client):
    for path in ("/", "/nothing", "/config"):
        headers = client.http.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"


def test_another_visitors_masks_are_not_found(server, client, upload):
    told = client.ask(client.image(upload), QUESTIONS[0])
    other = Client(server)
    seen = other.run(other.event(2, "select"), ["positive", True], {"index": [1, 1], "value": None})
    assert "no answer to change" in seen["status"]
    old = re.search(r'href="(download/[^"]+/mask\.png)"', told["files"])[1]
    client.run(client.event(1, "change"), [None])
    assert client.http.get(f"/{old}").status_code == 404


def test_a_port_in_use_is_told(server, reader):
    port = int(server.rpartition(":")[2])
    with pytest.raises(InputError, match=f"--port={port}"), serving(reader, port=port):
        pass


@pytest.mark.slow
def test_the_command_serves_and_stops_cleanly(tmp_path):
    model = write_small_read(tmp_path / "read")
    folder = tmp_path / "temporary"
    folder.mkdir()
    command = [sys.executable, "demo.py", "--web", "--port", "0", "--pretrained_model_path", model]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = next(
            found[1] for line in process.stdout if (found := re.search(r"(http://[\d.:]+)", line))
        )
        assert address.startswith("http://127.0.0.1:")
        assert "READ: reasoning to attend" in httpx.get(address).text
        assert list(folder.glob("read_web_*"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0 and process.stdout.read().strip().endswith("stopped")
    finally:
        process.kill()
        process.stdout.close()
    assert not list(folder.glob("read_web_*"))

"""Requests that other sites make through a visitor's browser."""

import http.server
import os
import threading
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.web.client import Client
from tests.web.test_page import encoded_image
from web.hosts import Hosts
from web.serving import serving

ATTACK = """<!doctype html><title>waiting</title>
<iframe src="SERVER/" name="framed"></iframe>
<form method="post" enctype="multipart/form-data" action="SERVER/gradio_api/upload" target="framed">
<input name="files" value="x"></form>
<script>
(async () => {
  const form = new FormData();
  form.append('files', new Blob(['harm'], {type: 'image/png'}), 'x.png');
  const simple = {method: 'POST', mode: 'no-cors', body: form};
  await fetch('SERVER/gradio_api/upload', simple).catch(() => {});
  let read = 'nothing';
  try { read = (await fetch('SERVER/config')).ok ? 'all' : read; } catch (error) {}
  document.forms[0].submit();
  setTimeout(() => { document.title = 'read ' + read; }, 1000);
})();
</script>"""


def headers(**given: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:7860", "127.0.0.1", "localhost:7860", "LOCALHOST", "localhost.", "[::1]:7860"]
    + ["read.lan:80", "proxy.example"],
)
def test_served_names(host):
    assert Hosts("read.lan", ["Proxy.example"]).why_not("GET", headers(host=host)) is None


@pytest.mark.parametrize(
    "host",
    ["evil.test", "evil.test:7860", "127.0.0.1.evil.test", "localhost.evil.test", "10.0.0.1", ""]
    + ["evil.test@localhost", "localhost@evil.test", "localhost/evil", "[::1", "::1", "localhost:x"]
    + ["[fe80::1]:7860", "0.0.0.0:7860", "read.lan,evil.test"],
)
def test_names_that_are_not_served(host):
    refusal = Hosts("read.lan").why_not("GET", headers(host=host))
    assert refusal and repr(host) in refusal and "--web_names" in refusal


def test_a_request_names_one_host():
    hosts = Hosts("127.0.0.1")
    assert hosts.why_not("GET", []) is not None
    assert hosts.why_not("GET", headers(host="localhost") * 2) is not None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]"])
def test_on_every_interface_any_address_is_served_but_no_name(host):
    hosts = Hosts(host)
    for name in ("192.168.1.5:7860", "[fe80::1]:7860", "localhost"):
        assert hosts.why_not("GET", headers(host=name)) is None
    assert hosts.why_not("GET", headers(host="evil.test:7860")) is not None


OWN = {"host": "localhost:7860"}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"origin": "http://localhost:7860"},
        {"origin": "https://LOCALHOST:7860", "sec_fetch_site": "same-origin"},
        {"origin": "https://proxy.example", "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
    ],
)
def test_posts_of_the_page(more):
    hosts = Hosts("127.0.0.1", ["proxy.example"])
    assert hosts.why_not("POST", headers(**OWN, **more)) is None


@pytest.mark.parametrize(
    "more",
    [
        {"origin": "http://evil.test"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://localhost:3000"},
        {"origin": "http://127.0.0.1:7860"},
        {"origin": "http://localhost:7860", "sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
    ],
)
def test_posts_of_other_pages(more):
    assert "may not use" in str(Hosts("127.0.0.1").why_not("POST", headers(**OWN, **more)))


def test_a_link_from_another_site_opens_the_page():
    link = headers(**OWN, sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    assert Hosts("127.0.0.1").why_not("GET", link) is None
    image = headers(**OWN, sec_fetch_site="cross-site", sec_fetch_mode="no-cors")
    assert Hosts("127.0.0.1").why_not("GET", image) is not None


def test_the_server_refuses_foreign_hosts_and_origins(server, upload):
    client = Client(server)
    event = client.event(1, "change")
    for name, value in (
        ("host", "evil.test"),
        ("host", "evil.test:7860"),
        ("origin", "http://evil.test"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ):
        client.http.headers[name] = value
        assert client.http.get("/config").status_code == 403
        assert client.upload(upload).status_code == 403
        assert client.join(event, [None]).status_code == 403
        del client.http.headers[name]
    assert client.upload(upload).status_code == 200


def test_a_server_with_further_names(reader):
    with serving(reader, names=["proxy.example"]) as address:
        own = httpx.get(address, headers={"host": "proxy.example"})
        assert own.status_code == 200
        assert httpx.get(address, headers={"host": "other.example"}).status_code == 403


def test_a_page_of_another_site_does_nothing_here(visit, server, tmp_path):
    """A real browser on a page of another origin: frames, uploads and reads of ours."""
    page = ATTACK.replace("SERVER", server)

    def sent() -> set[Path]:
        return set(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*"))

    before = sent()

    class Attacker(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_):
            pass

    attacker = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Attacker)
    threading.Thread(target=attacker.serve_forever, daemon=True).start()
    try:
        seen = visit(f"http://127.0.0.1:{attacker.server_port}/")
        seen.page.wait_for_function("document.title.startsWith('read')")
        assert seen.page.title() == "read nothing"
        assert sent() == before
        assert any("frame-ancestors" in error for error in seen.errors)
        assert seen.page.frame("framed").locator("#question").count() == 0
    finally:
        attacker.shutdown()
        attacker.server_close()
    Image.new("RGB", (80, 60), "navy").save(tmp_path / "own.png")
    encoded_image(visit(server), str(tmp_path / "own.png"))
    assert sent() != before

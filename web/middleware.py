"""What of the web server can be reached. gradio offers far more than the page needs.

Only the addresses of `OPEN` answer, and only to the page itself. No request makes the server open a
URL or a file that was not uploaded, and no request is larger than it has to be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from web.hosts import Hosts
from web.limits import Limits
from web.uploads import Uploads

OPEN = re.compile(
    r"""(?:GET|HEAD)\ /(?:
            |(?:assets|static|svelte|_app)/.*
            |config/?|theme\.css|favicon\.ico|manifest\.json|pwa_icon(?:/\d+)?|robots\.txt
            |download/[\w-]+/[\w.]+
            |gradio_api/(?:info/?|startup-events|app_id/?|heartbeat/\w+|upload_progress)
            |gradio_api/queue/data
            |gradio_api/file=(?P<file>.+)
        )
        |POST\ /gradio_api/(?P<post>upload|queue/join|cancel|reset/?)""",
    re.VERBOSE,
)
SESSION = re.compile(r"\w{1,64}", re.ASCII)
BODY_BYTES = 1 << 20
"""Of a request that is no upload."""
ENVELOPE_BYTES = 1 << 16
"""Around the file in an upload."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' "
    "blob:; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
Scope = dict[str, Any]


class Refused(Exception):
    """A request that is not let through.

    Args:
        status: of the response.
        why: for people.
    """

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


class RequestMiddleware:
    """ASGI middleware.

    Args:
        app: behind it.
        uploads: the folder that may be read.
        limits: of what is accepted.
        hosts: the names that the page has.
        events: numbers of what a visitor may start (gradio's `fn_index`).
    """

    def __init__(
        self,
        app: Callable,
        uploads: Uploads,
        limits: Limits,
        hosts: Hosts,
        events: Collection[int],
    ):
        self.app = app
        self.uploads = uploads
        self.limits = limits
        self.hosts = hosts
        self.events = events

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_safely(message: Scope) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        try:
            receive = await self._checked(scope, receive)
        except Refused as refusal:
            await _answer(send_safely, refusal)
            return
        await self.app(scope, receive, send_safely)

    async def _checked(self, scope: Scope, receive: Callable) -> Callable:
        """What the request is received by, once it has been found harmless.

        Raises:
            Refused: it is not.
        """
        if foreign := self.hosts.why_not(scope["method"], scope["headers"]):
            raise Refused(403, foreign)
        match = OPEN.fullmatch(f"{scope['method']} {scope['path']}")
        if match is None:
            raise Refused(404, "There is nothing here.")
        if match["file"] is not None and not self.uploads.holds(match["file"]):
            raise Refused(403, "This file is not for visitors.")
        if match["post"] == "upload":
            _check_length(scope, self.limits.upload_bytes + ENVELOPE_BYTES)
            if not self.uploads.has_room():
                raise Refused(507, "The server is full. Please try again later.")
        if match["post"] in (None, "upload"):
            return receive
        _check_length(scope, BODY_BYTES)
        body = await _read(receive)
        try:
            sent = json.loads(body or b"null")
        except (ValueError, RecursionError) as error:
            raise Refused(400, "The request is not JSON.") from error
        if not all(map(self.uploads.holds, _paths(sent))):
            raise Refused(403, "Only files that were uploaded here can be used.")
        self._check_form(match["post"], sent)
        return _replay(body, receive)

    def _check_form(self, post: str, sent: Any) -> None:
        """Refuse what gradio would stumble over. Half characters in `data` are told on the page."""
        if not isinstance(sent, dict):
            raise Refused(400, "The request is no JSON object.")
        data = sent.get("data") if post == "queue/join" else []
        rest = {name: value for name, value in sent.items() if value is not data}
        if not isinstance(data, list) or not _is_text(json.dumps(rest, ensure_ascii=False)):
            raise Refused(400, "The request holds no list of data, or text that is no Unicode.")
        if post not in ("queue/join", "cancel"):
            return
        number, session = sent.get("fn_index"), sent.get("session_hash")
        if type(number) is not int or number not in self.events:
            raise Refused(400, "There is no such event: fn_index is not one of this page.")
        if not isinstance(session, str) or not SESSION.fullmatch(session):
            raise Refused(400, "The request does not tell its session: session_hash.")


def _is_text(text: str) -> bool:
    """Whether it can be encoded: no half of a character stands alone in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _paths(sent: Any) -> Iterator[Any]:
    """Whatever stands for a file in a request."""
    left = [sent]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if "path" in value:
                yield value["path"]
            left += value.values()
        elif isinstance(value, list):
            left += value


def _check_length(scope: Scope, most: int) -> None:
    """The server reads no more of a request than the request says it has."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    if not length.isdigit():
        raise Refused(411, "The request does not tell its length.")
    if int(length) > most:
        raise Refused(413, f"The request is larger than {most:,} bytes.")


async def _read(receive: Callable) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Refused(400, "The request ended early.")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Callable) -> Callable:
    """A `receive` that gives the body that was read, and then what the first one gives."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Scope:
        return left.pop() if left else await receive()

    return again


async def _answer(send: Callable, refusal: Refused) -> None:
    body = json.dumps({"detail": str(refusal)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

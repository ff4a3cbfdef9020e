"""Speaks with the page's server as a browser does, or as one who means harm."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

DEFAULTS = ("points", 30, 2, "fixed", 0.8, 0.2, 0.5)
"""Settings of the small model in the order of the page."""


class Client:
    """One visitor.

    Args:
        address: of the server.
    """

    def __init__(self, address: str):
        self.http = httpx.Client(base_url=address, timeout=60)
        self.session = uuid.uuid4().hex[:12]
        config = self.http.get("/config").raise_for_status().json()
        self._names = {part["id"]: part for part in config["components"]}
        self._events = config["dependencies"]

    def event(self, inputs: int, target: str) -> dict[str, Any]:
        """The event with so many inputs that is started by this action (`click`, `change`...)."""
        (found,) = (
            event
            for event in self._events
            if len(event["inputs"]) == inputs and any(t[1] == target for t in event["targets"])
        )
        return found

    def upload(self, path: Path | str) -> httpx.Response:
        """Send a file."""
        files = {"files": (Path(path).name, Path(path).read_bytes())}
        return self.http.post("/gradio_api/upload", files=files)

    def image(self, path: Path | str) -> dict[str, Any]:
        """Send a file; what then stands for it."""
        (name,) = self.upload(path).raise_for_status().json()
        return {"path": name, "meta": {"_type": "gradio.FileData"}}

    def join(self, event: dict[str, Any], data: list[Any], chosen: Any = None) -> httpx.Response:
        """Start an event."""
        body = {
            "data": data,
            "event_data": chosen,
            "fn_index": event["id"],
            "trigger_id": event["targets"][0][0],
            "session_hash": self.session,
        }
        return self.http.post(
            "/gradio_api/queue/join",
            content=json.dumps(body),
            headers={"content-type": "application/json"},
        )

    def run(self, event: dict[str, Any], data: list[Any], chosen: Any = None) -> dict[str, Any]:
        """Start an event and wait for its end; name or kind of each output -> its value."""
        self.join(event, data, chosen).raise_for_status()
        last: dict[str, Any] = {}
        where = {"session_hash": self.session}
        with self.http.stream("GET", "/gradio_api/queue/data", params=where) as lines:
            for line in lines.iter_lines():
                message = json.loads(line.removeprefix("data:") or "{}") if line else {}
                if message.get("msg") == "process_completed":
                    last = message
                    break
        if not last["success"]:
            return {"failed": last["output"].get("error")}
        names = [self._names[number]["props"].get("elem_id") for number in event["outputs"]]
        return dict(zip(names, last["output"]["data"], strict=True))

    def ask(self, image: Any, question: Any, settings: Sequence[Any] = DEFAULTS) -> dict[str, Any]:
        """Ask about an image."""
        event = self.event(5 + len(DEFAULTS), "click")
        return self.run(event, [image, question, False, False, True, *settings])

"""The model hub's HTTP API as far as uploading and loading a model need it, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = r"([\w.-]+/[\w.-]+)"


@dataclass
class Repo:
    """A model repository: whether it is private, and its files."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Hub:
    """What the stand-in holds and was asked.

    Args:
        token: the only one that is accepted; it may write to the repositories of `owner`.
        large: whether files that are not text take the way of large files (LFS).
    """

    token: str = "hf_writer"
    owner: str = "someone"
    large: bool = True
    address: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuses_card: str | None = None
    """What is wrong with the metadata of any card, if it is to be refused."""
    breaks_at: str | None = None
    """Part of the path of a request that is answered with an error of the server."""


class Handler(BaseHTTPRequestHandler):
    """One request; `server.hub` is the state."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, body: Any = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_any(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.breaks_at and self.hub.breaks_at in path:
            return self.reply(501, {"error": "not today"})
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split():
                return answer(self, body, *found.groups())
        return self.reply(404, {"error": f"the stand-in knows no {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def may(self, owner: str) -> bool:
        """Whether this request may write; refuses it if not."""
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.reply(401, {"error": "Invalid username or password."})
            return False
        if owner != self.hub.owner:
            self.reply(403, {"error": f"You don't have the rights to write to {owner}"})
            return False
        return True

    def whoami(self, _: bytes) -> None:
        self.reply(200, {"type": "user", "name": self.hub.owner, "orgs": []})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        owner = asked["organization"] or self.hub.owner
        if not self.may(owner):
            return
        name, url = f"{owner}/{asked['name']}", f"{self.hub.address}/{owner}/{asked['name']}"
        if name in self.hub.repos:
            return self.reply(409, {"error": "You already created this model repo", "url": url})
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.repos[name] = Repo(private)
        self.reply(200, {"url": url, "name": name})

    def validate_yaml(self, body: bytes) -> None:
        errors = [{"message": self.hub.refuses_card}] if self.hub.refuses_card else []
        if "pipeline_tag: image-segmentation" not in json.loads(body)["content"]:
            errors.append({"message": "this is not the card of a READ"})
        self.reply(400 if errors else 200, {"errors": errors, "warnings": []})

    def info(self, _: bytes, name: str) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            return self.reply(404, {"error": "not found"}, X_Error_Code="RepoNotFound")
        siblings = [{"rfilename": path} for path in sorted(repo.files)]
        shown = {"private": repo.private, "siblings": siblings, "sha": COMMIT, "tags": []}
        self.reply(200, {"id": name, "modelId": name, **shown})

    def tree(self, _: bytes, name: str) -> None:
        files = self.hub.repos[name].files.items()
        oid = "0" * 40
        self.reply(
            200,
            [{"type": "file", "path": p, "size": len(data), "oid": oid} for p, data in files],
        )

    def preupload(self, body: bytes, name: str) -> None:
        if not self.may(name.split("/")[0]):
            return
        files = []
        for file in json.loads(body)["files"]:
            text = file["path"].endswith((".json", ".md", ".txt", ".jinja"))
            mode = "lfs" if self.hub.large and not text else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        self.reply(200, {"files": files})

    def lfs_batch(self, body: bytes, name: str) -> None:
        if not self.may(name.split("/")[0]):
            return
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self.reply(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.reply(422, {"error": "other bytes than announced"})
        self.hub.stored[oid] = body
        self.reply(200, {})

    def commit(self, body: bytes, name: str) -> None:
        if not self.may(name.split("/")[0]):
            return
        files = self.hub.repos[name].files
        for line in body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        url = f"{self.hub.address}/{name}/commit/{COMMIT}"
        self.reply(200, {"commitUrl": url, "commitOid": COMMIT, "success": True})

    def resolve(self, _: bytes, name: str, path: str) -> None:
        repo = self.hub.repos.get(name)
        if repo is None or path not in repo.files:
            code = "RepoNotFound" if repo is None else "EntryNotFound"
            return self.reply(404, {"error": "not found"}, X_Error_Code=code)
        data = repo.files[path]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        self.reply(200, data, ETag=etag, X_Repo_Commit=COMMIT)


ROUTES = (
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("GET", f"/api/models/{REPO}(?:/revision/main)?", Handler.info),
    ("GET", f"/api/models/{REPO}/tree/(?:main|{COMMIT})", Handler.tree),
    ("POST", f"/api/models/{REPO}/preupload/main", Handler.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", Handler.lfs_put),
    ("POST", f"/api/models/{REPO}/commit/main", Handler.commit),
    ("GET HEAD", f"/{REPO}/resolve/(?:main|{COMMIT})/(.+)", Handler.resolve),
)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub at `address` until the end of `with`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = Hub(address=f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()

"""The one folder that visitors' files are in, and what is shown to them."""

from __future__ import annotations

import secrets
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils.errors import InputError
from web.limits import Limits

MOST_BYTES = 2 << 30
"""Of all files together; each is kept for an hour."""


KEPT = 16
"""Images of a visitor that a browser may still be fetching."""


class Uploads:
    """Files below a folder; nothing outside it is ever opened for a visitor.

    Args:
        folder: exists.
        limits: of what is accepted.
    """

    def __init__(self, folder: Path, limits: Limits):
        self.folder = folder.resolve()
        self.limits = limits

    def path(self, sent: Any) -> str | None:
        """Path of the file that a browser names, None if it names none.

        Args:
            sent: {"path": ...} as gradio's images send it.

        Raises:
            InputError: it is no file that was uploaded.
        """
        if sent is None:
            return None
        name = sent.get("path") if isinstance(sent, dict) else None
        if not self.holds(name):
            raise InputError("This image was not uploaded here. Please open it again.")
        return str(name)

    def holds(self, name: Any) -> bool:
        """Whether a name is that of a file in the folder."""
        if not isinstance(name, str) or "\0" in name or "://" in name:
            return False
        try:
            path = Path(name).resolve()
            return path.is_relative_to(self.folder) and path.is_file()
        except (OSError, ValueError):  # too long a name, or no Unicode
            return False

    def has_room(self) -> bool:
        """Whether one more file may come."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files) < MOST_BYTES

    def write(self, content: bytes, earlier: deque[Path]) -> Path:
        """Store a PNG for a browser to fetch, under a name that cannot be guessed.

        Args:
            content: of the file.
            earlier: what was stored for the same visitor; the oldest make room.
        """
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir()
        path = folder / "image.png"
        path.write_bytes(content)
        earlier.append(path)
        while len(earlier) > KEPT:
            remove(earlier.popleft())
        return path


def remove(path: Path) -> None:
    """Delete what `Uploads.write` stored, if it is still there."""
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()

"""A real Chromium for tests of pages, driven by playwright.

The fixture `visit` (in `tests/conftest.py`) opens fresh pages. A machine without a browser skips
these tests with the remedy; with READ_NEED_BROWSER=1 in the environment they fail there instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

COMMANDS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
REMEDY = (
    "install one (Debian: apt-get install chromium-headless-shell; elsewhere: "
    "python -m playwright install --with-deps chromium), or name one: READ_CHROMIUM=/path/to/it"
)
DESKTOP, PHONE = 1280, 390
"""Widths of pages in CSS pixels."""


def find_chromium() -> str | None:
    """Path of a browser: READ_CHROMIUM, or one on PATH, or playwright's own; None: there is none.

    Raises:
        FileNotFoundError: READ_CHROMIUM names no file.
    """
    if named := os.environ.get("READ_CHROMIUM"):
        if not Path(named).is_file():
            raise FileNotFoundError(f"READ_CHROMIUM={named}: no such file; give a browser's path")
        return named
    for command in COMMANDS:
        if found := shutil.which(command):
            return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).is_file() else None


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """A running Chromium; without one the test is skipped, or fails where READ_NEED_BROWSER=1.

    The thread counts as one with a running event loop until this is left: `asyncio.run` fails.
    """
    path = find_chromium()
    if path is None:
        give_up = pytest.fail if os.environ.get("READ_NEED_BROWSER") == "1" else pytest.skip
        give_up(f"NO BROWSER, so pages are not tested: {REMEDY}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass(eq=False)
class Visit:
    """A fresh page, with what went wrong on it. Only this machine can be reached from it.

    Args:
        page: playwright's.
        errors: console errors and uncaught exceptions so far.
        outside: URLs on other machines that the page asked for; they were refused.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda said: said.type == "error" and self.errors.append(said.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.route("**/*", self._let_through)

    def _let_through(self, route: Route) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in ("http", "https") and address.hostname not in ("127.0.0.1", "::1"):
            self.outside.append(route.request.url)
            route.abort()
        else:
            route.continue_()

"""The browser of the tests: how it is found, and what it notices about a page."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import browser

ROOT = Path(__file__).parents[1]


def test_a_page_tells_its_errors_and_what_it_asks_of_others(visit, tmp_path):
    (tmp_path / "page.html").write_text(
        "<h1>Hello</h1><img src='http://example.com/x.png'>"
        "<script>console.error('so wrong'); missing()</script>"
    )
    seen = visit((tmp_path / "page.html").as_uri(), width=browser.PHONE)
    assert seen.page.inner_text("h1") == "Hello"
    assert seen.page.evaluate("innerWidth") == browser.PHONE
    assert "so wrong" in seen.errors and any("missing" in error for error in seen.errors)
    assert seen.outside == ["http://example.com/x.png"]


@pytest.mark.parametrize(("needed", "outcome"), [("", pytest.skip), ("1", pytest.fail)])
def test_without_a_browser(needed, outcome, monkeypatch):
    monkeypatch.setattr(browser, "find_chromium", lambda: None)
    monkeypatch.setenv("READ_NEED_BROWSER", needed)
    with pytest.raises(outcome.Exception, match="apt-get install"), browser.open_chromium():
        pass


def test_a_browser_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("READ_CHROMIUM", "/nowhere/chromium")
    with pytest.raises(FileNotFoundError, match="/nowhere/chromium"):
        browser.find_chromium()


@pytest.mark.parametrize("works", [True, False])
def test_the_browser_is_installed_where_that_can_be_done(works, tmp_path):
    """With stand-ins for the system's commands."""
    made = f'printf "#!/bin/sh\\n" > {tmp_path}/chromium; /bin/chmod +x {tmp_path}/chromium'
    commands = {
        "python": f'cd {ROOT}; PYTHONDONTWRITEBYTECODE=1 exec {sys.executable} "$@"',
        "id": "echo 0",
        "env": 'shift; "$@"',
        "timeout": 'shift; "$@"',
        "apt-get": f'echo "$@" >> {tmp_path}/log; case "$*" in *" chromium "*) '
        + (made if works else "exit 100")
        + ";; *) exit 100;; esac",
    }
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    script = f'set -euo pipefail; . "{ROOT}/tests/browser.sh"; get_browser; echo done'
    environment = {"PATH": str(tmp_path), "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path / "none")}
    run = subprocess.run(
        ["/bin/bash", "-c", script], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0 and run.stdout.endswith("done\n")
    asked = (tmp_path / "log").read_text().splitlines()
    assert "update" in asked[0] and "chromium-headless-shell" in asked[1]
    assert ("apt-get install chromium-headless-shell" in run.stderr) is not works

"""The web server: the page behind its middleware, and the files of answers. Needs gradio."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.inference.reader import Reader
from utils.errors import InputError
from web.engine import Engine
from web.export import FILES, export
from web.limits import Limits
from web.session import Session
from web.sessions import Sessions
from web.uploads import Uploads

WAITING = 64
"""Questions in the queue; more are refused."""


def serve(reader: Reader, options: Any, log: Callable[[str], None] = print) -> None:
    """Serve until SIGTERM, or Ctrl+C (KeyboardInterrupt, once the server is closed).

    Args:
        reader: answers.
        options: `utils.cli.options.DemoOptions`.
        log: prints.

    Raises:
        InputError: see `serving`.
    """
    limits = Limits(pixels=round(options.max_megapixels * 1e6), new_tokens=options.max_new_tokens)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    port = options.port or None
    try:
        with serving(
            reader,
            options.host,
            port,
            limits,
            options.max_visitors,
            options.force_seg,
            options.web_names or (),
        ) as address:
            log(f"READ is served on {address} (to stop it: Ctrl+C)")
            threading.Event().wait()
    except SystemExit:
        log("stopped")


@contextmanager
def serving(
    reader: Reader,
    host: str = "127.0.0.1",
    port: int | None = None,
    limits: Limits | None = None,
    most_visitors: int = 8,
    force_seg: bool = False,
    names: Iterable[str] = (),
) -> Iterator[str]:
    """A running server in threads of its own, until the context is left; gives its address.

    Args:
        reader: answers.
        host: name or address of the interface.
        port: None: a free one.
        limits: of what visitors may send.
        most_visitors: whose images are kept at a time.
        force_seg: whether the page's "Always make a mask" is on at first.
        names: further names that the page is reached by; see `web.hosts`.

    Raises:
        InputError: the port cannot be had, or gradio is not installed.
    """
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="read_web_") as folder, _settings_of_gradio(folder):
        # Only now: gradio reads its settings when it is imported.
        from fastapi.middleware import Middleware

        from web.hosts import Hosts
        from web.middleware import RequestMiddleware
        from web.page import STYLE, THEME, Page

        uploads = Uploads(Path(folder), limits)
        engine = Engine(reader)
        sessions = Sessions(lambda: Session(engine, limits), most_visitors)
        side = round(reader.model.image_tokens**0.5)
        blocks = Page(sessions, uploads, engine.params, side, force_seg).blocks
        blocks.queue(max_size=WAITING, api_open=False)
        middleware = Middleware(
            RequestMiddleware,
            uploads=uploads,
            limits=limits,
            hosts=Hosts(host, names),
            events={number for number, event in blocks.fns.items() if event.fn is not None},
        )
        try:
            app, address, _ = blocks.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                show_error=False,
                inbrowser=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                enable_monitoring=False,
                footer_links=[],
                allowed_paths=[],
                max_file_size=limits.upload_bytes,
                state_session_capacity=1000,
                theme=THEME,
                css=STYLE,
                app_kwargs={"middleware": [middleware]},
            )
        except OSError as error:
            raise InputError(
                f"--host={host} --port={port}: cannot be served there ({error}); give another "
                "--port, or --port 0 for a free one"
            ) from error
        try:
            _serve_files(app, sessions)
            yield address
        finally:
            blocks.close(verbose=False)


@contextmanager
def _settings_of_gradio(folder: str) -> Iterator[None]:
    """Where it keeps files, and that it tells nobody."""
    settings = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve_files(app: Any, sessions: Sessions) -> None:
    from fastapi import HTTPException
    from fastapi.responses import Response

    def download(token: str, name: str) -> Response:
        session = sessions.by_token(token)
        segments, shown = session.layers() if session else ([], [])
        if name not in FILES or not segments:
            raise HTTPException(404, "This file is gone. Please ask again.")
        headers = {
            "content-disposition": f'attachment; filename="{name}"',
            "cache-control": "no-store",
        }
        return Response(export(name, segments, shown), media_type=FILES[name], headers=headers)

    app.add_api_route("/download/{token}/{name}", download, methods=["GET"])

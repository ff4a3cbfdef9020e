"""Where processes of one machine can meet."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A port that nothing on this machine uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

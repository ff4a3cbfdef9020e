"""Who is there: a bounded number of sessions, each for a bounded time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from web.session import Session


class Sessions:
    """Sessions by the browser's key; those that were not used for longest make room.

    Args:
        make: a new session.
        most: sessions that are kept.
        seconds: that an unused one is kept.
        clock: tells seconds.
    """

    def __init__(
        self,
        make: Callable[[], Session],
        most: int = 8,
        seconds: float = 3600,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._make = make
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, tuple[float, Session]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, key: str | None) -> Session | None:
        """The session of a browser, if there still is one."""
        with self._lock:
            self._tidy(self._most)
            if key is None or key not in self._sessions:
                return None
            return self._use(key, self._sessions[key][1])

    def enter(self, key: str) -> Session:
        """The session of a browser, a new one if there is none."""
        if session := self.find(key):
            return session
        with self._lock:
            self._tidy(self._most - 1)
            return self._use(key, self._make())

    def leave(self, key: str | None) -> None:
        """Forget a browser."""
        with self._lock:
            if key is not None and key in self._sessions:
                self._sessions.pop(key)[1].close()

    def by_token(self, token: str) -> Session | None:
        """The session that gave out this token."""
        with self._lock:
            sessions = [session for _, session in self._sessions.values()]
        return next((session for session in sessions if session.token == token), None)

    def _use(self, key: str, session: Session) -> Session:
        self._sessions[key] = self._clock(), session
        self._sessions.move_to_end(key)
        return session

    def _tidy(self, most: int) -> None:
        oldest = self._clock() - self._seconds
        while self._sessions:
            key, (used, session) = next(iter(self._sessions.items()))
            if used >= oldest and len(self._sessions) <= most:
                return
            del self._sessions[key]
            session.close()

"""The names that the page is served under.

Keeps pages of other sites away, which act through a visitor's browser: by a name of their own that
leads to this machine (DNS rebinding), or by requests from there to here.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERY_INTERFACE = ("0.0.0.0", "::")
OWN_SITES = ("same-origin", "none")
"""Of the header Sec-Fetch-Site: this page, or the visitor's own hand."""
Headers = Iterable[tuple[bytes, bytes]]


class Hosts:
    """Tells own requests from those of other sites.

    Args:
        host: interface that is served: a name or an address. On every interface (0.0.0.0, ::), any
            address is served, since an address cannot be rebound as a name can.
        names: further names, as a proxy or a network gives them to this machine.
    """

    def __init__(self, host: str, names: Iterable[str] = ()):
        self._further = {_bare(name) for name in names}
        self._served = {*LOOPBACK, _bare(host), *self._further}
        self._any_address = _bare(host) in EVERY_INTERFACE

    def why_not(self, method: str, headers: Headers) -> str | None:
        """Why a request is refused, in words; None: it is not.

        Args:
            method: of HTTP.
            headers: of ASGI: names in lower case.
        """
        given: dict[str, list[str]] = {}
        for name, value in headers:
            given.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        hosts = given.get("host", [])
        if len(hosts) != 1 or not self._serves(_name(hosts[0])):
            return (
                f"This page is not served under the name {', '.join(hosts)!r}. The owner of the "
                "server can add a name with --web_names."
            )
        for origin in given.get("origin", []):
            place = origin.partition("://")[2]
            if place.lower() != hosts[0].lower() and _name(place) not in self._further:
                return f"Pages of {origin!r} may not use this one."
        navigation = method in ("GET", "HEAD") and given.get("sec-fetch-mode") == ["navigate"]
        if not navigation and not set(given.get("sec-fetch-site", [])) <= set(OWN_SITES):
            return "Pages of other sites may not use this one."
        return None

    def _serves(self, name: str) -> bool:
        return name in self._served or (self._any_address and _is_address(name))


def _name(place: str) -> str:
    """`NAME:PORT` or `[ADDRESS]:PORT` without the port; "" if it is neither."""
    try:
        parts = urlsplit(f"//{place}")
        name, _ = parts.hostname, parts.port
    except ValueError:
        return ""
    return "" if parts.netloc != place or "@" in place else _bare(name or "")


def _bare(name: str) -> str:
    return name.strip("[]").lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True

"""Which web pages may open a WebSocket (RFC 6455, section 10.2); programs that are no browser send no Origin."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.service.hosts import asked_hosts, parse_authority

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int | None


_NULL = _Origin("", "", None)  # what pages in a sandbox, and in some browsers those from a file, have


class Origins:
    """The origins that are accepted besides the host's own; None accepts every origin.

    allowed: entries `scheme://host` or `scheme://host:port` as browsers send them, `null`, or a scheme alone where
        its pages have no host: `file://`, which WebViews send.
    Raises ValueError for any other entry.
    """

    __slots__ = ("_allowed",)

    def __init__(self, allowed: Collection[str] | None = ()) -> None:
        if isinstance(allowed, str):
            raise ValueError(f"allowed is {allowed!r}; it must be a list of origins, such as [{allowed!r}], or None")
        self._allowed = None if allowed is None else frozenset(_checked(entry) for entry in allowed)

    def allows(self, request: UpgradeRequest) -> bool:
        """Tell whether `request` comes from an accepted origin, from the host's own, or from no web page at all.

        Never raises; an Origin that is malformed, or that is there more than once, is none that is accepted.
        """
        sent = request.headers.get_all("Origin")
        if self._allowed is None or not sent:
            return True
        origin = _parse(sent[0])
        if origin is None or len(sent) > 1:
            return False
        return origin in self._allowed or _is_own(origin, asked_hosts(request))


def _is_own(origin: _Origin, hosts: list[str]) -> bool:
    # A proxy that ends TLS hides our scheme, so only host and port can be compared.
    port = origin.port
    return port is not None and len(hosts) == 1 and _place(hosts[0], port_of=origin.scheme) == origin[1:]


def _checked(entry: object) -> _Origin:
    origin = _parse(entry) if isinstance(entry, str) else None
    if origin is None:
        raise ValueError(
            f"{entry!r} is no origin; write 'scheme://host' or 'scheme://host:port' without a path or a last slash "
            "(a name beyond ASCII in its xn-- form), 'file://' or 'null'; "
            "to accept every origin, give None in place of the list"
        )
    return origin


def _parse(text: str) -> _Origin | None:
    if text == "null":
        return _NULL
    scheme, separator, authority = text.partition("://")
    if not _SCHEME.fullmatch(scheme):
        return None
    scheme = scheme.lower()
    if separator and not authority and scheme not in _DEFAULT_PORTS:
        return _Origin(scheme, "", None)
    place = _place(authority, port_of=scheme)
    return None if place is None else _Origin(scheme, *place)


def _place(authority: str, *, port_of: str) -> tuple[str, int | None] | None:
    """Return host and port, where a missing port is that of the scheme `port_of`; None for what is malformed."""
    place = parse_authority(authority)
    if place is None or place[1] is not None:
        return place
    return place[0], _DEFAULT_PORTS.get(port_of)

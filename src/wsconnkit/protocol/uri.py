"""WebSocket URIs (RFC 6455, section 3)."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from wsconnkit.protocol.errors import InvalidURI
from wsconnkit.protocol.hosts import parse_host

_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::(.*))?")
_AROUND = "".join(map(chr, range(0x21)))
"""What WHATWG URL takes off both ends, and `urlsplit` does on some versions of Python."""


class URI(NamedTuple):
    """The parts of a ws: or wss: URI that a connection needs."""

    secure: bool
    host: str
    port: int
    resource: str
    """Path and query, as they go into the request."""
    user: str | None
    password: str | None

    def __repr__(self) -> str:
        # There may be a password in front of the host, and a token in the query.
        return f"<URI: {self.shown}>"

    @property
    def shown(self) -> str:
        """The URI without what may be secret."""
        return f"{'wss' if self.secure else 'ws'}://{self.host_header}{self.resource.partition('?')[0]}"

    @property
    def host_header(self) -> str:
        """The value of the Host header: the port only where it is not the scheme's own."""
        # RFC 6874, section 4: a zone means nothing elsewhere.
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def parse_uri(uri: str) -> URI:
    """Parse a URI such as `wss://user:password@example.org:8443/path?query`. Raises InvalidURI."""
    # A password, or a token in the query, must not reach a log: what is quoted in errors is what can hold none.
    try:
        uri.encode()  # or it cannot travel
        parts = urlsplit(uri.strip(_AROUND))
        user, password = (None if part is None else unquote(part, errors="strict") for part in _userinfo(parts.netloc))
    except ValueError:
        raise InvalidURI(_MALFORMED) from None
    if parts.scheme not in ("ws", "wss"):
        raise InvalidURI(_without_scheme(uri))
    secure = parts.scheme == "wss"
    try:
        host, port = _host_and_port(parts.netloc.rpartition("@")[2])
    except ValueError as error:
        # With an "@" further on, this may be half of a password.
        is_clear = "@" not in parts.path + parts.query + parts.fragment
        raise InvalidURI(f"in the URI, {error}" if is_clear else _MALFORMED) from None
    if "#" in uri:
        raise InvalidURI("the URI has a fragment; write a '#' in a path or query as %23")
    # What HTTP does not allow in a request target travels as UTF-8, percent-encoded.
    resource = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        resource += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]")
    return URI(secure, host, (443 if secure else 80) if port is None else port, resource, user, password)


_MALFORMED = "the URI cannot be parsed; write ws://host:port/path, and %-encode what is special"


def _userinfo(netloc: str) -> tuple[str | None, str | None]:
    userinfo, at, _ = netloc.rpartition("@")
    user, colon, password = userinfo.partition(":")
    return (user if at else None), (password if colon else None)


def _without_scheme(uri: str) -> str:
    shown = "" if "@" in uri else " " + repr(re.split("[?#]", uri)[0])
    if "://" in uri:
        return f"the URI{shown} has another scheme than ws and wss; write ws://host:port/path"
    return f"the URI{shown} has no scheme; write ws:// or wss:// in front, as in ws://host:port/path"


def _host_and_port(authority: str) -> tuple[str, int | None]:
    """Raises ValueError that says what is wrong."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError("the brackets are not in order; write an IPv6 address as in ws://[::1]:port/path")
    host, port = match.groups()
    if port and ":" in port:
        raise ValueError(f"the host is {authority!r}; write an IPv6 address in brackets, as in ws://[::1]:port/path")
    if not host:
        raise ValueError("the host is missing; write ws://host:port/path")
    if not port:
        return parse_host(host), None
    if not (port.isascii() and port.isdigit() and len(port) < 20 and int(port) <= 0xFFFF):
        raise ValueError(f"the port is {port!r}; it must be a number from 0 to 65535")
    return parse_host(host), int(port)

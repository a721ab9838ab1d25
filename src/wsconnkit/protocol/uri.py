"""WebSocket URIs (RFC 6455, section 3)."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from wsconnkit.protocol.errors import InvalidURI

_HOST = re.compile(r"[A-Za-z0-9._~:%-]+")


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
        return f"<URI: {'wss' if self.secure else 'ws'}://{self.host_header}{self.resource.partition('?')[0]}>"

    @property
    def host_header(self) -> str:
        """The value of the Host header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def parse_uri(uri: str) -> URI:
    """Parse a URI such as `wss://user:password@example.org:8443/path?query`. Raises InvalidURI."""
    # The URI itself is not quoted in errors: a password, or a token in the query, must not reach a log.
    try:
        uri.encode()  # or it cannot travel
        parts = urlsplit(uri)
        port = parts.port
        host = parts.hostname
        if host:
            host = host.encode("idna").decode()  # which refuses names that no resolver takes
        if host and not _HOST.fullmatch(host):
            raise ValueError
        # What HTTP does not allow in a request target travels as UTF-8, percent-encoded.
        resource = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        if parts.query:
            resource += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]")
    except ValueError:
        raise InvalidURI("the URI cannot be parsed; write ws://host:port/path, and %-encode what is special") from None
    if parts.scheme not in ("ws", "wss"):
        raise InvalidURI("the URI has another scheme than ws and wss; write ws://host:port/path")
    if not host:
        raise InvalidURI("the URI names no host; write ws://host:port/path")
    if "#" in uri:
        raise InvalidURI("the URI has a fragment; write a '#' in a path or query as %23")
    secure = parts.scheme == "wss"
    return URI(
        secure,
        host,
        (443 if secure else 80) if port is None else port,
        resource,
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
    )

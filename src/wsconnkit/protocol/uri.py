"""WebSocket URIs (RFC 6455, section 3)."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from wsconnkit.protocol.errors import InvalidURI


class URI(NamedTuple):
    """The parts of a ws: or wss: URI that a connection needs."""

    secure: bool
    host: str
    port: int
    resource: str
    """Path and query, as they go into the request."""
    user: str | None
    password: str | None

    @property
    def host_header(self) -> str:
        """The value of the Host header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def parse_uri(uri: str) -> URI:
    """Parse a URI such as `wss://user:password@example.org:8443/path?query`. Raises InvalidURI."""
    try:
        parts = urlsplit(uri)
        port = parts.port
        host = parts.hostname
        if host and not host.isascii():
            host = host.encode("idna").decode()
    except ValueError as error:
        raise InvalidURI(f"{_without_secrets(uri)!r} is no valid URI: {error}") from None
    if parts.scheme not in ("ws", "wss"):
        raise InvalidURI(f"{_without_secrets(uri)!r} has the scheme {parts.scheme!r}; it must be ws or wss")
    if not host:
        raise InvalidURI(f"{_without_secrets(uri)!r} names no host")
    if "#" in uri:
        raise InvalidURI(f"{_without_secrets(uri)!r} has a fragment; write a '#' in a path or query as %23")
    secure = parts.scheme == "wss"
    # Bytes that HTTP does not allow in a request target travel as UTF-8, percent-encoded.
    resource = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        resource += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]")
    return URI(
        secure,
        host,
        (443 if secure else 80) if port is None else port,
        resource,
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
    )


def _without_secrets(uri: str) -> str:
    # A password or a token in a query must not reach a log.
    head, _, tail = uri.partition("://")
    return f"{head}://{tail.rpartition('@')[2].partition('?')[0]}" if tail else head.partition("?")[0]

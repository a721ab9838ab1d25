"""The exceptions that callers can meet; what a peer does wrong is an event, never one of these in the core."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsconnkit.protocol.closeinfo import CloseInfo
    from wsconnkit.protocol.http import Response


class WsconnkitError(Exception):
    """Base of this package's exceptions."""


class LocalProtocolError(WsconnkitError):
    """The caller asked for what the protocol or the connection's state forbids; nothing has changed."""


class ConcurrencyError(WsconnkitError, RuntimeError):
    """Two tasks wait for messages of one connection at the same time."""


class ConnectionClosed(WsconnkitError):
    """The connection has ended; `info` says how."""

    def __init__(self, info: CloseInfo) -> None:
        super().__init__(info)
        self.info = info

    def __str__(self) -> str:
        return f"connection closed: {self.info}"


class ConnectionClosedOK(ConnectionClosed):
    """The connection has ended as it should: a clean close with 1000, 1001 or no code."""


class ConnectionClosedError(ConnectionClosed):
    """The connection has ended in another way than it should."""


class ClientClosed(WsconnkitError):
    """A client that reconnects was closed, or its server has closed with 1000: there will be no connection."""


def connection_closed(info: CloseInfo) -> ConnectionClosed:
    """Return the exception that tells of `info`."""
    return ConnectionClosedOK(info) if info.ok else ConnectionClosedError(info)


def tells_only_of(error: BaseException, info: CloseInfo | None) -> bool:
    """Whether `error` says no more than that the connection ended as `info` tells, alone or in groups of exceptions."""
    if isinstance(error, ConnectionClosed):
        return error.info is info
    parts = getattr(error, "exceptions", ())
    return bool(parts) and all(tells_only_of(part, info) for part in parts)


class InvalidURI(WsconnkitError, ValueError):
    """A URI that no WebSocket connection can be made to."""


class InvalidProxy(WsconnkitError, ValueError):
    """A URL of a proxy that no connection can be made through."""


class InvalidHandshake(WsconnkitError):
    """The opening handshake failed."""


class HandshakeInterrupted(InvalidHandshake):
    """The transport ended before the opening handshake did; the next attempt may fare better."""


class ProxyRefused(InvalidHandshake):
    """The proxy did not make a connection to the server; `response` is what it answered, without its body."""

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response

    def __str__(self) -> str:
        return f"the proxy refused to connect: HTTP {self.response.status}"


class InvalidStatus(InvalidHandshake):
    """The server answered the opening handshake with something else than 101; `response` holds it whole."""

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response

    def __str__(self) -> str:
        body = self.response.body[:200].decode("utf-8", "replace")
        return f"the server refused the WebSocket: HTTP {self.response.status}" + (f": {body!r}" if body else "")

"""Fetches what a URL names, within bounds of size and time that hold whatever the server sends, and however slowly.

    download("https://issuer.example.org/jwks.json", max_bytes=256 * 1024, timeout=5.0)

It blocks, and is to be called in a thread.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


def download(url: str, *, max_bytes: int, timeout: float) -> bytes:
    """Return the body of the answer to GET `url`, through the environment's proxy where there is one.

    url: of http or https. Redirects are not followed: where a URL leads is for whoever has chosen it.
    max_bytes: of the whole answer, head and body. timeout: seconds for all of it, but for the look-up of the name,
        whose time the system's resolver bounds.

    Raises OSError, also for another status than 2xx, and HTTPException for an answer that is too long or no HTTP.
    """
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Handler(_Allowance(max_bytes, timeout)),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        director.add_handler(handler)
    # Some servers turn away urllib's own User-Agent.
    request = urllib.request.Request(url, headers={"User-Agent": "wsconnkit"})  # noqa: S310 - see the handlers
    try:
        with director.open(request) as response:
            body: bytes = response.read(max_bytes)
            if response.length:  # which was to come
                raise http.client.IncompleteRead(body, response.length)
            return body
    except urllib.error.HTTPError as error:
        error.close()
        raise


class _Allowance:
    """What a server may still use up."""

    def __init__(self, max_bytes: int, timeout: float) -> None:
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._size = 0
        self._until = time.monotonic() + timeout

    @contextmanager
    def time_for(self, sock: socket.socket) -> Iterator[None]:
        """Give to what `sock` does in the block the time that is left."""
        left = self._until - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
            yield
        except TimeoutError:
            raise TimeoutError(f"there was no complete answer within {self._timeout:g} s") from None

    def spend(self, size: int) -> int:
        """Take note of bytes that have come."""
        self._size += size
        if self._size > self._max_bytes:
            raise http.client.HTTPException(f"the answer has more than {self._max_bytes} bytes")
        return size


class _Socket(socket.socket):
    """One of whose time each read gets what is left."""

    allowance: _Allowance

    def recv_into(self, *args: Any) -> int:
        """Read, as http.client does."""
        with self.allowance.time_for(self):
            return self.allowance.spend(super().recv_into(*args))


class _TLSSocket(ssl.SSLSocket):
    """The same with TLS, which needs time of its own to begin."""

    allowance: _Allowance

    def do_handshake(self, block: bool = False) -> None:
        """Begin TLS."""
        with self.allowance.time_for(self):
            super().do_handshake(block)

    def recv_into(self, *args: Any) -> int:
        """Read, as http.client does."""
        with self.allowance.time_for(self):
            return self.allowance.spend(super().recv_into(*args))


class _Handler(urllib.request.AbstractHTTPHandler):
    """Makes connections, to a server or a proxy, whose sockets keep to an allowance."""

    def __init__(self, allowance: _Allowance) -> None:
        super().__init__()
        self._allowance = allowance

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Answer a request, as urllib calls it."""
        return self.do_open(partial(self._connection, http.client.HTTPConnection), request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Answer a request, as urllib calls it."""
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        context.sslsocket_class = type("TLSSocket", (_TLSSocket,), {"allowance": self._allowance})
        return self.do_open(partial(self._connection, http.client.HTTPSConnection, context=context), request)

    def _connection(self, kind: Callable[..., Any], host: str, **options: Any) -> Any:
        connection = kind(host, **options)
        connection._create_connection = partial(_dial, self._allowance)  # no other way; the tests watch over it
        return connection


def _dial(allowance: _Allowance, address: tuple[str, int], *more: Any) -> socket.socket:
    """Return a socket that is connected to one of the addresses of a host, in place of `socket.create_connection`."""
    error = OSError("the host has no address")
    for family, kind, protocol, _, sockaddr in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        sock = _Socket(family, kind, protocol)
        sock.allowance = allowance
        try:
            with allowance.time_for(sock):
                sock.connect(sockaddr)
        except OSError as failed:
            sock.close()
            error = failed
        else:
            return sock
    raise error

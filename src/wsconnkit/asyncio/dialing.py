"""Brings an opening handshake to its server on asyncio: directly, or through an HTTP proxy."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from typing import Any, NamedTuple, cast

from wsconnkit.asyncio.opening import Opening
from wsconnkit.asyncio.transport import forget, tls_timeouts
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import HandshakeInterrupted, InvalidProxy
from wsconnkit.protocol.proxy import Proxy, Tunnel
from wsconnkit.protocol.uri import URI


class Route(NamedTuple):
    """The way to a server; `kwargs` are those of `loop.create_connection`, for whatever is connected to first.

    ssl, proxy_ssl: there where the server, and the proxy, are reached by TLS.
    """

    uri: URI
    config: ConnectionConfig
    ssl: ssl_module.SSLContext | None
    proxy: Proxy | None
    proxy_ssl: ssl_module.SSLContext | None
    kwargs: dict[str, Any]


async def dial(opening: Opening, route: Route) -> None:
    """Connect, and let `opening` drive the transport. Raises OSError, and InvalidHandshake as the proxy does."""
    tls = {} if route.ssl is None else _tls(route.ssl, route.uri.host, route.config)
    try:
        if route.proxy is None:
            await _dial_directly(opening, route, tls)
        else:
            await _dial_through(route.proxy, opening, route, tls)
    except ConnectionResetError as error:
        if error.args:
            raise
        # Event loops say so without a word.
        raise ConnectionResetError("the connection ended during the TLS handshake") from None


async def _dial_directly(opening: Opening, route: Route, tls: dict[str, Any]) -> None:
    kwargs = {**tls, **route.kwargs}
    if "sock" not in kwargs:
        kwargs.setdefault("host", route.uri.host)
        kwargs.setdefault("port", route.uri.port)
    await asyncio.get_running_loop().create_connection(lambda: opening, **kwargs)


async def _dial_through(proxy: Proxy, opening: Opening, route: Route, tls: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    kwargs = dict(route.kwargs)
    host, port = kwargs.pop("host", route.uri.host), kwargs.pop("port", route.uri.port)
    # What is said of TLS is said of the server's.
    tls |= {name: kwargs.pop(name) for name in list(kwargs) if name == "server_hostname" or name.startswith("ssl_")}
    if route.proxy_ssl is not None:
        kwargs |= _tls(route.proxy_ssl, proxy.host, route.config)
    digging = _Digging(Tunnel(proxy, host, port, route.config.handshake))
    transport, _ = await loop.create_connection(lambda: digging, proxy.host, proxy.port, **kwargs)
    try:
        await digging.over
        if digging.tunnel.error is not None:
            raise digging.tunnel.error
        if transport.is_closing():
            raise HandshakeInterrupted("the proxy ended the connection that it had just made")
        if route.ssl is not None:
            inner = await _start_tls(transport, opening, tls)
        else:
            inner = transport
            inner.set_protocol(opening)
        opening.connection_made(inner)
    except BaseException:
        transport.abort()
        raise


async def _start_tls(transport: asyncio.Transport, opening: Opening, tls: dict[str, Any]) -> asyncio.Transport:
    context = tls.pop("ssl")
    try:
        inner = await asyncio.get_running_loop().start_tls(transport, opening, context, **tls)
    except TypeError as error:
        # asyncio's own transports of TLS before Python 3.11.
        raise InvalidProxy(
            "this event loop cannot do TLS within TLS, so no wss: through an https:// proxy; "
            "use the proxy's http:// URL, uvloop, or Python 3.11"
        ) from error
    if inner is None:
        raise HandshakeInterrupted("the connection ended during the TLS handshake")
    return inner


def _tls(context: ssl_module.SSLContext, host: str, config: ConnectionConfig) -> dict[str, Any]:
    return {"ssl": context, "server_hostname": host, **tls_timeouts(config)}


class _Digging(asyncio.Protocol):
    """Carries out what a `Tunnel` decides; `over` is done when it is open, and raises when it will not be."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self.tunnel.data_to_send())

    def data_received(self, data: bytes) -> None:
        self.tunnel.receive_data(data)
        self._check()

    def eof_received(self) -> None:
        self.tunnel.receive_eof()
        self._check()

    def connection_lost(self, exc: Exception | None) -> None:
        self.tunnel.receive_eof(exc if isinstance(exc, OSError) else None)
        self._check()
        if self._transport is not None:
            forget(self._transport)

    def _check(self) -> None:
        if self.over.done():
            return
        if self.tunnel.error is not None:
            self.over.set_exception(self.tunnel.error)
        elif self.tunnel.is_open:
            self.over.set_result(None)

"""Brings an opening handshake to its server on asyncio: directly, or through an HTTP proxy."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from typing import Any, cast

from wsconnkit.asyncio.tls import ended_within_tls, start_tls, tls_timeouts
from wsconnkit.asyncio.transport import Transport
from wsconnkit.managed.client import Route
from wsconnkit.managed.opening import OpeningHandshake
from wsconnkit.managed.transport import TLS_ENDS
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import HandshakeInterrupted, InvalidProxy
from wsconnkit.protocol.proxy import Proxy, Tunnel


async def dial(opening: OpeningHandshake, route: Route, options: dict[str, Any]) -> None:
    """Connect, and let `opening` drive the transport. Raises OSError, and InvalidHandshake as the proxy does.

    options: keyword arguments of `loop.create_connection`, for whatever is connected to first.
    """
    tls = {} if route.ssl is None else _tls(route.ssl, route.server_hostname, route.config)
    try:
        if route.proxy is None:
            await _dial_directly(opening, route, tls, options)
        else:
            await _dial_through(route.proxy, opening, route, tls, options)
    except TLS_ENDS:
        raise ended_within_tls() from None
    except ConnectionResetError as error:
        if error.args:
            raise
        raise ended_within_tls() from None


async def _dial_directly(opening: OpeningHandshake, route: Route, tls: dict[str, Any], options: dict[str, Any]) -> None:
    options = {**tls, **options}
    if "sock" not in options:
        options.setdefault("host", route.uri.host)
        options.setdefault("port", route.uri.port)
    await asyncio.get_running_loop().create_connection(lambda: Transport(opening), **options)


async def _dial_through(
    proxy: Proxy, opening: OpeningHandshake, route: Route, tls: dict[str, Any], options: dict[str, Any]
) -> None:
    loop = asyncio.get_running_loop()
    options = dict(options)
    host, port = options.pop("host", route.uri.host), options.pop("port", route.uri.port)
    # What is said of TLS is said of the server's.
    tls |= {name: options.pop(name) for name in list(options) if name.startswith("ssl_")}
    if route.proxy_ssl is not None:
        options |= _tls(route.proxy_ssl, proxy.host, route.config)
    tunnel = _TunnelProtocol(Tunnel(proxy, host, port, route.config.handshake))
    transport, _ = await loop.create_connection(lambda: tunnel, proxy.host, proxy.port, **options)
    try:
        await tunnel.over
        if tunnel.tunnel.error is not None:
            raise tunnel.tunnel.error
        if transport.is_closing():
            raise HandshakeInterrupted("the proxy ended the connection that it had just made")
        protocol = Transport(opening)
        if route.ssl is not None:
            transport = await _start_tls(transport, protocol, tls)
        else:
            transport.set_protocol(protocol)
        protocol.connection_made(transport)
    except BaseException:
        transport.abort()
        raise


async def _start_tls(transport: asyncio.Transport, protocol: Transport, tls: dict[str, Any]) -> asyncio.Transport:
    context = tls.pop("ssl")
    try:
        return await start_tls(transport, protocol, context, **tls)
    except TypeError as error:
        # asyncio's own transports of TLS before Python 3.11.
        raise InvalidProxy(
            "this event loop cannot do TLS within TLS, so no wss: through an https:// proxy; "
            "use the proxy's http:// URL, uvloop, or Python 3.11"
        ) from error


def _tls(context: ssl_module.SSLContext, host: str, config: ConnectionConfig) -> dict[str, Any]:
    return {"ssl": context, "server_hostname": host, **tls_timeouts(config)}


class _TunnelProtocol(asyncio.Protocol):
    """Carries out what a `Tunnel` decides; `over` is done when it is open, and when it will not be."""

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
            # Before Python 3.11 a TLS transport that the peer ended warns that it was never closed.
            self._transport.abort()

    def _check(self) -> None:
        if not self.over.done() and (self.tunnel.error is not None or self.tunnel.is_open):
            self.over.set_result(None)

"""Brings an opening handshake to its server on asyncio: directly, or through an HTTP proxy."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl as ssl_module
from collections import deque
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, cast

from wsconnkit.asyncio.tls import ended_within_tls, start_tls, tls_timeouts
from wsconnkit.asyncio.transport import Transport
from wsconnkit.managed.client import Route, unreachable
from wsconnkit.managed.opening import OpeningHandshake
from wsconnkit.managed.transport import TLS_ENDS
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import HandshakeInterrupted, InvalidProxy
from wsconnkit.protocol.hosts import server_name
from wsconnkit.protocol.proxy import Proxy, Tunnel, authority

_HOW = ("family", "proto", "flags", "local_addr", "happy_eyeballs_delay", "interleave")
"""Keyword arguments of `loop.create_connection` that say how to come to a socket."""
_Address = tuple[Any, Any, int, str, Any]
"""Family, type, protocol and address of a socket, as a resolver returns them."""


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
    options = {"host": route.uri.host, "port": route.uri.port, **tls, **options}
    await _create_connection(lambda: Transport(opening), options.pop("host"), options.pop("port"), options)


async def _dial_through(
    proxy: Proxy, opening: OpeningHandshake, route: Route, tls: dict[str, Any], options: dict[str, Any]
) -> None:
    options = dict(options)
    host, port = options.pop("host", route.uri.host), options.pop("port", route.uri.port)
    # What is said of TLS is said of the server's.
    tls |= {name: options.pop(name) for name in list(options) if name.startswith("ssl_")}
    if route.proxy_ssl is not None:
        options |= _tls(route.proxy_ssl, proxy.host, route.config)
    tunnel = _TunnelProtocol(Tunnel(proxy, host, port, route.config.handshake))
    transport = await _create_connection(lambda: tunnel, proxy.host, proxy.port, options)
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


async def _create_connection(
    factory: Callable[[], asyncio.Protocol], host: str, port: int, options: dict[str, Any]
) -> asyncio.Transport:
    """Do what `loop.create_connection` does, with happy eyeballs on uvloop too."""
    how = {name: options.pop(name) for name in _HOW if name in options}
    sock: socket.socket = options.pop("sock", None) or await _connect(host, port, **how)
    is_connected = False
    try:
        transport, _ = await asyncio.get_running_loop().create_connection(factory, sock=sock, **options)
        is_connected = True
    finally:
        if not is_connected:
            sock.close()
    return transport


async def _connect(
    host: str,
    port: int,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    local_addr: tuple[str, int] | None = None,
    happy_eyeballs_delay: float | None = 0.25,
    interleave: int = 1,
) -> socket.socket:
    """Return a socket to the first of the host's addresses that answers (RFC 8305, section 5).

    local_addr: where it comes from.
    happy_eyeballs_delay: seconds after which the next address is tried beside those before; None waits for each.
    interleave: addresses of the first family before both take turns; 0 for the resolver's order.
    """
    kind = {"family": family, "type": socket.SOCK_STREAM, "proto": proto, "flags": flags}
    waiting = deque(_interleaved(await _resolve(host, port, kind), interleave))
    local = None if local_addr is None else await _resolve(*local_addr, kind)
    under_way: set[asyncio.Task[socket.socket | OSError]] = set()
    errors: list[OSError] = []
    try:
        while waiting or under_way:
            if waiting:
                under_way.add(asyncio.ensure_future(_attempt(waiting.popleft(), local)))
            patience = happy_eyeballs_delay if waiting else None
            await asyncio.wait(under_way, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for attempt in [attempt for attempt in under_way if attempt.done()]:
                under_way.remove(attempt)
                outcome = attempt.result()
                if isinstance(outcome, socket.socket):
                    return outcome
                errors.append(outcome)
    finally:
        for attempt in under_way:
            attempt.add_done_callback(_close)
            attempt.cancel()
    raise unreachable(errors)


async def _resolve(host: str, port: int, kind: dict[str, int]) -> list[_Address]:
    try:  # in no thread, where there is nothing to ask
        return socket.getaddrinfo(host, port, **{**kind, "flags": kind["flags"] | socket.AI_NUMERICHOST})
    except socket.gaierror:
        return await asyncio.get_running_loop().getaddrinfo(host, port, **kind)


def _interleaved(addresses: list[_Address], first: int) -> list[_Address]:
    """Let the families take turns, after so many addresses of the first one (RFC 8305, section 4)."""
    same = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    if first < 1 or not others:
        return addresses
    turns = zip_longest(others, same[first:])
    return [*same[:first], *(address for turn in turns for address in turn if address is not None)]


async def _attempt(address: _Address, local: list[_Address] | None) -> socket.socket | OSError:
    """Return a socket that is connected to an address, or what has gone wrong."""
    family, kind, proto, _, where = address
    sock: socket.socket | None = None
    is_connected = False
    try:
        sock = socket.socket(family, kind, proto)
        sock.setblocking(False)
        if local is not None:
            same = [each[4] for each in local if each[0] == family]
            if not same:  # a socket takes no address of another family, and may raise TypeError for it
                raise OSError(errno.EADDRNOTAVAIL, "no local address of its family was given")
            sock.bind(same[0])
        await asyncio.get_running_loop().sock_connect(sock, where)
        is_connected = True
        return sock
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
        return OSError(error.errno, f"cannot connect to {authority(str(where[0]), int(where[1]))}: {reason}")
    finally:
        if sock is not None and not is_connected:
            sock.close()


def _close(attempt: asyncio.Task[socket.socket | OSError]) -> None:
    """Close what an attempt has brought that was given up."""
    if not attempt.cancelled():
        outcome = attempt.result()
        if isinstance(outcome, socket.socket):
            outcome.close()


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
    return {"ssl": context, "server_hostname": server_name(host), **tls_timeouts(config)}


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

"""Brings a client to its server on trio: directly, or through an HTTP proxy."""

from __future__ import annotations

from typing import Any

import trio

from wsconnkit.managed.client import Route, unreachable
from wsconnkit.protocol.proxy import Tunnel
from wsconnkit.trio.tls import os_error, start_tls
from wsconnkit.trio.transport import MAX_READ, drop


async def dial(route: Route, stream: trio.abc.Stream | None, options: dict[str, Any]) -> trio.abc.Stream:
    """Return a stream to the server. Raises OSError, and InvalidHandshake as the proxy does.

    stream: one that leads there already; TLS comes on top.
    options: keyword arguments of `trio.open_tcp_stream`, for whatever is connected to first.
    """
    options = {"host": route.uri.host, "port": route.uri.port, **options}
    is_connected = False
    try:
        if route.proxy is not None:
            host, port = options.pop("host"), options.pop("port")
            stream = await trio.open_tcp_stream(route.proxy.host, route.proxy.port, **options)
            if route.proxy_ssl is not None:
                stream = await start_tls(stream, route.proxy_ssl, route.proxy.host)
            await _open_tunnel(stream, Tunnel(route.proxy, host, port, route.config.handshake))
        elif stream is None:
            stream = await trio.open_tcp_stream(**options)
        if route.ssl is not None:
            stream = await start_tls(stream, route.ssl, route.server_hostname)
        is_connected = True
    except (trio.BrokenResourceError, OSError) as error:
        # What lies behind says more: the certificate is not good, say, or nobody listens at any of the addresses.
        causes = getattr(error.__cause__, "exceptions", (error.__cause__,))
        errors = [cause for cause in causes if isinstance(cause, OSError)]
        if len(errors) == len(causes):
            raise unreachable(errors) from None
        raise
    finally:
        if stream is not None and not is_connected:
            await drop(stream)
    return stream


async def _open_tunnel(stream: trio.abc.Stream, tunnel: Tunnel) -> None:
    try:
        await stream.send_all(tunnel.data_to_send())
        while tunnel.error is None and not tunnel.is_open:
            data = await stream.receive_some(MAX_READ)
            if data:
                tunnel.receive_data(bytes(data))
            else:
                tunnel.receive_eof()
    except trio.BrokenResourceError as error:
        tunnel.receive_eof(os_error(error))
    if tunnel.error is not None:
        raise tunnel.error

"""Brings a client to its server on trio: directly, or through an HTTP proxy."""

from __future__ import annotations

import ssl as ssl_module
from typing import Any, NamedTuple

import trio

from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.proxy import Proxy, Tunnel
from wsconnkit.protocol.uri import URI
from wsconnkit.trio.transport import MAX_READ, drop, os_error


class Route(NamedTuple):
    """The way to a server; `kwargs` are those of `trio.open_tcp_stream`, for whatever is connected to first.

    ssl, proxy_ssl: there where the server, and the proxy, are reached by TLS.
    """

    uri: URI
    config: ConnectionConfig
    ssl: ssl_module.SSLContext | None
    server_hostname: str | None
    proxy: Proxy | None
    proxy_ssl: ssl_module.SSLContext | None
    stream: trio.abc.Stream | None
    kwargs: dict[str, Any]


async def dial(route: Route) -> trio.abc.Stream:
    """Return a stream to the server. Raises TimeoutError, OSError, and InvalidHandshake as the proxy does."""
    uri, timeout = route.uri, route.config.handshake.timeout
    kwargs = {"host": uri.host, "port": uri.port, **route.kwargs}
    stream = route.stream
    try:
        with trio.fail_after(timeout):
            if route.proxy is not None:
                host, port = kwargs.pop("host"), kwargs.pop("port")
                stream = await trio.open_tcp_stream(route.proxy.host, route.proxy.port, **kwargs)
                if route.proxy_ssl is not None:
                    stream = await _secure(stream, route.proxy_ssl, route.proxy.host)
                await _dig(stream, Tunnel(route.proxy, host, port, route.config.handshake))
            elif stream is None:
                stream = await trio.open_tcp_stream(**kwargs)
            if route.ssl is not None:
                stream = await _secure(stream, route.ssl, route.server_hostname or uri.host)
            return stream
    except BaseException as error:
        if stream is not None:
            await drop(stream)
        if isinstance(error, trio.TooSlowError):
            raise TimeoutError(f"no connection to {uri.host_header} within {timeout:g} s") from None
        if isinstance(error, (trio.BrokenResourceError, OSError)):
            # What lies behind says more: the certificate is not good, say, or nobody listens at any of the addresses.
            causes = getattr(error.__cause__, "exceptions", (error.__cause__,))
            if isinstance(causes[0], OSError) and len({type(cause) for cause in causes}) == 1:
                raise causes[0] from None
        raise


async def _dig(stream: trio.abc.Stream, tunnel: Tunnel) -> None:
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


async def _secure(stream: trio.abc.Stream, context: ssl_module.SSLContext, host: str) -> trio.abc.Stream:
    secured = trio.SSLStream(stream, context, server_hostname=host)
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as error:
        if os_error(error) is None:
            raise ConnectionResetError("the connection ended during the TLS handshake") from None
        raise
    return secured

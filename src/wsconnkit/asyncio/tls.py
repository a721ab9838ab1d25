"""TLS on top of a transport of asyncio's."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
import sys
from typing import Any, cast

from wsconnkit.protocol.config import ConnectionConfig


def tls_timeouts(config: ConnectionConfig) -> dict[str, float]:
    """Return the timeouts of TLS that asyncio takes as keyword arguments."""
    timeouts = {"ssl_handshake_timeout": config.handshake.timeout}
    if sys.version_info >= (3, 11):
        timeouts["ssl_shutdown_timeout"] = config.close.timeout
    return timeouts


async def start_tls(
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    sslcontext: ssl_module.SSLContext,
    *,
    early: bytes = b"",
    **options: Any,
) -> asyncio.Transport:
    """Return a transport with TLS on `transport`, on which `protocol` may have been called by then.

    early: what has been read already.
    Raises OSError, ConnectionResetError for an end of any kind; TypeError for a transport that cannot carry TLS.
    """
    if transport.is_closing():  # nobody would ever tell
        raise ended_within_tls()
    loop = asyncio.get_running_loop()
    if early:
        loop.call_soon(_feed, transport, early)  # as soon as that is TLS's
    secured = await loop.start_tls(transport, protocol, sslcontext, **options)
    # asyncio has none where the connection was lost meanwhile, and uvloop one without TLS.
    if secured is None or secured.get_extra_info("ssl_object") is None:
        raise ended_within_tls()
    return secured


def _feed(transport: asyncio.Transport, data: bytes) -> None:
    protocol = cast(asyncio.BufferedProtocol, transport.get_protocol())
    while data:
        buffer = memoryview(protocol.get_buffer(len(data)))
        piece, data = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(piece)] = piece
        protocol.buffer_updated(len(piece))


def ended_within_tls() -> ConnectionResetError:
    """Return the error for a peer that leaves before there is TLS; event loops say so without a word."""
    return ConnectionResetError("the connection ended during the TLS handshake")

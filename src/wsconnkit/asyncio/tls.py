"""TLS on top of a transport of asyncio's."""

from __future__ import annotations

import asyncio
import socket
import ssl as ssl_module
import sys
from collections.abc import Callable
from typing import Any, cast

from wsconnkit.protocol.config import ConnectionConfig


class TLSTransport:
    """A transport with TLS whose state changes in turns of its own, and which is called no more when it is to end.

    asyncio and uvloop read on while they shut TLS down. Whoever ends the transport within what they call then has ended
    it before them, of which they complain at length ("cannot switch state from UNWRAPPED to SHUTDOWN").
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._call_soon = asyncio.get_running_loop().call_soon
        self._is_ending = False
        self._is_aborted = False
        self._is_reading = True
        self._is_resuming = False
        self._is_paused_for_long = False
        self.get_extra_info: Callable[..., Any] = transport.get_extra_info
        self.can_write_eof: Callable[[], bool] = transport.can_write_eof

    def is_closing(self) -> bool:
        """It has ended, or is about to."""
        return self._is_ending or self._is_lost() or self._transport.is_closing()

    def write(self, data: bytes | memoryview) -> None:
        """Write `data`, unless it ends."""
        if not self.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """End behind what was written."""
        if not self._is_ending:
            self._is_ending = True
            self._call_soon(self._close)

    def _close(self) -> None:
        # Closed twice, asyncio's forgets what `abort` needs, which it minds before Python 3.11.4.
        if not (self._is_lost() or self._transport.is_closing()):
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        if not self._is_aborted:
            self._is_ending = self._is_aborted = True
            self._call_soon(self._transport.abort)

    def pause_reading(self) -> None:
        """Read no more."""
        self._is_reading = False
        if not self._is_lost():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._is_reading = True
        self._is_paused_for_long = False
        if not self._is_resuming:
            self._is_resuming = True
            self._call_soon(self._resume)

    def _resume(self) -> None:
        self._is_resuming = False
        if self._is_reading and not self.is_closing():
            self._transport.resume_reading()

    def watch_reading(self) -> None:
        """End if the peer has, and reading was paused when this was called last and ever since.

        asyncio holds an end back while reading is paused, and drops what is written, so that no write meets it.
        """
        if not self._is_reading:
            if self._is_paused_for_long and self._has_peer_ended():
                self.abort()
            self._is_paused_for_long = True

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """As of any transport."""
        if not self._is_lost():
            self._transport.set_write_buffer_limits(high=high, low=low)

    def get_write_buffer_size(self) -> int:
        """As of any transport."""
        return 0 if self._is_lost() else self._transport.get_write_buffer_size()

    def _has_peer_ended(self) -> bool:
        """Tell whether the peer has ended its direction, and all of it was taken from the socket."""
        sock = self.get_extra_info("socket")
        if sock is None:
            return False
        try:
            with sock.dup() as peeking:
                return not peeking.recv(1, socket.MSG_PEEK)
        except OSError:  # there is nothing to read
            return False

    def _is_lost(self) -> bool:
        """Tell what a transport before Python 3.11 denies until it tells of the end, and raises for meanwhile."""
        if sys.version_info < (3, 11):
            try:
                self._transport.is_reading()
            except RuntimeError:
                return True
        return False


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
    if isinstance(protocol, asyncio.Protocol):  # asyncio's before Python 3.11, which begins right behind us
        asyncio.get_running_loop().call_soon(protocol.data_received, data)
        return
    while data:
        buffer = memoryview(protocol.get_buffer(len(data)))
        piece, data = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(piece)] = piece
        protocol.buffer_updated(len(piece))


def ended_within_tls() -> ConnectionResetError:
    """Return the error for a peer that leaves before there is TLS; event loops say so without a word."""
    return ConnectionResetError("the connection ended during the TLS handshake")

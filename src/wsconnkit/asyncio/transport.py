"""What both protocols of this package do with asyncio's transports and timers."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from math import inf

from wsconnkit.protocol.config import ConnectionConfig

_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_MOST_UNSENT = 64 * 1024
"""Bytes that the kernel takes beyond what it can send at once.

Without that it takes megabytes, and then nothing before a third of them has gone, which tells us of a peer that reads
slowly no more than of one that reads nothing.
"""


class Alarm:
    """Calls `ring` at a deadline; a deadline that moves later costs nothing until the old one has passed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._at = inf
        # uvloop returns a plain handle for what is due already.
        self._handle: asyncio.Handle | None = None

    def set(self, deadline: float | None) -> None:
        """Ring at `deadline` seconds on the loop's clock, or before; None leaves everything as it is."""
        if deadline is not None and deadline < self._at:
            self.cancel()
            self._at = deadline
            self._handle = self._loop.call_at(deadline, self._rings)

    def cancel(self) -> None:
        """Do not ring."""
        self._at = inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _rings(self) -> None:
        self._at = inf
        self._handle = None
        self._ring()


def end_writing(transport: asyncio.Transport) -> None:
    """End our side of the transport behind what was written; TLS has no half-close, so there it ends altogether."""
    if not transport.can_write_eof():
        transport.close()
        return
    try:
        transport.write_eof()
    except OSError:  # the peer has gone, of which the event loop will tell
        transport.abort()


def has_half_close(transport: asyncio.Transport | None) -> bool:
    """Tell whether our side lives on when the peer has ended its own."""
    return transport is not None and transport.get_extra_info("ssl_object") is None


def tls_timeouts(config: ConnectionConfig) -> dict[str, float]:
    """Return the timeouts of TLS that asyncio takes as keyword arguments."""
    timeouts = {"ssl_handshake_timeout": config.handshake.timeout}
    if sys.version_info >= (3, 11):
        timeouts["ssl_shutdown_timeout"] = config.close.timeout
    return timeouts


def forget(transport: asyncio.Transport) -> None:
    """Tell a transport that has ended by itself that we know."""
    # Before Python 3.11 a TLS transport that the peer ended warns that it was never closed.
    transport.abort()


def tune(transport: asyncio.Transport) -> None:
    """Let small frames go out at once and the kernel hold little, also on sockets that the event loop has not made."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM:
        with suppress(OSError):  # some systems refuse where the peer has gone already, or do not know the option
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if _NOTSENT_LOWAT is not None:
                sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, _MOST_UNSENT)

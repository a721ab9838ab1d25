"""asyncio's transports as the rest of the package wants them: they write in pieces, and tell how that goes on."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

from wsconnkit.asyncio.tls import TLSTransport
from wsconnkit.managed.opening import OpeningHandshake
from wsconnkit.managed.transport import TLS_ENDS, TransportProtocol

_LINGER = 0.1
"""Seconds that a released transport may take to write what it still holds."""
_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_MOST_UNSENT = 64 * 1024
"""Bytes that the kernel takes beyond what it can send at once.

Without that it takes megabytes, and then nothing before a third of them has gone, which tells us of a peer that reads
slowly no more than of one that reads nothing.
"""


class Transport(asyncio.Protocol):
    """An asyncio transport with its protocol, from the first byte to the end.

    What is larger than the high-water mark is written in pieces: over TLS, asyncio tells nothing of how much has left
    until it wants more.
    """

    collects_writes = False

    def __init__(self, protocol: TransportProtocol) -> None:
        self._protocol = protocol
        self._before: asyncio.BaseProtocol | None = None
        """The protocol that a transport had that was taken over."""
        self._loop = asyncio.get_running_loop()
        self._given: asyncio.Transport
        self._transport: asyncio.Transport | TLSTransport
        self._is_live = False
        self._early: list[Callable[[], object]] | None = []
        """What has come with the end of the TLS handshake, until we begin."""
        self._high_water = 64 * 1024
        self._rest: deque[memoryview] = deque()  # is empty unless the transport is full
        self._rest_size = 0
        self._is_full = False
        self._is_lowered = False
        self._eof_received = self._eof_written = False
        self._expected = 0
        """While it is full, bytes that would not have left if nothing had left since that was last looked at."""
        self._linger: asyncio.TimerHandle | None = None
        self.local_address: Any = None
        self.remote_address: Any = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin on a transport that was just made, with an opening handshake."""
        self._begin(cast(asyncio.Transport, transport))  # uvloop's is of a class of its own
        assert isinstance(self._protocol, OpeningHandshake)  # or there would be nothing to begin with
        early, self._early = self._early, None
        self._protocol.connection_made(self)
        for call in early or ():
            call()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._early is None:
            self._protocol.data_received(data)
        else:
            self._early.append(partial(self.data_received, data))

    def eof_received(self) -> bool:
        """Keep our direction open until the protocol ends it; TLS cannot."""
        if self._early is not None:
            self._early.append(self.eof_received)
            return False
        self._eof_received = True
        self._protocol.eof_received()
        return not self._eof_written and self._transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        if self._early is not None:
            self._early.append(partial(self.connection_lost, exc))
            return
        try:
            self._end(exc)
        finally:
            if self._before is not None:
                self._before.connection_lost(exc)

    def pause_writing(self) -> None:  # noqa: D102
        self._is_full = True
        self._expected = self.get_write_buffer_size()
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """All has left the transport; unless that was not all, there is room again."""
        if self._is_lowered:
            self._is_lowered = False
            self._transport.set_write_buffer_limits(high=self._high_water, low=0)
        self._is_full = False
        if self._rest:
            self._protocol.writing_progressed()
            self._write_pieces()
        if not self._is_full:
            self._protocol.resume_writing()

    # What the protocol calls.

    def take_over(self, transport: asyncio.Transport) -> None:
        """Begin on a transport of somebody else, whose protocol is told of the end too."""
        self._early = None
        self._before = transport.get_protocol()
        transport.set_protocol(self)
        self._begin(transport)
        if self.is_closing():
            self._loop.call_soon(self._end, None)  # nobody tells whoever comes after the end
        elif not transport.is_reading():
            transport.resume_reading()

    def _begin(self, transport: asyncio.Transport) -> None:
        self._given = transport
        has_tls = transport.get_extra_info("ssl_object") is not None
        self._transport = call = TLSTransport(transport) if has_tls else transport
        self._is_live = True
        self.local_address = transport.get_extra_info("sockname")
        self.remote_address = transport.get_extra_info("peername")
        # What is not called through a layer of ours.
        self.is_closing: Callable[[], bool] = call.is_closing
        self.pause_reading: Callable[[], None] = call.pause_reading
        self.resume_reading: Callable[[], None] = call.resume_reading
        self.call_soon: Callable[..., object] = self._loop.call_soon
        self.write_at_once: Callable[[bytes], None] = call.write

    def set_protocol(self, protocol: TransportProtocol) -> None:
        """Call `protocol` from now on."""
        self._protocol = protocol
        self.data_received = protocol.data_received  # type: ignore[method-assign] # no layer of ours between
        self._given.set_protocol(self)  # uvloop keeps what it has looked up
        _tune(self._given)

    def set_write_buffer_limits(self, high: int) -> None:
        """Pause the protocol when more than `high` bytes are unwritten; resume it when all have left."""
        self._high_water = high
        if not self._transport.is_closing():  # where uvloop would raise
            # That it resumes only when all is written tells the core that a ping has left.
            self._transport.set_write_buffer_limits(high=high, low=0)

    def write(self, data: bytes) -> None:
        """Write `data` behind what was written before."""
        if self._is_full:
            self._expected += len(data)
        if self._rest or len(data) > self._high_water:
            self._rest.append(memoryview(data))
            self._rest_size += len(data)
            self._write_pieces()
        else:
            self._transport.write(data)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes have not left."""
        return self._rest_size + self._transport.get_write_buffer_size()

    def set_write_deadline(self, at: float) -> None:
        """Do nothing: a new socket takes more than what a handshake writes."""

    def watch_writing(self) -> None:
        """Tell what asyncio does not: that less than the high-water mark is stuck, that some has left, or of an end."""
        if self._transport.is_closing():
            return
        if isinstance(self._transport, TLSTransport):
            self._transport.watch_reading()
        if self._is_full:
            size = self.get_write_buffer_size()
            if size < self._expected:
                self._protocol.writing_progressed()
            self._expected = size
        elif self._transport.get_write_buffer_size():
            self._is_lowered = True
            self._transport.set_write_buffer_limits(high=0, low=0)  # which pauses, until all has left

    def write_eof(self, quiet: float = 0.0) -> None:
        """End our direction behind what was written; TLS has no half-close: there it ends, and asyncio reads on."""
        self._eof_written = True
        self._write_rest()
        if self._eof_received or not self._transport.can_write_eof():
            self._transport.close()
            return
        try:
            self._given.write_eof()
        except OSError:  # the peer has gone, of which the event loop will tell
            self._transport.abort()

    def release(self) -> None:
        """Write what is left, for a tenth of a second at most, and end."""
        self._write_rest()
        if self._transport.get_write_buffer_size() == 0:
            self.abort()
        else:
            self._transport.close()
            self._linger = self._loop.call_later(_LINGER, self._transport.abort)

    def abort(self) -> None:
        """End at once; one that has ended already would end twice, where asyncio has closed it behind its last byte."""
        if self._is_live:
            self._transport.abort()

    def _end(self, exc: Exception | None) -> None:
        if not self._is_live:
            return  # it was told before; or TLS has failed, which whoever waits for it is told
        self._is_live = False
        self._rest.clear()
        self._rest_size = 0
        if self._linger is not None:
            self._linger.cancel()
        error = exc if isinstance(exc, OSError) and not isinstance(exc, TLS_ENDS) else None
        try:
            self._protocol.connection_lost(error)
        finally:
            if isinstance(self._transport, TLSTransport) or not self._given.is_closing():
                self._given.abort()  # before Python 3.11 one of TLS that the peer ended warns that it was never closed

    def _write_pieces(self) -> None:
        while self._rest and not self._is_full:
            piece = self._rest.popleft()
            if len(piece) > self._high_water:
                self._rest.appendleft(piece[self._high_water :])
                piece = piece[: self._high_water]
            self._rest_size -= len(piece)
            self._transport.write(piece)

    def _write_rest(self) -> None:
        """Write all there is, whether there is room or not: the transport is about to close."""
        while self._rest:
            self._transport.write(self._rest.popleft())
        self._rest_size = 0


def _tune(transport: asyncio.Transport) -> None:
    """Let small frames go out at once and the kernel hold little, also on sockets that the event loop has not made."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM:
        with suppress(OSError):  # some systems refuse where the peer has gone already, or do not know the option
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if _NOTSENT_LOWAT is not None:
                sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, _MOST_UNSENT)

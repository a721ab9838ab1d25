"""Writes to a transport, a piece at a time, and tells the core how that goes on."""

from __future__ import annotations

import asyncio
from collections import deque

from wsconnkit.protocol.connection import ConnectionProtocol


class Writer:
    """Between `core` and its transport, which pauses above `high_water` bytes.

    What is larger is written in pieces: over TLS, asyncio tells nothing of how much has left until it wants more.
    """

    def __init__(self, core: ConnectionProtocol, high_water: int) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._high_water = high_water
        self._transport: asyncio.Transport | None = None
        self._rest: deque[memoryview] = deque()  # is empty unless the transport is full
        self._rest_size = 0
        self._is_lowered = False
        self._gone = 0
        self.is_full = False
        """The transport, or what is to be written to it, holds more than it may."""

    def begin(self, transport: asyncio.Transport) -> None:
        """Write to `transport` from now on."""
        self._transport = transport
        # Resuming only when all is written tells the core that a ping has left.
        transport.set_write_buffer_limits(high=self._high_water, low=0)

    def end(self) -> None:
        """The transport is gone."""
        self._transport = None
        self._rest.clear()
        self._rest_size = 0

    @property
    def size(self) -> int:
        """Bytes that have not left."""
        return self._rest_size + (0 if self._transport is None else self._transport.get_write_buffer_size())

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write `data` behind what was written before."""
        if len(data) <= self._high_water and not self._rest:
            transport.write(data)
        else:
            self._rest.append(memoryview(data))
            self._rest_size += len(data)
            self._write_pieces(transport)

    def write_rest(self, transport: asyncio.Transport) -> None:
        """Write all there is, whether there is room or not: the transport is about to close."""
        while self._rest:
            transport.write(self._rest.popleft())
        self._rest_size = 0

    def pause(self) -> None:
        """The transport is full."""
        self.is_full = True
        self._core.writing_paused(self._loop.time())
        self._gone = self._core.stats.bytes_sent - self.size

    def resume(self) -> None:
        """All has left the transport; unless that was not all, there is room again."""
        transport = self._transport
        if transport is None:
            return
        if self._is_lowered:
            self._is_lowered = False
            transport.set_write_buffer_limits(high=self._high_water, low=0)
        self.is_full = False
        if self._rest:
            self._core.writing_progressed(self._loop.time())
            self._write_pieces(transport)
        if not self.is_full:
            self._core.writing_resumed(self._loop.time())

    def look(self) -> None:
        """Tell the core what asyncio does not: that less than the high-water mark is stuck, or that some has left."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self.is_full:
            gone = self._core.stats.bytes_sent - self.size
            if gone != self._gone:
                self._gone = gone
                self._core.writing_progressed(self._loop.time())
        elif transport.get_write_buffer_size():
            self._is_lowered = True
            transport.set_write_buffer_limits(high=0, low=0)  # which pauses, until all has left

    def _write_pieces(self, transport: asyncio.Transport) -> None:
        while self._rest and not self.is_full:
            piece = self._rest.popleft()
            if len(piece) > self._high_water:
                self._rest.appendleft(piece[self._high_water :])
                piece = piece[: self._high_water]
            self._rest_size -= len(piece)
            transport.write(piece)

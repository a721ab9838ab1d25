"""Streams in memory for trio, which hold back a sender as sockets do."""

from __future__ import annotations

import trio


class Pipe:
    """One direction: bytes in order, at most `capacity` of them under way."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._data = bytearray()
        self._changed = trio.lowlevel.ParkingLot()
        self.is_ended = False
        """The sender has ended it."""
        self.is_broken = False
        """The receiver has left."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        left = memoryview(data)
        while True:
            if self.is_ended:
                raise trio.ClosedResourceError
            if self.is_broken:
                raise trio.BrokenResourceError
            room = self._capacity - len(self._data)
            self._data += left[:room]
            left = left[room:]
            self.wake()
            if not left:
                return
            await self._changed.park()

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._data and not self.is_ended:
            if self.is_broken:
                raise trio.ClosedResourceError
            await self._changed.park()
        if self.is_broken:
            raise trio.ClosedResourceError
        data = bytes(self._data[:max_bytes])
        del self._data[:max_bytes]
        self.wake()
        return data

    def wake(self) -> None:
        self._changed.unpark_all()


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of two pipes."""

    def __init__(self, inbound: Pipe, outbound: Pipe) -> None:
        self._inbound = inbound
        self._outbound = outbound
        self.is_closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._outbound.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._inbound.receive_some(max_bytes or 65536)

    async def send_eof(self) -> None:
        self._outbound.is_ended = True
        self._outbound.wake()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.is_closed = True
        self._inbound.is_broken = self._outbound.is_ended = True
        self._inbound.wake()
        self._outbound.wake()
        await trio.lowlevel.checkpoint()


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """Accepts those who `connect` to it; `streams` are all ends there ever were."""

    def __init__(self, capacity: int = 256 * 1024) -> None:
        self._capacity = capacity
        self._waiting: list[MemoryStream] = []
        self._changed = trio.lowlevel.ParkingLot()
        self.streams: list[MemoryStream] = []

    def connect(self) -> MemoryStream:
        up, down = Pipe(self._capacity), Pipe(self._capacity)
        client, server = MemoryStream(down, up), MemoryStream(up, down)
        self.streams += [client, server]
        self._waiting.append(server)
        self._changed.unpark_all()
        return client

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            await self._changed.park()
        return self._waiting.pop(0)

    async def aclose(self) -> None:
        for stream in self._waiting:
            await stream.aclose()
        await trio.lowlevel.checkpoint()

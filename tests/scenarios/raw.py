"""A client that does exactly what it is told to, and handlers that keep what comes to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.http import HeadersLike
from wsconnkit.protocol.uri import parse_uri

from .driver import Driver, Wire

MASK = b"\x01\x02\x03\x04"
PLAIN = ConnectionConfig(compression=None)
BRIEF = ConnectionConfig(compression=None, close=CloseConfig(timeout=0.5))
"""For clients that do not end their side, where time is real."""


class Frame(NamedTuple):
    opcode: Opcode
    payload: bytes
    fin: bool = True
    compressed: bool = False


class RawClient:
    """Has opened a WebSocket, and then neither answers pings nor closes by itself."""

    def __init__(self, wire: Wire, data: bytes) -> None:
        self.wire = wire
        self._data = data

    async def send(self, opcode: Opcode, payload: bytes = b"", *, fin: bool = True) -> None:
        """Send a frame, masked as a client's must be."""
        await self.wire.send(encode_frame(opcode, payload, fin=fin, mask=MASK))

    async def read(self) -> Frame | None:
        """Return the server's next frame, None at the end."""
        while (frame := self._parse()) is None:
            data = await self.wire.receive()
            if not data:
                assert not self._data  # never in the middle of a frame
                return None
            self._data += data
        return frame

    async def read_all(self) -> list[Frame]:
        """Return the server's frames up to the end."""
        frames = []
        while (frame := await self.read()) is not None:
            frames.append(frame)
        return frames

    def _parse(self) -> Frame | None:
        data = self._data
        if len(data) < 2:
            return None
        assert not data[1] & 0x80  # a server's frames are not masked
        size, start = data[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            return None
        self._data = data[start + size :]
        return Frame(Opcode(data[0] & 0x0F), data[start : start + size], bool(data[0] & 0x80), bool(data[0] & 0x40))


@asynccontextmanager
async def raw_client(
    driver: Driver, server: Any, *, headers: HeadersLike = (), config: ConnectionConfig = PLAIN
) -> AsyncIterator[RawClient]:
    """Open a WebSocket, and drop the wire at the end of the block."""
    wire = await driver.dial(server)
    try:
        handshake = ClientHandshake(parse_uri("ws://127.0.0.1/"), config, now=0.0, headers=headers)
        await wire.send(handshake.data_to_send())
        head = b""
        while b"\r\n\r\n" not in head:
            data = await wire.receive()
            assert data
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        assert b" 101 " in head
        yield RawClient(wire, rest)
    finally:
        await wire.close()


class Arrivals:
    """A handler that keeps its connections open and at hand."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.connections: list[Any] = []
        self._taken = 0

    async def __call__(self, ws: Any) -> None:
        self.connections.append(ws)
        await ws.wait_closed()

    async def next(self) -> Any:
        """Wait for the next connection and return it."""
        await self._driver.until(lambda: len(self.connections) > self._taken)
        self._taken += 1
        return self.connections[self._taken - 1]


class Readers(Arrivals):
    """A handler that reads what comes, and drops it."""

    async def __call__(self, ws: Any) -> None:
        self.connections.append(ws)
        async for _ in ws:
            pass


@asynccontextmanager
async def pair(
    driver: Driver, config: ConnectionConfig | None = None, client_config: ConnectionConfig | None = None
) -> AsyncIterator[tuple[Any, Any]]:
    """Yield a client's and a server's end of one connection."""
    arrivals = Arrivals(driver)
    async with driver.serve(arrivals, config=config) as server:
        async with driver.connect(server, config=client_config) as client:
            yield client, await arrivals.next()


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


def info(ws: Any) -> CloseInfo:
    assert isinstance(ws.close_info, CloseInfo)
    return ws.close_info

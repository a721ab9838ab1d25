"""What tests of the whole server have in common: handlers, and clients that send exactly what they are told to."""

from __future__ import annotations

import asyncio
import json
import ssl as ssl_module
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import trustme

from wsconnkit.asyncio import Connection, Server, connect
from wsconnkit.asyncio.transport import Transport
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import InvalidStatus
from wsconnkit.protocol.events import Closed, Message
from wsconnkit.protocol.http import Headers, HeadersLike
from wsconnkit.protocol.uri import parse_uri

Run = Callable[[Coroutine[Any, Any, None]], None]
HeaderList = Iterable[tuple[str, str]]

UPGRADE = (
    ("Host", "127.0.0.1"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
)


class Arrivals:
    """A handler that keeps its connections open and at hand."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Connection] = asyncio.Queue()

    async def __call__(self, ws: Connection) -> None:
        self.connections.put_nowait(ws)
        await ws.wait_closed()


class Collector(Arrivals):
    """A handler that keeps what it receives, too."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str | bytes] = []

    async def __call__(self, ws: Connection) -> None:
        self.connections.put_nowait(ws)
        async for message in ws:
            self.messages.append(message)


class Got(NamedTuple):
    """A whole HTTP response."""

    status: int
    headers: Headers
    body: bytes

    @property
    def error(self) -> Any:
        return json.loads(self.body)["error"]

    @property
    def retry_after(self) -> int:
        return int(self.headers.get("Retry-After") or "")


def port(server: Server) -> int:
    return int(server.sockets[0].getsockname()[1])


def uri(server: Server, path: str = "/", scheme: str = "ws") -> str:
    return f"{scheme}://127.0.0.1:{port(server)}{path}"


def under_way(server: Server) -> int:
    """Return how many handshakes are under way."""
    return sum(len(acceptor) for acceptor in server._acceptors)


class Tls(NamedTuple):
    server: ssl_module.SSLContext
    client: ssl_module.SSLContext


def new_tls() -> Tls:
    """Return contexts of which the client's trusts the server's."""
    ca = trustme.CA()
    server = ssl_module.SSLContext(ssl_module.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    client = ssl_module.create_default_context()
    ca.configure_trust(client)
    return Tls(server, client)


def transport_of(ws: Connection) -> asyncio.Transport:
    """Return asyncio's own transport of a connection that has not ended."""
    transport = ws._pump.transport
    assert isinstance(transport, Transport)
    return transport._given


def info(ws: Connection) -> CloseInfo:
    assert ws.close_info is not None
    return ws.close_info


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def opened(server: Server, path: str = "/", **kwargs: Any) -> Connection:
    """Connect; a coroutine, as tasks and `gather` want one."""
    return await connect(uri(server, path), **kwargs)


async def refused(server: Server, path: str = "/", **kwargs: Any) -> Got:
    """Try to connect, and return the response that refuses it."""
    with pytest.raises(InvalidStatus) as caught:
        await connect(uri(server, path), **kwargs)
    response = caught.value.response
    return Got(response.status, response.headers, response.body)


async def attempt(server: Server, path: str = "/", **kwargs: Any) -> Connection | Got:
    """Try to connect, and return the connection or the response that refuses it."""
    try:
        return await connect(uri(server, path), **kwargs)
    except InvalidStatus as error:
        return Got(error.response.status, error.response.headers, error.response.body)


def sort_out(attempts: Iterable[Connection | Got]) -> tuple[list[Connection], list[Got]]:
    """Return the connections and the refusals in `attempts`."""
    connections: list[Connection] = []
    refusals: list[Got] = []
    for attempt in attempts:
        if isinstance(attempt, Got):
            refusals.append(attempt)
        else:
            connections.append(attempt)
    return connections, refusals


def head(method: str = "GET", path: str = "/", headers: HeaderList = UPGRADE) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def exchange(server: Server, request: bytes, *, ssl: ssl_module.SSLContext | None = None, at: int = 0) -> Got:
    """Send raw bytes at once, and return what comes back until the end.

    at: which of the server's sockets is asked.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[at].getsockname()[1], ssl=ssl)
    try:
        writer.write(request)
        top, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    status_line, *lines = top.decode("latin-1").split("\r\n")
    pairs = [line.partition(": ")[::2] for line in lines]
    return Got(int(status_line.split(" ")[1]), Headers(pairs), body)


class RawClient:
    """A client that has opened a WebSocket and then does only what it is told; it answers no pings."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handshake: ClientHandshake) -> None:
        self._reader = reader
        self.writer = writer
        self._core = handshake.connection(0.0)
        self._received: list[str | bytes] = []
        self._closed: CloseInfo | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, server: Server, *, headers: HeadersLike = (), **kwargs: Any) -> AsyncIterator[RawClient]:
        """Further keyword arguments go to `asyncio.open_connection`."""
        if "sock" not in kwargs:
            kwargs |= {"host": "127.0.0.1", "port": port(server)}
        reader, writer = await asyncio.open_connection(**kwargs)
        handshake = ClientHandshake(
            parse_uri(uri(server)), ConnectionConfig(compression=None, heartbeat=None), now=0.0, headers=headers
        )
        try:
            writer.write(handshake.data_to_send())
            handshake.receive_data(await reader.readuntil(b"\r\n\r\n"), 0.0)
            yield cls(reader, writer, handshake)
        finally:
            writer.close()

    def send(self, *messages: str | bytes) -> None:
        """Send all messages in one write."""
        for message in messages:
            self._core.send(message, 0.0)
        self.writer.write(self._core.data_to_send())

    async def receive(self, count: int) -> list[str | bytes]:
        """Return the next `count` messages."""
        while len(self._received) < count and await self._read():
            pass
        messages, self._received = self._received[:count], self._received[count:]
        return messages

    async def receive_close(self) -> tuple[list[str | bytes], CloseInfo]:
        """Return the messages until the end, answer its Close frame, and return how it ended."""
        while await self._read():
            self.writer.write(self._core.data_to_send())
        assert self._closed is not None
        return self._received, self._closed

    async def _read(self) -> bytes:
        data = await self._reader.read(65536)
        if data:
            self._core.receive_data(data, 0.0)
        else:
            self._core.receive_eof(0.0)
        for event in self._core.events():
            if isinstance(event, Message):
                assert event.final
                self._received.append(event.data)
            elif isinstance(event, Closed):
                self._closed = event.info
        return data


@asynccontextmanager
async def no_time_passing() -> AsyncIterator[None]:
    """Keep virtual time from going on while threads, which it does not wait for, are at work."""

    async def turn() -> None:
        while True:
            await asyncio.sleep(0)

    turning = asyncio.ensure_future(turn())
    try:
        yield
    finally:
        turning.cancel()
        await asyncio.wait({turning})

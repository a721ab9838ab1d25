"""Our server and our client against those of websockets and aiohttp, over real sockets and on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import aiohttp
import aiohttp.web
import pytest
import websockets.asyncio.client
import websockets.asyncio.server
import websockets.sync.client
from websockets.datastructures import Headers as WebsocketsHeaders
from websockets.exceptions import InvalidStatus as WebsocketsInvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.http11 import Request as WebsocketsRequest
from websockets.http11 import Response as WebsocketsResponse
from websockets.typing import Subprotocol

from wsconnkit.asyncio import Connection, Server, connect, serve
from wsconnkit.machines.closing import State
from wsconnkit.machines.compression import DirectionStats
from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.closeinfo import Cause, CloseInfo, Initiator
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.errors import ConnectionClosedError, InvalidStatus
from wsconnkit.protocol.frames import Opcode, encode_frame

Run = Callable[[Coroutine[Any, Any, None]], None]
Message = str | bytes
MIB = 1024 * 1024
MASK = b"\x01\x02\x03\x04"
RANDOM = random.Random(7692)
LARGEST = 10 * MIB
"""Bytes of a message that every peer is told to accept."""

libraries = pytest.mark.parametrize("library", ["websockets", "aiohttp"])
compressions = pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "plain"])

# The peers.


class Peer(Protocol):
    """What the tests do with a connection of another library."""

    async def send(self, message: Message) -> None: ...

    async def recv(self) -> Message: ...

    async def ping(self) -> None:
        """Return when the pong is here."""

    async def close(self, code: int, reason: str) -> None: ...

    async def closed(self) -> tuple[int | None, str | None]:
        """Wait for a close by the other side, and return its code and reason."""

    @property
    def subprotocol(self) -> str | None: ...


PeerHandler = Callable[[Peer], Awaitable[None]]


class WebsocketsPeer:
    def __init__(
        self, ws: websockets.asyncio.client.ClientConnection | websockets.asyncio.server.ServerConnection
    ) -> None:
        self.ws = ws

    async def send(self, message: Message) -> None:
        await self.ws.send(message)

    async def recv(self) -> Message:
        return await self.ws.recv()

    async def ping(self) -> None:
        await (await self.ws.ping())

    async def close(self, code: int, reason: str) -> None:
        await self.ws.close(code, reason)

    async def closed(self) -> tuple[int | None, str | None]:
        await self.ws.wait_closed()
        return self.ws.protocol.close_code, self.ws.protocol.close_reason

    @property
    def subprotocol(self) -> str | None:
        return self.ws.subprotocol


class AiohttpPeer:
    def __init__(self, ws: aiohttp.ClientWebSocketResponse | aiohttp.web.WebSocketResponse) -> None:
        self.ws = ws

    async def send(self, message: Message) -> None:
        await (self.ws.send_str(message) if isinstance(message, str) else self.ws.send_bytes(message))

    async def recv(self) -> Message:
        message = await self.ws.receive()
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        data: Message = message.data
        return data

    async def ping(self) -> None:
        await self.ws.ping(b"payload")
        message = await self.ws.receive()  # it shows pongs where it does not answer pings
        assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, b"payload")

    async def close(self, code: int, reason: str) -> None:
        await self.ws.close(code=code, message=reason.encode())

    async def closed(self) -> tuple[int | None, str | None]:
        message = await self.ws.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE, message
        return message.data, message.extra

    @property
    def subprotocol(self) -> str | None:
        return self.ws.ws_protocol if isinstance(self.ws, aiohttp.web.WebSocketResponse) else self.ws.protocol


@contextlib.asynccontextmanager
async def client_of(
    library: str,
    uri: str,
    *,
    compressed: bool = True,
    subprotocols: Sequence[str] = (),
    headers: dict[str, str] | None = None,
    autoping: bool = True,
) -> AsyncIterator[Peer]:
    """Open a WebSocket with another library."""
    if library == "websockets":
        async with websockets.asyncio.client.connect(
            uri,
            proxy=None,
            compression="deflate" if compressed else None,
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            additional_headers=headers,
            max_size=LARGEST,
        ) as ws:
            yield WebsocketsPeer(ws)
    else:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(
                uri,
                compress=15 if compressed else 0,
                protocols=subprotocols,
                headers=headers,
                max_msg_size=LARGEST,
                autoping=autoping,
            ) as response:
                yield AiohttpPeer(response)


@contextlib.asynccontextmanager
async def server_of(
    library: str,
    handler: PeerHandler,
    *,
    compressed: bool = True,
    subprotocols: Sequence[str] = (),
    autoping: bool = True,
    max_size: int = LARGEST,
    seen_headers: list[str] | None = None,
) -> AsyncIterator[str]:
    """Serve with another library and yield the URI; `seen_headers` gets the X-Test header of each request."""
    seen = [] if seen_headers is None else seen_headers
    if library == "websockets":

        async def on_connection(ws: websockets.asyncio.server.ServerConnection) -> None:
            assert ws.request is not None
            seen.extend(ws.request.headers.get_all("X-Test"))
            await handler(WebsocketsPeer(ws))

        async with websockets.asyncio.server.serve(
            on_connection,
            "127.0.0.1",
            0,
            compression="deflate" if compressed else None,
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            max_size=max_size,
        ) as server:
            yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
    else:

        async def on_request(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
            seen.extend(request.headers.getall("X-Test", []))
            ws = aiohttp.web.WebSocketResponse(
                compress=compressed, protocols=subprotocols, max_msg_size=max_size, autoping=autoping
            )
            await ws.prepare(request)
            await handler(AiohttpPeer(ws))
            return ws

        async with aiohttp_app(on_request) as uri:
            yield uri


@contextlib.asynccontextmanager
async def aiohttp_app(
    on_request: Callable[[aiohttp.web.Request], Awaitable[aiohttp.web.StreamResponse]],
) -> AsyncIterator[str]:
    app = aiohttp.web.Application()
    app.router.add_get("/", on_request)
    runner = aiohttp.web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def echo_to_peer(peer: Peer, count: int) -> None:
    for _ in range(count):
        await peer.send(await peer.recv())


# Our own side.


class Echo:
    """A handler that echoes, and keeps its connections at hand."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Connection] = asyncio.Queue()

    async def __call__(self, ws: Connection) -> None:
        self.connections.put_nowait(ws)
        async for message in ws:
            await ws.send(message)


class Hold(Echo):
    """A handler that leaves its connections to the test."""

    async def __call__(self, ws: Connection) -> None:
        self.connections.put_nowait(ws)
        await ws.wait_closed()


def uri_of(server: Server, path: str = "/") -> str:
    return f"ws://127.0.0.1:{port_of(server)}{path}"


def port_of(server: Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


def info(ws: Connection) -> CloseInfo:
    assert ws.close_info is not None
    return ws.close_info


def config(*, compressed: bool = True) -> ConnectionConfig:
    return ConnectionConfig(
        limits=FrameLimits.lenient(), compression=CompressionConfig(threshold=100) if compressed else None
    )


def send_fragments(ws: Connection, parts: Sequence[Message]) -> None:
    """Send one message in several frames, which the core can and the application need not."""
    for i, part in enumerate(parts):
        ws._core.send(part, ws.runtime.now(), final=i == len(parts) - 1)
        ws._pump.flush()


# What is on the wire.


class WireFrame(NamedTuple):
    fin: bool
    rsv1: bool
    opcode: int
    payload: bytes


def frames(data: bytes) -> list[WireFrame]:
    """Read frames with code that is not ours (RFC 6455, section 5.2)."""
    found = []
    while data:
        first, second = data[0], data[1]
        assert first & 0x30 == 0
        length, position = second & 0x7F, 2
        if length > 125:
            position += 2 if length == 126 else 8
            length = int.from_bytes(data[2:position], "big")
        mask = b"\0\0\0\0"
        if second & 0x80:
            mask, position = data[position : position + 4], position + 4
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data[position : position + length]))
        assert len(payload) == length
        found.append(WireFrame(bool(first & 0x80), bool(first & 0x40), first & 0x0F, payload))
        data = data[position + length :]
    return found


def data_frames(stream: bytearray) -> list[WireFrame]:
    """Return the data frames of one direction, behind its HTTP head."""
    return [frame for frame in frames(bytes(stream.partition(b"\r\n\r\n")[2])) if frame.opcode < 8]


class Wire:
    """A relay in front of a server, which keeps what passes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.to_server = bytearray()
        self.to_client = bytearray()

    @contextlib.asynccontextmanager
    async def tapped(self) -> AsyncIterator[str]:
        tasks: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()

        def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.append(loop.create_task(self._relay(reader, writer)))

        server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
        try:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        finally:
            server.close()
            await asyncio.gather(*tasks)
            await server.wait_closed()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(
            self._copy(reader, up_writer, self.to_server), self._copy(up_reader, writer, self.to_client)
        )
        for end in (writer, up_writer):
            end.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(64 * 1024):
                record += data
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


class RawClient:
    """A client that sends the bytes that it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""

    @classmethod
    async def connect(cls, server: Server) -> RawClient:
        return cls(*await asyncio.open_connection("127.0.0.1", port_of(server)))

    @classmethod
    async def open(cls, server: Server, *headers: str) -> RawClient:
        client = await cls.connect(server)
        client.writer.write(upgrade_request("/", *headers))
        client.head = await client.reader.readuntil(b"\r\n\r\n")
        assert client.head.startswith(b"HTTP/1.1 101 ")
        return client

    async def read_to_eof(self) -> bytes:
        data = await self.reader.read()
        self.writer.close()
        return data


def upgrade_request(path: str, *headers: str) -> bytes:
    if not any(header.startswith("Connection:") for header in headers):
        headers = ("Connection: Upgrade", *headers)
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        *headers,
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


# Messages.

LARGE_TEXT = "größe" * (3 * MIB // 6)
LARGE_BINARY = RANDOM.randbytes(3 * MIB)
MESSAGES: list[Message] = ["", b"", "text", "ünï\U0001f600 " * 1000, bytes(range(256)) * 20, LARGE_TEXT, LARGE_BINARY]


@libraries
@compressions
def test_our_server_echoes_every_kind_of_message(run: Run, library: str, compressed: bool) -> None:
    async def main() -> None:
        handler = Echo()
        async with serve(handler, "127.0.0.1", 0, config=config(compressed=compressed)) as server:
            async with client_of(library, uri_of(server), compressed=compressed) as peer:
                ws = await handler.connections.get()
                for message in MESSAGES:
                    await peer.send(message)
                    assert await peer.recv() == message
                assert bool(ws.stats.compression.inbound.messages_compressed) is compressed
            await ws.wait_closed()
            assert info(ws).clean
            assert (info(ws).code, info(ws).initiator) == (1000, Initiator.PEER)

    run(main())


@libraries
@compressions
def test_our_client_is_echoed_every_kind_of_message(run: Run, library: str, compressed: bool) -> None:
    async def main() -> None:
        async def handler(peer: Peer) -> None:
            await echo_to_peer(peer, len(MESSAGES))
            await peer.closed()

        async with server_of(library, handler, compressed=compressed) as uri:
            async with connect(uri, config=config(compressed=compressed)) as ws:
                for message in MESSAGES:
                    await ws.send(message)
                    assert await ws.recv() == message
                assert bool(ws.stats.compression.inbound.messages_compressed) is compressed
            assert info(ws).clean
            assert (info(ws).code, info(ws).initiator) == (1000, Initiator.LOCAL)

    run(main())


@libraries
@pytest.mark.parametrize(("ours", "theirs"), [(True, False), (False, True)])
def test_compression_that_only_one_side_knows_is_not_used(run: Run, library: str, ours: bool, theirs: bool) -> None:
    async def main() -> None:
        handler = Echo()
        async with serve(handler, "127.0.0.1", 0, config=config(compressed=ours)) as server:
            async with client_of(library, uri_of(server), compressed=theirs) as peer:
                await peer.send("a" * 5000)
                assert await peer.recv() == "a" * 5000
                ws = await handler.connections.get()
                assert ws.stats.compression.outbound.messages_compressed == 0

        async with server_of(library, lambda peer: echo_to_peer(peer, 1), compressed=theirs) as uri:
            async with connect(uri, config=config(compressed=ours)) as ws:
                await ws.send("a" * 5000)
                assert await ws.recv() == "a" * 5000
                assert ws.stats.compression.outbound.messages_compressed == 0
                assert "Sec-WebSocket-Extensions" not in ws.response_headers

    run(main())


@libraries
def test_our_server_takes_many_messages_in_a_row_and_keeps_their_order(run: Run, library: str) -> None:
    async def main() -> None:
        async with serve(Echo(), "127.0.0.1", 0) as server, client_of(library, uri_of(server)) as peer:

            async def send_all() -> None:
                for i in range(500):
                    await peer.send(f"{i} " * (i % 50))

            sending = asyncio.ensure_future(send_all())
            assert [await peer.recv() for _ in range(500)] == [f"{i} " * (i % 50) for i in range(500)]
            await sending

    run(main())


# Fragments.


async def fragments(parts: Iterable[Message], between: Callable[[], Awaitable[object]]) -> AsyncIterator[Message]:
    for part in parts:
        yield part
        await between()


@compressions
@pytest.mark.parametrize(
    "parts",
    [["one ", "two ", "", "three"], [b"\x00", b"\x01\x02", b""], ["é" * 250_000] * 5, [RANDOM.randbytes(400_000)] * 3],
    ids=["text", "binary", "large text", "large binary"],
)
def test_fragments_from_websockets_become_one_message(run: Run, compressed: bool, parts: Sequence[Message]) -> None:
    whole = "".join(map(str, parts)) if isinstance(parts[0], str) else b"".join(map(bytes, parts))  # type: ignore[arg-type]

    async def main() -> None:
        settings = config(compressed=compressed)
        async with serve(Echo(), "127.0.0.1", 0, config=settings) as server:
            async with websockets.asyncio.client.connect(
                uri_of(server), proxy=None, max_size=LARGEST, compression="deflate" if compressed else None
            ) as ws:
                await ws.send(parts)
                assert await ws.recv() == whole
                # Control frames may come between them (RFC 6455, section 5.4).
                await ws.send(fragments(parts, ws.ping))
                assert await ws.recv() == whole

        async def handler(peer: Peer) -> None:
            assert isinstance(peer, WebsocketsPeer)
            await peer.ws.send(parts)
            await peer.ws.send(fragments(parts, peer.ws.ping))
            await peer.closed()

        async with server_of("websockets", handler, compressed=compressed) as uri:
            async with connect(uri, config=settings) as client:
                assert await client.recv() == whole
                assert await client.recv() == whole

    run(main())


@compressions
def test_characters_that_websockets_cuts_in_two_are_put_together(run: Run, compressed: bool) -> None:
    async def main() -> None:
        async with serve(Echo(), "127.0.0.1", 0, config=config(compressed=compressed)) as server:
            async with websockets.asyncio.client.connect(
                uri_of(server), proxy=None, compression="deflate" if compressed else None
            ) as ws:
                await ws.send([bytes([byte]) for byte in "ü\U0001f600€".encode()], text=True)
                assert await ws.recv() == "ü\U0001f600€"

    run(main())


def test_fragments_from_websockets_can_be_received_one_by_one(run: Run) -> None:
    async def main() -> None:
        handler = Hold()
        async with serve(handler, "127.0.0.1", 0) as server:
            async with websockets.asyncio.client.connect(uri_of(server), proxy=None) as ws:
                ours = await handler.connections.get()
                may_go_on = asyncio.Event()
                sending = asyncio.ensure_future(ws.send(fragments(["one", "two"], may_go_on.wait)))
                stream = ours.recv_streaming()
                assert await anext(stream) == "one"
                may_go_on.set()
                rest = [part async for part in stream]
                assert "".join(map(str, rest)) == "two"
                await sending

    run(main())


@libraries
@compressions
@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (["one ", "two ", "", "thr\u20ace"], "one two thr\u20ace"),
        ([b"1", b"2" * 300_000, b"3" * 300_000], b"1" + b"2" * 300_000 + b"3" * 300_000),
    ],
    ids=["text", "binary"],
)
def test_our_fragments_become_one_message(
    run: Run, library: str, compressed: bool, parts: Sequence[Message], whole: Message
) -> None:
    async def main() -> None:
        handler = Hold()
        async with serve(handler, "127.0.0.1", 0, config=config(compressed=compressed)) as server:
            async with client_of(library, uri_of(server), compressed=compressed) as peer:
                ours = await handler.connections.get()
                send_fragments(ours, parts)
                assert await peer.recv() == whole
                await ours.send("a whole one behind it")
                assert await peer.recv() == "a whole one behind it"

        received: asyncio.Queue[Message] = asyncio.Queue()

        async def keep(peer: Peer) -> None:
            received.put_nowait(await peer.recv())
            await peer.closed()

        async with server_of(library, keep, compressed=compressed) as uri:
            async with connect(uri, config=config(compressed=compressed)) as client:
                send_fragments(client, parts)
                assert await received.get() == whole

    run(main())


# Pings.


@libraries
def test_pings_are_answered_in_both_directions(run: Run, library: str) -> None:
    async def main() -> None:
        handler = Hold()
        async with serve(handler, "127.0.0.1", 0) as server:
            async with client_of(library, uri_of(server), autoping=False) as peer:
                await peer.ping()
            async with client_of(library, uri_of(server)) as peer:
                await handler.connections.get()
                ours = await handler.connections.get()
                receiving = asyncio.ensure_future(peer.recv())  # aiohttp answers only while it receives
                assert await ours.ping() >= 0
                assert await ours.ping(bytes(125)) >= 0
                await ours.send("done")
                assert await receiving == "done"

        async def ping(peer: Peer) -> None:
            await peer.ping()

        async def receive(peer: Peer) -> None:
            await peer.closed()

        async with server_of(library, ping, autoping=False) as uri, connect(uri) as client:
            await client.wait_closed()
            assert info(client).ok
        async with server_of(library, receive) as uri, connect(uri) as client:
            assert await client.ping() >= 0
            assert await client.ping(bytes(125)) >= 0

    run(main())


# Closing.


@libraries
@compressions
def test_a_close_of_ours_reaches_the_peer_with_code_and_reason(run: Run, library: str, compressed: bool) -> None:
    async def main() -> None:
        handler = Hold()
        async with serve(handler, "127.0.0.1", 0, config=config(compressed=compressed)) as server:
            async with client_of(library, uri_of(server), compressed=compressed) as peer:
                ours = await handler.connections.get()
                closing = asyncio.ensure_future(ours.close(4001, "Schluß"))
                assert await peer.closed() == (4001, "Schluß")
                await closing
                assert (info(ours).code, info(ours).reason, info(ours).cause) == (4001, "Schluß", Cause.LOCAL_CLOSE)
                assert info(ours).clean
                assert info(ours).rcvd_then_sent is False

        seen: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()

        async def keep(peer: Peer) -> None:
            seen.put_nowait(await peer.closed())

        async with server_of(library, keep, compressed=compressed) as uri:
            client = await connect(uri, config=config(compressed=compressed))
            await client.close(4001, "Schluß")
            assert await seen.get() == (4001, "Schluß")
            assert (info(client).code, info(client).reason, info(client).cause) == (4001, "Schluß", Cause.LOCAL_CLOSE)
            assert info(client).clean
            assert info(client).rcvd_then_sent is False

    run(main())


@libraries
@compressions
def test_a_close_of_the_peer_reaches_us_with_code_and_reason(run: Run, library: str, compressed: bool) -> None:
    def check(ws: Connection) -> None:
        assert (info(ws).code, info(ws).reason, info(ws).cause) == (4002, "Ende", Cause.PEER_CLOSE)
        assert info(ws).rcvd == info(ws).sent == (4002, "Ende")
        assert info(ws).initiator is Initiator.PEER
        assert info(ws).rcvd_then_sent is True

    async def main() -> None:
        handler = Hold()
        async with serve(handler, "127.0.0.1", 0, config=config(compressed=compressed)) as server:
            async with client_of(library, uri_of(server), compressed=compressed) as peer:
                ours = await handler.connections.get()
                await peer.close(4002, "Ende")
                with pytest.raises(ConnectionClosedError, match="4002"):
                    await ours.recv()
                await ours.wait_closed()
                check(ours)

        async def close(peer: Peer) -> None:
            await peer.close(4002, "Ende")

        async with server_of(library, close, compressed=compressed) as uri:
            async with connect(uri, config=config(compressed=compressed)) as client:
                with pytest.raises(ConnectionClosedError, match="4002"):
                    await client.recv()
            check(client)

    run(main())


@libraries
def test_the_peer_learns_of_a_drained_server_and_of_a_failed_handler(run: Run, library: str) -> None:
    async def main() -> None:
        server = await serve(Hold(), "127.0.0.1", 0)
        async with client_of(library, uri_of(server)) as peer:
            closing = asyncio.ensure_future(server.close(reason="restart"))
            assert await peer.closed() == (1001, "restart")
            await closing

        async def fail(ws: Connection) -> None:
            raise RuntimeError("a bug of the application")

        async with serve(fail, "127.0.0.1", 0) as server, client_of(library, uri_of(server)) as peer:
            assert await peer.closed() == (1011, "")

    run(main())


@libraries
@compressions
def test_a_message_that_is_too_big_for_us_is_answered_with_1009(run: Run, library: str, compressed: bool) -> None:
    limited = ConnectionConfig(limits=FrameLimits(max_frame_size=10_000, max_message_size=10_000))
    # As a bomb, small enough for a frame, or with most of it still unsent when the answer comes. (That is not for
    # websockets, which then aborts a transport that is gone, and CPython's raises AttributeError for it.)
    bomb = "a" * (5 * MIB if compressed or library == "aiohttp" else 20_000)

    async def main() -> None:
        handler = Echo()
        async with serve(handler, "127.0.0.1", 0, config=limited) as server:
            for message in (bomb, b"b" * 10_001):
                async with client_of(library, uri_of(server), compressed=compressed) as peer:
                    await peer.send("a" * 10_000)
                    assert await peer.recv() == "a" * 10_000
                    with contextlib.suppress(websockets.exceptions.ConnectionClosed, ConnectionError):
                        await peer.send(message)
                    code, reason = await peer.closed()
                    assert code == 1009
                    assert reason is not None
                    assert "over max_" in reason
                    ours = await handler.connections.get()
                    await ours.wait_closed()
                    assert (info(ours).cause, info(ours).code) == (Cause.TOO_BIG, 1009)

        seen: asyncio.Queue[int | None] = asyncio.Queue()

        async def too_big(peer: Peer) -> None:
            with contextlib.suppress(websockets.exceptions.ConnectionClosed, ConnectionError):
                await peer.send(bomb)
            seen.put_nowait((await peer.closed())[0])

        async with server_of(library, too_big, compressed=compressed) as uri:
            async with connect(uri, config=limited) as client:
                with pytest.raises(ConnectionClosedError, match="1009"):
                    await client.recv()
                assert await seen.get() == 1009
            assert info(client).cause is Cause.TOO_BIG

    run(main())


@libraries
@compressions
def test_a_message_that_is_too_big_for_the_peer_ends_with_its_1009(run: Run, library: str, compressed: bool) -> None:
    async def main() -> None:
        async def receive(peer: Peer) -> None:
            if isinstance(peer, WebsocketsPeer):
                await peer.closed()
            else:
                assert isinstance(peer, AiohttpPeer)
                assert (await peer.ws.receive()).type is aiohttp.WSMsgType.ERROR

        async with server_of(library, receive, compressed=compressed, max_size=10_000) as uri:
            async with connect(uri, config=config(compressed=compressed)) as client:
                await client.send("a" * 20_000)
                with pytest.raises(ConnectionClosedError, match="1009"):
                    await client.recv()
            assert (info(client).code, info(client).cause) == (1009, Cause.PEER_CLOSE)

    run(main())


# Compression.

# Repeats lie within 512 bytes, 8 KiB and 32 KiB, so that a window that one side takes too small breaks the message.
_BLOCK = RANDOM.randbytes(200) + b"0123456789" * 30
_SPREAD = b"".join(_BLOCK + RANDOM.randbytes(gap) + _BLOCK for gap in (0, 100, 3_000, 7_000, 15_000, 31_000))
SERIES: list[bytes] = [_SPREAD, _SPREAD, b"short " * 20, _SPREAD[::-1], _SPREAD]


def check_saved(stats: DirectionStats, count: int) -> None:
    assert stats.messages_compressed == count
    assert stats.bytes_after < stats.bytes_before
    assert stats.average_bytes_saved > 0
    assert stats.percent_saved > 0


TAKEOVER = {"server_context_takeover": True, "client_context_takeover": True}


@pytest.mark.parametrize(
    ("theirs", "ours", "agreed"),
    [
        ({}, {}, "server_no_context_takeover; client_no_context_takeover"),
        ({}, TAKEOVER, ""),
        ({}, {"server_context_takeover": True}, "client_no_context_takeover"),
        ({}, {"client_context_takeover": True}, "server_no_context_takeover"),
        ({"server_no_context_takeover": True}, TAKEOVER, "server_no_context_takeover"),
        ({"client_no_context_takeover": True}, TAKEOVER, "client_no_context_takeover"),
        (
            {"server_no_context_takeover": True, "client_no_context_takeover": True},
            TAKEOVER,
            "server_no_context_takeover; client_no_context_takeover",
        ),
        ({"server_max_window_bits": 15, "client_max_window_bits": 15}, TAKEOVER, "server_max_window_bits=15"),
        ({"server_max_window_bits": 12}, TAKEOVER, "server_max_window_bits=12"),
        (
            {"server_max_window_bits": 9, "client_max_window_bits": 9},
            TAKEOVER,
            "server_max_window_bits=9; client_max_window_bits=9",
        ),
        (
            {"server_max_window_bits": 14},
            {**TAKEOVER, "server_max_window_bits": 10, "client_max_window_bits": 11},
            "server_max_window_bits=10; client_max_window_bits=11",
        ),
        ({"client_max_window_bits": None}, {**TAKEOVER, "client_max_window_bits": 9}, ""),
        (
            {"client_max_window_bits": None, "server_max_window_bits": 15},
            {"server_max_window_bits": 9, "client_max_window_bits": 9},
            "server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
        ),
    ],
)
def test_our_server_agrees_with_websockets_on_deflate(
    run: Run, theirs: dict[str, Any], ours: dict[str, Any], agreed: str
) -> None:
    async def main() -> None:
        handler = Echo()
        settings = ConnectionConfig(compression=CompressionConfig(threshold=100, **ours))
        async with serve(handler, "127.0.0.1", 0, config=settings) as server:
            async with websockets.asyncio.client.connect(
                uri_of(server), proxy=None, extensions=[ClientPerMessageDeflateFactory(**theirs)]
            ) as peer:
                assert peer.response is not None
                expected = "; ".join(["permessage-deflate", *filter(None, [agreed])])
                assert peer.response.headers["Sec-WebSocket-Extensions"] == expected
                for message in SERIES:
                    await peer.send(message)
                    assert await peer.recv() == message
                ws = await handler.connections.get()
                check_saved(ws.stats.compression.inbound, len(SERIES))
                check_saved(ws.stats.compression.outbound, len(SERIES))

    run(main())


def test_a_window_of_256_bytes_is_agreed_on_and_left_unused(run: Run) -> None:
    async def main() -> None:
        handler = Echo()
        async with serve(handler, "127.0.0.1", 0, config=config()) as server:
            async with websockets.asyncio.client.connect(
                uri_of(server), proxy=None, extensions=[ClientPerMessageDeflateFactory(server_max_window_bits=8)]
            ) as peer:
                await peer.send(_SPREAD)
                assert await peer.recv() == _SPREAD
                ws = await handler.connections.get()
                assert "server_max_window_bits=8" in ws.response_headers.tokens("Sec-WebSocket-Extensions")[0]
                assert ws.stats.compression.outbound.messages_compressed == 0

        factory = ServerPerMessageDeflateFactory(client_max_window_bits=8)
        async with websockets_deflate_server(factory) as uri, connect(uri, config=config()) as client:
            await client.send(_SPREAD)
            assert await client.recv() == _SPREAD
            assert client.stats.compression.outbound.messages_compressed == 0
            assert client.stats.compression.inbound.messages_compressed == 1

    run(main())


@contextlib.asynccontextmanager
async def websockets_deflate_server(factory: ServerPerMessageDeflateFactory) -> AsyncIterator[str]:
    async def echo(ws: websockets.asyncio.server.ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)

    async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0, extensions=[factory]) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"


@pytest.mark.parametrize("ours", [{}, TAKEOVER, {"server_max_window_bits": 10, "client_max_window_bits": 11}])
@pytest.mark.parametrize(
    "theirs",
    [
        {},
        {"server_no_context_takeover": True},
        {"client_no_context_takeover": True},
        {"server_max_window_bits": 15, "client_max_window_bits": 15},
        {"server_max_window_bits": 9, "client_max_window_bits": 9},
        {"server_max_window_bits": 12, "client_max_window_bits": 10, "require_client_max_window_bits": True},
    ],
)
def test_our_client_agrees_with_websockets_on_deflate(run: Run, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    async def main() -> None:
        settings = ConnectionConfig(compression=CompressionConfig(threshold=100, **ours))
        async with websockets_deflate_server(ServerPerMessageDeflateFactory(**theirs)) as uri:
            async with connect(uri, config=settings) as ws:
                assert ws.response_headers.tokens("Sec-WebSocket-Extensions")[0].startswith("permessage-deflate")
                for message in SERIES:
                    await ws.send(message)
                    assert await ws.recv() == message
                check_saved(ws.stats.compression.inbound, len(SERIES))
                check_saved(ws.stats.compression.outbound, len(SERIES))

    run(main())


@pytest.mark.parametrize("ours", [{}, TAKEOVER, {"server_max_window_bits": 10, "client_max_window_bits": 11}])
@pytest.mark.parametrize("bits", [15, 12, 9])
def test_we_agree_with_aiohttp_on_deflate(run: Run, bits: int, ours: dict[str, Any]) -> None:
    async def main() -> None:
        handler = Echo()
        settings = ConnectionConfig(compression=CompressionConfig(threshold=100, **ours))
        async with serve(handler, "127.0.0.1", 0, config=settings) as server:
            async with aiohttp.ClientSession() as session:
                async with session.ws_connect(uri_of(server), compress=bits) as peer:
                    for message in SERIES:
                        await peer.send_bytes(message)
                        assert await peer.receive_bytes() == message
                    ws = await handler.connections.get()
                    check_saved(ws.stats.compression.inbound, len(SERIES))
                    check_saved(ws.stats.compression.outbound, len(SERIES))

        async with server_of("aiohttp", lambda peer: echo_to_peer(peer, len(SERIES))) as uri:
            async with connect(uri, config=settings) as client:
                for message in SERIES:
                    await client.send(message)
                    assert await client.recv() == message
                check_saved(client.stats.compression.inbound, len(SERIES))
                check_saved(client.stats.compression.outbound, len(SERIES))

    run(main())


@libraries
def test_compressed_messages_are_marked_and_small_on_the_wire(run: Run, library: str) -> None:
    message = "the same again and again, " * 400

    def check(ours: bytearray, theirs: bytearray) -> None:
        sent, received = data_frames(ours), data_frames(theirs)
        assert [(frame.rsv1, frame.opcode) for frame in sent] == [(True, 1), (False, 1)]  # the second is short
        assert sent[1].payload == b"short"
        assert received[0].rsv1
        for frame in (sent[0], received[0]):
            assert len(frame.payload) < len(message) // 10
            tail = b"\x00\x00\xff\xff"  # it is cut off before a message is sent (RFC 7692, section 7.2.1)
            assert zlib.decompressobj(-15).decompress(frame.payload + tail) == message.encode()

    async def main() -> None:
        async with serve(Echo(), "127.0.0.1", 0, config=config()) as server:
            wire = Wire(port_of(server))
            async with wire.tapped() as uri, client_of(library, uri) as peer:
                await peer.send(message)
                assert await peer.recv() == message
                await peer.send("short")
                assert await peer.recv() == "short"
            check(wire.to_client, wire.to_server)

        async with server_of(library, lambda peer: echo_to_peer(peer, 2)) as uri:
            wire = Wire(int(uri.rpartition(":")[2].rstrip("/")))
            async with wire.tapped() as tapped, connect(tapped, config=config()) as client:
                await client.send(message)
                assert await client.recv() == message
                await client.send("short")
                assert await client.recv() == "short"
            check(wire.to_server, wire.to_client)

    run(main())


@libraries
def test_nothing_is_marked_as_compressed_without_compression(run: Run, library: str) -> None:
    async def main() -> None:
        async with serve(Echo(), "127.0.0.1", 0, config=config(compressed=False)) as server:
            wire = Wire(port_of(server))
            async with wire.tapped() as uri, client_of(library, uri) as peer:
                await peer.send("a" * 2000)
                assert await peer.recv() == "a" * 2000
            for stream in (wire.to_client, wire.to_server):
                assert data_frames(stream) == [(True, False, 1, b"a" * 2000)]

    run(main())


BROWSERS = {
    "one that offers a window": (
        "Connection: Upgrade",
        "Pragma: no-cache",
        "Cache-Control: no-cache",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
        "Origin: http://127.0.0.1:8000",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Accept-Language: en-GB,en;q=0.9",
        "Cookie: one=1; two=2",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    ),
    "one that also names keep-alive": (
        "Connection: keep-alive, Upgrade",
        "Accept: */*",
        "Origin: null",
        "Sec-Fetch-Dest: empty",
        "Sec-Fetch-Mode: websocket",
        "Sec-WebSocket-Extensions: permessage-deflate",
    ),
    "one with a list of offers": (
        "Sec-WebSocket-Extensions: x-webkit-deflate-frame, permessage-deflate; unknown=1",
        'Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits="12"; client_max_window_bits, x;a=b',
    ),
}


@pytest.mark.parametrize("headers", BROWSERS.values(), ids=list(BROWSERS))
def test_what_browsers_offer_gets_compression(run: Run, headers: tuple[str, ...]) -> None:
    text = b"like a browser " * 100

    async def main() -> None:
        async with serve(Echo(), "127.0.0.1", 0, config=config(), origins=None) as server:
            client = await RawClient.open(server, *headers)
            assert client.head.lower().count(b"permessage-deflate") == 1
            deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
            payload = (deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
            client.writer.write(encode_frame(Opcode.TEXT, payload, compressed=True, mask=MASK))
            header = await client.reader.readexactly(2)
            (answer,) = frames(header + await client.reader.readexactly(header[1]))
            assert (answer.fin, answer.rsv1, answer.opcode) == (True, True, 1)
            assert zlib.decompressobj(-15).decompress(answer.payload + b"\x00\x00\xff\xff") == text
            client.writer.write(encode_frame(Opcode.CLOSE, b"\x03\xe8", mask=MASK))
            assert frames(await client.read_to_eof()) == [(True, False, 8, b"\x03\xe8")]

    run(main())


# The opening handshake.


@libraries
def test_a_subprotocol_is_agreed_on_in_both_directions(run: Run, library: str) -> None:
    async def main() -> None:
        handler = Hold()
        async with serve(handler, "127.0.0.1", 0, subprotocols=["chat.v2", "chat.v1"]) as server:
            for offered, chosen in (
                (["chat.v1", "chat.v2"], "chat.v2"),  # as the server prefers
                (["other", "chat.v1"], "chat.v1"),
                (["other"], None),
                ([], None),
            ):
                async with client_of(library, uri_of(server), subprotocols=offered) as peer:
                    ws = await handler.connections.get()
                    assert peer.subprotocol == ws.subprotocol == chosen
                    assert ws.upgrade_request.subprotocols == tuple(offered)

        seen: asyncio.Queue[str | None] = asyncio.Queue()

        async def keep(peer: Peer) -> None:
            seen.put_nowait(peer.subprotocol)
            await peer.closed()

        async with server_of(library, keep, subprotocols=["chat"]) as uri:
            async with connect(uri, subprotocols=["other", "chat"]) as client:
                assert client.subprotocol == await seen.get() == "chat"

    run(main())


@libraries
def test_request_headers_are_visible_on_the_other_side(run: Run, library: str) -> None:
    async def main() -> None:
        handler = Hold()
        async with serve(handler, "127.0.0.1", 0) as server:
            async with client_of(library, uri_of(server, "/path?query=1"), headers={"X-Test": "theirs"}):
                ws = await handler.connections.get()
                assert ws.upgrade_request.headers.get("x-test") == "theirs"
                assert ws.upgrade_request.headers.get("Host") == f"127.0.0.1:{port_of(server)}"
                assert (ws.upgrade_request.path, ws.upgrade_request.target) == ("/path", "/path?query=1")
        seen: list[str] = []
        async with server_of(library, lambda peer: peer.close(1000, ""), seen_headers=seen) as uri:
            async with connect(uri, headers={"X-Test": "ours"}) as client:
                assert seen == ["ours"]
                assert "Server" in client.response_headers

    run(main())


def test_a_refusal_of_ours_reaches_websockets_whole(run: Run) -> None:
    async def main() -> None:
        async with serve(Echo(), "127.0.0.1", 0, path="/ws") as server:
            with pytest.raises(WebsocketsInvalidStatus) as caught:
                await websockets.asyncio.client.connect(uri_of(server, "/wrong"), proxy=None)
            response = caught.value.response
            assert response.status_code == 404
            assert response.headers["Content-Type"] == "application/json"
            assert response.body is not None
            assert json.loads(response.body) == {"error": "there is no WebSocket at this path"}
            async with websockets.asyncio.client.connect(uri_of(server, "/ws?query"), proxy=None) as ws:
                await ws.send("served")
                assert await ws.recv() == "served"

    run(main())


def test_a_refusal_of_ours_reaches_aiohttp_whole(run: Run) -> None:
    async def main() -> None:
        async with serve(Echo(), "127.0.0.1", 0, path="/ws") as server, aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(uri_of(server, "/wrong"))
            assert caught.value.status == 404
            async with session.get(f"http://127.0.0.1:{port_of(server)}/ws") as response:
                assert response.status == 426
                assert response.headers["Upgrade"] == "websocket"
                assert response.headers["Connection"] == "close, Upgrade"
                assert await response.json() == {"error": "this is a WebSocket endpoint"}
            async with session.head(f"http://127.0.0.1:{port_of(server)}/ws") as response:
                assert response.status == 405
                assert await response.read() == b""
            async with session.post(f"http://127.0.0.1:{port_of(server)}/ws", data=b"body") as response:
                assert response.status == 405
                assert await response.json() == {"error": "the method is POST; a WebSocket opens with GET"}

    run(main())


@pytest.mark.parametrize("early", [0, 8 * 1024, MIB])
@pytest.mark.parametrize(
    ("request_head", "status", "error"),
    [
        (upgrade_request("/wrong"), 404, "there is no WebSocket at this path"),
        (b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 426, "this is a WebSocket endpoint"),
        (
            b"POST /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1048576\r\n\r\n",
            405,
            "the method is POST; a WebSocket opens with GET",
        ),
    ],
    ids=["404", "426", "405"],
)
def test_a_refusal_is_not_lost_behind_early_data(
    run: Run, request_head: bytes, status: int, error: str, early: int
) -> None:
    async def main() -> None:
        async with serve(Echo(), "127.0.0.1", 0, path="/ws") as server:
            client = await RawClient.connect(server)
            client.writer.write(request_head + RANDOM.randbytes(early))
            await client.writer.drain()
            head, _, body = (await client.read_to_eof()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert b"Content-Length: %d" % len(body) in head
            assert json.loads(body) == {"error": error}

    run(main())


def test_a_refusal_of_websockets_reaches_us_whole(run: Run) -> None:
    def refuse(ws: websockets.asyncio.server.ServerConnection, request: WebsocketsRequest) -> WebsocketsResponse:
        body = b'{"error": "not today"}'
        headers = WebsocketsHeaders([("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return WebsocketsResponse(403, "Forbidden", headers, body)

    async def never(ws: websockets.asyncio.server.ServerConnection) -> None:
        raise AssertionError("there is no connection")

    async def main() -> None:
        async with websockets.asyncio.server.serve(never, "127.0.0.1", 0, process_request=refuse) as server:
            with pytest.raises(InvalidStatus, match=r"403.*not today") as caught:
                await connect(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/")
            assert caught.value.response.status == 403
            assert caught.value.response.headers.get("Content-Type") == "application/json"
            assert json.loads(caught.value.response.body) == {"error": "not today"}

    run(main())


@pytest.mark.parametrize("chunked", [False, True])
def test_a_refusal_of_aiohttp_reaches_us_whole(run: Run, chunked: bool) -> None:
    async def refuse(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.json_response({"error": "no" * 5000}, status=401, headers={"WWW-Authenticate": "Basic"})
        if chunked:
            response.enable_chunked_encoding()
        return response

    async def main() -> None:
        async with aiohttp_app(refuse) as uri:
            with pytest.raises(InvalidStatus) as caught:
                await connect(uri)
            assert caught.value.response.status == 401
            assert caught.value.response.headers.get("WWW-Authenticate") == "Basic"
            assert json.loads(caught.value.response.body) == {"error": "no" * 5000}
            with pytest.raises(InvalidStatus) as caught:
                await connect(uri + "missing")
            assert caught.value.response.status == 404

    run(main())


# Heartbeats against peers that live elsewhere.

FAST = ConnectionConfig(heartbeat=HeartbeatConfig(interval=0.1, timeout=0.1, max_missed=2))
STALL = 3 * (0.1 + 2 * 0.1)


def echo_in_a_thread(uri: str) -> tuple[int | None, str | None]:
    """Echo until the server closes, with a client that needs no event loop; return how it closed."""
    with websockets.sync.client.connect(uri, proxy=None, ping_interval=None) as ws:
        for message in ws:
            ws.send(message)
    return ws.protocol.close_code, ws.protocol.close_reason


@contextlib.asynccontextmanager
async def live_client() -> AsyncIterator[Connection]:
    """Yield our end of a connection to a client in a thread, which must be there until we close it."""
    handler = Hold()
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        async with serve(handler, "127.0.0.1", 0, config=FAST) as server:
            client = loop.run_in_executor(pool, echo_in_a_thread, uri_of(server))
            ws = await handler.connections.get()
            yield ws
            await ws.send("still there")
            assert await ws.recv() == "still there"
            await ws.close(1000, "done")
            assert await client == (1000, "done")
            assert info(ws).clean


def stall() -> None:
    time.sleep(STALL)  # the loop is really blocked


def test_a_live_client_survives_stalls_of_our_loop(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with live_client() as ws:
            for stalls in range(1, 3):
                await ws.send("hello")
                assert await ws.recv() == "hello"
                stall()
                await ws.ping()
                assert ws.state is State.OPEN
                assert ws.stats.stalls >= stalls

    run(main())
    assert "heartbeat_stalled" in caplog.text


class StallBehindPing(logging.Handler):
    """Blocks the loop as soon as the first ping of a heartbeat has been written."""

    def __init__(self) -> None:
        super().__init__()
        self.over = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("heartbeat_ping") and not self.over.is_set():
            loop = asyncio.get_running_loop()
            loop.call_soon(stall)
            loop.call_soon(self.over.set)


def test_a_live_client_survives_a_stall_while_it_answers_our_ping(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("wsconnkit.connection")
    caplog.set_level(logging.DEBUG, logger.name)

    async def main() -> None:
        handler = StallBehindPing()
        logger.addHandler(handler)
        try:
            async with live_client() as ws:
                await handler.over.wait()
                await ws.ping()
                assert ws.state is State.OPEN
        finally:
            logger.removeHandler(handler)

    run(main())


def test_a_client_that_stops_answering_receives_1001_and_eof(run: Run) -> None:
    async def main() -> None:
        handler = Hold()
        async with serve(handler, "127.0.0.1", 0, config=FAST) as server:
            client = await RawClient.open(server)
            ws = await handler.connections.get()
            *pings, close = frames(await client.read_to_eof())
            assert [frame.opcode for frame in pings] == [9, 9]
            assert (close.opcode, close.payload) == (8, b"\x03\xe9connection timeout")
            await ws.wait_closed()
            assert (info(ws).code, info(ws).cause, info(ws).clean) == (1001, Cause.HEARTBEAT, False)

    run(main())

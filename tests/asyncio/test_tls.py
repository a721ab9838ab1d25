"""wss: between our own ends and with websockets, over real sockets and on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

import pytest
import websockets.asyncio.client
import websockets.asyncio.server

from wsconnkit.asyncio import Connection, Server, connect, serve
from wsconnkit.machines.closing import State
from wsconnkit.machines.framesize import MIB, FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.closeinfo import Cause, CloseInfo, Initiator
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, QueueConfig
from wsconnkit.protocol.errors import ConnectionClosedError, InvalidStatus
from wsconnkit.protocol.uri import parse_uri

if sys.version_info < (3, 11):
    # There asyncio warns of TLS transports that the peer has ended, and websockets leaves them so.
    pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

from .peers import Tls, new_tls, transport_of, under_way

Run = Callable[[Coroutine[Any, Any, None]], None]
Message = str | bytes

LENIENT = ConnectionConfig(limits=FrameLimits.lenient())
FAST = ConnectionConfig(heartbeat=HeartbeatConfig(interval=0.1, timeout=0.1, max_missed=2))
MESSAGES: list[Message] = ["", b"", "ünï", b"\x00" * 2000, "größe" * (MIB // 2), random.Random(6455).randbytes(5 * MIB)]


@pytest.fixture(scope="module")
def tls() -> Tls:
    return new_tls()


@pytest.fixture(scope="module")
def stranger() -> Tls:
    return new_tls()


@pytest.fixture(autouse=True)
def nothing_is_left_to_the_garbage_collector() -> Generator[None, None, None]:
    """A transport that was never closed warns when it is collected, and warnings are errors."""
    yield
    gc.collect()


class Hold:
    """A handler that leaves its connections to the test."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Connection] = asyncio.Queue()

    async def __call__(self, ws: Connection) -> None:
        self.connections.put_nowait(ws)
        await ws.wait_closed()


class Echo(Hold):
    async def __call__(self, ws: Connection) -> None:
        self.connections.put_nowait(ws)
        async for message in ws:
            await ws.send(message)


def uri_of(server: Server, path: str = "/", host: str = "127.0.0.1") -> str:
    return f"wss://{host}:{server.sockets[0].getsockname()[1]}{path}"


def info(ws: Connection) -> CloseInfo:
    assert ws.close_info is not None
    return ws.close_info


@contextlib.asynccontextmanager
async def pair(tls: Tls, config: ConnectionConfig = LENIENT) -> AsyncIterator[tuple[Connection, Connection]]:
    """Yield a client's and a server's end of one connection."""
    handler = Hold()
    async with serve(handler, "127.0.0.1", 0, ssl=tls.server, config=config) as server:
        async with connect(uri_of(server), ssl=tls.client, config=config) as client:
            yield client, await handler.connections.get()


@contextlib.asynccontextmanager
async def websockets_server(
    tls: Tls, handler: Callable[[websockets.asyncio.server.ServerConnection], Coroutine[Any, Any, None]]
) -> AsyncIterator[str]:
    async with websockets.asyncio.server.serve(handler, "127.0.0.1", 0, ssl=tls.server, max_size=10 * MIB) as server:
        yield f"wss://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"


# Messages.


def test_messages_of_every_size_come_back(run: Run, tls: Tls) -> None:
    async def main() -> None:
        handler = Echo()
        async with serve(handler, "127.0.0.1", 0, ssl=tls.server, config=LENIENT) as server:
            async with connect(uri_of(server), ssl=tls.client, config=LENIENT) as ws:
                for message in MESSAGES:
                    await ws.send(message)
                    assert await ws.recv() == message
            assert info(ws).clean
            ours = await handler.connections.get()
            await ours.wait_closed()
            assert info(ours).clean
            assert info(ours).error is None

    run(main())


def test_websockets_talks_to_our_server(run: Run, tls: Tls) -> None:
    async def main() -> None:
        handler = Echo()
        async with serve(handler, "127.0.0.1", 0, ssl=tls.server, config=LENIENT) as server:
            async with websockets.asyncio.client.connect(
                uri_of(server), ssl=tls.client, proxy=None, max_size=10 * MIB
            ) as peer:
                for message in MESSAGES:
                    await peer.send(message)
                    assert await peer.recv() == message
                await (await peer.ping())
                ours = await handler.connections.get()
                assert await ours.ping() >= 0
            await ours.wait_closed()
            assert (info(ours).code, info(ours).cause, info(ours).clean) == (1000, Cause.PEER_CLOSE, True)

    run(main())


def test_our_client_talks_to_websockets(run: Run, tls: Tls) -> None:
    async def echo(ws: websockets.asyncio.server.ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)

    async def main() -> None:
        async with websockets_server(tls, echo) as uri:
            async with connect(uri, ssl=tls.client, config=LENIENT) as ws:
                for message in MESSAGES:
                    await ws.send(message)
                    assert await ws.recv() == message
                assert await ws.ping() >= 0
            assert (info(ws).code, info(ws).cause, info(ws).clean) == (1000, Cause.LOCAL_CLOSE, True)

    run(main())


def test_send_waits_for_a_peer_that_reads_nothing(run: Run, tls: Tls) -> None:
    async def main() -> None:
        async with pair(tls) as (client, server):
            assert client._pump.transport is not None
            client._pump.transport.pause_reading()
            big = random.Random(1).randbytes(8 * MIB)  # more than the kernel takes
            sent = 0

            async def send_all() -> None:
                nonlocal sent
                for _ in range(5):  # the layers below TLS have a buffer of their own, so the first do not wait
                    await server.send(big)
                    sent += 1

            sending = asyncio.ensure_future(send_all())
            for _ in range(20):
                await asyncio.sleep(0)
            assert sent < 3
            client._pump.transport.resume_reading()
            for _ in range(5):
                assert await client.recv() == big
            await sending

    run(main())


def test_a_slow_application_pauses_reading_and_misses_nothing(run: Run, tls: Tls) -> None:
    async def main() -> None:
        async with pair(tls, ConnectionConfig(queue=QueueConfig(max_messages=4))) as (client, server):
            messages = [bytes([i]) * 100_000 for i in range(60)]

            async def send_all() -> None:
                for message in messages:
                    await client.send(message)
                await client.close()

            sending = asyncio.ensure_future(send_all())
            while server._pump.reading:
                await asyncio.sleep(0)
            assert server._inbox.messages <= 4
            assert [message async for message in server] == messages
            await sending
            assert info(client).clean

    run(main())


def test_what_arrives_with_the_handshake_is_not_lost(run: Run, tls: Tls) -> None:
    async def greet(ws: Connection) -> None:
        await ws.send("first")
        await ws.send("second")

    async def main() -> None:
        async with serve(greet, "127.0.0.1", 0, ssl=tls.server) as server:
            async with connect(uri_of(server), ssl=tls.client) as ws:
                assert [message async for message in ws] == ["first", "second"]
            assert info(ws).clean

    run(main())


# Closing.


@pytest.mark.parametrize("closer", ["client", "server"])
def test_a_close_reaches_the_other_end_with_code_and_reason(run: Run, tls: Tls, closer: str) -> None:
    async def main() -> None:
        async with pair(tls) as (client, server):
            here, there = (client, server) if closer == "client" else (server, client)
            await here.close(4003, "Schluß")
            await there.wait_closed()
            for ws in (here, there):
                assert (info(ws).code, info(ws).reason) == (4003, "Schluß")
                assert info(ws).sent == info(ws).rcvd == (4003, "Schluß")
                assert info(ws).clean
                assert info(ws).error is None
                assert info(ws).phase is State.CLOSE_EXCHANGED
            assert (info(here).initiator, info(there).initiator) == (Initiator.LOCAL, Initiator.PEER)
            assert (info(here).cause, info(there).cause) == (Cause.LOCAL_CLOSE, Cause.PEER_CLOSE)

    run(main())


def test_both_ends_may_close_at_once(run: Run, tls: Tls) -> None:
    async def main() -> None:
        async with pair(tls) as (client, server):
            await asyncio.gather(client.close(4001), server.close(4002))
            assert (info(client).sent, info(client).rcvd) == ((4001, ""), (4002, ""))
            assert (info(server).sent, info(server).rcvd) == ((4002, ""), (4001, ""))

    run(main())


def test_a_close_is_not_lost_behind_a_large_message(run: Run, tls: Tls) -> None:
    big = random.Random(2).randbytes(8 * MIB)

    async def main() -> None:
        async with pair(tls) as (client, server):
            await server.send(big)
            closing = asyncio.ensure_future(server.close(4004, "bye"))
            assert await client.recv() == big
            with pytest.raises(ConnectionClosedError, match=r"4004.*bye"):
                await client.recv()
            await closing
            assert info(server).clean

    run(main())


def test_closes_between_websockets_and_our_server(run: Run, tls: Tls) -> None:
    async def main() -> None:
        handler = Hold()
        async with serve(handler, "127.0.0.1", 0, ssl=tls.server) as server:
            async with websockets.asyncio.client.connect(uri_of(server), ssl=tls.client, proxy=None) as peer:
                ours = await handler.connections.get()
                await peer.close(4005, "theirs")
                await ours.wait_closed()
                assert (info(ours).code, info(ours).reason, info(ours).clean) == (4005, "theirs", True)
            async with websockets.asyncio.client.connect(uri_of(server), ssl=tls.client, proxy=None) as peer:
                ours = await handler.connections.get()
                await ours.close(4006, "ours")
                await peer.wait_closed()
                assert (peer.protocol.close_code, peer.protocol.close_reason) == (4006, "ours")
                assert (info(ours).code, info(ours).clean) == (4006, True)

    run(main())


def test_closes_between_our_client_and_websockets(run: Run, tls: Tls) -> None:
    seen: list[tuple[int | None, str | None]] = []

    async def close(ws: websockets.asyncio.server.ServerConnection) -> None:
        await ws.close(4007, "theirs")

    async def wait(ws: websockets.asyncio.server.ServerConnection) -> None:
        await ws.wait_closed()
        seen.append((ws.protocol.close_code, ws.protocol.close_reason))

    async def main() -> None:
        async with websockets_server(tls, close) as uri, connect(uri, ssl=tls.client) as ws:
            await ws.wait_closed()
            assert (info(ws).code, info(ws).reason, info(ws).clean) == (4007, "theirs", True)
        async with websockets_server(tls, wait) as uri:
            ws = await connect(uri, ssl=tls.client)
            await ws.close(4008, "ours")
            assert (info(ws).code, info(ws).clean) == (4008, True)
        assert seen == [(4008, "ours")]

    run(main())


@pytest.mark.parametrize("size", [300_000, 8 * MIB])
def test_a_message_that_is_too_big_is_answered_with_1009(run: Run, tls: Tls, size: int) -> None:
    async def main() -> None:
        handler = Echo()
        limited = ConnectionConfig(limits=FrameLimits.strict())
        async with serve(handler, "127.0.0.1", 0, ssl=tls.server, config=limited) as server:
            async with connect(uri_of(server), ssl=tls.client) as ws:
                await ws.send(random.Random(3).randbytes(size))
                with pytest.raises(ConnectionClosedError, match="1009"):
                    await ws.recv()
            ours = await handler.connections.get()
            await ours.wait_closed()
            assert info(ours).cause is Cause.TOO_BIG

    run(main())


@pytest.mark.parametrize("breaker", ["client", "server"])
def test_a_transport_that_breaks_ends_both(run: Run, tls: Tls, breaker: str) -> None:
    async def main() -> None:
        async with pair(tls) as (client, server):
            here, there = (client, server) if breaker == "client" else (server, client)
            here.abort()
            await asyncio.gather(here.wait_closed(), there.wait_closed())
            assert (info(there).code, info(there).cause) == (1006, Cause.TRANSPORT_LOST)
            assert (info(here).code, info(here).cause) == (1006, Cause.TRANSPORT_LOST)

    run(main())


def test_a_transport_that_was_lost_and_is_about_to_say_so_raises_nothing(run: Run, tls: Tls) -> None:
    async def main() -> None:
        async with pair(tls) as (client, ours):
            transport = ours._pump.transport
            assert transport is not None
            raw: Any = transport_of(ours)
            if hasattr(raw, "_ssl_protocol"):  # asyncio's own
                raw._ssl_protocol._transport.abort()
                raw._ssl_protocol.connection_lost(None)  # as the event loop calls it next
            else:
                raw.abort()
            assert ours.queued_bytes == (0, 0)
            transport.watch_writing()
            transport.pause_reading()
            transport.release()
            with pytest.raises(ConnectionClosedError):
                await ours.send("too late")
            assert info(ours).cause is Cause.TRANSPORT_LOST
            await client.wait_closed()

    run(main())


def test_a_server_that_closes_ends_its_connections_with_1001(run: Run, tls: Tls) -> None:
    async def main() -> None:
        server = await serve(Hold(), "127.0.0.1", 0, ssl=tls.server)
        async with connect(uri_of(server), ssl=tls.client) as ws:
            await server.close(reason="restart")
            await ws.wait_closed()
            assert (info(ws).code, info(ws).reason, info(ws).clean) == (1001, "restart", True)

    run(main())


# The opening.


def test_a_certificate_of_a_stranger_is_refused(run: Run, tls: Tls, stranger: Tls) -> None:
    async def main() -> None:
        async with serve(Hold(), "127.0.0.1", 0, ssl=tls.server) as server:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(uri_of(server), ssl=stranger.client)
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(uri_of(server))  # the default context does not know the authority either
            assert not server.connections

    run(main())


def test_a_certificate_for_another_name_is_refused(run: Run, tls: Tls) -> None:
    async def main() -> None:
        async with serve(Hold(), "127.0.0.1", 0, ssl=tls.server) as server:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(uri_of(server), ssl=tls.client, server_hostname="example.org")
            async with connect(uri_of(server), ssl=tls.client, server_hostname="localhost") as ws:
                assert ws.state is State.OPEN

    run(main())


def test_ssl_for_a_uri_without_tls_is_an_error(tls: Tls) -> None:
    with pytest.raises(ValueError, match="scheme ws"):
        connect("ws://127.0.0.1/", ssl=tls.client)


def test_a_refusal_arrives_whole(run: Run, tls: Tls) -> None:
    async def main() -> None:
        async with serve(Hold(), "127.0.0.1", 0, ssl=tls.server, path="/ws") as server:
            with pytest.raises(InvalidStatus) as caught:
                await connect(uri_of(server, "/wrong"), ssl=tls.client)
            assert caught.value.response.status == 404
            assert caught.value.response.body == b'{"error": "there is no WebSocket at this path"}\n'

    run(main())


@pytest.mark.parametrize("early", [8 * 1024, MIB])
def test_a_refusal_is_not_lost_behind_early_data(run: Run, tls: Tls, early: int) -> None:
    async def main() -> None:
        async with serve(Hold(), "127.0.0.1", 0, ssl=tls.server) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=tls.client)
            writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + bytes(early))
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 426 ")
            assert body == b'{"error": "this is a WebSocket endpoint"}\n'
            writer.close()

    run(main())


def test_a_client_that_speaks_no_tls_is_dropped(run: Run, tls: Tls) -> None:
    async def main() -> None:
        async with serve(Echo(), "127.0.0.1", 0, ssl=tls.server) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert not (await reader.read()).startswith(b"HTTP")
            writer.close()
            async with connect(uri_of(server), ssl=tls.client) as ws:
                await ws.send("served")
                assert await ws.recv() == "served"

    run(main())


# Silence.


class SilentClient:
    """A TLS client that has opened a WebSocket and from then on reads nothing, not even TLS, until it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: Tls) -> None:
        self._reader = reader
        self._writer = writer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = tls.client.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")

    @classmethod
    async def request(cls, server: Server, tls: Tls) -> SilentClient:
        client = cls(*await asyncio.open_connection(*server.sockets[0].getsockname()), tls)
        await client._do(client._tls.do_handshake)
        handshake = ClientHandshake(parse_uri(uri_of(server)), ConnectionConfig(compression=None), now=0.0)
        client._tls.write(handshake.data_to_send())
        client._writer.write(client._outgoing.read())
        return client

    @classmethod
    async def open(cls, server: Server, tls: Tls) -> SilentClient:
        client = await cls.request(server, tls)
        assert (await client._do(client._tls.read)).startswith(b"HTTP/1.1 101 ")
        return client

    async def read_to_eof(self) -> bytes:
        data = b""
        with contextlib.suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):  # with the end of TLS, or without it
            while received := await self._do(self._tls.read):
                data += received
        self._writer.close()
        return data

    async def _do(self, operation: Callable[[], Any]) -> Any:
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                self._writer.write(self._outgoing.read())
                if received := await self._reader.read(64 * 1024):
                    self._incoming.write(received)
                else:
                    self._incoming.write_eof()


CLOSE_1001 = b"\x88\x14\x03\xe9connection timeout"


def test_a_client_that_answers_no_ping_receives_1001_and_eof(run: Run, tls: Tls) -> None:
    async def main() -> None:
        handler = Hold()
        async with serve(handler, "127.0.0.1", 0, ssl=tls.server, config=FAST) as server:
            client = await SilentClient.open(server, tls)
            ws = await handler.connections.get()
            await ws.wait_closed()  # without any help of the client's
            assert (info(ws).code, info(ws).cause, info(ws).clean) == (1001, Cause.HEARTBEAT, False)
            data = await client.read_to_eof()
            assert [data[:2], data[6:8]] == [b"\x89\x04", b"\x89\x04"]  # two pings with four bytes each
            assert data[12:] == CLOSE_1001

    run(main())


def test_a_client_that_reads_but_answers_no_ping_receives_1001_and_eof(run: Run, tls: Tls) -> None:
    async def main() -> None:
        handler = Hold()
        async with serve(handler, "127.0.0.1", 0, ssl=tls.server, config=FAST) as server:
            client = await SilentClient.open(server, tls)
            assert (await client.read_to_eof()).endswith(CLOSE_1001)
            ws = await handler.connections.get()
            await ws.wait_closed()
            assert (info(ws).code, info(ws).cause, info(ws).clean) == (1001, Cause.HEARTBEAT, False)

    run(main())


def test_a_close_that_is_never_answered_ends_with_the_close_timeout(run: Run, tls: Tls) -> None:
    async def main() -> None:
        handler = Hold()
        config = ConnectionConfig(close=CloseConfig(timeout=0.1))
        async with serve(handler, "127.0.0.1", 0, ssl=tls.server, config=config) as server:
            client = await SilentClient.open(server, tls)
            ws = await handler.connections.get()
            await ws.close(4000, "nobody")
            assert (info(ws).code, info(ws).clean, info(ws).phase) == (4000, False, State.CLOSE_SENT)
            assert await client.read_to_eof() == b"\x88\x08\x0f\xa0nobody"

    run(main())


def test_a_refused_client_that_does_not_end_tls_is_dropped_at_the_close_timeout(run: Run, tls: Tls) -> None:
    async def main() -> None:
        config = ConnectionConfig(close=CloseConfig(timeout=0.1))
        async with serve(Hold(), "127.0.0.1", 0, ssl=tls.server, config=config, path="/ws") as server:
            client = await SilentClient.request(server, tls)
            while under_way(server):
                await asyncio.sleep(0)
            assert (await client.read_to_eof()).startswith(b"HTTP/1.1 404 ")

    run(main())


def test_nothing_is_said_about_an_end_that_is_as_it_should_be(
    run: Run, tls: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with pair(tls) as (client, server):
            await client.close()
            await server.wait_closed()
        async with pair(tls) as (client, server):
            transport_of(client).close()  # ends TLS, without a closing handshake
            await server.wait_closed()

    run(main())
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []

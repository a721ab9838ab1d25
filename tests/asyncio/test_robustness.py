"""What goes wrong around a connection, and must not go further: ends in odd moments, busy peers, broken handlers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import trustme

from wsconnkit.asyncio import Connection, Server, connect, serve
from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.closeinfo import Cause, Initiator
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.errors import ConnectionClosed, ConnectionClosedError, LocalProtocolError
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.uri import parse_uri
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .peers import Arrivals, info, under_way

Run = Callable[[Coroutine[Any, Any, None]], None]
Handler = Callable[[Connection], Awaitable[None]]
MASK = b"\x01\x02\x03\x04"
PLAIN = ConnectionConfig(compression=None)
MANY_PINGS = ConnectionConfig(compression=None, limits=FrameLimits(max_control_frames_per_second=None))
BRIEF = ConnectionConfig(compression=None, close=CloseConfig(timeout=0.2))


def port(server: Server) -> int:
    return int(server.sockets[0].getsockname()[1])


def uri(server: Server) -> str:
    return f"ws://127.0.0.1:{port(server)}/"


def filled(ws: Connection) -> bool:
    return ws._pump.transport is not None and ws._pump.transport.get_write_buffer_size() > 0


async def raw_client(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
    writer.write(ClientHandshake(parse_uri(uri(server)), PLAIN, now=0.0).data_to_send())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


@pytest.mark.parametrize(
    ("end", "code", "cause", "initiator"),
    [
        (b"\x82\xff" + (1 << 40).to_bytes(8, "big"), 1009, Cause.TOO_BIG, Initiator.LOCAL),
        (b"\xf1\x80" + MASK, 1002, Cause.PROTOCOL_ERROR, Initiator.LOCAL),
        (encode_frame(Opcode.CLOSE, b"\x0f\xa1bye", mask=MASK), 4001, Cause.PEER_CLOSE, Initiator.PEER),
    ],
)
def test_a_handler_that_returns_after_a_message_does_not_hide_what_came_behind_it(
    run: Run, end: bytes, code: int, cause: Cause, initiator: Initiator
) -> None:
    async def main() -> None:
        ended: asyncio.Queue[Connection] = asyncio.Queue()

        async def handler(ws: Connection) -> None:
            ended.put_nowait(ws)
            await ws.recv()

        async with serve(handler, "127.0.0.1", 0, config=PLAIN) as server:
            reader, writer = await raw_client(server)
            writer.write(encode_frame(Opcode.TEXT, b"request", mask=MASK) + end)
            close = await reader.read()
            assert close[2:4] == code.to_bytes(2, "big")
            writer.close()
            ws = await ended.get()
            await ws.wait_closed()
            assert (info(ws).code, info(ws).cause, info(ws).initiator) == (code, cause, initiator)

    run(main())


def test_pings_are_answered_at_once_after_a_timer_found_the_buffer_filled(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0, config=PLAIN) as server:
            reader, writer = await raw_client(server)
            ws = await arrivals.connections.get()
            transport = ws._pump.transport
            assert transport is not None
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            sent = 0
            while transport.get_write_buffer_size() == 0:  # until the kernel takes no more
                await ws.send(bytes(40_000))
                sent += 40_004
            assert ws._pump.is_ready_to_send  # some is stuck, but less than the high-water mark
            await asyncio.sleep(31)  # the heartbeat's timer meets the filled buffer
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            await reader.readexactly(sent + 6)  # and its ping
            start = virtual_loop.time()
            writer.write(encode_frame(Opcode.PING, b"hello?", mask=MASK))
            assert await reader.readexactly(8) == encode_frame(Opcode.PONG, b"hello?")
            assert virtual_loop.time() == start
            writer.close()
            await ws.wait_closed()

    run_virtual(main())


def test_a_send_behind_the_end_does_not_wait_for_ever(run: Run) -> None:
    async def main() -> None:
        outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def handler(ws: Connection) -> None:
            transport = ws._pump.transport
            assert transport is not None
            while transport.get_write_buffer_size() < 45_000:
                await ws.send(bytes(9_000))
            await ws.recv()
            await ws.send(bytes(30_000))  # held back, for there is more to answer
            try:
                while True:
                    await asyncio.sleep(0)
                    await ws.send(b"x")
            except ConnectionClosed as closed:
                outcome.set_result(closed.info.cause.value)

        async with serve(handler, "127.0.0.1", 0, config=PLAIN) as server:
            sock = socket.create_connection(("127.0.0.1", port(server)))
            handshake = ClientHandshake(parse_uri(uri(server)), PLAIN, now=0.0)
            sock.sendall(handshake.data_to_send())
            while not any(
                ws._pump.transport and ws._pump.transport.get_write_buffer_size() for ws in server.connections
            ):
                await asyncio.sleep(0)
            sock.sendall(encode_frame(Opcode.TEXT, b"m", mask=MASK) * 3)
            sock.shutdown(socket.SHUT_WR)
            assert await outcome == "transport_lost"
            sock.close()

    run(main())


@pytest.mark.parametrize("code", [1000.0, "1000", None])
def test_a_close_that_is_misused_changes_nothing(run: Run, echo: Handler, code: Any) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            with pytest.raises(LocalProtocolError, match="cannot be sent"):
                await ws.close(code)
            with pytest.raises(LocalProtocolError, match="close reason is of type bytes"):
                await ws.close(1000, b"bytes")  # type: ignore[arg-type]
            with pytest.raises(LocalProtocolError, match="close reason is of type NoneType"):
                await server.close(1000, None)  # type: ignore[arg-type]
            await ws.send("still open")
            assert await ws.recv() == "still open"

    run(main())


def test_a_handler_that_only_sends_leaves_others_their_turn(run: Run) -> None:
    async def main() -> None:
        turns = 0

        async def handler(ws: Connection) -> None:
            for _ in range(2000):
                await ws.send(b"x")

        async with serve(handler, "127.0.0.1", 0, config=PLAIN) as server:
            ws = await connect(uri(server), config=PLAIN)
            while len(server.connections):
                await asyncio.sleep(0)
                turns += 1
            assert turns > 10
            await ws.close()

    run(main())


def test_a_flood_of_pings_in_one_read_leaves_others_their_turn_and_is_answered_whole(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0, config=MANY_PINGS) as server:
            reader, writer = await raw_client(server)
            ws = await arrivals.connections.get()
            ping = encode_frame(Opcode.PING, b"", mask=MASK)
            last = encode_frame(Opcode.TEXT, b"last", mask=MASK)
            ws._pump.data_received(ping * 5000 + last)
            assert not ws._pump.reading
            assert ws._inbox.messages == 0  # not all of it in one go
            assert await ws.recv() == "last"
            assert await reader.readexactly(10_000) == encode_frame(Opcode.PONG, b"") * 5000
            writer.close()
            await ws.wait_closed()

    run(main())


def test_a_transport_that_is_lost_amid_a_flood_ends_the_connection_at_once(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0, config=MANY_PINGS) as server:
            _, writer = await raw_client(server)
            ws = await arrivals.connections.get()
            ping = encode_frame(Opcode.PING, b"", mask=MASK)
            message = encode_frame(Opcode.TEXT, b"x", mask=MASK)
            ws._pump.data_received(ping * 3000 + message * 1000)
            ws._pump.transport.connection_lost(ConnectionResetError())  # type: ignore[union-attr]
            await ws.wait_closed()
            assert (info(ws).cause, info(ws).code) == (Cause.TRANSPORT_LOST, 1006)
            assert [await ws.recv() for _ in range(PLAIN.queue.max_messages)] == ["x"] * PLAIN.queue.max_messages
            for call in (ws.recv, ws.ping, lambda: ws.send("x")):
                with pytest.raises(ConnectionClosedError):
                    await call()
            writer.close()

    run(main())


def test_a_ping_waits_while_too_much_is_unsent(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0, config=PLAIN) as server:
            reader, writer = await raw_client(server)
            ws = await arrivals.connections.get()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await ws.send(os.urandom(8 * 1024 * 1024))
            sent = ws._core.stats.bytes_sent
            pings = [asyncio.ensure_future(ws.ping()) for _ in range(1000)]
            await asyncio.sleep(0)
            assert ws._core.stats.bytes_sent == sent
            for ping in pings:
                ping.cancel()
            writer.transport.abort()
            await ws.wait_closed()
            assert await reader.read(0) == b""

    run(main())


def test_a_handler_that_is_cancelled_stays_known_until_its_connection_has_ended(run: Run) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

        server = await serve(handler, "127.0.0.1", 0, config=BRIEF)
        _, writer = await raw_client(server)
        while not server.connections:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        (ws,) = server.connections
        await server.close()
        assert (info(ws).cause, info(ws).code) == (Cause.DRAIN, 1001)
        assert not server.connections
        writer.close()

    run(main())


def test_a_handler_that_will_not_end_is_given_up_and_logged(run_virtual: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def handler(ws: Connection) -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        async with serve(handler, "127.0.0.1", 0) as server:
            ws = await connect(uri(server))
        await ws.wait_closed()
        release.set()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)

    with caplog.at_level(logging.ERROR):
        run_virtual(main())
    assert [record.__dict__["type"] for record in caplog.records] == ["handler_stuck_error"]


def test_a_handler_may_close_the_server(run: Run) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            await server.close()

        server = await serve(handler, "127.0.0.1", 0, config=BRIEF)
        ws = await connect(uri(server))
        await server.wait_closed()
        await ws.wait_closed()

    run(main())


def test_what_another_connection_says_is_an_error_of_the_handler(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def upstream(ws: Connection) -> None:
            await ws.close(4000, "upstream is gone")

        async def proxy(ws: Connection) -> None:
            async with connect(uri(backend)) as up:
                await up.recv()

        async with serve(upstream, "127.0.0.1", 0) as backend, serve(proxy, "127.0.0.1", 0) as server:
            async with connect(uri(server)) as ws:
                with pytest.raises(ConnectionClosedError) as caught:
                    await ws.recv()
                assert caught.value.info.code == 1011

    with caplog.at_level(logging.ERROR):
        run(main())
    assert [record.__dict__["type"] for record in caplog.records] == ["handler_error"]


@pytest.fixture
def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_failed_tls_handshakes_leave_nothing_behind(run: Run, echo: Handler, tls: ssl.SSLContext) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0, ssl=tls) as server:
            for _ in range(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                await reader.read()
                writer.close()
            assert not under_way(server)

    run(main())


def test_a_tls_client_that_says_nothing_is_dropped_at_the_handshake_timeout(
    run: Run, echo: Handler, tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        config = ConnectionConfig(handshake=HandshakeLimits(timeout=0.2), close=CloseConfig(timeout=0.2))
        async with serve(echo, "127.0.0.1", 0, ssl=tls, config=config) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
            assert await reader.read() == b""  # it is the server that ends
            writer.close()

    run(main())


def test_subprotocols_must_be_a_list(run: Run, echo: Handler) -> None:
    async def main() -> None:
        with pytest.raises(LocalProtocolError, match="subprotocols is 'chat'"):
            await serve(echo, "127.0.0.1", 0, subprotocols="chat")
        with pytest.raises(LocalProtocolError, match="subprotocols is 'chat'"):
            connect("ws://127.0.0.1", subprotocols="chat")

    run(main())


def test_it_serves_and_connects_over_unix_sockets(run: Run, echo: Handler, tmp_path: Any) -> None:
    async def main() -> None:
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            async with serve(echo, sock=listening, config=ConnectionConfig(heartbeat=HeartbeatConfig())):
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(path)
                async with connect("ws://localhost/", sock=sock) as ws:
                    await ws.send("over a file")
                    assert await ws.recv() == "over a file"

    run(main())

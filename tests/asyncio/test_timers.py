"""Heartbeat, idle timeout and close timeout on asyncio: real sockets, virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from wsconnkit.asyncio import Connection, Server, connect, serve
from wsconnkit.machines.closing import State
from wsconnkit.machines.deadlines import READ_GRACE
from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits, QueueConfig
from wsconnkit.protocol.errors import ConnectionClosedError, InvalidHandshake
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.uri import parse_uri
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .peers import Arrivals, info

Run = Callable[[Coroutine[Any, Any, None]], None]
VERDICT = 30 + 3 * 5
MASK = b"\x01\x02\x03\x04"


class RawClient:
    """A client that has opened a WebSocket and then does only what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, server: Server) -> RawClient:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        handshake = ClientHandshake(parse_uri(f"ws://127.0.0.1:{port}/"), ConnectionConfig(compression=None), now=0.0)
        writer.write(handshake.data_to_send())
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        return cls(reader, writer)

    def send(self, opcode: Opcode, payload: bytes) -> None:
        self.writer.write(encode_frame(opcode, payload, mask=MASK))

    async def read_to_eof(self) -> bytes:
        data = await self.reader.read()
        self.writer.close()
        return data


def test_a_client_that_stops_answering_is_closed_with_1001_in_time(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0) as server:
            client = await RawClient.open(server)
            ws = await arrivals.connections.get()
            start = virtual_loop.time()
            data = await client.read_to_eof()
            elapsed = virtual_loop.time() - start
            assert VERDICT <= elapsed <= VERDICT + 2 * READ_GRACE
            assert data.endswith(encode_frame(Opcode.CLOSE, b"\x03\xe9connection timeout"))
            await ws.wait_closed()
            assert (info(ws).code, info(ws).cause) == (1001, Cause.HEARTBEAT)

    run_virtual(main())


def test_a_live_client_survives_a_stall_of_our_loop(run_virtual: Run, virtual_loop: VirtualTimeLoop) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0) as server:
            client = await RawClient.open(server)
            ws = await arrivals.connections.get()
            head = await client.reader.readexactly(2)  # the ping after 30 s
            client.send(Opcode.PONG, await client.reader.readexactly(head[1]))
            virtual_loop.stall(3 * VERDICT)  # right after the ping, with its pong unread
            await asyncio.sleep(10)
            assert ws.state is State.OPEN
            assert ws.stats.stalls >= 1
            client.writer.close()
            await ws.wait_closed()

    run_virtual(main())


def test_a_client_whose_bytes_trickle_in_is_alive(run_virtual: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0) as server:
            client = await RawClient.open(server)
            ws = await arrivals.connections.get()
            frame = encode_frame(Opcode.TEXT, b"slowly", mask=MASK)
            for i in range(len(frame)):
                await asyncio.sleep(34)
                client.writer.write(frame[i : i + 1])
            assert await ws.recv() == "slowly"
            assert client.reader._buffer  # type: ignore[attr-defined]  # pings that it never answered
            client.writer.close()
            await ws.wait_closed()

    run_virtual(main())


def test_without_a_heartbeat_silence_is_no_reason(run_virtual: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0, config=ConnectionConfig(heartbeat=None)) as server:
            client = await RawClient.open(server)
            ws = await arrivals.connections.get()
            await asyncio.sleep(100_000)
            assert ws.state is State.OPEN
            client.writer.close()
            await ws.wait_closed()

    run_virtual(main())


def test_an_application_that_does_not_read_is_not_held_against_the_client(run_virtual: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        config = ConnectionConfig(queue=QueueConfig(max_messages=2, max_unread_age=None), idle_timeout=60)
        async with serve(arrivals, "127.0.0.1", 0, config=config) as server:
            client = await RawClient.open(server)
            ws = await arrivals.connections.get()
            for _ in range(10):
                client.send(Opcode.TEXT, b"unread")
            await asyncio.sleep(1000)
            assert ws.state is State.OPEN
            assert [await ws.recv() for _ in range(10)] == ["unread"] * 10
            client.writer.close()
            await ws.wait_closed()

    run_virtual(main())


def test_a_client_that_reads_slowly_is_not_declared_dead_while_our_ping_waits_behind_its_data(
    run_virtual: Run,
) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        config = ConnectionConfig(compression=None, queue=QueueConfig(max_unsent_age=None))
        async with serve(arrivals, "127.0.0.1", 0, config=config) as server:
            client = await RawClient.open(server)
            ws = await arrivals.connections.get()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await ws.send(bytes(16 * 1024 * 1024))
            await asyncio.sleep(1000)
            assert ws.state is State.OPEN
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            await client.reader.readexactly(16 * 1024 * 1024 + 10)
            client.send(Opcode.TEXT, b"here I am")
            assert await ws.recv() == "here I am"
            client.writer.close()
            await ws.wait_closed()

    run_virtual(main())


@pytest.mark.parametrize("stalled", [False, True])
def test_the_idle_timeout_counts_messages_in_both_directions(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, stalled: bool
) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        config = ConnectionConfig(idle_timeout=60)
        async with serve(arrivals, "127.0.0.1", 0, config=config) as server:
            async with connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
                ws = await arrivals.connections.get()
                for _ in range(5):
                    await asyncio.sleep(50)
                    await client.send("up")
                    await ws.recv()
                    await asyncio.sleep(50)
                    await ws.send("down")
                    await client.recv()
                if stalled:
                    await asyncio.sleep(30)
                    await client.send("arrives in time, read too late")
                    virtual_loop.stall(100)
                    await ws.recv()
                start = virtual_loop.time()
                with pytest.raises(StopAsyncIteration):  # 1001, after a clean close
                    await anext(client)
                assert 60 <= virtual_loop.time() - start <= 60 + 2 * READ_GRACE
                await ws.wait_closed()
                assert (info(ws).code, info(ws).cause, info(ws).reason) == (1001, Cause.IDLE, "idle timeout")

    run_virtual(main())


def test_a_peer_that_ignores_our_close_is_dropped_at_the_close_timeout(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0) as server:
            client = await RawClient.open(server)
            ws = await arrivals.connections.get()
            start = virtual_loop.time()
            await ws.close(4000, "do you hear me?")
            assert 5 <= virtual_loop.time() - start <= 5 + 2 * READ_GRACE
            assert (info(ws).cause, info(ws).clean, info(ws).phase) == (Cause.LOCAL_CLOSE, False, State.CLOSE_SENT)
            await client.read_to_eof()

    run_virtual(main())


def test_a_client_that_does_not_end_its_transport_is_dropped_too(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0) as server:
            client = await RawClient.open(server)
            ws = await arrivals.connections.get()
            client.send(Opcode.CLOSE, b"\x03\xe8")
            start = virtual_loop.time()
            await ws.wait_closed()
            assert 5 <= virtual_loop.time() - start <= 5 + 2 * READ_GRACE
            assert (info(ws).cause, info(ws).clean) == (Cause.PEER_CLOSE, True)
            client.writer.close()

    run_virtual(main())


def test_the_server_closes_all_within_the_close_timeout(run_virtual: Run, virtual_loop: VirtualTimeLoop) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        config = ConnectionConfig(close=CloseConfig(timeout=2))
        server = await serve(arrivals, "127.0.0.1", 0, config=config)
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        polite = [await connect(uri) for _ in range(10)]
        silent = [await RawClient.open(server) for _ in range(10)]
        half_open = [await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1]) for _ in range(3)]
        connections = list(server.connections)
        assert len(connections) == 20
        start = virtual_loop.time()
        await asyncio.gather(server.close(1012, "restart"), server.close(1000), server.wait_closed())
        assert virtual_loop.time() - start <= 2 + 2 * READ_GRACE
        assert {(info(ws).sent, info(ws).cause) for ws in connections} == {((1012, "restart"), Cause.DRAIN)}
        assert sum(info(ws).clean for ws in connections) == 10
        assert not server.connections
        for client in polite:
            await client.wait_closed()
        for raw in silent:
            await raw.read_to_eof()
        for _, writer in half_open:
            writer.close()

    run_virtual(main())


def test_handlers_that_do_not_return_are_cancelled_after_the_close_timeout(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        cancelled = asyncio.Event()

        async def handler(ws: Connection) -> None:
            try:
                await asyncio.sleep(1_000_000)
            finally:
                cancelled.set()

        async with serve(handler, "127.0.0.1", 0) as server:
            client = await connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            start = virtual_loop.time()
        assert cancelled.is_set()
        assert virtual_loop.time() - start <= 10 + 2 * READ_GRACE
        await client.wait_closed()

    run_virtual(main())


def test_a_client_that_never_completes_its_request_is_refused(run_virtual: Run, virtual_loop: VirtualTimeLoop) -> None:
    async def main() -> None:
        config = ConnectionConfig(handshake=HandshakeLimits(timeout=3))
        async with serve(Arrivals(), "127.0.0.1", 0, config=config) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
            start = virtual_loop.time()
            for byte in b"GET":
                writer.write(bytes([byte]))
                await asyncio.sleep(0.9)
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            assert virtual_loop.time() - start <= 3 + 2 * READ_GRACE
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
            assert await reader.read() == b""  # nothing was asked, so nothing is answered
            writer.close()

    run_virtual(main())


def test_connect_gives_up_on_a_server_that_never_answers(run_virtual: Run, virtual_loop: VirtualTimeLoop) -> None:
    async def main() -> None:
        accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        silent = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), "127.0.0.1", 0)
        uri = f"ws://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        start = virtual_loop.time()
        with pytest.raises(TimeoutError, match="no complete response within 10 s"):
            await connect(uri)
        assert 10 <= virtual_loop.time() - start <= 10 + 2 * READ_GRACE
        connecting = asyncio.ensure_future(_open(uri))
        (await accepted.get()).close()
        writer = await accepted.get()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        writer.close()
        connecting = asyncio.ensure_future(_open(uri))
        writer = await accepted.get()
        writer.close()
        with pytest.raises(InvalidHandshake, match="ended during the opening handshake"):
            await connecting
        silent.close()
        await silent.wait_closed()

    run_virtual(main())


async def _open(uri: str) -> Connection:
    return await connect(uri)


def test_an_oversized_frame_ends_in_1009_and_the_sender_is_told(run_virtual: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        config = ConnectionConfig(limits=FrameLimits.strict(), heartbeat=HeartbeatConfig(interval=1))
        async with serve(arrivals, "127.0.0.1", 0, config=config) as server:
            client = await RawClient.open(server)
            ws = await arrivals.connections.get()
            client.writer.write(b"\x82\xff" + (1 << 40).to_bytes(8, "big"))
            data = await client.read_to_eof()
            assert data[2:4] == (1009).to_bytes(2, "big")
            with pytest.raises(ConnectionClosedError):
                await ws.recv()
            assert (info(ws).code, info(ws).cause) == (1009, Cause.TOO_BIG)

    run_virtual(main())

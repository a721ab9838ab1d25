"""The connection object on asyncio, over real sockets, on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import pytest

from wsconnkit.asyncio import Connection, Server, attach, connect, serve
from wsconnkit.machines.closing import State
from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.protocol.closeinfo import Cause, CloseInfo, Initiator
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, QueueConfig
from wsconnkit.protocol.errors import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    LocalProtocolError,
)
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.http import Headers
from wsconnkit.protocol.upgrade import UpgradeRequest, agree

Run = Callable[[Coroutine[Any, Any, None]], None]
Handler = Callable[[Connection], Awaitable[None]]
MASK = b"\x01\x02\x03\x04"


def uri(server: Server, path: str = "/") -> str:
    return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"


def info(ws: Connection) -> CloseInfo:
    assert ws.close_info is not None
    return ws.close_info


@contextlib.asynccontextmanager
async def pair(config: ConnectionConfig | None = None, client_config: ConnectionConfig | None = None) -> Any:
    """Yield a client's and a server's end of one connection."""
    arrived: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    async def handler(ws: Connection) -> None:
        arrived.set_result(ws)
        await ws.wait_closed()

    async with serve(handler, "127.0.0.1", 0, config=config) as server:
        async with connect(uri(server), config=client_config) as client:
            yield client, await arrived


@pytest.mark.parametrize("message", ["", "text", "é" * 40_000, b"", b"binary", os.urandom(700_000), "a" * 900_000])
def test_messages_come_back_with_their_type(run: Run, echo: Handler, message: str | bytes) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            for _ in range(3):
                await ws.send(message)
                assert await ws.recv() == message

    run(main())


def test_bytes_like_objects_are_sent_as_binary(run: Run, echo: Handler) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            await ws.send(bytearray(b"one"))
            await ws.send(memoryview(b"two"))
            assert [await ws.recv(), await ws.recv()] == [b"one", b"two"]
            with pytest.raises(TypeError, match="message is of type int"):
                await ws.send(3)  # type: ignore[arg-type]
            assert ws.state is State.OPEN

    run(main())


def test_iteration_ends_with_a_clean_close_and_raises_after_any_other(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            await server.send("one")
            await server.send("two")
            closing = asyncio.ensure_future(server.close(1001, "bye"))
            assert [message async for message in client] == ["one", "two"]
            await closing
            assert (info(client).code, info(client).reason, info(client).cause) == (1001, "bye", Cause.PEER_CLOSE)
        async with pair() as (client, server):
            closing = asyncio.ensure_future(server.close(4001, "no"))
            with pytest.raises(ConnectionClosedError, match=r"4001.*'no'"):
                async for _ in client:
                    pass
            await closing

    run(main())


def test_what_arrived_before_the_end_is_received_after_it(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            for i in range(5):
                await server.send(str(i))
            await server.close()
            await client.wait_closed()
            assert [await client.recv() for _ in range(5)] == ["0", "1", "2", "3", "4"]
            with pytest.raises(ConnectionClosedOK) as caught:
                await client.recv()
            assert caught.value.info is client.close_info

    run(main())


def test_only_one_task_may_receive(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            first = asyncio.ensure_future(client.recv())
            await asyncio.sleep(0)
            with pytest.raises(ConcurrencyError, match="another task"):
                await client.recv()
            await server.send("for the first")
            assert await first == "for the first"

    run(main())


def test_a_cancelled_recv_loses_no_message(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            for i in range(20):
                receiving = asyncio.ensure_future(client.recv())
                await asyncio.sleep(0)
                await server.send(str(i))
                if i % 2:
                    # Cancelled in the very moment in which the message is there.
                    while not client._inbox.messages:
                        await asyncio.sleep(0)
                receiving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    assert await receiving == str(i)
                    continue
                assert await client.recv() == str(i)

    run(main())


def test_a_message_is_received_as_a_stream_of_fragments(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            core = server._core
            for part, final in (("one ", False), ("two ", False), ("three", True)):
                core.send(part, 0.0, final=final)
                server._pump.flush()
            await server.send("whole")
            assert [part async for part in client.recv_streaming()] == ["one ", "two ", "three"]
            assert [part async for part in client.recv_streaming()] == ["whole"]
            core.send(b"first", 0.0, final=False)
            server._pump.flush()
            stream = client.recv_streaming()
            assert await anext(stream) == b"first"  # before the last has been sent
            core.send(b"last", 0.0)
            await server.send("next")
            assert await client.recv() == "next"  # the rest of a message begun is dropped

    run(main())


def test_send_after_the_end_says_how_it_ended(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            await server.close(4000, "over")
            for call in (lambda: client.send("x"), client.ping, client.recv):
                with pytest.raises(ConnectionClosedError) as caught:
                    await call()
                assert caught.value.info.code == 4000

    run(main())


def test_ping_returns_the_latency(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, _):
            latency = await client.ping()
            assert 0 <= latency < 5
            assert client.latency is not None
            assert await client.ping(b"payload") >= 0
            with pytest.raises(LocalProtocolError, match="126 bytes"):
                await client.ping(bytes(126))

    run(main())


def test_a_ping_is_answered_while_the_application_is_busy(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            await client.send("nobody takes this")
            await client.ping()
            assert await server.recv() == "nobody takes this"

    run(main())


def test_a_ping_that_is_cancelled_or_repeated(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            server._pump.transport.pause_reading()
            waiting = asyncio.ensure_future(client.ping(b"same"))
            await asyncio.sleep(0)
            with pytest.raises(ConcurrencyError, match="this payload"):
                await client.ping(b"same")
            later = asyncio.ensure_future(client.ping(b"later"))
            await asyncio.sleep(0)
            later.cancel()
            server._pump.transport.resume_reading()
            assert await waiting >= 0
            assert await client.ping(b"later") >= 0

    run(main())


def test_pings_without_an_answer_end_with_the_connection(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            server._pump.transport.pause_reading()
            waiting = asyncio.ensure_future(client.ping())
            await asyncio.sleep(0)
            server.abort()
            with pytest.raises(ConnectionClosedError):
                await waiting

    run(main())


def test_both_ends_close_at_once_and_every_closer_waits_for_the_same_end(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            await asyncio.gather(client.close(4001), client.close(4002), server.close(4003), server.wait_closed())
            assert (info(client).sent, info(client).rcvd) == ((4001, ""), (4003, ""))
            assert (info(server).sent, info(server).rcvd) == ((4003, ""), (4001, ""))
            assert info(client).rcvd_then_sent is info(server).rcvd_then_sent is False
            assert info(client).initiator is info(server).initiator is Initiator.LOCAL
            await client.close()

    run(main())


def test_a_code_that_cannot_be_sent_changes_nothing(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, _):
            with pytest.raises(LocalProtocolError, match="1006"):
                await client.close(1006)
            assert client.state is State.OPEN

    run(main())


def test_a_cancelled_close_still_ends(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            closing = asyncio.ensure_future(client.close(4000))
            await asyncio.sleep(0)
            closing.cancel()
            await client.wait_closed()
            await server.wait_closed()
            assert info(client).clean

    run(main())


def test_a_transport_that_breaks_is_told_with_its_cause(run: Run) -> None:
    async def main() -> None:
        async with pair() as (client, server):
            receiving = asyncio.ensure_future(server.recv())
            await asyncio.sleep(0)
            client.abort()
            with pytest.raises(ConnectionClosedError) as caught:
                await receiving
            assert (caught.value.info.code, caught.value.info.cause) == (1006, Cause.TRANSPORT_LOST)
            assert caught.value.info.initiator is Initiator.TRANSPORT

    run(main())


def test_send_waits_at_the_high_water_mark_and_sends_whole_frames_when_cancelled(run: Run) -> None:
    async def main() -> None:
        limits = ConnectionConfig(limits=FrameLimits.lenient(), compression=None)
        async with pair(client_config=limits) as (client, server):
            client._pump.transport.pause_reading()
            big = os.urandom(8 * 1024 * 1024)
            await server.send(big)  # more than the kernel takes
            waiting = [asyncio.ensure_future(server.send(f"cancelled {i}")) for i in range(3)]
            last = asyncio.ensure_future(server.send("kept"))
            await asyncio.sleep(0)
            assert not any(task.done() for task in (*waiting, last))
            for task in waiting:
                task.cancel()
            await asyncio.sleep(0)
            client._pump.transport.resume_reading()
            assert await client.recv() == big
            assert await client.recv() == "kept"
            await last

    run(main())


def test_a_waiting_send_ends_with_the_connection(run: Run) -> None:
    async def main() -> None:
        brief = ConnectionConfig(close=CloseConfig(timeout=0.1))
        async with pair(client_config=brief) as (client, server):
            client._pump.transport.pause_reading()
            await server.send(os.urandom(8 * 1024 * 1024))
            waiting = asyncio.ensure_future(server.send("never"))
            await asyncio.sleep(0)
            server.abort()
            with pytest.raises(ConnectionClosed):
                await waiting

    run(main())


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_slow_application_pauses_reading_and_misses_nothing(run: Run, size: int) -> None:
    async def main() -> None:
        queue = QueueConfig(max_messages=4, max_bytes=300_000)
        async with pair(config=ConnectionConfig(queue=queue)) as (client, server):
            messages = [bytes([i]) * size for i in range(60)]

            async def send_all() -> None:
                for message in messages:
                    await client.send(message)

            sending = asyncio.ensure_future(send_all())
            while server._pump.reading:
                await asyncio.sleep(0)
            assert server._inbox.messages <= 4
            assert [await server.recv() for _ in messages] == messages
            await sending
            while not server._pump.reading:
                await asyncio.sleep(0)

    run(main())


def test_closing_reads_on_past_messages_that_nobody_takes(run: Run) -> None:
    async def main() -> None:
        queue = QueueConfig(max_messages=2)
        async with pair(config=ConnectionConfig(queue=queue)) as (client, server):
            for i in range(50):
                await client.send(str(i))
            while server._pump.reading:
                await asyncio.sleep(0)
            await server.close()
            assert info(server).clean
            assert [await server.recv(), await server.recv()] == ["0", "1"]
            assert server.stats.messages_discarded == 48

    run(main())


class RecordingTransport(asyncio.Transport):
    """Counts the writes of a connection that has no peer."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = False
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol or asyncio.Protocol()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_reading(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            cast(asyncio.Protocol, self.protocol).connection_lost(None)


def test_one_read_is_answered_in_one_write(run: Run, echo: Handler) -> None:
    async def main() -> None:
        config = ConnectionConfig(compression=None)
        request = UpgradeRequest("/", Headers(), "", (), ())
        transport = RecordingTransport()
        ws = attach(transport, request, agree(request, config), config=config)
        task = asyncio.ensure_future(echo(ws))
        await asyncio.sleep(0)
        data = b"".join(
            encode_frame(opcode, payload, mask=MASK)
            for opcode, payload in [(Opcode.TEXT, b"message")] * 20 + [(Opcode.PING, b"ping")]
        )
        cast(asyncio.Protocol, transport.protocol).data_received(data)
        pong = encode_frame(Opcode.PONG, b"ping")
        assert transport.writes == [pong]  # at once, though the application has not had its turn
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert transport.writes == [pong, encode_frame(Opcode.TEXT, b"message") * 20]
        ws.abort()
        with pytest.raises(ConnectionClosedError):
            await task

    run(main())

"""A client that outlives its connections: what is delivered, what waits, what is dropped, and how it ends."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from wsconnkit.asyncio import Connection, ReconnectingClient, serve
from wsconnkit.machines.backoff import BackoffConfig
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, QueueConfig
from wsconnkit.protocol.errors import (
    ClientClosed,
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    InvalidStatus,
    LocalProtocolError,
)
from wsconnkit.protocol.http import Response
from wsconnkit.protocol.upgrade import accept_key
from wsconnkit.service.backlog import BacklogConfig, WhenFull
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .peers import Run, port

PLAIN = ConnectionConfig(compression=None)
Client = Callable[..., ReconnectingClient]


@pytest.fixture(autouse=True)
def jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each wait be half of its window."""
    monkeypatch.setattr(random, "random", lambda: 0.5)


class Peer:
    """A server that keeps what it receives, and does to its connections what it is told."""

    def __init__(self) -> None:
        self.received: list[list[str | bytes]] = []
        self.greeting: str | None = None
        self.arrivals: asyncio.Queue[Connection] = asyncio.Queue()

    async def handle(self, ws: Connection) -> None:
        messages: list[str | bytes] = []
        self.received.append(messages)
        if self.greeting is not None:
            await ws.send(f"{self.greeting} {len(self.received)}")
        self.arrivals.put_nowait(ws)
        with suppress(ConnectionClosed):
            async for message in ws:
                messages.append(message)

    @asynccontextmanager
    async def serving(self, at: int = 0) -> AsyncIterator[str]:
        async with serve(self.handle, "127.0.0.1", at, config=PLAIN) as server:
            yield f"ws://127.0.0.1:{port(server)}/"


@pytest.fixture
def peer() -> Peer:
    return Peer()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not happen")


def test_messages_go_both_ways(run_virtual: Run, peer: Peer) -> None:
    async def main() -> None:
        async with peer.serving() as uri, ReconnectingClient(uri, config=PLAIN) as client:
            await client.send("hello")
            ws = await peer.arrivals.get()
            await ws.send("welcome")
            await ws.send(b"back")
            assert await client.recv() == "welcome"
            assert await client.recv() == b"back"
            await until(lambda: peer.received == [["hello"]])
            assert client.is_open
            assert client.queued == (0, 0)

    run_virtual(main())


def test_messages_are_delivered_across_connections_in_order(run_virtual: Run, peer: Peer) -> None:
    async def main() -> None:
        async with peer.serving() as uri, ReconnectingClient(uri, config=PLAIN) as client:
            for number in range(3):
                ws = await peer.arrivals.get()
                for letter in "abc":
                    await client.send(f"{number}{letter}")
                await until(lambda number=number: len(peer.received[number]) == 3)  # type: ignore[misc]
                await ws.send(f"seen {number}")
                assert await client.recv() == f"seen {number}"
                ws.abort()
                await ws.wait_closed()
        assert peer.received[:3] == [[f"{number}{letter}" for letter in "abc"] for number in range(3)]

    run_virtual(main())


def test_what_waits_while_there_is_no_connection_goes_out_on_the_next(
    run_virtual: Run, peer: Peer, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        async with peer.serving() as uri:
            at = int(uri.rsplit(":", 1)[1].rstrip("/"))
        async with ReconnectingClient(uri, config=PLAIN) as client:
            for number in range(5):
                await client.send(str(number))
            assert client.queued == (5, 5)
            assert not client.is_open
            await asyncio.sleep(2)
            async with peer.serving(at):
                await client.connection()
                await until(lambda: peer.received == [["0", "1", "2", "3", "4"]])
                await client.close()

    run_virtual(main())


def test_a_message_is_handed_to_one_connection_at_most(run_virtual: Run, peer: Peer) -> None:
    async def main() -> None:
        sent = 0

        async def chatter(client: ReconnectingClient) -> None:
            nonlocal sent
            while True:
                await client.send(str(sent))
                sent += 1
                await asyncio.sleep(0.001)

        randomness = random.Random(11)
        backoff = BackoffConfig(base=0.1, cap=0.5)
        async with peer.serving() as uri, ReconnectingClient(uri, config=PLAIN, backoff=backoff) as client:
            chattering = asyncio.ensure_future(chatter(client))
            for _ in range(8):
                ws = await peer.arrivals.get()
                await asyncio.sleep(randomness.random() / 10)
                ws.abort()
                await ws.wait_closed()
            chattering.cancel()
            await asyncio.wait({chattering})
        received = [int(message) for messages in peer.received for message in messages]
        assert received == sorted(set(received))  # none twice, and in order
        assert len(received) > 100
        assert client.messages_dropped == 0

    run_virtual(main())


def test_a_message_that_waits_for_a_connection_that_takes_no_more_goes_out_on_the_next(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        arrivals: asyncio.Queue[Connection] = asyncio.Queue()
        received: list[str | bytes] = []
        served = 0

        async def handler(ws: Connection) -> None:
            nonlocal served
            served += 1
            if served == 1:
                ws._pump.transport.pause_reading()  # type: ignore[union-attr]
                arrivals.put_nowait(ws)
                await ws.wait_closed()
            else:
                received.extend([message async for message in ws])

        config = ConnectionConfig(compression=None, heartbeat=None, queue=QueueConfig(write_high_water=1000))
        big = BacklogConfig(max_bytes=100 * 2**20)
        async with serve(handler, "127.0.0.1", 0, config=PLAIN) as server:
            async with ReconnectingClient(f"ws://127.0.0.1:{port(server)}/", queue=big, config=config) as client:
                ws = await arrivals.get()
                count = 0
                while client.queued[0] < 3:
                    await client.send(b"%08d" % count + b"." * 2**18)
                    count += 1
                    await asyncio.sleep(0.001)
                stuck = client.queued[0]
                ws.abort()
                await client.send("last")
                await asyncio.sleep(1.5)
                await client.connection()
                await until(lambda: client.queued == (0, 0))
        assert [bytes(message[:8]) for message in received[:-1] if isinstance(message, bytes)] == [
            b"%08d" % number for number in range(count - stuck, count)
        ]
        assert received[-1] == "last"

    run_virtual(main())


def test_a_sender_waits_for_room_and_one_that_does_not_is_told(run_virtual: Run, unused: int, peer: Peer) -> None:
    async def main() -> None:
        queue = BacklogConfig(max_messages=2)
        async with ReconnectingClient(f"ws://127.0.0.1:{unused}/", queue=queue, config=PLAIN) as client:
            assert client.send_nowait("a")
            await client.send("b")
            assert not client.send_nowait("c")
            assert client.messages_dropped == 1
            waiting = asyncio.ensure_future(client.send("d"))
            await asyncio.sleep(3)
            assert not waiting.done()
            async with peer.serving(unused):
                await waiting
                await until(lambda: peer.received == [["a", "b", "d"]])
                await client.close()

    run_virtual(main())


@pytest.mark.parametrize(
    ("when_full", "kept"), [(WhenFull.DROP_OLDEST, ["3", "4"]), (WhenFull.DROP_NEWEST, ["0", "1"])]
)
def test_the_queue_drops_by_policy_and_counts(
    run_virtual: Run, unused: int, peer: Peer, when_full: WhenFull, kept: list[str]
) -> None:
    async def main() -> None:
        queue = BacklogConfig(max_messages=2, when_full=when_full)
        async with ReconnectingClient(f"ws://127.0.0.1:{unused}/", queue=queue, config=PLAIN) as client:
            for number in range(5):
                await client.send(str(number))
            assert (client.messages_dropped, client.bytes_dropped, client.queued) == (3, 3, (2, 2))
            async with peer.serving(unused):
                await until(lambda: peer.received == [kept])
                await client.close()

    run_virtual(main())


def test_a_message_that_could_never_be_sent_is_refused_and_harms_nothing(run_virtual: Run, peer: Peer) -> None:
    async def main() -> None:
        async with peer.serving() as uri, ReconnectingClient(uri, config=PLAIN) as client:
            for wrong in ("\ud800", b"." * (2**20 + 1)):
                with pytest.raises(LocalProtocolError):
                    await client.send(wrong)
            with pytest.raises(TypeError):
                await client.send(None)  # type: ignore[arg-type]
            await client.send("fine")
            await until(lambda: peer.received == [["fine"]])

    run_virtual(main())


def test_each_connection_is_shown_to_on_open_before_messages_go_out(run_virtual: Run, peer: Peer) -> None:
    async def main() -> None:
        async def subscribe(ws: Connection) -> None:
            await ws.send("subscribe")
            assert await ws.recv() == f"hello {len(peer.received)}"

        peer.greeting = "hello"
        async with peer.serving() as uri, ReconnectingClient(uri, on_open=subscribe, config=PLAIN) as client:
            await client.send("a")
            (await peer.arrivals.get()).abort()
            await peer.arrivals.get()
            await client.send("b")
            await until(lambda: len(peer.received) == 2 and peer.received[1][-1:] == ["b"])
        assert [messages[0] for messages in peer.received if messages] == ["subscribe"] * len(
            [messages for messages in peer.received if messages]
        )

    run_virtual(main())


def test_a_connection_that_ends_while_on_open_uses_it_is_followed_by_another(run_virtual: Run, peer: Peer) -> None:
    async def main() -> None:
        opened = 0

        async def subscribe(ws: Connection) -> None:
            nonlocal opened
            opened += 1
            if opened == 1:
                (await peer.arrivals.get()).abort()
                await ws.recv()

        async with peer.serving() as uri, ReconnectingClient(uri, on_open=subscribe, config=PLAIN) as client:
            await client.connection()
        assert opened == 2

    run_virtual(main())


def test_an_on_open_that_raises_ends_the_client_with_that(run_virtual: Run, peer: Peer) -> None:
    async def main() -> None:
        async def subscribe(ws: Connection) -> None:
            raise KeyError("my bug")

        async with peer.serving() as uri, ReconnectingClient(uri, on_open=subscribe, config=PLAIN) as client:
            for call in (client.recv, client.connection, lambda: client.send("a")):
                with pytest.raises(KeyError, match="my bug"):
                    await call()

    run_virtual(main())


def test_receivers_and_senders_learn_what_has_ended_the_client(run_virtual: Run, unused: int) -> None:
    async def main() -> None:
        async def refuse(token: str | None, request: object) -> Response:
            return Response(403)

        async def handler(ws: Connection) -> None:
            raise AssertionError

        async with serve(handler, "127.0.0.1", unused, authenticate=refuse) as server:
            uri = f"ws://127.0.0.1:{port(server)}/"
            queue = BacklogConfig(max_messages=1)
            async with ReconnectingClient(uri, queue=queue, config=PLAIN) as client:
                client.send_nowait("a")
                calls = [client.recv(), client.connection(), client.send("b"), anext(client)]
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert [type(result) for result in results] == [InvalidStatus] * 4
                assert (client.messages_dropped, client.queued) == (1, (0, 0))
                with pytest.raises(InvalidStatus):
                    client.send_nowait("c")

    run_virtual(main())


def test_messages_end_with_a_close_with_1000(run_virtual: Run) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            await ws.send("a")
            await ws.send("b")
            await ws.close(1000, "sold out")

        async with serve(handler, "127.0.0.1", 0, config=PLAIN) as server:
            async with ReconnectingClient(f"ws://127.0.0.1:{port(server)}/", config=PLAIN) as client:
                assert [message async for message in client] == ["a", "b"]
                told = r"was closed for good: 1000 \(.*\) 'sold out', begun by the peer"
                for call in (client.recv, client.connection, lambda: client.send("c")):
                    with pytest.raises(ClientClosed, match=told):
                        await call()
                await client.close()
                with pytest.raises(ClientClosed, match=told):
                    await client.recv()

    run_virtual(main())


def test_messages_end_with_what_cannot_be_come_back_from(run_virtual: Run) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            await ws.send("a")
            await ws.close(1008)

        async with serve(handler, "127.0.0.1", 0, config=PLAIN) as server:
            async with ReconnectingClient(f"ws://127.0.0.1:{port(server)}/", config=PLAIN) as client:
                assert await anext(client) == "a"
                with pytest.raises(ConnectionClosedError, match="1008"):
                    await anext(client)

    run_virtual(main())


def test_what_arrived_before_the_end_of_a_connection_is_returned_up_to_the_end_of_the_next(
    run_virtual: Run, peer: Peer
) -> None:
    async def main() -> None:
        peer.greeting = "hello"
        async with peer.serving() as uri, ReconnectingClient(uri, config=PLAIN) as client:
            for _ in range(2):
                ws = await peer.arrivals.get()
                await client.connection()
                await asyncio.sleep(0.1)
                ws.abort()
            await peer.arrivals.get()
            await client.connection()
            assert [await client.recv(), await client.recv()] == ["hello 2", "hello 3"]

    run_virtual(main())


def test_one_task_may_receive(run_virtual: Run, peer: Peer) -> None:
    async def main() -> None:
        async with peer.serving() as uri, ReconnectingClient(uri, config=PLAIN) as client:
            await client.connection()
            receiving = asyncio.ensure_future(client.recv())
            await asyncio.sleep(0)
            with pytest.raises(ConcurrencyError):
                await client.recv()
            receiving.cancel()
            await asyncio.wait({receiving})
            await (await peer.arrivals.get()).send("still here")
            assert await client.recv() == "still here"

    run_virtual(main())


def test_closing_hands_over_what_waits_first(run_virtual: Run, peer: Peer) -> None:
    async def main() -> None:
        async with peer.serving() as uri:
            async with ReconnectingClient(uri, config=PLAIN) as client:
                await client.connection()
                for number in range(100):
                    client.send_nowait(str(number))
                await client.close(4000, "bye")
            ws = await peer.arrivals.get()
            await ws.wait_closed()
            assert ws.close_info is not None
            assert (ws.close_info.code, ws.close_info.reason) == (4000, "bye")
        assert peer.received == [[str(number) for number in range(100)]]
        assert client.messages_dropped == 0

    run_virtual(main())


@pytest.fixture
def unused() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_closing_while_there_is_no_connection_takes_no_time_and_drops_what_waits(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, unused: int
) -> None:
    async def main() -> None:
        client = ReconnectingClient(f"ws://127.0.0.1:{unused}/", config=PLAIN)
        async with client:
            await client.send("a")
            await asyncio.sleep(5)
            before = virtual_loop.time()
        assert virtual_loop.time() - before < 0.1
        assert client.messages_dropped == 1
        await client.close()

    run_virtual(main())


@pytest.mark.parametrize("moment", ["connecting", "on_open", "idle", "stuck", "token"])
def test_closing_takes_a_bounded_time_whatever_the_client_is_at(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, moment: str
) -> None:
    async def main() -> None:
        reached = asyncio.Event()
        unanswered: list[asyncio.StreamWriter] = []

        async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            unanswered.append(writer)
            reached.set()
            if moment != "connecting":
                request = (await reader.readuntil(b"\r\n\r\n")).decode()
                key = next(line[19:] for line in request.split("\r\n") if line.startswith("Sec-WebSocket-Key: "))
                writer.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n"
                )
            writer.transport.pause_reading()  # type: ignore[attr-defined]

        async def forever(*args: object) -> Any:
            reached.set()
            await asyncio.Event().wait()

        config = ConnectionConfig(compression=None, heartbeat=None, close=CloseConfig(timeout=3))
        kwargs: dict[str, Any] = {"config": config, "queue": BacklogConfig(max_bytes=100 * 2**20)}
        if moment in ("on_open", "token"):
            kwargs[moment] = forever
        async with await asyncio.start_server(ignore, "127.0.0.1", 0) as server:
            uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            async with ReconnectingClient(uri, **kwargs) as client:
                if moment == "stuck":
                    for _ in range(40):
                        client.send_nowait(b"." * 2**20)
                await reached.wait()
                if moment in ("idle", "stuck"):
                    await client.connection()
                    await asyncio.sleep(0.5)
                before = virtual_loop.time()
            assert virtual_loop.time() - before <= 2 * 3 + 0.5
            for writer in unanswered:
                writer.transport.abort()

    run_virtual(main())


def test_closing_goes_on_when_it_is_cancelled(run_virtual: Run, peer: Peer) -> None:
    async def main() -> None:
        async with peer.serving() as uri:
            client = ReconnectingClient(uri, config=PLAIN)
            async with client:
                await client.connection()
                closing = asyncio.ensure_future(client.close())
                await asyncio.sleep(0)
                closing.cancel()
                await asyncio.wait({closing})
                with pytest.raises(ClientClosed):
                    await client.recv()
                await client.close()

    run_virtual(main())


def test_a_block_that_is_cancelled_at_any_moment_leaves_nothing_behind(run_virtual: Run, peer: Peer) -> None:
    async def main() -> None:
        me = asyncio.current_task()

        async def use(uri: str) -> None:
            async with ReconnectingClient(uri, config=PLAIN) as client:
                while True:
                    await client.send("a")
                    await (await client.connection()).ping()

        async with peer.serving() as uri:
            for turns in range(60):
                using = asyncio.ensure_future(use(uri))
                for _ in range(turns):
                    await asyncio.sleep(0)
                using.cancel()
                await asyncio.wait({using})
            await until(lambda: asyncio.all_tasks() == {me})

    run_virtual(main())


def test_a_cancelled_send_or_recv_loses_nothing(run_virtual: Run, peer: Peer, unused: int) -> None:
    async def main() -> None:
        queue = BacklogConfig(max_messages=1)
        async with ReconnectingClient(f"ws://127.0.0.1:{unused}/", queue=queue, config=PLAIN) as client:
            client.send_nowait("a")
            for call in (client.send("b"), client.recv(), client.connection()):
                waiting: asyncio.Future[Any] = asyncio.ensure_future(call)
                await asyncio.sleep(0.1)
                waiting.cancel()
                await asyncio.wait({waiting})
                assert waiting.cancelled()
            async with peer.serving(unused):
                await until(lambda: peer.received == [["a"]])
                await client.send("c")
                await until(lambda: peer.received == [["a", "c"]])
                await client.close()

    run_virtual(main())


def test_a_client_is_started_once(run_virtual: Run, peer: Peer) -> None:
    async def main() -> None:
        client = ReconnectingClient("ws://127.0.0.1:1/", config=PLAIN)
        for call in (client.recv, client.connection, lambda: client.send("a")):
            with pytest.raises(LocalProtocolError, match="has not been started; use `async with`"):
                await call()
        await client.close()
        with pytest.raises(LocalProtocolError, match="started before"):
            await client.__aenter__()
        async with peer.serving() as uri:
            async with ReconnectingClient(uri) as client:
                with pytest.raises(LocalProtocolError):
                    await client.__aenter__()
                with pytest.raises(LocalProtocolError, match="1006"):
                    await client.close(1006)
                with pytest.raises(LocalProtocolError, match="close reason cannot be sent as UTF-8"):
                    await client.close(1000, "x\ud83dy")

    run_virtual(main())


def test_it_works_on_real_loops(run: Run, peer: Peer) -> None:
    async def main() -> None:
        backoff = BackoffConfig(base=0.01, cap=0.1, max_attempts=None)
        async with peer.serving() as uri, ReconnectingClient(uri, backoff=backoff) as client:
            for number in range(5):
                await client.send(str(number))
                ws = await peer.arrivals.get()
                await until(lambda number=number: peer.received[number] == [str(number)])  # type: ignore[misc]
                await ws.send(f"seen {number}")
                assert await client.recv() == f"seen {number}"
                ws.abort()
                await until(lambda: not client.is_open)

    run(main())

"""Peers that read slowly or not at all: nobody waits who does not want to, and they cost what is configured."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme
import websockets.asyncio.client

from wsconnkit.asyncio import Connection, Server, broadcast, connect, serve
from wsconnkit.machines.closing import State
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.closeinfo import Cause, Initiator
from wsconnkit.protocol.config import OVERHEAD, CloseConfig, ConnectionConfig, QueueConfig, SlowConsumer
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.errors import ConnectionClosed, ConnectionClosedError
from wsconnkit.protocol.events import Message, PongReceived
from wsconnkit.protocol.prepared import PreparedMessage
from wsconnkit.protocol.uri import parse_uri
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .peers import Arrivals, Run, info, port, uri

HIGH_WATER = 8 * 1024
KIB = 1024
BLOCK, OLDEST, NEWEST, CLOSE = SlowConsumer


def settings(policy: SlowConsumer = BLOCK, *, room: int = 100 * KIB, age: float | None = 30.0) -> ConnectionConfig:
    queue = QueueConfig(write_high_water=HIGH_WATER, max_unsent_bytes=room, max_unsent_age=age, slow_consumer=policy)
    return ConnectionConfig(compression=None, heartbeat=None, queue=queue, close=CloseConfig(timeout=0.2))


class SlowClient:
    """A client with little room in its socket, that reads when it is told to."""

    def __init__(self, sock: socket.socket, core: ConnectionProtocol) -> None:
        self._sock = sock
        self._core = core
        self._loop = asyncio.get_running_loop()
        self.messages: list[str | bytes] = []
        self.order: list[str | bytes] = []
        """Messages, and `pong` for each pong."""

    def ping(self) -> None:
        self._core.ping(b"", 0.0)
        self._sock.send(self._core.data_to_send())

    def close(self) -> None:
        self._core.close(1000, "", 0.0)
        self._sock.send(self._core.data_to_send())

    @property
    def discarded(self) -> int:
        return self._core.stats.messages_discarded

    async def read(self, most: int = 64 * KIB) -> int:
        data = await self._loop.sock_recv(self._sock, most)
        self._core.receive_data(data, 0.0)
        if not data:
            self._core.receive_eof(0.0)
        for event in self._core.events():
            if isinstance(event, Message):
                assert event.final
                self.messages.append(event.data)
                self.order.append(event.data)
            elif isinstance(event, PongReceived):
                self.order.append("pong")
        answer = self._core.data_to_send()
        if answer:
            self._sock.send(answer)
        return len(data)

    async def receive(self, count: int) -> list[str | bytes]:
        while len(self.messages) < count:
            assert await self.read()
        return self.messages

    async def read_to_end(self) -> Any:
        while self._core.close_info is None and await self.read():
            pass
        return self._core.close_info


@asynccontextmanager
async def slow_client(server: Server) -> AsyncIterator[SlowClient]:
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * KIB)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port(server)))
        handshake = ClientHandshake(parse_uri(uri(server)), ConnectionConfig(compression=None), now=0.0)
        await loop.sock_sendall(sock, handshake.data_to_send())
        while handshake.agreement is None:
            handshake.receive_data(await loop.sock_recv(sock, 64 * KIB), 0.0)
        yield SlowClient(sock, handshake.connection(0.0))


def listener() -> socket.socket:
    """A listening socket whose connections hold little in the kernel."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * KIB)
    sock.bind(("127.0.0.1", 0))
    return sock


@asynccontextmanager
async def slow_pair(config: ConnectionConfig) -> AsyncIterator[tuple[Connection, SlowClient]]:
    """A server's connection, and its client."""
    arrivals = Arrivals()
    async with serve(arrivals, sock=listener(), config=config) as server, slow_client(server) as client:
        yield await arrivals.connections.get(), client


async def fill(ws: Connection, size: int = 4 * KIB) -> int:
    """Send until the transport is full; return how many messages that took."""
    for count in itertools.count():
        if not ws.send_if_ready(bytes(size)):
            return count
        await asyncio.sleep(0)
    raise AssertionError


def test_send_nowait_and_broadcast_send_at_once_where_there_is_room(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0) as server, connect(uri(server)) as client:
            ws = await arrivals.connections.get()
            assert ws.send_nowait("one")
            assert ws.send_nowait(b"two")
            assert broadcast(server.connections, "three") == 1
            assert broadcast(server.connections, PreparedMessage("four")) == 1
            await ws.send(PreparedMessage("five"))
            assert [await client.recv() for _ in range(5)] == ["one", b"two", "three", "four", "five"]
            assert sum(server.stats.sent.counts) == ws.stats.messages_sent == 5

    run(main())


def test_messages_of_the_wrong_type_are_refused_and_nobody_gets_them(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        wrong: Any = 5
        async with serve(arrivals, "127.0.0.1", 0) as server, connect(uri(server)) as client:
            ws = await arrivals.connections.get()
            with pytest.raises(TypeError):
                ws.send_nowait(wrong)
            with pytest.raises(TypeError):
                broadcast([ws], wrong)
            assert ws.send_nowait("right")
            assert await client.recv() == "right"

    run(main())


def test_nothing_is_sent_on_a_connection_that_ends(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0) as server, connect(uri(server)) as client:
            ws = await arrivals.connections.get()
            closing = asyncio.ensure_future(ws.close())
            await asyncio.sleep(0)
            assert ws.state is State.CLOSE_SENT
            assert not ws.send_nowait("late")
            assert broadcast([ws, client], "to the other") == 1
            await closing
            assert not ws.send_nowait("later")
            assert ws.stats.messages_dropped == 0

    run(main())


def test_order_is_that_of_the_calls_of_whatever_kind(run: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, client):
            filled = await fill(ws)
            senders = []
            for number in range(0, 30, 3):
                senders.append(asyncio.ensure_future(ws.send(str(number))))
                await asyncio.sleep(0)
                assert ws.send_nowait(str(number + 1))
                assert broadcast([ws], str(number + 2)) == 1
            assert not any(sender.done() for sender in senders)
            assert not ws.send_if_ready("before its turn")
            messages = await client.receive(filled + 30)
            assert messages[filled:] == [str(number) for number in range(30)]
            await asyncio.gather(*senders)
            assert ws.queued_bytes == (0, 0)
            assert ws.stats.messages_dropped == 0

    run(main())


def test_all_that_is_sent_is_counted_in_the_histogram_of_sizes(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, sock=listener(), config=settings()) as server, slow_client(server) as client:
            ws = await arrivals.connections.get()
            filled = await fill(ws)
            assert ws.send_nowait("waits")
            assert sum(server.stats.sent.counts) == filled
            await client.receive(filled + 1)
            assert sum(server.stats.sent.counts) == filled + 1

    run(main())


def test_a_send_that_is_cancelled_in_line_sends_nothing_and_lets_the_others_pass(run: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, client):
            filled = await fill(ws)
            first, second, third = (asyncio.ensure_future(ws.send(name)) for name in ("first", "second", "third"))
            await asyncio.sleep(0)
            ws.send_nowait("last")
            first.cancel()
            second.cancel()
            assert (await client.receive(filled + 2))[filled:] == ["third", "last"]
            await third
            assert first.cancelled()
            assert second.cancelled()

    run(main())


def test_a_send_that_is_cancelled_when_its_turn_has_come_sends_nothing(run: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, client):
            filled = await fill(ws)
            first, second = (asyncio.ensure_future(ws.send(name)) for name in ("first", "second"))
            await asyncio.sleep(0)
            ws._pump.resume_writing()  # as the transport does when it has room
            first.cancel()
            assert (await client.receive(filled + 1))[filled:] == ["second"]
            await second
            assert first.cancelled()

    run(main())


def test_a_wrong_message_in_line_lets_the_others_pass(run: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, client):
            filled = await fill(ws)
            wrong: Any = 5
            sending = asyncio.ensure_future(ws.send(wrong))
            await asyncio.sleep(0)
            assert ws.send_nowait("right")
            assert (await client.receive(filled + 1))[filled:] == ["right"]
            with pytest.raises(TypeError):
                await sending

    run(main())


def test_send_nowait_refuses_what_does_not_fit_and_send_waits(run: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings(room=10 * (KIB + OVERHEAD))) as (ws, client):
            filled = await fill(ws)
            taken = [ws.send_nowait(bytes(KIB)) for _ in range(15)]
            assert taken == [True] * 10 + [False] * 5
            assert (ws.stats.messages_dropped, ws.stats.bytes_dropped) == (5, 5 * KIB)
            sending = asyncio.ensure_future(ws.send("patient"))
            await asyncio.sleep(0)
            assert not sending.done()
            assert (await client.receive(filled + 11))[-1] == "patient"
            await sending

    run(main())


@pytest.mark.parametrize(("policy", "kept"), [(OLDEST, range(90, 100)), (NEWEST, range(10))])
def test_a_policy_that_drops_never_waits(run: Run, policy: SlowConsumer, kept: range) -> None:
    async def main() -> None:
        async with slow_pair(settings(policy, room=10 * (KIB + OVERHEAD))) as (ws, client):
            filled = await fill(ws)
            for number in range(100):
                await ws.send(f"{number:{KIB}}")
            assert ws.queued_bytes[1] <= 10 * (KIB + OVERHEAD) + HIGH_WATER + 4 * KIB + 4
            messages = await client.receive(filled + 10)
            assert messages[filled:] == [f"{number:{KIB}}" for number in kept]
            assert (ws.stats.messages_dropped, ws.stats.bytes_dropped) == (90, 90 * KIB)

    run(main())


def test_a_policy_that_closes_ends_with_1013(run: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings(CLOSE)) as (ws, _):
            filled = await fill(ws)
            for _ in range(100 // 4 - 1):
                assert ws.send_nowait(bytes(4 * KIB))
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.send(bytes(4 * KIB))
            assert (ws.stats.messages_sent, ws.stats.messages_dropped) == (filled, 25)
            assert (caught.value.info.code, caught.value.info.cause) == (1013, Cause.SLOW_CONSUMER)
            assert not ws.send_nowait("late")

    run(main())


def test_a_close_waits_for_nothing_that_is_queued(run: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, client):
            filled = await fill(ws)
            sending = asyncio.ensure_future(ws.send("in line"))
            assert [ws.send_nowait(bytes(KIB)) for _ in range(20)] == [True] * 20
            closing = asyncio.ensure_future(ws.close(4000))
            end = await client.read_to_end()
            assert (end.code, len(client.messages)) == (4000, filled)
            await closing
            with pytest.raises(ConnectionClosed):
                await sending
            assert ws.stats.messages_dropped == 20

    run(main())


def test_a_peer_that_never_reads_the_close_is_given_up_in_time(run_virtual: Run, virtual_loop: VirtualTimeLoop) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, _):
            await fill(ws)
            ws.send_nowait("waits")
            start = virtual_loop.time()
            await ws.close()
            assert 0.2 <= virtual_loop.time() - start < 0.4  # and what the transport may take to write the rest
            assert info(ws).cause is Cause.LOCAL_CLOSE
            assert not info(ws).clean
            assert ws.queued_bytes == (0, 0)

    run_virtual(main())


def test_a_large_message_under_way_goes_out_whole_before_the_answer_to_a_close(run: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, client):
            await ws.send(bytes(500 * KIB))
            client.close()
            end = await client.read_to_end()
            assert client.discarded == 1
            assert end.clean
            await ws.wait_closed()
            assert info(ws).cause is Cause.PEER_CLOSE

    run(main())


def test_a_pong_overtakes_messages_that_wait(run: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, client):
            filled = await fill(ws)
            assert ws.send_nowait("waits")
            client.ping()
            await asyncio.sleep(0.01)
            await client.receive(filled + 1)
            assert client.order[filled:] == ["pong", "waits"]

    run(main())


def test_a_transport_that_is_lost_ends_the_waiting(run: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, _):
            await fill(ws)
            waiting = [asyncio.ensure_future(ws.send("a")), asyncio.ensure_future(ws.ping())]
            await asyncio.sleep(0)
            ws.send_nowait("b")
            ws.abort()
            for error in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(error, ConnectionClosedError)
            assert ws.stats.messages_dropped == 1

    run(main())


@pytest.mark.parametrize("policy", [OLDEST, NEWEST])
def test_a_strict_peer_inflates_all_that_is_left_when_messages_are_dropped(run: Run, policy: SlowConsumer) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        compression = CompressionConfig(server_context_takeover=True, threshold=0)
        queue = QueueConfig(write_high_water=HIGH_WATER, max_unsent_bytes=100 * KIB, slow_consumer=policy)
        config = ConnectionConfig(compression=compression, queue=queue)
        async with (
            serve(arrivals, sock=listener(), config=config) as server,
            websockets.asyncio.client.connect(uri(server), max_queue=1) as client,
        ):
            ws = await arrivals.connections.get()
            for number in range(200):
                noise = "".join(str(pow(number + 2, power, 1_000_003)) for power in range(2000))
                await ws.send(f"{number} {noise}")
                await asyncio.sleep(0)
            numbers: list[int] = []
            while len(numbers) < 200 - ws.stats.messages_dropped:
                numbers.append(int((await client.recv()).split()[0]))
            assert numbers == sorted(numbers)
            assert 0 < ws.stats.messages_dropped < 190
            await ws.send("and on")
            assert await client.recv() == "and on"

    run(main())


def test_nothing_is_held_for_a_peer_that_is_gone(run: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, _):
            tracemalloc.start()
            await ws.send(bytes(16 * KIB * KIB))
            assert ws.queued_bytes[1] > 8 * KIB * KIB
            ws.abort()
            await ws.wait_closed()
            assert ws.queued_bytes == (0, 0)
            assert tracemalloc.get_traced_memory()[0] < KIB * KIB

    try:
        run(main())
    finally:
        tracemalloc.stop()


# Age.


def test_a_peer_that_reads_nothing_is_closed_with_1013_after_half_a_minute(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, _):
            await fill(ws)
            start = virtual_loop.time()
            with pytest.raises(ConnectionClosedError):
                await ws.send("never")
            assert 30 <= virtual_loop.time() - start < 31
            assert (info(ws).cause, info(ws).initiator) == (Cause.SLOW_CONSUMER, Initiator.LOCAL)
            assert info(ws).code == 1013

    run_virtual(main())


def test_so_is_one_with_less_than_the_high_water_mark_unread(run_virtual: Run, virtual_loop: VirtualTimeLoop) -> None:
    async def main() -> None:
        queue = QueueConfig(write_high_water=1 << 30)
        async with slow_pair(ConnectionConfig(queue=queue)) as (ws, _):
            while not ws.queued_bytes[1]:
                await ws.send(bytes(4 * KIB))
            start = virtual_loop.time()
            await ws.wait_closed()
            # The heartbeat finds out, but has no verdict while our ping cannot leave.
            assert 60 <= virtual_loop.time() - start < 67
            assert info(ws).cause is Cause.SLOW_CONSUMER

    run_virtual(main())


def test_one_that_was_slow_once_may_then_have_as_much_unread_as_before(run_virtual: Run) -> None:
    async def main() -> None:
        queue = QueueConfig(write_high_water=HIGH_WATER)
        async with slow_pair(ConnectionConfig(compression=None, queue=queue)) as (ws, client):
            while not ws.queued_bytes[1]:
                assert ws.send_if_ready(bytes(KIB))
            await asyncio.sleep(31)  # the heartbeat has looked, and found less than the high-water mark
            assert not ws.send_if_ready(bytes(KIB))
            await client.receive(ws.stats.messages_sent)
            await asyncio.sleep(1)
            assert await fill(ws, KIB)
            assert HIGH_WATER < ws.queued_bytes[1] <= HIGH_WATER + KIB + 4

    run_virtual(main())


def test_a_transport_that_is_filled_must_be_empty_before_it_is_filled_again(run: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, client):
            filled = await fill(ws)
            assert ws.send_nowait("behind")
            while ws.stats.messages_sent == filled:
                await client.read(256)
                await asyncio.sleep(0)
            assert ws.queued_bytes[1] <= len("behind") + 2

    run(main())


def test_a_peer_that_reads_a_little_now_and_then_is_kept(run_virtual: Run, virtual_loop: VirtualTimeLoop) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, client):
            await ws.send(bytes(1000 * KIB))
            sending = asyncio.ensure_future(ws.send("the next"))
            start = virtual_loop.time()
            while virtual_loop.time() - start < 600:
                await asyncio.sleep(10)
                await client.read(8 * KIB)
            assert not sending.done()
            assert await client.receive(2) == [bytes(1000 * KIB), "the next"]
            await sending

    run_virtual(main())


async def without_time_passing(operation: Callable[[], Any]) -> Any:
    """Do what needs something of the peer's, on a TLS socket that does not block."""
    while True:
        try:
            return operation()
        except ssl.SSLWantReadError:
            await asyncio.sleep(0)


def test_so_is_one_over_tls(run_virtual: Run, virtual_loop: VirtualTimeLoop) -> None:
    authority = trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(ours)
    authority.configure_trust(theirs)

    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0, config=settings(), ssl=ours) as server:
            plain = socket.socket()
            plain.setblocking(False)
            await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port(server)))
            name = "127.0.0.1"
            with theirs.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False) as sock:
                await without_time_passing(sock.do_handshake)
                handshake = ClientHandshake(parse_uri(uri(server)), ConnectionConfig(compression=None), now=0.0)
                sock.sendall(handshake.data_to_send())
                assert b" 101 " in await without_time_passing(lambda: sock.recv(KIB))
                ws = await arrivals.connections.get()
                await ws.send(bytes(16 * KIB * KIB))
                sending = asyncio.ensure_future(ws.send("the next"))
                start = virtual_loop.time()
                while virtual_loop.time() - start < 90:
                    await asyncio.sleep(0.5)
                    with contextlib.suppress(ssl.SSLWantReadError):
                        sock.recv(16 * KIB)
                assert not sending.done()
                ws.abort()
                with pytest.raises(ConnectionClosedError):
                    await sending

    run_virtual(main())


def test_a_peer_is_not_blamed_for_a_stall_of_ours(run_virtual: Run, virtual_loop: VirtualTimeLoop) -> None:
    async def main() -> None:
        async with slow_pair(settings()) as (ws, client):
            filled = await fill(ws)
            sending = asyncio.ensure_future(ws.send("after"))
            await asyncio.sleep(0)
            reading = asyncio.ensure_future(client.receive(filled + 1))
            virtual_loop.stall(1000)
            assert (await reading)[-1] == "after"
            await sending
            await asyncio.sleep(100)
            assert ws.state is State.OPEN

    run_virtual(main())


def test_without_a_bound_on_age_it_is_held_for_ever(run_virtual: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings(age=None)) as (ws, _):
            await fill(ws)
            await asyncio.sleep(100_000)
            assert ws.state is State.OPEN

    run_virtual(main())


def test_a_policy_that_drops_drops_what_is_too_old(run_virtual: Run) -> None:
    async def main() -> None:
        async with slow_pair(settings(OLDEST)) as (ws, client):
            filled = await fill(ws)
            ws.send_nowait("old")
            await asyncio.sleep(20)
            ws.send_nowait("new")
            await asyncio.sleep(20)
            assert (await client.receive(filled + 1))[filled:] == ["new"]
            assert ws.stats.messages_dropped == 1

    run_virtual(main())


# Many.


class Reader(asyncio.Protocol):
    """A client that counts the bytes of messages."""

    def __init__(self, server: Server) -> None:
        self._handshake = ClientHandshake(parse_uri(uri(server)), ConnectionConfig(compression=None), now=0.0)
        self.opened = asyncio.get_running_loop().create_future()
        self.received = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._handshake.data_to_send())

    def data_received(self, data: bytes) -> None:
        if self.opened.done():
            self.received += len(data)
            return
        self._handshake.receive_data(data, 0.0)
        if self._handshake.agreement is not None:
            self.opened.set_result(None)


@pytest.fixture
def many_files() -> Generator[None, None, None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3000:
        pytest.skip("two thousand sockets are more than the system allows")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("policy", [OLDEST, NEWEST, BLOCK, CLOSE])
def test_a_broadcast_to_a_thousand_waits_for_none_of_the_ten_that_do_not_read(run: Run, policy: SlowConsumer) -> None:
    room, size, rounds = 64 * KIB, 8 * KIB, 30
    frame = size + 4

    async def main() -> None:
        loop = asyncio.get_running_loop()
        arrivals = Arrivals()
        config = settings(policy, room=room)
        async with serve(arrivals, sock=listener(), backlog=1000, config=config) as server:
            readers: list[Reader] = []
            for number in range(1000):
                _, reader = await loop.create_connection(lambda: Reader(server), "127.0.0.1", port(server))
                await reader.opened
                readers.append(reader)
                if number % 100 == 0:
                    reader.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * KIB)
                    reader.transport.pause_reading()
            slow, quick = readers[::100], [reader for number, reader in enumerate(readers) if number % 100]
            peers = {ws.remote_address: ws for ws in server.connections}
            stuck = [peers[reader.transport.get_extra_info("sockname")] for reader in slow]
            most = 0
            for round_ in range(rounds):
                taken = broadcast(server.connections, bytes(size))
                assert taken >= 990
                while any(reader.received < (round_ + 1) * frame for reader in quick):
                    await asyncio.sleep(0)
                most = max(most, *(ws.queued_bytes[1] for ws in stuck))
            assert all(reader.received == rounds * frame for reader in quick)
            assert most <= room + HIGH_WATER + frame
            if policy is CLOSE:
                await asyncio.gather(*(ws.wait_closed() for ws in stuck))
                assert {info(ws).cause for ws in stuck} == {Cause.SLOW_CONSUMER}
            else:
                assert most > room // 2
                assert all(ws.stats.messages_dropped > 0 for ws in stuck)
            for reader in readers:
                reader.transport.abort()

    run(main())

"""Sending without waiting, and peers that read too slowly or not at all."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from wsconnkit.machines.closing import State
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, QueueConfig, SlowConsumer
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.protocol.frames import Opcode

from .driver import CANCELLED, Driver, Task, TrioDriver
from .raw import PLAIN, Arrivals, Frame, Readers, info, pair, raw_client

MORE_THAN_FITS = bytes(16 * 1024 * 1024)
"""No transport takes this from a peer that does not read."""


def slow(policy: SlowConsumer, *, room: int = 10_000, age: float | None = None) -> ConnectionConfig:
    queue = QueueConfig(max_unsent_bytes=room, max_unsent_age=age, slow_consumer=policy)
    return ConnectionConfig(compression=None, heartbeat=None, queue=queue, close=CloseConfig(timeout=0.5))


async def end_of(sender: Task) -> ConnectionClosed | None:
    """Return what told a sender that its message was in vain."""
    try:
        await sender.join()
    except ConnectionClosed as error:
        return error
    return None


def test_send_nowait_and_broadcast_send_at_once_where_there_is_room(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver) as (one, server), pair(driver) as (two, other):
            assert server.send_nowait("alone")
            assert driver.adapter.broadcast([server, other], "to both") == 2
            assert [await one.recv(), await one.recv(), await two.recv()] == ["alone", "to both", "to both"]
            with pytest.raises(TypeError, match="message is of type int"):
                server.send_nowait(3)
            await one.close()
            await server.wait_closed()
            assert driver.adapter.broadcast([server, other], b"to those who are there") == 1
            assert not server.send_nowait("nobody")
            assert await two.recv() == b"to those who are there"

    driver.run(main)


def test_a_broadcast_reaches_all_kinds_of_connections_each_in_its_way(driver: Driver) -> None:
    text = "to everybody: " * 1000
    kinds = [
        PLAIN,
        ConnectionConfig(),
        ConnectionConfig(compression=CompressionConfig(level=1, server_max_window_bits=10, client_max_window_bits=10)),
        ConnectionConfig(compression=CompressionConfig(server_context_takeover=True, client_context_takeover=True)),
    ]

    async def main() -> None:
        async with AsyncExitStack() as stack:
            pairs = [await stack.enter_async_context(pair(driver, kind, kind)) for kind in kinds for _ in range(2)]
            clients, servers = [one for one, _ in pairs], [other for _, other in pairs]
            everybody = clients + servers
            for message in (text, text.encode(), "short", ""):
                assert driver.adapter.broadcast(iter(everybody), message) == 16
                assert [await ws.recv() for ws in everybody] == [message] * 16
            assert driver.adapter.broadcast([], text) == 0
            assert driver.adapter.broadcast((servers[-1] for _ in range(3)), text) == 3
            assert [await clients[-1].recv() for _ in range(3)] == [text] * 3
            compressed = [ws.stats.compression.outbound.messages_compressed for ws in everybody]
            assert compressed == [0, 0, 2, 2, 2, 2, 2, 2, 0, 0, 2, 2, 2, 2, 2, 5]
            assert [ws.stats.messages_sent for ws in everybody] == [4] * 15 + [7]

    driver.run(main)


@pytest.mark.parametrize("kind", ["ping", "send", "close"])
def test_a_broadcast_keeps_its_place_behind_what_was_sent_in_the_same_turn(driver: Driver, kind: str) -> None:
    async def main() -> None:
        async with pair(driver, PLAIN, PLAIN) as (client, server), driver.tasks() as start:
            await client.send("to be answered")
            await client.send("and this with it")
            await server.recv()
            if kind == "send":
                await server.send("before")
            elif kind == "ping":
                start(server.ping)
                await driver.turn()
            else:
                start(server.close)
                await driver.until(lambda: server.state is not State.OPEN)
            taken = driver.adapter.broadcast([server], "behind")
            assert taken == (kind != "close")
            if kind == "send":
                assert await client.recv() == "before"
            if taken:
                assert await client.recv() == "behind"
            else:
                await server.wait_closed()
                assert info(client).clean

    driver.run(main)


def test_order_is_that_of_the_calls_of_whatever_kind(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        config = slow(SlowConsumer.BLOCK)
        async with driver.serve(arrivals, config=config) as server:
            async with raw_client(driver, server) as raw, driver.tasks() as start:
                ws = await arrivals.next()
                await ws.send(MORE_THAN_FITS)
                await driver.turn()
                assert ws.send_nowait("1")
                waiting = start(lambda: ws.send("2"))
                await driver.sleep(1)
                assert ws.send_nowait("3")
                given_up = start(lambda: ws.send("never"))
                wrong = start(lambda: ws.send("\ud800"))
                await driver.sleep(1)
                assert driver.adapter.broadcast([ws], "4") == 1
                last = start(lambda: ws.send("5"))
                await driver.sleep(1)
                assert not any(task.done for task in (waiting, last))
                given_up.cancel()
                assert await given_up.join() is CANCELLED
                assert len((await raw.read()).payload) == len(MORE_THAN_FITS)  # type: ignore[union-attr]
                assert [(await raw.read()).payload for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]  # type: ignore[union-attr]
                await waiting.join()
                await last.join()
                with pytest.raises(Exception, match="cannot be sent as UTF-8"):
                    await wrong.join()

    driver.run(main)


@pytest.mark.parametrize(
    ("policy", "kept"), [(SlowConsumer.DROP_OLDEST, range(91, 100)), (SlowConsumer.DROP_NEWEST, range(9))]
)
def test_a_policy_that_drops_never_waits_and_counts(driver: Driver, policy: SlowConsumer, kept: range) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=slow(policy)) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            await ws.send(MORE_THAN_FITS)
            await driver.turn()
            for i in range(100):
                await ws.send(bytes([i]) * 900)
            assert ws.stats.messages_dropped == 91
            assert ws.stats.bytes_dropped == 91 * 900
            await raw.read()
            await raw.send(Opcode.PING, b"control frames are exempt")
            frames = [await raw.read() for _ in range(10)]
            assert [frame.payload[0] for frame in frames if frame and frame.opcode is Opcode.BINARY] == list(kept)
            assert Opcode.PONG in [frame.opcode for frame in frames if frame]

    driver.run(main)


def test_a_policy_that_closes_ends_with_1013(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        config = slow(SlowConsumer.CLOSE, age=driver.seconds(1000))
        async with driver.serve(arrivals, config=config) as server, raw_client(driver, server):
            ws = await arrivals.next()
            await ws.send(MORE_THAN_FITS)
            await driver.turn()
            begun = driver.now()
            while ws.send_nowait(bytes(1000)):
                pass
            assert ws.state is not State.OPEN
            await ws.wait_closed()
            if driver.exact:
                assert driver.now() - begun < 1  # for the answer to the close, which does not come
            assert (info(ws).code, info(ws).cause) == (1013, Cause.SLOW_CONSUMER)

    driver.run(main)


def test_a_peer_that_reads_nothing_is_closed_with_1013_after_half_a_minute(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        config = slow(SlowConsumer.BLOCK, age=driver.seconds(30))
        async with driver.serve(arrivals, config=config) as server, raw_client(driver, server):
            ws = await arrivals.next()
            begun = driver.now()
            await ws.send(MORE_THAN_FITS)
            await ws.wait_closed()
            assert driver.now() - begun >= 29.9
            if driver.exact:
                assert driver.now() - begun <= 31
            assert (info(ws).code, info(ws).cause) == (1013, Cause.SLOW_CONSUMER)

    driver.run(main)


def test_all_who_wait_to_send_are_told_when_the_peer_reads_nothing(network: Driver) -> None:
    """And the connection holds none of their messages: each keeps its own."""
    network_holds = 10_000_000

    async def main() -> None:
        arrivals = Arrivals(network)
        config = slow(SlowConsumer.BLOCK, age=network.seconds(30))
        async with (
            network.serve(arrivals, config=config) as server,
            raw_client(network, server),
            network.tasks() as start,
        ):
            ws = await arrivals.next()
            begun = network.now()
            senders = [start(lambda: ws.send(bytes(900_000))) for _ in range(100)]
            await network.sleep(20)
            assert ws.queued_bytes[1] <= 900_000 + 64 * 1024 + 100
            await ws.wait_closed()
            assert network.now() - begun >= 29.9
            if network.exact:
                assert network.now() - begun <= 31
            assert (info(ws).code, info(ws).cause) == (1013, Cause.SLOW_CONSUMER)
            ends = [await end_of(sender) for sender in senders]
            assert ends.count(None) == ws.stats.messages_sent < network_holds / 900_000
            assert all(end is None or end.info is ws.close_info for end in ends)

    network.run(main)


@pytest.mark.parametrize("policy", [SlowConsumer.DROP_OLDEST, SlowConsumer.DROP_NEWEST, SlowConsumer.CLOSE])
def test_where_none_waits_to_send_a_connection_holds_what_it_may(network: Driver, policy: SlowConsumer) -> None:
    async def main() -> None:
        arrivals = Arrivals(network)
        config = slow(policy, room=4_000_000)
        async with (
            network.serve(arrivals, config=config) as server,
            raw_client(network, server),
            network.tasks() as start,
        ):
            ws = await arrivals.next()
            senders = [start(lambda: ws.send(bytes(900_000))) for _ in range(100)]
            most = 0
            while not all(sender.done for sender in senders) and ws.state is State.OPEN:
                await network.turn()
                most = max(most, ws.queued_bytes[1])
            assert most <= 4_000_000 + 900_000 + 64 * 1024 + 100
            ends = [await end_of(sender) for sender in senders]
            if policy is SlowConsumer.CLOSE:
                assert (info(ws).code, info(ws).cause) == (1013, Cause.SLOW_CONSUMER)
                assert ends.count(None) < 100
            else:
                assert most > 4_000_000
                assert ends == [None] * 100
                assert ws.stats.messages_dropped > 0
                waiting = 100 - ws.stats.messages_sent - ws.stats.messages_dropped
                assert 0 <= waiting <= 4  # fewer where the kernel has taken one more since

    network.run(main)


def test_a_peer_that_reads_slowly_is_kept(network: Driver) -> None:
    """Over sockets whose buffers are as large as the kernel chooses, which is megabytes."""

    async def main() -> None:
        arrivals = Arrivals(network)
        config = slow(SlowConsumer.BLOCK, age=network.seconds(30))
        async with network.serve(arrivals, config=config) as server, raw_client(network, server) as raw:
            ws = await arrivals.next()
            await ws.send(MORE_THAN_FITS)
            start, size = network.now(), 0
            while (elapsed := network.now() - start) < 100:
                while size < 30 * 1024 * elapsed:
                    data = await raw.wire.receive()
                    assert data
                    size += len(data)
                await network.sleep(1)
            assert ws.state is State.OPEN

    network.run(main)


def test_a_broadcast_waits_for_none_of_those_who_do_not_read(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Readers(driver)
        config = slow(SlowConsumer.DROP_OLDEST, room=64 * 1024)
        async with driver.serve(arrivals, config=config) as server, AsyncExitStack() as stack:
            quick = [await stack.enter_async_context(driver.connect(server, config=PLAIN)) for _ in range(90)]
            stuck = [await stack.enter_async_context(raw_client(driver, server)) for _ in range(10)]
            await driver.until(lambda: len(server.connections) == 100)
            for _ in range(20):
                assert driver.adapter.broadcast(server.connections, bytes(32 * 1024)) == 100
                for ws in quick:
                    assert len(await ws.recv()) == 32 * 1024
            assert all(ws.queued_bytes[1] <= 64 * 1024 + 128 * 1024 for ws in server.connections)
            for raw in stuck:
                await raw.wire.close()

    driver.run(main)


@pytest.mark.parametrize("policy", SlowConsumer)
def test_a_broadcast_to_a_thousand_waits_for_none_of_the_ten_that_do_not_read(policy: SlowConsumer) -> None:
    """Over memory; asyncio's tests have it over sockets with small buffers."""
    driver = TrioDriver()
    driver.capacity = 4 * 1024
    size, room, rounds = 2 * 1024, 16 * 1024, 15
    queue = QueueConfig(write_high_water=2 * 1024, max_unsent_bytes=room, slow_consumer=policy)
    config = ConnectionConfig(compression=None, heartbeat=None, queue=queue, close=CloseConfig(timeout=0.5))

    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=config) as server, AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(raw_client(driver, server)) for _ in range(1000)]
            connections = [await arrivals.next() for _ in clients]
            quick = [client for number, client in enumerate(clients) if number % 100]
            stuck = connections[::100]
            begun = driver.now()
            most = 0
            for round_ in range(rounds):
                message = bytes([round_]) * size
                assert driver.adapter.broadcast(connections, message) >= 990
                for client in quick:
                    assert await client.read() == Frame(Opcode.BINARY, message)
                most = max(most, *(ws.queued_bytes[1] for ws in stuck))
            assert driver.now() == begun
            assert room // 2 < most <= room + 2 * (size + 4)
            if policy is SlowConsumer.CLOSE:
                assert all(ws.state is not State.OPEN for ws in stuck)
            else:
                assert all(ws.stats.messages_dropped > 0 for ws in stuck)
            assert all(ws.state is State.OPEN for ws in connections if ws not in stuck)
            for client in clients:
                await client.wire.close()

    driver.run(main)

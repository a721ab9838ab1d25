"""Heartbeat, idle timeout, close and handshake timeouts; and that our own delay is never held against the peer."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from wsconnkit.machines.closing import State
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits, QueueConfig
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.protocol.frames import Opcode, encode_frame

from .driver import Driver
from .raw import MASK, Arrivals, info, pair, raw_client

VERDICT = 30 + 3 * 5
PLAIN_SILENT = ConnectionConfig(compression=None, heartbeat=None)


def beating(driver: Driver, **more: Any) -> ConnectionConfig:
    """Return the default heartbeat and close timeout in the scenario's seconds."""
    heartbeat = HeartbeatConfig(interval=driver.seconds(30), timeout=driver.seconds(5), max_missed=3)
    return ConnectionConfig(heartbeat=heartbeat, close=CloseConfig(timeout=driver.seconds(5)), compression=None, **more)


def test_a_client_that_stops_answering_is_closed_with_1001_after_45_seconds(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=beating(driver)) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            start = driver.now()
            *pings, close = await raw.read_all()
            driver.assert_elapsed(start, VERDICT)
            assert [ping.opcode for ping in pings] == [Opcode.PING] * 3
            assert (close.opcode, close.payload) == (Opcode.CLOSE, b"\x03\xe9connection timeout")
            await ws.wait_closed()
            assert (info(ws).code, info(ws).cause, info(ws).clean) == (1001, Cause.HEARTBEAT, False)

    driver.run(main)


def test_pongs_keep_a_silent_connection_open_on_both_sides(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver, beating(driver), beating(driver)) as (client, server):
            await driver.sleep(3 * VERDICT)
            assert client.state is server.state is State.OPEN
            assert server.is_healthy
            assert server.latency is not None or client.latency is not None

    driver.run(main)


def test_a_client_whose_bytes_trickle_in_is_alive(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=beating(driver)) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            frame = encode_frame(Opcode.TEXT, b"slowly", mask=MASK)
            for i in range(len(frame)):
                await driver.sleep(34)
                await raw.wire.send(frame[i : i + 1])
            assert await ws.recv() == "slowly"
            assert ws.state is State.OPEN

    driver.run(main)


def test_a_stall_of_ours_right_after_a_ping_is_not_held_against_the_peer(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=beating(driver)) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            for _ in range(2):
                ping = await raw.read()
                assert ping is not None
                await raw.send(Opcode.PONG, ping.payload)
                driver.stall(3 * VERDICT)  # its pong is there, and nobody has read it
                await driver.turn()
            await driver.sleep(3)
            assert ws.state is State.OPEN
            assert ws.stats.stalls >= 1

    driver.run(main)


def test_a_stall_before_the_ping_was_sent_is_not_held_against_the_peer(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=beating(driver)) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            driver.stall(3 * VERDICT)
            ping = await raw.read()
            assert ping is not None
            assert ping.opcode is Opcode.PING
            await raw.send(Opcode.PONG, ping.payload)
            await driver.sleep(3)
            assert ws.state is State.OPEN

    driver.run(main)


def test_an_application_that_does_not_read_is_not_held_against_the_peer(driver: Driver) -> None:
    async def main() -> None:
        # The pongs of the client are behind messages that nobody takes.
        config = beating(driver, queue=QueueConfig(max_messages=2), idle_timeout=driver.seconds(60))
        async with pair(driver, config, PLAIN_SILENT) as (client, server):
            for i in range(10):
                await client.send(str(i))
            await driver.sleep(3 * VERDICT)
            assert server.state is State.OPEN
            assert [await server.recv() for _ in range(10)] == [str(i) for i in range(10)]
            await server.send("still here")
            assert await client.recv() == "still here"

    driver.run(main)


def test_an_answer_that_the_application_does_not_take_is_a_sign_of_life(driver: Driver) -> None:
    async def main() -> None:
        # A consumer of one message in ten seconds, and a client that fills the queue as fast as it may.
        config = beating(driver, queue=QueueConfig(max_messages=1))
        async with pair(driver, config, PLAIN_SILENT) as (client, server), driver.tasks() as start:

            async def send() -> None:
                for i in range(12):
                    await client.send(str(i))

            start(send)
            for i in range(12):
                await driver.sleep(10)
                assert await server.recv() == str(i)
            assert client.state is server.state is State.OPEN

    driver.run(main)


@pytest.mark.parametrize("says_goodbye", [False, True])
def test_a_client_that_leaves_while_nobody_reads_is_noticed_as_soon_as_a_silent_one(
    driver: Driver, says_goodbye: bool
) -> None:
    async def main() -> None:
        # The handler neither reads nor sends: what tells that the client has left is behind messages that nobody takes.
        arrivals = Arrivals(driver)
        config = beating(driver, idle_timeout=driver.seconds(60))
        async with driver.serve(arrivals, config=config) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            await raw.wire.send(encode_frame(Opcode.TEXT, b"x", mask=MASK) * 256)
            await driver.until(lambda: ws.stats.messages_received == 256)
            start = driver.now()
            if says_goodbye:
                await raw.send(Opcode.CLOSE, b"\x03\xe8")
            await raw.wire.close()
            await ws.wait_closed()
            if driver.exact:
                assert driver.now() - start <= VERDICT
            assert (info(ws).cause, info(ws).clean) == (Cause.TRANSPORT_LOST, False)
            await driver.until(lambda: not server.connections)
            assert [await ws.recv() for _ in range(256)] == ["x"] * 256
            with pytest.raises(ConnectionClosed):
                await ws.recv()

    driver.run(main)


def test_an_application_that_takes_nothing_for_too_long_is_warned_of_and_closed_with_1013(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        queue = QueueConfig(max_messages=2, max_unread_age=driver.seconds(300))
        config = ConnectionConfig(compression=None, heartbeat=None, queue=queue, close=CloseConfig(timeout=0.5))
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=config) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            for _ in range(3):
                await raw.send(Opcode.TEXT, b"nobody takes this")
            await driver.until(lambda: ws.stats.messages_received == 2)
            start = driver.now()
            await driver.sleep(31)
            assert [record.getMessage() for record in caplog.records] == [f"unread_warning {ws.id}"]
            close = await raw.read()
            assert close is not None
            driver.assert_elapsed(start, 300)
            assert (close.opcode, close.payload) == (Opcode.CLOSE, b"\x03\xf5messages are not being read")
            await ws.wait_closed()
            assert (info(ws).code, info(ws).cause) == (1013, Cause.SLOW_APPLICATION)

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        driver.run(main)


def test_an_application_that_takes_something_now_and_then_is_not_too_slow(driver: Driver) -> None:
    async def main() -> None:
        queue = QueueConfig(max_messages=6, max_unread_age=driver.seconds(60))
        async with pair(driver, beating(driver, queue=queue), PLAIN_SILENT) as (client, server):
            for i in range(8):
                await client.send(str(i))
            for i in range(8):
                await driver.sleep(50)
                assert await server.recv() == str(i)
            assert server.state is State.OPEN

    driver.run(main)


def test_a_client_that_reads_slowly_is_not_dead_while_our_ping_waits_behind_its_data(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        config = beating(driver, queue=QueueConfig(max_unsent_age=None))
        async with driver.serve(arrivals, config=config) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            await ws.send(bytes(16 * 1024 * 1024))
            await driver.sleep(3 * VERDICT)
            assert ws.state is State.OPEN
            await raw.send(Opcode.TEXT, b"here I am")
            assert await ws.recv() == "here I am"
            frame = await raw.read()
            assert frame is not None
            assert len(frame.payload) == 16 * 1024 * 1024

    driver.run(main)


def test_without_a_heartbeat_silence_is_no_reason(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        config = ConnectionConfig(heartbeat=None)
        async with driver.serve(arrivals, config=config) as server, raw_client(driver, server):
            ws = await arrivals.next()
            await driver.sleep(3 * VERDICT if not driver.exact else 1_000_000)
            assert ws.state is State.OPEN

    driver.run(main)


def test_the_idle_timeout_counts_messages_in_both_directions(driver: Driver) -> None:
    async def main() -> None:
        config = beating(driver, idle_timeout=driver.seconds(60))
        async with pair(driver, config, beating(driver)) as (client, server):
            for _ in range(3):
                await driver.sleep(40)
                await client.send("up")
                await server.recv()
                await driver.sleep(40)
                await server.send("down")
                await client.recv()
            start = driver.now()
            assert [message async for message in client] == []
            driver.assert_elapsed(start, 60)
            await server.wait_closed()
            assert (info(server).code, info(server).cause) == (1001, Cause.IDLE)
            assert info(server).reason == "idle timeout"

    driver.run(main)


def test_a_message_that_we_read_too_late_still_counts_against_idleness(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        config = beating(driver, idle_timeout=driver.seconds(60))
        async with driver.serve(arrivals, config=config) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            await driver.sleep(30)
            await raw.send(Opcode.TEXT, b"arrives in time, read too late")
            driver.stall(100)
            assert await ws.recv() == "arrives in time, read too late"
            await driver.sleep(5)
            assert ws.state is State.OPEN

    driver.run(main)


def test_a_peer_that_ignores_our_close_is_dropped_at_the_close_timeout(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=beating(driver)) as server, raw_client(driver, server):
            ws = await arrivals.next()
            start = driver.now()
            await ws.close(4000, "do you hear me?")
            driver.assert_elapsed(start, 5)
            assert (info(ws).cause, info(ws).clean, info(ws).phase) == (Cause.LOCAL_CLOSE, False, State.CLOSE_SENT)

    driver.run(main)


def test_a_peer_that_reads_nothing_is_dropped_at_the_close_timeout_too(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=beating(driver)) as server, raw_client(driver, server):
            ws = await arrivals.next()
            await ws.send(bytes(16 * 1024 * 1024))
            start = driver.now()
            await ws.close()
            assert driver.now() - start >= 4.9
            if driver.exact:
                assert driver.now() - start <= 5.5
            assert not info(ws).clean

    driver.run(main)


def test_a_client_that_does_not_end_its_transport_is_dropped_at_the_close_timeout(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=beating(driver)) as server, raw_client(driver, server) as raw:
            ws = await arrivals.next()
            start = driver.now()
            await raw.send(Opcode.CLOSE, b"\x03\xe8")
            await ws.wait_closed()
            driver.assert_elapsed(start, 5)
            assert (info(ws).cause, info(ws).clean) == (Cause.PEER_CLOSE, True)

    driver.run(main)


def test_a_server_that_closes_waits_no_longer_than_the_close_timeout(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=beating(driver)) as server:
            async with raw_client(driver, server), raw_client(driver, server):
                half_open = await driver.dial(server)
                for _ in range(2):
                    await arrivals.next()
                start = driver.now()
                await server.close(1012, "restart")
                driver.assert_elapsed(start, 5)
                assert not server.connections
                await half_open.close()

    driver.run(main)


def test_handlers_that_do_not_return_are_cancelled_after_the_close_timeout(driver: Driver) -> None:
    async def main() -> None:
        cleaned_up: list[float] = []

        async def handler(ws: Any) -> None:
            try:
                await driver.sleep(1_000_000)
            finally:
                cleaned_up.append(driver.now())

        async with driver.serve(handler, config=beating(driver)) as server:
            async with driver.connect(server):
                await driver.until(lambda: len(server.connections))
                start = driver.now()
                await server.close()
                driver.assert_elapsed(start, 5)
        assert len(cleaned_up) == 1

    driver.run(main)


@pytest.mark.parametrize(("sent", "answer"), [(b"", b""), (b"GET / HT", b"HTTP/1.1 408 ")])
def test_a_client_that_never_completes_its_request_is_refused(driver: Driver, sent: bytes, answer: bytes) -> None:
    async def main() -> None:
        config = ConnectionConfig(handshake=HandshakeLimits(timeout=driver.seconds(30)))
        async with driver.serve(Arrivals(driver), config=config) as server:
            wire = await driver.dial(server)
            start = driver.now()
            await wire.send(sent) if sent else None
            data = await wire.receive()
            driver.assert_elapsed(start, 30)
            assert data[: len(answer)] == answer
            assert bool(data) is bool(answer)
            await wire.close()

    driver.run(main)

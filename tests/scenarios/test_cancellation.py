"""Cancelled calls leave the connection whole; cancelled blocks leave nothing behind, and end soon."""

from __future__ import annotations

import os
from typing import Any

import pytest

from wsconnkit.machines.closing import State
from wsconnkit.machines.framesize import MIB, FrameLimits
from wsconnkit.managed.answering import Request
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.protocol.frames import Opcode
from wsconnkit.service.router import RequestRouter

from .driver import CANCELLED, Driver
from .raw import PLAIN, Arrivals, Readers, echo, info, pair, raw_client

WIDE = ConnectionConfig(limits=FrameLimits(max_frame_size=16 * MIB, max_message_size=16 * MIB), compression=None)
TAKEOVER = ConnectionConfig(
    compression=CompressionConfig(threshold=0, server_context_takeover=True, client_context_takeover=True),
    limits=WIDE.limits,
)


def test_a_send_of_8_mib_cancelled_half_way_and_another_send_are_whole_frames(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=PLAIN) as server:
            async with raw_client(driver, server) as raw, driver.tasks() as start:
                ws = await arrivals.next()
                big = os.urandom(8 * MIB)
                first = start(lambda: ws.send(big))
                await driver.sleep(1)  # the peer reads nothing: a part has gone out, the rest waits
                assert 0 < ws.queued_bytes[1] <= 8 * MIB + 10
                first.cancel()
                waiting = start(lambda: ws.send("never sent"))
                await driver.sleep(1)
                assert not waiting.done
                waiting.cancel()
                assert await waiting.join() is CANCELLED
                last = start(lambda: ws.send("after it"))
                frames = [await raw.read()]
                if frames[0] == (Opcode.BINARY, big, True, False):
                    frames.append(await raw.read())
                assert frames[-1] == (Opcode.TEXT, b"after it", True, False)
                await last.join()

    driver.run(main)


@pytest.mark.parametrize("config", [WIDE, TAKEOVER], ids=["plain", "takeover"])
def test_cancelled_sends_leave_the_stream_and_its_deflate_context_whole(
    driver: Driver, config: ConnectionConfig
) -> None:
    async def main() -> None:
        async with pair(driver, config, config) as (client, server), driver.tasks() as start:
            sent, received = [], []

            async def receive() -> None:
                while (message := await client.recv()) != "last":
                    received.append(message)

            receiving = start(receive)
            for i in range(40):
                message = f"{i} " * 20_000 + os.urandom(100_000).hex()
                sent.append(message)
                sending = start(lambda message=message: server.send(message))  # type: ignore[misc]
                for _ in range(i % 4):
                    await driver.turn()
                sending.cancel()
                await sending.join()
            await server.send("last")
            await receiving.join()
            rest = iter(sent)
            assert all(message in rest for message in received)  # in their order, each whole, each at most once

    driver.run(main)


def test_a_cancelled_recv_loses_no_message(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver) as (client, server), driver.tasks() as start:
            for i in range(60):
                receiving = start(client.recv)
                await driver.turn()
                await server.send(str(i))
                for _ in range(i % 6):
                    await driver.turn()
                receiving.cancel()
                received = await receiving.join()
                assert (await client.recv() if received is CANCELLED else received) == str(i)

    driver.run(main)


def test_a_cancelled_close_still_closes(driver: Driver) -> None:
    async def main() -> None:
        async with pair(driver) as (client, server), driver.tasks() as start:
            closing = start(lambda: client.close(4000, "bye"))
            await driver.until(lambda: client.state is not State.OPEN)
            closing.cancel()
            await closing.join()
            await client.wait_closed()
            await server.wait_closed()
            assert (info(server).code, info(server).clean) == (4000, True)

    driver.run(main)


def test_a_cancelled_close_of_a_peer_that_does_not_answer_ends_at_the_timeout(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        config = ConnectionConfig(close=CloseConfig(timeout=driver.seconds(5)))
        async with driver.serve(arrivals, config=config) as server:
            async with raw_client(driver, server), driver.tasks() as start:
                ws = await arrivals.next()
                begun = driver.now()
                closing = start(ws.close)
                await driver.sleep(1)
                closing.cancel()
                assert await closing.join() is CANCELLED
                await ws.wait_closed()
                driver.assert_elapsed(begun, 5)

    driver.run(main)


def test_a_cancelled_ping_or_wait_leaves_the_connection_open(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals) as server, raw_client(driver, server) as raw, driver.tasks() as start:
            ws = await arrivals.next()

            async def drain() -> None:
                await ws.draining

            for wait in (lambda: ws.ping(b"same"), ws.wait_closed, ws.recv, drain):
                waiting = start(wait)
                await driver.sleep(1)
                waiting.cancel()
                assert await waiting.join() is CANCELLED
            await raw.read()
            again = start(lambda: ws.ping(b"same"))
            ping = await raw.read()
            assert ping is not None
            await raw.send(Opcode.PONG, ping.payload)
            assert await again.join() >= 0

    driver.run(main)


@pytest.mark.parametrize("doing", ["receive", "send", "ping", "close", "request"])
def test_a_block_around_a_client_that_is_cancelled_ends_soon_and_leaves_nothing(driver: Driver, doing: str) -> None:
    async def main() -> None:
        arrivals = Readers(driver)
        async with driver.serve(arrivals, config=PLAIN) as server, driver.tasks() as start:
            clients: list[Any] = []

            async def client() -> None:
                async with driver.connect(server, config=PLAIN) as ws:
                    clients.append(ws)
                    if doing == "receive":
                        await ws.recv()
                    elif doing == "ping":
                        await driver.sleep(1_000_000)
                    elif doing == "close":
                        await ws.close()
                    elif doing == "request":
                        await ws.request({"action": "none"}, None)
                    while True:
                        await ws.send(bytes(100_000))

            for turns in range(8):
                task = start(client)
                ws = await arrivals.next()
                await driver.until(lambda: len(clients) == turns + 1)  # noqa: B023
                for _ in range(turns):
                    await driver.turn()
                begun = driver.now()
                task.cancel()
                try:
                    assert await task.join() is CANCELLED
                except ConnectionClosed:
                    assert doing == "close"
                if driver.exact:
                    assert driver.now() - begun <= 5.5
                await ws.wait_closed()
            assert not server.connections

    driver.run(main)


def test_a_block_around_a_server_that_is_cancelled_ends_soon_and_leaves_nothing(driver: Driver) -> None:
    async def main() -> None:
        servers: list[Any] = []

        async def serving() -> None:
            async with driver.serve(echo, config=PLAIN) as server:
                servers.append(server)
                await server.serve_forever()

        async with driver.tasks() as start:
            task = start(serving)
            await driver.until(lambda: servers)
            async with driver.connect(servers[0]) as one, driver.connect(servers[0]) as two:
                half_open = await driver.dial(servers[0])
                await one.send("x")
                assert await one.recv() == "x"
                begun = driver.now()
                task.cancel()
                await task.join()
                if driver.exact:
                    assert driver.now() - begun <= 5.5
                for ws in (one, two):
                    await ws.wait_closed()
                    assert info(ws).code == 1001
                await half_open.close()

    driver.run(main)


def test_connecting_that_is_cancelled_leaves_nothing(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals) as server, driver.tasks() as start:

            async def client() -> None:
                async with driver.connect(server) as ws:
                    await ws.wait_closed()

            for turns in range(12):
                task = start(client)
                for _ in range(turns):
                    await driver.turn()
                task.cancel()
                assert await task.join() is CANCELLED
            await driver.sleep(1)
            assert not server.connections

    driver.run(main)


def test_a_cancelled_request_tells_the_other_side_and_the_next_one_is_answered(driver: Driver) -> None:
    async def main() -> None:
        router = RequestRouter()
        cancelled: list[str] = []

        @router.action("slow")
        async def slow(request: Request) -> None:
            try:
                await driver.sleep(1_000_000)
            finally:
                cancelled.append(request.id)

        @router.action("fast")
        async def fast(request: Request) -> int:
            return 42

        async with driver.serve(router) as server, driver.connect(server) as ws, driver.tasks() as start:
            asking = start(lambda: ws.request({"action": "slow"}))
            await driver.sleep(1)
            asking.cancel()
            assert await asking.join() is CANCELLED
            await driver.until(lambda: cancelled)
            assert await ws.request({"action": "fast"}) == 42

    driver.run(main)


def test_a_handler_that_is_cancelled_with_its_server_may_still_clean_up(driver: Driver) -> None:
    async def main() -> None:
        cleaned_up: list[bool] = []

        async def handler(ws: Any) -> None:
            try:
                async for _ in ws:
                    pass
                await driver.sleep(1_000_000)
            finally:
                cleaned_up.append(True)

        config = ConnectionConfig(close=CloseConfig(timeout=driver.seconds(5)))
        async with driver.serve(handler, config=config) as server:
            async with driver.connect(server):
                await driver.until(lambda: server.connections)
        assert cleaned_up == [True]

    driver.run(main)

"""Managed servers and clients on the in-memory runtime: without an event loop, in virtual time, alike for one seed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from wsconnkit import (
    BackoffConfig,
    Cause,
    Connection,
    ConnectionClosed,
    ConnectionConfig,
    DrainConfig,
    Request,
    RequestRouter,
    RequestTimeout,
)
from wsconnkit.testing.network import Network
from wsconnkit.testing.runtime import Runtime, Stalled, run

PLAIN = ConnectionConfig(compression=None)
URI = "ws://example.org/"
Main = Callable[[Runtime], Awaitable[Any]]

seeds = pytest.mark.parametrize("seed", range(5))


def twice(main: Main, seed: int) -> Any:
    """Run `main` twice with one seed, and return what both have returned."""
    first, second = run(main, seed=seed), run(main, seed=seed)
    assert first == second
    return first


async def echo(ws: Connection) -> None:
    async for message in ws:
        await ws.send(message)


@seeds
def test_messages_take_the_time_of_the_link(seed: int) -> None:
    async def main(runtime: Runtime) -> tuple[float, list[Any]]:
        network = Network(runtime, latency=0.25)
        async with network.serve(echo, "example.org", 80, config=PLAIN):
            async with network.connect(URI, config=PLAIN) as ws:
                start = runtime.now()
                await ws.send("one")
                await ws.send(b"two")
                return runtime.now() - start, [await ws.recv(), await ws.recv(), runtime.now() - start]

    assert twice(main, seed) == (0.0, ["one", b"two", 0.5])


@seeds
def test_a_peer_that_is_silent_is_closed_after_45_seconds(seed: int) -> None:
    async def main(runtime: Runtime) -> tuple[Cause, float]:
        network = Network(runtime)
        ends: list[tuple[Cause, float]] = []

        async def handler(ws: Connection) -> None:
            started = runtime.now()
            await ws.wait_closed()
            assert ws.close_info is not None
            ends.append((ws.close_info.cause, runtime.now() - started))

        async with network.serve(handler, "example.org", 80, config=PLAIN) as server:
            async with network.connect(URI, config=PLAIN) as ws:
                network.links[0].stop()
                while server.connections:
                    await runtime.sleep(1)
                ws.abort()
        return ends[0]

    cause, seconds = twice(main, seed)
    assert cause is Cause.HEARTBEAT
    assert 45 <= seconds < 51  # the close timeout comes on top


@seeds
def test_a_drain_closes_one_after_the_other_and_waits_for_work(seed: int) -> None:
    async def main(runtime: Runtime) -> tuple[str, list[float]]:
        network = Network(runtime)
        closed: list[float] = []

        async def handler(ws: Connection) -> None:
            await ws.draining
            if ws.id == first[0]:
                with ws.busy():
                    await runtime.sleep(6)
            await ws.wait_closed()

        async def client() -> None:
            async with network.connect(URI, config=PLAIN) as ws:
                with pytest.raises(ConnectionClosed, match="1012"):
                    await ws.recv()
                closed.append(runtime.now())

        drain = DrainConfig(window=4, grace=10)
        async with network.serve(handler, "example.org", 80, config=PLAIN, drain=drain) as server:
            for _ in range(4):
                runtime.start(client)
            while len(server.connections) < 4:
                await runtime.sleep(0)
            first = [ws.id for ws in server.connections]
            report = await server.drain()
        return str(report), closed

    report, closed = twice(main, seed)
    assert report == "drained 4 connections in 6.0 s: 4 closed"
    assert closed == [1.0, 2.0, 3.0, 6.0]


@seeds
def test_a_client_comes_back_and_its_messages_go_out_on_the_next_connection(seed: int) -> None:
    async def main(runtime: Runtime) -> list[Any]:
        network = Network(runtime)
        received: list[Any] = []

        async def handler(ws: Connection) -> None:
            received.append(await ws.recv())
            if len(received) < 3:
                ws.abort()
            else:
                await ws.send("enough")
                await ws.wait_closed()

        backoff = BackoffConfig()
        async with network.serve(handler, "example.org", 80, config=PLAIN):
            async with network.reconnecting_client(URI, config=PLAIN, backoff=backoff) as client:
                for number in range(3):
                    ws = await client.connection()
                    await client.send(f"message {number}")
                    if number < 2:
                        await ws.wait_closed()
                assert await client.recv() == "enough"
        return received

    assert twice(main, seed) == ["message 0", "message 1", "message 2"]


@seeds
def test_requests_are_answered_or_time_out(seed: int) -> None:
    async def main(runtime: Runtime) -> tuple[Any, float]:
        router = RequestRouter(timeout=None)
        cancelled: list[str] = []

        @router.action("double")
        async def double(request: Request) -> object:
            return request.payload["value"] * 2

        @router.action("hang")
        async def hang(request: Request) -> object:
            try:
                await runtime.sleep(1000)
                return "late"
            finally:
                cancelled.append(request.id)

        network = Network(runtime, latency=0.1)
        async with network.serve(router, "example.org", 80, config=PLAIN):
            async with network.connect(URI, config=PLAIN) as ws:
                runtime.start(reads, ws)
                answer = await ws.request({"action": "double", "value": 21})
                start = runtime.now()
                with pytest.raises(RequestTimeout):
                    await ws.request({"action": "hang"}, timeout=5)
                waited = runtime.now() - start
                await runtime.sleep(0.2)
                assert len(cancelled) == 1
        return answer, waited

    async def reads(ws: Connection) -> None:
        async for _ in ws:
            pass

    assert twice(main, seed) == (42, pytest.approx(5.0))


def test_a_run_in_which_all_wait_for_ever_says_so() -> None:
    async def main(runtime: Runtime) -> None:
        await runtime.event().wait()

    with pytest.raises(Stalled, match="main"):
        run(main)


def test_nobody_listens_at_another_address() -> None:
    async def main(runtime: Runtime) -> None:
        network = Network(runtime)
        with pytest.raises(ConnectionRefusedError, match=r"nobody listens at elsewhere.example:80"):
            async with network.connect("ws://elsewhere.example/"):
                pass

    run(main)

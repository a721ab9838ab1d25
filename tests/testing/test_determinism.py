"""Names, masks, pings, waits, the clock and the order of tasks: in memory, a seed decides them all."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from typing import NamedTuple

import pytest

from wsconnkit import (
    Connection,
    ConnectionClosed,
    ConnectionConfig,
    DrainConfig,
    HeartbeatConfig,
    Principal,
    Request,
    RequestRouter,
    Retrying,
    UpgradeRequest,
)
from wsconnkit.managed.answering import answer_requests
from wsconnkit.testing.network import Network, ReconnectingClient
from wsconnkit.testing.pipe import Pipe
from wsconnkit.testing.runtime import Runtime, run

CONFIG = ConnectionConfig(heartbeat=HeartbeatConfig(interval=5, timeout=1))
URI = "ws://example.org/"


class Record(NamedTuple):
    """What has happened in one run."""

    written: list[tuple[float, int, bytes]]
    """When, on which pipe in the order of first use, and what."""
    ids: list[str]
    ends: list[str]
    waits: list[float]
    walls: list[float]
    latencies: list[float]
    report: str


def scenario(seed: int) -> Record:
    """Let clients ask, ping, lose their connection, come back and be drained; record all of it."""
    pipes: dict[Pipe, int] = {}
    record = Record([], [], [], [], [], [], "")
    write = Pipe.write

    def recorded(pipe: Pipe, data: bytes, now: float) -> int:
        taken = write(pipe, data, now)
        record.written.append((now, pipes.setdefault(pipe, len(pipes)), data[:taken]))
        return taken

    async def main(runtime: Runtime) -> str:
        router = RequestRouter()

        @router.action("when")
        async def when(request: Request) -> object:
            await runtime.sleep(runtime.random())
            return runtime.wall_now()

        async def answer(ws: Connection) -> None:
            record.ids.append(ws.id)
            ws.call_when_closed(lambda: record.ends.append(f"{runtime.now()} {ws.close_info}"))
            await answer_requests(router, ws)

        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
            return Principal(subject="ada", expires_at=runtime.wall_now() + 30)

        def on_event(event: object) -> None:
            if isinstance(event, Retrying):
                record.waits.append(event.delay)

        async def on_open(ws: Connection) -> None:
            record.ids.append(ws.id)
            record.latencies.append(await ws.ping())
            await ws.reauthenticate("fresh")

        async def new_token() -> str:
            return "token"  # asked for again when it has expired

        async def ask(number: int) -> None:
            async with network.reconnecting_client(
                URI, config=CONFIG, token=new_token, on_open=on_open, on_event=on_event
            ) as client:
                await client.send(f"from {number}" * 100)
                runtime.start(read, client)
                while True:
                    ws = await client.connection()
                    with suppress(ConnectionClosed):
                        record.walls.append(await ws.request({"action": "when"}))
                    await runtime.sleep(10 * runtime.random())

        async def read(client: ReconnectingClient) -> None:
            with suppress(ConnectionClosed):  # in the end
                async for _ in client:
                    pass  # of answers, requests take care

        network = Network(runtime, latency=0.05, capacity=500)
        drain = DrainConfig(window=2, grace=5)
        async with network.serve(
            answer, "example.org", 80, config=CONFIG, authenticate=authenticate, reauthenticate=True, drain=drain
        ) as server:
            clients = [runtime.start(ask, number, on_end=lambda outcome: None) for number in range(3)]
            await runtime.sleep(20)
            network.links[0].stop()
            await runtime.sleep(30)
            report = await server.drain()
            for client in clients:
                client.cancel()
            await runtime.sleep(10)
            return str(report)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipe, "write", recorded)
        return record._replace(report=run(main, seed=seed))


def test_a_seed_decides_each_byte_each_name_each_end_and_each_time() -> None:
    record = scenario(1)
    assert record == scenario(1)
    assert all(record), record  # there was something of each to compare
    assert len({pipe for _, pipe, _ in record.written}) > 6  # somebody came back


def test_another_seed_decides_otherwise() -> None:
    one, other = scenario(1), scenario(2)
    assert not set(one.ids) & set(other.ids)
    assert not set(one.waits) & set(other.waits)
    assert not set(one.walls) & set(other.walls)
    assert one.written != other.written
    assert one.ends != other.ends


def test_nothing_depends_on_the_process() -> None:
    def digest(hash_seed: str) -> str:
        code = (
            f"import hashlib; from {__name__} import *; print(hashlib.sha256(repr(scenario(1)).encode()).hexdigest())"
        )
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout

    assert digest("1") == digest("2") != ""


def test_the_clock_on_the_wall_moves_with_the_virtual_one() -> None:
    async def main(runtime: Runtime) -> list[float]:
        before = runtime.wall_now()
        await runtime.sleep(1000)
        return [before, runtime.wall_now()]

    assert run(main) == [1_000_000_000, 1_000_001_000]

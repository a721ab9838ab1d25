"""Draining many connections, and those whose peers do not play along: spread, bounded, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
from collections.abc import Iterator
from math import ceil
from typing import Any

import pytest

from wsconnkit.asyncio import Connection, Server, serve
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.uri import parse_uri
from wsconnkit.service.drain import DrainReport, Outcome
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .drains import FIRST_ROUND, arrived, end_of, outcomes, stay
from .peers import Run, opened, port, uri

PLAIN = ConnectionConfig(compression=None)
MANY = 1000


async def raw_client(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a client that has opened a WebSocket and then does only what it is told."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
    writer.write(ClientHandshake(parse_uri(uri(server)), PLAIN, now=0.0).data_to_send())
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


def timers(loop: Any) -> list[Any]:
    """Return what is still scheduled on `loop`."""
    handles = [thing for thing in gc.get_objects() if type(thing).__name__ == "TimerHandle"]  # uvloop has its own
    return [handle for handle in handles if handle in getattr(loop, "_scheduled", handles) and not handle.cancelled()]


def connections() -> list[Connection]:
    return [thing for thing in gc.get_objects() if isinstance(thing, Connection)]


@contextlib.contextmanager
def nothing_left(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Check that a block leaves no task, no open file, no timer and no connection."""
    gc.collect()
    before = asyncio.all_tasks(), open_files(), timers(loop), connections()
    yield
    gc.collect()
    assert (asyncio.all_tasks(), open_files(), timers(loop), connections()) == before


async def turns() -> None:
    """Let both ends close their sockets."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def many_files() -> Any:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * MANY + 500
    if hard not in (-1, resource.RLIM_INFINITY) and hard < needed:
        pytest.skip(f"needs {needed} open files, {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def drain_many(loop: asyncio.AbstractEventLoop, window: float) -> tuple[DrainReport, list[float]]:
    """Drain `MANY` connections, and return the report and the seconds after which clients heard of it."""
    ends: list[float] = []

    async def follow(ws: Connection) -> None:
        with pytest.raises(ConnectionClosed) as caught:
            await ws.recv()
        assert (caught.value.info.code, caught.value.info.reason) == (1012, "server shutdown")
        ends.append(loop.time())
        await ws.wait_closed()

    async with serve(stay, "127.0.0.1", 0, backlog=200) as server:
        clients: list[Connection] = []
        for _ in range(MANY // 100):
            clients += await asyncio.gather(*(opened(server) for _ in range(100)))
        ids = [ws.id for ws in await arrived(server, MANY)]
        following = [asyncio.ensure_future(follow(ws)) for ws in clients]
        start = loop.time()
        report = await server.drain(window=window, grace=20)
        await asyncio.gather(*following)
        assert not server.connections
        assert [drained.id for drained in report.connections] == ids
    await turns()
    return report, [end - start for end in ends]


def test_a_thousand_connections_end_one_after_the_other_and_leave_nothing_behind(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, many_files: None
) -> None:
    async def main() -> None:
        with nothing_left(virtual_loop):
            report, ends = await drain_many(virtual_loop, window=10.0)
            assert report.counts == {**dict.fromkeys(Outcome, 0), Outcome.CLOSED: MANY}
            assert str(report) == "drained 1000 connections in 10.0 s: 1000 closed"
            assert report.duration == pytest.approx(10 * (MANY - 1) / MANY, abs=FIRST_ROUND)
            assert [drained.info.code for drained in report.connections if drained.info] == [1012] * MANY
            for dt in (0.001, 0.01, 0.1, 1.0, 3.3):
                most = max(sum(begin <= end < begin + dt for end in ends) for begin in ends)
                assert most <= ceil(MANY * dt / 10) + 1
            del report

    run_virtual(main())


def test_a_thousand_connections_leave_nothing_behind_on_real_loops(
    run: Run, loop: asyncio.AbstractEventLoop, many_files: None
) -> None:
    async def main() -> None:
        async with serve(stay, "127.0.0.1", 0):
            pass  # uvloop opens files of its own when it is first used
        with nothing_left(loop):
            report, ends = await drain_many(loop, window=0.5)
            assert report.counts[Outcome.CLOSED] == MANY
            assert max(ends) >= 0.4
            del report

    run(main())


@pytest.mark.parametrize(("grace", "ends", "outcome"), [(15.0, 10.0, Outcome.UNANSWERED), (2.0, 7.0, Outcome.ABORTED)])
def test_peers_that_never_answer_the_close_are_told_apart(
    run_virtual: Run, grace: float, ends: float, outcome: Outcome
) -> None:
    async def main() -> None:
        async with serve(stay, "127.0.0.1", 0, config=PLAIN) as server:
            await opened(server)
            await arrived(server, 1)
            reader, writer = await raw_client(server)
            _, ws = await arrived(server, 2)
            report = await server.drain(window=5 if outcome is Outcome.ABORTED else 10, grace=grace)
            assert outcomes(report) == [Outcome.CLOSED, outcome]
            assert report.duration == pytest.approx(ends, abs=FIRST_ROUND)  # the turn was at half of the window
            assert report.connections[1] == (ws.id, None, outcome, ws.close_info)
            assert end_of(ws) == (1012, "server shutdown", Cause.DRAIN, False)
            assert await reader.read() == encode_frame(Opcode.CLOSE, b"\x03\xf4server shutdown")
            writer.close()

    run_virtual(main())


def test_peers_that_do_not_read_do_not_hold_the_drain_up(run: Run) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            while True:
                await ws.send(os.urandom(1_000_000))

        config = ConnectionConfig(compression=None, close=CloseConfig(timeout=0.2))
        async with serve(handler, "127.0.0.1", 0, config=config) as server:
            writers = []
            for _ in range(5):
                _, writer = await raw_client(server)
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                writers.append(writer)
            for ws in await arrived(server, 5):
                while ws._pump.is_ready_to_send:
                    await asyncio.sleep(0.001)
            report = await server.drain(window=0.1, grace=5)
            assert report.counts[Outcome.UNANSWERED] == 5
            assert report.duration < 2
            for writer in writers:
                writer.transport.abort()

    run(main())

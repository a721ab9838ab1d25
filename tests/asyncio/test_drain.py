"""Draining a server over real sockets: who is told what and when, and what is left of it. Nothing is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from wsconnkit.asyncio import Connection, Server, connect, serve
from wsconnkit.managed.answering import Request
from wsconnkit.protocol.closeinfo import Cause, CloseInfo
from wsconnkit.protocol.errors import ConnectionClosedOK, InvalidHandshake, LocalProtocolError
from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.service.admission import Refused
from wsconnkit.service.drain import Outcome
from wsconnkit.service.envelope import RequestError
from wsconnkit.service.principal import Principal
from wsconnkit.service.router import RequestRouter
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .drains import FIRST_ROUND, arrived, end_of, outcomes, stay
from .peers import Run, exchange, head, refused, uri


async def opened(server: Server) -> Connection:
    """Return a client whose connection is the server's latest."""
    count = len(server.connections)
    ws = await connect(uri(server))
    await arrived(server, count + 1)
    return ws


async def turns() -> None:
    """Let both ends close their sockets."""
    for _ in range(10):
        await asyncio.sleep(0)


async def page(server: Server, path: str) -> int:
    """Return the status of a page at the last of the server's sockets."""
    return (await exchange(server, head(path=path, headers=[("Host", "x")]), at=-1)).status


@pytest.mark.parametrize("apart", [False, True])
def test_while_it_drains_a_server_lets_nobody_in_and_says_so(run: Run, apart: bool) -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def handler(ws: Connection) -> None:
            with ws.busy():
                await release.wait()

        endpoints = ("127.0.0.1", 0) if apart else True
        async with serve(handler, "127.0.0.1", 0, endpoints=endpoints) as server:
            address = uri(server)
            await opened(server)
            assert (await page(server, "/readyz"), await page(server, "/healthz")) == (200, 200)
            draining = asyncio.ensure_future(server.drain(window=0))
            await asyncio.sleep(0)
            assert server.is_draining
            assert (await page(server, "/readyz"), await page(server, "/healthz")) == (503, 200)
            got = await refused(server)
            assert (got.status, got.error) == (503, "the server is shutting down")
            assert got.retry_after >= 1
            assert server.stats.refused == {Refused.DRAINING: 1}
            release.set()
            assert outcomes(await draining) == [Outcome.CLOSED]
            with pytest.raises(OSError, match=r"refused|Connect call failed"):
                await connect(address)

    run(main())


def test_who_is_being_authenticated_when_the_drain_begins_is_refused(run: Run) -> None:
    async def main() -> None:
        asked, release = asyncio.Event(), asyncio.Event()

        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
            if token == "later":
                asked.set()
                await release.wait()
            return Principal(subject="alice")

        async def handler(ws: Connection) -> None:
            with ws.busy():
                assert (await late).status == 503

        async with serve(handler, "127.0.0.1", 0, authenticate=authenticate) as server:
            late = asyncio.ensure_future(refused(server, token="later"))
            await connect(uri(server), token="now")
            await asked.wait()
            draining = asyncio.ensure_future(server.drain(window=0))
            await asyncio.sleep(0)
            release.set()
            report = await draining
            assert [(drained.user, drained.outcome) for drained in report.connections] == [("alice", Outcome.CLOSED)]

    run(main())


def test_who_is_still_being_authenticated_when_the_drain_ends_is_not_let_in(run: Run) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
            asked.set()
            await asyncio.sleep(60)
            return Principal(subject="alice")

        async with serve(stay, "127.0.0.1", 0, authenticate=authenticate) as server:
            late = asyncio.ensure_future(opened(server))
            await asked.wait()
            assert outcomes(await server.drain()) == []
            with pytest.raises(InvalidHandshake):
                await late

    run(main())


def test_handlers_are_told_at_once_and_may_say_goodbye(run: Run) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            assert not ws.draining
            await ws.draining
            assert ws.draining
            await ws.draining  # it stays so
            await ws.send("goodbye")
            await ws.wait_closed()

        async with serve(handler, "127.0.0.1", 0) as server:
            clients = [await opened(server) for _ in range(3)]
            report = await server.drain(window=0, code=4000, reason="moving")
            assert outcomes(report) == [Outcome.CLOSED] * 3
            for ws in clients:
                assert await ws.recv() == "goodbye"
                assert end_of(ws) == (4000, "moving", Cause.PEER_CLOSE, True)

    run(main())


def test_a_handler_that_returns_when_it_is_told_closes_with_the_drain_before_its_turn(run_virtual: Run) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            receiving = asyncio.ensure_future(ws.recv())
            told = asyncio.ensure_future(_told(ws))
            await asyncio.wait({receiving, told}, return_when=asyncio.FIRST_COMPLETED)
            receiving.cancel()
            await told

        async with serve(handler, "127.0.0.1", 0) as server:
            clients = [await opened(server) for _ in range(3)]
            report = await server.drain(window=30)
            assert report.duration < FIRST_ROUND
            assert outcomes(report) == [Outcome.CLOSED] * 3
            assert [end_of(ws) for ws in clients] == [(1012, "server shutdown", Cause.PEER_CLOSE, True)] * 3
            assert [drained.info.cause for drained in report.connections if drained.info] == [Cause.DRAIN] * 3

    async def _told(ws: Connection) -> None:
        await ws.draining

    run_virtual(main())


def test_waiting_for_the_drain_ends_with_the_connection(run: Run) -> None:
    async def main() -> None:
        results: asyncio.Queue[CloseInfo] = asyncio.Queue()

        async def handler(ws: Connection) -> None:
            for _ in range(2):  # before the end, and after it
                with pytest.raises(ConnectionClosedOK) as caught:
                    await ws.draining
                results.put_nowait(caught.value.info)
            assert not ws.draining

        async with serve(handler, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            assert not ws.draining
            await arrived(server, 1)
            await ws.close(1000, "bye")
            assert [(await results.get()).reason for _ in range(2)] == ["bye", "bye"]
            with pytest.raises(ConnectionClosedOK):
                await ws.draining

    run(main())


@pytest.mark.parametrize("since", ["before", "after"])
@pytest.mark.parametrize(
    ("work", "ends", "outcome"), [(1.0, 5.0, Outcome.CLOSED), (8.0, 8.0, Outcome.CLOSED), (99.0, 20.0, Outcome.ABORTED)]
)
def test_a_busy_connection_stays_open_until_its_work_is_done_or_the_deadline(
    run_virtual: Run, since: str, work: float, ends: float, outcome: Outcome
) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            if since == "after":
                await ws.draining
            with ws.busy():
                await ws.draining
                with ws.busy():
                    pass
                await asyncio.sleep(work if ws is busy[0] else 0)
            await ws.wait_closed()

        busy: list[Connection] = []
        async with serve(handler, "127.0.0.1", 0) as server:
            await opened(server)  # the turns are at 0 and at 5 seconds
            await opened(server)
            busy += list(server.connections)[1:]
            report = await server.drain(window=10, grace=10)
            assert outcomes(report) == [Outcome.CLOSED, outcome]
            assert report.duration == pytest.approx(ends, abs=FIRST_ROUND)

    run_virtual(main())


def test_requests_in_flight_are_answered_and_new_ones_only_before_the_turn(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    router = RequestRouter()

    @router.default
    async def sleep(request: Request) -> Any:
        await asyncio.sleep(request.payload)
        return request.payload

    async def main() -> None:
        async with serve(router, "127.0.0.1", 0) as server:
            first, second = [await opened(server) for _ in range(2)]  # their turns are at 0 and at 5 seconds
            slow = [asyncio.ensure_future(ws.request(8.0)) for ws in (first, second)]
            await first.ping()
            await second.ping()
            start = virtual_loop.time()
            draining = asyncio.ensure_future(server.drain(window=10, grace=10))
            await asyncio.sleep(2)
            with pytest.raises(RequestError) as caught:
                await first.request(0.0)
            assert caught.value.code == "draining"
            assert await second.request(1.0) == 1.0
            await asyncio.sleep(3)
            with pytest.raises(RequestError, match="draining"):
                await second.request(0.0)
            assert await asyncio.gather(*slow) == [8.0, 8.0]
            report = await draining
            assert outcomes(report) == [Outcome.CLOSED] * 2
            assert virtual_loop.time() - start == pytest.approx(8.0, abs=FIRST_ROUND)
            assert {end_of(ws)[:2] for ws in (first, second)} == {(1012, "server shutdown")}

    run_virtual(main())


def test_handlers_that_do_not_return_are_cancelled_and_then_given_up(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        cancelled, release = [], asyncio.Event()

        async def handler(ws: Connection) -> None:
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                cancelled.append(ws)
                await release.wait()  # one that will not end

        async with serve(handler, "127.0.0.1", 0) as server:
            await opened(server)
            start = virtual_loop.time()
            report = await server.drain(window=0, grace=15)
            assert len(cancelled) == 1
            assert outcomes(report) == [Outcome.CLOSED]
            assert report.duration < FIRST_ROUND  # of the connections, not of their handlers
            assert virtual_loop.time() - start == pytest.approx(10, abs=FIRST_ROUND)
            release.set()
            await turns()

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        run_virtual(main())
    assert [record.__dict__["type"] for record in caplog.records] == ["handler_stuck_error"]


def test_who_ends_before_the_turn_has_left(run_virtual: Run) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            if ws.upgrade_request.path == "/closes":
                await ws.draining
                await ws.close(4001, "by itself")
            await ws.wait_closed()

        async with serve(handler, "127.0.0.1", 0) as server:
            first, leaving = [await opened(server) for _ in range(2)]
            await connect(uri(server, "/closes"))
            breaking = await opened(server)
            await arrived(server, 4)
            draining = asyncio.ensure_future(server.drain(window=40))
            await asyncio.sleep(5)
            breaking.abort()
            await leaving.close()
            report = await draining
            assert end_of(first)[:2] == (1012, "server shutdown")
            assert outcomes(report) == [Outcome.CLOSED, Outcome.LEFT, Outcome.LEFT, Outcome.LEFT]
            assert [drained.info.code for drained in report.connections if drained.info] == [1012, 1000, 4001, 1006]
            assert report.duration == pytest.approx(5, abs=FIRST_ROUND)

    run_virtual(main())


def test_a_drain_may_be_repeated_and_cancelled(run_virtual: Run) -> None:
    async def main() -> None:
        async with serve(stay, "127.0.0.1", 0) as server:
            clients = [await opened(server) for _ in range(2)]
            cancelled = asyncio.ensure_future(server.drain(window=10))
            await asyncio.sleep(1)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            one, two = await asyncio.gather(server.drain(), server.drain(window=0, code=4000))
            assert one is two is await server.drain()
            assert one.duration == pytest.approx(5, abs=FIRST_ROUND)
            assert [end_of(ws)[0] for ws in clients] == [1012, 1012]

    run_virtual(main())


@pytest.mark.parametrize("drain_first", [True, False])
def test_a_close_cuts_a_drain_short_whichever_was_first(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, drain_first: bool
) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            with ws.busy():
                await ws.wait_closed()

        async with serve(handler, "127.0.0.1", 0) as server:
            clients = [await opened(server) for _ in range(3)]
            start = virtual_loop.time()
            calls: list[Callable[[], Awaitable[Any]]] = [lambda: server.drain(window=100), lambda: server.close(4002)]
            tasks = []
            for call in calls if drain_first else reversed(calls):
                tasks.append(asyncio.ensure_future(call()))
                await asyncio.sleep(0)
            report = next(result for result in await asyncio.gather(*tasks) if result is not None)
            assert outcomes(report) == [Outcome.CLOSED] * 3
            assert virtual_loop.time() - start < FIRST_ROUND
            assert [end_of(ws)[0] for ws in clients] == [4002] * 3
            assert outcomes(await server.drain()) == [Outcome.CLOSED] * 3

    run_virtual(main())


def test_a_server_without_connections_drains_at_once(run: Run, loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with serve(stay, "127.0.0.1", 0) as server:
            report = await server.drain(window=100, grace=100)
            assert (report.connections, str(report)) == ((), "drained 0 connections in 0.0 s")
            assert server.sockets == ()
            await server.wait_closed()
        server = await serve(stay, "127.0.0.1", 0)
        await server.close()
        assert outcomes(await server.drain()) == []

    run(main())


def test_a_drain_that_is_misused_changes_nothing(run: Run) -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def handler(ws: Connection) -> None:
            await release.wait()

        async with serve(handler, "127.0.0.1", 0) as server:
            ws = await opened(server)
            for times in ({"window": -1}, {"grace": float("inf")}):
                with pytest.raises(ValueError, match="finite number of seconds"):
                    await server.drain(**times)
            with pytest.raises(LocalProtocolError, match="1006"):
                await server.drain(code=1006)
            assert not server.is_draining
            await opened(server)
            release.set()
            await ws.wait_closed()
            assert end_of(ws)[:2] == (1000, "")

    run(main())

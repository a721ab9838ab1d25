"""How servers drain: what connections are told, in which order, and what is left of them."""

from __future__ import annotations

import asyncio
import logging
import struct
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import trio

import wsconnkit.trio
from wsconnkit.managed.answering import Request
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.errors import ConnectionClosed, LocalProtocolError
from wsconnkit.protocol.frames import Opcode
from wsconnkit.service.drain import DrainReport, Outcome
from wsconnkit.service.router import RequestRouter
from wsconnkit.testing.runtime import Cancelled

from .driver import CANCELLED, Driver
from .raw import BRIEF, PLAIN, Arrivals, Frame, echo, info, raw_client


def outcomes(report: DrainReport) -> list[Outcome]:
    return [drained.outcome for drained in report.connections]


def close_frame(code: int, reason: str) -> Frame:
    return Frame(Opcode.CLOSE, struct.pack("!H", code) + reason.encode())


async def regardless(driver: Driver, released: list[bool]) -> None:
    """Wait until `released` has something in it, whatever is cancelled meanwhile."""
    with trio.CancelScope(shield=True) if driver.adapter is wsconnkit.trio else nullcontext():
        while not released:
            with suppress(asyncio.CancelledError, Cancelled):
                await driver.sleep(1)


@pytest.mark.parametrize("busy", [False, True])
def test_without_any_time_peers_are_still_told_why(driver: Driver, busy: bool) -> None:
    async def main() -> None:
        async def handler(ws: Any) -> None:
            if busy:
                with ws.busy():
                    await ws.wait_closed()
            await ws.wait_closed()

        async with driver.serve(handler, config=PLAIN) as server, driver.tasks() as start:
            async with raw_client(driver, server) as client:
                await driver.until(lambda: server.connections)
                frames = start(client.read_all)
                report = await server.drain(window=0, grace=0, code=1001, reason="bye")
                assert outcomes(report) == [Outcome.ABORTED]
                assert await frames.join() == [close_frame(1001, "bye")]

    driver.run(main)


def test_without_any_time_who_answers_at_once_ends_cleanly_and_who_does_not_read_does_not_hold_it_up(
    driver: Driver,
) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=PLAIN) as server:
            async with driver.connect(server, config=PLAIN) as ws, raw_client(driver, server):
                await arrivals.next()
                deaf = await arrivals.next()
                for _ in range(3):
                    while deaf.send_if_ready(bytes(1024 * 1024)):
                        await driver.turn()
                    await driver.sleep(1)
                report = await server.drain(window=0, grace=0)
                assert outcomes(report) == [Outcome.ABORTED] * 2
                assert (info(ws).code, info(ws).reason, info(ws).clean) == (1012, "server shutdown", True)
                await deaf.wait_closed()
                assert not info(deaf).clean

    driver.run(main)


def test_without_a_window_handlers_have_their_turn_to_say_goodbye(driver: Driver) -> None:
    async def main() -> None:
        async def handler(ws: Any) -> None:
            async with driver.tasks() as start:
                told = start(lambda: until_drained(ws))
                receiving = start(ws.recv)
                await told.join()
                receiving.cancel()
                assert await receiving.join() is CANCELLED
                await ws.send("goodbye")
                await ws.wait_closed()

        async def until_drained(ws: Any) -> None:
            await ws.draining

        async with driver.serve(handler) as server:
            for _ in range(5):
                async with driver.connect(server) as ws:
                    await ws.ping()
            async with driver.connect(server) as one, driver.connect(server) as two:
                await one.ping()
                await two.ping()
                report = await server.drain(window=0)
                assert outcomes(report) == [Outcome.CLOSED] * 2
                for ws in (one, two):
                    assert await ws.recv() == "goodbye"
                    with pytest.raises(ConnectionClosed, match="1012"):
                        await ws.recv()

    driver.run(main)


def test_a_request_handler_that_ignores_its_cancellation_is_logged_as_stuck(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        begun: list[Any] = []
        router = RequestRouter()
        release: list[bool] = []

        @router.default
        async def stay(request: Request) -> None:
            begun.append(request)
            await regardless(driver, release)

        async with driver.tasks() as start:
            async with driver.serve(router, config=BRIEF) as server:
                async with driver.connect(server) as ws:
                    asking = start(lambda: ws.request({}))
                    await driver.until(lambda: begun)
                    try:
                        report = await server.drain(window=0, grace=driver.seconds(1))
                    finally:
                        release.append(True)
                    assert outcomes(report) == [Outcome.ABORTED]
                    with pytest.raises(ConnectionClosed):
                        await asking.join()
            await driver.sleep(5)  # in which the handler sees that it may go

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        driver.run(main)
    assert [record.__dict__["type"] for record in caplog.records] == ["handler_stuck_error"]


def test_requests_in_flight_are_answered_while_it_drains_and_new_ones_refused_from_the_turn_on(driver: Driver) -> None:
    async def main() -> None:
        router = RequestRouter()

        @router.default
        async def work(request: Request) -> str:
            await driver.sleep(request.payload["wait"])
            return "done"

        async with driver.serve(router) as server, driver.tasks() as start, driver.connect(server) as ws:
            asked = [start(lambda wait=wait: ws.request({"wait": wait})) for wait in (5, 9)]  # type: ignore[misc]
            await driver.sleep(1)
            draining = start(lambda: server.drain(window=driver.seconds(1), grace=driver.seconds(60)))
            await driver.sleep(2)
            with pytest.raises(Exception, match="draining"):
                await ws.request({"wait": 0})
            assert [await task.join() for task in asked] == ["done", "done"]
            assert outcomes(await draining.join()) == [Outcome.CLOSED]

    driver.run(main)


def test_a_drain_may_be_asked_for_many_times_and_each_has_the_report(driver: Driver) -> None:
    async def main() -> None:
        async with driver.serve(echo) as server, driver.connect(server) as ws, driver.tasks() as start:
            await ws.ping()
            draining = [start(lambda: server.drain(window=0)) for _ in range(3)]
            reports = [await task.join() for task in draining]
            assert all(report is reports[0] for report in reports)
            assert await server.drain() is reports[0]
            assert not server.sockets

    driver.run(main)


def test_a_close_cuts_a_drain_short(driver: Driver) -> None:
    async def main() -> None:
        async def handler(ws: Any) -> None:
            with ws.busy():
                await ws.wait_closed()

        async with driver.serve(handler) as server, driver.connect(server) as ws, driver.tasks() as start:
            await ws.ping()
            draining = start(lambda: server.drain(window=driver.seconds(100)))
            await driver.sleep(1)
            await server.close(4002)
            assert outcomes(await draining.join()) == [Outcome.CLOSED]
            await ws.wait_closed()
            assert info(ws).code == 4002

    driver.run(main)


def test_a_drain_that_is_misused_changes_nothing(driver: Driver) -> None:
    async def main() -> None:
        async with driver.serve(echo) as server, driver.connect(server) as ws:
            for call in (server.drain, server.run_until_signal):
                for times in ({"window": -1}, {"grace": float("inf")}, {"window": float("nan")}):
                    with pytest.raises(ValueError, match="finite number of seconds"):
                        await call(**times)
                with pytest.raises(LocalProtocolError, match="1006"):
                    await call(code=1006)
                with pytest.raises(LocalProtocolError, match="close reason cannot be sent as UTF-8"):
                    await call(reason="x\ud83dy")
            with pytest.raises(LocalProtocolError, match="close reason cannot be sent as UTF-8"):
                await server.close(1001, "x\ud83dy")
            assert not server.is_draining
            await ws.send("still here")
            assert await ws.recv() == "still here"

    driver.run(main)


def test_who_leaves_in_the_middle_of_a_drain_has_left(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals) as server, driver.tasks() as start:
            async with driver.connect(server) as one, driver.connect(server) as two, driver.connect(server) as three:
                ends = [await arrivals.next() for _ in range(3)]
                draining = start(lambda: server.drain(window=driver.seconds(30)))
                await driver.sleep(1)
                await two.close(4000)
                three.abort()
                await driver.until(lambda: len(server.connections) <= 1)
                report = await draining.join()
                assert sorted(outcome.value for outcome in outcomes(report)) == ["closed", "left", "left"]
                assert info(one).code == 1012
                assert {info(ws).cause for ws in ends} == {Cause.DRAIN, Cause.PEER_CLOSE, Cause.TRANSPORT_LOST}

    driver.run(main)

"""Requests, from both sides at once, of peers that do not play along, and of tasks that are cancelled."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from wsconnkit.managed.answering import Request
from wsconnkit.protocol.config import ConnectionConfig, QueueConfig
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.protocol.frames import Opcode
from wsconnkit.service.envelope import RequestError
from wsconnkit.service.requests import RequestTimeout
from wsconnkit.service.router import RequestRouter

from .driver import CANCELLED, Driver
from .raw import PLAIN, Arrivals, RawClient, Readers, raw_client

MIB = 1024 * 1024
MORE_THAN_FITS = 24 * MIB
"""No network takes this from a peer that does not read."""


def roomy(max_unsent_bytes: int = MIB) -> ConnectionConfig:
    """Return the configuration of a connection that may be filled with `fill`."""
    return replace(PLAIN, queue=QueueConfig(write_high_water=MORE_THAN_FITS, max_unsent_bytes=max_unsent_bytes))


def envelope(kind: str, request_id: object, payload: Any = None) -> bytes:
    return json.dumps({"type": kind, "requestId": request_id, "payload": payload, "timestamp": 0}).encode()


class Work:
    """A router whose handlers wait for ever, or do what their payload says."""

    def __init__(self, driver: Driver) -> None:
        self.router = RequestRouter()
        self.begun = 0
        self.cancelled = 0

        @self.router.action("wait")
        async def wait(request: Request) -> None:
            self.begun += 1
            try:
                await driver.sleep(1_000_000)
            finally:
                self.cancelled += 1

        @self.router.action("echo")
        async def echo(request: Request) -> Any:
            return request.payload["value"]


@asynccontextmanager
async def peers(driver: Driver, work: Work) -> AsyncIterator[tuple[Any, Any]]:
    """Yield both ends of a connection, on each of which `work` is done."""
    arrivals: list[Any] = []

    async def handler(ws: Any) -> None:
        arrivals.append(ws)
        await driver.adapter.answer_requests(work.router, ws)

    async with driver.serve(handler) as server, driver.tasks() as start, driver.connect(server) as ws:
        answering = start(lambda: driver.adapter.answer_requests(work.router, ws))
        await driver.until(lambda: arrivals)
        yield ws, arrivals[0]
        await ws.close()
        await answering.join()


def fill(ws: Any) -> None:
    """Send until messages wait, with much before them that no network takes."""
    while ws.send_if_ready(bytes(MIB)):
        pass


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("inf"), -float("inf")])
def test_a_timeout_that_makes_no_sense_is_told_with_what_is_allowed(driver: Driver, timeout: float) -> None:
    async def main() -> None:
        work = Work(driver)
        async with driver.serve(work.router) as server, driver.connect(server) as ws:
            for call in (ws.request, ws.reauthenticate):
                with pytest.raises(
                    ValueError, match="must be a finite number of seconds, at least 0, or None"
                ) as caught:
                    await call("x", timeout)
                assert repr(timeout) in str(caught.value)
            assert ws.stats.messages_sent == 0
            with pytest.raises(RequestTimeout):
                await ws.request({"action": "wait"}, 0)
            assert await ws.request({"action": "echo", "value": 1}, None) == 1

    driver.run(main)


def test_both_sides_may_ask_each_other_at_once(driver: Driver) -> None:
    async def main() -> None:
        work = Work(driver)
        async with peers(driver, work) as ends, driver.tasks() as start:
            asked = [
                start(lambda ws=ws, i=i: ws.request({"action": "echo", "value": i}))  # type: ignore[misc]
                for i in range(100)
                for ws in ends
            ]
            assert [await task.join() for task in asked] == [i for i in range(100) for _ in ends]

    driver.run(main)


def test_a_handler_may_ask_back_before_it_answers(driver: Driver) -> None:
    async def main() -> None:
        work = Work(driver)

        @work.router.action("ask back")
        async def ask_back(request: Request) -> Any:
            depth = request.payload["depth"]
            if depth == 0:
                return []
            return [depth, *await request.connection.request({"action": "ask back", "depth": depth - 1})]

        async with peers(driver, work) as (ws, _):
            assert await ws.request({"action": "ask back", "depth": 20}) == list(range(20, 0, -1))

    driver.run(main)


@pytest.mark.parametrize("room", [MIB, 20_000])
def test_refusals_do_not_wait_for_a_peer_that_does_not_read_but_for_their_turn(driver: Driver, room: int) -> None:
    async def main() -> None:
        work = Work(driver)
        arrivals: list[Any] = []

        async def handler(ws: Any) -> None:
            arrivals.append(ws)
            await driver.adapter.answer_requests(work.router, ws)

        async with driver.serve(handler, config=roomy(room)) as server, raw_client(driver, server) as client:
            await driver.until(lambda: arrivals)
            (ws,) = arrivals
            fill(ws)
            padding = "x" * 10_000
            for i in range(300):  # much more than the inbox holds
                await client.send(Opcode.TEXT, envelope("request", str(i), {"action": "unknown", "padding": padding}))
            await client.send(Opcode.TEXT, envelope("request", "last", {"action": "wait"}))
            await driver.until(lambda: work.begun)
            await client.send(Opcode.TEXT, envelope("request", "end", {"action": "echo", "value": "read"}))
            answers = [answer async for answer in answers_to(client)]
            refused = [answer["requestId"] for answer in answers[:-1]]
            assert refused == [str(i) for i in range(len(refused))]
            assert {answer["payload"]["code"] for answer in answers[:-1]} == {"unknown_action"}
            assert answers[-1]["payload"] == "read"
            assert ws.stats.messages_dropped == 300 - len(refused)
            if room == MIB:
                assert len(refused) == 300
            else:  # where each takes 128 bytes more than its payload
                assert 20_000 / 400 < len(refused) < 20_000 / 128
        await ws.wait_closed()
        await driver.until(lambda: work.cancelled)

    async def answers_to(client: RawClient) -> AsyncIterator[Any]:
        answer: dict[str, Any] = {}
        while answer.get("requestId") != "end":
            frame = await client.read()
            assert frame is not None
            if frame.opcode is Opcode.TEXT:
                yield (answer := json.loads(frame.payload))

    driver.run(main)


def test_that_the_peer_has_left_is_no_error_of_a_request_handler(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        told: list[str] = []
        router = RequestRouter()

        @router.default
        async def ask_back(request: Request) -> Any:
            try:
                await request.connection.request("never answered")
            except ConnectionClosed as error:
                told.append(type(error).__name__)
                raise

        async with driver.serve(router) as server:
            for how in ("close", "abort"):
                async with driver.connect(server) as ws, driver.tasks() as start:
                    asking = start(lambda: ws.request({}))
                    assert json.loads(await ws.recv())["payload"] == "never answered"
                    if how == "abort":
                        ws.abort()
                    await ws.close()
                    with pytest.raises(ConnectionClosed):
                        await asking.join()
                await driver.until(lambda: not server.connections)
                await driver.sleep(1)

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        driver.run(main)
    assert caplog.records == []


def test_what_another_connection_says_is_an_error_of_a_request_handler(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        router = RequestRouter()
        upstream: list[Any] = []

        @router.default
        async def relay(request: Request) -> Any:
            await upstream[0].send("hello?")

        async with driver.serve(router) as server, driver.connect(server) as ws:
            upstream.append(ws)
            await ws.close()
            async with driver.connect(server) as client:
                with pytest.raises(RequestError, match="internal_error"):
                    await client.request("relay")

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        driver.run(main)
    assert [record.__dict__["type"] for record in caplog.records] == ["request_error"]


def test_requests_in_flight_are_cancelled_when_the_peer_leaves(driver: Driver) -> None:
    async def main() -> None:
        work = Work(driver)
        async with driver.serve(work.router) as server, driver.tasks() as start:
            async with driver.connect(server) as ws:
                asked = [start(lambda: ws.request({"action": "wait"})) for _ in range(10)]
                await driver.until(lambda: work.begun == 10)
                ws.abort()
                for task in asked:
                    with pytest.raises(ConnectionClosed):
                        await task.join()
            await driver.until(lambda: work.cancelled == 10)
            await driver.until(lambda: not server.connections)

    driver.run(main)


def test_a_cancelled_request_is_told_but_a_cancelled_fresh_token_is_not(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals) as server, driver.connect(server) as ws, driver.tasks() as start:
            other = await arrivals.next()
            kinds = []
            for call in (lambda: ws.reauthenticate("abc"), lambda: ws.request({})):
                task = start(call)
                kinds.append(json.loads(await other.recv())["type"])
                task.cancel()
                assert await task.join() is CANCELLED
                await ws.send("{}")
                while (message := json.loads(await other.recv())) != {}:
                    kinds.append(message["type"])
            assert kinds == ["auth", "request", "cancel"]

    driver.run(main)


def test_a_request_and_its_cancellation_in_one_breath_leave_nothing(driver: Driver) -> None:
    async def main() -> None:
        work = Work(driver)
        async with driver.serve(work.router, config=PLAIN) as server, raw_client(driver, server) as client:
            begun = driver.now()
            for i in range(200):  # more than may be in flight
                await client.send(Opcode.TEXT, envelope("request", str(i), {"action": "wait"}))
                await client.send(Opcode.TEXT, envelope("cancel", str(i)))
                if i % 7 == 0:
                    await driver.turn()
            await client.send(Opcode.TEXT, envelope("request", "last", {"action": "echo", "value": "here"}))
            frame = await client.read()
            assert frame is not None
            assert json.loads(frame.payload)["payload"] == "here"
            async with driver.tasks() as start:
                start(lambda: server.drain(window=0, grace=driver.seconds(100)))
                frame = await client.read()
                assert frame is not None
                assert frame.opcode is Opcode.CLOSE  # which would wait for what is in flight
                assert driver.now() - begun < 50

    driver.run(main)


def test_a_request_that_waits_to_be_sent_may_be_given_up_and_sends_nothing(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, config=PLAIN) as server, driver.tasks() as start:
            async with driver.connect(server, config=roomy()) as ws:
                other = await arrivals.next()
                fill(ws)
                count = ws.stats.messages_sent
                cancelled = start(lambda: ws.request("cancelled", None))
                await driver.sleep(1)
                cancelled.cancel()
                assert await cancelled.join() is CANCELLED
                with pytest.raises(RequestTimeout):
                    await ws.request("timed out", driver.seconds(3))
                received = start(lambda: receive(other, count + 1))
                await ws.send("the next")
                assert (await received.join())[-1] == "the next"

    async def receive(ws: Any, count: int) -> list[Any]:
        return [await ws.recv() for _ in range(count)]

    driver.run(main)


@pytest.mark.parametrize("of", ["client", "server"])
def test_whoever_is_cancelled_around_requests_leaves_nothing(driver: Driver, of: str) -> None:
    async def main() -> None:
        work = Work(driver)
        served: list[Any] = []

        async def serve() -> None:
            async with driver.serve(work.router) as server:
                served.append(server)
                await server.serve_forever()

        async def ask() -> None:
            async with driver.connect(served[0]) as ws, driver.tasks() as start:
                asked = [start(lambda: ws.request({"action": "wait"})) for _ in range(5)]
                for task in asked:
                    await task.join()

        async with driver.tasks() as start:
            serving = start(serve)
            await driver.until(lambda: served)
            asking = start(ask)
            await driver.until(lambda: work.begun == 5)
            (asking if of == "client" else serving).cancel()
            if of == "server":
                with pytest.raises(ConnectionClosed):
                    await asking.join()
            else:
                assert await asking.join() is CANCELLED
            await driver.until(lambda: work.cancelled == 5)

    driver.run(main)


def test_many_connections_may_ask_at_once_in_both_directions(driver: Driver) -> None:
    async def main() -> None:
        work = Work(driver)

        @work.router.action("ask back")
        async def ask_back(request: Request) -> Any:
            return await request.connection.request({"action": "echo", "value": request.payload["value"]})

        async def client(server: Any, i: int) -> Any:
            async with driver.connect(server) as ws, driver.tasks() as start:
                start(lambda: driver.adapter.answer_requests(work.router, ws))
                return await ws.request({"action": "ask back", "value": i})

        async with driver.serve(work.router) as server, driver.tasks() as start:
            clients = [start(lambda i=i: client(server, i)) for i in range(50)]  # type: ignore[misc]
            assert [await task.join() for task in clients] == list(range(50))
            await driver.until(lambda: not server.connections)

    driver.run(main)


def test_a_handler_that_reads_answers_only_of_requests_may_close_before_they_come(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Readers(driver)
        async with driver.serve(arrivals) as server, driver.connect(server) as ws, driver.tasks() as start:
            asking = start(lambda: ws.request({}))
            other = await arrivals.next()
            await other.close(4000)
            with pytest.raises(ConnectionClosed, match="4000"):
                await asking.join()
            with pytest.raises(ConnectionClosed, match="4000"):
                await ws.request({})

    driver.run(main)

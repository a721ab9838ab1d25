"""Requests of peers that do not play along: that do not read, repeat themselves, change their minds, or go."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from wsconnkit.asyncio import Connection, Server, connect, serve
from wsconnkit.managed.answering import Request
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.service.envelope import RequestError
from wsconnkit.service.requests import RequestTimeout
from wsconnkit.service.router import RequestRouter
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .peers import RawClient, Run, uri

PLAIN = ConnectionConfig(compression=None)
MIB = 1024 * 1024


def envelope(kind: str, request_id: object, payload: Any = None) -> str:
    return json.dumps({"type": kind, "requestId": request_id, "payload": payload, "timestamp": 0})


def request(request_id: object, payload: Any = None) -> str:
    return envelope("request", request_id, payload)


def cancel(request_id: object) -> str:
    return envelope("cancel", request_id)


async def reply(client: RawClient) -> Any:
    (message,) = await client.receive(1)
    return json.loads(message)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def filled(ws: Connection) -> None:
    """Send until the network takes no more, and what it has taken has arrived."""
    waited = 0
    while waited < 5:
        if ws._pump.is_ready_to_send:
            await ws.send(bytes(MIB))
            waited = 0
        await asyncio.sleep(0.01)
        waited += 1


@asynccontextmanager
async def deaf(server: Server) -> AsyncIterator[tuple[RawClient, Connection]]:
    """Yield a client that reads nothing, and the server's end of its connection, whose buffers are filled."""
    async with RawClient.open(server) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while not server.connections:
            await asyncio.sleep(0)
        (ws,) = server.connections
        await filled(ws)
        yield client, ws


def test_requests_cancelled_in_the_same_breath_are_forgotten(run: Run) -> None:
    async def main() -> None:
        router = RequestRouter(max_concurrent=3)

        @router.default
        async def answer(request: Request) -> Any:
            return request.payload

        async with serve(router, "127.0.0.1", 0) as server, RawClient.open(server) as client:
            for n in range(10):
                client.send(request(str(n)), cancel(str(n)))
                await asyncio.sleep(0.01)
            client.send(request("0", "again"))
            assert (await reply(client))["payload"] == "again"

    run(main())


def test_answers_that_wait_for_a_peer_that_does_not_read_count_as_requests_in_flight(run: Run) -> None:
    async def main() -> None:
        calls = 0
        router = RequestRouter(max_concurrent=5)

        @router.default
        async def answer(request: Request) -> Any:
            nonlocal calls
            calls += 1
            return "x" * MIB

        async with serve(router, "127.0.0.1", 0, config=PLAIN) as server, deaf(server) as (client, _):
            for n in range(50):
                client.send(request(str(n)))
                await asyncio.sleep(0.002)
            assert calls == 5

    run(main())


@pytest.mark.parametrize("then", [cancel("same"), request("same"), "hello"], ids=["cancel", "request", "message"])
def test_an_id_that_is_used_again_while_its_answer_waits_harms_nobody(
    run: Run, caplog: pytest.LogCaptureFixture, then: str
) -> None:
    async def main() -> None:
        router = RequestRouter()

        @router.default
        async def answer(request: Request) -> Any:
            return request.payload

        async with serve(router, "127.0.0.1", 0, config=PLAIN) as server, deaf(server) as (client, ws):
            for message in (request("same", 1), request("same", 2), then, request("other", 3)):
                client.send(message)
                await asyncio.sleep(0.02)
            client.writer.transport.abort()
            await ws.wait_closed()
            await turns()

    with caplog.at_level(logging.ERROR):
        run(main())
    assert caplog.records == []


def test_a_request_whose_sending_is_given_up_sends_nothing(run_virtual: Run, virtual_loop: VirtualTimeLoop) -> None:
    async def main() -> None:
        served: asyncio.Queue[Connection] = asyncio.Queue()
        release = asyncio.Event()
        received: list[str | bytes] = []

        async def handler(ws: Connection) -> None:
            served.put_nowait(ws)
            await release.wait()
            async for message in ws:
                received.append(message)

        async with serve(handler, "127.0.0.1", 0, config=PLAIN) as server, connect(uri(server), config=PLAIN) as ws:
            await filled(ws)  # nobody takes it
            start = virtual_loop.time()
            cancelled = asyncio.ensure_future(ws.request("cancelled", timeout=None))
            await asyncio.sleep(1)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert virtual_loop.time() - start == pytest.approx(1, abs=0.1)
            with pytest.raises(RequestTimeout):
                await ws.request("timed out", timeout=3)
            assert virtual_loop.time() - start == pytest.approx(4, abs=0.1)
            sent = ws.stats.messages_sent
            release.set()
            await ws.send("the next")
            await ws.close()
            await (await served.get()).wait_closed()
            await turns()
            assert received == [bytes(MIB)] * sent + ["the next"]

    run_virtual(main())


def test_requests_that_wait_to_be_sent_end_with_the_connection_on_both_sides(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        asked: asyncio.Queue[str] = asyncio.Queue()
        router = RequestRouter()

        @router.default
        async def ask_back(request: Request) -> Any:
            try:
                return await request.connection.request("back")
            except BaseException as error:
                asked.put_nowait(type(error).__name__)
                raise

        async with serve(router, "127.0.0.1", 0, config=PLAIN) as server, deaf(server) as (client, ws):
            client.send(request("1"), request("2"))
            own = asyncio.ensure_future(ws.request("own"))
            await asyncio.sleep(0.02)
            ws.abort()
            with pytest.raises(ConnectionClosed):
                await own
            assert {await asked.get(), await asked.get()} <= {"CancelledError", "ConnectionClosedError"}

    with caplog.at_level(logging.WARNING):
        run(main())
    assert caplog.records == []


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_client_that_leaves_is_no_error_of_a_handler_that_sends(
    run: Run, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    async def main() -> None:
        router = RequestRouter()

        @router.default
        async def tell_progress(request: Request) -> Any:
            while True:
                await request.connection.send("going on")
                await asyncio.sleep(0)

        async with serve(router, "127.0.0.1", 0) as server:
            for _ in range(20):
                ws = await connect(uri(server))
                asking = asyncio.ensure_future(ws.request("begin"))
                assert await ws.recv() == "going on"
                if how == "abort":
                    ws.abort()
                await ws.close()
                with pytest.raises(ConnectionClosed):
                    await asking

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        run(main())
    assert caplog.records == []


def test_what_another_connection_says_is_an_error_of_the_handler(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        router = RequestRouter()

        @router.default
        async def relay(request: Request) -> Any:
            await upstream.send("hello?")

        async with serve(router, "127.0.0.1", 0) as server, connect(uri(server)) as upstream:
            await upstream.close()
            async with connect(uri(server)) as ws:
                with pytest.raises(RequestError, match="internal_error"):
                    await ws.request("relay")

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        run(main())
    assert [record.__dict__["type"] for record in caplog.records] == ["request_error"]


def test_what_is_no_proper_request_is_told_or_ignored_and_the_rest_goes_on(run: Run) -> None:
    async def main() -> None:
        release = asyncio.Event()
        router = RequestRouter()

        @router.action("wait")
        async def wait(request: Request) -> Any:
            await release.wait()
            return "waited"

        cases = [
            (request(7), None, "invalid_request"),
            (request(""), None, "invalid_request"),
            (request("x" * 200), None, "invalid_request"),
            ("no envelope", None, "invalid_request"),
            ('{"type":"request","requestId":"a","payload":' + "[" * 100_000, None, "invalid_request"),
            (request("slow", {"action": "wait"}), "slow", "duplicate_request"),
            (request("b", {"action": ["wait"]}), "b", "unknown_action"),
            (request("c", {"action": "other"}), "c", "unknown_action"),
        ]
        ignored = [cancel("unknown"), cancel(None), envelope("response", "slow"), envelope("error", None)]
        async with serve(router, "127.0.0.1", 0) as server, RawClient.open(server) as client:
            client.send(request("slow", {"action": "wait"}))
            for message, request_id, code in cases:
                client.send(*ignored, message)
                told = await reply(client)
                assert (told["type"], told["requestId"], told["payload"]["code"]) == ("error", request_id, code)
            release.set()
            assert (await reply(client))["payload"] == "waited"

    run(main())


@pytest.mark.parametrize("swallows", [False, True])
def test_the_end_waits_for_handlers_that_clean_up(run: Run, swallows: bool) -> None:
    async def main() -> None:
        started, cleaned = asyncio.Event(), asyncio.Event()
        router = RequestRouter()

        @router.default
        async def handler(request: Request) -> Any:
            started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await turns(50)
                cleaned.set()
                if not swallows:
                    raise
            return "never told"

        server = await serve(router, "127.0.0.1", 0)
        ws = await connect(uri(server))
        asking = asyncio.ensure_future(ws.request(1))
        await started.wait()
        await server.close()
        assert cleaned.is_set()
        with pytest.raises(ConnectionClosed):
            await asking

    run(main())


def test_a_request_that_was_made_wrongly_is_not_pending(run: Run) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            await ws.wait_closed()

        async with serve(handler, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            timeout: Any = "30"
            with pytest.raises(TypeError):
                await ws.request(1, timeout)
            assert ws._requests is not None
            assert ws._requests._waiting == {}

    run(main())

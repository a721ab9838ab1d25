"""Requests and drains as far as they are trio's own: nurseries, and who waits outside of them."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from wsconnkit.managed.answering import Request
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.service.drain import Outcome
from wsconnkit.service.envelope import RequestError
from wsconnkit.service.router import RequestRouter
from wsconnkit.trio import Connection, answer_requests, connect, serve

from .peers import uri

Run = Callable[[Callable[[], Awaitable[None]]], None]


class Streams(trio.abc.Listener[trio.abc.Stream]):
    """Accepts the other end of each stream that `connect` makes."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](300)

    def connect(self) -> trio.abc.Stream:
        client, server = trio.testing.memory_stream_pair()
        self._send.send_nowait(server)
        return client

    async def accept(self) -> trio.abc.Stream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def stay(ws: Connection) -> None:
    await ws.wait_closed()


@pytest.mark.parametrize("call", ["drain", "close", "wait_closed"])
def test_who_waits_elsewhere_learns_of_the_end_of_a_server_that_is_cancelled(run_virtual: Run, call: str) -> None:
    async def main() -> None:
        ended: list[Any] = []
        listener = Streams()

        async def wait(function: Callable[[], Awaitable[Any]]) -> None:
            ended.append(await function())

        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve(stay, listeners=[listener]).run)
                ws = await nursery.start(connect("ws://test.invalid/", stream=listener.connect()).run)
                await ws.ping()
                how = partial(server.drain, window=100, grace=100) if call == "drain" else getattr(server, call)
                outer.start_soon(wait, how)
                if call != "wait_closed":
                    await trio.testing.wait_all_tasks_blocked()
                start = trio.current_time()
                nursery.cancel_scope.cancel()
            with trio.fail_after(1):
                while not ended:
                    await trio.sleep(0.01)
            assert trio.current_time() - start < 1
        if call == "drain":
            assert len(ended[0].connections) == 1

    run_virtual(main)


def test_a_server_that_was_closed_has_no_sockets(run: Run) -> None:
    async def main() -> None:
        async with serve(stay, "127.0.0.1", 0) as server:
            assert server.sockets
            await server.close()
            assert not server.sockets

    run(main)


def test_errors_of_request_handlers_that_are_cancelled_are_logged_and_break_nothing(
    run_virtual: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        router = RequestRouter()
        begun: list[str] = []

        async def fail_when_cancelled() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError

        @router.action("plain")
        async def plain(request: Request) -> None:
            begun.append(request.id)
            await fail_when_cancelled()

        @router.action("nursery")
        async def nursery(request: Request) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_when_cancelled)
                nursery.start_soon(trio.sleep_forever)
                begun.append(request.id)

        listener = Streams()
        async with serve(router, listeners=[listener]):
            async with connect("ws://test.invalid/", stream=listener.connect()) as ws:
                for action in ("plain", "nursery"):
                    with trio.move_on_after(1):
                        await ws.request({"action": action})
                with pytest.raises(RequestError, match="unknown_action"):
                    await ws.request({"action": "other"})
                assert len(begun) == 2

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        run_virtual(main)
    assert [record.__dict__["type"] for record in caplog.records] == ["request_error"] * 2


def test_an_end_that_is_an_error_comes_out_of_answering_requests_as_it_is(
    run_virtual: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        listener = Streams()
        router = RequestRouter()
        begun: list[str] = []
        raised: list[BaseException] = []

        async def fail_when_cancelled() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError

        @router.default
        async def fail(request: Request) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_when_cancelled)
                nursery.start_soon(trio.sleep_forever)
                begun.append(request.id)

        async def handler(ws: Connection) -> None:
            try:
                await answer_requests(router, ws)
            except BaseException as error:
                raised.append(error)
                raise

        async with serve(handler, listeners=[listener]) as server:
            async with connect("ws://test.invalid/", stream=listener.connect()) as ws:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask, ws)
                    while not begun:
                        await trio.sleep(0.01)
                    ws.abort()
            while not raised:
                await trio.sleep(0.01)
            assert not server.connections
        assert [isinstance(error, ConnectionClosed) for error in raised] == [True]

    async def ask(ws: Connection) -> None:
        with pytest.raises(ConnectionClosed):
            await ws.request({})

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        run_virtual(main)
    assert [record.__dict__["type"] for record in caplog.records] == ["request_error"]


def test_hundreds_of_connections_with_requests_in_flight_are_drained_and_leave_nothing(run_virtual: Run) -> None:
    async def main() -> None:
        router = RequestRouter()
        listener = Streams()
        begun: list[int] = []
        answers: list[int] = []

        @router.default
        async def work(request: Request) -> int:
            begun.append(request.payload)
            await trio.sleep(request.payload % 7)
            return int(request.payload)

        async def client(number: int) -> None:
            async with connect("ws://test.invalid/", stream=listener.connect()) as ws:
                answers.append(await ws.request(number))
                await ws.wait_closed()
                assert ws.close_info is not None
                assert ws.close_info.code == 1012

        async with serve(router, listeners=[listener]) as server, trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(client, number)
            while len(begun) < 300:
                await trio.sleep(0.1)
            report = await server.drain(window=5, grace=30)
            assert report.counts[Outcome.CLOSED] == 300
        assert sorted(answers) == list(range(300))
        assert not server.connections

    run_virtual(main)


def test_handlers_of_connections_one_after_the_other_have_the_context_of_who_answers(run: Run) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="another")

    async def main() -> None:
        router, seen = RequestRouter(), []

        @router.default
        async def answer(request: Request) -> None:
            seen.append(variable.get())

        async def ask(ws: Connection) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, ws)
                await ws.request({})
                nursery.cancel_scope.cancel()

        async def read(ws: Connection) -> None:
            async for _ in ws:
                pass

        async with serve(ask, "127.0.0.1", 0) as server:
            variable.set("mine")
            async for ws in connect(uri(server)):
                await answer_requests(router, ws)
                break
        assert seen == ["mine"]

    run(main)

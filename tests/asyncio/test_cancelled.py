"""What the application awaits may be cancelled without the application: that is an error, and no end of the server."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import pytest

from wsconnkit.asyncio import Connection, ReconnectingClient, connect, serve
from wsconnkit.asyncio.runtime import is_cancelled
from wsconnkit.machines.backoff import BackoffConfig
from wsconnkit.protocol.errors import ConnectionClosedError
from wsconnkit.service.reconnect import Opened, ReconnectEvent, Stopped
from wsconnkit.service.router import RequestRouter

from .peers import Arrivals, Run, exchange, head, info, opened, refused, uri

AGAIN = BackoffConfig(base=1.0, max_attempts=None)


async def trip(*what: object) -> Any:
    """Await a task that somebody has cancelled."""
    task = asyncio.ensure_future(asyncio.sleep(3600))
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["type"] for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_handler_is_closed_with_1011_and_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serve(trip, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            await ws.wait_closed()
            assert info(ws).code == 1011

    run(main())
    assert logged(caplog) == ["handler_error"]
    assert "CancelledError" in caplog.text


def test_a_handler_that_is_cancelled_itself_is_closed_with_1001(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            task = asyncio.current_task()
            asyncio.get_running_loop().call_soon(task.cancel)  # type: ignore[union-attr]
            await asyncio.ensure_future(asyncio.sleep(3600))

        async with serve(handler, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            await ws.wait_closed()
            assert info(ws).code == 1001

    run(main())
    assert logged(caplog) == []


def test_what_a_router_calls_for_other_messages_is_a_handler_too(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        router = RequestRouter(on_message=trip)
        async with serve(router, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            await ws.send("x")
            await ws.wait_closed()
            assert info(ws).code == 1011

    run(main())
    assert logged(caplog) == ["handler_error"]


def test_a_verdict_and_a_page_are_internal_errors(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=trip, http=trip) as server:
            assert (await refused(server)).status == 500
            assert (await exchange(server, head(headers=[("Host", "a")]))).status == 500

    run(main())
    assert logged(caplog) == ["auth_error", "http_error"]
    assert caplog.text.count("CancelledError") >= 2


def test_a_client_comes_back_to_a_server_whose_handler_met_it(run_virtual: Run) -> None:
    async def main() -> None:
        async with serve(trip, "127.0.0.1", 0) as server:
            codes: list[int] = []
            async for ws in connect(uri(server), backoff=AGAIN):
                with pytest.raises(ConnectionClosedError):
                    await ws.recv()
                codes.append(info(ws).code)
                if len(codes) == 3:
                    break
            assert codes == [1011, 1011, 1011]

    run_virtual(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks of others do not tell before whether they are cancelled")
def test_a_token_that_is_not_made_is_an_error_of_the_client(run: Run) -> None:
    async def main() -> None:
        events: list[ReconnectEvent] = []
        async with serve(Arrivals(), "127.0.0.1", 0) as server:
            with pytest.raises(RuntimeError, match="it awaited something that was cancelled"):
                await opened(server, token=trip)
            again = connect(uri(server), token=trip, on_event=events.append)
            with pytest.raises(RuntimeError, match="it awaited something that was cancelled"):
                await anext(aiter(again))
        assert [type(event) for event in events] == [Stopped]

    run(main())


@pytest.mark.parametrize("function", ["token", "on_open"])
def test_a_client_that_stays_ends_with_it_and_says_so(run: Run, function: str) -> None:
    async def main() -> None:
        events: list[ReconnectEvent] = []
        arguments: dict[str, Any] = {function: trip}
        async with serve(Arrivals(), "127.0.0.1", 0) as server:
            async with ReconnectingClient(uri(server), on_event=events.append, **arguments) as client:
                with pytest.raises(RuntimeError, match="it awaited something that was cancelled"):
                    await client.recv()
                with pytest.raises(RuntimeError, match="it awaited something that was cancelled"):
                    await client.send("x")
        assert [type(event) for event in events] == [Stopped if function == "token" else Opened]

    run(main())


def test_a_connection_that_is_never_made_because_of_it_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("wsconnkit.asyncio.client.dial", trip)
        with pytest.raises(RuntimeError, match="it ended with CancelledError"):
            await connect("ws://127.0.0.1:1/", proxy=None)

    run(main())


def test_a_client_that_is_cancelled_itself_is_cancelled(run: Run) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def token() -> str:
            asked.set()
            await asyncio.sleep(3600)
            raise AssertionError

        async with serve(Arrivals(), "127.0.0.1", 0) as server:
            task = asyncio.ensure_future(opened(server, token=token))
            await asked.wait()
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()

    run(main())


def test_whether_a_task_is_cancelled_is_asked_of_the_task() -> None:
    assert is_cancelled(None)  # there is none that could tell

"""`async for ws in connect(...)`: what comes after an end or a refusal, with real sockets in virtual time."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from wsconnkit.asyncio import Connection, ReconnectingClient, Server, connect, serve
from wsconnkit.machines.backoff import BackoffConfig
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig
from wsconnkit.protocol.errors import (
    ConnectionClosed,
    ConnectionClosedError,
    HandshakeInterrupted,
    InvalidHandshake,
    InvalidStatus,
)
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.service.admission import AdmissionConfig
from wsconnkit.service.principal import Principal
from wsconnkit.service.reconnect import Opened, ReconnectEvent, Retrying, Stopped
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .peers import Run, port

PLAIN = ConnectionConfig(compression=None)


@pytest.fixture(autouse=True)
def jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each wait be half of its window."""
    monkeypatch.setattr(random, "random", lambda: 0.5)


class Script:
    """An upgrade's answers, one after the other, the last of them again and again: a status, or a close code.

    0 aborts the connection, and None keeps it open.
    """

    def __init__(self, loop: VirtualTimeLoop, *steps: int | Response | None) -> None:
        self._loop = loop
        self._steps = list(steps)
        self._step: int | Response | None = None
        self.times: list[float] = []
        self.tokens: list[str | None] = []

    async def authenticate(self, token: str | None, request: UpgradeRequest) -> Principal | Response:
        self.times.append(self._loop.time())
        self.tokens.append(token)
        self._step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        if isinstance(self._step, Response):
            return self._step
        return Response(self._step) if self._step and self._step < 1000 else Principal(subject="ada")

    async def handle(self, ws: Connection) -> None:
        if self._step is None:
            await ws.wait_closed()
        elif self._step == 0:
            ws.abort()
        elif isinstance(self._step, int):
            await ws.close(self._step)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        admission = AdmissionConfig(max_connections_per_user=None)
        async with serve(
            self.handle, "127.0.0.1", 0, authenticate=self.authenticate, admission=admission, config=PLAIN
        ) as server:
            yield f"ws://127.0.0.1:{port(server)}/"


class Following:
    """Goes through `connect` to its end."""

    def __init__(self) -> None:
        self.events: list[ReconnectEvent] = []
        self.connections = 0

    async def __call__(self, uri: str, **kwargs: Any) -> None:
        async for ws in connect(uri, config=PLAIN, on_event=self.events.append, **kwargs):
            self.connections += 1
            with pytest.raises(ConnectionClosed):
                await ws.recv()

    @property
    def delays(self) -> list[float]:
        return [event.delay for event in self.events if isinstance(event, Retrying)]


@pytest.fixture
def follow() -> Following:
    return Following()


def test_it_comes_back_until_the_server_closes_with_1000(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, follow: Following
) -> None:
    async def main() -> None:
        script = Script(virtual_loop, 1001, 0, 1011, 1000)
        async with script.serving() as uri:
            await follow(uri)
        assert follow.connections == 4
        assert [type(event) for event in follow.events] == [Opened, Retrying] * 3 + [Opened, Stopped]
        assert follow.events[-1] == Stopped(attempts=4, error=None)
        assert follow.delays == [1.0, 2.0, 4.0]
        gaps = [later - earlier for earlier, later in zip(script.times, script.times[1:], strict=False)]
        assert gaps == pytest.approx([1.0, 2.0, 4.0], abs=0.1)

    run_virtual(main())


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 4001])
def test_codes_that_say_never_are_raised(run_virtual: Run, virtual_loop: VirtualTimeLoop, code: int) -> None:
    async def main() -> None:
        script = Script(virtual_loop, code)
        async with script.serving() as uri:
            with pytest.raises(ConnectionClosedError) as caught:
                await Following()(uri)
        assert caught.value.info.code == code
        assert len(script.times) == 1

    run_virtual(main())


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusals_that_say_never_are_raised(run_virtual: Run, virtual_loop: VirtualTimeLoop, status: int) -> None:
    async def main() -> None:
        script = Script(virtual_loop, status)
        async with script.serving() as uri:
            with pytest.raises(InvalidStatus) as caught:
                await Following()(uri)
        assert caught.value.response.status == status
        assert len(script.times) == 1

    run_virtual(main())


TEN = BackoffConfig(max_attempts=10)


def test_a_server_that_is_not_there_is_tried_ten_times(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, follow: Following, unused: int
) -> None:
    async def main() -> None:
        start = virtual_loop.time()
        with pytest.raises(ConnectionRefusedError):
            await follow(f"ws://127.0.0.1:{unused}/", backoff=TEN)
        assert follow.delays == [1.0, 2.0, 4.0, 8.0] + [15.0] * 5
        assert virtual_loop.time() - start == pytest.approx(90, abs=1)

    run_virtual(main())


@pytest.fixture
def unused() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_retry_after_1012_and_1013_are_honoured(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, follow: Following
) -> None:
    async def main() -> None:
        busy = Response(503, Headers({"Retry-After": "40"}))
        script = Script(virtual_loop, busy, 1012, 1013, 1000)
        async with script.serving() as uri:
            await follow(uri)
        assert follow.delays == [41.0, 17.5, 17.5]

    run_virtual(main())


def test_a_handshake_that_is_cut_off_or_takes_too_long_is_tried_again(run_virtual: Run, follow: Following) -> None:
    async def main() -> None:
        seen = 0

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal seen
            seen += 1
            await reader.readuntil(b"\r\n\r\n")
            if seen == 2:
                await reader.read()  # say nothing
            elif seen == 3:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            with pytest.raises(InvalidStatus):
                await follow(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        errors = [type(event.error) for event in follow.events if isinstance(event, Retrying)]
        assert [issubclass(errors[0], InvalidHandshake), errors[1]] == [True, TimeoutError]

    run_virtual(main())


class Tokens:
    """An async function that returns another token each time."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        return f"token-{self.asked}"


@pytest.mark.parametrize("step", [401, 1008])
def test_a_fresh_token_is_asked_for_when_the_one_before_was_refused(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, follow: Following, step: int
) -> None:
    async def main() -> None:
        script = Script(virtual_loop, 0, step, 0, 1000)
        async with script.serving() as uri:
            await follow(uri, token=Tokens())
        assert script.tokens == ["token-1", "token-1", "token-2", "token-2"]

    run_virtual(main())


def test_a_fresh_token_that_is_refused_too_is_raised(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, follow: Following
) -> None:
    async def main() -> None:
        script = Script(virtual_loop, 401)
        async with script.serving() as uri:
            with pytest.raises(InvalidStatus):
                await follow(uri, token=Tokens())
        assert script.tokens == ["token-1", "token-2"]

    run_virtual(main())


def test_one_connection_can_have_its_token_from_a_function_too(run_virtual: Run, virtual_loop: VirtualTimeLoop) -> None:
    async def main() -> None:
        script = Script(virtual_loop, None)
        tokens = Tokens()
        async with script.serving() as uri:
            async with connect(uri, token=tokens):
                assert script.tokens == ["token-1"]
        assert tokens.asked == 1

    run_virtual(main())


def test_a_function_for_the_token_that_runs_out_of_its_time_is_asked_again(run_virtual: Run) -> None:
    async def main() -> None:
        asked = 0

        async def token() -> str:
            nonlocal asked
            asked += 1
            await asyncio.wait_for(asyncio.Event().wait(), 5)
            raise AssertionError

        with pytest.raises(TimeoutError, match="no token"):
            await Following()("ws://127.0.0.1:1/", token=token, backoff=TEN)
        assert asked == 10

    run_virtual(main())


@pytest.mark.parametrize(
    ("error", "times"), [(OSError("the token server is not there"), 10), (KeyError("my bug"), 1), (None, 1)]
)
def test_a_function_that_fails_is_asked_again_where_the_network_is_to_blame(
    run_virtual: Run, error: Exception | None, times: int
) -> None:
    async def main() -> None:
        asked = 0

        async def token() -> Any:
            nonlocal asked
            asked += 1
            if error is not None:
                raise error

        with pytest.raises(TypeError if error is None else type(error)):
            await Following()("ws://127.0.0.1:1/", token=token, backoff=TEN)
        assert asked == times

    run_virtual(main())


@pytest.mark.parametrize("code", [1000, 1001, 1008])
def test_the_close_of_a_connection_that_a_token_comes_over_is_no_close_of_ours(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, code: int
) -> None:
    async def main() -> None:
        asked = 0

        async def end(ws: Connection) -> None:
            await ws.close(code)

        async def token() -> str:
            nonlocal asked
            asked += 1
            if asked > 2:
                return "token"
            async with serve(end, "127.0.0.1", 0) as issuer, connect(f"ws://127.0.0.1:{port(issuer)}/") as ws:
                return str(await ws.recv())

        script = Script(virtual_loop, None, None)
        async with script.serving() as uri:
            async with ReconnectingClient(uri, token=token) as client:
                await client.connection()
            assert script.tokens == ["token"]
        asked = 0
        with pytest.raises(HandshakeInterrupted, match=f"no token, .*{code}"):
            await connect("ws://127.0.0.1:1/", token=token)

    run_virtual(main())


def test_the_application_has_its_word(run_virtual: Run, virtual_loop: VirtualTimeLoop, follow: Following) -> None:
    async def main() -> None:
        def should_retry(error: Exception) -> bool | None:
            if isinstance(error, InvalidStatus):
                return error.response.status == 404
            return None

        script = Script(virtual_loop, 404, 404, 503)
        async with script.serving() as uri:
            with pytest.raises(InvalidStatus, match="503"):
                await follow(uri, should_retry=should_retry)
        assert len(script.times) == 3

    run_virtual(main())


def test_a_connection_that_lasted_lets_the_count_begin_again(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, follow: Following
) -> None:
    async def main() -> None:
        served = 0

        async def handler(ws: Connection) -> None:
            nonlocal served
            served += 1
            await asyncio.sleep(30 if served == 4 else 1)
            if served == 6:
                await ws.close(1000)
            ws.abort()

        async with serve(handler, "127.0.0.1", 0, config=PLAIN) as server:
            await follow(f"ws://127.0.0.1:{port(server)}/")
        assert follow.delays == [1.0, 2.0, 4.0, 1.0, 2.0]

    run_virtual(main())


def test_a_connection_that_the_body_leaves_open_is_closed_and_another_follows(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        script = Script(virtual_loop, None)
        seen: list[Connection] = []
        async with script.serving() as uri:
            async for ws in connect(uri, config=PLAIN):
                assert all(earlier.close_info is not None for earlier in seen)
                seen.append(ws)
                if len(seen) == 3:
                    await ws.close()
        assert len(seen) == 3

    run_virtual(main())


@asynccontextmanager
async def open_server() -> AsyncIterator[tuple[Server, str]]:
    async def handler(ws: Connection) -> None:
        await ws.wait_closed()

    async with serve(handler, "127.0.0.1", 0, config=PLAIN) as server:
        yield server, f"ws://127.0.0.1:{port(server)}/"


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not happen")


@pytest.mark.parametrize("how", ["break", "raise", "return"])
def test_leaving_the_loop_closes_the_connection(run_virtual: Run, how: str) -> None:
    async def main() -> None:
        seen: list[Connection] = []

        async def leave(uri: str) -> None:
            async for ws in connect(uri, config=PLAIN):
                seen.append(ws)
                if how == "break":
                    break
                if how == "return":
                    return
                raise KeyError(how)

        async with open_server() as (server, uri):
            try:
                await leave(uri)
            except KeyError:
                assert how == "raise"
            await until(lambda: seen[0].close_info is not None and not server.connections)
            assert seen[0].close_info is not None
            assert seen[0].close_info.code == 1000

    run_virtual(main())


def test_it_can_be_cancelled_at_any_moment_and_leaves_nothing_behind(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        async with open_server() as (server, uri):
            me = asyncio.current_task()
            closing = ConnectionConfig(compression=None, close=CloseConfig(timeout=1))

            async def go_on() -> None:
                async with aclosing(connect(uri, config=closing).__aiter__()) as connections:
                    async for ws in connections:
                        await ws.ping()
                        await asyncio.sleep(0.01)
                        ws.abort()
                        await ws.wait_closed()

            for turns in range(80):
                task = asyncio.ensure_future(go_on())
                for _ in range(turns):
                    await asyncio.sleep(0)
                begin = virtual_loop.time()
                task.cancel()
                await asyncio.wait({task})
                assert task.cancelled()
                assert virtual_loop.time() - begin < 1.5
            await until(lambda: asyncio.all_tasks() == {me})
            assert not server.connections

    run_virtual(main())


def test_waits_end_at_once_when_cancelled(run_virtual: Run, virtual_loop: VirtualTimeLoop, unused: int) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(Following()(f"ws://127.0.0.1:{unused}/"))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait({task})
        assert virtual_loop.time() < 0.6 + 0.1

    run_virtual(main())


def test_a_socket_serves_one_connection_only() -> None:
    told = "sock is given; it serves one connection, and a client that comes back"
    with socket.socket() as sock, pytest.raises(ValueError, match=told):
        connect("ws://example.org/", sock=sock).__aiter__()


def test_an_event_hook_that_raises_ends_it_and_leaves_no_connection(run_virtual: Run) -> None:
    async def main() -> None:
        def on_event(event: ReconnectEvent) -> None:
            raise KeyError("my bug")

        async with open_server() as (server, uri):
            connections = aiter(connect(uri, config=PLAIN, on_event=on_event))
            with pytest.raises(KeyError, match="my bug"):
                await anext(connections)
            await until(lambda: not server.connections)

    run_virtual(main())


def test_the_number_of_attempts_can_be_set(run_virtual: Run, unused: int, follow: Following) -> None:
    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            await follow(f"ws://127.0.0.1:{unused}/", backoff=BackoffConfig(base=0.5, max_attempts=3))
        assert follow.delays == [0.5, 1.0]
        assert isinstance(follow.events[-1], Stopped)
        assert follow.events[-1].attempts == 3

    run_virtual(main())

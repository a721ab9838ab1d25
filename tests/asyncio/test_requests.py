"""Requests and their answers over real sockets, from both ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import websockets.asyncio.client

from wsconnkit.asyncio import Connection, answer_requests, connect, serve
from wsconnkit.machines.closing import State
from wsconnkit.managed.answering import Request
from wsconnkit.protocol.errors import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK, LocalProtocolError
from wsconnkit.service.envelope import RequestError
from wsconnkit.service.requests import RequestTimeout
from wsconnkit.service.router import RequestRouter
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .peers import Run, uri


def late(ws: Connection) -> int:
    """Return how many answers came when nobody waited for them."""
    assert ws._requests is not None
    return ws._requests.pending.late


class Work:
    """A handler of requests that go on until they are told to end; `log` says how each of them ended."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[Request] = asyncio.Queue()
        self.ends: dict[Any, asyncio.Future[Any]] = {}
        self.log: list[str] = []

    async def __call__(self, request: Request) -> Any:
        end = self.ends[request.payload] = asyncio.get_running_loop().create_future()
        self.started.put_nowait(request)
        try:
            answer = await end
        except BaseException as error:
            self.log.append(type(error).__name__)
            raise
        self.log.append("done")
        return answer

    async def start(self, ws: Connection, payload: Any = 0, timeout: float | None = 30.0) -> asyncio.Task[Any]:
        """Send a request, and return the task that waits for its answer once it has arrived."""
        asking = asyncio.ensure_future(ws.request(payload, timeout))
        await self.started.get()
        return asking


@contextlib.asynccontextmanager
async def working(**options: Any) -> AsyncIterator[tuple[Work, Connection, Connection]]:
    """Yield work, and a client's and the server's end of a connection on which it is what is asked for."""
    work, router = Work(), RequestRouter(**options)
    router.default(work)
    async with serve(router, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
        while not server.connections:
            await asyncio.sleep(0)
        yield work, ws, next(iter(server.connections))


@contextlib.asynccontextmanager
async def asking(handler: Callable[[Request], Awaitable[Any]]) -> AsyncIterator[Connection]:
    """Yield a client whose requests `handler` answers."""
    router = RequestRouter()
    router.default(handler)
    async with serve(router, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
        yield ws


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_answers_find_their_requests_in_whatever_order_and_a_hundred_may_be_in_flight(run: Run) -> None:
    async def main() -> None:
        async with working() as (work, ws, _):
            requests = [await work.start(ws, n) for n in range(100)]
            with pytest.raises(RequestError) as caught:
                await ws.request("one too many")
            assert caught.value.code == "too_many_requests"
            for n in random.Random(1).sample(range(100), 100):
                work.ends[n].set_result({"answer to": n})
            assert await asyncio.gather(*requests) == [{"answer to": n} for n in range(100)]
            again = await work.start(ws, "again")
            work.ends["again"].set_result(None)
            assert await again is None

    run(main())


def test_a_request_that_is_not_answered_in_time_fails_and_is_cancelled_on_the_other_side(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        async with working() as (work, ws, _):
            start = virtual_loop.time()
            with pytest.raises(RequestTimeout, match=r"not answered within 2\.5 s") as caught:
                await ws.request("slow", timeout=2.5)
            assert isinstance(caught.value, TimeoutError)
            assert virtual_loop.time() - start == pytest.approx(2.5, abs=0.1)
            await until(lambda: work.log)
            assert work.log == ["CancelledError"]
            assert virtual_loop.time() - start == pytest.approx(2.5, abs=0.1)
            assert ws.state is State.OPEN

    run_virtual(main())


def test_a_handler_that_takes_too_long_is_cancelled_and_the_request_answered(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        for timeout in (30.0, 2.0):
            async with working(**({} if timeout == 30.0 else {"timeout": timeout})) as (work, ws, _):
                start = virtual_loop.time()
                with pytest.raises(RequestError) as caught:
                    await ws.request("slow", timeout=None)
                assert (caught.value.code, work.log) == ("timeout", ["CancelledError"])
                assert virtual_loop.time() - start == pytest.approx(timeout, abs=0.1)
        async with working(timeout=None) as (work, ws, _):
            patient = await work.start(ws, "slow", timeout=None)
            await asyncio.sleep(100_000)
            work.ends["slow"].set_result("at last")
            assert await patient == "at last"

    run_virtual(main())


def test_cancelling_a_request_cancels_its_handler_and_nothing_else(run: Run) -> None:
    async def main() -> None:
        async with working() as (work, ws, _):
            cancelled, other = [await work.start(ws, n) for n in range(2)]
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            await until(lambda: work.log)
            work.ends[1].set_result("for the other")
            assert await other == "for the other"
            assert work.log == ["CancelledError", "done"]
            assert late(ws) == 0  # no answer was sent

    run(main())


def test_an_answer_that_comes_too_late_is_dropped_and_counted(run_virtual: Run) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            request = json.loads(await ws.recv())
            await asyncio.sleep(10)
            await ws.send(json.dumps({"type": "response", "requestId": request["requestId"], "payload": 1}))
            await ws.send("an ordinary message")

        async with serve(handler, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            with pytest.raises(RequestTimeout):
                await ws.request("slow", timeout=5)
            assert await ws.recv() == "an ordinary message"
            assert late(ws) == 1

    run_virtual(main())


def test_a_handler_may_fail_with_an_error_of_its_choice(run: Run) -> None:
    async def main() -> None:
        async def handler(request: Request) -> None:
            raise RequestError("not_found", "no such document", path=[1, "a"])

        async with asking(handler) as ws:
            with pytest.raises(RequestError, match="the request failed with 'not_found': 'no such document'") as caught:
                await ws.request({"action": "read"})
            error = caught.value
            assert (error.code, error.message) == ("not_found", "no such document")
            assert error.payload == {"code": "not_found", "message": "no such document", "path": [1, "a"]}

    run(main())


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (ValueError("secret details"), "ValueError"),
        (asyncio.CancelledError(), "CancelledError"),
        ({1, 2}, "TypeError"),
        (float("nan"), "TypeError"),
        (object(), "TypeError"),
    ],
)
def test_what_goes_wrong_in_a_handler_is_logged_and_not_told(
    run: Run, caplog: pytest.LogCaptureFixture, answer: Any, name: str
) -> None:
    async def main() -> None:
        ids: list[tuple[str, str]] = []

        async def handler(request: Request) -> Any:
            ids.append((request.id, request.connection.id))
            if isinstance(answer, BaseException):
                raise answer
            return answer

        async with asking(handler) as ws:
            for _ in range(2):  # the connection outlives it
                with pytest.raises(RequestError) as caught:
                    await ws.request("fail")
                assert caught.value.payload == {"code": "internal_error", "message": "the request failed on this side"}
        logged = [record for record in caplog.records if record.__dict__["type"] == "request_error"]
        assert [(vars(record)["request_id"], vars(record)["connection_id"]) for record in logged] == ids
        for record in logged:
            assert record.exc_info is not None
            assert record.exc_info[0] is not None
            assert record.exc_info[0].__name__ == name
            assert record.exc_info[2] is not None

    with caplog.at_level(logging.ERROR, "wsconnkit"):
        run(main())


def test_both_ends_may_ask_at_the_same_time_on_one_connection(run: Run) -> None:
    async def main() -> None:
        router, questions = RequestRouter(), RequestRouter()

        @router.action("sum")
        async def add(request: Request) -> Any:
            numbers = await asyncio.gather(*(request.connection.request({"what": n}) for n in request.payload["of"]))
            return sum(numbers)

        @questions.default
        async def number(request: Request) -> Any:
            if request.payload["what"] < 0:
                raise RequestError("negative", "numbers begin at 0")
            return request.payload["what"] * 100

        async with serve(router, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            answering = asyncio.ensure_future(answer_requests(questions, ws))
            sums = (ws.request({"action": "sum", "of": list(range(n))}) for n in range(12))
            assert await asyncio.gather(*sums) == [100 * sum(range(n)) for n in range(12)]
            with pytest.raises(RequestError) as caught:
                await ws.request({"action": "sum", "of": [-1]})
            assert caught.value.code == "negative"  # the handler let it through
            with pytest.raises(RequestError, match="unknown_action"):
                await ws.request({"action": "product"})
            await ws.close()
            await answering

    run(main())


def test_requests_and_ordinary_messages_share_a_connection(run: Run) -> None:
    async def main() -> None:
        async def echo(ws: Connection, message: str | bytes) -> None:
            await ws.send(message)

        router = RequestRouter(on_message=echo)

        @router.default
        async def answer(request: Request) -> Any:
            await request.connection.send(f"about {request.payload}")
            return request.payload

        messages: list[str | bytes] = ["text", b"\x00\xff", '{"type":"chat"}', "[]", '{"type":1}', "é" * 70_000]
        async with serve(router, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            received: list[str | bytes] = []
            for n, message in enumerate(messages):
                await ws.send(message)
                assert await ws.request(n) == n
                received += [await ws.recv(), await ws.recv()]
            assert received[::2] == messages
            assert received[1::2] == [f"about {n}" for n in range(len(messages))]

    run(main())


@pytest.mark.parametrize("who", ["client", "server", "transport"])
def test_the_end_of_the_connection_ends_its_requests_on_both_sides(
    run: Run, caplog: pytest.LogCaptureFixture, who: str
) -> None:
    async def main() -> None:
        async with working() as (work, ws, other):
            requests = [await work.start(ws, n) for n in range(20)]
            requests += [asyncio.ensure_future(other.request(n)) for n in range(20)]
            await other.ping()
            if who == "transport":
                other.abort()
            else:
                await (ws if who == "client" else other).close(4000, "enough")
            for end in await asyncio.gather(*requests, return_exceptions=True):
                assert isinstance(end, ConnectionClosedError)
                assert end.info.code == (1006 if who == "transport" else 4000)
            await until(lambda: len(work.log) == 20)
            assert work.log == ["CancelledError"] * 20
            with pytest.raises(ConnectionClosed):
                await ws.request("after the end")

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        run(main())
    assert caplog.records == []


def test_a_request_that_cannot_be_made_leaves_nothing_pending(run: Run) -> None:
    async def main() -> None:
        async with working() as (_, ws, _):
            for payload in ({1, 2}, float("inf"), object()):
                with pytest.raises(TypeError, match="cannot be sent as JSON"):
                    await ws.request(payload)
            pending = [asyncio.ensure_future(ws.request(n)) for n in range(1000)]
            await asyncio.sleep(0)
            with pytest.raises(LocalProtocolError, match="1000 requests are pending"):
                await ws.request("one too many")
            for request in pending:
                request.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            assert ws._requests is not None
            assert not ws._requests._waiting

    run(main())


def test_an_own_handler_may_answer_requests_for_a_part_of_its_life(run: Run) -> None:
    async def main() -> None:
        router, work, steps = RequestRouter(), Work(), list[str]()
        router.default(work)

        async def handler(ws: Connection) -> None:
            assert await ws.recv() == "hello"
            await ws.send("welcome")
            try:
                await answer_requests(router, ws)
            finally:
                steps.extend([*work.log, "over"])  # what was in flight has ended by now

        async with serve(handler, "127.0.0.1", 0) as server:
            for code in (1000, 4000):
                ws = await connect(uri(server))
                await ws.send("hello")
                assert await ws.recv() == "welcome"
                request = await work.start(ws)
                await ws.close(code)
                with pytest.raises(ConnectionClosedOK if code == 1000 else ConnectionClosedError):
                    await request
                await until(lambda: not server.connections)
            await until(lambda: steps[-1:] == ["over"] and len(steps) > 3)
        assert steps == ["CancelledError", "over", "CancelledError", "CancelledError", "over"]

    run(main())


def test_another_client_gets_answers_to_the_plain_envelope(run: Run) -> None:
    router = RequestRouter()

    @router.action("test")
    async def answer(request: Request) -> Any:
        return {"items": [request.id, request.payload["action"]]}

    async def main() -> None:
        async with serve(router, "127.0.0.1", 0) as server:
            async with websockets.asyncio.client.connect(uri(server), proxy=None) as ws:
                for action in ("test", "other"):
                    now = round(time.time() * 1000)
                    request = {"type": "request", "requestId": "123", "payload": {"action": action}, "timestamp": now}
                    await ws.send(json.dumps(request))
                    reply = json.loads(await ws.recv())
                    assert abs(reply.pop("timestamp") - now) < 60_000
                    if action == "test":
                        payload = {"items": ["123", "test"]}
                        assert reply == {"type": "response", "requestId": "123", "payload": payload}
                    else:
                        assert (reply["type"], reply["requestId"]) == ("error", "123")
                        assert reply["payload"]["code"] == "unknown_action"
                await ws.send("no envelope")
                reply = json.loads(await ws.recv())
                assert (reply["requestId"], reply["payload"]["code"]) == (None, "invalid_request")

    run(main())

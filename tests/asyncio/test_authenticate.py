"""Authentication by a function of the application: what it may return and raise, and who does not wait for it."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from typing import Any

import pytest

from wsconnkit.asyncio import serve
from wsconnkit.machines.deadlines import READ_GRACE
from wsconnkit.protocol.config import ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.upgrade import UpgradeRequest, refusal
from wsconnkit.service.admission import Refused
from wsconnkit.service.principal import AuthenticationError, AuthFailure, Principal
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .peers import Arrivals, Collector, Run, exchange, head, opened, port, refused

TOKEN = "opaque-token-of-alice"


class Slow:
    """Lets in whoever waits until `verdict` is set, and counts."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.verdict = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, token: str | None, request: UpgradeRequest) -> Principal:
        self.asked.set()
        try:
            await self.verdict.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Principal(subject=token or "nobody")


def test_it_is_given_the_token_and_the_request_and_says_whose_it_is(run: Run) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        seen: list[tuple[str | None, UpgradeRequest]] = []
        alice = Principal(subject="alice", tier="gold", claims={"org": 7})

        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
            seen.append((token, request))
            return alice

        async with serve(arrivals, "127.0.0.1", 0, authenticate=authenticate) as server:
            async with await opened(server, "/ws?room=1", token=TOKEN, headers={"X-Mine": "yes"}):
                ws = await arrivals.connections.get()
                assert ws.principal is alice
                assert seen == [(TOKEN, ws.upgrade_request)]
                assert (seen[0][1].target, seen[0][1].headers.get("X-Mine")) == ("/ws?room=1", "yes")
            async with await opened(server):
                assert seen[1][0] is None

    run(main())


def test_it_may_refuse_with_a_response_of_its_own(run: Run) -> None:
    async def main() -> None:
        async def authenticate(token: str | None, request: UpgradeRequest) -> Response:
            return Response(402, Headers({"Content-Type": "text/plain", "X-Price": "7"}), b"pay first")

        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate) as server:
            got = await refused(server, token=TOKEN)
            assert (got.status, got.headers.get("X-Price"), got.body) == (402, "7", b"pay first")
            assert got.headers.get("Connection") == "close"
            assert got.headers.get("Content-Length") == "9"
            assert server.stats.refused == {Refused.APPLICATION: 1}

    run(main())


@pytest.mark.parametrize("failure", AuthFailure)
def test_it_may_say_what_is_wrong_with_a_token(
    run: Run, caplog: pytest.LogCaptureFixture, failure: AuthFailure
) -> None:
    async def main() -> None:
        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
            raise AuthenticationError(failure, "only for the log")

        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate) as server:
            got = await refused(server, token=TOKEN)
            assert (got.status, got.error) == (401, f"{failure.value} token")
            assert "WWW-Authenticate" in got.headers

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        run(main())
    (record,) = caplog.records
    assert (record.__dict__["type"], record.__dict__["detail"]) == ("auth_failed", "only for the log")


@pytest.mark.parametrize(
    "error",
    [ValueError(f"no row for {TOKEN}"), RuntimeError("secret details"), TimeoutError(), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
def test_what_else_it_raises_is_told_to_the_log_alone(
    run: Run, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    async def main() -> None:
        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
            raise error

        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate) as server:
            got = await refused(server, token=TOKEN)
            assert (got.status, got.body) == (500, b'{"error": "internal error"}\n')
            assert len(server.connections) == 0

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        run(main())
    assert [record.__dict__["type"] for record in caplog.records] == ["auth_error"]
    assert type(error).__name__ in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        None,
        True,
        "alice",
        Response(101),
        Response(401, Headers({"Content-Length": "7"})),
        Response(401, Headers({"X": "line\nbreak"})),
        Response(204, Headers(), b"a body"),
    ],
    ids=repr,
)
def test_an_answer_that_cannot_be_sent_is_an_internal_error(
    run: Run, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    async def main() -> None:
        async def authenticate(token: str | None, request: UpgradeRequest) -> Any:
            return answer

        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate) as server:
            got = await refused(server, token=TOKEN)
            assert (got.status, got.body) == (500, b'{"error": "internal error"}\n')

    with caplog.at_level(logging.WARNING, "wsconnkit"):
        run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR"]


# Time.


def test_one_that_hangs_is_cancelled_after_the_handshakes_timeout(
    run_virtual: Run, virtual_loop: VirtualTimeLoop
) -> None:
    async def main() -> None:
        authenticate = Slow()
        config = ConnectionConfig(handshake=HandshakeLimits(timeout=3.0))
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate, config=config) as server:
            start = virtual_loop.time()
            got = await refused(server, token=TOKEN)
            assert virtual_loop.time() == pytest.approx(start + 3 + READ_GRACE)
            assert (got.status, got.error) == (503, "the server is too slow")
            assert got.retry_after == 1
            assert authenticate.cancelled == 1
        assert server.stats.refused == {Refused.UNAVAILABLE: 1}

    run_virtual(main())


@pytest.mark.parametrize("outcome", ["principal", "refusal", "error"])
def test_one_that_ends_otherwise_when_it_is_cancelled_changes_nothing(run_virtual: Run, outcome: str) -> None:
    async def main() -> None:
        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal | Response:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if outcome == "error":
                    raise AuthenticationError(AuthFailure.INVALID) from None
            return Principal(subject="alice") if outcome == "principal" else refusal(403, "too late")

        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate) as server:
            got = await exchange(server, head())
            assert (got.status, got.error) == (503, "the server is too slow")
            assert len(server.connections) == 0
        assert server.stats.refused == {Refused.UNAVAILABLE: 1}
        gc.collect()  # an exception that nobody takes is told when its task goes

    run_virtual(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_it_is_cancelled_when_the_client_leaves(run: Run, how: str) -> None:
    async def main() -> None:
        authenticate = Slow()
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", port(server))
            writer.write(head())
            await authenticate.asked.wait()
            before = len(asyncio.all_tasks())
            writer.close() if how == "close" else writer.transport.abort()
            while not authenticate.cancelled:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) == before - 1
            assert len(server.connections) == 0
            assert server.stats.opened == 0
            assert not server.stats.refused

    run(main())


@pytest.mark.parametrize("verdict", ["in", "out", "error"])
def test_a_client_may_leave_in_the_moment_of_the_verdict(run: Run, verdict: str) -> None:
    async def main() -> None:
        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal | Response:
            principal = await slow(token, request)
            if verdict == "error":
                raise AuthenticationError(AuthFailure.INVALID)
            return principal if verdict == "in" else refusal(403, "not you")

        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate) as server:
            for turns in range(6):
                slow = Slow()
                with socket.create_connection(("127.0.0.1", port(server))) as sock:
                    sock.sendall(head())
                    await slow.asked.wait()
                for _ in range(turns):
                    await asyncio.sleep(0)
                asyncio.get_running_loop().call_soon(slow.verdict.set)
                await slow.verdict.wait()
                for _ in range(6):
                    await asyncio.sleep(0)
        gc.collect()  # an exception that nobody takes is told when its task goes

    run(main())


def test_it_is_cancelled_when_the_server_closes(run: Run) -> None:
    async def main() -> None:
        authenticate = Slow()
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate) as server:
            opening = asyncio.ensure_future(refused(server, token=TOKEN))
            await authenticate.asked.wait()
        assert authenticate.cancelled == 1
        got = await opening
        assert (got.status, got.error) == (503, "the server is shutting down")

    run(main())


def test_whoever_was_not_let_in_before_a_drain_is_refused(run: Run) -> None:
    async def main() -> None:
        authenticate = Slow()
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate) as server:
            authenticate.verdict.set()
            client = await opened(server, token=TOKEN)
            (ws,) = server.connections
            authenticate.asked.clear()
            authenticate.verdict.clear()
            waiting = asyncio.ensure_future(refused(server, token=TOKEN))
            await authenticate.asked.wait()
            with ws.busy():
                draining = asyncio.ensure_future(server.drain(window=0, grace=60))
                while not server.is_draining:
                    await asyncio.sleep(0)
                authenticate.verdict.set()
                got = await waiting
                assert (got.status, got.error, got.retry_after) == (503, "the server is shutting down", 10)
            await draining
            await client.wait_closed()

    run(main())


def test_messages_that_come_before_the_verdict_are_kept_up_to_a_bound(run: Run) -> None:
    async def main() -> None:
        collector = Collector()
        authenticate = Slow()
        async with serve(collector, "127.0.0.1", 0, authenticate=authenticate) as server:
            frames = b"".join(b"\x81\x81\0\0\0\0%d" % number for number in range(10)) + b"\x88\x80\0\0\0\0"
            reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
            writer.write(head() + frames[:25])
            await authenticate.asked.wait()
            writer.write(frames[25:])
            await asyncio.sleep(0)
            authenticate.verdict.set()
            assert (await reader.read()).startswith(b"HTTP/1.1 101 ")
            writer.close()
            assert collector.messages == list("0123456789")

    run(main())


def test_too_much_before_the_verdict_is_refused(run: Run) -> None:
    async def main() -> None:
        authenticate = Slow()
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
            writer.write(head())
            await authenticate.asked.wait()
            writer.write(bytes(1024 * 1024))
            assert (await reader.read()).endswith(b'{"error": "too much was sent before the upgrade was accepted"}\n')
            writer.close()
            assert authenticate.cancelled == 1

    run(main())


def test_a_slow_one_holds_up_nobody_else(run: Run) -> None:
    async def main() -> None:
        slow = Slow()

        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
            return await slow(token, request) if token == "slow" else Principal(subject="fast")

        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate) as server:
            waiting = asyncio.ensure_future(opened(server, token="slow"))
            await slow.asked.wait()
            async with await opened(server, token="fast") as client:
                assert await client.ping() >= 0
            assert not waiting.done()
            slow.verdict.set()
            await (await waiting).close()

    run(main())


# What it is given to.


def test_the_applications_own_bearer_is_no_second_one(run: Run) -> None:
    async def main() -> None:
        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
            return Principal(subject="alice")

        async with serve(
            Arrivals(), "127.0.0.1", 0, authenticate=authenticate, subprotocols=["chat", "bearer"]
        ) as server:
            async with await opened(server, subprotocols=["bearer", TOKEN]) as client:
                assert client.subprotocol == "bearer"

    run(main())

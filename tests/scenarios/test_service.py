"""The service around connections: who may come in, how often, for how long, requests, and how a server ends."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Sequence
from typing import Any

import pytest

from wsconnkit.machines.closing import State
from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.managed.answering import Request
from wsconnkit.observe.metrics import render_metrics
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.errors import InvalidStatus
from wsconnkit.protocol.frames import Opcode
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.upgrade import HTTPRequest, UpgradeRequest
from wsconnkit.service.admission import AdmissionConfig, Rates, Refused
from wsconnkit.service.drain import Outcome
from wsconnkit.service.envelope import RequestError
from wsconnkit.service.principal import AuthenticationError, AuthFailure, KeysNeeded, KeysUnavailable, Principal
from wsconnkit.service.requests import RequestTimeout
from wsconnkit.service.router import RequestRouter

from .driver import CANCELLED, Driver, Wire, port_of
from .raw import PLAIN, Arrivals, Readers, echo, info, raw_client


async def whose(token: str | None, request: UpgradeRequest) -> Principal | Response:
    """Tokens are names; two of them are special."""
    if token is None:
        raise AuthenticationError(AuthFailure.MISSING)
    if token == "expired":
        raise AuthenticationError(AuthFailure.EXPIRED)
    if token == "teapot":
        return Response(418, Headers(), b"short and stout")
    if token == "broken":
        raise ZeroDivisionError
    return Principal(subject=token.partition("-")[0])


async def refused(driver: Driver, server: Any, path: str = "/", **kwargs: Any) -> Response:
    async def attempt() -> None:
        async with driver.connect(server, path, **kwargs):
            pass

    with pytest.raises(InvalidStatus) as caught:
        await attempt()
    return caught.value.response


async def get(driver: Driver, server: Any, path: str, headers: Sequence[str] = ()) -> tuple[int, bytes]:
    wire = await driver.dial(server)
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]
    await wire.send("\r\n".join(lines).encode())
    data = b""
    while more := await wire.receive():
        data += more
    await wire.close()
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


@pytest.mark.parametrize(
    ("token", "status", "error"),
    [
        (None, 401, "missing token"),
        ("expired", 401, "expired token"),
        ("broken", 500, "internal error"),
    ],
)
def test_without_a_good_token_nobody_comes_in(driver: Driver, token: str | None, status: int, error: str) -> None:
    async def main() -> None:
        async with driver.serve(echo, authenticate=whose) as server:
            response = await refused(driver, server, token=token)
            assert (response.status, json.loads(response.body)["error"]) == (status, error)
            assert not server.connections

    driver.run(main)


def test_the_application_may_refuse_as_it_likes(driver: Driver) -> None:
    async def main() -> None:
        async with driver.serve(echo, authenticate=whose) as server:
            response = await refused(driver, server, token="teapot")
            assert (response.status, response.body) == (418, b"short and stout")

    driver.run(main)


def test_a_connection_knows_whose_it_is_and_is_found_by_that(driver: Driver) -> None:
    async def main() -> None:
        arrivals = Arrivals(driver)
        async with driver.serve(arrivals, authenticate=whose) as server:
            async with driver.connect(server, "/path?x=1", token="alice") as client:
                ws = await arrivals.next()
                assert ws.principal.subject == "alice"
                assert server.connections.by_user("alice") == (ws,)
                assert server.connections.get(ws.id) is ws
                assert ws.upgrade_request.path == "/path"
                assert client.subprotocol is None
            await ws.wait_closed()
            assert server.connections.by_user("alice") == ()

    driver.run(main)


def test_who_takes_too_long_to_authenticate_is_refused_and_cancelled(driver: Driver) -> None:
    async def main() -> None:
        cancelled: list[bool] = []

        async def for_ever(token: str | None, request: UpgradeRequest) -> Principal:
            try:
                await driver.sleep(1_000_000)
            finally:
                cancelled.append(True)
            raise AssertionError

        config = ConnectionConfig(handshake=HandshakeLimits(timeout=driver.seconds(5)))
        async with driver.serve(echo, authenticate=for_ever, config=config) as server:
            response = await refused(driver, server)
            assert response.status == 503
            await driver.until(lambda: cancelled)

    driver.run(main)


def test_a_client_that_leaves_while_it_is_authenticated_leaves_nothing(driver: Driver) -> None:
    async def main() -> None:
        begun: list[bool] = []
        ended: list[bool] = []

        async def for_ever(token: str | None, request: UpgradeRequest) -> Principal:
            begun.append(True)
            try:
                await driver.sleep(1_000_000)
            finally:
                ended.append(True)
            raise AssertionError

        async with driver.serve(echo, authenticate=for_ever) as server, driver.tasks() as start:
            task = start(lambda: refused(driver, server))
            await driver.until(lambda: begun)
            task.cancel()
            assert await task.join() is CANCELLED
            await driver.until(lambda: ended)
            assert not server.connections

    driver.run(main)


class Slow:
    """Answers nothing before it is cancelled."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.asked = 0
        self.cancelled = 0

    async def __call__(self, *what: object) -> Any:
        self.asked += 1
        try:
            await self._driver.sleep(1_000_000)
        finally:
            self.cancelled += 1


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def receive_all(wire: Wire) -> bytes:
    data = b""
    while more := await wire.receive():
        data += more
    return data


@pytest.mark.parametrize("end", ["drain", "close"])
def test_who_still_waits_to_be_let_in_when_the_server_ends_is_told_to_come_back(driver: Driver, end: str) -> None:
    async def main() -> None:
        slow = Slow(driver)
        async with driver.serve(echo, authenticate=slow) as server, driver.tasks() as start:
            clients = [start(lambda: refused(driver, server)) for _ in range(3)]
            await driver.until(lambda: slow.asked == 3)
            await (server.drain(window=0) if end == "drain" else server.close())
            for client in clients:
                response = await client.join()
                assert (response.status, response.headers.get("Retry-After")) == (503, "10")
                assert json.loads(response.body) == {"error": "the server is shutting down"}
            await driver.until(lambda: slow.cancelled == 3)
            assert server.stats.refused == {Refused.DRAINING: 3}
            assert server.stats.opened == 0

    driver.run(main)


def test_a_page_that_is_not_made_when_the_server_ends_is_unavailable(driver: Driver) -> None:
    async def main() -> None:
        slow = Slow(driver)
        async with driver.serve(echo, http=slow) as server, driver.tasks() as start:
            client = start(lambda: get(driver, server, "/page"))
            await driver.until(lambda: slow.asked)
            await server.close()
            status, body = await client.join()
            assert (status, json.loads(body)) == (503, {"error": "the server is shutting down"})
            await driver.until(lambda: slow.cancelled)
            assert not server.stats.refused

    driver.run(main)


@pytest.mark.parametrize("sent", [UPGRADE, UPGRADE[:50], b""], ids=["all", "half", "nothing"])
def test_who_does_not_leave_when_the_server_ends_is_dropped_at_the_close_timeout(driver: Driver, sent: bytes) -> None:
    async def main() -> None:
        slow = Slow(driver)
        config = ConnectionConfig(close=CloseConfig(timeout=driver.seconds(5)))
        begun = driver.now()
        async with driver.serve(echo, authenticate=slow, config=config) as server:
            wire = await driver.dial(server)
            await wire.send(sent)
            await driver.until(lambda: slow.asked if sent == UPGRADE else True)
            await driver.sleep(1)
            await server.close()
            driver.assert_elapsed(begun, 6 if sent == UPGRADE else 1)
        answer = await receive_all(wire)
        if sent == UPGRADE:
            assert answer.endswith(b'\r\n\r\n{"error": "the server is shutting down"}\n')
        else:
            assert answer == b""
        await wire.close()

    driver.run(main)


def test_an_answer_that_is_under_way_when_the_server_ends_arrives_whole(driver: Driver) -> None:
    async def main() -> None:
        async def refuse(token: str | None, request: UpgradeRequest) -> Response:
            return Response(403, Headers(), bytes(20_000_000))

        async with driver.serve(echo, authenticate=refuse) as server, driver.tasks() as start:
            wire = await driver.dial(server)
            await wire.send(UPGRADE)
            await driver.until(lambda: server.stats.refused)
            closing = start(server.close)
            await driver.turn()
            assert (await receive_all(wire)).partition(b"\r\n\r\n")[2] == bytes(20_000_000)
            await wire.close()
            await closing.join()

    driver.run(main)


def test_a_late_refusal_arrives_whole(driver: Driver) -> None:
    async def main() -> None:
        async def refuse(token: str | None, request: UpgradeRequest) -> Response:
            await driver.sleep(8)
            return Response(403, Headers(), bytes(20_000_000))

        config = ConnectionConfig(handshake=HandshakeLimits(timeout=driver.seconds(10)))
        async with driver.serve(echo, authenticate=refuse, config=config) as server:
            wire = await driver.dial(server)
            await wire.send(UPGRADE)
            await driver.sleep(9)
            assert (await receive_all(wire)).partition(b"\r\n\r\n")[2] == bytes(20_000_000)
            await wire.close()

    driver.run(main)


@pytest.mark.parametrize("verdict", [Principal(subject="alice"), Response(403)], ids=["in", "out"])
def test_a_client_that_leaves_in_the_moment_of_its_verdict_is_not_counted(
    network: Driver, verdict: Principal | Response
) -> None:
    async def main() -> None:
        arrivals = Arrivals(network)
        asked: list[bool] = []
        given: list[bool] = []

        async def judge(token: str | None, request: UpgradeRequest) -> Principal | Response:
            asked.append(True)
            await network.until(lambda: len(given) == len(asked))
            return verdict

        async with network.serve(arrivals, authenticate=judge) as server:
            for number in range(20):
                with socket.create_connection(("127.0.0.1", port_of(server))) as sock:
                    sock.sendall(UPGRADE)
                    await network.until(lambda number=number: len(asked) > number)  # type: ignore[misc]
                given.append(True)
                for _ in range(10):
                    await network.turn()
        assert server.stats.opened == 0
        assert not server.stats.refused
        assert arrivals.connections == []

    network.run(main)


def test_a_refusal_is_counted_when_it_is_sent(driver: Driver) -> None:
    async def main() -> None:
        async with driver.serve(echo, path="/ws") as server:
            wire = await driver.dial(server)
            await wire.send(UPGRADE)
            assert (await wire.receive()).startswith(b"HTTP/1.1 404 ")
            assert server.stats.refused == {Refused.PATH: 1}
            await wire.close()

    driver.run(main)


class SlowKeys:
    """A verifier whose keys must be fetched, once for all who wait."""

    def __init__(self) -> None:
        self.fetched = 0

    def verify(self, token: str, now: float, *, waited: bool = False) -> Principal:
        if not self.fetched:
            if waited:
                raise KeysUnavailable
            raise KeysNeeded
        return Principal(subject=token)

    def begin_fetch(self, now: float) -> bool:
        return True

    def fetch(self) -> None:
        self.fetched += 1


def test_keys_are_fetched_once_for_all_who_need_them(driver: Driver) -> None:
    async def main() -> None:
        keys = SlowKeys()
        arrivals = Readers(driver)
        async with driver.serve(arrivals, authenticate=keys) as server, driver.tasks() as start:

            async def client() -> str:
                async with driver.connect(server, token="alice") as ws:
                    await ws.ping()
                return "been there"

            clients = [start(client) for _ in range(3)]
            # Threads are not waited for by a clock that is not the machine's.
            await driver.until(lambda: all(task.done for task in clients))
            assert [await task.join() for task in clients] == ["been there"] * 3
            assert keys.fetched == 1

    driver.run(main)


def test_a_fetch_that_goes_wrong_is_logged_and_refuses_those_who_wait_for_it(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    class BadKeys(SlowKeys):
        def fetch(self) -> None:
            raise ZeroDivisionError

    async def main() -> None:
        async with driver.serve(echo, authenticate=BadKeys()) as server, driver.tasks() as start:
            for _ in range(2):
                attempt = start(lambda: refused(driver, server, token="alice"))
                await driver.until(lambda attempt=attempt: attempt.done)  # type: ignore[misc]
                assert (await attempt.join()).status == 503

    with caplog.at_level(logging.ERROR, "wsconnkit"):
        driver.run(main)
    assert [record.__dict__["type"] for record in caplog.records] == ["auth_error"] * 2


def test_a_token_that_expires_ends_the_connection_unless_a_fresh_one_came(driver: Driver) -> None:
    async def main() -> None:
        async def until(token: str | None, request: UpgradeRequest) -> Principal:
            assert token is not None
            return Principal(subject="alice", expires_at=time.time() + driver.seconds(float(token)))

        arrivals = Readers(driver)
        async with driver.serve(arrivals, authenticate=until, reauthenticate=True) as server:
            async with driver.connect(server, token="50") as ws:
                await driver.sleep(30)
                await ws.reauthenticate("100")
                await driver.sleep(50)
                assert ws.state is State.OPEN
                await ws.wait_closed()
                assert (info(ws).code, info(ws).reason) == (1008, "token expired")
                await arrivals.connections[0].wait_closed()
                assert info(arrivals.connections[0]).cause is Cause.AUTH_EXPIRED

    driver.run(main)


def test_a_fresh_token_of_someone_else_is_refused_and_changes_nothing(driver: Driver) -> None:
    async def main() -> None:
        async with driver.serve(echo, authenticate=whose, reauthenticate=True) as server:
            async with driver.connect(server, token="alice") as ws:
                with pytest.raises(RequestError, match="auth_failed"):
                    await ws.reauthenticate("mallory")
                await ws.reauthenticate("alice-again")
                await ws.send("as before")
                assert await ws.recv() == "as before"

    driver.run(main)


def test_a_fresh_token_that_is_not_verified_in_time_does_not_keep_later_ones_out(driver: Driver) -> None:
    async def main() -> None:
        cancelled: list[bool] = []

        async def slow(token: str | None, request: UpgradeRequest) -> Principal:
            if token == "hangs":
                try:
                    await driver.sleep(1_000_000)
                finally:
                    cancelled.append(True)
            return Principal(subject="alice")

        config = ConnectionConfig(handshake=HandshakeLimits(timeout=driver.seconds(5)))
        async with driver.serve(echo, authenticate=slow, reauthenticate=True, config=config) as server:
            async with driver.connect(server, token="good") as ws:
                begun = driver.now()
                with pytest.raises(RequestError, match="auth_unavailable"):
                    await ws.reauthenticate("hangs", None)
                driver.assert_elapsed(begun, 5)
                await driver.until(lambda: cancelled)
                await ws.reauthenticate("good")

    driver.run(main)


def test_the_answer_to_a_fresh_token_reaches_a_client_that_reads_late(driver: Driver) -> None:
    async def main() -> None:
        renewed: list[bool] = []

        async def fresh(token: str | None, request: UpgradeRequest) -> Principal:
            return Principal(subject="alice", claims={"fresh": token == "fresh"})

        async def flood(ws: Any) -> None:
            while not ws.principal.claims["fresh"]:
                await ws.send("x" * 100_000)
            renewed.append(True)
            await ws.wait_closed()

        async with driver.serve(flood, authenticate=fresh, reauthenticate=True, config=PLAIN) as server:
            async with raw_client(driver, server) as client:
                await driver.sleep(1)
                auth = {"type": "auth", "requestId": "r-1", "payload": {"token": "fresh"}}
                await client.send(Opcode.TEXT, json.dumps(auth).encode())
                (ws,) = server.connections
                await driver.until(lambda: ws.principal.claims["fresh"])
                while True:
                    frame = await client.read()
                    assert frame is not None
                    if frame.payload != b"x" * 100_000:
                        break
                assert json.loads(frame.payload)["requestId"] == "r-1"

    driver.run(main)


def test_too_many_upgrades_are_refused_with_429(driver: Driver) -> None:
    async def main() -> None:
        admission = AdmissionConfig(per_user=Rates(upgrades=RateLimit(2, driver.seconds(600))))
        async with driver.serve(echo, authenticate=whose, admission=admission) as server:
            for _ in range(2):
                async with driver.connect(server, token="alice"):
                    pass
            response = await refused(driver, server, token="alice")
            assert response.status == 429
            assert int(response.headers.get("Retry-After") or 0) >= 1
            async with driver.connect(server, token="bob"):
                pass

    driver.run(main)


def test_a_user_has_at_most_as_many_connections_as_are_allowed(driver: Driver) -> None:
    async def main() -> None:
        admission = AdmissionConfig(max_connections=3, max_connections_per_user=1)
        async with driver.serve(Arrivals(driver), authenticate=whose, admission=admission) as server:
            async with driver.connect(server, token="alice"), driver.connect(server, token="bob"):
                assert (await refused(driver, server, token="alice")).status == 429
                async with driver.connect(server, token="carol"):
                    assert (await refused(driver, server, token="dave")).status == 503
            await driver.until(lambda: not server.connections)
            async with driver.connect(server, token="alice"):
                pass

    driver.run(main)


def test_messages_beyond_the_rate_are_answered_with_an_error_and_then_with_a_close(driver: Driver) -> None:
    async def main() -> None:
        rates = Rates(messages=RateLimit(2, driver.seconds(600)))
        admission = AdmissionConfig(per_user=rates, max_violations=2)
        async with driver.serve(echo, authenticate=whose, admission=admission) as server:
            async with driver.connect(server, token="alice") as ws:
                for text in ("1", "2", "3"):
                    await ws.send(text)
                replies = {await ws.recv() for _ in range(3)}
                assert {"1", "2"} < replies  # the error may overtake what the handler sends
                (error,) = replies - {"1", "2"}
                assert json.loads(error)["payload"]["code"] == "rate_limited"
                await ws.send("4")
                await ws.wait_closed()
                assert (info(ws).code, info(ws).reason) == (1008, "rate limit exceeded")

    driver.run(main)


def test_refusals_name_their_reason(driver: Driver) -> None:
    async def main() -> None:
        async with driver.serve(echo, path="/ws", origins=["https://app.example"]) as server:
            assert (await refused(driver, server, "/elsewhere")).status == 404
            evil = {"Origin": "https://evil.example"}
            assert (await refused(driver, server, "/ws", headers=evil)).status == 403
            assert (await get(driver, server, "/ws"))[0] == 426
            assert (await get(driver, server, "/nothing"))[0] == 404
            assert (await get(driver, server, "no-path"))[0] == 400
            async with driver.connect(server, "/ws", headers={"Origin": "https://app.example"}):
                pass

    driver.run(main)


def test_pages_of_ours_and_of_the_application_are_answered(driver: Driver) -> None:
    async def main() -> None:
        async def http(request: HTTPRequest) -> Response | None:
            if request.path == "/broken":
                raise ZeroDivisionError
            return Response(200, Headers(), b"hello") if request.path == "/hello" else None

        async with driver.serve(echo, http=http, metrics=render_metrics) as server:
            assert await get(driver, server, "/healthz") == (200, b'{"status": "ok"}\n')
            assert await get(driver, server, "/readyz") == (200, b'{"status": "ready"}\n')
            status, text = await get(driver, server, "/metrics")
            assert status == 200
            assert b"wsconnkit_" in text
            assert await get(driver, server, "/hello") == (200, b"hello")
            assert (await get(driver, server, "/broken"))[0] == 500

    driver.run(main)


def test_metrics_can_be_for_those_who_have_their_token(driver: Driver) -> None:
    async def main() -> None:
        token = "0123456789abcdef"
        async with driver.serve(echo, metrics=render_metrics, metrics_token=token) as server:
            assert (await get(driver, server, "/metrics"))[0] == 401
            assert (await get(driver, server, "/metrics", [f"Authorization: Bearer {token}"]))[0] == 200
            assert (await get(driver, server, "/healthz"))[0] == 200

    driver.run(main)


@pytest.mark.parametrize("answer", ["text", b"bytes", 7, Response(204, Headers(), b"a body"), Response(101)])
def test_an_application_that_answers_with_no_response_is_an_internal_error(
    driver: Driver, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    async def main() -> None:
        async def http(request: HTTPRequest) -> Any:
            return answer

        async with driver.serve(echo, http=http) as server:
            assert await get(driver, server, "/page") == (500, b'{"error": "internal error"}\n')

    with caplog.at_level(logging.ERROR, "wsconnkit"):
        driver.run(main)
    assert [record.__dict__["type"] for record in caplog.records] == ["http_error"]


def test_pages_of_the_application_are_for_allowed_hosts_only_and_health_for_all(driver: Driver) -> None:
    async def main() -> None:
        async def http(request: HTTPRequest) -> Response:
            return Response(200, Headers(), b"private")

        async with driver.serve(echo, http=http, allowed_hosts=["chat.example"]) as server:
            refused = (421, b'{"error": "this server does not answer for this host"}\n')
            assert await get(driver, server, "/page") == refused
            assert await get(driver, server, "http://chat.example/page") == (200, b"private")
            assert (await get(driver, server, "/healthz"))[0] == 200

    driver.run(main)


def test_what_an_application_says_of_a_request_is_logged_without_its_credentials(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async def http(request: HTTPRequest) -> Response:
            raise ValueError(f"no row for {request.target}")

        async with driver.serve(echo, http=http) as server:
            assert (await get(driver, server, "/page?token=opaque-token-of-alice"))[0] == 500

    with caplog.at_level(logging.ERROR, "wsconnkit"):
        driver.run(main)
    assert "no row for /page?token=***" in caplog.text
    assert "opaque-token-of-alice" not in caplog.text


def test_requests_are_answered_many_at_once(driver: Driver) -> None:
    async def main() -> None:
        router = RequestRouter()

        @router.action("double")
        async def double(request: Request) -> int:
            await driver.sleep(request.payload["wait"])
            return 2 * int(request.payload["n"])

        async with driver.serve(router) as server, driver.connect(server) as ws, driver.tasks() as start:
            asked = [
                start(lambda n=n: ws.request({"action": "double", "n": n, "wait": 10 - n}))  # type: ignore[misc]
                for n in range(10)
            ]
            assert [await task.join() for task in asked] == [2 * n for n in range(10)]

    driver.run(main)


def test_requests_that_fail_are_answered_with_errors(driver: Driver) -> None:
    async def main() -> None:
        router = RequestRouter(timeout=driver.seconds(20), max_concurrent=1)

        @router.action("missing")
        async def missing(request: Request) -> None:
            raise RequestError("not_found", "no such thing")

        @router.action("bug")
        async def bug(request: Request) -> None:
            raise ZeroDivisionError("secret internals")

        @router.action("slow")
        async def slow(request: Request) -> None:
            await driver.sleep(1_000_000)

        async with driver.serve(router) as server, driver.connect(server) as ws, driver.tasks() as start:
            for action, code in (("missing", "not_found"), ("bug", "internal_error"), ("else", "unknown_action")):
                with pytest.raises(RequestError) as caught:
                    await ws.request({"action": action})
                assert caught.value.code == code
                assert "secret" not in str(caught.value)
            begun = driver.now()
            waiting = start(lambda: ws.request({"action": "slow"}))
            await driver.sleep(5)
            with pytest.raises(RequestError, match="too_many_requests"):
                await ws.request({"action": "missing"})
            with pytest.raises(RequestError, match="timeout"):
                await waiting.join()
            driver.assert_elapsed(begun, 20)

    driver.run(main)


def test_a_request_that_is_not_answered_in_time_is_given_up_and_the_handler_cancelled(driver: Driver) -> None:
    async def main() -> None:
        router = RequestRouter()
        cancelled: list[float] = []

        @router.default
        async def slow(request: Request) -> None:
            try:
                await driver.sleep(1_000_000)
            finally:
                cancelled.append(driver.now())

        async with driver.serve(router) as server, driver.connect(server) as ws:
            begun = driver.now()
            with pytest.raises(RequestTimeout):
                await ws.request({}, driver.seconds(10))
            driver.assert_elapsed(begun, 10)
            await driver.until(lambda: cancelled)

    driver.run(main)


def test_messages_that_are_no_requests_go_to_the_application(driver: Driver) -> None:
    async def main() -> None:
        async def on_message(ws: Any, message: str | bytes) -> None:
            await ws.send(message)

        async with driver.serve(RequestRouter(on_message=on_message)) as server, driver.connect(server) as ws:
            await ws.send(b"no request")
            assert await ws.recv() == b"no request"

    driver.run(main)


def test_a_drain_spreads_the_closes_waits_for_work_and_refuses_newcomers(driver: Driver) -> None:
    async def main() -> None:
        router = RequestRouter(timeout=None)

        @router.default
        async def work(request: Request) -> str:
            await driver.sleep(60)
            return "done"

        async with driver.serve(router) as server, driver.tasks() as start:
            async with driver.connect(server) as busy, driver.connect(server) as one, driver.connect(server) as two:
                await one.ping()
                await two.ping()
                working = start(lambda: busy.request({}, None))
                await driver.sleep(1)
                begun = driver.now()
                draining = start(lambda: server.drain(window=driver.seconds(45), grace=driver.seconds(100)))
                await driver.sleep(1)
                assert server.is_draining
                assert (await refused(driver, server)).status == 503
                assert (await get(driver, server, "/readyz"))[0] == 503
                assert busy.state is one.state is two.state is State.OPEN
                await one.wait_closed()
                driver.assert_elapsed(begun, 15)
                assert await working.join() == "done"
                report = await draining.join()
                assert report.counts[Outcome.CLOSED] == 3
                assert {info(ws).code for ws in (busy, one, two)} == {1012}
                assert not server.connections

    driver.run(main)


def test_a_handler_learns_of_the_drain_and_what_is_left_is_aborted_at_the_deadline(driver: Driver) -> None:
    async def main() -> None:
        told: list[bool] = []

        async def handler(ws: Any) -> None:
            assert not ws.draining
            with ws.busy():
                await ws.draining
                assert ws.draining
                told.append(True)
                await ws.wait_closed()

        async with driver.serve(handler, config=PLAIN) as server, raw_client(driver, server):
            await driver.until(lambda: server.connections)
            await driver.turn()
            begun = driver.now()
            report = await server.drain(window=driver.seconds(1), grace=driver.seconds(9))
            driver.assert_elapsed(begun, 10.1)  # with the moment in which it is told to close
            assert told == [True]
            assert report.counts[Outcome.ABORTED] == 1

    driver.run(main)


def test_a_drain_that_is_cancelled_goes_on(driver: Driver) -> None:
    async def main() -> None:
        async with driver.serve(echo) as server, driver.tasks() as start:
            async with driver.connect(server) as ws:
                await ws.ping()
                draining = start(lambda: server.drain(window=driver.seconds(10)))
                await driver.turn()
                draining.cancel()
                await draining.join()
                await ws.wait_closed()
                assert info(ws).code == 1012
                await server.wait_closed()

    driver.run(main)


def test_a_connection_that_ends_before_the_drain_tells_those_who_wait_for_it(driver: Driver) -> None:
    async def main() -> None:
        outcome: list[str] = []

        async def handler(ws: Any) -> None:
            try:
                await ws.draining
            except Exception as error:
                outcome.append(type(error).__name__)
                raise

        async with driver.serve(handler) as server:
            async with driver.connect(server) as ws:
                await ws.ping()
            await driver.until(lambda: outcome)
            assert outcome == ["ConnectionClosedOK"]

    driver.run(main)


def test_health_and_numbers_of_the_server(driver: Driver) -> None:
    async def main() -> None:
        async with driver.serve(echo) as server:
            async with driver.connect(server) as ws:
                await ws.send("x")
                await ws.recv()
                health = server.health()
                assert (health.active, health.healthy, health.unhealthy) == (1, 1, 0)
            await driver.until(lambda: not server.connections)
            assert server.stats.opened == 1
            assert server.stats.ended.messages_received == server.stats.ended.messages_sent == 1
            assert sum(server.stats.closed.values()) == 1

    driver.run(main)

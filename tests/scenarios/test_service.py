"""The service around connections: who may come in, how often, for how long, requests, and how a server ends."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from wsconnkit.machines.closing import State
from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.observe.metrics import render_metrics
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.errors import InvalidStatus
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.upgrade import HTTPRequest, UpgradeRequest
from wsconnkit.service.admission import AdmissionConfig, Rates
from wsconnkit.service.drain import Outcome
from wsconnkit.service.envelope import RequestError
from wsconnkit.service.principal import AuthenticationError, AuthFailure, KeysNeeded, KeysUnavailable, Principal
from wsconnkit.service.requests import RequestTimeout
from wsconnkit.service.router import Request, RequestRouter

from .driver import CANCELLED, Driver
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
        router = RequestRouter()

        @router.default
        async def work(request: Request) -> str:
            await driver.sleep(15)
            return "done"

        async with driver.serve(router) as server, driver.tasks() as start:
            async with driver.connect(server) as busy, driver.connect(server) as one, driver.connect(server) as two:
                await one.ping()
                await two.ping()
                working = start(lambda: busy.request({}))
                await driver.sleep(1)
                begun = driver.now()
                draining = start(lambda: server.drain(window=driver.seconds(9), grace=driver.seconds(100)))
                await driver.sleep(1)
                assert server.is_draining
                assert (await refused(driver, server)).status == 503
                assert (await get(driver, server, "/readyz"))[0] == 503
                assert busy.state is one.state is two.state is State.OPEN
                await one.wait_closed()
                driver.assert_elapsed(begun, 3)
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
            driver.assert_elapsed(begun, 10)
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
            assert server.tally.opened == 1
            assert server.tally.ended.messages_received == server.tally.ended.messages_sent == 1
            assert sum(server.tally.closed.values()) == 1

    driver.run(main)

"""Tokens that expire while their connection is open, and fresh ones that are sent in messages."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Generator
from typing import Any

import pytest

from wsconnkit.asyncio import Connection, serve
from wsconnkit.machines.deadlines import READ_GRACE
from wsconnkit.protocol.closeinfo import Cause, CloseInfo, Initiator
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.protocol.http import Response
from wsconnkit.protocol.upgrade import UpgradeRequest, refusal
from wsconnkit.service.envelope import RequestError
from wsconnkit.service.principal import AuthenticationError, AuthFailure, KeysUnavailable, Principal
from wsconnkit.service.requests import RequestTimeout
from wsconnkit.service.router import RequestRouter
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .issuer import Issuer, by_secret, hs256, new_key, running_issuer
from .peers import Arrivals, Collector, RawClient, Run, bearer, info, opened


@pytest.fixture
def issuer() -> Generator[Issuer, None, None]:
    with running_issuer() as issuer:
        yield issuer


def assert_expired(end: CloseInfo, initiator: Initiator) -> None:
    assert (end.code, end.reason, end.clean) == (1008, "token expired", True)
    assert end.initiator is initiator
    if initiator is Initiator.LOCAL:
        assert end.cause is Cause.AUTH_EXPIRED


def auth(token: object, request_id: object = "1") -> str:
    return json.dumps({"type": "auth", "requestId": request_id, "payload": {"token": token}, "timestamp": 0})


async def answer_to(client: RawClient) -> tuple[Any, Any, Any]:
    """Return type, requestId and payload of the next message."""
    (text,) = await client.receive(1)
    answer = json.loads(text)
    assert set(answer) == {"type", "requestId", "payload", "timestamp"}
    return answer["type"], answer["requestId"], answer["payload"]


@pytest.mark.parametrize("leeway", [0.0, 10.0])
def test_a_connection_ends_when_its_token_has_expired(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, leeway: float
) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        expires_at = time.time() + 600
        async with serve(arrivals, "127.0.0.1", 0, authenticate=by_secret(leeway=leeway)) as server:
            opens_after = virtual_loop.time() - time.time()
            client = await opened(server, token=hs256(exp=expires_at))
            opens_before = virtual_loop.time() - time.time()
            ws = await arrivals.connections.get()
            await client.wait_closed()
            # Real time goes on while virtual time stands still.
            end = virtual_loop.time() - expires_at - leeway - READ_GRACE
            assert opens_before - 0.001 <= end <= opens_after + 0.001
            await ws.wait_closed()
            assert_expired(info(client), Initiator.PEER)
            assert_expired(info(ws), Initiator.LOCAL)
            assert server.connections.by_user("alice") == ()

    run_virtual(main())


def test_a_token_that_expired_while_the_system_was_suspended_ends_its_connection_within_a_minute(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        async with serve(arrivals, "127.0.0.1", 0, authenticate=by_secret(leeway=0.0)) as server:
            client = await opened(server, token=hs256(exp=time.time() + 3600))
            ws = await arrivals.connections.get()
            await asyncio.sleep(600)
            resumed_at = virtual_loop.time()
            clock = time.time
            monkeypatch.setattr(time, "time", lambda: clock() + 3600)
            await client.wait_closed()
            assert virtual_loop.time() <= resumed_at + 60 + 2 * READ_GRACE
            await ws.wait_closed()
            assert_expired(info(ws), Initiator.LOCAL)

    run_virtual(main())


def test_a_token_that_expires_cuts_no_handler_short_and_no_other_connection(run_virtual: Run) -> None:
    async def main() -> None:
        farewells: list[str] = []

        async def handler(ws: Connection) -> None:
            try:
                await ws.recv()
            except ConnectionClosed as closed:
                assert ws.principal is not None
                await asyncio.sleep(1)
                farewells.append(f"{ws.principal.subject} {closed.info.reason}")

        async with serve(handler, "127.0.0.1", 0, authenticate=by_secret()) as server:
            alice = await opened(server, token=hs256(exp=time.time() + 60))
            bob = await opened(server, token=hs256(sub="bob"))
            await alice.wait_closed()
            await asyncio.sleep(2)
            assert farewells == ["alice token expired"]
            assert await bob.ping() >= 0
            await bob.close()

    run_virtual(main())


def test_a_principal_that_never_expires_stays(run_virtual: Run) -> None:
    async def main() -> None:
        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
            return Principal(subject="alice", expires_at=None if token is None else float(token))

        quiet = ConnectionConfig(heartbeat=None)
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate, config=quiet) as server:
            clients = [await opened(server, token=token, config=quiet) for token in (None, "1e18")]
            await asyncio.sleep(86400)
            for client in clients:
                assert await client.ping() >= 0
                await client.close()

    run_virtual(main())


# Fresh tokens.


def test_a_fresh_token_keeps_the_connection_open(run_virtual: Run, virtual_loop: VirtualTimeLoop) -> None:
    async def main() -> None:
        collector = Collector()
        authenticate = by_secret(leeway=0.0)
        async with serve(collector, "127.0.0.1", 0, authenticate=authenticate, reauthenticate=True) as server:
            start, wall_start = virtual_loop.time(), time.time()
            client = await opened(server, token=hs256(exp=wall_start + 60, tier="free"))
            ws = await collector.connections.get()
            await asyncio.sleep(30)
            await client.reauthenticate(hs256(exp=wall_start + 300, tier="gold"))
            assert ws.principal is not None
            assert (ws.principal.tier, ws.principal.expires_at) == ("gold", wall_start + 300)
            await asyncio.sleep(200)
            await client.reauthenticate(hs256(exp=wall_start + 100))  # which may be sooner, too
            await asyncio.gather(client.wait_closed(), ws.wait_closed())
            # The wall clock has stood still, so the last token was good for 100 s from then on.
            assert virtual_loop.time() - start == pytest.approx(330, abs=5)
            assert_expired(info(ws), Initiator.LOCAL)
            assert collector.messages == []

    run_virtual(main())


def test_the_answer_says_when_the_fresh_token_expires(run: Run) -> None:
    async def main() -> None:
        expires_at = int(time.time()) + 600
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=by_secret(), reauthenticate=True) as server:
            async with RawClient.open(server, headers=bearer(hs256())) as client:
                client.send(auth(hs256(exp=expires_at), "r-1"))
                assert await answer_to(client) == ("response", "r-1", {"expiresAt": expires_at * 1000})
                client.send(auth(hs256(exp=expires_at), None))
                assert await answer_to(client) == ("response", None, {"expiresAt": expires_at * 1000})

    run(main())


@pytest.mark.parametrize(
    ("more", "failure"),
    [
        ({"sub": "mallory"}, "invalid"),
        ({"exp": 1}, "expired"),
        ({"exp": None}, "invalid"),
        ({"aud": "another"}, "invalid"),
    ],
)
def test_a_fresh_token_that_is_no_good_changes_nothing(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, more: dict[str, Any], failure: str
) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        authenticate = by_secret(leeway=0.0, audience="app")
        async with serve(arrivals, "127.0.0.1", 0, authenticate=authenticate, reauthenticate=True) as server:
            client = await opened(server, token=hs256(exp=time.time() + 60, aud="app"))
            start = virtual_loop.time()
            ws = await arrivals.connections.get()
            before = ws.principal
            with pytest.raises(RequestError) as caught:
                await client.reauthenticate(hs256(**{"aud": "app", **more}))
            assert (caught.value.code, caught.value.message) == ("auth_failed", failure)
            assert ws.principal is before
            assert server.connections.by_user("alice") == (ws,)
            await asyncio.gather(client.wait_closed(), ws.wait_closed())
            assert virtual_loop.time() - start == pytest.approx(60, abs=5)
            assert_expired(info(ws), Initiator.LOCAL)

    run_virtual(main())


@pytest.mark.parametrize("payload", [None, [], "token", {}, {"token": None}, {"token": 7}, {"token": ""}])
def test_a_message_for_authentication_without_a_token_is_told_so(run: Run, payload: object) -> None:
    async def main() -> None:
        collector = Collector()
        async with serve(collector, "127.0.0.1", 0, authenticate=by_secret(), reauthenticate=True) as server:
            async with RawClient.open(server, headers=bearer(hs256())) as client:
                client.send(json.dumps({"type": "auth", "requestId": "1", "payload": payload}))
                assert await answer_to(client) == ("error", "1", {"code": "auth_failed", "message": "missing"})
                client.send(json.dumps({"type": "auth"}))
                assert await answer_to(client) == ("error", None, {"code": "auth_failed", "message": "missing"})
        assert collector.messages == []

    run(main())


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_all_other_messages_are_for_the_application(run: Run, is_asked_for: bool) -> None:
    async def main() -> None:
        collector = Collector()
        async with serve(collector, "127.0.0.1", 0, authenticate=by_secret(), reauthenticate=is_asked_for) as server:
            messages: list[str | bytes] = [
                '"auth"',
                '{"type":"request","payload":"auth"}',
                '{"kind":"auth"}',
                '["auth"]',
                auth(hs256()).encode(),
                '{"type":"auth"',
            ]
            if not is_asked_for:
                messages += [auth(hs256()), auth("garbage")]
            async with RawClient.open(server, headers=bearer(hs256())) as client:
                client.send(*messages)
                while len(collector.messages) < len(messages):
                    await asyncio.sleep(0)
            assert collector.messages == messages

    run(main())


def test_a_server_that_takes_no_fresh_tokens_lets_the_client_wait(run_virtual: Run) -> None:
    async def main() -> None:
        async with serve(Collector(), "127.0.0.1", 0, authenticate=by_secret()) as server:
            async with await opened(server, token=hs256()) as client:
                with pytest.raises(RequestTimeout):
                    await client.reauthenticate(hs256(), timeout=5)
        router = RequestRouter()
        async with serve(router, "127.0.0.1", 0, authenticate=by_secret()) as server:
            async with await opened(server, token=hs256()) as client:
                with pytest.raises(RequestError, match="invalid_request"):
                    await client.reauthenticate(hs256())

    run_virtual(main())


def test_fresh_tokens_and_requests_travel_together(run: Run) -> None:
    async def main() -> None:
        router = RequestRouter()

        @router.action("whoami")
        async def whoami(request: Any) -> Any:
            return request.connection.principal.claims["n"]

        async with serve(router, "127.0.0.1", 0, authenticate=by_secret(), reauthenticate=True) as server:
            async with await opened(server, token=hs256(n=0)) as client:
                for number in range(1, 5):
                    await client.reauthenticate(hs256(n=number))
                    assert await client.request({"action": "whoami"}) == number

    run(main())


# Verification that takes time, or fails.


class Verify:
    """Lets in whoever comes; fresh tokens wait for `verdict`, which is raised or returned."""

    def __init__(self, **principal: Any) -> None:
        self._first = Principal(subject="alice", **principal)
        self._comes = True
        self.asked = asyncio.Event()
        self.verdict: asyncio.Future[Principal | Response] = asyncio.get_running_loop().create_future()

    async def __call__(self, token: str | None, request: UpgradeRequest) -> Principal | Response:
        if self._comes:
            self._comes = False
            return self._first
        self.asked.set()
        return await self.verdict


def test_a_fresh_token_may_need_fresh_keys(run: Run, issuer: Issuer) -> None:
    async def main() -> None:
        verifier = issuer.authenticator()
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=verifier, reauthenticate=True) as server:
            async with await opened(server, token=issuer.token("ES256")) as client:
                issuer.keys = {"next": new_key()}
                issuer.hold()
                renewing = asyncio.ensure_future(client.reauthenticate(issuer.token("next")))
                while not issuer.asked.is_set():
                    await asyncio.sleep(0)
                assert await client.ping() >= 0
                with pytest.raises(RequestError, match="auth_busy"):
                    await client.reauthenticate(issuer.token("next"))
                issuer.release()
                await renewing
                await client.reauthenticate(issuer.token("next"))
        assert issuer.requests == 2

    run(main())


@pytest.mark.parametrize("is_verified", [True, False])
def test_a_fresh_token_that_came_in_time_is_waited_for(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, is_verified: bool
) -> None:
    async def main() -> None:
        arrivals = Arrivals()
        verify = Verify(expires_at=time.time() + 60)
        async with serve(arrivals, "127.0.0.1", 0, authenticate=verify, reauthenticate=True) as server:
            start = virtual_loop.time()
            client = await opened(server)
            ws = await arrivals.connections.get()
            await asyncio.sleep(59)
            renewing = asyncio.ensure_future(client.reauthenticate("fresh", timeout=None))
            await asyncio.sleep(9)
            if is_verified:
                verify.verdict.set_result(Principal(subject="alice"))
                await renewing
                await asyncio.sleep(600)
                await client.close()
            else:
                with pytest.raises(RequestError, match="auth_unavailable"):
                    await renewing
                assert virtual_loop.time() - start == pytest.approx(69, abs=1)
                await asyncio.gather(client.wait_closed(), ws.wait_closed())
                assert_expired(info(ws), Initiator.LOCAL)
                await asyncio.sleep(0)
                assert verify.verdict.cancelled()

    run_virtual(main())


def test_fresh_tokens_may_not_come_too_often(run_virtual: Run) -> None:
    async def main() -> None:
        authenticate = by_secret()
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate, reauthenticate=True) as server:
            async with await opened(server, token=hs256()) as client:
                for _ in range(5):
                    await client.reauthenticate(hs256())
                with pytest.raises(RequestError, match="too many tokens") as caught:
                    await client.reauthenticate(hs256())
                assert (caught.value.code, caught.value.payload["retryAfter"]) == ("rate_limited", 12.0)
                await asyncio.sleep(12)
                await client.reauthenticate(hs256())

    run_virtual(main())


def test_whoever_leaves_while_a_fresh_token_is_verified_leaves_nothing(run: Run) -> None:
    async def main() -> None:
        verify = Verify()
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=verify, reauthenticate=True) as server:
            client = await opened(server)
            before = len(asyncio.all_tasks())
            renewing = asyncio.ensure_future(client.reauthenticate("fresh"))
            await verify.asked.wait()
            client.abort()
            with pytest.raises(ConnectionClosed):
                await renewing
            while not verify.verdict.cancelled() or len(server.connections):
                await asyncio.sleep(0)
            await client.wait_closed()
            while len(asyncio.all_tasks()) >= before:  # the handler ends, too
                await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize(
    ("verdict", "code", "message"),
    [
        (AuthenticationError(AuthFailure.EXPIRED, "only for the log"), "auth_failed", "expired"),
        (refusal(403, "a response is no answer to a message"), "auth_failed", "invalid"),
        (KeysUnavailable("none so far"), "auth_unavailable", "the token could not be verified"),
        (ValueError("no row for fresh-token"), "auth_unavailable", "the token could not be verified"),
    ],
)
def test_what_goes_wrong_with_a_fresh_token_is_answered_without_internals(
    run: Run, caplog: pytest.LogCaptureFixture, verdict: Exception | Response, code: str, message: str
) -> None:
    async def main() -> None:
        verify = Verify()
        if isinstance(verdict, Response):
            verify.verdict.set_result(verdict)
        else:
            verify.verdict.set_exception(verdict)
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=verify, reauthenticate=True) as server:
            async with await opened(server) as client:
                with pytest.raises(RequestError) as caught:
                    await client.reauthenticate("fresh-token")
                assert caught.value.payload == {"code": code, "message": message}
                assert await client.ping() >= 0

    with caplog.at_level(logging.DEBUG, "wsconnkit"):
        run(main())
    assert "fresh-token" not in caplog.text
    assert not any("fresh-token" in str(record.__dict__) for record in caplog.records)
    types = [record.__dict__["type"] for record in caplog.records if record.levelno >= logging.WARNING]
    if not isinstance(verdict, KeysUnavailable):  # whose cause was logged where they were fetched
        assert types == ["auth_failed" if code == "auth_failed" else "auth_error"]


def test_a_verification_that_hangs_does_not_keep_later_tokens_out(run_virtual: Run) -> None:
    async def main() -> None:
        verify = Verify()
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=verify, reauthenticate=True) as server:
            async with await opened(server) as client:
                with pytest.raises((RequestTimeout, RequestError)):
                    await client.reauthenticate("hangs", timeout=60)
                verify.verdict = asyncio.get_running_loop().create_future()
                verify.verdict.set_result(Principal(subject="alice"))
                await client.reauthenticate("fresh")

    run_virtual(main())


def test_a_client_that_gives_up_on_a_fresh_token_tells_the_application_nothing(run: Run) -> None:
    async def main() -> None:
        collector = Collector()
        verify = Verify()
        async with serve(collector, "127.0.0.1", 0, authenticate=verify, reauthenticate=True) as server:
            async with await opened(server) as client:
                renewing = asyncio.ensure_future(client.reauthenticate("fresh"))
                await verify.asked.wait()
                renewing.cancel()
                await asyncio.wait({renewing})
                await client.send("last")
                while "last" not in collector.messages:
                    await asyncio.sleep(0)
        assert collector.messages == ["last"]

    run(main())


def test_the_answer_to_a_fresh_token_reaches_a_client_that_reads_late(run_virtual: Run) -> None:
    async def flood(ws: Connection) -> None:
        while ws.principal is not None and "fresh" not in ws.principal.claims:
            await ws.send("x" * 10_000)
        await asyncio.sleep(1)

    async def main() -> None:
        async with serve(flood, "127.0.0.1", 0, authenticate=by_secret(), reauthenticate=True) as server:
            async with RawClient.open(server, headers=bearer(hs256())) as client:
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                await asyncio.sleep(1)
                client.send(auth(hs256(fresh=True), "r-1"))
                (ws,) = server.connections
                while ws.principal is not None and "fresh" not in ws.principal.claims:
                    await asyncio.sleep(0.1)
                client.writer.transport.resume_reading()  # type: ignore[attr-defined]
                messages, _ = await client.receive_close()
                assert [json.loads(text)["requestId"] for text in messages if text != "x" * 10_000] == ["r-1"]

    run_virtual(main())

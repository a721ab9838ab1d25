"""Keys that an issuer publishes at a real HTTP server: fetched once for all, off the event loop, and not too often."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Generator

import pytest

from wsconnkit.asyncio import Connection, serve
from wsconnkit.service.admission import AdmissionConfig
from wsconnkit.service.auth import JWTAuthenticator
from wsconnkit.service.keys import MAX_WAIT
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .issuer import Issuer, new_key, running_issuer
from .peers import Arrivals, Run, attempt, head, no_time_passing, opened, port, refused, sort_out

LIFESPAN = 300.0
GUESSING = AdmissionConfig(failed_auth=None, max_handshakes_per_ip=None)
"""For those who are to try ever so many tokens, many at once."""


@pytest.fixture
def issuer() -> Generator[Issuer, None, None]:
    with running_issuer() as issuer:
        yield issuer


def unknown(issuer: Issuer, number: int = 0) -> str:
    """Return a token that names a key nobody has published."""
    return issuer.token(f"unknown-{number}", issuer.keys["ES256"])


async def is_asked(issuer: Issuer) -> None:
    while not issuer.asked.is_set():
        await asyncio.sleep(0)


def test_keys_are_fetched_once_for_all_who_wait_for_them(run: Run, issuer: Issuer) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=issuer.authenticator()) as server:
            issuer.hold()
            tokens = [issuer.token("ES256", sub=f"user-{number}") for number in range(50)]
            opening = [asyncio.ensure_future(opened(server, token=token)) for token in tokens]
            await is_asked(issuer)
            issuer.release()
            for client in await asyncio.gather(*opening):
                await client.close()
            await (await opened(server, token=issuer.token("RS256"))).close()
        assert issuer.requests == 1

    run(main())


def test_keys_may_rotate_while_the_server_runs(run: Run, issuer: Issuer) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=issuer.authenticator()) as server:
            first = issuer.token("ES256")
            client = await opened(server, token=first)
            issuer.keys = {"next": new_key(), **issuer.keys}
            await (await opened(server, token=first)).close()
            assert issuer.requests == 1
            await (await opened(server, token=issuer.token("next"))).close()
            await (await opened(server, token=first)).close()
            assert issuer.requests == 2
            del issuer.keys["ES256"]
            issuer.keys["last"] = new_key()
            await (await opened(server, token=issuer.token("last"))).close()
            assert issuer.requests == 3
            assert (await refused(server, token=first)).error == "invalid token"
            assert await client.ping() >= 0  # it was opened with a token that was good then
            await client.close()

    run(main())


def test_a_flood_of_unknown_keys_is_no_flood_of_fetches(
    run: Run, loop: asyncio.AbstractEventLoop, issuer: Issuer
) -> None:
    async def main() -> None:
        start = loop.time()
        async with serve(
            Arrivals(), "127.0.0.1", 0, authenticate=issuer.authenticator(), admission=GUESSING, backlog=200
        ) as server:
            client = await opened(server, token=issuer.token("ES256"))
            for _ in range(3):
                issuer.hold()
                flood = [asyncio.ensure_future(attempt(server, token=unknown(issuer, n))) for n in range(100)]
                await asyncio.wait({asyncio.ensure_future(is_asked(issuer)), *flood}, return_when="FIRST_COMPLETED")
                await (await opened(server, token=issuer.token("ES256"))).close()  # whose key is known
                issuer.release()
                connections, refusals = sort_out(await asyncio.gather(*flood))
                assert connections == []
                assert {(got.status, got.error) for got in refusals} == {(401, "invalid token")}
            assert 2 <= issuer.requests <= 5 + (loop.time() - start) // 12
            assert issuer.most_at_once == 1
            await client.close()

    run(main())


def test_keys_are_fetched_at_most_five_times_a_minute(run_virtual: Run, issuer: Issuer) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=issuer.authenticator(), admission=GUESSING) as server:

            async def flood() -> int:
                before = issuer.requests
                async with no_time_passing():
                    for number in range(20):
                        await refused(server, token=unknown(issuer, number))
                return issuer.requests - before

            assert await flood() == 5
            assert await flood() == 0
            await asyncio.sleep(59.9)
            assert await flood() == 0
            await asyncio.sleep(0.1)
            assert await flood() == 5
            await asyncio.sleep(3600)
            assert await flood() == 5

    run_virtual(main())


# Servers that are down or slow.


@pytest.mark.parametrize(("jump", "requests"), [(LIFESPAN + 1, 2), (-LIFESPAN, 1)])
def test_keys_are_as_old_as_the_clock_on_the_wall_says_after_a_suspend(
    run: Run, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, jump: float, requests: int
) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=issuer.authenticator()) as server:
            await (await opened(server, token=issuer.token("ES256"))).close()
            token = issuer.token("ES256")
            clock = time.time
            monkeypatch.setattr(time, "time", lambda: clock() + jump)
            for _ in range(3):
                await (await opened(server, token=token)).close()
        assert issuer.requests == requests

    run(main())


def test_without_keys_nobody_comes_in_and_all_are_told_when_to_try_again(
    run_virtual: Run, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        issuer.status = 500
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=issuer.authenticator()) as server:
            async with no_time_passing():
                for _ in range(10):
                    got = await refused(server, token=issuer.token("ES256"))
                    assert (got.status, got.error) == (503, "tokens cannot be verified at the moment")
                    assert got.retry_after == 10
            assert issuer.requests == 5
            issuer.status = 200
            assert (await refused(server, token=issuer.token("ES256"))).status == 503  # it may not be asked yet
            await asyncio.sleep(60)
            async with no_time_passing():
                client = await opened(server, token=issuer.token("ES256"))
            await client.close()
            assert issuer.requests == 6

    with caplog.at_level(logging.INFO, "wsconnkit.auth"):
        run_virtual(main())
    types = [record.__dict__["type"] for record in caplog.records if record.name == "wsconnkit.auth"]
    assert types == ["auth_error"] * 5


def test_a_key_server_that_cannot_be_reached_is_the_same(run: Run) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/jwks.json"
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=JWTAuthenticator(jwks_url=url)) as server:
            with running_issuer() as issuer:
                got = await refused(server, token=issuer.token("ES256"))
            assert (got.status, got.retry_after) == (503, 10)
            assert (await refused(server)).status == 401  # for which no keys are needed

    run(main())


def test_keys_from_before_are_used_while_their_server_is_down(run_virtual: Run, issuer: Issuer) -> None:
    async def main() -> None:
        authenticate = issuer.authenticator(jwks_lifespan=LIFESPAN)
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate) as server:
            token = issuer.token("ES256", exp=10**10)
            async with no_time_passing():
                await (await opened(server, token=token)).close()
            issuer.status = 503
            for failed in range(1, 4):
                await asyncio.sleep(LIFESPAN)
                async with no_time_passing():
                    await (await opened(server, token=token)).close()
                    assert issuer.requests == 1 + failed
            issuer.status, issuer.keys = 200, {"next": new_key()}
            await asyncio.sleep(LIFESPAN)
            async with no_time_passing():
                assert (await refused(server, token=token)).error == "invalid token"
                await (await opened(server, token=issuer.token("next"))).close()

    run_virtual(main())


def test_a_slow_key_server_holds_up_only_those_who_wait_for_it(run: Run, issuer: Issuer) -> None:
    async def echo(ws: Connection) -> None:
        async for message in ws:
            await ws.send(message)

    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0, authenticate=issuer.authenticator()) as server:
            client = await opened(server, token=issuer.token("ES256"))
            issuer.keys["next"] = new_key()
            issuer.hold()
            waiting = asyncio.ensure_future(opened(server, token=issuer.token("next")))
            await is_asked(issuer)
            for number in range(100):
                await client.send(f"message {number}")
                assert await client.recv() == f"message {number}"
            await (await opened(server, token=issuer.token("ES256"))).close()
            assert (await refused(server)).error == "missing token"
            assert not waiting.done()
            issuer.release()
            await (await waiting).close()
            await client.close()
        assert issuer.requests == 2

    run(main())


def test_a_key_server_that_is_slow_is_not_waited_for_beyond_a_bound(
    run_virtual: Run, virtual_loop: VirtualTimeLoop, issuer: Issuer
) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=issuer.authenticator()) as server:
            issuer.hold()
            # A client of its own timeout would give up at the same time.
            reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
            start = virtual_loop.time()
            writer.write(head(path=f"/?token={issuer.token('ES256')}"))
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
            assert virtual_loop.time() == pytest.approx(start + MAX_WAIT)
            writer.close()
            async with no_time_passing():
                issuer.release()
                await (await opened(server, token=issuer.token("ES256"))).close()
            assert issuer.requests == 1

    run_virtual(main())


def test_whoever_leaves_while_keys_are_fetched_takes_them_from_nobody(run: Run, issuer: Issuer) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=issuer.authenticator()) as server:
            issuer.hold()
            leaving = asyncio.ensure_future(opened(server, token=issuer.token("ES256")))
            await is_asked(issuer)
            staying = asyncio.ensure_future(opened(server, token=issuer.token("ES256", sub="bob")))
            leaving.cancel()
            await asyncio.wait({leaving})
            issuer.release()
            client = await staying
            assert server.connections.by_user("alice") == ()
            await client.close()
        assert issuer.requests == 1

    run(main())


def test_a_server_may_close_while_keys_are_fetched(run: Run, issuer: Issuer) -> None:
    async def main() -> None:
        issuer.hold()
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=issuer.authenticator()) as server:
            waiting = asyncio.ensure_future(refused(server, token=issuer.token("ES256")))
            await is_asked(issuer)
        assert (await waiting).error == "the server is shutting down"
        assert len(asyncio.all_tasks()) <= 2  # this one, and the time limit around it

    run(main())

"""Who is let in: rates and caps by address and by user, exact under bursts, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from wsconnkit.asyncio import Connection, Server, connect, serve
from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.protocol.errors import InvalidStatus
from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.service.admission import AdmissionConfig, Rates, Refused
from wsconnkit.service.principal import Principal
from wsconnkit.service.proxies import TrustedProxies

from .issuer import by_secret, hs256
from .peers import Arrivals, Got, Run, attempt, opened, refused, sort_out

FIVE_A_MINUTE = RateLimit(5, 60)
LOCAL = "127.0.0.0/8"


async def burst(server: Server, count: int, **kwargs: Any) -> tuple[list[Connection], list[Got]]:
    """Connect `count` times at once, and return who came in and who was refused."""
    return sort_out(await asyncio.gather(*(attempt(server, **kwargs) for _ in range(count))))


async def close_all(connections: Iterable[Connection]) -> None:
    await asyncio.gather(*(connection.close() for connection in connections))


async def until_left(server: Server, count: int = 0) -> None:
    while len(server.connections) > count:
        await asyncio.sleep(0)


def assert_refused(refusals: Iterable[Got], status: int, error: str, retry_after: int) -> None:
    assert {(got.status, got.error, got.retry_after) for got in refusals} == {(status, error, retry_after)}


class SlowByName:
    """Lets everyone in, under the name that is the token, at a time that `verdict` says."""

    def __init__(self) -> None:
        self.waiting = 0
        self.verdict = asyncio.Event()

    async def __call__(self, token: str | None, request: UpgradeRequest) -> Principal:
        self.waiting += 1
        await self.verdict.wait()
        return Principal(subject=token or "nobody")

    async def has(self, count: int) -> None:
        while self.waiting < count:
            await asyncio.sleep(0)


async def by_name(token: str | None, request: UpgradeRequest) -> Principal:
    name, _, tier = (token or "nobody").partition(":")
    return Principal(subject=name, tier=tier or None)


# Rates of upgrades.


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
def test_a_burst_from_one_address_lets_in_exactly_as_many_as_the_rate_says(run_virtual: Run, is_closed: bool) -> None:
    async def main() -> None:
        admission = AdmissionConfig(per_ip=Rates(upgrades=FIVE_A_MINUTE))
        async with serve(Arrivals(), "127.0.0.1", 0, admission=admission) as server:
            connections, refusals = await burst(server, 20)
            assert (len(connections), len(refusals)) == (5, 15)
            assert_refused(refusals, 429, "too many upgrades", 12)
            assert server.stats.refused == {Refused.RATE: 15}
            assert server.stats.rate_limited == {"upgrade": 15}
            if is_closed:  # which gives nothing back
                await close_all(connections)
            await asyncio.sleep(11.5)
            assert_refused([await refused(server)], 429, "too many upgrades", 1)
            await asyncio.sleep(0.5)
            more, refusals = await burst(server, 20)
            assert (len(more), len(refusals)) == (1, 19)
            assert_refused(refusals, 429, "too many upgrades", 12)
            await asyncio.sleep(3600)
            most, refusals = await burst(server, 20)
            assert (len(most), len(refusals)) == (5, 15)
            await close_all([*connections, *more, *most])

    run_virtual(main())


def test_a_burst_of_one_user_is_held_to_the_rate_of_users(run_virtual: Run) -> None:
    async def main() -> None:
        admission = AdmissionConfig(per_user=Rates(upgrades=FIVE_A_MINUTE), max_connections_per_user=None)
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=by_secret(), admission=admission) as server:
            tokens = [hs256(), hs256(jti="another")]
            alice, bob = await asyncio.gather(
                asyncio.gather(*(attempt(server, token=token) for token in tokens * 10)),
                asyncio.gather(*(attempt(server, token=hs256(sub="bob")) for _ in range(5))),
            )
            connections, refusals = sort_out(alice)
            assert (len(connections), len(refusals)) == (5, 15)
            assert_refused(refusals, 429, "too many upgrades", 12)
            others, refusals = sort_out(bob)
            assert (len(others), len(refusals)) == (5, 0)
            await asyncio.sleep(12)
            connections.append(await opened(server, token=hs256()))
            await close_all([*connections, *others])

    run_virtual(main())


def test_an_upgrade_takes_a_token_of_the_address_and_of_the_user_or_none(run_virtual: Run) -> None:
    async def main() -> None:
        admission = AdmissionConfig(per_user=Rates(upgrades=RateLimit(1, 60)), per_ip=Rates(upgrades=RateLimit(3, 60)))
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=by_name, admission=admission) as server:
            connections, refusals = await burst(server, 10, token="alice")
            assert (len(connections), len(refusals)) == (1, 9)
            assert_refused(refusals, 429, "too many upgrades", 60)
            for name in ("bob", "carol"):  # alice has taken one token of the address, not ten
                connections.append(await opened(server, token=name))
            assert_refused([await refused(server, token="dave")], 429, "too many upgrades", 20)
            await asyncio.sleep(20)
            connections.append(await opened(server, token="dave"))
            await close_all(connections)

    run_virtual(main())


def test_a_tier_has_rates_of_its_own(run_virtual: Run) -> None:
    async def main() -> None:
        admission = AdmissionConfig(
            per_user=Rates(upgrades=RateLimit(2, 60)),
            tiers={"gold": Rates(upgrades=RateLimit(8, 60)), "free": Rates(upgrades=RateLimit(1, 60)), "all": Rates()},
            max_connections_per_user=None,
        )
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=by_name, admission=admission) as server:
            for token, count in (("a:gold", 8), ("b:free", 1), ("c:all", 10), ("d:unknown", 2), ("e", 2)):
                connections, _ = await burst(server, 10, token=token)
                assert len(connections) == count
                await close_all(connections)

    run_virtual(main())


# Caps on connections.


def test_the_server_takes_no_more_connections_than_it_can(run: Run) -> None:
    async def main() -> None:
        authenticate = SlowByName()
        admission = AdmissionConfig(max_connections=5, retry_after=7.2)
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate, admission=admission) as server:
            for _ in range(3):  # a slot is free again after a close
                authenticate.verdict.clear()
                authenticate.waiting = 0
                attempts = [asyncio.ensure_future(attempt(server, token=f"user-{n}")) for n in range(20)]
                await authenticate.has(20)
                assert len(server.connections) == 0
                authenticate.verdict.set()
                connections, refusals = sort_out(await asyncio.gather(*attempts))
                assert (len(connections), len(refusals), len(server.connections)) == (5, 15, 5)
                assert_refused(refusals, 503, "the server has as many connections as it can take", 8)
                await connections[0].close()
                await until_left(server, 4)
                connections[0] = await opened(server, token="late")
                assert (await refused(server, token="later")).status == 503
                await close_all(connections)
                await until_left(server)
            assert server.stats.refused == {Refused.CAPACITY: 48}

    run(main())


def test_a_user_has_three_connections_unless_told_otherwise(run: Run) -> None:
    async def main() -> None:
        authenticate = SlowByName()
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate) as server:
            attempts = [asyncio.ensure_future(attempt(server, token=name)) for name in ("alice", "bob") * 10]
            await authenticate.has(20)
            authenticate.verdict.set()
            connections, refusals = sort_out(await asyncio.gather(*attempts))
            assert (len(connections), len(refusals)) == (6, 14)
            assert_refused(refusals, 429, "too many connections of this user", 10)
            for name in ("alice", "bob"):
                assert len(server.connections.by_user(name)) == 3
            server.connections.by_user("alice")[1].abort()  # however it ends
            await until_left(server, 5)
            connections.append(await opened(server, token="alice"))
            assert (await refused(server, token="alice")).error == "too many connections of this user"
            await close_all(connections)

    run(main())


def test_without_authentication_there_is_no_cap_of_users(run: Run) -> None:
    async def main() -> None:
        async with serve(Arrivals(), "127.0.0.1", 0) as server:
            connections, refusals = await burst(server, 10)
            assert (len(connections), refusals) == (10, [])
            await close_all(connections)

    run(main())


def test_an_address_has_a_cap_of_its_own(run: Run) -> None:
    async def main() -> None:
        authenticate = SlowByName()
        admission = AdmissionConfig(max_connections_per_ip=4, max_connections_per_user=None, retry_after=3)
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate, admission=admission) as server:
            attempts = [asyncio.ensure_future(attempt(server, token=f"user-{n}")) for n in range(20)]
            elsewhere = [
                asyncio.ensure_future(attempt(server, token="far", local_addr=("127.0.0.2", 0))) for _ in range(20)
            ]
            await authenticate.has(40)
            authenticate.verdict.set()
            for group in (attempts, elsewhere):
                connections, refusals = sort_out(await asyncio.gather(*group))
                assert (len(connections), len(refusals)) == (4, 16)
                assert_refused(refusals, 429, "too many connections from this address", 3)
                await close_all(connections)
            await until_left(server)
            await (await opened(server, token="next")).close()

    run(main())


def test_whoever_leaves_before_being_let_in_takes_no_slot(run: Run) -> None:
    async def main() -> None:
        authenticate = SlowByName()
        admission = AdmissionConfig(max_connections=1, per_ip=Rates(upgrades=RateLimit(1, 3600)))
        async with serve(Arrivals(), "127.0.0.1", 0, authenticate=authenticate, admission=admission) as server:
            leaving = [asyncio.ensure_future(opened(server, token="alice")) for _ in range(10)]
            await authenticate.has(10)
            for opening in leaving:
                opening.cancel()
            await asyncio.wait(leaving)
            staying = asyncio.ensure_future(opened(server, token="alice"))
            await authenticate.has(11)
            authenticate.verdict.set()
            await (await staying).close()
            assert (server.stats.opened, server.stats.refused) == (1, {})

    run(main())


def test_a_cap_that_is_reached_takes_no_token_of_the_rates(run_virtual: Run) -> None:
    async def main() -> None:
        admission = AdmissionConfig(max_connections=1, per_ip=Rates(upgrades=RateLimit(2, 60)))
        async with serve(Arrivals(), "127.0.0.1", 0, admission=admission) as server:
            first = await opened(server)
            for _ in range(10):
                assert (await refused(server)).status == 503
            await first.close()
            await until_left(server)
            await (await opened(server)).close()
            await until_left(server)
            assert (await refused(server)).error == "too many upgrades"

    run_virtual(main())


# Behind proxies.


def written(header: str, address: str) -> str:
    return f"for={address}" if header == "Forwarded" else address


@pytest.mark.parametrize(
    ("header", "addresses"),
    [
        ("X-Forwarded-For", ["192.0.2.1", "6.6.6.6, 192.0.2.1", "192.0.2.1:4711", "192.0.2.1, 127.0.0.9"]),
        ("X-Forwarded-For", ["2001:db8::1", "[2001:db8::2]:443", "2001:0db8:0:0:ffff::"]),
        ("Forwarded", ["for=192.0.2.1", 'For="192.0.2.1:4711";proto=https', "for=6.6.6.6, for=192.0.2.1"]),
        ("Forwarded", ['for="[2001:db8::1]:443"', 'for="[2001:db8::2]"', 'for=192.0.2.9, for="[2001:db8::3]"']),
    ],
)
def test_behind_a_trusted_proxy_the_address_is_that_of_the_client(run: Run, header: Any, addresses: list[str]) -> None:
    async def main() -> None:
        admission = AdmissionConfig(max_connections_per_ip=1)
        proxies = TrustedProxies([LOCAL], header=header)
        async with serve(Arrivals(), "127.0.0.1", 0, admission=admission, proxies=proxies) as server:
            for first in addresses:
                client = await opened(server, headers={header: first})
                for other in addresses:
                    got = await refused(server, headers={header: other})
                    assert got.error == "too many connections from this address"
                stranger = await opened(server, headers={header: written(header, "203.0.113.7")})
                await close_all([client, stranger])
                await until_left(server)

    run(main())


async def only_three_of_ten(header: str, proxies: TrustedProxies | None) -> None:
    """Connect from one address under ten names."""
    admission = AdmissionConfig(per_ip=Rates(upgrades=RateLimit(3, 1e6)))
    async with serve(Arrivals(), "127.0.0.1", 0, admission=admission, proxies=proxies) as server:
        names = [written(header, f"192.0.2.{number}") for number in range(10)]
        connections, refusals = sort_out([await attempt(server, headers={header: name}) for name in names])
        assert (len(connections), len(refusals)) == (3, 7)
        await close_all(connections)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
@pytest.mark.parametrize(
    "proxies",
    [None, TrustedProxies(["10.0.0.0/8", "::1", "unix"]), TrustedProxies(["10.0.0.0/8"], header="Forwarded")],
    ids=["none", "others", "others-forwarded"],
)
def test_from_anybody_else_the_headers_are_ignored(run: Run, proxies: TrustedProxies | None, header: str) -> None:
    async def main() -> None:
        await only_three_of_ten(header, proxies)

    run(main())


@pytest.mark.parametrize(("sent", "trusted"), [("X-Forwarded-For", "Forwarded"), ("Forwarded", "X-Forwarded-For")])
def test_the_header_that_the_proxy_does_not_write_is_ignored(run: Run, sent: str, trusted: Any) -> None:
    async def main() -> None:
        await only_three_of_ten(sent, TrustedProxies([LOCAL], header=trusted))

    run(main())


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_unix_socket_has_no_address_but_its_proxy_may_tell_one(run: Run, tmp_path: Path, is_trusted: bool) -> None:
    async def main() -> None:
        path = str(tmp_path / "socket")
        admission = AdmissionConfig(max_connections_per_ip=1)
        proxies = TrustedProxies(["unix"] if is_trusted else [])
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            async with serve(Arrivals(), sock=listening, admission=admission, proxies=proxies) as server:
                connections, statuses = [], []
                for _ in range(3):
                    sock = socket.socket(socket.AF_UNIX)
                    sock.connect(path)
                    try:
                        headers = {"X-Forwarded-For": "192.0.2.1"}
                        connections.append(await connect("ws://localhost/", sock=sock, headers=headers))
                    except InvalidStatus as error:
                        statuses.append(error.response.status)
                assert statuses == ([429, 429] if is_trusted else [])
                assert len(connections) == len(server.connections) == (1 if is_trusted else 3)
                await close_all(connections)

    run(main())

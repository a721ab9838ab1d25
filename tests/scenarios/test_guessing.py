"""Guesses at tokens: they cost time, whoever makes them, and as little as can be to others."""

from __future__ import annotations

import json
import logging
from math import ceil
from typing import Any

import pytest

from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.protocol.errors import InvalidStatus
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.upgrade import UpgradeRequest, check_upgrade
from wsconnkit.service.admission import AdmissionConfig, Refused
from wsconnkit.service.envelope import RequestError
from wsconnkit.service.principal import AuthenticationError, AuthFailure, KeysNeeded, Principal
from wsconnkit.service.proxies import TrustedProxies

from .driver import Driver
from .raw import echo

GUESSES = 3
PERIOD = 300.0
"""Seconds of the scenario in which as many guesses come back."""
KINDS = {"expired": AuthFailure.EXPIRED, "missing": AuthFailure.MISSING}


class Verifier:
    """Accepts names, but for those of `KINDS`, and guesses; counts what it has looked at."""

    def __init__(self, *, needs_keys: bool = False) -> None:
        self.seen: list[str] = []
        self._needs_keys = needs_keys

    def verify(self, token: str, now: float, *, waited: bool = False) -> Principal:
        if self._needs_keys and not waited:
            raise KeysNeeded
        self.seen.append(token)
        if token in KINDS:
            raise AuthenticationError(KINDS[token])
        if token.startswith("guess"):
            raise AuthenticationError(AuthFailure.INVALID)
        return Principal(subject=token)

    def begin_fetch(self, now: float) -> bool:
        return True

    def fetch(self) -> None:
        pass


async def status_of(driver: Driver, server: Any, token: str | None, ip: str | None = None) -> int:
    """Return with which status a client is answered that has the word of a proxy that it comes from `ip`."""
    headers = {} if ip is None else {"X-Forwarded-For": ip}
    try:
        async with driver.connect(server, token=token, headers=headers):
            return 101
    except InvalidStatus as error:
        response = error.response
    if response.status == 429:
        assert json.loads(response.body) == {"error": "too many invalid tokens from this address"}
        wait = int(response.headers.get("Retry-After") or 0)
        assert 1 <= wait <= ceil(driver.seconds(PERIOD / GUESSES))
    return response.status


def admission_of(driver: Driver) -> AdmissionConfig:
    return AdmissionConfig(max_connections_per_user=None, failed_auth=RateLimit(GUESSES, driver.seconds(PERIOD)))


def test_an_address_that_guesses_is_refused_unheard_until_its_time_has_come(
    network: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wsconnkit.server")

    async def main() -> None:
        verifier = Verifier()
        async with network.serve(echo, authenticate=verifier, admission=admission_of(network)) as server:
            for number in range(GUESSES):
                assert await status_of(network, server, f"guess {number}") == 401
            for _ in range(5):
                assert await status_of(network, server, "guess") == 429
            assert await status_of(network, server, "alice") == 429
            assert len(verifier.seen) == GUESSES
            assert server.stats.refused == {Refused.INVALID: GUESSES, Refused.FAILED_AUTH: 6}
            assert server.stats.rate_limited == {"auth": 6}
            await network.sleep(PERIOD / GUESSES)
            assert await status_of(network, server, "alice") == 101
            assert await status_of(network, server, "bob") == 101  # who is let in takes nothing

    network.run(main)
    types = [vars(record)["type"] for record in caplog.records]
    assert types.count("upgrade_refused") == GUESSES
    assert types.count("auth_limited") == 1


def test_addresses_are_those_behind_trusted_proxies_and_do_not_pay_for_each_other(network: Driver) -> None:
    async def main() -> None:
        proxies = TrustedProxies(["127.0.0.1"])
        admission = admission_of(network)
        async with network.serve(echo, authenticate=Verifier(), admission=admission, proxies=proxies) as server:
            for _ in range(GUESSES):
                assert await status_of(network, server, "guess", "2001:db8::1") == 401
            assert await status_of(network, server, "alice", "2001:db8::ffff") == 429  # of the same /64
            assert await status_of(network, server, "alice", "2001:db8:0:1::1") == 101
            assert await status_of(network, server, "alice", "192.0.2.1") == 101

    network.run(main)


def test_tokens_that_have_expired_or_are_missing_are_no_guesses(network: Driver) -> None:
    async def main() -> None:
        async with network.serve(echo, authenticate=Verifier(), admission=admission_of(network)) as server:
            for _ in range(3 * GUESSES):
                assert await status_of(network, server, "expired") == 401
                assert await status_of(network, server, None) == 401
            assert await status_of(network, server, "alice") == 101

    network.run(main)


@pytest.mark.parametrize("needs_keys", [False, True])
def test_many_guesses_at_once_are_no_way_around_it(network: Driver, needs_keys: bool) -> None:
    async def main() -> None:
        verifier = Verifier(needs_keys=needs_keys)
        async with network.serve(echo, authenticate=verifier, admission=admission_of(network)) as server:
            statuses: list[int] = []

            async def guess() -> None:
                statuses.append(await status_of(network, server, "guess"))

            async with network.tasks() as start:
                guesses = [start(guess) for _ in range(10 * GUESSES)]
                await network.until(lambda: all(each.done for each in guesses))
            assert sorted(statuses) == [401] * GUESSES + [429] * 9 * GUESSES
            assert len(verifier.seen) == GUESSES

    network.run(main)


def test_what_the_application_calls_no_good_counts_as_well(network: Driver) -> None:
    asked: list[str] = []

    async def whose(token: str | None, request: UpgradeRequest) -> Principal | Response:
        asked.append(str(token))
        if token == "broken":
            raise ZeroDivisionError
        if token == "raised":
            raise AuthenticationError(AuthFailure.INVALID)
        return Response({"teapot": 418, "forbidden": 403}.get(str(token), 401), Headers(), b"no")

    async def main() -> None:
        async with network.serve(echo, authenticate=whose, admission=admission_of(network)) as server:
            for token, status in [("teapot", 418), ("forbidden", 403), ("broken", 500), (None, 401)] * GUESSES:
                assert await status_of(network, server, token) == status
            asked.clear()
            assert await status_of(network, server, "raised") == 401
            for _ in range(GUESSES - 1):
                assert await status_of(network, server, "answered") == 401
            assert await status_of(network, server, "answered") == 429
            assert await status_of(network, server, None) == 429
            assert len(asked) == GUESSES

    network.run(main)


def test_guesses_in_messages_count_with_those_of_upgrades(network: Driver) -> None:
    async def main() -> None:
        admission = admission_of(network)
        verifier = Verifier()
        async with network.serve(echo, authenticate=verifier, admission=admission, reauthenticate=True) as server:
            async with network.connect(server, token="mallory") as ws:
                for number in range(GUESSES):
                    with pytest.raises(RequestError, match="auth_failed"):
                        await ws.reauthenticate(f"guess {number}")
                seen = len(verifier.seen)
                with pytest.raises(RequestError) as caught:
                    await ws.reauthenticate("mallory")
                assert (caught.value.code, caught.value.message) == ("rate_limited", "too many invalid tokens")
                assert 0 < caught.value.payload["retryAfter"] <= network.seconds(PERIOD / GUESSES)
                assert len(verifier.seen) == seen
                assert await status_of(network, server, "guess") == 429
                await ws.send("still there")
                assert await ws.recv() == "still there"

    network.run(main)


def test_a_manager_of_ones_own_is_no_way_around_it(driver: Driver) -> None:
    async def main() -> None:
        verifier = Verifier()
        manager = driver.adapter.Manager(authenticate=verifier, admission=admission_of(driver))
        request = check_upgrade(
            "GET",
            "/?token=guess",
            "1.1",
            Headers(
                {
                    "Host": "example.org",
                    "Connection": "Upgrade",
                    "Upgrade": "websocket",
                    "Sec-WebSocket-Version": "13",
                    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                }
            ),
        )
        assert isinstance(request, UpgradeRequest)
        decisions = [await manager.decide(request, ("192.0.2.1", 5)) for _ in range(GUESSES + 1)]
        assert [decision.status for decision in decisions] == [401] * GUESSES + [429]
        assert (await manager.decide(request, ("192.0.2.2", 5))).status == 401
        assert len(verifier.seen) == GUESSES + 1
        await manager.close()

    driver.run(main)


def test_nobody_is_refused_for_guesses_where_that_is_switched_off(network: Driver) -> None:
    async def main() -> None:
        admission = AdmissionConfig(failed_auth=None)
        async with network.serve(echo, authenticate=Verifier(), admission=admission) as server:
            for _ in range(15):
                assert await status_of(network, server, "guess") == 401
            assert await status_of(network, server, "alice") == 101

    network.run(main)

from __future__ import annotations

import pytest

from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.service.admission import AdmissionConfig
from wsconnkit.service.attempts import Attempts
from wsconnkit.service.principal import AuthenticationError, AuthFailure, TooManyFailures
from wsconnkit.service.serverstats import ServerStats

from .kit import kinds, logged

IP, OTHER = "192.0.2.1", "192.0.2.2"
INVALID = AuthenticationError(AuthFailure.INVALID)


def attempts_of(limit: RateLimit | None = RateLimit(2, 60.0), max_keys: int = 10) -> Attempts:  # noqa: B008
    return Attempts(AdmissionConfig(failed_auth=limit, max_keys=max_keys), ServerStats())


def wait_of(attempts: Attempts, ip: str | None, now: float = 0.0) -> float:
    """Return the seconds until a token from `ip` is looked at."""
    try:
        attempts.check(ip, now)
    except TooManyFailures as error:
        return error.retry_after
    return 0.0


def test_as_many_failures_as_are_allowed_come_back_evenly() -> None:
    attempts = attempts_of()
    attempts.on_failure(IP, INVALID, 0.0)
    assert wait_of(attempts, IP) == 0.0
    attempts.on_failure(IP, INVALID, 0.0)
    assert wait_of(attempts, IP) == 30.0
    assert wait_of(attempts, IP, 20.0) == 10.0
    assert wait_of(attempts, IP, 30.0) == 0.0
    attempts.on_failure(IP, INVALID, 30.0)
    assert wait_of(attempts, IP, 30.0) == 30.0
    assert wait_of(attempts, OTHER, 30.0) == 0.0


def test_by_default_they_are_10_in_a_minute() -> None:
    attempts = Attempts(AdmissionConfig(), ServerStats())
    for _ in range(10):
        assert wait_of(attempts, IP) == 0.0
        attempts.on_failure(IP, INVALID, 0.0)
    assert wait_of(attempts, IP) == 6.0


def test_to_be_looked_at_costs_nothing() -> None:
    attempts = attempts_of()
    assert [wait_of(attempts, IP) for _ in range(5)] == [0.0] * 5


@pytest.mark.parametrize("failure", [AuthFailure.EXPIRED, AuthFailure.MISSING])
def test_what_is_no_guess_does_not_count(failure: AuthFailure) -> None:
    attempts = attempts_of()
    for _ in range(5):
        attempts.on_failure(IP, AuthenticationError(failure), 0.0)
    assert wait_of(attempts, IP) == 0.0


@pytest.mark.parametrize(("limit", "ip"), [(None, IP), (RateLimit(1), None)])
def test_without_a_limit_or_an_address_all_are_looked_at(limit: RateLimit | None, ip: str | None) -> None:
    attempts = attempts_of(limit)
    for _ in range(5):
        attempts.on_failure(ip, INVALID, 0.0)
    assert wait_of(attempts, ip) == 0.0


def test_failures_beyond_the_limit_make_nobody_wait_longer() -> None:
    attempts = attempts_of()
    for _ in range(50):  # those that were under way together
        attempts.on_failure(IP, INVALID, 0.0)
    assert wait_of(attempts, IP) == 30.0


def test_no_more_addresses_are_remembered_than_are_allowed() -> None:
    attempts = attempts_of(RateLimit(1), max_keys=2)
    for number in range(3):
        attempts.on_failure(f"192.0.2.{number}", INVALID, float(number))
    assert [wait_of(attempts, f"192.0.2.{number}", 3.0) > 0 for number in range(3)] == [False, True, True]


def test_a_line_tells_of_many_and_each_is_counted() -> None:
    stats = ServerStats()
    attempts = Attempts(AdmissionConfig(failed_auth=RateLimit(1, 60.0)), stats)
    attempts.on_failure(IP, INVALID, 0.0)
    attempts.on_failure(OTHER, INVALID, 0.0)
    with logged() as records:
        for _ in range(100):
            wait_of(attempts, IP, 1.0)
        wait_of(attempts, OTHER, 10.999)
        assert kinds(records) == ["auth_limited"]
        wait_of(attempts, OTHER, 11.0)
        wait_of(attempts, IP, 12.0)
    assert kinds(records) == ["auth_limited"] * 2
    told = [(vars(record)["tokens"], vars(record)["client_ip"], vars(record)["retry_after"]) for record in records]
    assert told == [(1, IP, 59.0), (101, OTHER, 49.0)]
    assert [record.levelname for record in records] == ["WARNING"] * 2
    assert stats.rate_limited == {"auth": 103}

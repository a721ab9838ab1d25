from __future__ import annotations

import random
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsconnkit.machines.backoff import Backoff, BackoffConfig

ALMOST_ONE = 1 - 2**-53

times = st.floats(-1e6, 1e6)
jitters = st.floats(0, ALMOST_ONE)


def windows(config: BackoffConfig, count: int) -> list[float | None]:
    """Return the longest waits of `count` failures in a row."""
    backoff = Backoff(config)
    return [backoff.on_failure(0.0, jitter=1.0) for _ in range(count)]


def test_the_window_doubles_up_to_the_cap() -> None:
    assert windows(BackoffConfig(), 7) == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_the_whole_window_is_random_from_the_first_attempt_on() -> None:
    for jitter in (0.0, 0.25, 0.5, 0.75):
        backoff = Backoff(BackoffConfig())
        assert [backoff.on_failure(0.0, jitter=jitter) for _ in range(3)] == [2 * jitter, 4 * jitter, 8 * jitter]


def test_it_gives_up_after_as_many_attempts_in_a_row_as_there_may_be() -> None:
    assert [wait is None for wait in windows(BackoffConfig(max_attempts=10), 12)] == [False] * 9 + [True] * 3


def test_without_a_limit_it_never_gives_up_nor_waits_longer_than_the_cap() -> None:
    assert BackoffConfig() == BackoffConfig(max_attempts=None)
    assert windows(BackoffConfig(), 5000)[-1] == 30.0


def test_one_attempt_only_can_be_asked_for() -> None:
    assert windows(BackoffConfig(max_attempts=1), 1) == [None]


def test_a_connection_that_lasted_is_followed_by_as_many_attempts_as_there_are() -> None:
    backoff = Backoff(BackoffConfig(max_attempts=2, stable_after=30.0))
    assert backoff.attempts == 1
    backoff.on_open(0.0)
    assert [backoff.on_failure(30.0, jitter=0.5) for _ in range(3)] == [1.0, 2.0, None]
    assert backoff.attempts == 2


def test_a_connection_that_lasted_starts_the_count_again() -> None:
    backoff = Backoff(BackoffConfig(stable_after=30.0))
    for _ in range(3):
        backoff.on_failure(0.0, jitter=0.5)
    backoff.on_open(100.0)
    assert not backoff.is_stable(129.9)
    assert backoff.is_stable(130.0)
    assert backoff.attempts == 4
    assert backoff.on_failure(130.0, jitter=0.5) == 1.0
    assert backoff.attempts == 1


def test_a_connection_that_did_not_last_changes_nothing() -> None:
    backoff = Backoff(BackoffConfig(stable_after=30.0))
    waits = []
    for second in range(5):
        backoff.on_open(float(second))
        waits.append(backoff.on_failure(second + 0.5, jitter=0.5))
    assert waits == [1.0, 2.0, 4.0, 8.0, 15.0]


def test_a_server_that_accepts_and_then_closes_is_given_up_as_one_that_refuses() -> None:
    backoff = Backoff(BackoffConfig(max_attempts=3))
    for expected in (1.0, 2.0, None):
        backoff.on_open(0.0)
        assert backoff.on_failure(1.0, jitter=0.5) == expected


def test_the_failure_of_an_attempt_is_not_counted_as_the_time_of_a_connection() -> None:
    backoff = Backoff(BackoffConfig(stable_after=30.0))
    backoff.on_open(0.0)
    backoff.on_failure(1.0, jitter=0.5)
    assert not backoff.is_stable(1000.0)
    assert backoff.on_failure(1000.0, jitter=0.5) == 2.0


def test_what_the_application_does_after_the_end_is_not_counted_as_the_time_of_a_connection() -> None:
    backoff = Backoff(BackoffConfig(stable_after=30.0))
    for begin in (0.0, 1000.0):
        backoff.on_open(begin)
        backoff.on_close(begin + 1.0)
        backoff.on_close(begin + 500.0)
        assert not backoff.is_stable(begin + 600.0)
        backoff.on_failure(begin + 600.0, jitter=0.5)
    assert backoff.attempts == 3
    backoff.on_open(2000.0)
    backoff.on_close(2030.0)
    assert backoff.on_failure(2031.0, jitter=0.5) == 1.0


def test_what_a_server_asks_for_is_waited_for_and_the_window_comes_on_top() -> None:
    backoff = Backoff(BackoffConfig())
    assert backoff.on_failure(0.0, jitter=0.0, at_least=120.0) == 120.0
    assert backoff.on_failure(0.0, jitter=0.5, at_least=120.0) == 122.0


def test_the_window_can_be_widened() -> None:
    backoff = Backoff(BackoffConfig())
    assert backoff.on_failure(0.0, jitter=0.5, at_least=5.0, spread=25.0) == 17.5
    assert backoff.on_failure(0.0, jitter=0.5, spread=1.0) == 2.0


def test_time_that_goes_back_is_clamped() -> None:
    backoff = Backoff(BackoffConfig(stable_after=30.0))
    backoff.on_open(100.0)
    assert not backoff.is_stable(0.0)
    assert backoff.on_failure(50.0, jitter=0.5) == 1.0
    backoff.on_open(20.0)  # is at 100
    assert not backoff.is_stable(129.0)
    assert backoff.is_stable(130.0)


def test_an_end_that_comes_before_its_beginning_is_clamped() -> None:
    backoff = Backoff(BackoffConfig(stable_after=0.0))
    backoff.on_open(100.0)
    assert backoff.is_stable(50.0)
    backoff.on_close(50.0)
    assert backoff.is_stable(50.0)


def test_a_connection_cannot_be_older_than_the_failure_before_it() -> None:
    backoff = Backoff(BackoffConfig(stable_after=30.0))
    backoff.on_failure(100.0, jitter=0.5)
    backoff.on_open(20.0)
    assert not backoff.is_stable(129.0)
    backoff = Backoff(BackoffConfig(stable_after=30.0))
    backoff.on_close(100.0)
    backoff.on_open(20.0)
    assert not backoff.is_stable(129.0)


def test_asking_whether_it_is_stable_changes_nothing() -> None:
    backoff = Backoff(BackoffConfig())
    backoff.on_failure(0.0, jitter=0.5)
    backoff.on_open(0.0)
    backoff.is_stable(1e9)
    assert backoff.on_failure(1.0, jitter=0.5) == 2.0


@given(
    st.floats(0.01, 100),
    st.floats(1, 100),
    st.lists(st.tuples(times, jitters, st.floats(0, 1e5), st.floats(0, 100), st.booleans()), max_size=30),
)
def test_no_wait_is_shorter_than_asked_for_nor_longer_than_the_window_behind_it(
    base: float, factor: float, steps: list[tuple[float, float, float, float, bool]]
) -> None:
    cap = base * factor
    backoff = Backoff(BackoffConfig(base=base, cap=cap, max_attempts=20))
    for now, jitter, at_least, spread, opened in steps:
        if opened:
            backoff.on_open(now)
        wait = backoff.on_failure(now, jitter=jitter, at_least=at_least, spread=spread)
        if wait is None:
            assert backoff.attempts == 20
        else:
            assert at_least <= wait <= at_least + max(cap, spread)


def test_many_clients_that_were_lost_at_once_come_back_spread_out() -> None:
    randomness = random.Random(7)
    backoffs = [Backoff(BackoffConfig()) for _ in range(500)]
    waits = sorted(backoff.on_failure(0.0, jitter=randomness.random()) or 0.0 for backoff in backoffs)
    assert waits[-1] <= 2.0
    assert max(sum(begin <= wait < begin + 0.1 for wait in waits) for begin in waits) <= 50


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"base": 0}, r"base is 0; it must be a finite number of seconds, more than 0"),
        ({"base": -1.0}, r"base is -1\.0; "),
        ({"base": nan}, r"base is nan; "),
        ({"base": "1"}, r"base is '1'; "),
        ({"cap": inf}, r"cap is inf; it must be a finite number of seconds, more than 0"),
        ({"cap": 0.5}, r"cap is 0\.5; it must be at least base, which is 1\.0"),
        ({"stable_after": -0.1}, r"stable_after is -0\.1; it must be a finite number of seconds, at least 0"),
        ({"max_attempts": 0}, r"max_attempts is 0; it must be an integer of at least 1, or None for no end"),
        ({"max_attempts": 1.5}, r"max_attempts is 1\.5; "),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        BackoffConfig(**settings)


def test_settings_at_the_edge_are_taken() -> None:
    config = BackoffConfig(base=30.0, cap=30.0, stable_after=0.0, max_attempts=None)
    assert windows(config, 2) == [30.0, 30.0]
    backoff = Backoff(config)
    backoff.on_open(0.0)
    assert backoff.is_stable(0.0)

from __future__ import annotations

from dataclasses import FrozenInstanceError
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.service.health import Health, measure

SETTINGS = settings(deadline=None)


def test_without_connections_there_is_nothing_to_tell() -> None:
    assert measure([]) == Health(active=0, healthy=0, unhealthy=0, average_latency=None, p50=None, p95=None, p99=None)


def test_connections_without_a_latency_are_counted_all_the_same() -> None:
    assert measure([(True, None), (False, None), (True, None)]) == Health(
        active=3, healthy=2, unhealthy=1, average_latency=None, p50=None, p95=None, p99=None
    )


def test_one_latency_is_all_of_them() -> None:
    health = measure([(True, None), (False, 0.25)])
    assert (health.average_latency, health.p50, health.p95, health.p99) == (0.25, 0.25, 0.25, 0.25)


def test_a_latency_of_zero_is_one() -> None:
    assert measure([(True, 0.0), (True, 0.5)]).average_latency == 0.25


@pytest.mark.parametrize(
    ("count", "p50", "p95", "p99"),
    [
        (1, 1, 1, 1),
        (2, 1, 2, 2),
        (5, 3, 5, 5),
        (10, 5, 10, 10),
        (20, 10, 19, 20),
        (100, 50, 95, 99),
        (200, 100, 190, 198),
    ],
)
def test_percentiles_are_those_of_the_nearest_rank(count: int, p50: float, p95: float, p99: float) -> None:
    health = measure((True, float(latency)) for latency in range(count, 0, -1))
    assert (health.p50, health.p95, health.p99) == (p50, p95, p99)
    assert health.average_latency == (count + 1) / 2


def test_one_slow_connection_in_a_hundred_shows_in_the_average_and_not_in_the_percentiles() -> None:
    health = measure([(True, 0.010)] * 99 + [(False, 10.010)])
    assert (health.active, health.healthy, health.unhealthy) == (100, 99, 1)
    assert health.average_latency == pytest.approx(0.110)
    assert (health.p50, health.p95, health.p99) == (0.010, 0.010, 0.010)


def test_health_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        measure([]).active = 5  # type: ignore[misc]


@SETTINGS
@given(st.lists(st.tuples(st.booleans(), st.none() | st.floats(0, 1e6)), max_size=200))
def test_percentiles_are_the_lowest_latencies_that_so_many_do_not_exceed(
    samples: list[tuple[bool, float | None]],
) -> None:
    health = measure(iter(samples))
    assert health.active == len(samples) == health.healthy + health.unhealthy
    assert health.healthy == [is_healthy for is_healthy, _ in samples].count(True)
    latencies = [latency for _, latency in samples if latency is not None]
    for percent, value in ((50, health.p50), (95, health.p95), (99, health.p99)):
        if not latencies:
            assert value is None
            continue
        assert value in latencies
        needed = ceil(len(latencies) * percent / 100)
        assert sum(latency <= (value or 0.0) for latency in latencies) >= needed
        assert sum(latency < (value or 0.0) for latency in latencies) < needed
    if latencies:
        assert health.average_latency == pytest.approx(sum(latencies) / len(latencies))

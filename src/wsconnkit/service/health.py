"""How the connections of a server are, at one moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Counts of connections, and the latencies of those that have one, in seconds; None when none has.

    healthy: those that are open and have left no ping unanswered. unhealthy: the others of `active`.
    p50, p95, p99: the lowest latency that so many percent of them do not exceed.
    """

    active: int
    healthy: int
    unhealthy: int
    average_latency: float | None
    p50: float | None
    p95: float | None
    p99: float | None


def measure(samples: Iterable[tuple[bool, float | None]]) -> Health:
    """Return the health of connections, each told as whether it is healthy and its last latency in seconds, if any."""
    verdicts, measured = [], []
    for is_healthy, latency in samples:
        verdicts.append(is_healthy)
        if latency is not None:
            measured.append(latency)
    measured.sort()
    healthy = sum(verdicts)
    return Health(
        active=len(verdicts),
        healthy=healthy,
        unhealthy=len(verdicts) - healthy,
        average_latency=fsum(measured) / len(measured) if measured else None,
        p50=_percentile(measured, 50),
        p95=_percentile(measured, 95),
        p99=_percentile(measured, 99),
    )


def _percentile(ordered: list[float], percent: int) -> float | None:
    """Return a percentile by the nearest rank, so that it is a latency that was measured."""
    rank = -(-len(ordered) * percent // 100)  # rounded up, without the errors of floats
    return ordered[rank - 1] if ordered else None

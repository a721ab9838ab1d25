"""Token buckets: how often something may happen, alone or by key in bounded memory.

Alone::

    from wsconnkit.machines.ratelimit import RateLimit, TokenBucket

    bucket = TokenBucket(RateLimit(2, period=60.0), now=0.0)
    bucket.take(0.0)     # 0.0: there were two tokens, one is taken
    bucket.take(0.0)     # 0.0: and the other
    bucket.take(10.0)    # 20.0: none is left, the next is there in so many seconds
    bucket.take(30.0)    # 0.0

Checking and taking is one step, so nothing can come in between.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `count` at once; they come back evenly over `period` seconds. Raises ValueError for other than positive.

    count: tokens that a full bucket holds.
    period: seconds in which an empty bucket fills.
    """

    count: int
    period: float = 60.0

    def __post_init__(self) -> None:
        _check_count("count", self.count)
        period: object = self.period
        if not (isinstance(period, (int, float)) and 0 < period < inf):
            raise ValueError(f"period is {period!r}; it must be a finite number of seconds, more than 0")


class TokenBucket:
    """One bucket, full at first; `now` before the last one is clamped."""

    __slots__ = ("_interval", "_now", "_room", "full_at")

    def __init__(self, limit: RateLimit, *, now: float) -> None:
        self._now = now
        self._interval = limit.period / limit.count
        self._room = limit.period - self._interval
        self.full_at = now
        """When the bucket is full if nothing more is taken, in seconds on the clock of `now`."""

    def wait(self, now: float) -> float:
        """Return the seconds until there is a token, 0.0 when there is one. Takes none."""
        self._now = max(now, self._now)
        missing = self.full_at - self._now - self._room
        # Sums of intervals are rounded: a thousandth of a token must not decide.
        return missing if missing > self._interval / 1000 else 0.0

    def take(self, now: float) -> float:
        """Take a token and return 0.0, or take none and return the seconds until there is one."""
        wait = self.wait(now)
        if not wait:
            self.full_at = max(self.full_at, self._now) + self._interval
        return wait


class TokenBuckets:
    """Buckets by key, each made when it is first asked for, at most `max_keys` of them.

    Over the bound the bucket that has been full the longest is forgotten, which changes nothing, or else the one that
    is full the soonest, which changes least. A `now` before the last one is clamped. Raises ValueError for `max_keys`
    below 1.
    """

    def __init__(self, max_keys: int = 10_000) -> None:
        _check_count("max_keys", max_keys)
        self._max_keys = max_keys
        self._now = -inf
        self._buckets: dict[tuple[Hashable, RateLimit], TokenBucket] = {}
        self._by_full_at: list[tuple[float, int, tuple[Hashable, RateLimit]]] = []
        self._made = 0

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, key: Hashable, limit: RateLimit, now: float) -> float:
        """Return the seconds until there is a token of `key`, 0.0 when there is one. Takes none."""
        bucket = self._buckets.get((key, limit))
        return 0.0 if bucket is None else bucket.wait(max(now, self._now))

    def take(self, key: Hashable, limit: RateLimit, now: float) -> float:
        """Take a token of `key` and return 0.0, or take none and return the seconds until there is one."""
        return self.take_all([(key, limit)], now)

    def take_all(self, wanted: Iterable[tuple[Hashable, RateLimit]], now: float) -> float:
        """Take a token of each key and return 0.0, or take none and return the seconds until all have one."""
        self._now = now = max(now, self._now)
        names = list(wanted)
        wait = max((self._buckets[name].wait(now) for name in names if name in self._buckets), default=0.0)
        if not wait:
            for name in names:
                self._found(name, now).take(now)
        return wait

    def _found(self, name: tuple[Hashable, RateLimit], now: float) -> TokenBucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) == self._max_keys:
                self._forget_one()
            bucket = self._buckets[name] = TokenBucket(name[1], now=now)
            self._made += 1
            heapq.heappush(self._by_full_at, (bucket.full_at, self._made, name))
        return bucket

    def _forget_one(self) -> None:
        while True:
            noted_at, made, name = self._by_full_at[0]
            full_at = self._buckets[name].full_at
            if full_at == noted_at:
                heapq.heappop(self._by_full_at)
                del self._buckets[name]
                return
            # Tokens were taken since it was noted.
            heapq.heapreplace(self._by_full_at, (full_at, made, name))


def _check_count(name: str, value: object) -> None:
    if not (isinstance(value, int) and value >= 1):
        raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")

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

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from math import inf
from typing import TypeAlias


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
        self.full_at: float = now
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
    is full the soonest, which changes least. A token costs at most as many steps as `max_keys` has binary digits,
    whatever was taken before. A `now` before the last one is clamped. Raises ValueError for `max_keys` below 1.
    """

    def __init__(self, max_keys: int = 10_000) -> None:
        _check_count("max_keys", max_keys)
        self._max_keys = max_keys
        self._now = -inf
        self._buckets: dict[_Name, _RankedBucket] = {}
        self._heap: list[_RankedBucket] = []  # `heapq` could not find a bucket whose rank has changed
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

    def take_all(self, wanted: Iterable[_Name], now: float) -> float:
        """Take a token of each key and return 0.0, or take none and return the seconds until all have one."""
        self._now = now = max(now, self._now)
        names = list(wanted)
        wait = max((self._buckets[name].wait(now) for name in names if name in self._buckets), default=0.0)
        if not wait:
            for name in names:
                bucket = self._buckets.get(name) or self._new(name, now)
                bucket.take(now)
                self._sink(bucket)
        return wait

    def _new(self, name: _Name, now: float) -> _RankedBucket:
        """Return a new bucket, in the place of the one that is forgotten for it."""
        self._made += 1
        bucket = self._buckets[name] = _RankedBucket(name, made=self._made, now=now)
        if len(self._buckets) > self._max_keys:
            del self._buckets[self._heap[0].name]
            self._heap[0] = bucket
        else:
            bucket.place = len(self._heap)
            self._heap.append(bucket)
            self._rise(bucket)
        return bucket

    def _rise(self, bucket: _RankedBucket) -> None:
        """Put a bucket that stands last before all that are full later."""
        heap, place = self._heap, bucket.place
        while place and bucket.is_before(above := heap[(place - 1) // 2]):
            above.place, place = place, above.place
            heap[above.place] = above
        bucket.place = place
        heap[place] = bucket

    def _sink(self, bucket: _RankedBucket) -> None:
        """Put a bucket that is full later than before behind all that are full sooner."""
        heap, place, size = self._heap, bucket.place, len(self._heap)
        while (left := 2 * place + 1) < size:
            below = heap[left]
            if left + 1 < size and heap[left + 1].is_before(below):
                below = heap[left + 1]
            if bucket.is_before(below):
                break
            below.place, place = place, below.place
            heap[below.place] = below
        bucket.place = place
        heap[place] = bucket


_Name: TypeAlias = tuple[Hashable, RateLimit]


class _RankedBucket(TokenBucket):
    """A bucket with its place in a binary heap: the one below which no bucket is full sooner comes first."""

    __slots__ = ("made", "name", "place")

    def __init__(self, name: _Name, *, made: int, now: float) -> None:
        super().__init__(name[1], now=now)
        self.name = name
        self.made = made
        self.place = 0

    def is_before(self, other: _RankedBucket) -> bool:
        """Tell whether it is full sooner, or as soon and was made before."""
        if self.full_at == other.full_at:
            return self.made < other.made
        return self.full_at < other.full_at


def _check_count(name: str, value: object) -> None:
    if not (isinstance(value, int) and value >= 1):
        raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")

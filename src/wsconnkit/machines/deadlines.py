"""Named deadlines, each told only after its owner had a chance to read.

Alone::

    from wsconnkit.machines.deadlines import Deadlines

    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("idle", 60.0)
    deadlines.next_timeout()              # 60.0
    deadlines.handle_timeout(75.0)        # []: the timer fired late, so read from the socket first
    deadlines.next_timeout()              # 75.01
    deadlines.handle_timeout(75.01)       # ["idle"], unless what was read has moved the deadline

A process that was blocked finds its timers due and its sockets full. Believing the timers first would blame
the peer for our own delay.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

READ_GRACE = 0.01
"""Seconds between a deadline and its verdict, in which the event loop polls its sockets at least once."""


class Deadlines(Generic[K]):
    """A small set of named deadlines in seconds on one clock."""

    __slots__ = ("_at", "_now", "_verdict_at")

    def __init__(self) -> None:
        self._at: dict[K, float] = {}
        self._verdict_at: dict[K, float] = {}
        self._now = float("-inf")

    def set(self, name: K, at: float) -> None:
        """Set the deadline `name` to `at` seconds, in place of an earlier setting."""
        self._at[name] = at
        if self._verdict_at:
            self._verdict_at.pop(name, None)

    def clear(self, name: K) -> None:
        """Forget the deadline `name`; safe when it is not set."""
        self._at.pop(name, None)
        self._verdict_at.pop(name, None)

    def next(self) -> tuple[K, float] | None:
        """Return the name and the time of the next wake-up, or None. Changes nothing."""
        if not self._at:
            return None
        due = {**self._at, **self._verdict_at} if self._verdict_at else self._at
        name = min(due, key=due.__getitem__)
        return name, due[name]

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout`, or None. Changes nothing."""
        upcoming = self.next()
        return None if upcoming is None else upcoming[1]

    def handle_timeout(self, now: float) -> list[K]:
        """Return the deadlines that are over, in the order they were due, and forget them.

        A deadline found due for the first time is not told yet: it comes up again `READ_GRACE` seconds later.
        Early, late and repeated calls are safe; a `now` before the last one is clamped.
        """
        self._now = now = max(now, self._now)
        over = [name for name, at in self._verdict_at.items() if at <= now]
        expired = sorted(over, key=self._at.__getitem__)
        for name in expired:
            self.clear(name)
        for name, at in self._at.items():
            if at <= now and name not in self._verdict_at:
                self._verdict_at[name] = now + READ_GRACE
        return expired

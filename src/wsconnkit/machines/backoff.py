"""How long a client waits before it connects again: longer each time, at random, and not for ever if told so.

Alone::

    from wsconnkit.machines.backoff import Backoff, BackoffConfig

    backoff = Backoff(BackoffConfig(base=1.0, cap=30.0, max_attempts=4))
    backoff.on_failure(0.0, jitter=0.5)                     # 1.0: half of the first window, which is 2 seconds
    backoff.on_failure(1.0, jitter=0.5)                     # 2.0: half of 4
    backoff.on_failure(3.0, jitter=0.5, at_least=60.0)      # 64.0: the server asked for 60, and half of 8
    backoff.on_failure(67.0, jitter=0.5)                    # None: these were four attempts, give up

The first attempt waits for nothing, and counts. A connection is told with `on_open` and `on_close`; only one that
lasts lets the count begin again.

`jitter` is a fresh random number from 0 up to 1. The whole window is random, also the first one: clients that one
server has lost at the same moment come back spread over it, and none knows of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite


@dataclass(frozen=True, slots=True, kw_only=True)
class BackoffConfig:
    """How a client comes back: for ever, unless `max_attempts` says otherwise. Raises ValueError for bad values.

    base: seconds; the first wait in a row is a random part of twice that, each that follows one of twice as much.
    cap: seconds that this window grows to, and no further.
    max_attempts: in a row, the very first one included, after which the client gives up; None for no end.
    stable_after: seconds that a connection must have lasted for the attempts to be counted from the start again.
    """

    base: float = 1.0
    cap: float = 30.0
    max_attempts: int | None = None
    stable_after: float = 30.0

    def __post_init__(self) -> None:
        _check_seconds("base", self.base, above=0.0)
        _check_seconds("cap", self.cap, above=0.0)
        _check_seconds("stable_after", self.stable_after)
        if self.cap < self.base:
            raise ValueError(f"cap is {self.cap!r}; it must be at least base, which is {self.base!r}")
        count: object = self.max_attempts
        if count is not None and not (isinstance(count, int) and count >= 1):
            raise ValueError(f"max_attempts is {count!r}; it must be an integer of at least 1, or None for no end")


class Backoff:
    """Counts attempts in a row and says when the next one is due; `now` before the last one is clamped."""

    __slots__ = ("_closed_at", "_config", "_now", "_opened_at", "_window", "attempts")

    def __init__(self, config: BackoffConfig) -> None:
        self._config = config
        self._now = -inf
        self._opened_at: float | None = None
        self._closed_at: float | None = None
        self._window = config.base
        self.attempts: int = 1
        """Attempts in a row since the start, or since a connection that lasted; the latest one included."""

    def on_open(self, now: float) -> None:
        """There is a connection. What was counted so far still counts until it has lasted."""
        self._now = max(now, self._now)
        self._opened_at = self._now
        self._closed_at = None

    def on_close(self, now: float) -> None:
        """The connection has ended; the application may be busy with it for some time yet, which does not count."""
        self._now = max(now, self._now)
        if self._closed_at is None:
            self._closed_at = self._now

    def is_stable(self, now: float) -> bool:
        """There is a connection that has lasted long enough to start from the beginning after it. Changes nothing."""
        if self._opened_at is None:
            return False
        end = max(now, self._now) if self._closed_at is None else self._closed_at
        return end - self._opened_at >= self._config.stable_after

    def on_failure(self, now: float, *, jitter: float, at_least: float = 0.0, spread: float = 0.0) -> float | None:
        """The connection, or an attempt at one, has ended: return the seconds to wait, None for giving up.

        jitter: a random number, at least 0 and below 1.
        at_least: seconds to which the random part is added.
        spread: seconds that the window of the random part has at least.
        """
        self._now = max(now, self._now)
        if self.is_stable(now):
            self.attempts = 0
            self._window = self._config.base
        self._opened_at = None
        if self.attempts == self._config.max_attempts:
            return None
        self.attempts += 1
        self._window = min(2 * self._window, self._config.cap)
        return at_least + jitter * max(self._window, spread)


def _check_seconds(name: str, value: object, *, above: float | None = None) -> None:
    if not (isinstance(value, (int, float)) and isfinite(value) and (value >= 0 if above is None else value > above)):
        allowed = "at least 0" if above is None else f"more than {above:g}"
        raise ValueError(f"{name} is {value!r}; it must be a finite number of seconds, {allowed}")

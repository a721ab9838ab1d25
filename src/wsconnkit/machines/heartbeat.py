"""An honest heartbeat: any inbound byte is life, and our own delay is never held against the peer.

Alone::

    from wsconnkit.machines.heartbeat import Heartbeat, HeartbeatConfig

    heartbeat = Heartbeat(HeartbeatConfig(interval=30, timeout=5, max_missed=3), now=0.0)
    heartbeat.next_timeout()              # 30.0
    beat = heartbeat.handle_timeout(30.0)
    send_ping(beat.ping)                  # silence for `interval`: a payload to send
    heartbeat.on_data(30.1)               # bytes arrived: alive, the misses are cleared
    heartbeat.on_pong(beat.ping, 30.1)    # 0.1 seconds of latency
    heartbeat.next_timeout()              # 60.1

    IDLE --interval--> PINGED --timeout--> CHECKING --one read--> a miss: PINGED again, or dead
      ^___________________|______any byte______|
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import NamedTuple

READ_GRACE = 0.01
"""Seconds between a last miss and its verdict, in which the event loop polls its sockets at least once."""

MAX_UNANSWERED_PINGS = 64
"""Pings remembered for matching pongs; the oldest are forgotten first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatConfig:
    """When to ping and when to give up. Raises ValueError for values that are not positive.

    interval: seconds without inbound bytes before a ping.
    timeout: seconds that a ping may stay without a sign of life before it counts as missed.
    max_missed: misses in a row after which the peer is dead.
    """

    interval: float = 30.0
    timeout: float = 5.0
    max_missed: int = 3

    def __post_init__(self) -> None:
        for name in ("interval", "timeout"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0 < value < inf):
                raise ValueError(f"{name} is {value!r}; it must be a finite number of seconds, more than 0")
        max_missed: object = self.max_missed
        if not (isinstance(max_missed, int) and max_missed >= 1):
            raise ValueError(f"max_missed is {self.max_missed!r}; it must be an integer of at least 1")


class Beat(NamedTuple):
    """What `handle_timeout` found: all of it may be empty."""

    ping: bytes | None = None
    """A payload to send in a ping now."""
    missed: int = 0
    """Misses in a row, when one was just added."""
    dead: bool = False
    """The peer has shown no sign of life for too long."""
    late_by: float = 0.0
    """Seconds by which our own timer was late, when that is enough to matter: a stall of ours."""


class _Phase(Enum):
    IDLE = auto()
    PINGED = auto()
    CHECKING = auto()
    DEAD = auto()


class Heartbeat:
    """The heartbeat of one connection; with `config=None` it only matches pongs to pings.

    new_payload: returns as many unpredictable bytes as it is asked for.
    """

    __slots__ = (
        "_config",
        "_missed",
        "_new_payload",
        "_now",
        "_phase",
        "_pings",
        "_reading_paused",
        "_since",
        "_writing_paused",
        "latency",
    )

    def __init__(
        self, config: HeartbeatConfig | None, *, now: float, new_payload: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._config = config
        self._new_payload = new_payload
        self._phase = _Phase.IDLE
        self._now = self._since = now
        self._missed = 0
        self._pings: dict[bytes, float] = {}
        self._reading_paused = self._writing_paused = False
        self.latency: float | None = None
        """Seconds from the last answered ping to its pong."""

    def on_data(self, now: float) -> float:
        """Bytes arrived from the peer, whatever they are.

        Return the seconds by which our own timer is late, when that is enough to matter: it is still due, and we
        read before it fired.
        """
        if now > self._now:
            self._now = now
        late_by = self._late_by()
        if self._phase is not _Phase.DEAD:
            self._phase = _Phase.IDLE
            self._since = self._now
            self._missed = 0
        return late_by

    def on_ping_sent(self, payload: bytes, now: float) -> None:
        """Remember a ping that the application sends, so that its pong gives a latency."""
        self._now = max(now, self._now)
        self._pings.pop(payload, None)
        self._pings[payload] = self._now
        if len(self._pings) > MAX_UNANSWERED_PINGS:
            del self._pings[next(iter(self._pings))]

    def on_pong(self, payload: bytes, now: float) -> float | None:
        """Return the latency in seconds when `payload` is that of an unanswered ping of ours, else None.

        Pings sent before it count as answered too (RFC 6455, section 5.5.3).
        """
        self._now = max(now, self._now)
        sent_at = self._pings.get(payload)
        if sent_at is None:
            return None
        while payload in self._pings:
            del self._pings[next(iter(self._pings))]
        self.latency = self._now - sent_at
        return self.latency

    def reading_paused(self, now: float) -> None:
        """We have stopped reading: until we resume, silence says nothing about the peer."""
        self._now = max(now, self._now)
        self._reading_paused = True

    def reading_resumed(self, now: float) -> None:
        """We read again: the current wait starts anew."""
        self._now = max(now, self._now)
        if self._reading_paused:
            self._reading_paused = False
            self._restart()

    def writing_paused(self, now: float) -> None:
        """Bytes are stuck in our buffer, perhaps the ping among them."""
        self._now = max(now, self._now)
        self._writing_paused = True

    def writing_resumed(self, now: float) -> None:
        """All bytes have left our buffer: a pong can be waited for from now on."""
        self._now = max(now, self._now)
        if self._writing_paused:
            self._writing_paused = False
            if self._phase is not _Phase.IDLE:
                self._restart()

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout`, in seconds on the clock of `now`, or None. Changes nothing."""
        if self._config is None or self._reading_paused or self._phase is _Phase.DEAD:
            return None
        if self._phase is _Phase.IDLE:
            return self._since + self._config.interval
        if self._phase is _Phase.PINGED:
            return self._since + self._config.timeout
        return self._since + READ_GRACE

    def handle_timeout(self, now: float) -> Beat:
        """Do what is due. Early, late and repeated calls are safe; `now` before the last one is clamped."""
        self._now = now = max(now, self._now)
        deadline = self.next_timeout()
        if deadline is None or now < deadline:
            return Beat()
        assert self._config is not None  # or there would be no deadline
        late_by = self._late_by()
        if self._phase is _Phase.IDLE:
            return Beat(ping=self._ping(), late_by=late_by)
        if self._writing_paused:
            # The ping may not have left yet, so its clock does not run.
            self._phase = _Phase.PINGED
            self._since = now
            return Beat(late_by=late_by)
        is_last = self._phase is _Phase.PINGED and self._missed + 1 == self._config.max_missed
        if late_by or is_last:
            # A late timer says that we were away, not that the peer was: read once before the verdict.
            self._phase = _Phase.CHECKING
            self._since = now
            return Beat(late_by=late_by)
        self._missed += 1
        if self._missed == self._config.max_missed:
            self._phase = _Phase.DEAD
            return Beat(missed=self._missed, dead=True, late_by=late_by)
        return Beat(ping=self._ping(), missed=self._missed, late_by=late_by)

    def _late_by(self) -> float:
        deadline = self.next_timeout()
        if deadline is None or self._config is None:
            return 0.0
        late_by = self._now - deadline
        return late_by if late_by > self._config.timeout / 2 else 0.0

    def _ping(self) -> bytes:
        payload = self._new_payload(4)
        self.on_ping_sent(payload, self._now)
        self._phase = _Phase.PINGED
        self._since = self._now
        return payload

    def _restart(self) -> None:
        if self._phase is _Phase.CHECKING:
            self._phase = _Phase.PINGED
        if self._phase is not _Phase.DEAD:
            self._since = self._now

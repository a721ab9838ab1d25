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

While we do not read, a pong proves nothing, but a peer that has left is still to be noticed: it answers what is
written to it with a reset, and the next write meets that. So two pings go out each interval, a timeout apart, that
nobody waits for.
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
        "_deadline",
        "_interval",
        "_max_missed",
        "_new_payload",
        "_now",
        "_phase",
        "_pings",
        "_reading_paused",
        "_tolerance",
        "_waits",
        "_writing_paused",
        "latency",
        "missed",
    )

    def __init__(
        self, config: HeartbeatConfig | None, *, now: float, new_payload: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._new_payload = new_payload
        self._max_missed = config.max_missed if config else 0
        self._tolerance = config.timeout / 2 if config else inf
        self._waits = {
            _Phase.IDLE: config.interval if config else inf,
            _Phase.PINGED: config.timeout if config else inf,
            _Phase.CHECKING: READ_GRACE,
            _Phase.DEAD: inf,
        }
        self._interval = self._waits[_Phase.IDLE]
        self._now = now
        self._phase = _Phase.IDLE
        self._deadline = now + self._interval
        self.missed: int = 0
        """Misses in a row since the last byte."""
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
        late_by = self._now - self._deadline
        if self._phase is not _Phase.DEAD:
            self._phase = _Phase.IDLE
            self._deadline = self._now + self._interval
            self.missed = 0
        return late_by if late_by > self._tolerance and not self._reading_paused else 0.0

    def on_ping_sent(self, payload: bytes, now: float) -> None:
        """Remember a ping that the application sends, so that its pong gives a latency."""
        self._now = max(now, self._now)
        self._pings.pop(payload, None)
        if self._reading_paused:
            return  # nobody will see when its pong arrives
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
        """We have stopped reading: until we resume, silence says nothing about the peer, nor do late pongs."""
        self._now = max(now, self._now)
        self._reading_paused = True
        self._pings.clear()

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
        return None if self._deadline == inf else self._deadline

    def handle_timeout(self, now: float) -> Beat:
        """Do what is due. Early, late and repeated calls are safe; `now` before the last one is clamped."""
        self._now = now = max(now, self._now)
        deadline = self.next_timeout()
        if deadline is None or now < deadline:
            return Beat()
        late_by = now - deadline if now - deadline > self._tolerance else 0.0
        if self._reading_paused:
            return Beat(ping=self._probe(), late_by=late_by)
        if self._phase is _Phase.IDLE:
            return Beat(ping=self._ping(), late_by=late_by)
        if self._writing_paused:
            # The ping may not have left yet, so its clock does not run.
            self._wait_in(_Phase.PINGED)
            return Beat(late_by=late_by)
        is_last = self._phase is _Phase.PINGED and self.missed + 1 == self._max_missed
        if late_by or is_last:
            # A late timer says that we were away, not that the peer was: read once before the verdict.
            self._wait_in(_Phase.CHECKING)
            return Beat(late_by=late_by)
        self.missed += 1
        if self.missed == self._max_missed:
            self._wait_in(_Phase.DEAD)
            return Beat(missed=self.missed, dead=True)
        return Beat(ping=self._ping(), missed=self.missed)

    def _ping(self) -> bytes:
        payload = self._new_payload(4)
        self.on_ping_sent(payload, self._now)
        self._wait_in(_Phase.PINGED)
        return payload

    def _probe(self) -> bytes | None:
        """Return the first or second ping of an interval in which nobody reads, None while none can leave."""
        if self._writing_paused:
            self._wait_in(_Phase.IDLE)
            return None
        self._wait_in(_Phase.PINGED if self._phase is _Phase.IDLE else _Phase.IDLE)
        return self._new_payload(4)

    def _restart(self) -> None:
        self._wait_in(_Phase.PINGED if self._phase is _Phase.CHECKING else self._phase)

    def _wait_in(self, phase: _Phase) -> None:
        self._phase = phase
        self._deadline = self._now + self._waits[phase]

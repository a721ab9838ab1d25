"""How many control frames a peer may send: each costs a few bytes, and us as much as a message."""

from __future__ import annotations

from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.machines.ratelimit import RateLimit, TokenBucket
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.frames import FrameError


class ControlRate:
    """Counts the pings of a peer, and the pongs that answer no ping of ours, but not those that waited for us.

    limit: frames a second, and at once; None for any number.
    """

    __slots__ = ("_answers", "_bucket", "_limit", "_paused_at", "_waiting")

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._bucket: TokenBucket | None = None  # until there is something to count
        self._answers = 0
        self._paused_at = 0.0
        self._waiting = 0.0  # frames that the peer may have sent while we did not read

    def reading_paused(self, now: float) -> None:
        """We have stopped reading: what is sent from now on will come at once."""
        self._paused_at = now

    def reading_resumed(self, now: float) -> None:
        """We read again, after `reading_paused`."""
        self.on_stall(now - self._paused_at)

    def on_stall(self, seconds: float) -> None:
        """We have not read for so long."""
        if self._limit is not None:
            self._waiting += self._limit * seconds

    def on_pong(self, now: float, pings_sent: int) -> None:
        """A pong has arrived, after so many pings of ours in all. Raises FrameError as `on_ping`."""
        if self._answers < pings_sent:
            self._answers += 1
        else:
            self.on_ping(now)

    def on_ping(self, now: float) -> None:
        """A ping has arrived. Raises FrameError when it is one too many."""
        if self._limit is None:
            return
        if self._waiting >= 1:
            self._waiting -= 1
            return
        if self._bucket is None:
            self._bucket = TokenBucket(RateLimit(self._limit, period=1.0), now=now)
        if self._bucket.take(now):
            raise FrameError(
                CloseCode.POLICY_VIOLATION, Cause.FLOOD, f"more than {self._limit} control frames in a second"
            )

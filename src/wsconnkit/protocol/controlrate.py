"""How many control frames a peer may send: each costs a few bytes, and us as much as a message."""

from __future__ import annotations

from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.machines.ratelimit import RateLimit, TokenBucket
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.frames import FrameError


class ControlRate:
    """Counts the pings of a peer, and the pongs that answer no ping of ours.

    limit: frames a second, and at once; None for any number.
    """

    __slots__ = ("_answers", "_bucket", "_limit")

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._bucket: TokenBucket | None = None  # until there is something to count
        self._answers = 0

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
        if self._bucket is None:
            self._bucket = TokenBucket(RateLimit(self._limit, period=1.0), now=now)
        if self._bucket.take(now):
            raise FrameError(
                CloseCode.POLICY_VIOLATION, Cause.FLOOD, f"more than {self._limit} control frames in a second"
            )

"""A clock that moves when told to."""

from __future__ import annotations


class VirtualClock:
    """A monotonic clock in seconds that moves when told to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now: float = now

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`, which cannot be negative (ValueError)."""
        if seconds < 0:
            raise ValueError(f"cannot advance by {seconds!r} seconds; time does not go back")
        self.now += seconds

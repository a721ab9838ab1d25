"""An asyncio event loop in virtual time: timers fire at once when nothing else is left to do.

    loop = VirtualTimeLoop()
    loop.run_until_complete(asyncio.sleep(3600))      # returns immediately; loop.time() is 3600 later

Sockets are real. Both ends of a connection must live in this loop, since other processes do not wait for its clock.
"""

from __future__ import annotations

import asyncio
import selectors

from wsconnkit.testing.clock import VirtualClock

_SETTLE = 0.001
"""Real seconds that the kernel is given to carry bytes over loopback before time moves on."""


class _Selector(selectors.DefaultSelector):
    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready = super().select(0 if timeout <= 0 else _SETTLE)
        if not ready and timeout > 0:
            self._clock.advance(timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A selector event loop on a clock of its own; `clock.advance()` within a callback is a stall of the loop."""

    def __init__(self) -> None:
        self.clock: VirtualClock = VirtualClock()
        super().__init__(_Selector(self.clock))
        # The real one is less than a float can tell apart after a year, and timers would be due for ever.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.clock.now

    def stall(self, seconds: float) -> None:
        """Let `seconds` pass without the loop doing anything, as a blocking call would."""
        self.clock.advance(seconds)

    def __repr__(self) -> str:
        return f"<VirtualTimeLoop at {self.clock.now:g} s>"

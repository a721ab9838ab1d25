"""Stop in order on the first SIGINT or SIGTERM, at once on the second."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from wsconnkit.managed.runtime import Runtime

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_stops: list[tuple[Runtime, Callable[[], None]]] = []
"""All who wait: one signal stops all servers of a process."""
_before: list[Any] = []
"""What the signals did before the first of them came."""


@contextmanager
def stop_on_signals(runtime: Runtime, stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` in the loop at the first signal; a second one within the block ends the process.

    To be entered in the main thread. After the block the signals do what they did before.
    """
    waiting = runtime, stop
    if not _stops:
        _before[:] = [signal.signal(each, _on_signal) for each in _SIGNALS]
    _stops.append(waiting)
    try:
        yield
    finally:
        _stops.remove(waiting)
        if not _stops:
            for each, handler in zip(_SIGNALS, _before, strict=True):
                signal.signal(each, handler)


def _on_signal(signum: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        # The system's own reaction works even where the event loop is stuck.
        signal.signal(each, signal.SIG_DFL)
    for runtime, stop in _stops:
        runtime.call_soon_threadsafe(stop)

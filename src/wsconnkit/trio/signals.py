"""Stop in order on the first SIGINT or SIGTERM, at once on the second."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import trio

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_stops: list[tuple[trio.lowlevel.TrioToken, trio.Event]] = []
"""All who wait: one signal stops all servers of a process."""
_before: list[Any] = []
"""What the signals did before the first of them came."""


@contextmanager
def stop_on_signals() -> Iterator[trio.Event]:
    """Give an event that the first signal sets; a second one within the block ends the process.

    To be entered in the main thread, in a trio run. After the block the signals do what they did before.
    """
    stop = trio.Event()
    waiting = trio.lowlevel.current_trio_token(), stop
    if not _stops:
        _before[:] = [signal.signal(each, _on_signal) for each in _SIGNALS]
    _stops.append(waiting)
    try:
        yield stop
    finally:
        _stops.remove(waiting)
        if not _stops:
            for each, handler in zip(_SIGNALS, _before, strict=True):
                signal.signal(each, handler)


def _on_signal(signum: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        # The system's own reaction works even where trio is stuck.
        signal.signal(each, signal.SIG_DFL)
    for token, stop in _stops:
        token.run_sync_soon(stop.set)

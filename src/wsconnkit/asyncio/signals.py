"""Stop in order on the first SIGINT or SIGTERM, at once on the second."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[asyncio.Event]:
    """Give an event that the first signal sets; later ones, and those after the block, end the process.

    To be entered in the main thread, in a running loop.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(signum: int, frame: FrameType | None) -> None:
        _let_signals_end_us()
        loop.call_soon_threadsafe(stop.set)

    for each in _SIGNALS:
        signal.signal(each, on_signal)
    try:
        yield stop
    finally:
        _let_signals_end_us()


def _let_signals_end_us() -> None:
    # The system's own reaction works even where the event loop is stuck.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)

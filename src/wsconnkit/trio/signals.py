"""Stop in order on the first SIGINT or SIGTERM, at once on the second."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import trio

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[trio.Event]:
    """Give an event that the first signal sets; later ones, and those after the block, end the process.

    To be entered in the main thread, in a trio run.
    """
    token = trio.lowlevel.current_trio_token()
    stop = trio.Event()

    def on_signal(signum: int, frame: FrameType | None) -> None:
        _let_signals_end_us()
        token.run_sync_soon(stop.set)

    for each in _SIGNALS:
        signal.signal(each, on_signal)
    try:
        yield stop
    finally:
        _let_signals_end_us()


def _let_signals_end_us() -> None:
    # The system's own reaction works even where trio is stuck.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)

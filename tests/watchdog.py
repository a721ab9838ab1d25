"""A bound on the real time of a test, so that one that never ends fails and tells where it was."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

LIMIT = 120.0
"""Seconds; the longest test takes a tenth of it."""
_AGAIN = 10.0
"""Seconds that it may take then to clean up."""


class Stuck(KeyboardInterrupt):
    """Leaves event loops as Ctrl-C does, which hold back all other exceptions."""


@contextmanager
def watchdog(cancel: Callable[[], None], limit: float = LIMIT) -> Generator[None, None, None]:
    """Fail what runs within for more than `limit` real seconds, whether it waits or spins.

    cancel: called then in a signal handler, to end it. What goes on nevertheless is broken off.
    """
    is_late = False

    def on_alarm(number: int, frame: Any) -> None:
        nonlocal is_late
        if is_late:
            raise Stuck
        is_late = True
        cancel()

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, limit, _AGAIN)
    try:
        yield
    except BaseException as error:
        if is_late:
            raise AssertionError(f"this did not end within {limit:g} s") from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not is_late


def run_watched(loop: Any, main: Any) -> None:
    """Run a coroutine to its end on an asyncio loop."""
    task = loop.create_task(main)
    with watchdog(lambda: loop.call_soon_threadsafe(task.cancel)):
        loop.run_until_complete(task)

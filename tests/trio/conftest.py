from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

Main = Callable[[], Awaitable[None]]


async def _checked(main: Main) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    with trio.fail_after(1_000_000):
        await main()
    assert trio.lowlevel.current_statistics().tasks_living == before


@pytest.fixture
def run() -> Callable[[Main], None]:
    """Run to the end over real sockets; no task may be left."""
    return lambda main: trio.run(_checked, main)


@pytest.fixture
def run_virtual() -> Callable[[Main], None]:
    """Run to the end in virtual time; no task may be left."""
    return lambda main: trio.run(_checked, main, clock=trio.testing.MockClock(autojump_threshold=0))

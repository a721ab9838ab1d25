from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import pytest
import uvloop

from wsconnkit.asyncio import Connection
from wsconnkit.testing.eventloop import VirtualTimeLoop

from ..watchdog import run_watched

Echo = Callable[[Connection], Awaitable[None]]


@pytest.fixture
def echo() -> Echo:
    async def handler(ws: Connection) -> None:
        async for message in ws:
            await ws.send(message)

    return handler


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Generator[asyncio.AbstractEventLoop, None, None]:
    """A real event loop, of both kinds; nothing may be left on it after the test."""
    loop = uvloop.new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()
    yield from _checked(loop)


@pytest.fixture
def virtual_loop() -> Generator[VirtualTimeLoop, None, None]:
    yield from _checked(VirtualTimeLoop())


def _checked(loop: Any) -> Generator[Any, None, None]:
    problems: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: problems.append(context))
    asyncio.set_event_loop(loop)
    yield loop
    left = [task for task in asyncio.all_tasks(loop) if not task.done()]
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    asyncio.set_event_loop(None)
    assert problems == []
    assert left == []


@pytest.fixture
def run(loop: asyncio.AbstractEventLoop) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a coroutine to its end on a real loop, for at most 30 seconds."""
    return lambda main: loop.run_until_complete(asyncio.wait_for(main, 30))


@pytest.fixture
def run_virtual(virtual_loop: VirtualTimeLoop) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a coroutine to its end in virtual time."""
    return lambda main: run_watched(virtual_loop, main)

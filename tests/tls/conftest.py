from __future__ import annotations

import asyncio
import gc
import logging
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, NamedTuple

import pytest
import trio
import trustme
import uvloop

import wsconnkit.asyncio
import wsconnkit.trio

from ..watchdog import watchdog


class Loop(NamedTuple):
    """An event loop with its adapter."""

    name: str
    adapter: Any
    run: Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
    """Run an async function to its end."""
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]
    """Run a function that blocks."""
    turn: Callable[[], Awaitable[None]]
    """Let others have their turn."""


def run_asyncio(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Callable[..., None]:
    def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        loop = new_loop()
        try:
            task = loop.create_task(main())
            with watchdog(partial(_cancel, task), 30):
                loop.run_until_complete(task)
            loop.run_until_complete(asyncio.sleep(0))  # who was told of an end may still want to say something
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    return run


def run_trio(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def watched() -> None:
        with trio.CancelScope() as scope, watchdog(scope.cancel, 30):
            await main()

    trio.run(watched)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


async def in_executor(function: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function)


LOOPS = [
    Loop("asyncio", wsconnkit.asyncio, run_asyncio(asyncio.new_event_loop), in_executor, lambda: asyncio.sleep(0)),
    Loop("uvloop", wsconnkit.asyncio, run_asyncio(uvloop.new_event_loop), in_executor, lambda: asyncio.sleep(0)),
    Loop("trio", wsconnkit.trio, run_trio, trio.to_thread.run_sync, trio.lowlevel.checkpoint),
]


@pytest.fixture(params=LOOPS, ids=[loop.name for loop in LOOPS])
def loop(request: pytest.FixtureRequest) -> Loop:
    return request.param  # type: ignore[no-any-return]


class Tls(NamedTuple):
    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="session")
def tls() -> Tls:
    """Contexts of which the client's trusts the server's."""
    ca = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    client = ssl.create_default_context()
    ca.configure_trust(client)
    return Tls(server, client)


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> Generator[None, None, None]:
    """The event loop says nothing, neither in its log nor, of what is collected, in warnings, which are errors."""
    caplog.set_level(logging.DEBUG)
    yield
    gc.collect()
    said = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    loud = [record.getMessage() for record in said if record.name == "asyncio" and record.levelno > logging.DEBUG]
    assert loud == []

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
import trustme

from ..watchdog import watchdog

Main = Callable[[], Awaitable[None]]


async def _checked(main: Main) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope, watchdog(lambda: token.run_sync_soon(scope.cancel)):
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


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """What a server at 127.0.0.1 needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What a client needs to trust that server."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context

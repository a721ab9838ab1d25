"""All that an application awaits: where it can be cancelled, and where Ctrl-C can interrupt it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

from wsconnkit import Admitted, Principal, Request, RequestError, RequestRouter, UpgradeRequest, check_upgrade
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.http import Headers
from wsconnkit.protocol.upgrade import agree
from wsconnkit.service.backlog import Backlog
from wsconnkit.service.drain import Drain
from wsconnkit.service.policy import ServerPolicy
from wsconnkit.trio import Connection, Manager, ReconnectingClient, Server, attach, connect, serve

from .peers import PLAIN, UPGRADE, Run, echo, uri

Call = Callable[[], Awaitable[object]]
HERE = ("127.0.0.1", 1)
ENTERING = "__aenter__"
"""Of what is there already it returns at once, as with trio's own resources; leaving is a checkpoint."""


def request() -> UpgradeRequest:
    lines = UPGRADE.decode().split("\r\n")[1:-2]
    checked = check_upgrade("GET", "/", "1.1", Headers(tuple(line.split(": ", 1)) for line in lines))  # type: ignore[misc]
    assert isinstance(checked, UpgradeRequest)
    return checked


def calls_of(a_class: type) -> set[str]:
    """Return the names of all async functions that are for users."""
    named = inspect.getmembers(a_class, inspect.iscoroutinefunction)
    return {name for name, _ in named if not name.startswith("_") or name.startswith("__")} - {ENTERING}


async def check(name: str, call: Call) -> None:
    """Check that it is a checkpoint when it is cancelled before, and when it is not."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await call()
    assert scope.cancelled_caught, f"{name} cannot be cancelled"
    with trio.testing.assert_checkpoints(), trio.fail_after(10):
        await call()


async def check_all(a_class: type, calls: dict[str, Call]) -> None:
    assert calls.keys() >= calls_of(a_class)
    for name, call in calls.items():
        await check(name, call)


class Probe:
    """Watches where Ctrl-C could interrupt the core and the application."""

    def __init__(self) -> None:
        self.core: dict[str, bool] = {}
        """What of the core was called, and whether it was always protected."""
        self.application: dict[str, bool] = {}
        """What of the application was called, and whether it ever was."""

    def watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.core[name] = self.core.get(name, True) and trio.lowlevel.currently_ki_protected()
            return function(*args, **kwargs)

        return watched

    def reach(self, name: str) -> None:
        self.application[name] = self.application.get(name, False) or trio.lowlevel.currently_ki_protected()


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Probe]:
    """Ctrl-C lands in the application, and never where something of ours changes."""
    probe = Probe()
    for a_class in (ConnectionProtocol, Backlog, Drain, ServerPolicy):
        for name, function in inspect.getmembers(a_class, inspect.isfunction):
            if not name.startswith("_"):
                monkeypatch.setattr(a_class, name, probe.watch(f"{a_class.__name__}.{name}", function))
    yield probe
    assert probe.core
    assert [name for name, is_protected in probe.core.items() if not is_protected] == []
    assert [name for name, is_protected in probe.application.items() if is_protected] == []


def router(probe: Probe) -> RequestRouter:
    async def on_message(ws: Connection, message: str | bytes) -> None:
        probe.reach("on_message")
        await ws.send(message)

    router = RequestRouter(on_message=on_message)

    @router.action("add")
    async def add(request: Request) -> object:
        probe.reach("action")
        return 2

    return router


async def fill(ws: Connection, messages: int) -> None:
    """Have messages wait."""
    for _ in range(messages):
        await ws.send("hello")
    while ws.queued_bytes[0] < messages * len("hello"):
        await trio.lowlevel.checkpoint()


def test_each_async_call_of_a_connection(run: Run, probe: Probe) -> None:
    async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
        probe.reach("authenticate")
        return Principal(subject="ada")

    async def attached() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        async with theirs, attach(ours, request(), agree(request(), PLAIN), config=PLAIN) as ws:
            ws.abort()

    async def main() -> None:
        async with (
            serve(router(probe), "127.0.0.1", 0, authenticate=authenticate, reauthenticate=True) as server,
            connect(uri(server)) as ws,
        ):
            await fill(ws, 3)

            async def reauthenticate() -> None:
                while True:
                    try:
                        await ws.reauthenticate("fresh")
                        return
                    except RequestError as error:
                        if error.code != "auth_busy":  # with the token of a call that was cancelled
                            raise

            runtime = ws.runtime
            frames = ws.recv_streaming
            calls: dict[str, Call] = {
                "recv": ws.recv,
                "__anext__": ws.__anext__,
                "recv_streaming": lambda: anext(frames()),
                "send": lambda: ws.send("hello"),
                "send_unless": lambda: ws.send_unless(runtime.future(), runtime.future(), "hello"),
                "ping": ws.ping,
                "request": lambda: ws.request({"action": "add"}),
                "reauthenticate": reauthenticate,
                "close": ws.close,
                "aclose": ws.aclose,
                "__aexit__": lambda: ws.__aexit__(None, None, None),
                "wait_closed": ws.wait_closed,
                "take_over": attached,
            }
            await check_all(Connection, calls)

    run(main)
    assert probe.application.keys() == {"on_message", "action", "authenticate"}


def test_each_async_call_of_a_server(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, connect(uri(server)) as ws:

            async def decide() -> None:
                admitted = await server.decide(request(), HERE)
                assert isinstance(admitted, Admitted)
                admitted.release()

            await ws.ping()
            (at_server,) = server.connections

            async def wait_for_drain() -> None:
                await at_server.draining

            calls: dict[str, Call] = {
                "decide": decide,
                "drain": lambda: server.drain(window=0),
                "draining": wait_for_drain,
                "close": server.close,
                "wait_closed": server.wait_closed,
                "serve_forever": server.serve_forever,
                "run_until_signal": server.run_until_signal,
            }
            await check_all(Server, calls)

    run(main)


def test_each_async_call_of_a_manager(run: Run, probe: Probe) -> None:
    async def main() -> None:
        manager = Manager()

        async def decide() -> None:
            admitted = await manager.decide(request(), HERE)
            assert isinstance(admitted, Admitted)
            admitted.release()

        async def attached() -> None:
            admitted = await manager.decide(request(), HERE)
            assert isinstance(admitted, Admitted)
            ours, theirs = trio.testing.memory_stream_pair()
            async with theirs, manager.attach(ours, admitted) as ws:
                ws.abort()

        calls: dict[str, Call] = {
            "decide": decide,
            "attach": attached,
            "drain": lambda: manager.drain(window=0),
            "close": manager.close,
            "wait_closed": manager.wait_closed,
        }
        await check_all(Manager, calls)

    run(main)


def test_each_async_call_of_a_reconnecting_client(run: Run, probe: Probe) -> None:
    async def on_open(ws: Connection) -> None:
        probe.reach("on_open")

    async def token() -> str:
        probe.reach("token")
        return "t0ken"

    async def main() -> None:
        async with serve(router(probe), "127.0.0.1", 0) as server:

            def new_client() -> ReconnectingClient:
                return ReconnectingClient(uri(server), on_open=on_open, token=token)

            async def block() -> None:
                async with new_client():
                    pass

            async def run_and_close() -> None:
                async with trio.open_nursery() as nursery:
                    client = await nursery.start(new_client().run)
                    await client.close()

            async def send_nowait() -> None:
                await trio.lowlevel.checkpoint()
                client.send_nowait("hello")

            async with new_client() as client:
                await fill(await client.connection(), 2)
                calls: dict[str, Call] = {
                    "connection": client.connection,
                    "recv": client.recv,
                    "__anext__": client.__anext__,
                    "send": lambda: client.send("hello"),
                    "send_nowait": send_nowait,
                    "close": client.close,
                    "wait_closed": client.wait_closed,
                    "run": run_and_close,
                    "__aexit__": block,
                }
                await check_all(ReconnectingClient, calls)
            idle = new_client()
            for name, call in {"wait_closed": idle.wait_closed, "close": idle.close}.items():
                await check(name, call)

    run(main)
    assert probe.application.keys() == {"on_message", "on_open", "token"}

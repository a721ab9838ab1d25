"""A manager inside a bare trio server, which parses HTTP by itself."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import jwt
import pytest
import trio
import trio.testing

from wsconnkit import (
    AdmissionConfig,
    Admitted,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionConfig,
    DrainConfig,
    HandshakeLimits,
    Headers,
    InvalidStatus,
    JWTAuthenticator,
    LocalProtocolError,
    Response,
    UpgradeRequest,
    check_upgrade,
    render_metrics,
)
from wsconnkit.trio import Connection, Manager, connect

from .peers import PLAIN, UPGRADE, Run, echo, info

SECRET = "a secret of at least thirty-two bytes"
HERE = ("127.0.0.1", 1)


def upgrade_of(head: bytes) -> UpgradeRequest:
    line, *lines = head.decode("latin-1").split("\r\n")
    method, target, version = line.split(" ")
    headers = Headers((name, value.strip()) for name, _, value in (each.partition(":") for each in lines if each))
    checked = check_upgrade(method, target, version.removeprefix("HTTP/"), headers)
    assert isinstance(checked, UpgradeRequest)
    return checked


REQUEST = upgrade_of(UPGRADE)


class Site:
    """A server of HTTP/1.1 just good enough for its tests."""

    def __init__(self, manager: Manager, handler: Callable[[Connection], Awaitable[None]]) -> None:
        self._manager = manager
        self._handler = handler
        self.ended: list[type[BaseException] | None] = []

    async def receive(self, stream: trio.SocketStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += bytes(await stream.receive_some())
        head, _, rest = data.partition(b"\r\n\r\n")
        verdict = await self._manager.decide(upgrade_of(head), stream.socket.getpeername())
        response = verdict if isinstance(verdict, Response) else verdict.response
        lines = [f"HTTP/1.1 {response.status} Whatever", *(f"{name}: {value}" for name, value in response.headers)]
        if response.body:
            lines.append(f"Content-Length: {len(response.body)}")
        await stream.send_all("\r\n".join([*lines, "", ""]).encode("latin-1") + response.body)
        if isinstance(verdict, Response):
            await stream.aclose()
            return
        error = None
        try:
            async with self._manager.attach(stream, verdict, rest) as ws:
                await self._handler(ws)
        except Exception as raised:
            error = type(raised)
        self.ended.append(error)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, self.receive, 0, host="127.0.0.1"))
            yield f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
            nursery.cancel_scope.cancel()


async def refused(uri: str, **kwargs: Any) -> int:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(uri, **kwargs):
            pass
    return caught.value.response.status


def test_tokens_caps_metrics_and_a_drain_hold_inside_a_bare_server(run: Run) -> None:
    manager = Manager(  # before there is a loop
        config=PLAIN,
        authenticate=JWTAuthenticator(secret=SECRET),
        admission=AdmissionConfig(max_connections_per_user=1),
        drain=DrainConfig(window=0, grace=1),
    )
    token = jwt.encode({"sub": "ada", "exp": time.time() + 3600}, SECRET)

    async def main() -> None:
        site = Site(manager, echo)
        async with site.running() as uri:
            assert await refused(uri) == 401
            assert await refused(uri, token="nonsense") == 401
            async with connect(uri, token=token) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                assert await refused(uri, token=token) == 429
                (managed,) = manager.connections
                assert managed.user_id == "ada"
                assert manager.health().active == 1
                _, text = render_metrics(manager, None)
                assert b'wsconnkit_connections{state="open"} 1.0' in text
                report = await manager.drain()
                assert str(report).endswith("1 closed")
                with pytest.raises(ConnectionClosed, match="1012"):
                    await ws.recv()
            assert await refused(uri, token=token) == 503
            assert site.ended == [ConnectionClosedError]  # that of the drain
        assert len(manager.connections) == 0

    run(main)


def test_leaving_the_block_closes_with_1000_an_exception_with_1011_and_a_cancellation_with_1001(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        cancelled = trio.CancelScope()

        async def handler(ws: Connection) -> None:
            word = await ws.recv()
            if word == "raise":
                raise ZeroDivisionError
            if word == "wait":
                await trio.sleep_forever()

        class Cancellable(Site):
            async def receive(self, stream: trio.SocketStream) -> None:
                with cancelled:
                    await super().receive(stream)

        site = Site(Manager(config=PLAIN), handler)
        async with site.running() as uri:
            for word, code in (("return", 1000), ("raise", 1011)):
                async with connect(uri, config=PLAIN) as ws:
                    await ws.send(word)
                    await ws.wait_closed()
                    assert info(ws).code == code
        assert site.ended == [None, ZeroDivisionError]
        async with Cancellable(Manager(config=PLAIN), handler).running() as uri:
            async with connect(uri, config=PLAIN) as ws:
                await ws.send("wait")
                await trio.testing.wait_all_tasks_blocked()
                cancelled.cancel()
                await ws.wait_closed()
                assert info(ws).code == 1001

    caplog.set_level(logging.ERROR)
    run(main)
    assert [record.__dict__["type"] for record in caplog.records] == ["handler_error"]


def test_fifty_decided_at_once_against_a_cap_of_three(run_virtual: Run) -> None:
    async def main() -> None:
        manager = Manager(
            authenticate=JWTAuthenticator(secret=SECRET), config=ConnectionConfig(handshake=HandshakeLimits(timeout=5))
        )
        token = jwt.encode({"sub": "ada", "exp": time.time() + 3600}, SECRET)
        head = UPGRADE.replace(b"\r\n\r\n", f"\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        verdicts: list[Admitted | Response] = []

        async def decide() -> None:
            verdicts.append(await manager.decide(upgrade_of(head), HERE))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(decide)
        admitted = [verdict for verdict in verdicts if isinstance(verdict, Admitted)]
        assert len(admitted) == 3
        assert {verdict.status for verdict in verdicts if isinstance(verdict, Response)} == {429}
        assert len(manager.connections) == 0  # none is there yet
        admitted[0].release()  # the client has left
        assert isinstance(await manager.decide(upgrade_of(head), HERE), Admitted)
        assert isinstance(await manager.decide(upgrade_of(head), HERE), Response)
        await trio.sleep(5.1)
        ours, theirs = trio.testing.memory_stream_pair()
        with pytest.raises(LocalProtocolError, match=r"not attached within 5 s; decide again"):
            async with manager.attach(ours, admitted[1]):
                pass
        again = await manager.decide(upgrade_of(head), HERE)
        assert isinstance(again, Admitted)
        await ours.aclose()
        await theirs.aclose()
        again.release()
        await manager.close()

    run_virtual(main)


def test_who_is_not_attached_before_the_end_has_lost_the_place_and_holds_nothing_up(run_virtual: Run) -> None:
    async def main() -> None:
        before = trio.lowlevel.current_statistics().tasks_living
        manager = Manager()
        admitted = [await manager.decide(REQUEST, HERE) for _ in range(2)]
        assert manager.connections.count() == 2
        await manager.close()
        assert manager.connections.count() == 0
        ours, theirs = trio.testing.memory_stream_pair()
        for each in admitted:
            assert isinstance(each, Admitted)
            each.release()
            with pytest.raises(LocalProtocolError, match="its manager has closed"):
                async with manager.attach(ours, each):
                    pass
        await ours.aclose()
        await theirs.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before

    run_virtual(main)


def test_it_belongs_to_the_first_loop_that_uses_it() -> None:
    manager = Manager()
    assert isinstance(trio.run(manager.decide, REQUEST, HERE), Admitted)
    with pytest.raises(RuntimeError, match="another event loop"):
        trio.run(manager.decide, REQUEST, HERE)

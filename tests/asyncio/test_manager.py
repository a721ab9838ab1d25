"""A manager inside a real aiohttp application, and what it decides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import aiohttp
import aiohttp.web
import pytest

from wsconnkit import (
    AdmissionConfig,
    Admitted,
    ConnectionClosed,
    ConnectionConfig,
    DrainConfig,
    HandshakeLimits,
    Headers,
    InvalidStatus,
    LocalProtocolError,
    Principal,
    Response,
    UpgradeRequest,
    check_upgrade,
    render_metrics,
)
from wsconnkit.asyncio import Connection, Manager, connect

from .issuer import by_secret, hs256
from .peers import UPGRADE, Run, bearer, info

PLAIN = ConnectionConfig(compression=None)
HERE = ("127.0.0.1", 1)


def request(path: str = "/ws") -> UpgradeRequest:
    checked = check_upgrade("GET", path, "1.1", Headers(UPGRADE))
    assert isinstance(checked, UpgradeRequest)
    return checked


async def ada(token: str | None, request: UpgradeRequest) -> Principal:
    return Principal(subject="ada")


class Application:
    """An aiohttp application with a manager's connections at /ws."""

    def __init__(self, manager: Manager, handler: Callable[[Connection], Awaitable[None]]) -> None:
        self.manager = manager
        self._handler = handler
        self.ended: asyncio.Queue[BaseException | None] = asyncio.Queue()

    async def websocket(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        upgrade = check_upgrade(request.method, request.path_qs, "1.1", Headers(request.headers.items()))
        assert isinstance(upgrade, UpgradeRequest)
        admitted = await self.manager.decide(upgrade, request.get_extra_info("peername"))
        if isinstance(admitted, Response):
            return aiohttp.web.Response(status=admitted.status, headers=dict(admitted.headers), body=admitted.body)
        response = aiohttp.web.StreamResponse(status=101, headers=dict(admitted.response.headers))
        await response.prepare(request)
        error: BaseException | None = None
        try:
            async with self.manager.attach(cast(asyncio.Transport, request.transport), admitted) as ws:
                await self._handler(ws)
        except (Exception, asyncio.CancelledError) as raised:
            error = raised
        self.ended.put_nowait(error)
        return response

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = aiohttp.web.Application()
        app.router.add_get("/ws", self.websocket)
        runner = aiohttp.web.AppRunner(app)
        await runner.setup()
        try:
            await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"ws://127.0.0.1:{runner.addresses[0][1]}/ws"
            assert runner.server is not None
            while runner.server.connections:
                await asyncio.sleep(0)
        finally:
            await runner.cleanup()


async def echo(ws: Connection) -> None:
    async for message in ws:
        await ws.send(message)


async def refused(uri: str, **kwargs: Any) -> int:
    with pytest.raises(InvalidStatus) as caught:
        await connect(uri, **kwargs)
    return caught.value.response.status


def test_tokens_caps_metrics_and_a_drain_hold_inside_aiohttp(run: Run) -> None:
    manager = Manager(  # before there is a loop
        config=PLAIN,
        authenticate=by_secret(),
        admission=AdmissionConfig(max_connections_per_user=1),
        drain=DrainConfig(window=0, grace=1),
    )
    token = hs256(sub="ada")

    async def main() -> None:
        application = Application(manager, echo)
        async with application.running() as uri:
            assert await refused(uri) == 401
            assert await refused(uri, headers=bearer("nonsense")) == 401
            async with connect(uri, headers=bearer(token)) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                assert await refused(uri, headers=bearer(token)) == 429
                (managed,) = manager.connections
                assert managed.principal is not None
                assert managed.principal.subject == "ada"
                assert manager.connections.by_user("ada") == (managed,)
                assert manager.health().active == 1
                _, text = render_metrics(manager, None)
                assert b'wsconnkit_connections{state="open"} 1.0' in text
                assert manager.stats.opened == 1
                report = await manager.drain()
                assert str(report).endswith("1 closed")
                with pytest.raises(ConnectionClosed, match="1012"):
                    await ws.recv()
            assert await refused(uri, headers=bearer(token)) == 503
            assert isinstance(await application.ended.get(), ConnectionClosed)  # that of the drain
        assert manager.is_draining
        assert len(manager.connections) == 0

    run(main())


async def cancelled_for_good() -> None:
    """Await a task that was cancelled by itself."""
    task = asyncio.ensure_future(asyncio.sleep(3600))
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


CASES: list[tuple[str, int, type]] = [("return", 1000, type(None)), ("raise", 1011, ZeroDivisionError)]
if sys.version_info >= (3, 11):  # before, tasks of others do not tell whether it is they who are cancelled
    CASES.append(("cancel", 1011, asyncio.CancelledError))


def test_leaving_the_block_closes_with_1000_and_an_exception_with_1011(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            word = await ws.recv()
            if word == "raise":
                raise ZeroDivisionError
            if word == "cancel":
                await cancelled_for_good()

        application = Application(Manager(config=PLAIN), handler)
        async with application.running() as uri:
            for word, code, error in CASES:
                async with connect(uri) as ws:
                    await ws.send(word)
                    await ws.wait_closed()
                    assert info(ws).code == code
                assert type(await application.ended.get()) is error

    caplog.set_level(logging.ERROR)
    run(main())
    assert [record.__dict__["type"] for record in caplog.records] == ["handler_error"] * (len(CASES) - 1)


def test_fifty_decided_at_once_against_a_cap_of_three(run_virtual: Run) -> None:
    async def main() -> None:
        manager = Manager(authenticate=ada)
        verdicts = await asyncio.gather(*(manager.decide(request(), HERE) for _ in range(50)))
        admitted = [verdict for verdict in verdicts if isinstance(verdict, Admitted)]
        assert len(admitted) == 3
        assert {verdict.status for verdict in verdicts if isinstance(verdict, Response)} == {429}
        assert {each.response.status for each in admitted} == {101}
        assert len(manager.connections) == 0  # none is there yet
        admitted[0].release()  # the client has left
        admitted[0].release()
        assert isinstance(await manager.decide(request(), HERE), Admitted)
        assert isinstance(await manager.decide(request(), HERE), Response)

    run_virtual(main())


def test_who_is_not_attached_in_time_loses_the_place(run_virtual: Run) -> None:
    async def main() -> None:
        limits = HandshakeLimits(timeout=5)
        manager = Manager(admission=AdmissionConfig(max_connections=1), config=ConnectionConfig(handshake=limits))
        late = await manager.decide(request(), HERE)
        assert isinstance(late, Admitted)
        await asyncio.sleep(4.9)
        assert isinstance(await manager.decide(request(), HERE), Response)
        await asyncio.sleep(0.2)
        assert isinstance(await manager.decide(request(), HERE), Admitted)
        with pytest.raises(LocalProtocolError, match=r"not attached within 5 s; decide again"):
            await manager.attach(cast(asyncio.Transport, None), late)
        other = Manager()
        with pytest.raises(LocalProtocolError, match="by another manager"):
            await other.attach(cast(asyncio.Transport, None), late)

    run_virtual(main())


def test_who_is_not_attached_before_the_end_has_lost_the_place(run_virtual: Run) -> None:
    async def main() -> None:
        manager = Manager()
        admitted = [await manager.decide(request(), HERE) for _ in range(2)]
        assert manager.connections.count() == 2
        await manager.close()
        assert manager.connections.count() == 0
        for each in admitted:
            assert isinstance(each, Admitted)
            each.release()
            with pytest.raises(LocalProtocolError, match="its manager has closed"):
                await manager.attach(cast(asyncio.Transport, None), each)

    run_virtual(main())


def test_paths_origins_and_a_slow_verdict(run_virtual: Run) -> None:
    async def slow(token: str | None, request: UpgradeRequest) -> Principal:
        await asyncio.sleep(3600)
        raise AssertionError

    async def main() -> None:
        manager = Manager(path="/ws", authenticate=slow, config=ConnectionConfig(handshake=HandshakeLimits(timeout=5)))
        verdict = await manager.decide(request("/other"), HERE)
        assert isinstance(verdict, Response)
        assert verdict.status == 404
        start = asyncio.get_running_loop().time()
        verdict = await manager.decide(request(), HERE)
        assert isinstance(verdict, Response)
        assert verdict.status == 500
        assert asyncio.get_running_loop().time() - start == pytest.approx(5)
        await manager.close()
        verdict = await manager.decide(request(), HERE)
        assert isinstance(verdict, Response)
        assert verdict.status == 503

    run_virtual(main())


def test_it_belongs_to_the_first_loop_that_uses_it() -> None:
    manager = Manager()

    async def decide() -> object:
        return await manager.decide(request(), HERE)

    assert isinstance(asyncio.run(decide()), Admitted)
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(decide())


def test_what_was_admitted_before_a_drain_and_is_attached_within_it_is_closed_at_once(run: Run) -> None:
    async def main() -> None:
        manager = Manager(config=PLAIN, drain=DrainConfig(window=0, grace=1))
        application = Application(manager, echo)
        draining: list[asyncio.Task[Any]] = []
        decide = manager.decide

        async def decide_and_drain(request: UpgradeRequest, remote_address: object) -> Admitted | Response:
            verdict = await decide(request, remote_address)
            draining.append(asyncio.ensure_future(manager.drain()))
            await asyncio.sleep(0)
            return verdict

        manager.decide = decide_and_drain  # type: ignore[method-assign]
        async with application.running() as uri:
            async with connect(uri) as ws:
                with pytest.raises(ConnectionClosed, match=r"1012|1001"):
                    await ws.recv()
            await asyncio.wait(draining)

    run(main())


def test_what_cannot_be_attached_gives_its_place_back(run: Run) -> None:
    async def main() -> None:
        manager = Manager(admission=AdmissionConfig(max_connections=1))
        for _ in range(2):
            admitted = await manager.decide(request(), HERE)
            assert isinstance(admitted, Admitted)
            with pytest.raises(AttributeError):
                await manager.attach(cast(asyncio.Transport, None), admitted)
            assert len(manager.connections) == 0
        await manager.close()

    run(main())


def test_a_drain_after_the_end_can_be_asked_for_again_and_again(run: Run) -> None:
    async def main() -> None:
        manager = Manager()
        await manager.close()
        first = asyncio.ensure_future(manager.drain())
        await asyncio.sleep(0)
        first.cancel()
        for _ in range(2):
            assert (await manager.drain()).connections == ()

    run(main())

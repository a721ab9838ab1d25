"""Many clients that one server loses at the same moment, in virtual time over real sockets: all come back, no herd."""

from __future__ import annotations

import asyncio
import random
import resource
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator

import pytest

from wsconnkit.asyncio import Connection, Server, connect, serve
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.service.reconnect import ReconnectEvent, Retrying
from wsconnkit.testing.eventloop import VirtualTimeLoop

from .peers import Run, port

MANY = 500
PLAIN = ConnectionConfig(compression=None)
BACK_WITHIN = 35.0
WINDOW = 0.1
SHARE = 0.1


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of all connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3 * MANY:
        pytest.skip(f"at most {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3 * MANY), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def stay(ws: Connection) -> None:
    await ws.wait_closed()


class Crowd:
    """Clients that follow one server, and when they tried to be there again."""

    def __init__(self, loop: VirtualTimeLoop, uri: str) -> None:
        self._loop = loop
        self.attempts: list[float] = []
        self.opened = 0
        self._wanted = 0
        self._all_there = asyncio.Event()
        self._following = [asyncio.ensure_future(self._follow(uri)) for _ in range(MANY)]

    async def _follow(self, uri: str) -> None:
        async for ws in connect(uri, config=PLAIN, on_event=self._on_event):
            self.opened += 1
            if self.opened == self._wanted:
                self._all_there.set()
            with pytest.raises(ConnectionClosed):
                await ws.recv()

    def _on_event(self, event: ReconnectEvent) -> None:
        if isinstance(event, Retrying):
            self.attempts.append(self._loop.time() + event.delay)

    async def all_there(self, times: int) -> None:
        self._wanted = times * MANY
        self._all_there.clear()
        if self.opened < self._wanted:
            await asyncio.wait_for(self._all_there.wait(), 60)

    async def end(self) -> None:
        await asyncio.gather(*self._following)

    @property
    def largest_share(self) -> float:
        """The share of all attempts that the fullest window sees."""
        times = sorted(self.attempts)
        return max(bisect_left(times, begin + WINDOW) - at for at, begin in enumerate(times)) / len(times)


async def crash(server: Server) -> None:
    for ws in server.connections:
        ws.abort()
    await server.close()


async def close_all_at_once(server: Server) -> None:
    await server.close(1012)


async def drain(server: Server) -> None:
    await server.drain(window=5, grace=5)


@pytest.mark.parametrize(("stop", "down"), [(crash, 0.0), (crash, 5.0), (close_all_at_once, 5.0), (drain, 0.0)])
def test_after_a_restart_all_are_back_in_time_and_come_spread_out(
    run_virtual: Run,
    virtual_loop: VirtualTimeLoop,
    many_files: None,
    monkeypatch: pytest.MonkeyPatch,
    stop: Callable[[Server], Awaitable[None]],
    down: float,
) -> None:
    monkeypatch.setattr(random, "random", random.Random(1012).random)

    async def main() -> None:
        server = await serve(stay, "127.0.0.1", 0, config=PLAIN, backlog=MANY)
        at = port(server)
        crowd = Crowd(virtual_loop, f"ws://127.0.0.1:{at}/")
        await crowd.all_there(1)
        crowd.attempts.clear()
        begin = virtual_loop.time()
        await stop(server)
        await asyncio.sleep(down)
        async with serve(stay, "127.0.0.1", at, config=PLAIN, backlog=MANY) as server:
            await crowd.all_there(2)
            took = virtual_loop.time() - begin
            await server.close(1000)
            await crowd.end()
        assert crowd.opened == 2 * MANY
        assert took <= BACK_WITHIN
        assert crowd.largest_share <= SHARE

    run_virtual(main())

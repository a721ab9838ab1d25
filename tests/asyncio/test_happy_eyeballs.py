"""The first of a host's addresses that answers is taken, on every event loop, with and without a proxy (RFC 8305)."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from wsconnkit.asyncio import connect, serve
from wsconnkit.protocol.config import ConnectionConfig, HandshakeLimits

from .conftest import Echo
from .peers import Run, port
from .test_proxy import Proxy

V4, V6 = socket.AF_INET, socket.AF_INET6
Where = tuple[Any, ...]


@pytest.fixture(autouse=True)
def nothing_is_left_to_the_garbage_collector() -> Generator[None, None, None]:
    """Sockets that nobody has closed warn when they go."""
    yield
    gc.collect()


class Network:
    """Resolves names of .test to `addresses`, and connects to them in its own time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, Where]) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._connect, self._getaddrinfo = loop.sock_connect, loop.getaddrinfo
        self._start = loop.time()
        self._addresses = addresses
        self.delays: dict[Where, float | OSError] = {}
        """Seconds after which an address answers, or how it refuses."""
        self.attempts: list[tuple[float, Where]] = []
        self.sockets: list[socket.socket] = []
        monkeypatch.setattr(loop, "getaddrinfo", self._resolve)
        monkeypatch.setattr(loop, "sock_connect", self._connect_late)

    async def _resolve(self, host: Any, port: Any, **kind: Any) -> list[Any]:
        if not str(host).endswith(".test"):  # uvloop resolves what it connects to
            return await self._getaddrinfo(host, port, **kind)
        return [(family, socket.SOCK_STREAM, 6, "", where) for family, where in self._addresses]

    async def _connect_late(self, sock: socket.socket, where: Where) -> None:
        self.attempts.append((round(self._loop.time() - self._start, 3), where))
        self.sockets.append(sock)
        delay = self.delays.get(where, 0.0)
        if isinstance(delay, OSError):
            raise delay
        await asyncio.sleep(delay)
        await self._connect(sock, where)

    @property
    def all_closed(self) -> bool:
        return all(sock.fileno() == -1 for sock in self.sockets)


NEVER = 1_000_000.0


def silent(number: int) -> Where:
    """Return an address at which nobody ever is."""
    return ("192.0.2.1", number)


@asynccontextmanager
async def full_listener() -> AsyncIterator[int]:
    """Yield the port of a listener that drops what comes, as its backlog is full."""
    loop = asyncio.get_running_loop()
    waiting = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            waiting.append((sock, asyncio.ensure_future(loop.sock_connect(sock, listener.getsockname()))))
        try:
            yield listener.getsockname()[1]
        finally:
            for sock, connecting in waiting:
                connecting.cancel()
                await asyncio.wait({connecting})
                sock.close()


@pytest.mark.parametrize("through", ["nothing", "proxy"])
def test_an_address_that_drops_what_comes_is_passed_over(
    run: Run, echo: Echo, monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    async def main() -> None:
        proxy = Proxy()
        async with serve(echo, "127.0.0.1", 0) as server, proxy.serving() as url, full_listener() as full:
            there = port(server) if through == "nothing" else int(url.rpartition(":")[2])
            Network(monkeypatch, (V4, ("127.0.0.1", full)), (V4, ("127.0.0.1", there)))
            kwargs: dict[str, Any] = {"proxy": None if through == "nothing" else f"http://proxy.test:{there}"}
            async with connect(f"ws://server.test:{port(server)}/", happy_eyeballs_delay=0.01, **kwargs) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                assert ws.remote_address == ("127.0.0.1", there)
            monkeypatch.undo()

    run(main())


def test_the_next_address_is_tried_after_a_quarter_of_a_second(
    run_virtual: Run, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            good = ("127.0.0.1", port(server))
            network = Network(monkeypatch, (V4, silent(1)), (V4, silent(2)), (V4, good), (V4, silent(3)))
            network.delays = {silent(1): NEVER, silent(2): NEVER, silent(3): NEVER, good: 0.1}
            async with connect("ws://server.test/") as ws:
                assert network.attempts == [(0.0, silent(1)), (0.25, silent(2)), (0.5, good)]
                assert ws.remote_address == good
            await asyncio.sleep(0)
            assert network.all_closed

    run_virtual(main())


def test_an_address_that_refuses_is_followed_at_once(
    run_virtual: Run, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            good = ("127.0.0.1", port(server))
            network = Network(monkeypatch, (V4, silent(1)), (V4, silent(2)), (V4, good))
            network.delays = {silent(1): ConnectionRefusedError(111, "no"), silent(2): OSError(113, "no")}
            async with connect("ws://server.test/"):
                assert network.attempts == [(0.0, silent(1)), (0.0, silent(2)), (0.0, good)]

    run_virtual(main())


def test_an_earlier_address_may_still_win(run_virtual: Run, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            good = ("127.0.0.1", port(server))
            network = Network(monkeypatch, (V4, good), (V4, silent(1)))
            network.delays = {good: 0.3, silent(1): NEVER}
            async with connect("ws://server.test/") as ws:
                assert [where for _, where in network.attempts] == [good, silent(1)]
                assert ws.remote_address == good

    run_virtual(main())


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({}, [4, 1, 5, 2, 3]),
        ({"interleave": 2}, [4, 5, 1, 2, 3]),
        ({"interleave": 0}, [4, 5, 1, 2, 3]),
        ({"happy_eyeballs_delay": None}, [4]),
        ({"happy_eyeballs_delay": 1.0}, [4, 1, 5, 2, 3]),
    ],
    ids=str,
)
def test_families_take_turns(
    run_virtual: Run, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], order: list[int]
) -> None:
    async def main() -> None:
        v4, v6 = [("192.0.2.1", number) for number in (1, 2, 3)], [("2001:db8::1", number, 0, 0) for number in (4, 5)]
        network = Network(monkeypatch, *((V6, where) for where in v6), *((V4, where) for where in v4))
        network.delays = dict.fromkeys([*v4, *v6], NEVER)
        with pytest.raises(TimeoutError, match="within 10 s"):
            await connect("ws://server.test/", **options)
        step = options.get("happy_eyeballs_delay", 0.25)
        assert network.attempts == [
            (number * (step or 0), next(where for where in [*v4, *v6] if where[1] == which))
            for number, which in enumerate(order)
        ]
        await asyncio.sleep(0)
        assert network.all_closed

    run_virtual(main())


def test_where_all_fail_all_say_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        network = Network(monkeypatch, (V4, silent(1)), (V6, ("2001:db8::1", 2, 0, 0)))
        for second, kind in ((ConnectionRefusedError(111, "x"), ConnectionRefusedError), (OSError(113, "x"), OSError)):
            network.delays = {silent(1): ConnectionRefusedError(111, "x"), ("2001:db8::1", 2, 0, 0): second}
            with pytest.raises(OSError, match=r"cannot connect to 192\.0\.2\.1:1: Connection refused; ") as caught:
                await connect("ws://server.test/")
            assert type(caught.value) is kind
            assert "cannot connect to [2001:db8::1]:2: " in str(caught.value)
        network.delays = {silent(1): OSError("no number"), ("2001:db8::1", 2, 0, 0): OSError("no number")}
        with pytest.raises(OSError, match=r"192\.0\.2\.1:1: no number; .*\[2001:db8::1\]:2: no number"):
            await connect("ws://server.test/")
        assert network.all_closed

    run(main())


def test_a_host_without_an_address_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        Network(monkeypatch)
        with pytest.raises(OSError, match="the host has no address"):
            await connect("ws://server.test/")

    run(main())


@pytest.mark.parametrize("turns", range(6))
def test_a_client_that_is_cancelled_leaves_no_socket(
    run: Run, echo: Echo, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            good = ("127.0.0.1", port(server))
            network = Network(monkeypatch, (V4, silent(1)), (V4, good))
            network.delays = {silent(1): NEVER}
            connecting = asyncio.ensure_future(_begin())
            while len(network.attempts) < 2:
                await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.wait({connecting})
            while not network.all_closed:
                await asyncio.sleep(0)

    async def _begin() -> None:
        async with connect("ws://server.test/", happy_eyeballs_delay=0.001):
            await asyncio.sleep(3600)

    run(main())


def test_it_may_come_from_an_address_of_ones_choice(run: Run, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            async with connect(f"ws://127.0.0.1:{port(server)}/", local_addr=("127.0.0.2", 0)) as ws:
                assert ws.local_address[0] == "127.0.0.2"
            with pytest.raises(OSError, match=rf"cannot connect to 127\.0\.0\.1:{port(server)}: "):
                await connect(f"ws://127.0.0.1:{port(server)}/", local_addr=("192.0.2.1", 0))

    run(main())


def test_an_address_of_another_family_than_ones_choice_is_passed_over(
    run: Run, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            v4, v6 = ("127.0.0.1", port(server)), ("::1", port(server), 0, 0)
            network = Network(monkeypatch, (V6, v6), (V4, v4))
            async with connect("ws://server.test/", local_addr=("127.0.0.2", 0)) as ws:
                assert ws.local_address[0] == "127.0.0.2"
            assert [where for _, where in network.attempts] == [v4]
            Network(monkeypatch, (V4, v4))
            with pytest.raises(
                OSError, match=rf"cannot connect to 127\.0\.0\.1:{port(server)}: Cannot assign"
            ) as caught:
                await connect("ws://server.test/", local_addr=("::1", 0))
            assert caught.value.errno == errno.EADDRNOTAVAIL

    run(main())


def test_the_whole_has_the_handshakes_time(run_virtual: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        network = Network(monkeypatch, (V4, silent(1)), (V4, silent(2)))
        network.delays = {silent(1): NEVER, silent(2): NEVER}
        begun = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await connect("ws://server.test/", config=ConnectionConfig(handshake=HandshakeLimits(timeout=3.0)))
        assert asyncio.get_running_loop().time() - begun == pytest.approx(3.0)

    run_virtual(main())

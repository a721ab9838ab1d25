"""A client that ends its side behind its request is still answered; only a WebSocket cannot open any more."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

import pytest

from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.upgrade import HTTPRequest

from .driver import DRIVERS, SOCKET_DRIVERS, Driver, Wire, port_of
from .memory import MemoryDriver
from .raw import Arrivals, echo
from .test_service import UPGRADE, Slow, receive_all

PAGE = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
ATTEMPTS = 30
BIG = bytes(20_000_000)


@pytest.fixture(params=dict.fromkeys((*DRIVERS, *SOCKET_DRIVERS, MemoryDriver)), ids=lambda driver: driver.__name__)
def driver(request: pytest.FixtureRequest) -> Driver:
    """Each adapter in its turn, and trio over sockets as well, where the end of a request comes apart from it."""
    made: Driver = request.param()
    return made


async def ask(driver: Driver, server: Any, request: bytes, turns: int = 0) -> tuple[int, bytes]:
    """Send `request` and end our side so many turns later; return the status and the body of the answer."""
    wire = await driver.dial(server)
    await wire.send(request)
    for _ in range(turns):
        await driver.turn()
    await wire.end()
    return await answer(wire)


async def answer(wire: Wire) -> tuple[int, bytes]:
    head, _, body = (await receive_all(wire)).partition(b"\r\n\r\n")
    await wire.close()
    assert body or b"\r\nContent-Length: 0\r\n" in head
    return int(head.split()[1]), body


def test_each_request_is_answered(driver: Driver) -> None:
    async def main() -> None:
        async with driver.serve(echo, path="/ws") as server:
            for attempt in range(ATTEMPTS):
                assert await ask(driver, server, PAGE % b"/healthz", attempt % 4) == (200, b'{"status": "ok"}\n')
                assert (await ask(driver, server, PAGE % b"/elsewhere", attempt % 4))[0] == 404
                assert (await ask(driver, server, PAGE % b"/ws", attempt % 4))[0] == 426

    driver.run(main)


@pytest.mark.parametrize(("path", "status"), [(b"/healthz", b"200"), (b"/elsewhere", b"404")])
def test_a_request_that_lies_in_the_socket_with_its_end_is_answered(
    network: Driver, path: bytes, status: bytes
) -> None:
    async def main() -> None:
        async with network.serve(echo, path="/ws") as server:
            for _ in range(ATTEMPTS):
                with socket.create_connection(("127.0.0.1", port_of(server))) as sock:
                    sock.sendall(PAGE % path)
                    sock.shutdown(socket.SHUT_WR)
                    sock.setblocking(False)
                    received: list[bytes] = []
                    await network.until(lambda sock=sock, received=received: at_end(sock, received))  # type: ignore[misc]
                assert b"".join(received).startswith(b"HTTP/1.1 " + status)

    network.run(main)


def at_end(sock: socket.socket, received: list[bytes]) -> bool:
    """Read what has come, and tell whether that was all."""
    with suppress(BlockingIOError):
        received.append(sock.recv(65536))
    return received[-1:] == [b""]


@pytest.mark.parametrize("seconds", [None, 0.0, 1.0], ids=["at once", "next turn", "later"])
def test_an_application_that_takes_its_time_is_waited_for(driver: Driver, seconds: float | None) -> None:
    async def main() -> None:
        async def http(request: HTTPRequest) -> Response:
            if seconds is not None:
                await driver.sleep(seconds)
            return Response(200, Headers(), request.path.encode())

        begun = driver.now()
        async with driver.serve(echo, http=http) as server:
            for attempt in range(1 if seconds else ATTEMPTS):
                assert await ask(driver, server, PAGE % b"/page", attempt % 4) == (200, b"/page")
        driver.assert_elapsed(begun, seconds or 0)  # and nothing is left that the server has to wait for

    driver.run(main)


@pytest.mark.parametrize("reads_first", [False, True])
def test_a_large_answer_arrives_whole(driver: Driver, reads_first: bool) -> None:
    async def main() -> None:
        async def http(request: HTTPRequest) -> Response:
            await driver.sleep(0)
            return Response(200, Headers(), BIG)

        begun = driver.now()
        async with driver.serve(echo, http=http) as server:
            wire = await driver.dial(server)
            await wire.send(PAGE % b"/page")
            first = await wire.receive() if reads_first else b""
            await wire.end()
            assert (first + await receive_all(wire)).partition(b"\r\n\r\n")[2] == BIG
            await wire.close()
        driver.assert_elapsed(begun, 0)

    driver.run(main)


def test_an_upgrade_that_has_no_answer_yet_is_refused_and_not_counted(driver: Driver) -> None:
    async def main() -> None:
        slow, arrivals = Slow(driver), Arrivals(driver)
        begun = driver.now()
        async with driver.serve(arrivals, authenticate=slow) as server:
            for attempt in range(ATTEMPTS):
                status, body = await ask(driver, server, UPGRADE, attempt % 4)
                assert (status, json.loads(body)) == (400, {"error": "the client has ended its side of the connection"})
                await driver.until(lambda: slow.cancelled == slow.asked)
            assert not server.connections
            assert not server.stats.refused
        assert arrivals.connections == []
        driver.assert_elapsed(begun, 0)

    driver.run(main)


@pytest.mark.parametrize("sent", [b"", UPGRADE[:50], PAGE[:20]])
def test_half_a_request_is_not_answered(driver: Driver, sent: bytes) -> None:
    async def main() -> None:
        begun = driver.now()
        async with driver.serve(echo) as server:
            wire = await driver.dial(server)
            await wire.send(sent)
            await wire.end()
            assert await receive_all(wire) == b""
            await wire.close()
        driver.assert_elapsed(begun, 0)

    driver.run(main)

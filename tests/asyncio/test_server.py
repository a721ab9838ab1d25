"""What a server does around its connections: upgrade, refusals, handlers, close."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from wsconnkit.asyncio import Connection, Server, connect, serve
from wsconnkit.machines.closing import State
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidStatus,
    LocalProtocolError,
)

Run = Callable[[Coroutine[Any, Any, None]], None]
Handler = Callable[[Connection], Awaitable[None]]


def port(server: Server) -> int:
    return int(server.sockets[0].getsockname()[1])


def uri(server: Server, path: str = "/") -> str:
    return f"ws://127.0.0.1:{port(server)}{path}"


async def exchange(server: Server, request: bytes) -> tuple[bytes, bytes]:
    """Send raw bytes and return the head and the body of what comes back until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
    writer.write(request)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head, body


def test_a_connection_knows_its_request_and_its_addresses(run: Run) -> None:
    async def main() -> None:
        seen: list[Connection] = []

        async def handler(ws: Connection) -> None:
            seen.append(ws)

        async with serve(handler, "127.0.0.1", 0, subprotocols=["b", "a"]) as server:
            ws = await connect(uri(server, "/chat?room=1"), headers={"X-Mine": "yes"}, subprotocols=["a", "b"])
            await ws.wait_closed()
        assert seen[0].upgrade_request.path == ws.upgrade_request.path == "/chat"
        assert seen[0].upgrade_request.target == "/chat?room=1"
        assert seen[0].upgrade_request.headers.get("x-mine") == "yes"
        assert seen[0].subprotocol == ws.subprotocol == "b"
        assert ws.response_headers.get("Upgrade") == "websocket"
        assert seen[0].remote_address == ws.local_address
        assert seen[0].local_address == ws.remote_address
        assert seen[0].id != ws.id

    run(main())


def test_a_handler_that_returns_closes_with_1000(run: Run) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            await ws.send("goodbye")

        async with serve(handler, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            assert await ws.recv() == "goodbye"
            with pytest.raises(ConnectionClosedOK) as caught:
                await ws.recv()
            assert caught.value.info.code == 1000

    run(main())


def test_a_handler_that_raises_closes_with_1011_and_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        connections: list[Connection] = []

        async def handler(ws: Connection) -> None:
            connections.append(ws)
            raise ValueError("secret details")

        async with serve(handler, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            with pytest.raises(ConnectionClosedError) as caught:
                await ws.recv()
            assert (caught.value.info.code, caught.value.info.reason) == (1011, "")
        info = connections[0].close_info
        assert info is not None
        assert info.cause is Cause.HANDLER_ERROR
        async with serve(handler, "127.0.0.1", 0) as server:  # it is this handler that is broken, not the server
            await (await connect(uri(server))).wait_closed()

    with caplog.at_level(logging.ERROR, "wsconnkit"):
        run(main())
    assert [(record.type, str(record.exc_info[1])) for record in caplog.records if record.exc_info] == [  # type: ignore[attr-defined]
        ("handler_error", "secret details")
    ] * 2


def test_a_client_that_leaves_is_no_error_of_the_handler(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            while True:
                await ws.send("x" * 1000)

        async with serve(handler, "127.0.0.1", 0) as server:
            ws = await connect(uri(server))
            await ws.recv()
            ws.abort()
            await ws.wait_closed()

    with caplog.at_level(logging.WARNING):
        run(main())
    assert caplog.records == []


def test_events_are_logged_with_fields(run: Run, caplog: pytest.LogCaptureFixture, echo: Handler) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0, path="/ws") as server:
            async with connect(uri(server, "/ws?token=secret")) as ws:
                await ws.send("x" * 600_000)
                await ws.recv()
            with pytest.raises(InvalidStatus):
                await connect(uri(server, "/other"))

    with caplog.at_level(logging.DEBUG, "wsconnkit"):
        run(main())
    types = [record.__dict__["type"] for record in caplog.records]
    assert types.count("connection_opened") == 1
    assert types.count("connection_closed") == 2  # both ends live here
    assert types.count("upgrade_refused") == 1
    closed = next(record for record in caplog.records if record.__dict__["type"] == "connection_closed")
    assert (closed.__dict__["code"], closed.__dict__["cause"], closed.__dict__["clean"]) in [
        (1000, "local_close", True),
        (1000, "peer_close", True),
    ]
    assert "secret" not in caplog.text
    assert not any("secret" in str(record.__dict__) for record in caplog.records)


@pytest.mark.parametrize("early", [b"", b"\x81\x85\0\0\0\0early" * 20, bytes(2_000_000)])
def test_a_refusal_reaches_the_client_whole_even_if_it_has_sent_more(run: Run, echo: Handler, early: bytes) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0, path="/ws") as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
            writer.write(
                b"GET /nothing HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" + early
            )
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
            assert f"content-length: {len(body)}".encode() in head.lower()
            assert b"connection: close" in head.lower()
            assert json.loads(body) == {"error": "there is no WebSocket at this path"}
            writer.close()

    run(main())


def test_plain_http_is_told_that_this_is_a_websocket(run: Run, echo: Handler) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            head, body = await exchange(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 426 Upgrade Required")
            assert json.loads(body) == {"error": "this is a WebSocket endpoint"}
            head, _ = await exchange(server, b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")

    run(main())


def test_frames_that_come_with_the_request_are_received(run: Run, echo: Handler) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
            writer.write(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                b"\x81\x85\0\0\0\0early\x88\x80\0\0\0\0"
            )
            _, _, frames = (await reader.read()).partition(b"\r\n\r\n")
            assert frames == b"\x81\x05early\x88\x00" or frames == b"\x88\x00"
            writer.close()

    run(main())


def test_a_server_is_a_context_or_awaited(run: Run, echo: Handler) -> None:
    async def main() -> None:
        server = await serve(echo, "127.0.0.1", 0)
        forever = asyncio.ensure_future(server.serve_forever())
        ws = await connect(uri(server))
        while not server.connections:
            await asyncio.sleep(0)
        (connection,) = server.connections
        assert connection.state is State.OPEN
        with pytest.raises(LocalProtocolError, match="1005"):
            await server.close(1005)
        assert ws.state is State.OPEN
        await server.close(4321, "done")
        await forever
        assert server.sockets == ()
        assert ws.close_info is not None
        assert (ws.close_info.code, ws.close_info.reason) == (4321, "done")
        with pytest.raises(OSError, match=r"cannot connect to .*: Connection refused"):
            await connect(f"ws://127.0.0.1:{connection.local_address[1]}")
        await ws.wait_closed()

    run(main())


def test_serve_forever_closes_when_it_is_cancelled(run: Run, echo: Handler) -> None:
    async def main() -> None:
        server = await serve(echo, "127.0.0.1", 0)
        forever = asyncio.ensure_future(server.serve_forever())
        ws = await connect(uri(server))
        forever.cancel()
        with pytest.raises(asyncio.CancelledError):
            await forever
        await ws.wait_closed()
        await server.wait_closed()

    run(main())


def test_five_hundred_connections_leave_nothing_behind(
    run: Run, loop: asyncio.AbstractEventLoop, echo: Handler
) -> None:
    async def main() -> None:
        config = ConnectionConfig(idle_timeout=60)
        async with serve(echo, "127.0.0.1", 0, config=config, backlog=600) as server:
            for _ in range(5):
                clients = await asyncio.gather(*(_open(uri(server)) for _ in range(100)))
                await asyncio.gather(*(client.send("x") for client in clients))
                assert await asyncio.gather(*(client.recv() for client in clients)) == ["x"] * 100
                await asyncio.gather(*(client.close() for client in clients))
        assert len(asyncio.all_tasks()) <= 2  # this one, and the time limit around it

    async def _open(uri: str) -> Connection:
        return await connect(uri)

    def alive() -> list[Connection]:
        gc.collect()
        return [thing for thing in gc.get_objects() if isinstance(thing, Connection)]

    before = len(alive())  # what tracebacks of other tests hold
    run(main())
    assert len(alive()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "ws"},
        {"authenticate": "secret"},
        {"http": 1},
        {"metrics": True},
        {"endpoints": "127.0.0.1:9090"},
        {"endpoints": ["127.0.0.1", 9090]},
        {"proxies": ["10.0.0.0/8"]},
        {"admission": 3},
        {"origins": "https://example.org"},
    ],
    ids=str,
)
def test_arguments_that_cannot_work_are_refused_at_once(echo: Handler, arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=r" is .*; it must be "):
        serve(echo, "127.0.0.1", 0, **arguments)


def test_a_server_can_be_started_again_with_the_same_arguments(run: Run, echo: Handler) -> None:
    async def main() -> None:
        starting = serve(echo, "127.0.0.1", 0)
        for _ in range(2):
            server = await starting
            async with connect(uri(server)) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
            await server.drain(window=0)

    run(main())


def test_what_a_task_group_says_of_a_client_that_left_is_no_error(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    class Group(Exception):
        def __init__(self, *exceptions: BaseException) -> None:
            self.exceptions = exceptions

    async def main() -> None:
        async def handler(ws: Connection) -> None:
            try:
                await ws.recv()
            except ConnectionClosed as error:
                raise Group(error) from None

        async with serve(handler, "127.0.0.1", 0) as server:
            await (await connect(uri(server))).close()

    with caplog.at_level(logging.ERROR, "wsconnkit"):
        run(main())
    assert caplog.records == []

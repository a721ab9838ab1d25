"""Clients of a server on trio up to the moment in which they are let in, and those who never are."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import struct
import threading
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing
from tests.scenarios.pipes import MemoryListener

from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits, QueueConfig
from wsconnkit.protocol.errors import InvalidStatus
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.http import Response
from wsconnkit.protocol.upgrade import HTTPRequest, UpgradeRequest
from wsconnkit.service.keys import MAX_WAIT
from wsconnkit.service.principal import KeysNeeded, KeysUnavailable, Principal
from wsconnkit.trio import Connection, Server, connect, serve

from .peers import UPGRADE, Run, echo

PAGE = b"GET /page HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
TALK = UPGRADE + encode_frame(Opcode.TEXT, b"hello", mask=b"mask") + encode_frame(Opcode.CLOSE, b"\3\xe8", mask=b"mask")


async def alice(token: str | None, request: UpgradeRequest) -> Principal:
    await trio.lowlevel.checkpoint()
    return Principal(subject="alice")


async def receive_all(stream: trio.abc.Stream) -> bytes:
    data = b""
    while more := await stream.receive_some():
        data += more
    return data


async def fail_in_a_nursery(*what: object) -> Any:
    """Wait, and when that is cancelled, fail besides."""

    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while cleaning up")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await trio.sleep_forever()


async def assert_empty(server: Server) -> None:
    while len(server._acceptors[0]) or len(server.connections):
        await trio.sleep(0.001)


# Errors that come with a cancellation.


@pytest.mark.parametrize("end", ["leave", "time out", "close", "cancel"])
@pytest.mark.parametrize("what", ["authenticate", "http"])
def test_an_application_that_fails_when_it_is_cancelled_takes_nobody_with_it(
    run_virtual: Run, what: str, end: str
) -> None:
    async def main() -> None:
        listener = MemoryListener()
        function: dict[str, Any] = {what: fail_in_a_nursery}
        with trio.CancelScope() as scope:
            async with serve(echo, listeners=[listener], **function) as server:
                stream = listener.connect()
                await stream.send_all(UPGRADE if what == "authenticate" else PAGE)
                await trio.sleep(1)
                if end == "leave":
                    await stream.aclose()
                elif end == "time out":
                    assert (await receive_all(stream)).startswith(b"HTTP/1.1 503 ")
                elif end == "close":
                    await server.close()
                else:
                    scope.cancel()
                await trio.sleep(10)
                assert scope.cancel_called is (end == "cancel")
        assert scope.cancelled_caught is (end == "cancel")
        await stream.aclose()

    run_virtual(main)


@pytest.mark.parametrize("end", ["leave", "time out"])
def test_a_verification_of_a_fresh_token_that_fails_when_it_is_cancelled_takes_nobody_with_it(
    run_virtual: Run, end: str
) -> None:
    async def main() -> None:
        async def authenticate(token: str | None, request: UpgradeRequest) -> Any:
            return Principal(subject="alice") if token == "good" else await fail_in_a_nursery()

        listener = MemoryListener()
        async with serve(echo, listeners=[listener], authenticate=authenticate, reauthenticate=True) as server:
            async with connect("ws://test.invalid/", stream=listener.connect(), token="good") as staying:
                async with connect("ws://test.invalid/", stream=listener.connect(), token="good") as ws:
                    await ws.send(auth("1", "other"))
                    await trio.sleep(1)
                    if end == "time out":
                        answer = await ws.recv()
                        assert json.loads(answer)["payload"]["code"] == "auth_unavailable"
                await trio.sleep(1)
                assert await staying.ping() >= 0
                assert len(server.connections) == 1

    run_virtual(main)


def auth(request_id: str, token: str) -> str:
    return json.dumps({"type": "auth", "requestId": request_id, "payload": {"token": token}})


def test_a_fresh_token_of_a_client_that_has_left_is_verified_no_further(run_virtual: Run) -> None:
    async def main() -> None:
        ended: list[float] = []

        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
            if token != "good":
                try:
                    await trio.sleep_forever()
                finally:
                    ended.append(trio.current_time())
            return Principal(subject="alice")

        listener = MemoryListener()
        async with serve(echo, listeners=[listener], authenticate=authenticate, reauthenticate=True):
            async with connect("ws://test.invalid/", stream=listener.connect(), token="good") as ws:
                await ws.send(auth("1", "other"))
                await trio.sleep(1)
                assert not ended
            left = trio.current_time()
            await trio.sleep(60)
        assert ended == [left]

    run_virtual(main)


def test_an_answer_that_is_not_read_is_dropped_for_the_next(run_virtual: Run) -> None:
    async def main() -> None:
        async def flood(ws: Connection) -> None:
            await ws.send(bytes(10_000))
            await ws.wait_closed()

        listener = MemoryListener(capacity=1000)
        config = ConnectionConfig(compression=None, queue=QueueConfig(write_high_water=1))
        async with serve(flood, listeners=[listener], authenticate=alice, reauthenticate=True, config=config):
            stream = listener.connect()
            await stream.send_all(UPGRADE)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
            for request_id in ("first", "second"):
                message = auth(request_id, "fresh").encode()
                await stream.send_all(encode_frame(Opcode.TEXT, message, mask=b"mask"))
                await trio.sleep(1)
            received = b""
            with trio.move_on_after(1):
                while True:
                    received += await stream.receive_some()
            assert b"second" in received
            assert b"first" not in received
            await stream.aclose()

    run_virtual(main)


# Time.


@pytest.mark.parametrize("authenticate", [None, alice])
def test_a_client_that_does_not_read_that_it_was_let_in_is_dropped(run_virtual: Run, authenticate: Any) -> None:
    async def main() -> None:
        listener = MemoryListener(capacity=50)
        start = trio.current_time()
        async with serve(echo, listeners=[listener], authenticate=authenticate) as server:
            stream = listener.connect()
            await stream.send_all(UPGRADE)
            await trio.sleep(1)
            (ws,) = server.connections
            with trio.fail_after(100):
                await ws.wait_closed()
            assert trio.current_time() - start == pytest.approx(10, abs=0.1)
        await stream.aclose()

    run_virtual(main)


def test_a_client_that_is_let_in_at_the_last_moment_is_let_in(run_virtual: Run) -> None:
    async def main() -> None:
        async def authenticate(token: str | None, request: UpgradeRequest) -> Principal:
            await trio.sleep(10)
            return Principal(subject="alice")

        listener = MemoryListener()
        async with serve(echo, listeners=[listener], authenticate=authenticate):
            stream = listener.connect()
            await stream.send_all(UPGRADE)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
            await stream.aclose()

    run_virtual(main)


# Keys.


def test_keys_that_do_not_come_are_not_waited_for_beyond_a_bound(run_virtual: Run) -> None:
    release = threading.Event()

    class Keys:
        def verify(self, token: str, now: float, *, waited: bool = False) -> Principal:
            raise KeysUnavailable if waited else KeysNeeded

        def begin_fetch(self, now: float) -> bool:
            return True

        def fetch(self) -> None:
            release.wait()

    async def main() -> None:
        listener = MemoryListener()
        start = trio.current_time()
        async with serve(echo, listeners=[listener], authenticate=Keys()):
            with pytest.raises(InvalidStatus, match="503"):
                async with connect("ws://test.invalid/", token="token", stream=listener.connect()):
                    pass
            assert trio.current_time() - start == pytest.approx(MAX_WAIT)

    try:
        run_virtual(main)
    finally:
        release.set()


# TLS.


def test_failed_tls_handshakes_leave_nothing_behind(run: Run, tls: ssl.SSLContext) -> None:
    async def main() -> None:
        config = ConnectionConfig(handshake=HandshakeLimits(timeout=0.2), close=CloseConfig(timeout=0.2))
        async with serve(echo, "127.0.0.1", 0, ssl=tls, config=config) as server:
            port = server.sockets[0].getsockname()[1]
            for request in (b"GET / HTTP/1.1\r\n\r\n", b""):
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                if request:
                    await stream.send_all(request)
                assert b"HTTP" not in await receive_all(stream)
                await stream.aclose()
            await assert_empty(server)

    run(main)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "half"])
@pytest.mark.parametrize("closes", [False, True])
def test_a_tls_handshake_that_hangs_ends_at_its_timeout_or_with_the_server(
    run_virtual: Run, tls: ssl.SSLContext, sent: bytes, closes: bool
) -> None:
    async def main() -> None:
        listener = MemoryListener()
        start = trio.current_time()
        async with serve(echo, listeners=[listener], ssl=tls) as server:
            stream = listener.connect()
            await stream.send_all(sent)
            await trio.sleep(1)
            if closes:
                await server.close()
            assert await receive_all(stream) == b""
            assert trio.current_time() - start == pytest.approx(1 if closes else 10, abs=0.05)
        await stream.aclose()
        assert all(each.is_closed for each in listener.streams)

    run_virtual(main)


def test_a_context_that_is_broken_later_takes_nobody_with_it(
    run_virtual: Run, tls: ssl.SSLContext, trusting: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    class Moody(ssl.SSLContext):
        is_good = False

        def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
            if not self.is_good:
                raise ValueError("not now")
            return tls.wrap_bio(*args, **kwargs)

    async def main() -> None:
        context = Moody(ssl.PROTOCOL_TLS_SERVER)
        listener = MemoryListener()
        async with serve(echo, listeners=[listener], ssl=context):
            stream = listener.connect()
            assert await receive_all(stream) == b""
            await stream.aclose()
            context.is_good = True
            async with connect("wss://127.0.0.1/", ssl=trusting, stream=listener.connect()) as ws:
                assert await ws.ping() >= 0

    with caplog.at_level(logging.ERROR):
        run_virtual(main)
    assert [record.__dict__["type"] for record in caplog.records] == ["tls_error"]


@pytest.mark.parametrize("early", [8 * 1024, 1024 * 1024])
def test_a_refusal_over_tls_is_not_lost_behind_early_data(
    run: Run, tls: ssl.SSLContext, trusting: ssl.SSLContext, early: int
) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0, ssl=tls) as server:
            plain = await trio.open_tcp_stream(*server.sockets[0].getsockname())
            stream = trio.SSLStream(plain, trusting, server_hostname="127.0.0.1")
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            await stream.send_all(bytes(early))
            head, _, body = (await receive_all(stream)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 426 ")
            assert body == b'{"error": "this is a WebSocket endpoint"}\n'
            await stream.aclose()

    run(main)


# Clients that leave, and everything that is cancelled, at each point.


@pytest.mark.parametrize("how", ["close", "reset", "eof"])
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("authenticate", [None, alice])
def test_a_client_may_leave_at_any_byte(
    run: Run,
    caplog: pytest.LogCaptureFixture,
    tls: ssl.SSLContext,
    trusting: ssl.SSLContext,
    how: str,
    encrypted: bool,
    authenticate: Any,
) -> None:
    async def page(request: HTTPRequest) -> Response:
        await trio.lowlevel.checkpoint()
        return Response(200)

    async def visit(server: Server, data: bytes, turns: int) -> None:
        plain = await trio.open_tcp_stream(*server.sockets[0].getsockname())
        if how == "reset":
            plain.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream = trio.SSLStream(plain, trusting, server_hostname="127.0.0.1") if encrypted else plain
        if data:
            await stream.send_all(data)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        if how == "eof":
            await plain.send_eof()
            with suppress(trio.BrokenResourceError):
                await receive_all(plain)
        await (stream if how == "close" else plain).aclose()

    async def main() -> None:
        config = ConnectionConfig(close=CloseConfig(timeout=0.5))
        async with serve(
            echo, "127.0.0.1", 0, authenticate=authenticate, http=page, ssl=tls if encrypted else None, config=config
        ) as server:
            for data in (TALK, PAGE):
                for size in [*range(0, len(data), 20), *range(len(data) - 20, len(data) + 1)]:
                    for turns in (0, 2):
                        await visit(server, data[:size], turns)
            await assert_empty(server)

    with caplog.at_level(logging.ERROR):
        run(main)
    assert caplog.records == []


@pytest.mark.parametrize("authenticate", [None, alice])
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("cancelled", ["server", "client", "both"])
def test_everything_may_be_cancelled_at_each_point(
    run_virtual: Run,
    tls: ssl.SSLContext,
    trusting: ssl.SSLContext,
    authenticate: Any,
    encrypted: bool,
    cancelled: str,
) -> None:
    scheme = "wss" if encrypted else "ws"

    async def talk(listener: MemoryListener, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        # What it is told when the server goes is another matter.
        with trio.CancelScope() as scope, suppress(Exception):
            task_status.started(scope)
            client = connect(f"{scheme}://127.0.0.1/", ssl=trusting if encrypted else None, stream=listener.connect())
            async with client as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                await ws.close()

    async def serve_for_ever(listener: MemoryListener, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            context = tls if encrypted else None
            async with serve(echo, listeners=[listener], authenticate=authenticate, ssl=context):
                task_status.started(scope)
                await trio.sleep_forever()

    async def main() -> None:
        for turns in range(60):
            listener = MemoryListener()
            start = trio.current_time()
            async with trio.open_nursery() as nursery:
                server: trio.CancelScope = await nursery.start(serve_for_ever, listener)
                client: trio.CancelScope = await nursery.start(talk, listener)
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                if cancelled != "server":
                    client.cancel()
                if cancelled == "client":
                    await trio.sleep(1)
                server.cancel()
            assert trio.current_time() - start < 2
            assert all(stream.is_closed for stream in listener.streams)

    run_virtual(main)


def test_a_stream_that_the_application_closes_takes_nobody_with_it(run_virtual: Run) -> None:
    async def page(request: HTTPRequest) -> Response:
        return Response(200, body=bytes(1000))

    async def main() -> None:
        listener = MemoryListener(capacity=50)
        async with serve(echo, listeners=[listener], http=page):
            stream = listener.connect()
            await stream.send_all(PAGE)
            await trio.sleep(1)
            (server_side,) = set(listener.streams) - {stream}
            await server_side.aclose()
            async with connect("ws://test.invalid/", stream=listener.connect()) as ws:
                assert await ws.ping() >= 0
            await stream.aclose()

    run_virtual(main)


def test_a_request_may_come_byte_by_byte(run_virtual: Run) -> None:
    async def main() -> None:
        listener = MemoryListener()
        async with serve(echo, listeners=[listener]):
            stream = listener.connect()
            for byte in TALK:
                await stream.send_all(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()
            assert (await receive_all(stream)).endswith(b"\x81\x05hello\x88\x02\x03\xe8")
            await stream.aclose()

    run_virtual(main)

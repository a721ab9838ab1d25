"""What is trio's own: nurseries, cancellation, streams of every kind, real sockets and TLS."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from tests.scenarios.pipes import MemoryListener, MemoryStream, Pipe

from wsconnkit.machines.closing import State
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import OVERHEAD, ConnectionConfig, QueueConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.errors import ConnectionClosedError, InvalidHandshake, LocalProtocolError, ProxyRefused
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.protocol.upgrade import Agreement, UpgradeRequest
from wsconnkit.protocol.uri import parse_uri
from wsconnkit.trio import Connection, attach, connect, serve

from .peers import PLAIN, Run, echo, info, uri

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


async def agreed(client: trio.abc.Stream, server: trio.abc.Stream) -> tuple[UpgradeRequest, Agreement]:
    """Do the handshake as another server would."""
    asking = ClientHandshake(parse_uri("ws://test.invalid/"), PLAIN, now=0.0)
    answering = ServerHandshake(PLAIN, now=0.0)
    answering.receive_data(asking.data_to_send(), 0.0)
    agreement = answering.accept()
    assert answering.request is not None
    return answering.request, agreement


def test_it_serves_and_connects_over_tcp(run: Run) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            await ws.send("over a socket")
            assert await ws.recv() == "over a socket"
            (other,) = server.connections
            assert ws.remote_address == other.local_address
            assert ws.local_address == other.remote_address
        assert info(ws).clean

    run(main)


def test_it_listens_at_several_hosts_and_answers_pages_at_a_port_of_their_own(run: Run) -> None:
    async def main() -> None:
        async with serve(echo, ["127.0.0.1", "127.0.0.1"], 0, endpoints=("127.0.0.1", 0)) as server:
            assert len(server.sockets) == 3
            port = server.sockets[2].getsockname()[1]
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
            await stream.aclose()

    run(main)


def test_a_port_that_is_taken_is_told_and_nothing_is_left(run: Run) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(OSError, match="in use"):
                async with serve(echo, "127.0.0.1", port):
                    pass
            with pytest.raises(OSError, match="in use"):
                async with serve(echo, "127.0.0.1", 0, endpoints=("127.0.0.1", port)):
                    pass

    run(main)


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"host": "127.0.0.1", "port": 65536},
        {"port": -1},
        {"listeners": []},
        {"listeners": [MemoryListener()], "host": "127.0.0.1"},
        {"listeners": [MemoryListener()], "port": 0},
    ],
    ids=lambda where: "-".join(where) or "nowhere",
)
def test_it_is_to_be_said_where_to_listen(where: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"listen|port"):
        serve(echo, **where)


def test_an_error_of_a_listener_ends_the_server_with_it(run_virtual: Run) -> None:
    class Failing(MemoryListener):
        async def accept(self) -> trio.abc.Stream:
            await trio.sleep(1)
            raise OSError("no more")

    async def live() -> None:
        async with serve(echo, listeners=[Failing(), MemoryListener()]) as server:
            await server.wait_closed()

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await live()
        assert caught.group_contains(OSError, match="no more")

    run_virtual(main)


def test_a_server_that_has_ended_has_nothing_to_drain(run: Run) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server:
            pass
        for _ in range(2):
            report = await server.drain()
            assert str(report) == "drained 0 connections in 0.0 s"
        assert server.is_draining

    run(main)


@pytest.mark.parametrize("lockstep", [False, True])
def test_it_runs_over_memory_streams_in_virtual_time(run_virtual: Run, lockstep: bool) -> None:
    async def main() -> None:
        pair = trio.testing.lockstep_stream_pair() if lockstep else trio.testing.memory_stream_pair()
        request, agreement = await agreed(*pair)
        client = pair[0]
        async with attach(pair[1], request, agreement, config=PLAIN) as ws:
            await ws.send("hello")
            assert bytes(await client.receive_some()) == b"\x81\x05hello"
            await trio.sleep(3600)
            # A lockstep stream takes nothing, not even a ping, from a peer that does not read.
            assert info(ws).cause is (Cause.SLOW_CONSUMER if lockstep else Cause.HEARTBEAT)
            await client.aclose()

    run_virtual(main)


def test_a_nursery_may_start_servers_and_clients(run: Run) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve(echo, "127.0.0.1", 0).run)
            ws = await nursery.start(connect(uri(server)).run)
            await ws.send("x")
            assert await ws.recv() == "x"
            await ws.aclose()
            assert info(ws).clean
            again = await nursery.start(connect(uri(server)).run)
            nursery.cancel_scope.cancel()
        await again.wait_closed()

    run(main)


def test_one_client_may_have_several_connections_at_a_time(run: Run) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, trio.open_nursery() as nursery:
            client = connect(uri(server))
            first = await nursery.start(client.run)
            second = await nursery.start(client.run)
            await first.close()
            await second.send("still there")
            assert await second.recv() == "still there"
            await second.close()

    run(main)


def test_what_the_block_raises_is_not_wrapped_in_a_group(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="plain"):
            async with serve(echo, "127.0.0.1", 0) as server, connect(uri(server)):
                raise ValueError("plain")

    run(main)


def test_what_a_block_raises_is_raised_also_where_the_peer_answers_no_close_in_time(run_virtual: Run) -> None:
    async def main() -> None:
        pair = trio.testing.memory_stream_pair()
        request, agreement = await agreed(*pair)
        with pytest.raises(ValueError, match="plain"), trio.move_on_after(1):
            async with attach(pair[1], request, agreement, config=PLAIN) as ws:
                raise ValueError("plain")
        assert info(ws).cause is Cause.LOCAL_CLOSE
        await pair[0].aclose()

    run_virtual(main)


class Stubborn(MemoryStream):
    """Raises when it is closed."""

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            raise OSError("not closed in order")


class Deaf(MemoryStream):
    """A read of it that waits goes on waiting when it is closed."""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("end", ["close", "cancel", "peer"])
def test_a_stream_that_fails_to_close_ends_the_block_with_that(run_virtual: Run, end: str) -> None:
    async def main() -> None:
        up, down = Pipe(1000), Pipe(1000)
        client, server = MemoryStream(down, up), Stubborn(up, down)
        request, agreement = await agreed(client, server)

        async def live() -> None:
            async with attach(server, request, agreement, config=PLAIN) as ws:
                if end == "peer":
                    await client.aclose()
                await (ws.close() if end == "close" else ws.wait_closed())

        with pytest.raises(ExceptionGroup) as caught, trio.move_on_after(100):
            await live()
        assert caught.group_contains(OSError, match="not closed in order")

    run_virtual(main)


def test_a_cancelled_block_ends_also_where_a_read_outlasts_the_stream(run_virtual: Run) -> None:
    async def main() -> None:
        up, down = Pipe(1000), Pipe(1000)
        client, server = MemoryStream(down, up), Deaf(up, down)
        request, agreement = await agreed(client, server)
        start = trio.current_time()
        with trio.move_on_after(1) as scope:
            async with attach(server, request, agreement, config=PLAIN) as ws:
                await ws.recv()
        assert scope.cancelled_caught
        assert trio.current_time() - start < 2
        assert info(ws).cause is Cause.LOCAL_CLOSE

    run_virtual(main)


@pytest.mark.parametrize("when", ["first", "farewell"])
def test_an_error_of_ours_at_the_start_or_the_end_leaves_nobody_waiting(
    run_virtual: Run, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def fail(*args: object, **kwargs: object) -> Any:
        raise ZeroDivisionError

    async def main() -> None:
        pair = trio.testing.memory_stream_pair()
        request, agreement = await agreed(*pair)
        if when == "first":
            monkeypatch.setattr(ConnectionProtocol, "events", fail)

        async def live() -> None:
            async with attach(pair[1], request, agreement, config=PLAIN) as ws:
                await trio.testing.wait_all_tasks_blocked()
                monkeypatch.setattr(ConnectionProtocol, "close", fail)
                await ws.wait_closed()

        with pytest.raises(ExceptionGroup) as caught, trio.move_on_after(1) as scope:
            await live()
        assert scope.cancel_called is (when == "farewell")
        assert caught.group_contains(ZeroDivisionError)
        await pair[0].aclose()

    run_virtual(main)


def test_a_cancelled_block_says_goodbye_and_does_not_wait_for_the_answer(run_virtual: Run) -> None:
    async def main() -> None:
        pair = trio.testing.memory_stream_pair()
        request, agreement = await agreed(*pair)
        start = trio.current_time()
        with trio.move_on_after(1) as scope:
            async with attach(pair[1], request, agreement, config=PLAIN) as ws:
                await ws.recv()
        assert scope.cancelled_caught
        assert trio.current_time() - start <= 1.2
        assert bytes(await pair[0].receive_some()) == b"\x88\x02\x03\xe8"
        assert (info(ws).cause, info(ws).clean) == (Cause.LOCAL_CLOSE, False)
        await pair[0].aclose()

    run_virtual(main)


def test_a_cancelled_block_ends_soon_also_when_the_peer_reads_nothing(run_virtual: Run) -> None:
    async def main() -> None:
        pair = trio.testing.lockstep_stream_pair()
        request, agreement = await agreed(*pair)
        start = trio.current_time()
        with trio.move_on_after(1):
            async with attach(pair[1], request, agreement, config=PLAIN) as ws:
                await ws.send(bytes(1_000_000))
                await ws.send("waits")
        assert trio.current_time() - start <= 1.2
        await pair[0].aclose()

    run_virtual(main)


@pytest.mark.parametrize(("closes", "code"), [(True, 1006), (False, 1011)])
def test_that_the_client_has_left_is_no_error_in_a_group_either(
    run: Run, caplog: pytest.LogCaptureFixture, closes: bool, code: int
) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ws.recv)
                if not closes:
                    raise ValueError("a bug")

        async with serve(handler, "127.0.0.1", 0) as server:
            async with connect(uri(server)) as ws:
                if closes:
                    ws.abort()
                await ws.wait_closed()
                assert info(ws).code == code

    with caplog.at_level(logging.ERROR):
        run(main)
    assert [record.__dict__["type"] for record in caplog.records] == ([] if closes else ["handler_error"])


def test_errors_of_a_handler_that_is_cancelled_are_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def fail(ws: Connection) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("while cleaning up")

        async def handler(ws: Connection) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail, ws)
                nursery.start_soon(trio.sleep_forever)
                await ws.send("ready")
                await trio.sleep_forever()

        with trio.CancelScope() as scope:
            async with serve(handler, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
                assert await ws.recv() == "ready"
                scope.cancel()
                await trio.sleep_forever()

    with caplog.at_level(logging.ERROR):
        run(main)
    assert [record.__dict__["type"] for record in caplog.records] == ["handler_error"]
    assert isinstance(caplog.records[0].exc_info[1], (ValueError, ExceptionGroup))  # type: ignore[index]


def test_every_call_is_a_checkpoint(run: Run) -> None:
    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            with trio.testing.assert_checkpoints():
                await ws.send("x")
            with trio.testing.assert_checkpoints():
                await ws.recv()
            await ws.send("x")
            await trio.testing.wait_all_tasks_blocked(0.05)
            with trio.testing.assert_checkpoints():
                await ws.recv()
            with trio.testing.assert_checkpoints():
                await ws.ping()
            with trio.testing.assert_checkpoints():
                await ws.close()
            with trio.testing.assert_checkpoints():
                await ws.close()
            with trio.testing.assert_checkpoints():
                await ws.wait_closed()

    run(main)


def test_a_read_with_very_many_messages_leaves_others_their_turn(run_virtual: Run) -> None:
    async def main() -> None:
        pair = trio.testing.memory_stream_pair()
        request, agreement = await agreed(*pair)
        config = ConnectionConfig(compression=None, queue=QueueConfig(max_messages=10_000))
        async with attach(pair[1], request, agreement, config=config) as ws:
            await pair[0].send_all(encode_frame(Opcode.BINARY, b"x", mask=b"mask") * 9000)
            assert await ws.recv() == b"x"
            assert ws.queued_bytes[0] < 5000 * (1 + OVERHEAD)
            for _ in range(8999):
                await ws.recv()
            await pair[0].aclose()

    run_virtual(main)


def test_who_gives_up_a_turn_that_has_just_come_holds_up_nobody(run_virtual: Run) -> None:
    class Cancelling(MemoryStream):
        scope: trio.CancelScope | None = None

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await super().send_all(data)
            if self.scope is not None:
                self.scope.cancel()

    async def main() -> None:
        up, down = Pipe(1000), Pipe(1000)
        client, server = MemoryStream(down, up), Cancelling(up, down)
        request, agreement = await agreed(client, server)
        config = ConnectionConfig(compression=None, queue=QueueConfig(write_high_water=1))
        async with attach(server, request, agreement, config=config) as ws, trio.open_nursery() as nursery:
            await ws.send(bytes(2000))
            await trio.testing.wait_all_tasks_blocked()

            async def give_up() -> None:
                with trio.CancelScope() as server.scope:
                    await ws.send("first")

            nursery.start_soon(give_up)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ws.send, "second")
            await trio.testing.wait_all_tasks_blocked()
            received = b""
            with trio.move_on_after(1):
                while b"second" not in received:
                    received += await client.receive_some()
            assert received.endswith(b"\x81\x06second")
            assert b"first" not in received
            await client.aclose()

    run_virtual(main)


def test_nothing_waits_for_the_network_any_more_after_the_end(run_virtual: Run) -> None:
    async def main() -> None:
        ours, theirs = trio.testing.lockstep_stream_pair()
        request, agreement = await agreed(theirs, ours)
        async with attach(ours, request, agreement, config=PLAIN) as ws:
            await ws.send(bytes(1_000_000))
            ws.send_nowait("waits")
            await trio.testing.wait_all_tasks_blocked()
            assert ws.queued_bytes[1] > 1_000_000
            ws.abort()
            await ws.wait_closed()
            assert ws.queued_bytes == (0, 0)
        await theirs.aclose()

    run_virtual(main)


def test_a_handler_that_only_sends_leaves_others_their_turn(run: Run) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            while True:
                await ws.send(b"x")

        async with serve(handler, "127.0.0.1", 0) as server:
            async with connect(uri(server)) as ws:
                for _ in range(1000):
                    await ws.recv()

    run(main)


def test_a_handler_that_will_not_end_holds_up_the_end_and_is_logged(
    run_virtual: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async def handler(ws: Connection) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(100)

        listener = OneStream()
        start = trio.current_time()
        async with serve(handler, listeners=[listener]) as server:
            async with connect("ws://test.invalid/", stream=listener.client):
                await server.close()
                assert trio.current_time() - start < 20
        assert trio.current_time() - start >= 100

    with caplog.at_level(logging.ERROR):
        run_virtual(main)
    assert [record.__dict__["type"] for record in caplog.records] == ["handler_stuck_error"]


class OneStream(trio.abc.Listener[trio.abc.Stream]):
    """Accepts one stream, which leads to `client`."""

    def __init__(self) -> None:
        self.client, self._server = self.new_pair()
        self._is_accepted = False

    def new_pair(self) -> tuple[trio.abc.Stream, trio.abc.Stream]:
        return trio.testing.memory_stream_pair()

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if self._is_accepted:
            await trio.sleep_forever()
        self._is_accepted = True
        return self._server

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def test_a_server_that_never_answers_is_given_up(run_virtual: Run) -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        start = trio.current_time()
        with pytest.raises(TimeoutError, match="no complete response within 10 s"):
            async with connect("ws://test.invalid/", stream=ours):
                pass
        assert 10 <= trio.current_time() - start < 10.1
        assert await theirs.receive_some()
        assert await theirs.receive_some() == b""

    run_virtual(main)


def test_a_server_that_reads_nothing_is_given_up(run_virtual: Run) -> None:
    async def main() -> None:
        ours, theirs = trio.testing.lockstep_stream_pair()
        start = trio.current_time()
        with pytest.raises(InvalidHandshake, match="does not read"):
            async with connect("ws://test.invalid/", stream=ours):
                pass
        assert 10 <= trio.current_time() - start < 10.1
        await theirs.aclose()

    run_virtual(main)


def test_a_client_that_does_not_read_our_answer_is_dropped(run_virtual: Run) -> None:
    async def main() -> None:
        class Lockstep(OneStream):
            def new_pair(self) -> tuple[trio.abc.Stream, trio.abc.Stream]:
                return trio.testing.lockstep_stream_pair()

        listener = Lockstep()
        async with serve(echo, listeners=[listener]) as server:
            await listener.client.send_all(ClientHandshake(parse_uri("ws://x/"), PLAIN, now=0.0).data_to_send())
            await trio.sleep(1)
            (ws,) = server.connections
            await ws.wait_closed()
            assert info(ws).cause is Cause.TRANSPORT_LOST
            await listener.client.aclose()

    run_virtual(main)


@pytest.mark.parametrize("call", ["receive_data", "handle_timeout", "data_to_send"])
def test_an_error_of_ours_ends_the_block_with_it_and_leaves_no_task(
    run_virtual: Run, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async def main() -> None:
        pair = trio.testing.memory_stream_pair()
        request, agreement = await agreed(*pair)

        def fail(*args: object) -> Any:
            raise ZeroDivisionError

        async def live() -> None:
            async with attach(pair[1], request, agreement, config=PLAIN) as ws:
                await trio.testing.wait_all_tasks_blocked()
                monkeypatch.setattr(ConnectionProtocol, call, fail)
                await pair[0].send_all(encode_frame(Opcode.PING, b"", mask=b"mask"))
                await ws.recv()

        start = trio.current_time()
        with pytest.raises(ExceptionGroup) as caught:
            await live()
        assert trio.current_time() - start < (31 if call == "handle_timeout" else 1)  # when it is called at all
        error: Any = caught.value
        while not isinstance(error, ZeroDivisionError):
            (error,) = error.exceptions
        await pair[0].aclose()

    run_virtual(main)


def test_it_serves_and_connects_over_tls(run: Run, authority: trustme.CA, tls: ssl.SSLContext) -> None:
    async def main() -> None:
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        async with serve(echo, "127.0.0.1", 0, ssl=tls) as server:
            async with connect(uri(server, "wss"), ssl=trusting) as ws:
                for size in (1, 100_000, 900_000):
                    await ws.send(os.urandom(size))
                    assert len(await ws.recv()) == size
                assert ws.remote_address[0] == "127.0.0.1"
                (other,) = server.connections
            assert info(ws).clean
            await other.wait_closed()
            assert info(other).clean
            async with connect(uri(server, "wss"), ssl=trusting) as ws:
                (other,) = server.connections
                ws.abort()
                await other.wait_closed()
                assert info(other).cause is Cause.TRANSPORT_LOST
            with pytest.raises(ssl.SSLCertVerificationError):
                async with connect(uri(server, "wss")):
                    pass

    run(main)


def test_misuse_is_told_when_it_is_written(run: Run) -> None:
    with pytest.raises(LocalProtocolError, match="subprotocols is 'chat'"):
        serve(echo, "127.0.0.1", 0, subprotocols="chat")
    with pytest.raises(ValueError, match="the scheme ws"):
        connect("ws://127.0.0.1", ssl=ssl.create_default_context())
    with pytest.raises(ValueError, match="reauthenticate is given"):
        serve(echo, "127.0.0.1", 0, reauthenticate=True)

    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0) as server, connect(uri(server)) as ws:
            for call in (server.close, server.drain, ws.close):
                call_: Any = call
                with pytest.raises(LocalProtocolError, match="cannot be sent"):
                    await call_(code=1006)
            assert ws.state is State.OPEN
            await ws.close(4000)
            with pytest.raises(ConnectionClosedError):
                await ws.recv()

    run(main)


class Proxy:
    """An HTTP proxy that opens tunnels, and keeps where they were to lead."""

    def __init__(self, status: bytes = b"200 OK") -> None:
        self._status = status
        self.asked: list[bytes] = []

    async def __call__(self, client: trio.abc.Stream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += bytes(await client.receive_some())
        target = head.split(b" ")[1]
        self.asked.append(target)
        await client.send_all(b"HTTP/1.1 " + self._status + b"\r\n\r\n")
        if self._status.startswith(b"200"):
            server = await trio.open_tcp_stream("127.0.0.1", int(target.rpartition(b":")[2]))
            async with server, trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_on, client, server, nursery)
                await self._pass_on(server, client, nursery)

    @staticmethod
    async def _pass_on(source: trio.abc.Stream, target: trio.abc.Stream, nursery: trio.Nursery) -> None:
        with suppress(trio.BrokenResourceError):
            while data := await source.receive_some():
                await target.send_all(data)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving_proxy(proxy: Proxy, ssl: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        if ssl is None:
            listeners: Any = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
        else:
            listeners = await trio.open_ssl_over_tcp_listeners(0, ssl, host="127.0.0.1", https_compatible=True)
            port = listeners[0].transport_listener.socket.getsockname()[1]
        await nursery.start(trio.serve_listeners, proxy, listeners)
        yield f"{'http' if ssl is None else 'https'}://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("proxy_tls", [False, True])
@pytest.mark.parametrize("server_tls", [False, True])
def test_it_connects_through_a_proxy(
    run: Run, authority: trustme.CA, tls: ssl.SSLContext, proxy_tls: bool, server_tls: bool
) -> None:
    async def main() -> None:
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        proxy = Proxy()
        async with serving_proxy(proxy, tls if proxy_tls else None) as url:
            async with serve(echo, "127.0.0.1", 0, ssl=tls if server_tls else None) as server:
                async with connect(
                    uri(server, "wss" if server_tls else "ws"),
                    proxy=url,
                    proxy_ssl=trusting if proxy_tls else None,
                    ssl=trusting if server_tls else None,
                ) as ws:
                    await ws.send("through")
                    assert await ws.recv() == "through"
                assert info(ws).clean
                assert proxy.asked == [b"127.0.0.1:%d" % server.sockets[0].getsockname()[1]]

    run(main)


@pytest.mark.parametrize("said", [b"", b"\x15\x03\x03\x00\x02\x01\x00"], ids=["eof", "close_notify"])
@pytest.mark.parametrize(
    ("proxy_tls", "at_proxy"), [(None, False), (False, False), (True, False), (True, True)], ids=str
)
def test_an_end_within_any_tls_handshake_is_the_same(
    run: Run, tls: ssl.SSLContext, trusting: ssl.SSLContext, said: bytes, proxy_tls: bool | None, at_proxy: bool
) -> None:
    async def hang_up(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        if said:
            await stream.send_all(said)
        await stream.aclose()

    async def main() -> None:
        async with serving_proxy(Proxy(), tls if proxy_tls else None) as url, trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, hang_up, 0, host="127.0.0.1"))
            there = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            with pytest.raises(ConnectionResetError, match=r"^the connection ended during the TLS handshake$"):
                async with connect(
                    f"wss://{there}/",
                    proxy=f"https://{there}" if at_proxy else None if proxy_tls is None else url,
                    proxy_ssl=trusting,
                    ssl=trusting,
                ):
                    raise AssertionError
            nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize("error", [ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError])
def test_whatever_python_and_openssl_call_such_an_end(run: Run, error: type[ssl.SSLError]) -> None:
    class Ended(ssl.SSLObject):
        def do_handshake(self) -> None:
            raise error(1, "which of them depends on their versions")

    async def main() -> None:
        context = ssl.create_default_context()
        context.sslobject_class = Ended
        stream = trio.testing.memory_stream_pair()[0]
        with pytest.raises(ConnectionResetError, match=r"^the connection ended during the TLS handshake$"):
            async with connect("wss://test.invalid/", ssl=context, stream=stream):
                raise AssertionError

    run(main)


def test_a_proxy_that_refuses_is_told(run: Run) -> None:
    async def main() -> None:
        async with serving_proxy(Proxy(b"403 Forbidden")) as url:
            with pytest.raises(ProxyRefused, match="403"):
                async with connect("ws://server.invalid/", proxy=url):
                    pass

    run(main)


def test_a_stream_serves_one_connection_only(run: Run) -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        with pytest.raises(ValueError, match="stream is given"):
            async for _ in connect("ws://test.invalid/", stream=ours):
                pass
        with pytest.raises(ValueError, match="proxy is given together with a transport"):
            connect("ws://test.invalid/", stream=ours, proxy="http://127.0.0.1:1")
        await ours.aclose()
        await theirs.aclose()

    run(main)


class Resolver(trio.abc.HostnameResolver):
    """Knows one host, at several addresses."""

    def __init__(self, *ports: int) -> None:
        self._ports = ports

    async def getaddrinfo(self, host: Any, port: Any, *kind: Any, **more: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in self._ports]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise AssertionError


def test_where_all_addresses_fail_all_say_why() -> None:
    async def main() -> None:
        with socket.socket() as one, socket.socket() as two:
            ports = []
            for sock in (one, two):  # bound, so that nobody else gets them, but nobody listens
                sock.bind(("127.0.0.1", 0))
                ports.append(sock.getsockname()[1])
            trio.socket.set_custom_hostname_resolver(Resolver(*ports))
            with pytest.raises(ConnectionRefusedError) as caught:
                await connect("ws://server.test/").__aenter__()
            assert all(str(port) in str(caught.value) for port in ports)

    trio.run(main)

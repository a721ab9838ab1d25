"""Clients that come back: `async for` over `connect`, and the client that outlives its connections."""

from __future__ import annotations

import base64
import hashlib
import random
import socket
import sys
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from wsconnkit.machines.backoff import BackoffConfig
from wsconnkit.machines.closing import State
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig
from wsconnkit.protocol.errors import (
    ClientClosed,
    ConnectionClosed,
    ConnectionClosedError,
    InvalidStatus,
    LocalProtocolError,
)
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.upgrade import UpgradeRequest
from wsconnkit.service.admission import AdmissionConfig
from wsconnkit.service.backlog import BacklogConfig, WhenFull
from wsconnkit.service.principal import Principal
from wsconnkit.service.reconnect import Opened, ReconnectEvent, Retrying, Stopped

from .driver import CANCELLED, Driver, port_of
from .raw import info

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

UNCAPPED = AdmissionConfig(max_connections_per_user=None)


@pytest.fixture(autouse=True)
def jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each wait be half of its window."""
    monkeypatch.setattr(random, "random", lambda: 0.5)


def uri(server: Any) -> str:
    return f"ws://127.0.0.1:{port_of(server)}/"


def backoff(driver: Driver, max_attempts: int = 10) -> BackoffConfig:
    return BackoffConfig(base=driver.seconds(1), cap=driver.seconds(30), max_attempts=max_attempts)


def plain(driver: Driver) -> ConnectionConfig:
    return ConnectionConfig(compression=None, close=CloseConfig(timeout=max(driver.seconds(5), 0.5)))


class Script:
    """Answers upgrades by the steps of a list: a status, or a code to close with; 0 drops the connection."""

    def __init__(self, *steps: int) -> None:
        self._steps = list(steps)
        self._step = 0
        self.tokens: list[str | None] = []

    async def authenticate(self, token: str | None, request: UpgradeRequest) -> Principal | Response:
        self.tokens.append(token)
        self._step = self._steps.pop(0)
        return Response(self._step, Headers(), b"") if 0 < self._step < 1000 else Principal(subject="ada")

    async def handle(self, ws: Any) -> None:
        if self._step == 0:
            ws.abort()
        else:
            await ws.close(self._step)


def follow(network: Driver, script: Script, **kwargs: Any) -> tuple[list[ReconnectEvent], list[Exception]]:
    """Run a loop over connections to its end; return what it told, and what it raised."""
    events: list[ReconnectEvent] = []
    errors: list[Exception] = []

    async def main() -> None:
        async with network.serve(
            script.handle, authenticate=script.authenticate, admission=UNCAPPED, config=plain(network)
        ) as server:
            try:
                connect = network.adapter.connect(
                    uri(server), backoff=backoff(network), on_event=events.append, config=plain(network), **kwargs
                )
                async for ws in connect:
                    with pytest.raises(ConnectionClosed):
                        await ws.recv()
            except Exception as error:
                errors.append(error)

    network.run(main)
    return events, errors


def test_a_loop_comes_back_until_the_server_closes_with_1000(network: Driver) -> None:
    events, errors = follow(network, Script(1001, 0, 1011, 503, 1000))
    assert errors == []
    assert [type(event) for event in events] == [Opened, Retrying] * 3 + [Retrying, Opened, Stopped]
    delays = [event.delay for event in events if isinstance(event, Retrying)]
    assert delays == pytest.approx([network.seconds(seconds) for seconds in (1, 2, 4, 8)])


@pytest.mark.parametrize(("step", "error"), [(1008, ConnectionClosedError), (401, InvalidStatus), (404, InvalidStatus)])
def test_a_loop_raises_what_can_never_work(network: Driver, step: int, error: type[Exception]) -> None:
    events, errors = follow(network, Script(step))
    assert [type(each) for each in errors] == [error]
    assert isinstance(events[-1], Stopped)
    assert events[-1].error is errors[0]


def test_a_fresh_token_is_asked_for_when_the_one_before_was_refused(network: Driver) -> None:
    tokens = iter(["stale", "fresh"])

    async def new_token() -> str:
        return next(tokens)

    script = Script(401, 1001, 1000)
    _, errors = follow(network, script, token=new_token)
    assert errors == []
    assert script.tokens == ["stale", "fresh", "fresh"]


def test_a_server_that_is_not_there_is_given_up_after_the_attempts_there_are(network: Driver) -> None:
    events: list[ReconnectEvent] = []
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]

    async def main() -> None:
        start = network.now()
        with pytest.raises(ConnectionRefusedError):
            async for _ in network.adapter.connect(
                f"ws://127.0.0.1:{port}/", backoff=backoff(network, 4), on_event=events.append
            ):
                pass
        assert network.now() - start >= 0.5 + 1 + 2

    network.run(main)
    assert [type(event) for event in events] == [Retrying] * 3 + [Stopped]
    assert [event.attempts for event in events if isinstance(event, Stopped)] == [4]


@pytest.mark.parametrize("step", [1000, 1008])
def test_a_loop_that_has_ended_stays_at_its_end(network: Driver, step: int) -> None:
    async def main() -> None:
        script = Script(step)
        async with network.serve(script.handle, authenticate=script.authenticate, config=plain(network)) as server:
            connections = aiter(network.adapter.connect(uri(server), config=plain(network)))
            await (await anext(connections)).wait_closed()
            with pytest.raises(StopAsyncIteration if step == 1000 else ConnectionClosedError):
                await anext(connections)
            with pytest.raises(StopAsyncIteration):
                await anext(connections)

    network.run(main)


def test_a_loop_closes_a_connection_that_the_body_leaves_open_and_goes_on(network: Driver) -> None:
    events: list[ReconnectEvent] = []

    async def main() -> None:
        async def handler(ws: Any) -> None:
            await ws.wait_closed()

        seen: list[Any] = []
        async with network.serve(handler, config=plain(network)) as server:
            connect = network.adapter.connect(
                uri(server), backoff=backoff(network), config=plain(network), on_event=events.append
            )
            async for ws in connect:
                assert all(info(earlier).code == 1000 for earlier in seen)
                seen.append(ws)
                if len(seen) == 3:
                    await ws.close()
        assert len(seen) == 3

    network.run(main)
    assert [type(event) for event in events] == [Opened, Retrying] * 2 + [Opened, Stopped]
    assert [event.attempts for event in events if isinstance(event, (Opened, Stopped))] == [1, 2, 3, 3]
    assert [event.attempt for event in events if isinstance(event, Retrying)] == [2, 3]


@pytest.mark.parametrize("how", ["break", "raise", "cancel"])
def test_a_loop_that_is_left_closes_its_connection(network: Driver, how: str) -> None:
    async def main() -> None:
        arrived: list[Any] = []

        async def handler(ws: Any) -> None:
            arrived.append(ws)
            await ws.wait_closed()

        async with network.serve(handler, config=plain(network)) as server, network.tasks() as start:

            async def loop() -> None:
                async for ws in network.adapter.connect(uri(server), config=plain(network)):
                    await ws.ping()
                    if how == "break":
                        break
                    if how == "raise":
                        raise ValueError("out of the loop")
                    await ws.wait_closed()

            task = start(loop)
            await network.until(lambda: arrived)
            if how == "cancel":
                await network.sleep(1)
                task.cancel()
                assert await task.join() is CANCELLED
            elif how == "raise":
                with pytest.raises(ValueError, match="out of the loop"):
                    await task.join()
            else:
                await task.join()
            await arrived[0].wait_closed()
            assert (info(arrived[0]).code, info(arrived[0]).clean) == (1000, True)

    network.run(main)


def test_a_loop_that_is_cancelled_at_any_moment_leaves_nothing(network: Driver) -> None:
    async def main() -> None:
        async def handler(ws: Any) -> None:
            await ws.close(1012)

        async with network.serve(handler, config=plain(network)) as server, network.tasks() as start:

            async def loop() -> None:
                async for ws in network.adapter.connect(uri(server), config=plain(network), backoff=backoff(network)):
                    with suppress(ConnectionClosed):
                        await ws.recv()

            for turns in range(25):
                task = start(loop)
                for _ in range(turns):
                    await network.turn()
                task.cancel()
                assert await task.join() is CANCELLED

    network.run(main)


def test_a_loop_whose_hook_raises_leaves_no_connection(network: Driver) -> None:
    async def main() -> None:
        def hook(event: ReconnectEvent) -> None:
            raise ValueError("my bug")

        async def handler(ws: Any) -> None:
            await ws.wait_closed()

        async with network.serve(handler, config=plain(network)) as server:
            try:
                async for _ in network.adapter.connect(uri(server), on_event=hook):
                    raise AssertionError
            except ValueError as error:
                kept = error  # and so is whatever it refers to
            await network.until(lambda: not server.connections)
            assert str(kept) == "my bug"

    network.run(main)


def test_a_body_that_takes_its_time_after_the_end_does_not_make_the_connection_older(network: Driver) -> None:
    events: list[ReconnectEvent] = []

    async def main() -> None:
        async def handler(ws: Any) -> None:
            await ws.close(1011)

        short = BackoffConfig(base=network.seconds(1), max_attempts=4, stable_after=network.seconds(5))
        async with network.serve(handler, config=plain(network)) as server:
            connect = network.adapter.connect(uri(server), backoff=short, config=plain(network), on_event=events.append)
            with suppress(ConnectionClosedError):
                async for ws in connect:
                    await ws.wait_closed()
                    await network.sleep(6)
                    assert len(events) < 20

    network.run(main)
    assert [event.attempt for event in events if isinstance(event, Retrying)] == [2, 3, 4]


class Peer:
    """Keeps what it receives, by connection."""

    def __init__(self) -> None:
        self.received: list[list[Any]] = []
        self.connections: list[Any] = []

    async def __call__(self, ws: Any) -> None:
        messages: list[Any] = []
        self.received.append(messages)
        self.connections.append(ws)
        await ws.send(f"hello {len(self.received)}")
        with suppress(ConnectionClosed):
            async for message in ws:
                messages.append(message)


def client_of(network: Driver, where: str, **kwargs: Any) -> Any:
    return network.adapter.ReconnectingClient(where, backoff=backoff(network), config=plain(network), **kwargs)


def test_a_client_delivers_across_connections_in_order(network: Driver) -> None:
    async def main() -> None:
        peer = Peer()
        async with network.serve(peer, config=plain(network)) as server:
            async with client_of(network, uri(server)) as client:
                for number in range(3):
                    await client.send(f"{number} before")
                    assert client.send_nowait(f"{number} at once")
                    assert await client.recv() == f"hello {number + 1}"
                    await network.until(lambda: len(peer.received) == number + 1 and len(peer.received[-1]) == 2)  # noqa: B023
                    await peer.connections[-1].close(1011)
                assert client.messages_dropped == 0
        assert [message for messages in peer.received for message in messages] == [
            f"{number} {when}" for number in range(3) for when in ("before", "at once")
        ]

    network.run(main)


def test_what_waits_while_the_server_is_away_goes_out_when_it_is_back(network: Driver) -> None:
    async def main() -> None:
        peer = Peer()
        async with network.serve(peer, config=plain(network)) as server:
            port = port_of(server)
        shown: list[Any] = []

        async def on_open(ws: Any) -> None:
            shown.append(ws)
            await ws.send("subscribe")

        async with client_of(network, f"ws://127.0.0.1:{port}/", on_open=on_open) as client:
            await client.send("one")
            await client.send("two")
            await network.sleep(3)
            assert client.queued == (2, 6)
            assert not client.is_open
            async with network.serve(peer, port=port, config=plain(network)):
                assert await client.recv() == "hello 1"
                assert (await client.connection()).state is State.OPEN
                await network.until(lambda: peer.received == [["subscribe", "one", "two"]])
                await client.close(1000, "enough")
                assert info(shown[0]).reason == "enough"
                with pytest.raises(ClientClosed):
                    await client.send("too late")

    network.run(main)


@pytest.mark.parametrize("policy", WhenFull)
def test_who_sends_much_at_once_loses_nothing_while_there_is_a_connection(network: Driver, policy: WhenFull) -> None:
    async def main() -> None:
        peer = Peer()
        async with network.serve(peer, config=plain(network)) as server:
            queue = BacklogConfig(max_messages=10, when_full=policy)
            async with client_of(network, uri(server), queue=queue) as client:
                await client.connection()
                for number in range(200):
                    await client.send(str(number))
                assert client.messages_dropped == 0
                await network.until(lambda: len(peer.received[0]) == 200)

    network.run(main)


def test_who_sends_waits_for_room_or_is_told_that_there_is_none(network: Driver) -> None:
    async def main() -> None:
        peer = Peer()
        async with network.serve(peer, config=plain(network)) as server:
            port = port_of(server)
        queue = BacklogConfig(max_messages=2, max_bytes=5)
        async with client_of(network, f"ws://127.0.0.1:{port}/", queue=queue) as client, network.tasks() as start:
            await client.send("four")
            assert not client.send_nowait("é")
            assert (client.queued, client.messages_dropped, client.bytes_dropped) == ((1, 4), 1, 2)
            waiting = start(lambda: client.send("ab"))
            await network.sleep(1)
            assert not waiting.done
            assert client.send_nowait("1")
            async with network.serve(peer, port=port, config=plain(network)):
                await waiting.join()
                await network.until(lambda: peer.received == [["four", "1", "ab"]])
                await client.close()

    network.run(main)


def test_going_through_messages_ends_with_a_close_with_1000(network: Driver) -> None:
    async def main() -> None:
        peer = Peer()
        async with network.serve(peer, config=plain(network)) as server:
            async with client_of(network, uri(server)) as client:
                received = []
                async for message in client:
                    received.append(message)
                    await peer.connections[-1].close(1011 if len(received) == 1 else 1000)
                assert received == ["hello 1", "hello 2"]
                with pytest.raises(ClientClosed):
                    await client.recv()

    network.run(main)


def test_a_client_is_started_once(network: Driver) -> None:
    async def main() -> None:
        client = client_of(network, "ws://127.0.0.1:1/")
        for call in (client.recv, client.connection, lambda: client.send("a")):
            with pytest.raises(LocalProtocolError, match="has not been started; use `async with`"):
                await call()
        await client.close()
        with pytest.raises(LocalProtocolError, match="started before"):
            await client.__aenter__()

    network.run(main)


def test_a_client_whose_peer_reads_nothing_is_closed_within_two_close_timeouts(network: Driver) -> None:
    async def main() -> None:
        async def handler(ws: Any) -> None:
            await ws.wait_closed()

        queue = BacklogConfig(max_messages=100, max_bytes=100 * 2**20)
        async with network.serve(handler, config=plain(network)) as server:
            async with client_of(network, uri(server), queue=queue) as client:
                await client.connection()
                for _ in range(60):
                    await client.send(bytes(2**20))
                start = network.now()
            timeout = plain(network).close.timeout / network.scale
            assert network.now() - start >= timeout
            if network.exact:
                assert network.now() - start <= 2 * timeout + 1
            assert client.messages_dropped > 0
            assert client.queued == (0, 0)

    network.run(main)


def test_a_connection_that_ends_under_tasks_of_on_open_is_followed_by_another(network: Driver) -> None:
    async def main() -> None:
        peer = Peer()
        shown = 0

        async def subscribe(ws: Any) -> None:
            nonlocal shown
            shown += 1
            if shown == 1:
                await network.until(lambda: peer.connections)
                await peer.connections[0].close(1011)
                await ws.recv()
                try:
                    await ws.recv()
                except ConnectionClosed as error:
                    raise ExceptionGroup("as task groups do", [error]) from None

        async with network.serve(peer, config=plain(network)) as server:
            async with client_of(network, uri(server), on_open=subscribe) as client:
                await client.send("hello")
                await client.connection()
                await network.until(lambda: peer.received[1:] == [["hello"]])

    network.run(main)


@pytest.mark.parametrize("moment", ["token", "connecting", "on_open", "away", "idle"])
def test_a_client_can_be_closed_whatever_it_is_at(network: Driver, moment: str) -> None:
    async def main() -> None:
        reached: list[Any] = []

        async def forever(*args: object) -> Any:
            reached.append(args)
            await network.sleep(3600)

        peer = Peer()
        kwargs: dict[str, Any] = {moment: forever} if moment in ("token", "on_open") else {}
        authenticate = forever if moment == "connecting" else None
        async with network.serve(peer, authenticate=authenticate, config=plain(network)) as server:
            where = uri(server)
            if moment == "away":
                await server.close()
            async with client_of(network, where, on_event=reached.append, **kwargs) as client:
                client.send_nowait("hello")
                await network.until(lambda: reached)
                start = network.now()
                await client.close(4000, "bye")
            if network.exact:
                assert network.now() - start <= 5
            if moment in ("on_open", "idle"):
                await peer.connections[0].wait_closed()
                assert (info(peer.connections[0]).code, info(peer.connections[0]).reason) == (4000, "bye")
            for call in (client.connection, lambda: client.send("x")):
                with pytest.raises(ClientClosed):
                    await call()
            assert (client.queued, client.is_open) == ((0, 0), False)
            assert client.messages_dropped == (moment != "idle")

    network.run(main)


@pytest.mark.parametrize("polite", [True, False])
def test_closing_waits_for_a_connection_that_on_open_has_in_hand(network: Driver, polite: bool) -> None:
    async def main() -> None:
        shown: list[Any] = []

        async def on_open(ws: Any) -> None:
            shown.append(ws)
            await network.sleep(3600)

        async def handler(ws: Any) -> None:
            await ws.wait_closed()

        async with AsyncExitStack() as stack:
            if polite:
                server = await stack.enter_async_context(network.serve(handler, config=plain(network)))
                where = uri(server)
            else:
                listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                listener.setblocking(False)
                where = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
                start = await stack.enter_async_context(network.tasks())
                start(lambda: accept_and_read_no_more(network, listener, stack))
            async with client_of(network, where, on_open=on_open) as client:
                await network.until(lambda: shown)
                begin = network.now()
                await client.close(4001, "bye")
                assert (shown[0].state, shown[0].close_info.sent.code) == (State.CLOSED, 4001)
                assert info(shown[0]).clean is polite
                network.assert_elapsed(begin, 0 if polite else plain(network).close.timeout / network.scale)

    network.run(main)


def test_closing_waits_for_a_connection_that_the_server_is_closing(network: Driver) -> None:
    async def main() -> None:
        shown: list[Any] = []

        async def on_open(ws: Any) -> None:
            shown.append(ws)

        async with AsyncExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.setblocking(False)
            start = await stack.enter_async_context(network.tasks())
            going_away = encode_frame(Opcode.CLOSE, b"\x03\xe9")
            start(lambda: accept_and_read_no_more(network, listener, stack, going_away))
            where = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
            async with client_of(network, where, on_open=on_open) as client:
                await network.until(lambda: shown and shown[0].state is not State.OPEN)
                assert shown[0].state is not State.CLOSED
                await client.close()
                assert shown[0].state is State.CLOSED

    network.run(main)


async def accept_and_read_no_more(
    network: Driver, listener: socket.socket, stack: AsyncExitStack, words: bytes = b""
) -> None:
    """Let one client in, say `words`, and then nothing."""
    accepted: list[socket.socket] = []
    request = b""

    def turn() -> bool:
        nonlocal request
        with suppress(BlockingIOError):
            if not accepted:
                accepted.append(stack.enter_context(listener.accept()[0]))
                accepted[0].setblocking(False)
            request += accepted[0].recv(65536)
        return b"\r\n\r\n" in request

    await network.until(turn)
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    accepted[0].sendall(answer + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + words)


def test_who_waits_for_room_goes_on_as_soon_as_there_is_some(network: Driver) -> None:
    async def main() -> None:
        peer = Peer()
        reads: list[bool] = []

        async def handler(ws: Any) -> None:
            await network.until(lambda: reads)
            await peer(ws)

        async def send() -> None:
            for _ in range(40):
                await client.send(bytes(2**20))

        queue = BacklogConfig(max_messages=1)
        async with network.serve(handler, config=plain(network)) as server:
            async with client_of(network, uri(server), queue=queue) as client, network.tasks() as start:
                sending = start(send)
                for _ in range(300):
                    await network.turn()
                assert not sending.done
                reads.append(True)
                await network.until(lambda: sending.done)
                await network.until(lambda: len(peer.received[0]) == 40)

    network.run(main)


def test_a_client_that_cannot_come_back_tells_why_in_every_call(network: Driver) -> None:
    async def main() -> None:
        script = Script(403)
        async with network.serve(script.handle, authenticate=script.authenticate, config=plain(network)) as server:
            async with client_of(network, uri(server)) as client, network.tasks() as start:
                connecting = start(client.connection)
                for call in (connecting.join, client.recv, lambda: client.send("x")):
                    with pytest.raises(InvalidStatus):
                        await call()

    network.run(main)


def test_a_client_whose_block_is_cancelled_at_any_moment_leaves_nothing(network: Driver) -> None:
    async def main() -> None:
        peer = Peer()
        async with network.serve(peer, config=plain(network)) as server, network.tasks() as start:

            async def use() -> None:
                async with client_of(network, uri(server)) as client:
                    while True:
                        await client.send("x" * 10_000)

            for turns in range(25):
                task = start(use)
                for _ in range(turns):
                    await network.turn()
                task.cancel()
                assert await task.join() is CANCELLED
            await network.until(lambda: not server.connections)

    network.run(main)

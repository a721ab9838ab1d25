"""What every transport must do for `managed`: one contract, for asyncio, uvloop, trio and memory."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
import uvloop

import wsconnkit.asyncio.runtime
import wsconnkit.asyncio.transport
import wsconnkit.testing.runtime
import wsconnkit.testing.transport
import wsconnkit.trio.runtime
import wsconnkit.trio.transport
from wsconnkit.managed.runtime import Runtime
from wsconnkit.managed.transport import Transport
from wsconnkit.testing.eventloop import VirtualTimeLoop
from wsconnkit.testing.pipe import Pipe

from ..watchdog import run_watched

BIG = 1024 * 1024
"""Bytes that no socket takes at once."""


class Recorder:
    """A protocol that keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.data = b""
        self.errors: list[OSError | None] = []

    def data_received(self, data: bytes) -> None:
        self.calls.append("data")
        self.data += data

    def eof_received(self) -> None:
        self.calls.append("eof")

    def connection_lost(self, error: OSError | None) -> None:
        self.calls.append("lost")
        self.errors.append(error)

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def writing_progressed(self) -> None:
        self.calls.append("progress")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def cancelled(self) -> None:
        self.calls.append("cancelled")


class Peer(ABC):
    """The other end."""

    def __init__(self) -> None:
        self.received = b""
        self.at_eof = False

    @abstractmethod
    async def send(self, data: bytes) -> None: ...

    @abstractmethod
    async def end(self) -> None:
        """End its direction."""

    @abstractmethod
    async def read(self) -> None:
        """Take what is there into `received`, or note the end."""


class SocketPeer(Peer):
    def __init__(self, sock: socket.socket, runtime: Runtime) -> None:
        super().__init__()
        self._sock = sock
        self._runtime = runtime

    async def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    async def end(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    async def read(self) -> None:
        try:
            data = self._sock.recv(BIG)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        self.received += data
        self.at_eof = self.at_eof or not data


class MemoryPeer(Peer):
    def __init__(self, runtime: Runtime, inbound: Pipe, outbound: Pipe) -> None:
        super().__init__()
        self._runtime, self._inbound, self._outbound = runtime, inbound, outbound

    async def send(self, data: bytes) -> None:
        assert self._outbound.write(data, self._runtime.now()) == len(data)

    async def end(self) -> None:
        self._outbound.write_eof(self._runtime.now())

    async def read(self) -> None:
        self.received += self._inbound.read(self._runtime.now())
        self.at_eof = self._inbound.at_eof(self._runtime.now())


Main = Callable[[Runtime, Transport, Recorder, Peer], Awaitable[None]]
Run = Callable[[Main], None]


async def until(runtime: Runtime, condition: Callable[[], Any], peer: Peer | None = None) -> None:
    """Let others have their turn, and the peer read, until `condition` holds; time need not pass."""
    for _ in range(100_000):
        if condition():
            return
        if peer is not None:
            await peer.read()
        await runtime.sleep(0)
    raise AssertionError("what is waited for does not happen")


async def settle(runtime: Runtime) -> None:
    for _ in range(20):
        await runtime.sleep(0)


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def on_asyncio(loop: asyncio.AbstractEventLoop, main: Main) -> None:
    async def with_transport() -> None:
        ours, theirs = pair()
        runtime = wsconnkit.asyncio.runtime.Runtime()
        raw, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        recorder = Recorder()
        transport = wsconnkit.asyncio.transport.Transport(recorder)
        transport.take_over(raw)
        transport.set_protocol(recorder)
        with theirs:
            await main(runtime, transport, recorder, SocketPeer(theirs, runtime))
            transport.abort()
            await settle(runtime)

    try:
        if isinstance(loop, VirtualTimeLoop):
            run_watched(loop, with_transport())
        else:
            loop.run_until_complete(with_transport())
    finally:
        loop.close()


def on_trio(main: Main) -> None:
    async def with_transport() -> None:
        ours, theirs = pair()
        recorder = Recorder()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        with theirs:
            async with trio.open_nursery() as nursery:
                runtime = wsconnkit.trio.runtime.Runtime(nursery)
                transport = wsconnkit.trio.transport.Transport(stream, recorder)
                nursery.start_soon(transport.run)
                await main(runtime, transport, recorder, SocketPeer(theirs, runtime))
                transport.abort()

    trio.run(with_transport, clock=trio.testing.MockClock(autojump_threshold=0.01))


def in_memory(main: Main) -> None:
    async def with_transport(runtime: wsconnkit.testing.runtime.Runtime) -> None:
        to_us, to_them = Pipe(), Pipe(capacity=64 * 1024)
        recorder = Recorder()
        transport = wsconnkit.testing.transport.MemoryTransport(runtime, recorder, to_us, to_them)
        await main(runtime, transport, recorder, MemoryPeer(runtime, to_them, to_us))
        transport.abort()

    wsconnkit.testing.runtime.run(with_transport)


RUNS: dict[str, Run] = {
    "asyncio": lambda main: on_asyncio(VirtualTimeLoop(), main),
    "uvloop": lambda main: on_asyncio(uvloop.new_event_loop(), main),
    "trio": on_trio,
    "memory": in_memory,
}


@pytest.fixture(params=list(RUNS))
def run(request: pytest.FixtureRequest) -> Run:
    return RUNS[request.param]


def test_bytes_go_out_in_order_and_come_in(run: Run) -> None:
    async def main(runtime: Runtime, transport: Transport, protocol: Recorder, peer: Peer) -> None:
        for data in (b"one", b"two", b"three"):
            transport.write(data)
        transport.write_at_once(b"four")
        await until(runtime, lambda: peer.received == b"onetwothreefour", peer)
        await peer.send(b"back")
        await until(runtime, lambda: protocol.data == b"back")
        assert not transport.is_closing()

    run(main)


def test_writing_pauses_above_the_high_water_mark_and_resumes_when_all_has_left(run: Run) -> None:
    async def main(runtime: Runtime, transport: Transport, protocol: Recorder, peer: Peer) -> None:
        transport.set_write_buffer_limits(1000)
        data = bytes(range(256)) * (4 * BIG // 256)
        transport.write(data)
        assert protocol.calls == ["pause"]
        assert transport.get_write_buffer_size() > 1000
        transport.write(b"behind")
        await settle(runtime)
        assert "resume" not in protocol.calls
        await until(runtime, lambda: "resume" in protocol.calls, peer)
        assert transport.get_write_buffer_size() == 0
        await until(runtime, lambda: len(peer.received) == len(data) + 6, peer)
        assert peer.received == data + b"behind"
        assert protocol.calls.count("resume") == 1
        assert "progress" in protocol.calls

    run(main)


def test_what_is_stuck_below_the_mark_is_told_when_it_is_watched(run: Run) -> None:
    async def main(runtime: Runtime, transport: Transport, protocol: Recorder, peer: Peer) -> None:
        transport.watch_writing()  # nothing is stuck
        transport.set_write_buffer_limits(8 * BIG)
        transport.write(bytes(4 * BIG))
        await settle(runtime)
        assert protocol.calls == []
        transport.watch_writing()
        await until(runtime, lambda: protocol.calls == ["pause"])
        await until(runtime, lambda: protocol.calls[-1] == "resume", peer)
        assert transport.get_write_buffer_size() == 0

    run(main)


def test_reading_pauses_and_resumes(run: Run) -> None:
    async def main(runtime: Runtime, transport: Transport, protocol: Recorder, peer: Peer) -> None:
        transport.pause_reading()
        await peer.send(b"first")  # a read that is under way may still take this
        await settle(runtime)
        seen = protocol.data
        await peer.send(b"second")
        await settle(runtime)
        assert protocol.data == seen
        transport.resume_reading()
        await until(runtime, lambda: protocol.data == b"firstsecond")

    run(main)


def test_either_direction_ends_by_itself(run: Run) -> None:
    async def main(runtime: Runtime, transport: Transport, protocol: Recorder, peer: Peer) -> None:
        transport.write(b"last")
        transport.write_eof()
        await until(runtime, lambda: peer.at_eof, peer)
        assert peer.received == b"last"
        await peer.send(b"still")
        await until(runtime, lambda: protocol.data == b"still")
        await peer.end()
        await until(runtime, lambda: "eof" in protocol.calls)
        assert protocol.calls.count("eof") == 1

    run(main)


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_both_directions_end_behind_what_was_written(run: Run, first: str) -> None:
    async def main(runtime: Runtime, transport: Transport, protocol: Recorder, peer: Peer) -> None:
        transport.write(bytes(8 * BIG))
        if first == "ours":
            transport.write_eof()
        await peer.end()
        await until(runtime, lambda: "eof" in protocol.calls)
        if first == "theirs":
            transport.write_eof()
        await until(runtime, lambda: peer.at_eof, peer)
        assert len(peer.received) == 8 * BIG
        await until(runtime, lambda: protocol.calls[-1] == "lost")
        assert protocol.errors == [None]

    run(main)


def test_a_release_writes_what_is_left_and_ends(run: Run) -> None:
    async def main(runtime: Runtime, transport: Transport, protocol: Recorder, peer: Peer) -> None:
        transport.write(b"goodbye")
        transport.release()
        assert transport.is_closing()
        await until(runtime, lambda: peer.at_eof, peer)
        assert peer.received == b"goodbye"
        await until(runtime, lambda: protocol.calls == ["lost"])
        assert protocol.errors == [None]

    run(main)


def test_a_release_waits_for_a_tenth_of_a_second_at_most(run: Run) -> None:
    async def main(runtime: Runtime, transport: Transport, protocol: Recorder, peer: Peer) -> None:
        transport.write(bytes(8 * BIG))
        transport.release()
        await runtime.sleep(0.2)
        await until(runtime, lambda: protocol.calls[-1] == "lost")
        assert protocol.calls.count("lost") == 1

    run(main)


def test_an_abort_ends_at_once_and_nothing_is_told_after_the_end(run: Run) -> None:
    async def main(runtime: Runtime, transport: Transport, protocol: Recorder, peer: Peer) -> None:
        await peer.send(b"unread")
        transport.write(bytes(4 * BIG))
        transport.abort()
        transport.abort()
        assert transport.is_closing()
        await until(runtime, lambda: "lost" in protocol.calls)
        await settle(runtime)
        assert protocol.calls[-1] == "lost"
        assert protocol.calls.count("lost") == 1
        assert transport.get_write_buffer_size() == 0

    run(main)


def test_another_protocol_takes_over(run: Run) -> None:
    async def main(runtime: Runtime, transport: Transport, protocol: Recorder, peer: Peer) -> None:
        await peer.send(b"old")
        await until(runtime, lambda: protocol.data == b"old")
        new = Recorder()
        transport.set_protocol(new)
        await peer.send(b"new")
        await until(runtime, lambda: new.data == b"new")
        transport.abort()
        await until(runtime, lambda: new.calls[-1] == "lost")
        assert protocol.calls == ["data"]

    run(main)


def test_callbacks_come_in_turns_to_come(run: Run) -> None:
    async def main(runtime: Runtime, transport: Transport, protocol: Recorder, peer: Peer) -> None:
        called: list[str] = []

        def first() -> None:
            called.append("first")
            transport.call_soon(lambda: called.append("second"))

        transport.call_soon(first)
        assert called == []
        await until(runtime, lambda: called == ["first", "second"])

    run(main)

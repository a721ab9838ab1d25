"""Scenarios without any event loop: the runtime and the network in memory."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from wsconnkit.managed.answering import answer_requests
from wsconnkit.managed.broadcast import broadcast
from wsconnkit.managed.connection import Connection
from wsconnkit.managed.manager import Manager
from wsconnkit.managed.runtime import Runtime as AnyRuntime
from wsconnkit.managed.runtime import TaskCancelled
from wsconnkit.service.serveoptions import ManagerOptions
from wsconnkit.testing.network import Network
from wsconnkit.testing.runtime import Event, Runtime
from wsconnkit.testing.runtime import Task as RuntimeTask
from wsconnkit.testing.transport import MemoryTransport

from .driver import CANCELLED, Driver, Main, Start, Task, Wire

_CAPACITY = 256 * 1024
"""Bytes that are under way at most, in each direction of a connection."""


NOT_IN_MEMORY = {
    "test_a_transport_for_one_connection_is_nothing_for_a_client_that_makes_more": "it takes no sockets and no streams",
    "test_the_certificate_must_be_for_the_name_that_is_given": "it has no TLS",
    "test_tls_has_the_name_of_the_uri_as_certificates_have_it": "it has no TLS",
    "test_certificates_are_read_once_however_often_a_client_tries": "it has no TLS",
    "test_it_is_told_what_a_proxy_did": "it has no proxies",
    "test_a_client_that_leaves_in_the_moment_of_its_verdict_is_not_counted": "the client is a socket",
    "test_a_request_that_lies_in_the_socket_with_its_end_is_answered": "the client is a socket",
    "test_closing_waits_for_a_connection_that_on_open_has_in_hand[memory-False]": "the server is a socket",
    "test_closing_waits_for_a_connection_that_the_server_is_closing": "the server is a socket",
}
"""Tests that have nothing to tell about the network in memory, and why."""


class MemoryWire(Wire):
    """The protocol of a transport in memory, which reads no more than is asked for."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._transport: MemoryTransport
        self._data = b""
        self._is_ended = False
        self._is_full = False
        self._changed = Event()

    def connection_made(self, transport: MemoryTransport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(0)
        transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> None:
        self._is_ended = True
        self._changed.set()

    def connection_lost(self, error: OSError | None) -> None:
        self._is_ended = True
        self._is_full = False
        self._changed.set()

    def pause_writing(self) -> None:
        self._is_full = True

    def writing_progressed(self) -> None: ...

    def resume_writing(self) -> None:
        self._is_full = False
        self._changed.set()

    def cancelled(self) -> None: ...

    async def send(self, data: bytes) -> None:
        self._transport.write(data)
        while self._is_full:
            await self._wait()

    async def receive(self) -> bytes:
        self._transport.resume_reading()
        while not self._data and not self._is_ended:
            await self._wait()
        data, self._data = self._data, b""
        return data

    async def end(self) -> None:
        self._transport.write_eof()

    async def close(self) -> None:
        self._transport.abort()
        await self._runtime.sleep(0)

    async def _wait(self) -> None:
        if self._changed.is_set():
            self._changed = Event()
        await self._changed.wait()


class MemoryTask(Task):
    def __init__(self, runtime: Runtime, function: Callable[[], Awaitable[Any]]) -> None:
        self._outcomes: list[Any] = []
        self._ended = Event()
        self._task: RuntimeTask = runtime.start(function, on_end=self._on_end)

    def _on_end(self, outcome: Any) -> None:
        self._outcomes.append(outcome)
        self._ended.set()

    def cancel(self) -> None:
        self._task.cancel()

    @property
    def done(self) -> bool:
        return self._ended.is_set()

    async def wait(self) -> None:
        await self._ended.wait()

    async def join(self) -> Any:
        await self.wait()
        (outcome,) = self._outcomes
        if isinstance(outcome, TaskCancelled):
            return CANCELLED
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class MemoryManager(Manager[Connection]):
    _connection_class = Connection

    def __init__(self, runtime: Runtime, **arguments: Any) -> None:
        super().__init__(ManagerOptions(**arguments))
        self._runtime = runtime

    def _new_runtime(self) -> AnyRuntime:
        raise AssertionError("it has one")


class Adapter:
    """What an adapter has beside `serve` and `connect`, and those with a network."""

    answer_requests = staticmethod(answer_requests)
    broadcast = staticmethod(broadcast)

    def __init__(self, network: Network) -> None:
        self._network = network

    def connect(self, uri: str, **arguments: Any) -> Any:
        return self._network.connect(uri, **arguments)

    def Manager(self, **arguments: Any) -> MemoryManager:  # noqa: N802
        return MemoryManager(self._network.runtime, **arguments)

    def ReconnectingClient(self, uri: str, **arguments: Any) -> Any:  # noqa: N802 - called as those of the adapters
        return self._network.reconnecting_client(uri, **arguments)


class MemoryDriver(Driver):
    """No event loop: in memory, and in virtual time."""

    name = "memory"

    def __init__(self) -> None:
        self._runtime = runtime = Runtime()
        # What scenarios look at and replace is the machine's.
        runtime.random = random.random
        runtime.wall_now = time.time  # type: ignore[method-assign]
        self._network = Network(runtime, capacity=_CAPACITY)
        self.adapter = Adapter(self._network)

    def run(self, main: Main) -> None:
        async def checked(runtime: Runtime) -> None:
            await main()
            await runtime.sleep(10)  # connections of loops that were left take a close timeout at most
            assert [task.name for task in runtime._tasks] == ["main"]

        self._runtime.run(checked)

    def serve(self, handler: Any, port: int = 0, **kwargs: Any) -> AbstractAsyncContextManager[Any]:
        return self._network.serve(handler, "127.0.0.1", port, **kwargs)

    def connect(self, server: Any, path: str = "/", **kwargs: Any) -> AbstractAsyncContextManager[Any]:
        host, port = server.sockets[0]
        return self._network.connect(f"ws://{host}:{port}{path}", **kwargs)

    async def dial(self, server: Any) -> Wire:
        wire = MemoryWire(self._runtime)
        await self._network.dial(server.sockets[0], wire)
        return wire

    @asynccontextmanager
    async def tasks(self) -> AsyncIterator[Start]:
        started: list[MemoryTask] = []

        def start(function: Callable[[], Awaitable[Any]]) -> Task:
            started.append(MemoryTask(self._runtime, function))
            return started[-1]

        try:
            yield start
        finally:
            for task in started:
                task.cancel()
            for task in started:
                await task.wait()

    def clock(self) -> float:
        return self._runtime.now()

    async def sleep(self, seconds: float) -> None:
        await self._runtime.sleep(seconds)

    def stall(self, seconds: float) -> None:
        self._runtime.clock.advance(seconds)

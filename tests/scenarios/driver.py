"""What scenarios need of an adapter and its event loop, the same for all of them.

Seconds are those of the scenario: virtual where the loop's clock can be, and short real ones on uvloop.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio
import trio.testing
import uvloop

import wsconnkit.asyncio
import wsconnkit.trio
from wsconnkit.machines.deadlines import READ_GRACE
from wsconnkit.testing.eventloop import VirtualTimeLoop

from ..watchdog import run_watched, watchdog
from .pipes import MemoryListener

Main = Callable[[], Coroutine[Any, Any, None]]
CANCELLED = object()
"""How a task ended that was cancelled."""
_PATIENCE = 30.0
"""Real seconds after which what `until` waits for is not going to happen."""


def port_of(server: Any) -> int:
    """Return where a server listens."""
    at = server.sockets[0]
    return int((at if isinstance(at, tuple) else at.getsockname())[1])


class Wire(ABC):
    """A transport to a server, on which nothing happens by itself."""

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Send all of `data`."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Return what has arrived, at least a byte; nothing at the end."""

    @abstractmethod
    async def end(self) -> None:
        """End our direction."""

    @abstractmethod
    async def close(self) -> None:
        """End both directions."""


class Task(ABC):
    """Something that runs beside the scenario."""

    @abstractmethod
    def cancel(self) -> None: ...

    @property
    @abstractmethod
    def done(self) -> bool: ...

    @abstractmethod
    async def join(self) -> Any:
        """Return what it returned, or CANCELLED, or raise what it raised."""


Start = Callable[[Callable[[], Awaitable[Any]]], Task]


class Driver(ABC):
    """Runs scenarios on one adapter."""

    name: str
    scale = 1.0
    """Seconds of the loop's clock for each of the scenario's."""
    exact = True
    """Whether time passes only when everything waits for it."""
    adapter: Any
    """`wsconnkit.asyncio`, `wsconnkit.trio`, or what has the same in memory."""

    @abstractmethod
    def run(self, main: Main) -> None:
        """Run `main` to its end; nothing may be left of it."""

    @abstractmethod
    def serve(self, handler: Any, **kwargs: Any) -> AbstractAsyncContextManager[Any]:
        """Serve with the adapter, somewhere."""

    @abstractmethod
    def connect(self, server: Any, path: str = "/", **kwargs: Any) -> AbstractAsyncContextManager[Any]:
        """Connect to a server with the adapter."""

    @abstractmethod
    async def dial(self, server: Any) -> Wire:
        """Return a wire to a server."""

    @abstractmethod
    def tasks(self) -> AbstractAsyncContextManager[Start]:
        """A block in which things may be started; what still runs at its end is cancelled."""

    @abstractmethod
    def clock(self) -> float:
        """Seconds on the loop's clock."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Let `seconds` of the scenario pass."""

    @abstractmethod
    def stall(self, seconds: float) -> None:
        """Let `seconds` of the scenario pass in which the loop does nothing."""

    async def turn(self) -> None:
        """Let others have their turn."""
        await self.sleep(0)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait without time passing until `condition()` is true."""
        start = time.monotonic()
        while not condition():
            assert time.monotonic() - start < _PATIENCE, "what is waited for does not happen"
            await self.turn()

    def seconds(self, seconds: float) -> float:
        """Return `seconds` of the scenario as a setting."""
        return seconds * self.scale

    def now(self) -> float:
        """Seconds of the scenario."""
        return self.clock() / self.scale

    def assert_elapsed(self, start: float, seconds: float) -> None:
        """Check that `seconds` of the scenario have passed since `start`, and where that can be told, no more."""
        elapsed = (self.now() - start) * self.scale
        assert elapsed >= seconds * self.scale - 0.001
        if self.exact:
            assert elapsed <= seconds + 3 * READ_GRACE


class AsyncioWire(Wire):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> bytes:
        try:
            return await self._reader.read(65536)
        except ConnectionError:
            return b""

    async def end(self) -> None:
        self._writer.write_eof()

    async def close(self) -> None:
        self._writer.transport.abort()
        await asyncio.sleep(0)


class AsyncioTask(Task):
    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()

    @property
    def done(self) -> bool:
        return self._task.done()

    async def join(self) -> Any:
        await asyncio.wait({self._task})
        return CANCELLED if self._task.cancelled() else self._task.result()


class AsyncioDriver(Driver):
    """asyncio over real sockets, in virtual time."""

    name = "asyncio"
    adapter = wsconnkit.asyncio

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return VirtualTimeLoop()

    def run(self, main: Main) -> None:
        self._loop = loop = self.new_loop()
        problems: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda loop, context: problems.append(context))
        asyncio.set_event_loop(loop)
        try:
            run_watched(loop, main())
            loop.run_until_complete(loop.shutdown_asyncgens())
            for _ in range(3):  # transports that were closed say so in the next turns
                loop.run_until_complete(asyncio.sleep(0))
            left = asyncio.all_tasks(loop)
        finally:
            loop.close()
            asyncio.set_event_loop(None)
        assert problems == []
        assert left == set()

    def serve(self, handler: Any, port: int = 0, **kwargs: Any) -> AbstractAsyncContextManager[Any]:
        return wsconnkit.asyncio.serve(handler, "127.0.0.1", port, **kwargs)

    def connect(self, server: Any, path: str = "/", **kwargs: Any) -> AbstractAsyncContextManager[Any]:
        return wsconnkit.asyncio.connect(f"ws://127.0.0.1:{port_of(server)}{path}", **kwargs)

    async def dial(self, server: Any) -> Wire:
        return AsyncioWire(*await asyncio.open_connection("127.0.0.1", port_of(server)))

    @asynccontextmanager
    async def tasks(self) -> AsyncIterator[Start]:
        started: set[asyncio.Task[Any]] = set()

        def start(function: Callable[[], Awaitable[Any]]) -> Task:
            task = asyncio.ensure_future(function())
            assert isinstance(task, asyncio.Task)
            started.add(task)
            return AsyncioTask(task)

        try:
            yield start
        finally:
            for task in started:
                task.cancel()
            if started:
                await asyncio.wait(started)

    def clock(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self.scale)

    def stall(self, seconds: float) -> None:
        assert isinstance(self._loop, VirtualTimeLoop)
        self._loop.stall(seconds)


class UvloopDriver(AsyncioDriver):
    """asyncio over real sockets on uvloop, whose clock is the machine's."""

    name = "uvloop"
    scale = 0.02
    exact = False

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()

    def stall(self, seconds: float) -> None:
        time.sleep(seconds * self.scale)


class TrioWire(Wire):
    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(65536))
        except trio.BrokenResourceError:
            return b""

    async def end(self) -> None:
        await self._stream.send_eof()

    async def close(self) -> None:
        await self._stream.aclose()


class TrioTask(Task):
    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._result: Any = CANCELLED
        self._error: Exception | None = None

    async def run(self, function: Callable[[], Awaitable[Any]]) -> None:
        try:
            with self._scope:
                self._result = await function()
        except Exception as error:
            self._error = error
        finally:
            self._ended.set()

    def cancel(self) -> None:
        self._scope.cancel()

    @property
    def done(self) -> bool:
        return self._ended.is_set()

    async def join(self) -> Any:
        await self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._result


class TrioDriver(Driver):
    """trio over memory, in virtual time."""

    name = "trio"
    adapter = wsconnkit.trio
    settle = 0.0
    """Real seconds in which nothing happens before time moves on."""
    capacity = 256 * 1024
    """Bytes that are under way at most, in each direction of a connection."""

    def run(self, main: Main) -> None:
        self._clock = trio.testing.MockClock(autojump_threshold=self.settle)
        self._listeners: dict[Any, MemoryListener] = {}

        async def checked() -> None:
            before = trio.lowlevel.current_statistics().tasks_living
            token = trio.lowlevel.current_trio_token()
            with trio.CancelScope() as scope, watchdog(lambda: token.run_sync_soon(scope.cancel)):
                await main()
            await trio.sleep(10)  # connections of loops that were left take a close timeout at most
            assert trio.lowlevel.current_statistics().tasks_living == before

        trio.run(checked, clock=self._clock)
        streams = [stream for listener in self._listeners.values() for stream in listener.streams]
        assert all(stream.is_closed for stream in streams)

    @asynccontextmanager
    async def serve(self, handler: Any, **kwargs: Any) -> AsyncIterator[Any]:
        listener = MemoryListener(self.capacity)
        async with wsconnkit.trio.serve(handler, listeners=[listener], **kwargs) as server:
            self._listeners[server] = listener
            yield server

    def connect(self, server: Any, path: str = "/", **kwargs: Any) -> AbstractAsyncContextManager[Any]:
        return wsconnkit.trio.connect(f"ws://127.0.0.1{path}", stream=self._listeners[server].connect(), **kwargs)

    async def dial(self, server: Any) -> Wire:
        return TrioWire(self._listeners[server].connect())

    @asynccontextmanager
    async def tasks(self) -> AsyncIterator[Start]:
        nursery_manager = trio.open_nursery()
        nursery = await nursery_manager.__aenter__()

        def start(function: Callable[[], Awaitable[Any]]) -> Task:
            task = TrioTask()
            nursery.start_soon(task.run, function)
            return task

        try:
            yield start
        finally:
            nursery.cancel_scope.cancel()
            await nursery_manager.__aexit__(None, None, None)

    def clock(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    def stall(self, seconds: float) -> None:
        self._clock.jump(seconds)


class TrioSocketDriver(TrioDriver):
    """trio over real sockets, in virtual time."""

    settle = 0.01

    @asynccontextmanager
    async def serve(self, handler: Any, port: int = 0, **kwargs: Any) -> AsyncIterator[Any]:
        async with wsconnkit.trio.serve(handler, "127.0.0.1", port, **kwargs) as server:
            yield server

    def connect(self, server: Any, path: str = "/", **kwargs: Any) -> AbstractAsyncContextManager[Any]:
        return wsconnkit.trio.connect(f"ws://127.0.0.1:{port_of(server)}{path}", **kwargs)

    async def dial(self, server: Any) -> Wire:
        return TrioWire(await trio.open_tcp_stream("127.0.0.1", port_of(server)))


SOCKET_DRIVERS = (AsyncioDriver, UvloopDriver, TrioSocketDriver)
DRIVERS = (AsyncioDriver, UvloopDriver, TrioDriver)

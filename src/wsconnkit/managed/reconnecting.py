"""A client that outlives its connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from typing_extensions import Self

from wsconnkit.machines.closing import State
from wsconnkit.managed.client import Connecting
from wsconnkit.managed.connection import Connection
from wsconnkit.managed.runtime import Event, Runtime, Task, TaskCancelled, as_error
from wsconnkit.protocol.closeinfo import Cause, CloseInfo
from wsconnkit.protocol.errors import ClientClosed, ConnectionClosed, LocalProtocolError, tells_only_of
from wsconnkit.protocol.frames import check_close
from wsconnkit.service.arguments import check_async, check_type
from wsconnkit.service.backlog import Backlog, BacklogConfig

C = TypeVar("C", bound=Connection)

_READ_FROM = 2
"""Connections whose messages may wait to be taken: the present one, and the one before."""


class ReconnectingClient(Generic[C]):
    """A client that connects again when a connection has ended: `async with ReconnectingClient(uri, …) as client`.

    queue: what may wait while there is no connection, or while it takes no more.
    on_open: an async function, called with each connection before messages go out on it; subscribe here.
    All further arguments are those of `connect`, which says when it connects again and when it stops.

    A message is handed to one connection at most: one that is lost with its connection is not sent again, and those
    that wait go out on the next. After the end, calls raise what has ended it, or ClientClosed where that was no error:
    after `close`, or after a close with 1000 by either side, which it then tells of.
    One task may receive, any number may send.
    """

    def __init__(
        self,
        connect: Connecting[C],
        *,
        queue: BacklogConfig | None = None,
        on_open: Callable[[C], Awaitable[object]] | None = None,
    ) -> None:
        self._connect = connect
        self._connect.check_repeatable()
        check_type("queue", queue, queue is None or isinstance(queue, BacklogConfig), "a BacklogConfig, or None")
        if on_open is not None:
            check_async("on_open", on_open, "None, or an async function")
        self._on_open = on_open
        self._backlog = Backlog(queue or BacklogConfig())
        self._ws: C | None = None
        self._inbound: deque[C] = deque(maxlen=_READ_FROM)
        self._runtime: Runtime | None = None
        self._running: Task | None = None
        self._changed: Event | None = None
        self._ended: Event | None = None
        self._farewell: tuple[int, str] | None = None
        self._is_over = False
        self._error: Exception | None = None
        self._last_close: CloseInfo | None = None
        """The close with 1000 that was the end."""

    def __repr__(self) -> str:
        state = "closed" if self._is_over else "open" if self.is_open else "not connected"
        return f"<{type(self).__name__}: {self._connect!r}, {state}, {len(self._backlog)} queued>"

    @property
    def is_open(self) -> bool:
        """There is a connection, and messages can go out on it."""
        return self._ws is not None and self._ws.state is State.OPEN

    @property
    def queued(self) -> tuple[int, int]:
        """Messages, and their bytes, that no connection has taken yet."""
        return len(self._backlog), self._backlog.size

    @property
    def messages_dropped(self) -> int:
        """Messages that no connection has had, because there was no room or the client ended before."""
        return self._backlog.messages_dropped

    @property
    def bytes_dropped(self) -> int:
        """Their bytes."""
        return self._backlog.bytes_dropped

    async def send(self, message: str | bytes | bytearray | memoryview) -> None:
        """Put a message into the queue, after waiting for room where that is the policy.

        When it returns, the message goes out on this connection or the next, if there is one. Raises LocalProtocolError
        for a message that could never be sent.
        """
        self._check_alive()
        await self._take_turn()  # what hands messages over must have its own
        while self._backlog.must_wait(message):
            await self._wait_for_change()
            self._check_alive()
        self._backlog.put(message)
        self._notify()

    def send_nowait(self, message: str | bytes | bytearray | memoryview) -> bool:
        """Put a message into the queue if there is room, and tell whether there was; raises as `send`."""
        self._check_alive()
        taken = self._backlog.put(message)
        self._notify()
        return taken

    async def recv(self) -> str | bytes:
        """Return the next message, from whichever connection.

        What arrived before a connection ended is still returned, unless the next one ends before it is taken. Raises
        ConcurrencyError when another task is waiting for one.
        """
        while True:
            if self._inbound:
                ws = self._inbound[0]
                try:
                    return await ws.recv()
                except ConnectionClosed:
                    if self._inbound and self._inbound[0] is ws:
                        self._inbound.popleft()
            elif self._is_over:
                raise self._end_error()
            else:
                self._check_started()
                await self._wait_for_change()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.recv()
        except ClientClosed:
            raise StopAsyncIteration from None

    async def connection(self) -> C:
        """Return the present connection, after waiting for one where there is none."""
        self._check_alive()
        await self._take_turn()
        while self._ws is None or self._ws.state is not State.OPEN:
            await self._wait_for_change()
            self._check_alive()
        return self._ws

    async def close(self, code: int = Cause.LOCAL_CLOSE.code, reason: str = "") -> None:
        """Hand over what waits if there is a connection, close it, and connect no more.

        Handing over takes one close timeout at most, and closing another. Safe to repeat; cancelled, it still closes.
        Raises LocalProtocolError for a code or a reason that cannot be sent.
        """
        check_close(code, reason)
        if self._runtime is None or self._running is None:
            self._is_over = True
        elif self._farewell is None:
            self._farewell = code, reason
            self._notify()
            self._runtime.start(self._finish, self._running, self._farewell, shield=True)
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the client has ended."""
        if self._ended is not None:
            await self._ended.wait()

    async def _begin(self, runtime: Runtime) -> Self:
        self._check_not_started()
        self._runtime = runtime
        self._ended = runtime.event()
        self._running = runtime.start(self._run, runtime, on_end=self._on_end)
        return self

    async def _run(self, runtime: Runtime) -> None:
        connections = self._connect.connections(runtime)
        try:
            async for ws in connections:
                await self._use(ws)
                if self._farewell is not None:
                    break
            else:
                self._last_close = ws.close_info
        finally:
            await connections.aclose()

    def _on_end(self, outcome: Any) -> None:
        if isinstance(outcome, BaseException) and not isinstance(outcome, TaskCancelled):
            self._error = as_error(outcome)
        self._ws = None
        self._is_over = True
        self._backlog.drop_all()
        self._notify()
        assert self._ended is not None  # it was started
        self._ended.set()

    async def _use(self, ws: C) -> None:
        """Hand messages to `ws` until it ends."""
        try:
            await self._open(ws)
        except Exception as error:
            if not tells_only_of(error, ws.close_info):
                raise
            return
        ws.call_when_closed(self._notify)
        self._ws = ws
        self._inbound.append(ws)
        self._notify()
        try:
            await self._hand_over(ws)
            await ws.wait_closed()  # until when close() is to find it
        finally:
            self._ws = None

    async def _open(self, ws: C) -> None:
        is_open = False
        try:
            if self._on_open is not None:
                assert self._runtime is not None  # it was started
                await self._runtime.call(self._on_open, ws)
            is_open = True
        finally:
            if not is_open and self._farewell is not None:
                ws.start_close(*self._farewell, Cause.LOCAL_CLOSE)

    async def _hand_over(self, ws: C) -> None:
        while ws.state is State.OPEN:
            message = self._backlog.take()
            if message is not None:
                is_sent = False
                try:
                    await ws.send(message)
                    is_sent = True
                except ConnectionClosed:
                    return
                finally:
                    if is_sent:
                        self._backlog.delivered()
                        self._notify()
                    else:
                        self._backlog.give_back()  # it waited and has sent nothing
            elif self._farewell is not None:
                ws.start_close(*self._farewell, Cause.LOCAL_CLOSE)
            else:
                await self._wait_for_change()

    async def _finish(self, running: Task, farewell: tuple[int, str]) -> None:
        assert self._runtime is not None  # it was started
        assert self._ended is not None
        timeout = self._connect.config.close.timeout
        ws = self._ws
        if ws is None:
            running.cancel()
        elif not await self._runtime.wait(self._ended, timeout):
            ws.start_close(*farewell, Cause.LOCAL_CLOSE)
        if not await self._runtime.wait(self._ended, 2 * timeout):  # a connection takes one to close, and a moment
            running.cancel()
            await self._runtime.wait(self._ended, timeout)

    async def _take_turn(self) -> None:
        assert self._runtime is not None  # it was started
        await self._runtime.sleep(0)
        self._check_alive()

    async def _wait_for_change(self) -> None:
        assert self._runtime is not None  # only those who use a started client wait
        if self._changed is None:
            self._changed = self._runtime.event()
        await self._changed.wait()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _check_not_started(self) -> None:
        if self._running is not None or self._is_over:
            raise LocalProtocolError("the client has been started before; make another one")

    def _check_started(self) -> None:
        if self._running is None:
            raise LocalProtocolError("the client has not been started; use `async with`")

    def _check_alive(self) -> None:
        if self._is_over or self._farewell is not None:
            raise self._end_error()
        self._check_started()

    def _end_error(self) -> Exception:
        if self._last_close is not None:
            return ClientClosed(f"the connection was closed for good: {self._last_close}")
        return self._error or ClientClosed("the client is closed")

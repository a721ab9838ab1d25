"""A client that outlives its connections, on trio."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from typing_extensions import Self

from wsconnkit.machines.closing import State
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.connection import check_close
from wsconnkit.protocol.errors import ClientClosed, ConnectionClosed, LocalProtocolError, tells_only_of
from wsconnkit.service.backlog import Backlog, BacklogConfig
from wsconnkit.service.connectoptions import check_type
from wsconnkit.trio.client import connect
from wsconnkit.trio.connection import Connection
from wsconnkit.trio.owner import Owner

_READ_FROM = 2
"""Connections whose messages may wait to be taken: the present one, and the one before."""


class ReconnectingClient(Owner["ReconnectingClient"]):
    """A client that connects again when a connection has ended: `async with ReconnectingClient(uri, …) as client`.

    queue: what may wait while there is no connection, or while it takes no more.
    on_open: an async function, called with each connection before messages go out on it; subscribe here.
    All further arguments are those of `connect`, which says when it connects again and when it stops.

    A message is handed to one connection at most: one that is lost with its connection is not sent again, and those
    that wait go out on the next. After the end, calls raise what has ended it, or ClientClosed where that was no error.
    One task may receive, any number may send.
    """

    def __init__(
        self,
        uri: str,
        *,
        queue: BacklogConfig | None = None,
        on_open: Callable[[Connection], Awaitable[object]] | None = None,
        **kwargs: Any,
    ) -> None:
        self._connect = connect(uri, **kwargs)
        self._connect.check_repeatable()
        check_type("queue", queue, queue is None or isinstance(queue, BacklogConfig), "a BacklogConfig, or None")
        check_type("on_open", on_open, on_open is None or callable(on_open), "an async function, or None")
        self._on_open = on_open
        self._backlog = Backlog(queue or BacklogConfig())
        self._ws: Connection | None = None
        self._inbound: deque[Connection] = deque(maxlen=_READ_FROM)
        self._changed = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._life = trio.CancelScope()
        self._farewell: tuple[int, str] | None = None
        self._ended = trio.Event()
        self._error: Exception | None = None

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
        await trio.lowlevel.checkpoint()  # what hands messages over must have its turn
        self._check_alive()
        while self._backlog.must_wait(message):
            await self._changed.wait()
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
            elif self._ended.is_set():
                raise self._end()
            else:
                self._check_started()
                await self._changed.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.recv()
        except ClientClosed:
            raise StopAsyncIteration from None

    async def connection(self) -> Connection:
        """Return the present connection, after waiting for one where there is none."""
        self._check_alive()
        while self._ws is None or self._ws.state is not State.OPEN:
            await self._changed.wait()
            self._check_alive()
        return self._ws

    async def close(self, code: int = Cause.LOCAL_CLOSE.code, reason: str = "") -> None:
        """Hand over what waits if there is a connection, close it, and connect no more.

        Handing over takes one close timeout at most, and closing another. Safe to repeat; cancelled, it still closes.
        Raises LocalProtocolError for a code or a reason that cannot be sent.
        """
        check_close(code, reason)
        if self._nursery is None:
            self._ended.set()
        elif self._farewell is None:
            self._farewell = code, reason
            self._notify()
            self._nursery.start_soon(self._finish, self._farewell)
        await self._ended.wait()

    async def wait_closed(self) -> None:
        """Wait until the client has ended."""
        await self._ended.wait()

    async def _begin(self, nursery: trio.Nursery) -> ReconnectingClient:
        if self._nursery is not None or self._ended.is_set():
            raise LocalProtocolError("the client has been started before; make another one")
        self._nursery = nursery
        nursery.start_soon(self._run, nursery)
        return self

    async def _run(self, nursery: trio.Nursery) -> None:
        connections = self._connect.connections(nursery.start_soon)
        try:
            with self._life:
                async for ws in connections:
                    await self._use(ws)
                    if self._farewell is not None:
                        break
        except Exception as error:
            self._error = error
        finally:
            await connections.aclose()
            self._ws = None
            self._ended.set()
            self._backlog.drop_all()
            self._notify()

    async def _use(self, ws: Connection) -> None:
        """Hand messages to `ws` until it ends."""
        try:
            if self._on_open is not None:
                await self._on_open(ws)
        except BaseException as error:
            if self._farewell is not None:
                ws.start_close(*self._farewell, Cause.LOCAL_CLOSE)
            if not tells_only_of(error, ws.close_info):
                raise
            return
        ws.call_when_closed(self._notify)
        self._ws = ws
        self._inbound.append(ws)
        self._notify()
        try:
            await self._hand_over(ws)
        finally:
            self._ws = None

    async def _hand_over(self, ws: Connection) -> None:
        while ws.state is State.OPEN:
            message = self._backlog.take()
            if message is not None:
                try:
                    await ws.send(message)
                except BaseException as error:
                    self._backlog.give_back()  # it waited and has sent nothing
                    if isinstance(error, ConnectionClosed):
                        return
                    raise
                self._backlog.delivered()
                self._notify()
            elif self._farewell is not None:
                ws.start_close(*self._farewell, Cause.LOCAL_CLOSE)
            else:
                await self._changed.wait()

    async def _finish(self, farewell: tuple[int, str]) -> None:
        timeout = self._connect.config.close.timeout
        ws = self._ws
        if ws is None:
            self._life.cancel()
            return
        with trio.move_on_after(timeout):
            await self._ended.wait()
            return
        ws.start_close(*farewell, Cause.LOCAL_CLOSE)
        with trio.move_on_after(2 * timeout):  # a connection takes one to close, and a moment
            await self._ended.wait()
            return
        self._life.cancel()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _check_started(self) -> None:
        if self._nursery is None:
            raise LocalProtocolError("the client has not been started; use `async with`")

    def _check_alive(self) -> None:
        if self._ended.is_set() or self._farewell is not None:
            raise self._end()
        self._check_started()

    def _end(self) -> Exception:
        return self._error or ClientClosed("the client is closed")

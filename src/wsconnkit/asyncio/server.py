"""Serve WebSocket connections on asyncio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any

from wsconnkit.asyncio.authentication import Authentication
from wsconnkit.asyncio.connection import Connection
from wsconnkit.asyncio.draining import DrainRun
from wsconnkit.asyncio.guard import Guard
from wsconnkit.asyncio.reception import Reception
from wsconnkit.asyncio.signals import stop_on_signals
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import check_close
from wsconnkit.protocol.errors import tells_only_of
from wsconnkit.service.drain import CODE, GRACE, REASON, WINDOW, DrainReport, check_times
from wsconnkit.service.health import Health, measure
from wsconnkit.service.log import log_draining
from wsconnkit.service.policy import ServerPolicy
from wsconnkit.service.registry import Registry
from wsconnkit.service.serverstats import ServerStats
from wsconnkit.service.session import Session

Handler = Callable[[Connection], Awaitable[None]]


class Server:
    """A running server, as `serve` returns it."""

    def __init__(
        self,
        handler: Handler,
        endpoint: ServerPolicy[Connection],
        config: ConnectionConfig,
        authentication: Authentication | None,
    ) -> None:
        self._handler = handler
        self._endpoint = endpoint
        self._config = config
        self._authentication = authentication
        self._loop = asyncio.get_running_loop()
        self._listeners: list[tuple[asyncio.Server, Reception]] = []
        self._handlers: dict[asyncio.Task[None], Connection] = {}
        self._farewell = (int(Cause.LOCAL_CLOSE.code), "", Cause.LOCAL_CLOSE)
        self._draining: asyncio.Task[DrainReport] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    @property
    def connections(self) -> Registry[Connection]:
        """The connections that have not ended: to iterate over, `get(id)`, or `by_user(subject)`."""
        return self._endpoint.connections

    @property
    def stats(self) -> ServerStats:
        """What the server has done since it started, in numbers."""
        return self._endpoint.stats

    @property
    def is_draining(self) -> bool:
        """Whether new connections are refused because the server shuts down."""
        return self._endpoint.is_draining

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets; those of separate endpoints come last."""
        return tuple(sock for listener, _ in self._listeners for sock in listener.sockets)

    def health(self) -> Health:
        """Return how the connections are now: counts and latencies."""
        return measure((ws.is_healthy, ws.latency) for ws in self.connections)

    async def drain(
        self,
        *,
        window: float = WINDOW,
        grace: float = GRACE,
        code: int = CODE,
        reason: str = REASON,
    ) -> DrainReport:
        """Refuse new connections with 503, close those that are there one after the other, then close the server.

        window: seconds over which closes are spread; the first comes when those who wait for `ws.draining` have had
        their turn to say goodbye, at once. Who needs longer for that does it in a block of `ws.busy()`.
        grace: seconds after it in which work in flight may end, and peers may answer the close; what is then left is
        told to close, if it was not before, and aborted.
        Safe to repeat; cancelled, it still drains. Raises LocalProtocolError for a code or a reason that cannot be
        sent, and ValueError for times that are negative or not finite.
        """
        check_close(code, reason)
        if self._draining is None:
            run = DrainRun(self.connections, window=window, grace=grace, close=self._say_farewell)
            self._farewell = code, reason, Cause.DRAIN
            self._endpoint.is_draining = True
            log_draining(len(self.connections), window, grace)
            self._draining = self._loop.create_task(self._finish_drain(run))
        return await asyncio.shield(self._draining)

    async def run_until_signal(
        self,
        *,
        window: float = WINDOW,
        grace: float = GRACE,
        code: int = CODE,
        reason: str = REASON,
    ) -> DrainReport:
        """Wait for SIGTERM or SIGINT, or for the end of the server, and drain; raises as `drain`.

        A second signal ends the process at once. Call it in the main thread.
        """
        check_close(code, reason)
        check_times(window, grace)
        with stop_on_signals() as stop:
            waiting = [self._loop.create_task(event.wait()) for event in (stop, self._closed)]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()
            return await self.drain(window=window, grace=grace, code=code, reason=reason)

    async def close(self, code: int = Cause.DRAIN.code, reason: str = "") -> None:
        """Stop listening and close all connections with `code` and `reason`, within the close timeout.

        Handlers that have not returned one close timeout after their connection are cancelled, and given up one
        more close timeout later. Safe to repeat; cancelled, it still closes. Raises LocalProtocolError for a code or
        a reason that cannot be sent.
        """
        check_close(code, reason)
        if self._closing is None:
            deciding = []
            for listener, reception in self._listeners:
                listener.close()
                deciding += reception.close()
            if self._authentication is not None:
                deciding += self._authentication.stop()
            self._farewell = code, reason, Cause.DRAIN
            for ws in self.connections:
                self._say_farewell(ws)
            self._closing = self._loop.create_task(self._finish_close(deciding))
        await asyncio.shield(self._closing)

    async def wait_closed(self) -> None:
        """Wait until `close` has been called and has ended."""
        await self._closed.wait()

    async def serve_forever(self) -> None:
        """Wait until the server is closed; cancelled, close it."""
        try:
            await self._closed.wait()
        finally:
            await self.close()

    async def listen(self, reception: Reception, **kwargs: Any) -> None:
        """Receive clients at a further socket; `serve` calls this."""
        self._listeners.append((await self._loop.create_server(reception.new_opening, **kwargs), reception))

    def on_connection(self, ws: Connection, session: Session) -> None:
        """Run the handler for a connection that was let in; a `Reception` calls this."""
        guard = Guard(ws, session, self._authentication, timeout=self._config.handshake.timeout)
        ws.call_when_closed(partial(self._on_closed, session, guard))
        task = self._loop.create_task(self._run_handler(ws), name=f"wsconnkit-{ws.id}")
        self._handlers[task] = ws
        task.add_done_callback(self._handlers.pop)

    def _on_closed(self, session: Session, guard: Guard) -> None:
        guard.stop()
        self._endpoint.leave(session)

    def _say_farewell(self, ws: Connection) -> None:
        ws.start_close(*self._farewell)

    async def _run_handler(self, ws: Connection) -> None:
        try:
            await asyncio.sleep(0)  # an eager task runs before the transport is handed over
            await self._handler(ws)
        except Exception as error:
            # That the client has left is no error of the handler; what another connection says is.
            if not tells_only_of(error, ws.close_info):
                ws.log.handler_error(error)
                ws.start_close(Cause.HANDLER_ERROR.code, "", Cause.HANDLER_ERROR)
        finally:
            self._say_farewell(ws)
            await ws.wait_closed()

    async def _finish_drain(self, run: DrainRun) -> DrainReport:
        report = await run.wait()
        await self.close()
        return report

    async def _finish_close(self, deciding: Collection[asyncio.Task[Any]]) -> None:
        timeout = self._config.close.timeout
        await self._wait_for(deciding, timeout)
        closing = [self._loop.create_task(ws.wait_closed()) for ws in self._handlers.values()]
        await self._wait_for(closing, 2 * timeout)
        for task in closing:
            task.cancel()
        await self._wait_for(self._handlers, timeout)
        for task in self._handlers:
            task.cancel()
        await self._wait_for(self._handlers, timeout)
        for ws in self._handlers.values():
            ws.log.handler_stuck()
        # From Python 3.12 on it waits for TLS handshakes that have not ended, too.
        waiting = [self._loop.create_task(listener.wait_closed()) for listener, _ in self._listeners]
        await self._wait_for(waiting, timeout)
        for task in waiting:
            task.cancel()
        self._closed.set()

    @staticmethod
    async def _wait_for(tasks: Collection[asyncio.Task[Any]], timeout: float) -> None:
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)

"""Serve WebSocket connections on trio."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

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
from wsconnkit.trio.authentication import Authentication
from wsconnkit.trio.connection import Connection
from wsconnkit.trio.draining import DrainRun
from wsconnkit.trio.future import Future
from wsconnkit.trio.guard import Guard
from wsconnkit.trio.reception import Reception
from wsconnkit.trio.signals import stop_on_signals
from wsconnkit.trio.transport import interruptible

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

Handler = Callable[[Connection], Awaitable[None]]
Listener = trio.abc.Listener[trio.abc.Stream]


class Server:
    """A running server, as `serve` returns it."""

    def __init__(
        self,
        handler: Handler,
        endpoint: ServerPolicy[Connection],
        config: ConnectionConfig,
        authentication: Authentication | None,
        nursery: trio.Nursery,
    ) -> None:
        self._handler = handler
        self._endpoint = endpoint
        self._config = config
        self._authentication = authentication
        self._nursery = nursery
        self._listeners: dict[Listener, trio.CancelScope] = {}
        self._receptions: list[Reception] = []
        self._handlers: dict[Connection, trio.CancelScope] = {}
        self._handler_ended = trio.lowlevel.ParkingLot()
        self._farewell = (int(Cause.LOCAL_CLOSE.code), "", Cause.LOCAL_CLOSE)
        self._drained: Future[DrainReport] | None = None
        self._is_closing = False
        self._closed = trio.Event()

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
    def sockets(self) -> tuple[trio.socket.SocketType, ...]:
        """The listening sockets; those of separate endpoints come last."""
        return tuple(listener.socket for listener in self._listeners if isinstance(listener, trio.SocketListener))

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
        if self._drained is None:
            run = DrainRun(
                self.connections, window=window, grace=grace, close=self._say_farewell, nursery=self._nursery
            )
            self._farewell = code, reason, Cause.DRAIN
            self._endpoint.is_draining = True
            log_draining(len(self.connections), window, grace)
            self._drained = Future()
            if self._closed.is_set():  # there is nothing left to drain, and nobody to do it
                await self._finish_drain(run, self._drained)
            else:
                self._nursery.start_soon(self._finish_drain, run, self._drained)
        return await self._drained.get()

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
            async with trio.open_nursery() as nursery:
                for event in (stop, self._closed):
                    nursery.start_soon(self._wait_and_cancel, event, nursery)
            return await self.drain(window=window, grace=grace, code=code, reason=reason)

    async def close(self, code: int = Cause.DRAIN.code, reason: str = "") -> None:
        """Stop listening and close all connections with `code` and `reason`, within the close timeout.

        Handlers that have not returned one close timeout after their connection are cancelled; those that go on for
        one more close timeout hold up the end of `serve`. Safe to repeat; cancelled, it still closes. Raises
        LocalProtocolError for a code or a reason that cannot be sent.
        """
        check_close(code, reason)
        if not self._is_closing:
            self._is_closing = True
            for scope in self._listeners.values():
                scope.cancel()
            self._listeners.clear()
            for reception in self._receptions:
                reception.close()
            if self._authentication is not None:
                self._authentication.stop()
            self._farewell = code, reason, Cause.DRAIN
            for ws in self.connections:
                self._say_farewell(ws)
            self._nursery.start_soon(self._finish_close)
        await self._closed.wait()

    async def wait_closed(self) -> None:
        """Wait until `close` has been called and has ended."""
        await self._closed.wait()

    async def serve_forever(self) -> None:
        """Wait until the server is closed; cancelled, close it."""
        try:
            await self._closed.wait()
        finally:
            await self.close()

    def listen(self, reception: Reception, listeners: Sequence[Listener]) -> None:
        """Receive clients at further listeners; `serve` calls this."""
        self._receptions.append(reception)
        for listener in listeners:
            self._listeners[listener] = scope = trio.CancelScope()
            self._nursery.start_soon(self._accept, listener, reception, scope)

    def on_connection(self, ws: Connection, session: Session) -> None:
        """Run the handler for a connection that was let in; a `Reception` calls this."""
        guard = Guard(ws, session, self._authentication, self._nursery, timeout=self._config.handshake.timeout)
        ws.call_when_closed(partial(self._on_closed, session, guard))
        self._handlers[ws] = scope = trio.CancelScope()
        self._nursery.start_soon(self._run_handler, ws, scope, name=f"wsconnkit-{ws.id}")

    @trio.lowlevel.enable_ki_protection
    async def _accept(self, listener: Listener, reception: Reception, scope: trio.CancelScope) -> None:
        async with listener:
            with scope:
                await trio.serve_listeners(reception.receive, [listener], handler_nursery=self._nursery)

    def _on_closed(self, session: Session, guard: Guard) -> None:
        guard.stop()
        self._endpoint.leave(session)

    def _say_farewell(self, ws: Connection) -> None:
        ws.start_close(*self._farewell)

    @trio.lowlevel.enable_ki_protection
    async def _run_handler(self, ws: Connection, scope: trio.CancelScope) -> None:
        try:
            try:
                with scope:
                    await interruptible(self._handler, ws)
            except Exception as error:
                self._on_handler_error(ws, error)
            except BaseExceptionGroup as group:
                errors, others = group.split(Exception)
                if isinstance(errors, Exception):
                    self._on_handler_error(ws, errors)
                assert others is not None  # or it would be a group of nothing but exceptions
                raise others from None
            self._say_farewell(ws)
            await ws.wait_closed()
        finally:
            del self._handlers[ws]
            self._handler_ended.unpark_all()

    def _on_handler_error(self, ws: Connection, error: Exception) -> None:
        # That the client has left is no error of the handler; what another connection says is.
        if not tells_only_of(error, ws.close_info):
            ws.log.handler_error(error)
            ws.start_close(Cause.HANDLER_ERROR.code, "", Cause.HANDLER_ERROR)

    @trio.lowlevel.enable_ki_protection
    async def _finish_drain(self, run: DrainRun, drained: Future[DrainReport]) -> None:
        # Where the nursery is cancelled all this ends soon, and those who wait elsewhere are to know.
        with trio.CancelScope(shield=True):
            report = await run.wait()
            await self.close()
            drained.set_result(report)

    @trio.lowlevel.enable_ki_protection
    async def _finish_close(self) -> None:
        timeout = self._config.close.timeout
        with trio.CancelScope(shield=True):
            with trio.move_on_after(timeout):
                for reception in self._receptions:
                    await reception.wait_empty()
            with trio.move_on_after(2 * timeout):
                for ws in tuple(self._handlers):
                    await ws.wait_closed()
            await self._wait_for_handlers(timeout)
            for scope in self._handlers.values():
                scope.cancel()
            await self._wait_for_handlers(timeout)
            for ws in self._handlers:
                ws.log.handler_stuck()
            self._closed.set()

    async def _wait_for_handlers(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            while self._handlers:
                await self._handler_ended.park()

    @staticmethod
    async def _wait_and_cancel(event: trio.Event, nursery: trio.Nursery) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

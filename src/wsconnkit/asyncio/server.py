"""Serve WebSocket connections on asyncio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Generator, Sequence
from ssl import SSLContext
from typing import Any

from wsconnkit.asyncio.connection import Connection
from wsconnkit.asyncio.opening import Opening
from wsconnkit.asyncio.transport import tls_timeouts
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import check_close
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.protocol.handshake import ServerHandshake, check_subprotocols
from wsconnkit.service.log import log_handler_error, log_handler_stuck, log_opened, log_refused

Handler = Callable[[Connection], Awaitable[None]]


class Server:
    """A running server, as `serve` returns it."""

    def __init__(
        self, handler: Handler, config: ConnectionConfig, *, path: str | None, subprotocols: Sequence[str]
    ) -> None:
        self._handler = handler
        self._config = config
        self._path = path
        self._subprotocols = check_subprotocols(subprotocols)
        self._loop = asyncio.get_running_loop()
        self._openings: set[Opening] = set()
        self._handlers: dict[asyncio.Task[None], Connection] = {}
        self._server: asyncio.Server | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    @property
    def connections(self) -> frozenset[Connection]:
        """The connections whose handlers run."""
        return frozenset(self._handlers.values())

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets."""
        return tuple(self._server.sockets) if self._server is not None else ()

    async def close(self, code: int = Cause.DRAIN.code, reason: str = "") -> None:
        """Stop listening and close all connections with `code` and `reason`, within the close timeout.

        Handlers that have not returned one close timeout after their connection are cancelled, and given up one
        more close timeout later. Safe to repeat; cancelled, it still closes. Raises LocalProtocolError for a code or
        a reason that cannot be sent.
        """
        check_close(code, reason)
        if self._closing is None:
            if self._server is not None:
                self._server.close()
            for opening in list(self._openings):
                opening.abort()
            for connection in self.connections:
                connection.start_close(code, reason, Cause.DRAIN)
            self._closing = self._loop.create_task(self._wait_for_handlers())
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

    async def _listen(self, **kwargs: Any) -> None:
        self._server = await self._loop.create_server(self._new_opening, **kwargs)

    def _new_opening(self) -> Opening:
        handshake = ServerHandshake(
            self._config, now=self._loop.time(), path=self._path, subprotocols=self._subprotocols
        )
        return Opening(
            handshake,
            on_progress=lambda opening: self._on_progress(handshake, opening),
            on_end=lambda opening: self._on_end(handshake, opening),
        )

    def _on_progress(self, handshake: ServerHandshake, opening: Opening) -> None:
        self._openings.add(opening)  # not before there is a transport, which a failed TLS handshake never gives
        if self._closing is not None:
            opening.abort()
        if handshake.request is None or handshake.agreement or opening.transport is None:
            return
        agreement = handshake.accept()
        core = handshake.connection(self._loop.time())
        connection = Connection(core, self._config, handshake.request, agreement)
        opening.hand_over(connection)
        log_opened(connection.id, connection.remote_address, handshake.request.path)
        task = self._loop.create_task(self._run_handler(connection), name=f"wsconnkit-{connection.id}")
        self._handlers[task] = connection
        task.add_done_callback(self._handlers.pop)

    def _on_end(self, handshake: ServerHandshake, opening: Opening) -> None:
        self._openings.discard(opening)
        if handshake.response is not None:
            log_refused(opening.remote_address, handshake.response.status)

    async def _run_handler(self, connection: Connection) -> None:
        try:
            await self._handler(connection)
        except Exception as error:
            # That the client has left is no error of the handler; what another connection says is.
            if not (isinstance(error, ConnectionClosed) and error.info is connection.close_info):
                log_handler_error(connection.id, error)
                connection.start_close(Cause.HANDLER_ERROR.code, "", Cause.HANDLER_ERROR)
        finally:
            connection.start_close(Cause.LOCAL_CLOSE.code, "", Cause.LOCAL_CLOSE)
            await connection.wait_closed()

    async def _wait_for_handlers(self) -> None:
        timeout = self._config.close.timeout
        await asyncio.gather(*(connection.wait_closed() for connection in self.connections))
        await self._wait_for(self._handlers, timeout)
        for task in self._handlers:
            task.cancel()
        await self._wait_for(self._handlers, timeout)
        for connection in self._handlers.values():
            log_handler_stuck(connection.id)
        if self._server is not None:
            # From Python 3.12 on it waits for TLS handshakes that have not ended, too.
            waiting = self._loop.create_task(self._server.wait_closed())
            await self._wait_for([waiting], timeout)
            waiting.cancel()
        self._closed.set()

    @staticmethod
    async def _wait_for(tasks: Collection[asyncio.Task[None]], timeout: float) -> None:
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)


class serve:  # noqa: N801 - it is called like the function that it is to its users
    """Serve `handler` on a host and port: `async with serve(...) as server`, or `server = await serve(...)`.

    handler: called with each connection; when it returns, the connection is closed with 1000, and with 1011 when
        it raises.
    host, port: as for `loop.create_server`, like all further keyword arguments (`sock`, `backlog`, …).
    path: the only one that is served, None for every path.
    subprotocols: those spoken, the preferred first.
    ssl: a server-side context, for wss.
    """

    def __init__(
        self,
        handler: Handler,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        path: str | None = None,
        subprotocols: Sequence[str] = (),
        config: ConnectionConfig | None = None,
        ssl: SSLContext | None = None,
        **kwargs: Any,
    ) -> None:
        self._handler = handler
        self._path = path
        self._subprotocols = subprotocols
        self._config = config or ConnectionConfig()
        self._kwargs = {"host": host, "port": port, "ssl": ssl, **kwargs}
        if ssl is not None:
            self._kwargs = {**tls_timeouts(self._config), **self._kwargs}
        self._server: Server | None = None

    async def _start(self) -> Server:
        server = Server(self._handler, self._config, path=self._path, subprotocols=self._subprotocols)
        await server._listen(**self._kwargs)
        return server

    def __await__(self) -> Generator[Any, None, Server]:
        return self._start().__await__()

    async def __aenter__(self) -> Server:
        self._server = await self._start()
        return self._server

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None  # __aenter__ made it
        await self._server.close()

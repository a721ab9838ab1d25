"""Serve WebSocket connections on asyncio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Generator, Sequence
from ssl import SSLContext
from typing import Any

from wsconnkit.asyncio.connection import Connection
from wsconnkit.asyncio.opening import Opening
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import check_close_code
from wsconnkit.protocol.errors import ConnectionClosed
from wsconnkit.protocol.handshake import ServerHandshake
from wsconnkit.service.log import log_handler_error, log_opened, log_refused

Handler = Callable[[Connection], Awaitable[None]]


class Server:
    """A running server, as `serve` returns it."""

    def __init__(
        self, handler: Handler, config: ConnectionConfig, *, path: str | None, subprotocols: Sequence[str]
    ) -> None:
        self._handler = handler
        self._config = config
        self._path = path
        self._subprotocols = tuple(subprotocols)
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

        Handlers that have not returned one close timeout after their connection are cancelled. Safe to repeat;
        cancelled, it still closes. Raises LocalProtocolError for a code that cannot be sent.
        """
        check_close_code(code)
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
        opening = Opening(
            handshake,
            on_progress=lambda opening: self._on_progress(handshake, opening),
            on_end=lambda opening: self._on_end(handshake, opening),
        )
        self._openings.add(opening)
        return opening

    def _on_progress(self, handshake: ServerHandshake, opening: Opening) -> None:
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
        if handshake.rejected is not None:
            log_refused(opening.remote_address, handshake.rejected.status)

    async def _run_handler(self, connection: Connection) -> None:
        try:
            await self._handler(connection)
        except ConnectionClosed:
            pass  # the peer left while the handler still had something for it
        except Exception as error:
            log_handler_error(connection.id, error)
            connection.start_close(Cause.HANDLER_ERROR.code, "", Cause.HANDLER_ERROR)
        finally:
            connection.start_close(Cause.LOCAL_CLOSE.code, "", Cause.LOCAL_CLOSE)
        await connection.wait_closed()

    async def _wait_for_handlers(self) -> None:
        timeout = self._config.close.timeout
        await asyncio.gather(*(connection.wait_closed() for connection in self.connections))
        if self._handlers:
            await asyncio.wait(self._handlers, timeout=timeout)
        for task in list(self._handlers):
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
        self._closed.set()


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

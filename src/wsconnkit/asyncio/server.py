"""Serve WebSocket connections on asyncio, with listeners of our own or inside a server that exists already."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any, cast

from typing_extensions import TypedDict, Unpack

from wsconnkit.asyncio.connection import Connection
from wsconnkit.asyncio.context import AwaitableContext
from wsconnkit.asyncio.runtime import Runtime, is_cancelled
from wsconnkit.asyncio.tls import start_tls, tls_timeouts
from wsconnkit.asyncio.transport import Transport
from wsconnkit.managed import manager
from wsconnkit.managed import server as managed
from wsconnkit.managed.acceptor import Acceptor
from wsconnkit.managed.manager import Admitted
from wsconnkit.managed.opening import OpeningHandshake
from wsconnkit.managed.runtime import Runtime as AnyRuntime
from wsconnkit.managed.runtime import TaskCancelled
from wsconnkit.service.arguments import check_names, check_type
from wsconnkit.service.log import log_server_error
from wsconnkit.service.router import RequestRouter
from wsconnkit.service.serveoptions import ManagerArguments, ManagerOptions, ServeArguments

Handler = Callable[[Connection], Awaitable[object]]

_OPTIONS = frozenset(signature(asyncio.BaseEventLoop.create_server).parameters) - {
    "self",
    "protocol_factory",
    "host",
    "port",
    "ssl",
}


class ListenOptions(TypedDict, total=False):
    """Keyword arguments of `loop.create_server`."""

    family: int
    flags: int
    sock: socket.socket
    backlog: int
    reuse_address: bool
    reuse_port: bool
    keep_alive: bool
    ssl_handshake_timeout: float
    ssl_shutdown_timeout: float
    start_serving: bool


class ServeKeywords(ServeArguments, ListenOptions, total=False):
    """What `serve` takes besides the handler, the host and the port."""


class Manager(manager.Manager[Connection]):  # noqa: D101 - inherited
    __doc__ = manager.Manager.__doc__

    _connection_class = Connection

    def __init__(self, **arguments: Unpack[ManagerArguments]) -> None:
        check_names("Manager", arguments, tuple(ManagerArguments.__annotations__))
        super().__init__(ManagerOptions(**arguments))

    def attach(
        self, transport: asyncio.Transport, admitted: Admitted, trailing_data: bytes = b""
    ) -> AwaitableContext[Connection]:
        """Take over a transport whose upgrade was admitted and answered: `async with manager.attach(…) as ws`.

        Leaving the block closes with 1000, an exception with 1011.

        transport: the protocol that it has is told when it ends, and nothing before.
        trailing_data: bytes that came behind the request.
        Raises LocalProtocolError when `admitted` was attached or released before, or is too old.
        """
        manager.check_admitted(admitted, trailing_data)
        return _Attached(self, transport, admitted, trailing_data)

    def _new_runtime(self) -> Runtime:
        return Runtime()


class _Attached(AwaitableContext[Connection]):
    def __init__(
        self, manager: Manager, transport: asyncio.Transport, admitted: Admitted, trailing_data: bytes
    ) -> None:
        self._manager = manager
        self._transport = transport
        self._admitted = admitted
        self._trailing_data = trailing_data

    async def _begin(self, runtime: Runtime) -> Connection:
        ws = self._manager.enter_admitted(runtime, self._admitted, self._trailing_data)
        is_taken = False
        try:
            ws.take_over(self._transport)
            is_taken = True
        finally:
            if not is_taken:
                ws.drop()
        return ws

    async def _end(self, it: Connection, raised: BaseException | None) -> None:
        is_over = isinstance(raised, asyncio.CancelledError) and is_cancelled(asyncio.current_task())
        self._manager.end(it, TaskCancelled() if is_over else raised)
        await it.wait_closed()


class Server(managed.Server[Connection]):
    """A running server, as `serve` returns it."""

    _connection_class = Connection


class serve(managed.Serving[Connection, Server], AwaitableContext[Server]):  # noqa: D101, N801 - inherited; called like a function
    __doc__ = f"""{managed.Serving.__doc__}
    Further keyword arguments go to `loop.create_server` (`sock`, `backlog`, …).
    """

    def __init__(
        self,
        handler: Handler | RequestRouter,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        **arguments: Unpack[ServeKeywords],
    ) -> None:
        given: dict[str, Any] = dict(arguments)
        self._listen_options = {name: given.pop(name) for name in tuple(given) if name in _OPTIONS}
        sock, backlog = self._listen_options.get("sock"), self._listen_options.get("backlog", 100)
        check_type("sock", sock, sock is None or isinstance(sock, socket.socket), "a socket.socket, or None")
        check_type("backlog", backlog, isinstance(backlog, int), "an int")
        super().__init__(handler, host, port, options=_OPTIONS, **given)

    def _new_server(self, runtime: AnyRuntime, handler: Handler) -> Server:
        return Server(runtime, self._options, handler)

    async def _listen(
        self, acceptor: Acceptor[Connection], host: str | Sequence[str] | None, port: int | None
    ) -> asyncio.Server:
        options = dict(self._listen_options)
        tls: dict[str, Any] | None = None
        if self._options.ssl is not None:
            tls = {"sslcontext": self._options.ssl, **tls_timeouts(self._options.config)}
            tls |= {name: options.pop(name) for name in tuple(options) if name.startswith("ssl_")}
        return await _listen(acceptor, tls, host=host, port=port, **options)

    async def _listen_for_pages(self, acceptor: Acceptor[Connection], host: str, port: int) -> asyncio.Server:
        return await _listen(acceptor, None, host=host, port=port)


async def _listen(acceptor: Acceptor[Connection], tls: dict[str, Any] | None, **options: Any) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(lambda: _Arrival(acceptor, tls), **options)


class _Arrival(asyncio.Protocol):
    """A client who has just come; it gets its transport at once, or after TLS.

    tls: the keyword arguments of `start_tls`, None for no TLS. `loop.create_server` would do TLS, too, but nobody would
    know of those who are busy with it.
    """

    def __init__(self, acceptor: Acceptor[Connection], tls: dict[str, Any] | None) -> None:
        self._acceptor = acceptor
        self._tls = tls
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plain = cast(asyncio.Transport, transport)
        opening = self._acceptor.accept(plain.abort, plain.get_extra_info("peername"))
        protocol = Transport(opening)
        if self._tls is None:
            plain.set_protocol(protocol)
            protocol.connection_made(plain)
        else:
            on_end = partial(self._on_secured, plain, opening, protocol)
            self._acceptor.runtime.start(self._secure, plain, protocol, self._tls, on_end=on_end)

    def data_received(self, data: bytes) -> None:
        """Keep what uvloop reads before a task can begin with TLS."""
        self._early += data

    async def _secure(self, plain: asyncio.Transport, protocol: Transport, tls: dict[str, Any]) -> asyncio.Transport:
        return await start_tls(plain, protocol, server_side=True, early=self._early, **tls)

    @staticmethod
    def _on_secured(plain: asyncio.Transport, opening: OpeningHandshake, protocol: Transport, outcome: Any) -> None:
        if not isinstance(outcome, BaseException):
            protocol.connection_made(outcome)
            return
        if not isinstance(outcome, (OSError, TaskCancelled)):  # of a context that is the application's
            log_server_error("tls_error", outcome)
        plain.abort()
        opening.connection_lost(None)

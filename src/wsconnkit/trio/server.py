"""Serve WebSocket connections on trio, with listeners of our own or inside a server that exists already."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

import trio
from typing_extensions import TypedDict, Unpack

from wsconnkit.managed import manager
from wsconnkit.managed import server as managed
from wsconnkit.managed.acceptor import Acceptor
from wsconnkit.managed.manager import Admitted
from wsconnkit.managed.runtime import Runtime as AnyRuntime
from wsconnkit.managed.runtime import Task, TaskCancelled
from wsconnkit.service.arguments import check_names, check_type, is_list
from wsconnkit.service.log import log_server_error
from wsconnkit.service.router import RequestRouter
from wsconnkit.service.serveoptions import ManagerArguments, ManagerOptions, ServeArguments
from wsconnkit.trio.connection import Connection
from wsconnkit.trio.context import NurseryContext
from wsconnkit.trio.runtime import Runtime
from wsconnkit.trio.transport import Transport, addresses, drop

_protected = trio.lowlevel.enable_ki_protection
Handler = Callable[[Connection], Awaitable[object]]
Listeners = Sequence[trio.abc.Listener[trio.abc.Stream]]


_protected(Admitted.release)  # which Ctrl-C would break off, and the place would never be free again


class ListenOptions(TypedDict, total=False):
    """What `serve` takes on trio only.

    listeners: where to listen in place of host and port, of whatever kind: each accepts streams, and is closed at the
        end. What one of them raises ends the server, but for the system's errors that it is short of something.
    backlog: as for `trio.open_tcp_listeners`.
    """

    listeners: Listeners | None
    backlog: int | None


class ServeKeywords(ServeArguments, ListenOptions, total=False):
    """What `serve` takes besides the handler, the host and the port."""


class Manager(manager.Manager[Connection]):  # noqa: D101 - inherited
    __doc__ = manager.Manager.__doc__

    _connection_class = Connection

    # The calls of an application in which Ctrl-C would break off what must be whole.
    if not TYPE_CHECKING:  # they stay of the types that they are
        decide = _protected(manager.Manager.decide)
        drain = _protected(manager.Manager.drain)
        close = _protected(manager.Manager.close)

    def __init__(self, **arguments: Unpack[ManagerArguments]) -> None:
        check_names("Manager", arguments, tuple(ManagerArguments.__annotations__))
        super().__init__(ManagerOptions(**arguments))

    def attach(
        self, stream: trio.abc.Stream, admitted: Admitted, trailing_data: bytes = b""
    ) -> NurseryContext[Connection]:
        """Take over a stream whose upgrade was admitted and answered: `async with manager.attach(…) as ws`.

        Leaving the block closes with 1000, an exception with 1011.

        stream: closed at the end.
        trailing_data: bytes that came behind the request.
        Raises LocalProtocolError when `admitted` was attached or released before, or is too old.
        """
        manager.check_admitted(admitted, trailing_data)
        return _Attached(self, stream, admitted, trailing_data)

    def _new_runtime(self) -> Runtime:
        return Runtime()  # nobody gives it a nursery; what it starts has time limits


class _Attached(NurseryContext[Connection]):
    def __init__(self, manager: Manager, stream: trio.abc.Stream, admitted: Admitted, trailing_data: bytes) -> None:
        self._manager = manager
        self._stream = stream
        self._admitted = admitted
        self._trailing_data = trailing_data

    @_protected
    async def _begin(self, runtime: Runtime) -> Connection:
        ws = self._manager.enter_admitted(runtime, self._admitted, self._trailing_data)
        await ws.take_over(self._stream)
        return ws

    async def _end(self, it: Connection, raised: BaseException | None) -> None:
        self._manager.end(it, TaskCancelled() if isinstance(raised, trio.Cancelled) else raised)
        await it.wait_closed()


class Server(managed.Server[Connection]):
    """A running server, as `serve` returns it."""

    _connection_class = Connection
    if not TYPE_CHECKING:
        decide, drain, close = Manager.decide, Manager.drain, Manager.close


class serve(managed.Serving[Connection, Server], NurseryContext[Server]):  # noqa: D101, N801 - inherited; called like a function
    __doc__ = f"""{managed.Serving.__doc__}
    listeners: where to listen in place of host and port, of whatever kind: each accepts streams, and is closed at the
        end. What one of them raises ends the server, but for the system's errors that it is short of something.
    backlog: as for `trio.open_tcp_listeners`.
    """

    def __init__(
        self,
        handler: Handler | RequestRouter,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        **arguments: Unpack[ServeKeywords],
    ) -> None:
        given: dict[str, Any] = dict(arguments)
        self._listeners: Listeners | None = given.pop("listeners", None)
        self._backlog: int | None = given.pop("backlog", None)
        check_type("backlog", self._backlog, self._backlog is None or isinstance(self._backlog, int), "an int, or None")
        listeners = self._listeners
        are_listeners = listeners is None or is_list(listeners, trio.abc.Listener)
        check_type("listeners", listeners, are_listeners, "a list of listeners, or None")
        if self._listeners is None and host is None and port is None:
            raise ValueError("nowhere to listen: neither host, nor port, nor listeners are given")
        if self._listeners is not None and not (self._listeners and host is None and port is None):
            raise ValueError("listeners are none, or given together with host or port; it must be some, alone")
        super().__init__(handler, host, port, options=ListenOptions.__annotations__, **given)

    def _new_server(self, runtime: AnyRuntime, handler: Handler) -> Server:
        return Server(runtime, self._options, handler)

    async def _listen(
        self, acceptor: Acceptor[Connection], host: str | Sequence[str] | None, port: int | None
    ) -> _Listening:
        listeners = self._listeners
        if listeners is None:
            listeners = await self._open_listeners(host, port or 0)
        return _Listening(listeners, acceptor, self._options.ssl)

    async def _listen_for_pages(self, acceptor: Acceptor[Connection], host: str, port: int) -> _Listening:
        return _Listening(await self._open_listeners(host, port), acceptor, None)

    async def _open_listeners(self, host: str | Sequence[str] | None, port: int) -> Listeners:
        hosts = [host] if host is None or isinstance(host, str) else host
        listeners: list[trio.abc.Listener[trio.abc.Stream]] = []
        is_open = False
        try:
            for each in hosts:
                listeners += await trio.open_tcp_listeners(port, host=each or None, backlog=self._backlog)
            is_open = True
        finally:
            if not is_open:
                for listener in listeners:
                    await trio.aclose_forcefully(listener)
        return listeners


class _Listening:
    """Accepts clients at some listeners, and does TLS with them where there is to be some."""

    def __init__(self, listeners: Listeners, acceptor: Acceptor[Connection], ssl: SSLContext | None) -> None:
        assert isinstance(acceptor.runtime, Runtime)  # `serve` has made it
        self._nursery = acceptor.runtime.nursery
        sockets = (each.socket for each in listeners if isinstance(each, trio.SocketListener))
        self.sockets: tuple[trio.socket.SocketType, ...] = tuple(sockets)
        self._acceptor = acceptor
        self._ssl = ssl
        self._accepting: list[Task] = [acceptor.runtime.start(self._accept, each) for each in listeners]

    def close(self) -> None:
        """Accept nobody more."""
        self.sockets = ()
        for task in self._accepting:
            task.cancel()

    async def wait_closed(self) -> None:
        """Return at once: the nursery waits for what is left."""

    async def _accept(self, listener: trio.abc.Listener[trio.abc.Stream]) -> None:
        async with listener:
            await trio.serve_listeners(self._receive, [listener], handler_nursery=self._nursery)

    @trio.lowlevel.enable_ki_protection
    async def _receive(self, stream: trio.abc.Stream) -> None:
        """Carry a client that has just come to its end."""
        scope = trio.CancelScope()
        opening = self._acceptor.accept(scope.cancel, addresses(stream)[1])
        is_secured = False
        try:
            with scope:
                await trio.lowlevel.checkpoint_if_cancelled()
                if self._ssl is not None:
                    stream = await self._secure(stream, self._ssl)
                is_secured = True
        finally:
            if not is_secured:
                opening.connection_lost(None)
                await drop(stream)
        if is_secured:
            transport = Transport(stream, opening)
            opening.connection_made(transport)
            await transport.run()

    async def _secure(self, stream: trio.abc.Stream, context: SSLContext) -> trio.abc.Stream:
        """Return the stream with TLS on it; where that fails, the first read tells."""
        try:
            secured = trio.SSLStream(stream, context, server_side=True)
            with suppress(trio.BrokenResourceError):
                await secured.do_handshake()
        except Exception as error:  # of a context or a stream that is the application's
            log_server_error("tls_error", error)
            await drop(stream)
            return stream
        return secured

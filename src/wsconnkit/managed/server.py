"""Serve WebSocket connections: a manager with listeners, handlers and signals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from wsconnkit.managed.acceptor import Acceptor, Site
from wsconnkit.managed.answering import answer_requests
from wsconnkit.managed.connection import Connection
from wsconnkit.managed.manager import Manager
from wsconnkit.managed.runtime import Runtime, Task
from wsconnkit.managed.signals import stop_on_signals
from wsconnkit.service.arguments import check_host, check_names
from wsconnkit.service.drain import DrainReport
from wsconnkit.service.router import RequestRouter
from wsconnkit.service.serveoptions import ServeArguments, ServeOptions

C = TypeVar("C", bound=Connection)


class Listener(Protocol):
    """Where clients come in."""

    @property
    def sockets(self) -> Sequence[Any]:
        """The listening sockets, where there are some."""

    def close(self) -> None:
        """Accept nobody more."""

    async def wait_closed(self) -> object:
        """Wait until nothing is left of it."""


class Server(Manager[C]):
    """A running server, as `serve` returns it."""

    def __init__(self, runtime: Runtime, options: ServeOptions, handler: Callable[[C], Awaitable[object]]) -> None:
        super().__init__(options)
        self._runtime = runtime
        self._handler = handler
        self._listeners: list[Listener] = []
        self._acceptors: list[Acceptor[C]] = []
        self._handlers: dict[C, Task] = {}
        self._stop = runtime.event()
        """A signal has come, or the server has ended."""

    def _new_runtime(self) -> Runtime:
        return self.runtime  # it was made with one

    @property
    def sockets(self) -> tuple[Any, ...]:
        """The listening sockets; those of separate endpoints come last."""
        return tuple(sock for listener in self._listeners for sock in listener.sockets)

    async def run_until_signal(
        self,
        *,
        window: float | None = None,
        grace: float | None = None,
        code: int | None = None,
        reason: str | None = None,
    ) -> DrainReport:
        """Wait for SIGTERM or SIGINT, or for the end of the server, and drain; arguments and errors are `drain`'s.

        A second signal ends the process at once. Call it in the main thread.
        """
        self._options.drain.replaced(window=window, grace=grace, code=code, reason=reason)  # raises at once
        with stop_on_signals(self.runtime, self._stop.set):
            await self._stop.wait()
            return await self.drain(window=window, grace=grace, code=code, reason=reason)

    async def serve_forever(self) -> None:
        """Wait until the server is closed; cancelled, close it."""
        try:
            await self._closed_event.wait()
        finally:
            await self.close()

    def new_acceptor(self, site: Site) -> Acceptor[C]:
        """Return what gives the transports of a further listener their protocols; `add_listener` comes next."""
        acceptor = Acceptor(self.runtime, self, site, on_connection=self._start_handler, on_change=self._notify)
        self._acceptors.append(acceptor)
        return acceptor

    def add_listener(self, listener: Listener) -> None:
        """Close a listener together with the server."""
        self._listeners.append(listener)

    def _where(self) -> str:
        addresses = [sock.getsockname() if hasattr(sock, "getsockname") else sock for sock in self.sockets]
        return "".join(f" at {address}" for address in addresses)

    def _start_handler(self, ws: C) -> None:
        self._handlers[ws] = self.runtime.start(
            self._handler, ws, theirs=True, on_end=partial(self._on_handler_end, ws), name=f"wsconnkit-{ws.id}"
        )

    def _on_handler_end(self, ws: C, outcome: Any) -> None:
        self.end(ws, outcome)
        del self._handlers[ws]
        self._notify()

    def _begin_close(self) -> None:
        for listener in self._listeners:
            listener.close()
        for acceptor in self._acceptors:
            acceptor.close()

    async def _close(self) -> None:
        await super()._close()
        self._stop.set()

    async def _finish_close(self) -> None:
        timeout = self.config.close.timeout
        for acceptor in self._acceptors:
            await self._wait_until_empty(acceptor, timeout)
            acceptor.abort()
        await self._wait_until_empty(self._open, 2 * timeout)
        await self._wait_until_empty(self._handlers, timeout)
        for task in tuple(self._handlers.values()):
            task.cancel()
        await self._wait_until_empty(self._handlers, timeout)
        for ws in self._handlers:
            ws.log.handler_stuck()
        for listener in self._listeners:
            await self._wait_for_end(listener, timeout)

    async def _wait_for_end(self, listener: Listener, timeout: float) -> None:
        ended = self.runtime.event()
        waiting = self.runtime.start(listener.wait_closed, on_end=lambda _: ended.set())
        await self.runtime.wait(ended, timeout)
        waiting.cancel()


S = TypeVar("S", bound="Server[Any]")


class Serving(ABC, Generic[C, S]):
    """Serve `handler` on a host and port: `async with serve(...) as server`.

    handler: called with each connection; when it returns, the connection is closed with 1000, and with 1011 when
        it raises. A `RequestRouter` answers requests.
    host, port: where to listen: no host for all interfaces, several in a list, and 0 for any port.
    path: the only one that is served, None for every path.
    authenticate: a `JWTAuthenticator`, or an async function of a token or None and the `UpgradeRequest`, which returns
        a `Principal`, or a `Response` that refuses, or raises AuthenticationError. None lets everyone in.
    origins: the web pages' origins that may connect besides the server's own; None for all.
    allowed_hosts: the hosts that requests may be for, so that `origins` knows the server's own; None for all.
    subprotocols: those spoken, the preferred first.
    admission: caps on connections, rates of upgrades and messages.
    proxies: whose word on the client's address is taken.
    reauthenticate: whether a client may send a fresh token in a message.
    http: an async function of an `HTTPRequest` that asks for no WebSocket; returns a `Response`, or None for 404.
    endpoints: whether /healthz, /readyz and /metrics are answered: on the same port, on none, or on that (host, port).
    metrics: `wsconnkit.render_metrics`, or what else makes the text of /metrics.
    metrics_token: what a request for /metrics must bring as `Authorization: Bearer`; None for nothing.
    drain: how `server.drain` and `server.run_until_signal` close connections, unless they are told otherwise.
    ssl: a server-side context, for wss.

    Raises ValueError for what cannot work, TypeError for values of a wrong type.
    """

    def __init__(
        self,
        handler: Callable[[C], Awaitable[object]] | RequestRouter,
        host: str | Sequence[str] | None,
        port: int | None,
        *,
        options: Collection[str],
        **arguments: Any,
    ) -> None:
        check_names("serve", arguments, (*ServeArguments.__annotations__, *options))
        check_host("host", host)
        self._handler: Callable[[C], Awaitable[object]]
        self._handler = partial(answer_requests, handler) if isinstance(handler, RequestRouter) else handler
        self._options = ServeOptions(handler=self._handler, port=port, **arguments)
        self._host, self._port = host, port

    def __repr__(self) -> str:
        handler = self._handler.args[0] if isinstance(self._handler, partial) else self._handler
        name = getattr(handler, "__qualname__", repr(handler))
        return f"<{type(self).__name__}: {name} at {self._host}, port {self._port}>"

    @abstractmethod
    def _new_server(self, runtime: Runtime, handler: Callable[[C], Awaitable[object]]) -> S:
        """Return a server without listeners."""

    @abstractmethod
    async def _listen(self, acceptor: Acceptor[C], host: str | Sequence[str] | None, port: int | None) -> Listener:
        """Listen where `serve` was told to."""

    @abstractmethod
    async def _listen_for_pages(self, acceptor: Acceptor[C], host: str, port: int) -> Listener:
        """Listen where the pages have a port of their own."""

    async def _begin(self, runtime: Runtime) -> S:
        options = self._options
        server = self._new_server(runtime, self._handler)
        is_listening = False
        try:
            pages = Site(websocket=False, metrics=options.metrics, metrics_token=options.metrics_token)
            site = pages._replace(websocket=True, pages=options.has_pages, http=options.http)
            server.add_listener(await self._listen(server.new_acceptor(site), self._host, self._port))
            if options.pages_at is not None:
                server.add_listener(await self._listen_for_pages(server.new_acceptor(pages), *options.pages_at))
            is_listening = True
        finally:
            if not is_listening:
                await server.close()
        return server

"""Connect to WebSocket servers on asyncio, once, again and again, or for as long as a client lives."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from inspect import signature
from typing import Any

from typing_extensions import TypedDict, Unpack

from wsconnkit.asyncio.connection import Connection
from wsconnkit.asyncio.connector import dial
from wsconnkit.asyncio.context import AwaitableContext
from wsconnkit.asyncio.runtime import Runtime
from wsconnkit.managed import reconnecting
from wsconnkit.managed.client import Connecting, Connections, Route
from wsconnkit.managed.opening import OpeningHandshake
from wsconnkit.managed.runtime import Runtime as AnyRuntime
from wsconnkit.protocol.hosts import ascii_name
from wsconnkit.service.arguments import check_port, check_type
from wsconnkit.service.backlog import BacklogConfig
from wsconnkit.service.connectoptions import ConnectArguments

_OPTIONS = frozenset(signature(asyncio.BaseEventLoop.create_connection).parameters) - {
    "self",
    "protocol_factory",
    "ssl",
    "server_hostname",
    "all_errors",  # they are all told in any case
}


class DialOptions(TypedDict, total=False):
    """Keyword arguments of `loop.create_connection`."""

    host: str
    port: int
    family: int
    proto: int
    flags: int
    sock: socket.socket
    local_addr: tuple[str, int]
    ssl_handshake_timeout: float
    ssl_shutdown_timeout: float
    happy_eyeballs_delay: float | None
    interleave: int


class ConnectKeywords(ConnectArguments, DialOptions, total=False):
    """What `connect` takes besides the URI."""


class connect(Connecting[Connection], AwaitableContext[Connection]):  # noqa: D101, N801 - inherited; called like a function
    __doc__ = f"""{Connecting.__doc__}
    Further keyword arguments are those of `loop.create_connection` (`sock`, `local_addr`, `happy_eyeballs_delay`, …).
    """

    _connection_class = Connection

    def __init__(self, uri: str, **arguments: Unpack[ConnectKeywords]) -> None:
        given: dict[str, Any] = dict(arguments)
        self._dial_options = {name: given.pop(name) for name in tuple(given) if name in _OPTIONS}
        sock, host = self._dial_options.get("sock"), self._dial_options.get("host")
        check_type("sock", sock, sock is None or isinstance(sock, socket.socket), "a socket.socket, or None")
        check_type("host", host, host is None or isinstance(host, str), "a str, or None for the URI's")
        check_port("port", self._dial_options.get("port"))
        if host is not None:
            self._dial_options["host"] = ascii_name(self._dial_options["host"])
        has_sock = "sock" in self._dial_options
        super().__init__(uri, has_transport=has_sock, options=_OPTIONS, **given)

    def __aiter__(self) -> Connections[Connection]:
        self.check_repeatable()
        return self.connections(Runtime())

    def check_repeatable(self) -> None:
        """Raise ValueError where only one connection can be made."""
        if "sock" in self._dial_options:
            raise ValueError("sock is given; it serves one connection, and a client that comes back makes more")

    async def _begin(self, runtime: Runtime) -> Connection:
        return await self.open(runtime)

    def _address(self) -> tuple[str, int]:
        uri, options = self._options.uri, self._dial_options
        return options.get("host", uri.host), options.get("port", uri.port)

    async def _dial(self, runtime: AnyRuntime, route: Route, opening: OpeningHandshake) -> None:
        await dial(opening, route, self._dial_options)


class ReconnectingClient(  # noqa: D101 - inherited
    reconnecting.ReconnectingClient[Connection], AwaitableContext["ReconnectingClient"]
):
    __doc__ = reconnecting.ReconnectingClient.__doc__

    def __init__(
        self,
        uri: str,
        *,
        queue: BacklogConfig | None = None,
        on_open: Callable[[Connection], Awaitable[object]] | None = None,
        **arguments: Unpack[ConnectKeywords],
    ) -> None:
        super().__init__(connect(uri, **arguments), queue=queue, on_open=on_open)

    async def __aenter__(self) -> ReconnectingClient:
        self._check_not_started()
        return await super().__aenter__()

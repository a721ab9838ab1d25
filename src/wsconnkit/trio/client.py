"""Connect to WebSocket servers on trio, once, again and again, or for as long as a client lives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import signature
from typing import TYPE_CHECKING, Any

import trio
from typing_extensions import TypedDict, Unpack

from wsconnkit.managed import reconnecting
from wsconnkit.managed.client import Connecting, Connections, Route
from wsconnkit.managed.opening import OpeningHandshake
from wsconnkit.managed.runtime import Runtime as AnyRuntime
from wsconnkit.protocol.hosts import ascii_name
from wsconnkit.service.arguments import check_port, check_type
from wsconnkit.service.backlog import BacklogConfig
from wsconnkit.service.connectoptions import ConnectArguments
from wsconnkit.trio.connection import Connection
from wsconnkit.trio.connector import dial
from wsconnkit.trio.context import NurseryContext
from wsconnkit.trio.runtime import Runtime
from wsconnkit.trio.transport import Transport

_protected = trio.lowlevel.enable_ki_protection
_OPTIONS = frozenset(signature(trio.open_tcp_stream).parameters)


class DialOptions(TypedDict, total=False):
    """Keyword arguments of `trio.open_tcp_stream`; or a stream that leads to the server, which is closed at the end."""

    host: str
    port: int
    happy_eyeballs_delay: float | None
    local_address: str
    stream: trio.abc.Stream | None


class ConnectKeywords(ConnectArguments, DialOptions, total=False):
    """What `connect` takes besides the URI."""


class connect(Connecting[Connection], NurseryContext[Connection]):  # noqa: D101, N801 - inherited; called like a function
    __doc__ = f"""{Connecting.__doc__}
    stream: one that leads to the server; closed at the end.
    Further keyword arguments go to `trio.open_tcp_stream` (`host`, `port`, `local_address`, …).
    """

    _connection_class = Connection

    def __init__(self, uri: str, **arguments: Unpack[ConnectKeywords]) -> None:
        given: dict[str, Any] = dict(arguments)
        self._dial_options = {name: given.pop(name) for name in tuple(given) if name in _OPTIONS}
        host = self._dial_options.get("host")
        check_type("host", host, host is None or isinstance(host, str), "a str, or None for the URI's")
        check_port("port", self._dial_options.get("port"))
        if host is not None:
            self._dial_options["host"] = ascii_name(self._dial_options["host"])
        self._stream: trio.abc.Stream | None = given.pop("stream", None)
        given_stream: object = self._stream
        is_stream = given_stream is None or isinstance(given_stream, trio.abc.Stream)
        check_type("stream", given_stream, is_stream, "a trio.abc.Stream, or None")
        has_stream = self._stream is not None
        super().__init__(uri, has_transport=has_stream, options={*_OPTIONS, "stream"}, **given)
        if self._stream is not None and self._dial_options:
            names = ", ".join(self._dial_options)
            raise ValueError(f"stream is given together with {names}, for making one; leave one out")

    def __aiter__(self) -> Connections[Connection]:
        self.check_repeatable()
        return self.connections(Runtime())  # a loop can be left without telling anybody

    def check_repeatable(self) -> None:
        """Raise ValueError where only one connection can be made."""
        if self._stream is not None:
            raise ValueError("stream is given; it serves one connection, and a client that comes back makes more")

    async def _begin(self, runtime: Runtime) -> Connection:
        return await self.open(runtime)

    def _address(self) -> tuple[str, int]:
        uri, options = self._options.uri, self._dial_options
        return options.get("host", uri.host), options.get("port", uri.port)

    async def _dial(self, runtime: AnyRuntime, route: Route, opening: OpeningHandshake) -> None:
        stream = await dial(route, self._stream, self._dial_options)
        transport = Transport(stream, opening)
        opening.connection_made(transport)
        runtime.start(transport.run)


class ReconnectingClient(  # noqa: D101 - inherited
    reconnecting.ReconnectingClient[Connection], NurseryContext["ReconnectingClient"]
):
    __doc__ = reconnecting.ReconnectingClient.__doc__

    # The calls of an application in which Ctrl-C would break off what must be whole.
    if not TYPE_CHECKING:  # they stay of the types that they are
        send = _protected(reconnecting.ReconnectingClient.send)
        send_nowait = _protected(reconnecting.ReconnectingClient.send_nowait)
        recv = _protected(reconnecting.ReconnectingClient.recv)
        close = _protected(reconnecting.ReconnectingClient.close)

    def __init__(
        self,
        uri: str,
        *,
        queue: BacklogConfig | None = None,
        on_open: Callable[[Connection], Awaitable[object]] | None = None,
        **arguments: Unpack[ConnectKeywords],
    ) -> None:
        super().__init__(connect(uri, **arguments), queue=queue, on_open=on_open)

    async def wait_closed(self) -> None:
        """Wait until the client has ended."""
        await trio.lowlevel.checkpoint()  # also where it never began
        await super().wait_closed()

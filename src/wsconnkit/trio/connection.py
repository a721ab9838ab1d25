"""WebSocket connections on trio, and on streams of servers that parse HTTP themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from wsconnkit.managed import connection
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import ConnectionClosedOK
from wsconnkit.protocol.events import Message
from wsconnkit.protocol.upgrade import Agreement, UpgradeRequest
from wsconnkit.service.arguments import check_type
from wsconnkit.trio.context import NurseryContext
from wsconnkit.trio.runtime import Runtime
from wsconnkit.trio.transport import Transport

_protected = trio.lowlevel.enable_ki_protection


class Connection(connection.Connection):
    """A WebSocket connection; `serve` and `connect` make them, and `attach` does for other servers.

    One task may receive, any number may send, ping and close. All calls are checkpoints; a cancelled one leaves the
    connection whole, and so does Ctrl-C.
    """

    # The calls of an application in which Ctrl-C would break off what the core does.
    if not TYPE_CHECKING:  # they stay of the types that they are
        send = _protected(connection.Connection.send)
        send_nowait = _protected(connection.Connection.send_nowait)
        send_if_ready = _protected(connection.Connection.send_if_ready)
        send_unless = _protected(connection.Connection.send_unless)
        ping = _protected(connection.Connection.ping)
        start_close = _protected(connection.Connection.start_close)
        abort = _protected(connection.Connection.abort)

    @_protected
    async def recv(self) -> str | bytes:
        """Return the next message; messages that arrived before the end are returned after it too.

        Raises ConnectionClosed when there is none left, ConcurrencyError when another task is waiting for one.
        """
        if self._inbox.messages or self.close_info is not None:
            await trio.lowlevel.checkpoint()
        return await super().recv()

    @_protected
    async def _recv_frame(self) -> Message:
        await trio.lowlevel.checkpoint()
        return await super()._recv_frame()

    async def __anext__(self) -> str | bytes:
        try:
            return await self.recv()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """Close with 1000, as all of trio's resources do."""
        await self.close()

    async def take_over(self, stream: trio.abc.Stream) -> None:
        """Begin on a stream whose opening handshake is done; those who attach streams call this."""
        begun = trio.Event()
        self.runtime.start(self._live, Transport(stream, self._pump), begun)
        await begun.wait()

    async def _live(self, transport: Transport, begun: trio.Event) -> None:
        self.start(transport)
        begun.set()
        await transport.run()


class attach(NurseryContext[Connection]):  # noqa: N801 - it is called like the function that it is to its users
    """A server-side connection on a stream whose upgrade another server has done: `async with attach(...) as ws`.

    stream: closed at the end.
    request, agreement: from `check_upgrade` and `agree`, whose headers that server has answered with its 101.
    config: the one given to `agree`.
    trailing_data: bytes that came behind the request.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        request: UpgradeRequest,
        agreement: Agreement,
        *,
        config: ConnectionConfig | None = None,
        trailing_data: bytes = b"",
    ) -> None:
        check_type("stream", stream, hasattr(stream, "send_all"), "a trio.abc.Stream")
        self._stream = stream
        self._request = request
        self._agreement = agreement
        self._config = connection.check_attached(request, agreement, config, trailing_data)
        self._trailing_data = trailing_data

    async def _begin(self, runtime: Runtime) -> Connection:
        core = connection.server_core(runtime, self._config, self._agreement, self._trailing_data)
        ws = Connection(runtime, core, self._config, self._request, self._agreement)
        await ws.take_over(self._stream)
        return ws

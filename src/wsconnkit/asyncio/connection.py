"""WebSocket connections on asyncio, and on transports of servers that parse HTTP themselves."""

from __future__ import annotations

import asyncio

from wsconnkit.asyncio.runtime import Runtime
from wsconnkit.asyncio.transport import Transport
from wsconnkit.managed import connection
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.upgrade import Agreement, UpgradeRequest
from wsconnkit.service.arguments import check_type


class Connection(connection.Connection):
    """A WebSocket connection; `serve` and `connect` make them, and `attach` does for other servers.

    One task may receive, any number may send, ping and close. A cancelled call leaves the connection whole.
    """

    def take_over(self, transport: asyncio.Transport) -> None:
        """Begin on a transport that somebody else has made; `attach` calls this."""
        wrapped = Transport(self._pump)
        wrapped.take_over(transport)
        self.start(wrapped)


def attach(
    transport: asyncio.Transport,
    request: UpgradeRequest,
    agreement: Agreement,
    *,
    config: ConnectionConfig | None = None,
    trailing_data: bytes = b"",
) -> Connection:
    """Return a server-side connection on a transport whose upgrade another server has done.

    transport: the protocol that it has is told when it ends, and nothing before.
    request, agreement: from `check_upgrade` and `agree`, whose headers that server has answered with its 101.
    config: the one given to `agree`.
    trailing_data: bytes that came behind the request.
    """
    is_transport = hasattr(transport, "set_protocol")
    check_type("transport", transport, is_transport, "a transport of this event loop")
    config = connection.check_attached(request, agreement, config, trailing_data)
    runtime = Runtime()
    core = connection.server_core(runtime, config, agreement, trailing_data)
    ws = Connection(runtime, core, config, request, agreement)
    ws.take_over(transport)
    return ws

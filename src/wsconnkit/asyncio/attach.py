"""WebSocket connections for servers that parse HTTP themselves."""

from __future__ import annotations

import asyncio

from wsconnkit.asyncio.connection import Connection
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.upgrade import Agreement, UpgradeRequest


def attach(
    transport: asyncio.Transport,
    request: UpgradeRequest,
    agreement: Agreement,
    *,
    config: ConnectionConfig | None = None,
    trailing_data: bytes = b"",
) -> Connection:
    """Return a server-side connection on a transport whose upgrade another server has done.

    request, agreement: from `check_upgrade` and `agree`, whose headers that server has answered with its 101.
    config: the one given to `agree`.
    trailing_data: bytes that came behind the request.
    """
    config = config or ConnectionConfig()
    now = asyncio.get_running_loop().time()
    core = ConnectionProtocol(Role.SERVER, config, now=now, deflate=agreement.deflate, trailing_data=trailing_data)
    connection = Connection(core, config, request, agreement)
    connection.start(transport)
    return connection

"""WebSocket connections for servers that parse HTTP themselves."""

from __future__ import annotations

import trio

from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.upgrade import Agreement, UpgradeRequest
from wsconnkit.trio.connection import Connection
from wsconnkit.trio.owner import Owner


class attach(Owner[Connection]):  # noqa: N801 - it is called like the function that it is to its users
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
        self._stream = stream
        self._request = request
        self._agreement = agreement
        self._config = config or ConnectionConfig()
        self._trailing_data = trailing_data

    async def _begin(self, nursery: trio.Nursery) -> Connection:
        now, deflate = trio.current_time(), self._agreement.deflate
        core = ConnectionProtocol(
            Role.SERVER, self._config, now=now, deflate=deflate, trailing_data=self._trailing_data
        )
        connection = Connection(core, self._config, self._request, self._agreement)
        nursery.start_soon(connection.run, self._stream)
        return connection

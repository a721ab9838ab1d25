"""What a connection tells of itself, on every event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from wsconnkit.machines.closing import State
from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.stats import ConnectionStats
from wsconnkit.protocol.upgrade import Agreement, UpgradeRequest
from wsconnkit.service.log import ConnectionLog
from wsconnkit.service.principal import Principal
from wsconnkit.service.session import Session
from wsconnkit.service.tokens import secrets_of


class BaseConnection:
    """The half of a connection that waits for nothing; an adapter's `Connection` adds the rest.

    session: what a server knows of the client; None for a client's own connection, or an attached one.
    """

    def __init__(
        self, core: ConnectionProtocol, request: UpgradeRequest, agreement: Agreement, session: Session | None
    ) -> None:
        self.log = session.log if session is not None else ConnectionLog(uuid4().hex, secrets=secrets_of(request))
        """Where the connection's events go."""
        self.upgrade_request = request
        """The request that the client opened the connection with."""
        self.response_headers = agreement.headers
        """The headers of the server's answer to it."""
        self.subprotocol = agreement.subprotocol
        """The subprotocol agreed on, or None."""
        self.remote_address: Any = None
        """The peer's address as the socket has it."""
        self.local_address: Any = None
        """Our address as the socket has it."""
        self._core = core
        self._session = session
        self._on_closed: list[Callable[[], None]] = []

    @property
    def id(self) -> str:
        """A unique name, for logs and for `server.connections`."""
        return self.log.connection_id

    @property
    def principal(self) -> Principal | None:
        """Who the connection belongs to; None without authentication."""
        return None if self._session is None else self._session.principal

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._core.state

    @property
    def latency(self) -> float | None:
        """Seconds from the last answered ping to its pong; None before the first."""
        return self._core.latency

    @property
    def stats(self) -> ConnectionStats:
        """What the connection has carried so far."""
        return self._core.stats

    @property
    def close_info(self) -> CloseInfo | None:
        """How the connection ended; None until then."""
        return self._core.close_info

    @property
    def is_healthy(self) -> bool:
        """The connection is open and no ping of the heartbeat has gone unanswered since the last byte."""
        return self._core.state is State.OPEN and not self._core.missed

    def call_when_closed(self, callback: Callable[[], None]) -> None:
        """Have `callback`, which must not raise, called when the connection ends, or now if it has."""
        if self._core.close_info is None:
            self._on_closed.append(callback)
        else:
            callback()

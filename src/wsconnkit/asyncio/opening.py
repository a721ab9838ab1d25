"""Drives an opening handshake, of either side, until a connection takes over the transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from wsconnkit.asyncio.connection import Connection
from wsconnkit.asyncio.transport import Alarm, end_writing, forget, has_half_close
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.connection import TransportAction
from wsconnkit.protocol.serverhandshake import ServerHandshake


class Opening(asyncio.Protocol):
    """The protocol of a transport on which a handshake is under way.

    on_progress: called after each change of the handshake; may write, and may hand over to a connection.
    on_end: called once, when the handshake is over for this protocol, one way or another.
    """

    def __init__(
        self,
        handshake: ServerHandshake | ClientHandshake,
        *,
        on_progress: Callable[[Opening], None],
        on_end: Callable[[Opening], None],
    ) -> None:
        self._handshake = handshake
        self._loop = asyncio.get_running_loop()
        self._on_progress = on_progress
        self._on_end = on_end
        self._alarm = Alarm(self._loop, self._on_timer)
        self._eof_written = False
        self.transport: asyncio.Transport | None = None
        self.remote_address: Any = None

    def hand_over(self, connection: Connection) -> None:
        """Give the transport to `connection`, for good; what is to be sent before goes out first."""
        transport = self.transport
        assert transport is not None  # there is progress only on a transport
        self._write(transport)
        self._end()
        connection.start(transport)

    def abort(self) -> None:
        """Drop the transport."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is of a class of its own
        self.remote_address = transport.get_extra_info("peername")
        self.pump()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._handshake.receive_data(data, self._loop.time())
        self.pump()

    def eof_received(self) -> bool:  # noqa: D102
        self._handshake.receive_eof(self._loop.time())
        self.pump()
        return has_half_close(self.transport)  # the handshake says when to close

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._handshake.receive_eof(self._loop.time(), exc if isinstance(exc, OSError) else None)
        self.pump()
        if self.transport is not None:
            forget(self.transport)
        self._end()

    def _on_timer(self) -> None:
        self._handshake.handle_timeout(self._loop.time())
        self.pump()

    def pump(self) -> None:
        """Write, obey and re-arm; to be called after every change of the handshake."""
        self._on_progress(self)
        transport = self.transport
        if transport is None:
            return  # handed over, or lost
        self._write(transport)
        if self._handshake.transport_action is TransportAction.ABORT:
            transport.abort()
        elif self._handshake.transport_action is TransportAction.SEND_EOF and not self._eof_written:
            self._eof_written = True
            end_writing(transport)
        self._alarm.set(self._handshake.next_timeout())

    def _write(self, transport: asyncio.Transport) -> None:
        data = self._handshake.data_to_send()
        if data:
            transport.write(data)

    def _end(self) -> None:
        self._alarm.cancel()
        if self.transport is not None:
            self.transport = None
            self._on_end(self)

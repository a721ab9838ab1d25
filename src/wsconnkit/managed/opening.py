"""Drives an opening handshake, of either side, until a connection takes over the transport."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from wsconnkit.managed.connection import Connection
from wsconnkit.managed.runtime import Runtime
from wsconnkit.managed.transport import Transport
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.protocol.transportaction import TransportAction

_QUIET = 0.1
"""Seconds without a byte from the peer after which a refusal has most likely arrived before our end of TLS."""


class OpeningHandshake:
    """The protocol of a transport on which a handshake is under way.

    on_progress: called after each change of the handshake; may write, and may hand over to a connection.
    on_end: called once, when the handshake is over for this protocol, one way or another.
    abort: ends what will be the transport, while it is not there. With it the handshake's time begins at once; a client
        has its own limit for the way to the server.
    """

    def __init__(
        self,
        runtime: Runtime,
        handshake: ServerHandshake | ClientHandshake,
        *,
        on_progress: Callable[[OpeningHandshake], None],
        on_end: Callable[[OpeningHandshake], None],
        abort: Callable[[], None] | None = None,
    ) -> None:
        self._handshake = handshake
        self._now = runtime.now
        deadline = handshake.next_timeout()
        self._patience = inf if deadline is None else deadline - runtime.now()
        """Seconds that the peer may take to read what we write."""
        self._on_progress = on_progress
        self._on_end = on_end
        self._alarm = runtime.alarm(self._on_alarm)
        self._abort_early = abort
        self._is_aborted = False
        self._has_ended = False
        self._is_eof_written = False
        self.transport: Transport | None = None
        self.remote_address: Any = None
        self._watch_early()

    def hand_over(self, connection: Connection) -> None:
        """Give the transport to `connection`, for good; what is to be sent before goes out first."""
        transport = self.transport
        assert transport is not None  # there is progress only on a transport
        self._write(transport)
        self._end()
        connection.start(transport)

    def abort(self) -> None:
        """Drop the transport, also one that is still to come."""
        self._is_aborted = True
        if self.transport is not None:
            self.transport.abort()
        elif self._abort_early is not None and not self._has_ended:
            self._abort_early()

    # What a transport calls.

    def connection_made(self, transport: Transport) -> None:
        """Begin on `transport`."""
        self.transport = transport
        self.remote_address = transport.remote_address
        if self._is_aborted:
            transport.abort()
        else:
            self.pump()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self._handshake.receive_data(data, self._now())
        self.pump()

    def eof_received(self) -> None:  # noqa: D102
        self._handshake.receive_eof(self._now())
        self.pump()

    def connection_lost(self, error: OSError | None) -> None:  # noqa: D102
        self._handshake.transport_lost(self._now(), error)
        self.pump()
        self._end()

    def pause_writing(self) -> None:
        """Nothing waits for room here: what a handshake writes is bounded."""

    def resume_writing(self) -> None:
        """The same."""

    def writing_progressed(self) -> None:
        """The same."""

    def cancelled(self) -> None:  # noqa: D102
        self.abort()

    def pump(self) -> None:
        """Write, obey and re-arm; to be called after every change of the handshake."""
        self._on_progress(self)
        transport = self.transport
        if transport is None:
            self._watch_early()
            return  # not there yet, handed over, or lost
        self._write(transport)
        if self._handshake.transport_action is TransportAction.ABORT:
            transport.abort()
        elif self._handshake.transport_action is TransportAction.SEND_EOF and not self._is_eof_written:
            self._is_eof_written = True
            transport.write_eof(_QUIET)
        self._alarm.set(self._handshake.next_timeout())

    def _watch_early(self) -> None:
        """Hold those who have no transport yet to the handshake's time."""
        if self._abort_early is None or self._has_ended:
            return
        if self._handshake.transport_action is TransportAction.ABORT:
            self.abort()
        else:
            self._alarm.set(self._handshake.next_timeout())

    def _on_alarm(self) -> None:
        self._handshake.handle_timeout(self._now())
        self.pump()

    def _write(self, transport: Transport) -> None:
        data = self._handshake.data_to_send()
        if data:
            transport.write(data)
            transport.set_write_deadline(self._now() + self._patience)

    def _end(self) -> None:
        self._alarm.cancel()
        self.transport = None
        if not self._has_ended:
            self._has_ended = True
            self._on_end(self)

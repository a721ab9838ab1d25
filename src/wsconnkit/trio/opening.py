"""Drives an opening handshake, of either side, until a connection takes over the stream."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import trio

from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.connection import TransportAction
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.trio.transport import MAX_READ, drop, end_writing, os_error

_QUIET = 0.1
"""Seconds without a byte from the peer after which our end can be told by closing, so that no reset overtakes it."""


class Opening:
    """A stream on which a handshake is under way.

    on_progress: called after each change of the handshake; may answer it.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        handshake: ServerHandshake | ClientHandshake,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._stream = stream
        self._handshake = handshake
        self._on_progress = on_progress
        self._patience = self._deadline - trio.current_time()
        """Seconds that the peer may take to read what ends the handshake, of which the handshake knows no deadline."""
        self._waiting = trio.CancelScope()
        self._is_changed = False
        self._is_quiet = isinstance(stream, trio.abc.HalfCloseableStream)
        """Whether our end can be told at once; else nothing must be coming any more."""
        self._eof_written = False

    def changed(self) -> None:
        """Go on: the handshake was changed by someone else than the peer."""
        self._is_changed = True
        self._waiting.cancel()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> bool:
        """Carry the handshake to its end; return whether there is a connection to take over the stream."""
        handshake = self._handshake
        while True:
            self._is_changed = False
            self._on_progress()
            await self._write()
            if handshake.transport_action is TransportAction.ABORT:
                return False
            if handshake.agreement is not None:
                return True
            if not self._is_changed:
                await self._wait()

    async def _write(self) -> None:
        data = self._handshake.data_to_send()
        deadline = min(self._deadline, trio.current_time() + self._patience)
        with trio.CancelScope(deadline=deadline) as scope:
            try:
                if data:
                    await self._stream.send_all(data)
                if self._is_ending and self._is_quiet:
                    self._eof_written = True
                    await end_writing(self._stream)
            except trio.BrokenResourceError as error:
                self._handshake.receive_eof(trio.current_time(), os_error(error))
            except trio.ClosedResourceError:  # the application has the stream, too
                self._handshake.receive_eof(trio.current_time())
        if scope.cancelled_caught:  # a part of it may have gone out
            await drop(self._stream)
            self._handshake.receive_eof(trio.current_time(), TimeoutError("the peer does not read"))

    async def _wait(self) -> None:
        """Wait for the peer, for the deadline, or for a change."""
        is_listening = self._is_ending  # and not ended, for want of quiet
        quiet_at = trio.current_time() + _QUIET if is_listening else inf
        self._waiting = trio.CancelScope(deadline=min(self._deadline, quiet_at))
        data: bytes | bytearray | None = None
        with self._waiting:
            try:
                data = await self._stream.receive_some(MAX_READ)
            except trio.BrokenResourceError as error:
                self._handshake.receive_eof(trio.current_time(), os_error(error))
                return
            except trio.ClosedResourceError:  # TLS has no half-close
                data = b""
        now = trio.current_time()
        if data:
            self._handshake.receive_data(bytes(data), now)
        elif data is not None:
            self._handshake.receive_eof(now)
        else:
            self._is_quiet = self._is_quiet or is_listening
            self._handshake.handle_timeout(now)

    @property
    def _is_ending(self) -> bool:
        """Whether our end is still to be told."""
        return self._handshake.transport_action is TransportAction.SEND_EOF and not self._eof_written

    @property
    def _deadline(self) -> float:
        timeout = self._handshake.next_timeout()
        return inf if timeout is None else timeout

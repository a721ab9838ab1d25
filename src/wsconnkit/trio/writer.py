"""The task that writes to a connection's stream, which no caller's cancellation reaches."""

from __future__ import annotations

from collections.abc import Callable

import trio

from wsconnkit.machines.closing import State
from wsconnkit.protocol.connection import ConnectionProtocol, TransportAction
from wsconnkit.trio.senders import Senders
from wsconnkit.trio.transport import drop, end_writing, os_error

_CHUNK = 64 * 1024
"""Bytes that are written at once; after each the core is told that the peer has taken them."""
LINGER = 0.1
"""Seconds that a released stream may take to write what it still holds."""


class Writer:
    """Writes what `core` gives, whole, and obeys it.

    high_water: bytes to be written above which those who send wait.
    on_end: called when the stream has ended, with what the operating system said of it.
    on_deadline: called when the core may want to be woken at another time.
    """

    def __init__(
        self,
        core: ConnectionProtocol,
        high_water: int,
        *,
        on_end: Callable[[OSError | None], None],
        on_deadline: Callable[[], None],
    ) -> None:
        self._core = core
        self._high_water = high_water
        self._on_end = on_end
        self._on_deadline = on_deadline
        self.on_sent: Callable[[int], None] | None = None
        """Called with the size of each message that goes out after it had to wait, in bytes."""
        self.senders = Senders(core)
        self.is_released = False
        """The stream has ended."""
        self._line = core.outbox.line
        self._is_full = False  # more is to be written than may be
        self._writes = 0  # bytes that have left the core and are still to be written
        self._eof_written = False
        self._idle = trio.lowlevel.ParkingLot()
        self._life = trio.CancelScope(shield=True)

    @trio.lowlevel.enable_ki_protection
    async def run(self, stream: trio.abc.Stream) -> None:
        """Write until there is nothing left to do, then drop the stream."""
        error = None
        try:
            with self._life:
                while await self._write_one(stream):
                    pass
        except trio.BrokenResourceError as broken:
            error = os_error(broken)
        except trio.ClosedResourceError:
            pass
        finally:
            self._writes = 0
            try:
                await drop(stream)
            finally:
                self._on_end(error)

    @property
    def unsent(self) -> int:
        """Bytes that wait for the network."""
        return self._core.outbox.size + self._core.bytes_to_send + self._writes

    @property
    def is_ending(self) -> bool:
        """Nothing can be sent any more."""
        return self._core.state is not State.OPEN or self.is_released

    @property
    def is_ready_to_send(self) -> bool:
        """A message that is sent now will go out, before no other, and the stream has room."""
        return not (self._is_full or self._line or self.is_ending)

    def flush(self) -> None:
        """Have written what there is to send, and the core obeyed."""
        self._look_at_room()
        if self._line:
            self._send_waiting()
        if self._core.transport_action is TransportAction.ABORT:
            self.release_soon()
        self._idle.unpark_all()
        if self.senders.in_line:
            self.senders.wake()

    def look_for_stuck_bytes(self) -> None:
        """Tell the core that something is stuck, also where it is less than the high-water mark."""
        if self._writes and not self._is_full:
            self._fill()

    def release_soon(self) -> None:
        """End the stream when what there is to write is written, which may take a moment."""
        self._life.deadline = min(self._life.deadline, trio.current_time() + LINGER)

    def abort(self) -> None:
        """Drop the stream at once."""
        self._life.cancel()

    async def _write_one(self, stream: trio.abc.Stream) -> bool:
        """Write what there is, or obey the core, or wait for either; False when there is nothing left to do."""
        data = memoryview(self._core.data_to_send())
        if data:
            self._writes = len(data)
            for start in range(0, len(data), _CHUNK):
                await stream.send_all(data[start : start + _CHUNK])
                self._writes = max(0, len(data) - start - _CHUNK)
                if self._is_full:
                    self._core.writing_progressed(trio.current_time())
            return True
        if self._is_full:
            self._is_full = False
            self._core.writing_resumed(trio.current_time())
            self.senders.resume()
            self.flush()
        elif self.is_released or self._core.transport_action is TransportAction.ABORT:
            return False
        elif self._line and self._send_waiting():
            pass
        elif self._core.transport_action is TransportAction.SEND_EOF and not self._eof_written:
            self._eof_written = True
            await end_writing(stream)
        else:
            await self._idle.park()
        return True

    def _send_waiting(self) -> bool:
        """Take as much of what waits as there is room for; tell whether that was anything."""
        sent = False
        while sizes := self._core.send_waiting(trio.current_time()):
            sent = True
            self._look_at_room()
            if self.on_sent is not None:
                for size in sizes:
                    self.on_sent(size)
        return sent

    def _look_at_room(self) -> None:
        if not self._is_full and self._writes + self._core.bytes_to_send > self._high_water:
            self._fill()

    def _fill(self) -> None:
        """Take no more until all is written, which tells the core that a ping has left."""
        self._is_full = True
        self.senders.pause()
        self._core.writing_paused(trio.current_time())
        self._on_deadline()

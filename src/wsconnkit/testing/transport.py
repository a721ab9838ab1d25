"""A transport over the pipes of a link in memory."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from wsconnkit.managed.transport import TransportProtocol
from wsconnkit.testing.pipe import Pipe
from wsconnkit.testing.runtime import Runtime

_LINGER = 0.1
"""Seconds that a released transport may take to write what it still holds."""
_MAX_READ = 64 * 1024
"""Bytes that are read at once."""


class MemoryTransport:
    """One end of a link: it reads from `inbound` and writes into `outbound`; what is under way there has left."""

    collects_writes = False

    def __init__(
        self,
        runtime: Runtime,
        protocol: TransportProtocol,
        inbound: Pipe,
        outbound: Pipe,
        *,
        local_address: Any = None,
        remote_address: Any = None,
    ) -> None:
        self.local_address = local_address
        self.remote_address = remote_address
        self._runtime = runtime
        self._protocol = protocol
        self._inbound = inbound
        self._outbound = outbound
        self._high_water = 64 * 1024
        self._unsent = b""
        self._due = 0  # bytes that must have left at the write deadline
        self._is_full = False
        self._is_reading = True
        self._eof_received = False
        self._eof_wanted = False
        self._is_closing = False
        self._has_ended = False
        self._error: OSError | None = None
        self._reading = runtime.alarm(self._on_arrival)
        self._writing = runtime.alarm(self._write_unsent)
        self._deadline = runtime.alarm(self._on_write_deadline)
        self._reset = runtime.alarm(self._on_reset)
        self._end_at = runtime.alarm(self._end)
        inbound.on_arrival = self._await_arrival
        outbound.on_room = self._await_room
        self._await_arrival()

    def set_protocol(self, protocol: TransportProtocol) -> None:
        """Call `protocol` from now on."""
        self._protocol = protocol

    def set_write_buffer_limits(self, high: int) -> None:
        """Pause the protocol when more than `high` bytes are unwritten; resume it when all have left."""
        self._high_water = high

    def write(self, data: bytes) -> None:
        """Write `data` behind what was written before; nothing after `release` or `abort`."""
        if self._is_closing:
            return
        self._unsent += data
        self._put()
        if len(self._unsent) > self._high_water:
            self._fill()

    write_at_once = write

    def get_write_buffer_size(self) -> int:
        """Return how many bytes have not left."""
        return len(self._unsent)

    def set_write_deadline(self, at: float) -> None:
        """End with a TimeoutError when what is unwritten now has not left at `at`."""
        self._deadline.cancel()
        self._due = len(self._unsent)
        if self._due:
            self._deadline.set(at)

    def watch_writing(self) -> None:
        """Tell of what is stuck below the high-water mark too; of what leaves, this transport always tells."""
        if self._unsent and not self._is_closing:
            self._fill()

    def write_eof(self, quiet: float = 0.0) -> None:
        """End our direction behind what was written."""
        self._eof_wanted = True
        self._put()

    def release(self) -> None:
        """Write what is left, for a tenth of a second at most, and end."""
        self._is_closing = True
        self._end_at.set(self._runtime.now() + (_LINGER if self._unsent else 0.0))

    def abort(self) -> None:
        """End at once."""
        self._is_closing = True
        self._end_at.set(-inf)

    def lose(self, error: OSError | None = None) -> None:
        """End here and now, as a network does that breaks."""
        self._error = error
        self._end()

    def read(self, limit: int | None) -> int:
        """Read what has arrived, at most `limit` bytes, and return how many they were; none while reading is paused."""
        if not self._is_reading or self._has_ended:
            return 0
        now = self._runtime.now()
        data = self._inbound.read(now, limit)
        if data:
            self._protocol.data_received(data)
        elif self._inbound.at_eof(now) and not self._eof_received:
            self._eof_received = True
            self._protocol.eof_received()
            if self._eof_wanted:
                self._put()
        self._await_arrival()
        return len(data)

    def is_closing(self) -> bool:
        """It has ended, or is about to."""
        return self._is_closing

    def pause_reading(self) -> None:
        """Call no `data_received`."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """Call `data_received` again."""
        self._is_reading = True
        self._await_arrival()

    def call_soon(self, callback: Callable[[], None], /) -> None:
        """Call back when those who can run now have had their turn."""
        self._runtime.call_soon(lambda: None if self._has_ended else callback())

    # What the pipes and the alarms call.

    def _await_arrival(self) -> None:
        if self._is_reading and not self._eof_received and not self._has_ended:
            self._reading.set(self._inbound.next_arrival())

    def _on_arrival(self) -> None:
        self.read(_MAX_READ)

    def _await_room(self) -> None:
        if self._unsent:
            self._writing.set(self._runtime.now())

    def _write_unsent(self) -> None:
        if self._has_ended:
            return
        self._put()
        if self._is_full:
            if self._unsent:
                self._protocol.writing_progressed()
            else:
                self._is_full = False
                self._protocol.resume_writing()

    def _put(self) -> None:
        """Write what there is room for, and then the end."""
        now = self._runtime.now()
        if self._unsent and self._outbound.is_abandoned:
            self._reset.set(now + 2 * self._outbound.latency)  # which is how TCP tells that nobody is there
        size = self._outbound.write(self._unsent, now)
        self._unsent = self._unsent[size:]
        self._due -= size
        if self._unsent:
            return
        if self._eof_wanted:
            self._outbound.write_eof(now)
        if self._is_closing or (self._eof_wanted and self._eof_received):
            self._end_at.set(now)

    def _on_write_deadline(self) -> None:
        if self._due > 0:
            self._error = TimeoutError("the peer does not read")
            self.abort()

    def _on_reset(self) -> None:
        self.lose(ConnectionResetError("the peer has gone"))

    def _fill(self) -> None:
        """Have no more until all is written, which tells the core that a ping has left."""
        if not self._is_full:
            self._is_full = True
            self._protocol.pause_writing()

    def _end(self) -> None:
        if self._has_ended:
            return
        self._has_ended = self._is_closing = True
        for alarm in (self._reading, self._writing, self._deadline, self._reset, self._end_at):
            alarm.cancel()
        self._unsent = b""
        self._inbound.abandon()
        self._outbound.write_eof(self._runtime.now())
        self._protocol.connection_lost(self._error)

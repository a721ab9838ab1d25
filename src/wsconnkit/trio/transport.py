"""A transport, as asyncio has them, over any stream of trio: a task that reads, and one that writes."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import trio

from wsconnkit.managed.transport import TransportProtocol
from wsconnkit.trio.tls import os_error

MAX_READ = 64 * 1024
"""Bytes that are read at once."""
_CHUNK = 64 * 1024
"""Bytes that are written at once; after each the protocol is told that the peer has taken them."""
_TURNS = 3
"""Times that others have their turn after a read, so that an application has answered what came before the next.

A read is a turn by itself; to receive a message and to answer it takes more.
"""
_LINGER = 0.1
"""Seconds that a released transport may take to write what it still holds."""


class Transport:
    """The way to the peer over `stream`, which is closed at the end."""

    collects_writes = True

    def __init__(self, stream: trio.abc.Stream, protocol: TransportProtocol) -> None:
        self.local_address: Any
        self.remote_address: Any
        self.local_address, self.remote_address = addresses(stream)
        self._stream = stream
        self._protocol = protocol
        self._nursery: trio.Nursery | None = None
        self._soon: list[Callable[[], None]] = []  # what is to be called back, before there is a nursery
        self._high_water = 64 * 1024
        self._buffer: list[bytes] = []
        self._size = 0  # bytes that have not left, of what is being written too
        self._due, self._write_deadline = 0, inf  # bytes that must have left by then
        self._is_full = False
        self._is_reading = True
        self._eof_received = self._eof_sent = False
        self._eof_wanted: float | None = None  # for how long it must be quiet before
        self._last_read = 0.0
        self._is_closing = False
        self._has_ended = False
        self._error: OSError | None = None
        self._writer = trio.lowlevel.ParkingLot()
        self._reader = trio.lowlevel.ParkingLot()
        self._reading = trio.CancelScope()
        self._writing = trio.CancelScope(shield=True)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Carry bytes until both directions have ended; cancelled, tell the protocol and end soon."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._write_all)
            for callback in self._soon:
                self.call_soon(callback)
            try:
                with self._reading:
                    await self._read_all()
            except BaseException:
                self.abort()
                raise

    async def _read_all(self) -> None:
        try:
            await self._read()
        except trio.Cancelled:
            if self._has_ended:
                raise
            # Not raised again: this task ends by itself, and whoever is cancelled learns it where they wait. The
            # deadline is for a stream whose end does not end a read of it.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * _LINGER):
                self._protocol.cancelled()
                self.release()
                await self._read()

    async def _read(self) -> None:
        while not self._has_ended:
            if self._eof_received or not self._is_reading:
                # Unparked when reading goes on, and at the end.
                await self._reader.park()
                continue
            try:
                data = await self._stream.receive_some(MAX_READ)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._error = self._error or os_error(error)
                self.abort()
                self._is_reading = False
            else:
                self._last_read = trio.current_time()
                if data:
                    self._protocol.data_received(bytes(data))
                    for _ in range(_TURNS):
                        await trio.lowlevel.checkpoint()
                else:
                    self._eof_received = True
                    self._protocol.eof_received()
                    self._writer.unpark_all()

    @trio.lowlevel.enable_ki_protection
    async def _write_all(self) -> None:
        try:
            with self._writing:
                while await self._write_some():
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._error = self._error or os_error(error)
        finally:
            self._is_closing = True
            try:
                await drop(self._stream)
            finally:
                self._has_ended = True
                self._buffer.clear()
                self._size = 0
                self._reading.cancel()
                self._reader.unpark_all()
                self._protocol.connection_lost(self._error)

    async def _write_some(self) -> bool:
        """Write what there is, or end, or wait for something to do; False when there is nothing left to do."""
        if self._buffer:
            data = memoryview(self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer))
            self._buffer.clear()
            for start in range(0, len(data), _CHUNK):
                chunk = data[start : start + _CHUNK]
                if self._write_deadline == inf:
                    await self._stream.send_all(chunk)
                elif not await self._send_in_time(chunk):
                    return False
                self._size -= len(chunk)
                if self._is_full:
                    self._protocol.writing_progressed()
        elif self._is_full:
            self._is_full = False
            self._protocol.resume_writing()
        elif self._is_closing or (self._eof_sent and self._eof_received):
            return False
        elif self._eof_wanted is not None:
            quiet, self._eof_wanted = self._eof_wanted, None
            await self._end_writing(quiet)
        else:
            await self._writer.park()
        return True

    async def _send_in_time(self, chunk: memoryview) -> bool:
        with trio.CancelScope(deadline=self._write_deadline) as scope:
            await self._stream.send_all(chunk)
        if scope.cancelled_caught:
            self._error = TimeoutError("the peer does not read")
            return False
        self._due -= len(chunk)
        if self._due <= 0:
            self._write_deadline = inf
        return True

    async def _end_writing(self, quiet: float) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
            self._eof_sent = True
            return
        self._last_read = trio.current_time()
        while quiet and trio.current_time() < self._last_read + quiet and not self._eof_received:  # noqa: ASYNC110
            await trio.sleep_until(self._last_read + quiet)
        await self._stream.aclose()
        self._is_closing = True

    # What the protocol calls.

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
        self._buffer.append(data)
        self._size += len(data)
        self._writer.unpark_all()
        if self._size > self._high_water:
            self._fill()

    write_at_once = write

    def get_write_buffer_size(self) -> int:
        """Return how many bytes have not left."""
        return self._size

    def set_write_deadline(self, at: float) -> None:
        """End with a TimeoutError when what is unwritten now has not left at `at`."""
        self._due, self._write_deadline = self._size, at

    def watch_writing(self) -> None:
        """Tell of what is stuck below the high-water mark too; of what leaves, this transport always tells."""
        if self._size:
            self._fill()

    def write_eof(self, quiet: float = 0.0) -> None:
        """End our direction behind what was written; TLS has no half-close: there it ends when it has been quiet."""
        self._eof_wanted = quiet
        self._writer.unpark_all()

    def release(self) -> None:
        """Write what is left, for a tenth of a second at most, and end."""
        self._is_closing = True
        self._writing.deadline = min(self._writing.deadline, trio.current_time() + _LINGER)
        self._writer.unpark_all()

    def abort(self) -> None:
        """End at once, but for a handshake that was not written yet: the peer is to know that it had a connection."""
        if self._due > 0 and not self._is_closing:
            self.release()
        else:
            self._is_closing = True
            self._writing.cancel()

    def is_closing(self) -> bool:
        """It has ended, or is about to."""
        return self._is_closing

    def pause_reading(self) -> None:
        """Call no `data_received`, but for what is being read."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """Call `data_received` again."""
        self._is_reading = not self._is_closing
        self._reader.unpark_all()

    def call_soon(self, callback: Callable[[], None], /) -> None:
        """Call back when those who can run now have had their turn."""
        if self._nursery is None:
            self._soon.append(callback)
        elif not self._has_ended:
            self._nursery.start_soon(self._call, callback)

    @staticmethod
    @trio.lowlevel.enable_ki_protection
    async def _call(callback: Callable[[], None]) -> None:
        callback()

    def _fill(self) -> None:
        """Have no more until all is written, which tells the core that a ping has left."""
        if not self._is_full:
            self._is_full = True
            self._protocol.pause_writing()


async def drop(stream: trio.abc.Stream) -> None:
    """Close the stream at once, also where everything is being cancelled."""
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(stream)


def addresses(stream: trio.abc.Stream) -> tuple[Any, Any]:
    """Return our address and the peer's, None each where the stream is over no socket."""
    inner: object = stream
    while isinstance(inner, trio.SSLStream):
        inner = inner.transport_stream
    if not isinstance(inner, trio.SocketStream):
        return None, None
    try:
        return inner.socket.getsockname(), inner.socket.getpeername()
    except OSError:  # the peer has left already
        return None, None

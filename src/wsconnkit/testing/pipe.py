"""One direction of a link in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Pipe:
    """One direction of a link: bytes in order, each chunk there `latency` seconds after it was written.

    capacity: bytes that may be under way; what is beyond waits at the sender. None: any number.
    """

    def __init__(self, latency: float = 0.0, capacity: int | None = None) -> None:
        self.latency = latency
        self.capacity = capacity
        self.on_arrival: Callable[[], None] | None = None
        """Called when `next_arrival` may have become earlier."""
        self.on_room: Callable[[], None] | None = None
        """Called when there may be room again."""
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._eof_at: float | None = None
        self._is_stopped = False
        self._is_abandoned = False
        self.in_flight: int = 0

    @property
    def is_abandoned(self) -> bool:
        """Nobody reads it any more."""
        return self._is_abandoned

    @property
    def stopped(self) -> bool:
        """While True nothing arrives; what is written waits."""
        return self._is_stopped

    @stopped.setter
    def stopped(self, stopped: bool) -> None:
        self._is_stopped = stopped
        self._tell(self.on_arrival)

    def write(self, data: bytes, now: float) -> int:
        """Take as many bytes of `data` as there is room for and return their number."""
        if self._is_abandoned:
            return len(data)
        room = len(data) if self.capacity is None else max(0, min(len(data), self.capacity - self.in_flight))
        if room:
            self._chunks.append((now + self.latency, data[:room]))
            self.in_flight += room
            self._tell(self.on_arrival)
        return room

    def write_eof(self, now: float) -> None:
        """End this direction behind what was written."""
        if self._eof_at is None:
            self._eof_at = now + self.latency
            self._tell(self.on_arrival)

    def read(self, now: float, limit: int | None = None) -> bytes:
        """Return the bytes that have arrived, at most `limit`."""
        parts: list[bytes] = []
        size = 0
        while self._chunks and not self.stopped and self._chunks[0][0] <= now and (limit is None or size < limit):
            at, chunk = self._chunks.popleft()
            if limit is not None and len(chunk) > limit - size:
                self._chunks.appendleft((at, chunk[limit - size :]))
                chunk = chunk[: limit - size]
            parts.append(chunk)
            size += len(chunk)
        self.in_flight -= size
        if size:
            self._tell(self.on_room)
        return b"".join(parts)

    def abandon(self) -> None:
        """Read no more: what is under way is lost, and so is what is written from now on."""
        self._is_abandoned = True
        self._chunks.clear()
        self.in_flight = 0
        self._tell(self.on_room)

    def at_eof(self, now: float) -> bool:
        """Tell whether everything was read and the end has arrived."""
        return self._eof_at is not None and not self.stopped and not self._chunks and self._eof_at <= now

    def next_arrival(self) -> float | None:
        """Return when the next bytes, or the end, will be there; None when nothing is under way."""
        if self.stopped:
            return None
        return self._chunks[0][0] if self._chunks else self._eof_at

    @staticmethod
    def _tell(callback: Callable[[], None] | None) -> None:
        if callback is not None:
            callback()

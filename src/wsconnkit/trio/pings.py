"""The pings of the application that wait for their pongs."""

from __future__ import annotations

import trio

from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.errors import ConcurrencyError, connection_closed
from wsconnkit.trio.future import Future


class Pings:
    """Waits for pongs; each ping in it has a payload of its own."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[float, Future[float]]] = {}

    def check(self, payload: bytes) -> None:
        """Raise ConcurrencyError when a ping with this payload waits already."""
        if payload in self._waiting:
            raise ConcurrencyError("a ping with this payload waits for its pong already")

    async def pong(self, payload: bytes, sent_at: float) -> float:
        """Wait for the pong to a ping that was sent at `sent_at`; return the seconds between them."""
        pong: Future[float] = Future()
        self._waiting[payload] = sent_at, pong
        try:
            return await pong.get()
        finally:
            self._waiting.pop(payload, None)

    def on_pong(self, payload: bytes) -> None:
        """A pong has arrived."""
        if payload not in self._waiting:
            return
        # A pong answers the pings before its own as well (RFC 6455, section 5.5.3).
        for earlier in list(self._waiting):
            sent_at, pong = self._waiting.pop(earlier)
            pong.set_result(trio.current_time() - sent_at)
            if earlier == payload:
                break

    def on_closed(self, info: CloseInfo) -> None:
        """The connection has ended."""
        for _, pong in self._waiting.values():
            pong.set_exception(connection_closed(info))

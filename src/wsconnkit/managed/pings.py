"""The pings of the application that wait for their pongs."""

from __future__ import annotations

from wsconnkit.managed.pump import Pump
from wsconnkit.managed.runtime import Future, Runtime
from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.errors import ConcurrencyError, connection_closed
from wsconnkit.service.arguments import check_type


class Pings:
    """Sends pings and waits for their pongs; each that waits has a payload of its own."""

    def __init__(self, runtime: Runtime, pump: Pump) -> None:
        self._runtime = runtime
        self._pump = pump
        self._waiting: dict[bytes, tuple[float, Future]] = {}

    async def ping(self, payload: bytes | bytearray | memoryview | None) -> float:
        """Send a ping and wait for its pong; return the seconds between them."""
        is_bytes = payload is None or isinstance(payload, (bytes, bytearray, memoryview))
        check_type("payload", payload, is_bytes, "bytes, such as b'text', or None for a random one")
        await self._pump.wait_until_writable()
        if payload is not None:
            payload = bytes(memoryview(payload))
            if payload in self._waiting:
                raise ConcurrencyError("a ping with this payload waits for its pong already")
        sent_at = self._runtime.now()
        payload = self._pump.core.ping(payload, sent_at)
        self._pump.flush()
        pong = self._runtime.future()
        self._waiting[payload] = sent_at, pong
        try:
            outcome: float | Exception = await pong
        finally:
            self._waiting.pop(payload, None)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def on_pong(self, payload: bytes) -> None:
        """A pong has arrived."""
        if payload not in self._waiting:
            return
        # A pong answers the pings before its own as well (RFC 6455, section 5.5.3).
        for earlier in list(self._waiting):
            sent_at, pong = self._waiting.pop(earlier)
            if not pong.done():
                pong.set_result(self._runtime.now() - sent_at)
            if earlier == payload:
                break

    def on_closed(self, info: CloseInfo) -> None:
        """The connection has ended."""
        for _, pong in self._waiting.values():
            if not pong.done():
                pong.set_result(connection_closed(info))

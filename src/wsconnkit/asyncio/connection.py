"""A WebSocket connection on asyncio: carries out what the core decides, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from typing_extensions import Self

from wsconnkit.asyncio.pump import Pump
from wsconnkit.machines.closing import State
from wsconnkit.protocol.closeinfo import Cause, CloseInfo
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import Connection as Core
from wsconnkit.protocol.connection import ConnectionStats
from wsconnkit.protocol.errors import ConcurrencyError, ConnectionClosed, ConnectionClosedOK, connection_closed
from wsconnkit.protocol.events import Closed, Event, PongReceived
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.handshake import Agreement, UpgradeRequest
from wsconnkit.service.log import log_event

_TURN = 128
"""Messages sent after which other tasks have their turn."""


class Connection:
    """A WebSocket connection; `serve` and `connect` make them, and `attach` does for other servers.

    One task may receive, any number may send, ping and close. A cancelled call leaves the connection whole.
    """

    def __init__(self, core: Core, config: ConnectionConfig, request: UpgradeRequest, agreement: Agreement) -> None:
        self.id = uuid4().hex
        """A unique name for logs."""
        self.request = request
        """The request that the client opened the connection with."""
        self.response_headers = agreement.headers
        """The headers of the server's answer to it."""
        self.subprotocol = agreement.subprotocol
        """The subprotocol agreed on, or None."""
        self._core = core
        self._pump = Pump(core, config.queue, on_frames=self._on_frames, on_event=self._on_event)
        self._inbox = self._pump.inbox
        self._loop = self._pump.loop
        self._receiver: asyncio.Future[None] | None = None
        self._calls = 0
        self._pings: dict[bytes, tuple[float, asyncio.Future[float]]] = {}
        self.remote_address: Any = None
        """The peer's address as the socket has it."""
        self.local_address: Any = None
        """Our address as the socket has it."""

    def start(self, transport: asyncio.Transport) -> None:
        """Take over a transport whose opening handshake is done; `serve`, `connect` and `attach` call this."""
        self.remote_address = transport.get_extra_info("peername")
        self.local_address = transport.get_extra_info("sockname")
        transport.set_protocol(self._pump)
        self._pump.connection_made(transport)

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

    async def recv(self) -> str | bytes:
        """Return the next message; messages that arrived before the end are returned after it too.

        Raises ConnectionClosed when there is none left, ConcurrencyError when another task is waiting for one.
        """
        while (message := self._inbox.get_message()) is None:
            await self._frames()
        if not self._pump.reading:
            self._pump.resume_reading()
        return message

    async def recv_streaming(self) -> AsyncIterator[str | bytes]:
        """Yield the next message frame by frame, as the peer fragmented it; raises as `recv` does."""
        final = False
        while not final:
            while (frame := self._inbox.get_frame()) is None:
                await self._frames()
            if not self._pump.reading:
                self._pump.resume_reading()
            final = frame.final
            yield frame.data

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            while (message := self._inbox.get_message()) is None:
                await self._frames()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None
        if not self._pump.reading:
            self._pump.resume_reading()
        return message

    async def send(self, message: str | bytes | bytearray | memoryview) -> None:
        """Send a message, text for `str` and binary otherwise, after waiting while too much is unsent.

        When it returns, the message will go out whole; cancelled while it waits, it has sent nothing. Raises
        ConnectionClosed when the connection has ended or is ending, TypeError for other types.
        """
        self._calls += 1
        if self._calls % _TURN == 0:
            await asyncio.sleep(0)  # a peer that reads as fast as we send must not keep the loop for itself
        pump = self._pump
        if not pump.is_ready_to_send:
            await self._ready_to_send()
        self._core.send(message, self._loop.time())
        pump.flush_soon()

    async def ping(self, payload: bytes | bytearray | memoryview | None = None) -> float:
        """Send a ping, wait for its pong and return the seconds between them.

        Raises ConnectionClosed when the connection ends first, ConcurrencyError when a ping with this payload is
        waiting already, LocalProtocolError for a payload of more than 125 bytes.
        """
        await self._ready_to_send()
        if payload is not None:
            payload = bytes(memoryview(payload))
            if payload in self._pings:
                raise ConcurrencyError("a ping with this payload waits for its pong already")
        now = self._loop.time()
        payload = self._core.ping(payload, now)
        pong: asyncio.Future[float] = self._loop.create_future()
        self._pings[payload] = now, pong
        self._pump.flush()
        try:
            return await pong
        finally:
            self._pings.pop(payload, None)

    async def close(self, code: int = Cause.LOCAL_CLOSE.code, reason: str = "") -> None:
        """Close and wait for the end, at most the close timeout; safe to repeat, and from several tasks.

        A reason is cut to 123 bytes of UTF-8. Cancelled, it still closes. Raises LocalProtocolError for a code
        that cannot be sent.
        """
        self.start_close(code, reason, Cause.LOCAL_CLOSE)
        await self._pump.gone.wait()

    def start_close(self, code: int, reason: str, cause: Cause) -> None:
        """Begin to close, without waiting; `cause` goes into `close_info`."""
        self._core.close(code, reason, self._loop.time(), cause=cause)
        self._pump.pump()

    def abort(self) -> None:
        """Drop the transport at once, without a closing handshake."""
        if self._pump.transport is not None:
            self._pump.transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection and its transport have ended."""
        await self._pump.gone.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _on_frames(self) -> None:
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, PongReceived):
            self._on_pong(event.payload)
        log_event(self.id, event)
        if isinstance(event, Closed):
            self._pump.writable.set()
            for _, pong in self._pings.values():
                if not pong.done():
                    pong.set_exception(connection_closed(event.info))

    def _on_pong(self, payload: bytes) -> None:
        if payload not in self._pings:
            return
        # A pong answers the pings before its own as well (RFC 6455, section 5.5.3).
        for earlier in list(self._pings):
            sent_at, pong = self._pings.pop(earlier)
            if not pong.done():
                pong.set_result(self._loop.time() - sent_at)
            if earlier == payload:
                break

    def _frames(self) -> asyncio.Future[None]:
        """Return a future that is done when more may be in the inbox."""
        if self._core.close_info is not None:
            raise connection_closed(self._core.close_info)
        if self._receiver is not None and not self._receiver.done():
            raise ConcurrencyError("another task waits for messages of this connection already")
        self._receiver = self._loop.create_future()
        return self._receiver

    async def _ready_to_send(self) -> None:
        """Wait while too much is unsent. Raises ConnectionClosed when nothing can be sent any more."""
        pump = self._pump
        while not pump.is_ready_to_send:
            if pump.is_ending:
                raise await self._closed()
            await pump.writable.wait()

    async def _closed(self) -> ConnectionClosed:
        await self._pump.gone.wait()
        assert self._core.close_info is not None  # nothing else ends the pump
        return connection_closed(self._core.close_info)


def attach(
    transport: asyncio.Transport,
    request: UpgradeRequest,
    agreement: Agreement,
    *,
    config: ConnectionConfig | None = None,
    trailing_data: bytes = b"",
) -> Connection:
    """Return a server-side connection on a transport whose upgrade another server has done.

    request, agreement: from `check_upgrade` and `agree`, whose headers that server has answered with its 101.
    config: the one given to `agree`.
    trailing_data: bytes that came behind the request.
    """
    config = config or ConnectionConfig()
    now = asyncio.get_running_loop().time()
    core = Core(Role.SERVER, config, now=now, deflate=agreement.deflate, trailing_data=trailing_data)
    connection = Connection(core, config, request, agreement)
    connection.start(transport)
    return connection

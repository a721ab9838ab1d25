"""A WebSocket connection on asyncio: carries out what the core decides, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Any

from typing_extensions import Self

from wsconnkit.asyncio.draining import Draining
from wsconnkit.asyncio.pings import Pings
from wsconnkit.asyncio.pump import Pump
from wsconnkit.asyncio.requests import Requests
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.errors import ConcurrencyError, ConnectionClosedOK, connection_closed
from wsconnkit.protocol.events import Closed, Event, Message, PongReceived
from wsconnkit.protocol.prepared import Content, PreparedMessage
from wsconnkit.protocol.upgrade import Agreement, UpgradeRequest
from wsconnkit.service.baseconnection import BaseConnection
from wsconnkit.service.messagefilters import MessageFilter, MessageFilters
from wsconnkit.service.session import Session
from wsconnkit.service.streaming import MessageFrames

_TURN = 128
"""Messages sent after which other tasks have their turn."""


class Connection(BaseConnection):
    """A WebSocket connection; `serve` and `connect` make them, and `attach` does for other servers.

    One task may receive, any number may send, ping and close. A cancelled call leaves the connection whole.
    """

    def __init__(
        self,
        core: ConnectionProtocol,
        config: ConnectionConfig,
        request: UpgradeRequest,
        agreement: Agreement,
        session: Session | None = None,
    ) -> None:
        super().__init__(core, request, agreement, session)
        self._pump = Pump(core, config.queue, on_frames=self._on_frames, on_event=self._on_event)
        self._inbox = self._pump.inbox
        self._loop = self._pump.loop
        self._receiver: asyncio.Future[None] | None = None
        self._calls = 0
        self._pings = Pings(self._pump)
        self._filters: MessageFilters | None = None
        self._requests: Requests | None = None
        self._on_sent_size = self._pump.on_sent = None if session is None else session.server_stats.sent.observe
        self._pump.on_size = None if session is None else session.server_stats.received.observe
        self.draining = Draining(self)
        """`await ws.draining` waits until the server drains; true from then on, and never for a client."""

    def start(self, transport: asyncio.Transport) -> None:
        """Take over a transport whose opening handshake is done; `serve`, `connect` and `attach` call this."""
        self.remote_address = transport.get_extra_info("peername")
        self.local_address = transport.get_extra_info("sockname")
        transport.set_protocol(self._pump)
        self._pump.connection_made(transport)

    @property
    def queued_bytes(self) -> tuple[int, int]:
        """Bytes that wait for the application, and for the network."""
        return self._inbox.size, self._pump.unsent

    async def recv(self) -> str | bytes:
        """Return the next message; messages that arrived before the end are returned after it too.

        Raises ConnectionClosed when there is none left, ConcurrencyError when another task is waiting for one.
        """
        while (message := self._inbox.get_message()) is None:
            await self._frames()
        if not self._pump.reading:
            self._pump.resume_reading()
        return message

    def recv_streaming(self) -> AsyncIterator[str | bytes]:
        """Return an iterator over the frames of the next message, as the peer fragmented it; it raises as `recv` does.

        Texts come when they are whole where messages are looked at first: for rates, tokens and answers to requests.
        """
        return MessageFrames(self._recv_frame)

    async def _recv_frame(self) -> Message:
        while (frame := self._inbox.get_frame()) is None:
            await self._frames()
        if not self._pump.reading:
            self._pump.resume_reading()
        return frame

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

    async def send(self, message: Content | PreparedMessage) -> None:
        """Send a message, text for `str` and binary otherwise, after waiting while too much is unsent.

        When it returns, the message will go out whole, unless slow peers lose messages (`QueueConfig.slow_consumer`);
        cancelled while it waits, it has sent nothing. Raises ConnectionClosed when the connection has ended or is
        ending, TypeError for other types.
        """
        self._calls += 1
        if self._calls % _TURN == 0:
            await asyncio.sleep(0)  # a peer that reads as fast as we send must not keep the loop for itself
        if not self._pump.is_ready_to_send:
            if not self._core.outbox.blocks and (self.send_nowait(message) or not self._pump.is_ending):
                return
            await self._pump.wait_for_turn()
        self._send(message)

    def send_nowait(self, message: Content | PreparedMessage) -> bool:
        """Send a message now, or when all before it has gone out; return False if the peer is too slow, or is gone.

        What that means is up to `QueueConfig.slow_consumer`. Raises TypeError as `send` does.
        """
        if type(message) is PreparedMessage and self._pump.send_shared(message):
            return True
        if self.send_if_ready(message):
            return True
        is_taken = not self._pump.is_ending and self._core.send_nowait(message, self._loop.time())
        (self._pump.arm if is_taken else self._pump.pump)()
        return is_taken

    def send_if_ready(self, message: Content | PreparedMessage) -> bool:
        """Send a message if nothing is to wait for, and tell whether it was sent."""
        if self._pump.is_ready_to_send:
            self._send(message)
            return True
        return False

    def _send(self, message: Content | PreparedMessage) -> None:
        size = self._core.send(message, self._loop.time())
        if self._on_sent_size is not None:
            self._on_sent_size(size)
        self._pump.flush_soon()

    async def request(self, payload: Any, timeout: float | None = 30.0) -> Any:
        """Send a request and return the payload of its answer; any number may be under way.

        timeout: seconds until RequestTimeout, at least 0, or None for as long as the connection lives.
        Raises RequestError when the other side answers with an error, ConnectionClosed when the connection ends first,
        TypeError for a payload that is no JSON, ValueError for other timeouts. Cancelled or late, it tells the peer.
        """
        return await self._asking.ask("request", payload, timeout)

    async def reauthenticate(self, token: str, timeout: float | None = 30.0) -> None:
        """Give the server a fresh token for the same subject, before the one before expires; raises as `request`."""
        self.log.keep_out(token)
        await self._asking.ask("auth", {"token": token}, timeout)

    def busy(self) -> AbstractContextManager[None]:
        """Return a block in which a drain leaves the connection open, until its deadline."""
        return self.draining.busy()

    async def ping(self, payload: bytes | bytearray | memoryview | None = None) -> float:
        """Send a ping, wait for its pong and return the seconds between them.

        Raises ConnectionClosed when the connection ends first, ConcurrencyError when a ping with this payload is
        waiting already, LocalProtocolError for a payload of more than 125 bytes.
        """
        return await self._pings.ping(payload)

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
            self._pings.on_pong(event.payload)
        self.log.event(event, self.stats)
        if self._session is not None:
            self._session.on_event(event, self.stats)
        if isinstance(event, Closed):
            self._pump.senders.wake()
            self._pings.on_closed(event.info)
            self.draining.on_closed(event.info)
            if self._requests is not None:
                self._requests.on_closed(event.info)
            for callback in self._on_closed:
                callback()

    def add_filter(self, message_filter: MessageFilter) -> None:
        """Show each message to `message_filter` before the application gets it."""
        if self._filters is None:
            self._filters = MessageFilters(within=self._inbox.is_unfinished)
            self._pump.filter = self._filters.apply
        self._filters.filters.append(message_filter)

    @property
    def _asking(self) -> Requests:
        if self._requests is None:
            self._requests = Requests(self)
        return self._requests

    def _frames(self) -> asyncio.Future[None]:
        """Return a future that is done when more may be in the inbox."""
        if self._core.close_info is not None:
            raise connection_closed(self._core.close_info)
        if self._receiver is not None and not self._receiver.done():
            raise ConcurrencyError("another task waits for messages of this connection already")
        self._receiver = self._loop.create_future()
        return self._receiver

"""A WebSocket connection: carries out what the core decides, on any event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

from typing_extensions import Self

from wsconnkit.machines.closing import State
from wsconnkit.managed.draining import Draining
from wsconnkit.managed.pings import Pings
from wsconnkit.managed.pump import Pump, Timed
from wsconnkit.managed.requests import Requests
from wsconnkit.managed.runtime import Event as RuntimeEvent
from wsconnkit.managed.runtime import Future, Runtime
from wsconnkit.managed.streaming import MessageFrames
from wsconnkit.managed.transport import Transport
from wsconnkit.protocol.closeinfo import Cause, CloseInfo
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.errors import ConnectionClosedOK
from wsconnkit.protocol.events import Closed, Event, Message, PongReceived
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.http import Headers
from wsconnkit.protocol.prepared import Content, PreparedMessage
from wsconnkit.protocol.stats import ConnectionStats
from wsconnkit.protocol.upgrade import Agreement, UpgradeRequest
from wsconnkit.service.arguments import check_type
from wsconnkit.service.log import ConnectionLog
from wsconnkit.service.messagefilters import MessageFilter, MessageFilters
from wsconnkit.service.principal import Principal
from wsconnkit.service.session import Session
from wsconnkit.service.tokens import secrets_of


def server_core(
    runtime: Runtime, config: ConnectionConfig, agreement: Agreement, trailing_data: bytes
) -> ConnectionProtocol:
    """Return the core of a server's connection whose opening handshake another server has done."""
    return ConnectionProtocol(
        Role.SERVER,
        config,
        now=runtime.now(),
        deflate=agreement.deflate,
        trailing_data=trailing_data,
        random_bytes=runtime.random_bytes,
    )


def new_connection_id(runtime: Runtime) -> str:
    """Return a name that no other connection has."""
    return runtime.random_bytes(16).hex()


def check_attached(
    request: object, agreement: object, config: ConnectionConfig | None, trailing_data: object
) -> ConnectionConfig:
    """Return the configuration of a connection to attach. Raises TypeError for arguments of a wrong type."""
    check_type("request", request, isinstance(request, UpgradeRequest), "what check_upgrade returns")
    check_type("agreement", agreement, isinstance(agreement, Agreement), "what agree returns")
    is_config = config is None or isinstance(config, ConnectionConfig)
    check_type("config", config, is_config, "a ConnectionConfig, or None")
    check_type("trailing_data", trailing_data, isinstance(trailing_data, bytes), "bytes")
    return config or ConnectionConfig()


class Connection:
    """A WebSocket connection; `serve` and `connect` make them, and `attach` does for other servers.

    One task may receive, any number may send, ping and close. A cancelled call leaves the connection whole.

    session: what a server knows of the client; None for a client's own connection, or an attached one.
    """

    def __init__(
        self,
        runtime: Runtime,
        core: ConnectionProtocol,
        config: ConnectionConfig,
        request: UpgradeRequest,
        agreement: Agreement,
        session: Session | None = None,
    ) -> None:
        self.log: ConnectionLog = (
            session.log
            if session is not None
            else ConnectionLog(new_connection_id(runtime), secrets=secrets_of(request))
        )
        """Where the connection's events go."""
        self.upgrade_request = request
        """The request that the client opened the connection with."""
        self.response_headers: Headers = agreement.headers
        """The headers of the server's answer to it."""
        self.subprotocol: str | None = agreement.subprotocol
        """The subprotocol agreed on, or None."""
        self.remote_address: Any = None
        """The peer's address as the socket has it."""
        self.local_address: Any = None
        """Our address as the socket has it."""
        self.runtime = runtime
        """The event loop that it lives on."""
        self.draining: Draining = Draining(runtime)
        """`await ws.draining` waits until the server drains; true from then on, and never for a client."""
        self._core = core
        self._session = session
        self._pump = Pump(
            runtime, core, config.queue, on_event=self._on_event, on_cancelled=self._close_for_cancellation
        )
        if session is not None:
            self._pump.on_sent = session.server_stats.sent.observe
            self._pump.on_received = session.server_stats.received.observe
        self._inbox = self._pump.inbox
        self._pings = Pings(runtime, self._pump)
        self._filters: MessageFilters | None = None
        self._requests: Requests | None = None
        self._on_closed: list[Callable[[], None]] = []
        self._sends = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {self.state.name.lower()}, peer {self.remote_address}>"

    def start(self, transport: Transport) -> None:
        """Take over a transport whose opening handshake is done."""
        self.remote_address = transport.remote_address
        self.local_address = transport.local_address
        self._pump.connection_made(transport)

    @property
    def id(self) -> str:
        """A unique name, for logs and for `server.connections`."""
        return self.log.connection_id

    @property
    def principal(self) -> Principal | None:
        """Who the connection belongs to; None without authentication."""
        return None if self._session is None else self._session.principal

    @property
    def user_id(self) -> str | None:
        """The subject of `principal`."""
        return self.log.user_id

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

    @property
    def is_healthy(self) -> bool:
        """The connection is open and no ping of the heartbeat has gone unanswered since the last byte."""
        return self._core.state is State.OPEN and not self._core.missed

    @property
    def queued_bytes(self) -> tuple[int, int]:
        """Bytes that wait for the application, and for the network, with 128 more for each frame or message."""
        return self._inbox.size, self._pump.unsent

    async def recv(self) -> str | bytes:
        """Return the next message; messages that arrived before the end are returned after it too.

        Raises ConnectionClosed when there is none left, ConcurrencyError when another task is waiting for one.
        """
        while (message := self._inbox.get_message()) is None:
            await self._pump.messages()
        if not self._pump.reading:
            self._pump.on_taken()
        return message

    def recv_streaming(self) -> AsyncIterator[str | bytes]:
        """Return an iterator over the frames of the next message, as the peer fragmented it; it raises as `recv` does.

        Texts come when they are whole where messages are looked at first: for rates, tokens and answers to requests.
        """
        return MessageFrames(self._recv_frame)

    async def _recv_frame(self) -> Message:
        while (frame := self._inbox.get_frame()) is None:
            await self._pump.messages()
        if not self._pump.reading:
            self._pump.on_taken()
        return frame

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            while (message := self._inbox.get_message()) is None:
                await self._pump.messages()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None
        if not self._pump.reading:
            self._pump.on_taken()
        return message

    async def send(self, message: Content | PreparedMessage) -> None:
        """Send a message, text for `str` and binary otherwise, after waiting while too much is unsent.

        When it returns, the message will go out whole, unless slow peers lose messages (`QueueConfig.slow_consumer`);
        cancelled while it waits, it has sent nothing. Raises ConnectionClosed when the connection has ended or is
        ending, TypeError for other types.
        """
        self._sends += 1
        if self._sends % self.runtime.sends_per_turn == 0:
            await self.runtime.sleep(0)  # a peer that reads as fast as we send must not keep the loop for itself
        if self._pump.send(message):
            return
        if not self._core.outbox.blocks and (self.send_nowait(message) or not self._pump.is_ending):
            return
        await self._pump.wait_for_turn()
        self._pump.send_now(message)

    def send_nowait(self, message: Content | PreparedMessage) -> bool:
        """Send a message now, or when all before it has gone out; return False if the peer is too slow, or is gone.

        What that means is up to `QueueConfig.slow_consumer`. Raises TypeError as `send` does.
        """
        if type(message) is PreparedMessage and self._pump.send_shared(message):
            return True
        if self._pump.send(message):
            return True
        is_taken = not self._pump.is_ending and self._core.send_nowait(message, self.runtime.now())
        (self._pump.arm if is_taken else self._pump.pump)()
        return is_taken

    def send_if_ready(self, message: Content | PreparedMessage) -> bool:
        """Send a message if nothing is to be waited for, and tell whether it was sent."""
        return self._pump.send(message)

    async def send_unless(self, over: Future, turn: Future, message: Content | PreparedMessage) -> bool:
        """Send a message in its turn, unless `over` is done by then; tell whether it was sent. Raises as `send`.

        turn: a new future; whoever brings `over` brings it, too.
        """
        if not self._core.outbox.blocks:
            await self.send(message)
            return True
        await self._pump.wait_for_turn(turn)
        if over.done():
            return False
        self._pump.send_now(message)
        return True

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

        A reason is cut to 123 bytes of UTF-8. Cancelled, it still closes. Raises LocalProtocolError for a code or a
        reason that cannot be sent.
        """
        self.start_close(code, reason, Cause.LOCAL_CLOSE)
        await self._pump.gone.wait()

    def start_close(self, code: int, reason: str, cause: Cause) -> None:
        """Begin to close, without waiting; `cause` goes into `close_info`."""
        self._core.close(code, reason, self.runtime.now(), cause=cause)
        self._pump.pump()

    def abort(self) -> None:
        """Drop the transport at once, without a closing handshake."""
        if self._pump.transport is not None:
            self._pump.transport.abort()

    def drop(self) -> None:
        """End it where it could not be given a transport."""
        self._pump.connection_lost(None)

    async def wait_closed(self) -> None:
        """Wait until the connection and its transport have ended."""
        await self._pump.gone.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # What the rest of the package asks for.

    @property
    def gone(self) -> RuntimeEvent:
        """Set when the connection and its transport have ended."""
        return self._pump.gone

    def call_when_closed(self, callback: Callable[[], None]) -> None:
        """Have `callback`, which must not raise, called when the connection ends, or now if it has."""
        if self._core.close_info is None:
            self._on_closed.append(callback)
        else:
            callback()

    def call_when_gone(self, callback: Callable[[], None]) -> None:
        """Have `callback`, which must not raise, called when the transport has ended as well; one may be set."""
        self._pump.on_gone = callback

    def add_filter(self, message_filter: MessageFilter) -> None:
        """Show each message to `message_filter` before the application gets it."""
        if self._filters is None:
            self._filters = MessageFilters(within=self._inbox.is_unfinished)
            self._pump.filter = self._filters.apply
        self._filters.filters.append(message_filter)

    def add_timed(self, timed: Timed) -> None:
        """Ask `timed` when the alarm rings, which it does at its next timeout."""
        self._pump.timed += (timed,)
        self._pump.wake_at(timed.next_timeout())

    def wake_at(self, deadline: float | None) -> None:
        """Ask those added by `add_timed` at `deadline` too."""
        self._pump.wake_at(deadline)

    @property
    def _asking(self) -> Requests:
        if self._requests is None:
            self._requests = Requests(self.runtime, self)
            self.add_filter(self._requests.on_message)
            self.add_timed(self._requests)
        return self._requests

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

    def _close_for_cancellation(self) -> None:
        cause = Cause.LOCAL_CLOSE if self._session is None else Cause.DRAIN
        self.start_close(cause.code, "", cause)

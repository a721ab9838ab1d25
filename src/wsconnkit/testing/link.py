"""Two connections in memory, on a virtual clock and over a link whose delays are yours.

    pair = Pair()
    pair.client.send("hello")
    pair.run()
    assert pair.server.messages == ["hello"]
    pair.advance(60)                      # both heartbeats tick; nothing sleeps

A link never loses or reorders bytes, as TCP does not; it delays them, stops, takes no more, and ends.
"""

from __future__ import annotations

import random

from wsconnkit.machines.closing import State
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.events import Event, Message
from wsconnkit.protocol.inbox import Inbox
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.protocol.transportaction import TransportAction
from wsconnkit.protocol.uri import parse_uri
from wsconnkit.testing.clock import VirtualClock
from wsconnkit.testing.pipe import Pipe


class Endpoint:
    """A connection and what an adapter around it does, in memory; `connection` is the connection itself."""

    def __init__(
        self, connection: ConnectionProtocol, inbox: Inbox, clock: VirtualClock, inbound: Pipe, outbound: Pipe
    ) -> None:
        self.connection = connection
        self.inbox = inbox
        self.clock = clock
        self.inbound = inbound
        self.outbound = outbound
        self.events: list[Event] = []
        """All events but messages, in order."""
        self.messages: list[str | bytes] = []
        """The messages received, whole and in order, while the application keeps up."""
        self.paused = False
        """The application takes no messages: they wait in `inbox`, and reading pauses when that is full."""
        self._reading = True
        self._unsent = b""
        self._ended = False
        self.pump()

    @property
    def state(self) -> State:
        """The connection's state."""
        return self.connection.state

    @property
    def close_info(self) -> CloseInfo | None:
        """How the connection ended; None until then."""
        return self.connection.close_info

    def send(self, message: str | bytes, *, final: bool = True) -> None:
        """Send a message, or a fragment of one."""
        self.connection.send(message, self.clock.now, final=final)
        self.pump()

    def ping(self, payload: bytes | None = None) -> bytes:
        """Send a ping and return its payload."""
        payload = self.connection.ping(payload, self.clock.now)
        self.pump()
        return payload

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake."""
        self.connection.close(code, reason, self.clock.now)
        self.pump()

    def abort(self, error: OSError | None = None) -> None:
        """The transport breaks, for both sides."""
        self.connection.reading_resumed(self.clock.now)
        self.connection.receive_eof(self.clock.now, error)
        self.pump()

    def pause(self) -> None:
        """The application stops taking messages."""
        self.paused = True

    def resume(self) -> None:
        """The application takes messages again, first those that waited."""
        self.paused = False
        self.pump()

    def receive(self, limit: int | None = None) -> int:
        """Read what has arrived, at most `limit` bytes, and return how many they were."""
        if not self._reading or self._ended:
            return 0
        data = self.inbound.read(self.clock.now, limit)
        if data:
            self.connection.receive_data(data, self.clock.now)
        elif self.inbound.at_eof(self.clock.now):
            self.connection.receive_eof(self.clock.now)
        self.pump()
        return len(data)

    def handle_timeout(self) -> None:
        """Let the connection do what is due."""
        self.connection.handle_timeout(self.clock.now)
        self.pump()

    def pump(self) -> None:
        """Deliver events, write bytes and obey `transport_action`, as every adapter does after every call."""
        connection, now = self.connection, self.clock.now
        delivered = True
        while delivered:
            delivered = False
            for event in connection.events():
                delivered = True
                if not isinstance(event, Message):
                    self.events.append(event)
                    continue
                self.inbox.put(event)
                if self.paused and self.inbox.full:
                    self._reading = False
                    connection.reading_paused(now)
            while not self.paused and (message := self.inbox.get_message()) is not None:
                delivered = True
                self.messages.append(message)
            if not self._reading and (self.inbox.low or connection.state is not State.OPEN):
                self._reading = delivered = True
                connection.reading_resumed(now)
        self._write()

    def _write(self) -> None:
        connection, now = self.connection, self.clock.now
        self._unsent += connection.data_to_send()
        if self._ended:
            return
        while self._unsent:
            written = self.outbound.write(self._unsent, now)
            self._unsent = self._unsent[written:]
            if self._unsent:
                connection.writing_paused(now)
                if written:
                    connection.writing_progressed(now)
                break
            connection.writing_resumed(now)
            connection.send_waiting(now)
            self._unsent = connection.data_to_send()
        if connection.transport_action is TransportAction.ABORT:
            self._ended = True
            self._unsent = b""
        if connection.transport_action is not TransportAction.OPEN and not self._unsent:
            self.outbound.write_eof(now)


class Pair:
    """A client and a server that have just shaken hands, through the real handshake.

    latency: seconds that bytes are under way, in both directions.
    capacity: bytes that fit on the way in one direction; None for any number.
    seed: for masks and ping payloads; the same seed gives the same bytes.
    """

    def __init__(
        self,
        client_config: ConnectionConfig | None = None,
        server_config: ConnectionConfig | None = None,
        *,
        latency: float = 0.0,
        capacity: int | None = None,
        seed: int = 0,
    ) -> None:
        client_config = client_config or ConnectionConfig()
        server_config = server_config or ConnectionConfig()
        self.clock = VirtualClock()
        source = random.Random(seed)  # noqa: S311 - tests want repeatable bytes
        now = self.clock.now
        client = ClientHandshake(parse_uri("ws://test.invalid/"), client_config, now=now, random_bytes=source.randbytes)
        server = ServerHandshake(server_config, now=now)
        server.receive_data(client.data_to_send(), now)
        server.accept()
        client.receive_data(server.data_to_send(), now)
        to_server, to_client = Pipe(latency, capacity), Pipe(latency, capacity)
        self.client = Endpoint(
            client.connection(now, random_bytes=source.randbytes),
            Inbox(client_config.queue),
            self.clock,
            to_client,
            to_server,
        )
        self.server = Endpoint(
            server.connection(now, random_bytes=source.randbytes),
            Inbox(server_config.queue),
            self.clock,
            to_server,
            to_client,
        )

    @property
    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        """The client and the server."""
        return self.client, self.server

    def run(self) -> None:
        """Deliver all that has arrived, and what that leads to, without letting time pass."""
        while sum([endpoint.receive() for endpoint in self.endpoints]) or self._flush():
            pass

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass for both sides: bytes arrive and timers fire when they should."""
        end = self.clock.now + seconds
        self.run()
        while (at := self._next_event()) is not None and at <= end:
            self.clock.now = max(at, self.clock.now)
            self.run()
            self._fire_timers()
            self.run()
        self.clock.now = end
        self.run()

    def stall(self, endpoint: Endpoint, seconds: float) -> None:
        """Let `seconds` pass in which the process of `endpoint` is blocked; the other side lives on.

        Afterwards its timers fire before its socket is read, the order that an event loop may well have.
        """
        end = self.clock.now + seconds
        other = self.server if endpoint is self.client else self.client
        while True:
            other.receive()
            wakeups = [other.inbound.next_arrival(), other.connection.next_timeout()]
            at = min((time for time in wakeups if time is not None and time > self.clock.now), default=end)
            if at >= end:
                break
            self.clock.now = at
            other.handle_timeout()
        self.clock.now = end
        endpoint.handle_timeout()
        self.run()

    def _next_event(self) -> float | None:
        times: list[float] = []
        for endpoint in self.endpoints:
            timeout = endpoint.connection.next_timeout()
            if timeout is not None:
                times.append(timeout)
            arrival = endpoint.inbound.next_arrival()
            if arrival is not None and arrival > self.clock.now:
                times.append(arrival)
        return min(times, default=None)

    def _fire_timers(self) -> None:
        for endpoint in self.endpoints:
            timeout = endpoint.connection.next_timeout()
            if timeout is not None and timeout <= self.clock.now:
                endpoint.handle_timeout()

    def _flush(self) -> bool:
        """Write what waited for room; tell whether any did."""
        before = sum(endpoint.outbound.in_flight for endpoint in self.endpoints)
        for endpoint in self.endpoints:
            endpoint.pump()
        return sum(endpoint.outbound.in_flight for endpoint in self.endpoints) != before

"""Two connections in memory, on a virtual clock and over a link whose delays are yours.

    pair = Pair()
    pair.client.send("hello")
    pair.run()
    assert pair.server.messages == ["hello"]
    pair.advance(60)                      # both heartbeats tick; nothing sleeps

A link never loses or reorders bytes, as TCP does not; it delays them, stops, takes no more, and ends.
"""

from __future__ import annotations

from wsconnkit.machines.closing import State
from wsconnkit.managed.pump import Pump
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.config import ConnectionConfig, QueueConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.events import Event
from wsconnkit.protocol.inbox import Inbox
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.protocol.uri import parse_uri
from wsconnkit.testing.clock import VirtualClock
from wsconnkit.testing.pipe import Pipe
from wsconnkit.testing.runtime import Runtime
from wsconnkit.testing.transport import MemoryTransport


class Endpoint:
    """A process with one connection: an event loop and a transport in memory, and an application that takes messages.

    connection: what the pump drives; `runtime` is the loop, which `Pair` lets run.
    """

    def __init__(
        self, connection: ConnectionProtocol, queue: QueueConfig, runtime: Runtime, inbound: Pipe, outbound: Pipe
    ) -> None:
        self.connection = connection
        self.runtime = runtime
        self.inbound = inbound
        self.outbound = outbound
        self.events: list[Event] = []
        """All events but messages, in order."""
        self.messages: list[str | bytes] = []
        """The messages received, whole and in order, while the application keeps up."""
        self.paused: bool = False
        """The application takes no messages: they wait in `inbox`, and reading pauses when that is full."""
        self._pump = Pump(runtime, connection, queue, on_event=self.events.append, on_cancelled=self.close)
        self._pump.on_received = self._on_received
        self.inbox: Inbox = self._pump.inbox
        self._transport = MemoryTransport(runtime, self._pump, inbound, outbound)
        self._pump.connection_made(self._transport)

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
        self.connection.send(message, self.runtime.now(), final=final)
        self.pump()

    def ping(self, payload: bytes | None = None) -> bytes:
        """Send a ping and return its payload."""
        payload = self.connection.ping(payload, self.runtime.now())
        self.pump()
        return payload

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake."""
        self.connection.close(code, reason, self.runtime.now())
        self.pump()

    def abort(self, error: OSError | None = None) -> None:
        """The transport breaks, for both sides."""
        self._transport.lose(error)

    def pause(self) -> None:
        """The application stops taking messages."""
        self.paused = True

    def resume(self) -> None:
        """The application takes messages again, first those that waited."""
        self.paused = False
        self._take_messages()
        if not self._pump.reading:
            self._pump.on_taken()

    def receive(self, limit: int | None = None) -> int:
        """Read what has arrived, at most `limit` bytes, and return how many they were."""
        return self._transport.read(limit)

    def handle_timeout(self) -> None:
        """Let the connection do what is due."""
        self.connection.handle_timeout(self.runtime.now())
        self.pump()

    def pump(self) -> None:
        """Carry out what `connection` decides, as is to be done after every change of it."""
        self._pump.pump()

    def _on_received(self, size: int) -> None:
        if not self.paused:
            self._take_messages()

    def _take_messages(self) -> None:
        while (message := self.inbox.get_message()) is not None:
            self.messages.append(message)


class Pair:
    """A client and a server that have just shaken hands, through the real handshake.

    latency: seconds that bytes are under way, in both directions.
    capacity: bytes that fit on the way in one direction; None for any number.
    seed: for masks, ping payloads and the order of what can happen at one time; the same seed gives the same bytes.
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
        self.clock: VirtualClock = VirtualClock()
        # A process each, so that one can be held up while the other one lives on.
        client_runtime, server_runtime = (Runtime(2 * seed + side, self.clock) for side in range(2))
        now = self.clock.now
        client = ClientHandshake(
            parse_uri("ws://test.invalid/"), client_config, now=now, random_bytes=client_runtime.random_bytes
        )
        server = ServerHandshake(server_config, now=now)
        server.receive_data(client.data_to_send(), now)
        server.accept()
        client.receive_data(server.data_to_send(), now)
        to_server, to_client = Pipe(latency, capacity), Pipe(latency, capacity)
        self.client: Endpoint = Endpoint(
            client.connection(now, random_bytes=client_runtime.random_bytes),
            client_config.queue,
            client_runtime,
            to_client,
            to_server,
        )
        self.server: Endpoint = Endpoint(
            server.connection(now, random_bytes=server_runtime.random_bytes),
            server_config.queue,
            server_runtime,
            to_server,
            to_client,
        )

    @property
    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        """The client and the server."""
        return self.client, self.server

    def run(self) -> None:
        """Deliver all that has arrived, and what that leads to, without letting time pass."""
        self._advance(0.0, *self.endpoints)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass for both sides: bytes arrive and timers fire when they should."""
        self._advance(seconds, *self.endpoints)

    def stall(self, endpoint: Endpoint, seconds: float) -> None:
        """Let `seconds` pass in which the process of `endpoint` is blocked; the other side lives on.

        Afterwards its timers fire before its socket is read, the order that an event loop may well have.
        """
        self._advance(seconds, self.server if endpoint is self.client else self.client)
        endpoint.handle_timeout()
        self.run()

    def _advance(self, seconds: float, *running: Endpoint) -> None:
        """Let `seconds` pass for those endpoints only."""
        end = self.clock.now + seconds
        while True:
            while any(endpoint.runtime.run_ready() for endpoint in running):
                pass
            at = min(endpoint.runtime.next_timer() for endpoint in running)
            if at > end:
                break
            self.clock.now = at
        self.clock.now = end

"""Two of our connections against each other, driven at random on a virtual clock: the invariants of the core."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsconnkit.machines.closing import State
from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, QueueConfig
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.events import Closed
from wsconnkit.testing import Endpoint, Pair

CLOSE_TIMEOUT = 2.0
MAX_MESSAGE = 2000
# Small enough that limits, pauses and verdicts are met all the time.
CONFIGS = st.builds(
    ConnectionConfig,
    heartbeat=st.none() | st.just(HeartbeatConfig(interval=3, timeout=1, max_missed=2)),
    limits=st.just(FrameLimits(max_frame_size=MAX_MESSAGE, max_message_size=MAX_MESSAGE, max_fragments=4)),
    compression=st.none()
    | st.builds(
        CompressionConfig,
        threshold=st.just(20),
        server_context_takeover=st.booleans(),
        client_context_takeover=st.booleans(),
    ),
    close=st.just(CloseConfig(timeout=CLOSE_TIMEOUT)),
    queue=st.builds(
        QueueConfig,
        max_messages=st.just(3),
        max_bytes=st.just(1000),
        max_unread_age=st.sampled_from([300.0, 20.0, None]),
    ),
    idle_timeout=st.none() | st.just(20.0),
)
SIDES = st.booleans()
MESSAGES = st.text(max_size=30) | st.binary(max_size=30) | st.builds(bytes, st.integers(0, 1500))


class TwoConnections(RuleBasedStateMachine):
    @initialize(
        client=CONFIGS,
        server=CONFIGS,
        latency=st.sampled_from([0.0, 0.1, 0.7]),
        capacity=st.sampled_from([None, 64, 1000]),
        seed=st.integers(0, 9),
    )
    def open(
        self, client: ConnectionConfig, server: ConnectionConfig, latency: float, capacity: int | None, seed: int
    ) -> None:
        self.pair = Pair(client, server, latency=latency, capacity=capacity, seed=seed)
        self.sent: dict[Endpoint, list[str | bytes]] = {end: [] for end in self.pair.endpoints}
        self.fragment: dict[Endpoint, str | bytes | None] = dict.fromkeys(self.pair.endpoints)

    def end(self, side: bool) -> Endpoint:
        return self.pair.server if side else self.pair.client

    def other(self, end: Endpoint) -> Endpoint:
        return self.pair.client if end is self.pair.server else self.pair.server

    @rule(side=SIDES, message=MESSAGES, final=st.booleans())
    def send(self, side: bool, message: str | bytes, final: bool) -> None:
        end = self.end(side)
        begun = self.fragment[end]
        try:
            end.send(message, final=final)
        except LocalProtocolError:
            assert end.state is not State.OPEN or type(begun) is not type(message)
            return
        whole: Any = message if begun is None else begun + message  # type: ignore[operator]
        self.fragment[end] = None if final else whole
        if final:
            self.sent[end].append(whole)

    @rule(side=SIDES)
    def ping(self, side: bool) -> None:
        end = self.end(side)
        try:
            end.ping()
        except LocalProtocolError:
            assert end.state is not State.OPEN

    @rule(side=SIDES, code=st.sampled_from([1000, 1012, 4000]), reason=st.text(max_size=60))
    def close(self, side: bool, code: int, reason: str) -> None:
        self.end(side).close(code, reason)
        assert self.end(side).state is not State.OPEN

    @rule(side=SIDES, code=st.sampled_from([0, 999, 1004, 1005, 1006, 1015, 2999, 5000]))
    def close_with_a_code_that_cannot_be_sent(self, side: bool, code: int) -> None:
        before = self.end(side).state
        try:
            self.end(side).close(code)
        except LocalProtocolError:
            assert self.end(side).state is before
        else:
            raise AssertionError(f"{code} was accepted")

    @rule(side=SIDES, limit=st.integers(1, 50))
    def deliver(self, side: bool, limit: int) -> None:
        self.end(side).receive(limit)

    @rule(seconds=st.floats(0, 8))
    def advance(self, seconds: float) -> None:
        self.pair.advance(seconds)

    @rule(side=SIDES, seconds=st.floats(0, 15))
    def stall(self, side: bool, seconds: float) -> None:
        self.pair.stall(self.end(side), seconds)

    @rule(side=SIDES, stopped=st.booleans())
    def stop_or_restart_link(self, side: bool, stopped: bool) -> None:
        self.end(side).inbound.stopped = stopped

    @rule(side=SIDES)
    def pause_or_resume_application(self, side: bool) -> None:
        end = self.end(side)
        if end.paused:
            end.resume()
        else:
            end.pause()

    @rule(side=SIDES, reset=st.booleans())
    def transport_breaks(self, side: bool, reset: bool) -> None:
        self.end(side).abort(ConnectionResetError() if reset else None)
        assert self.end(side).state is State.CLOSED

    @rule(side=SIDES, early=st.floats(0.001, 100))
    def call_handle_timeout_early(self, side: bool, early: float) -> None:
        end = self.end(side)
        deadline = end.connection.next_timeout()
        if deadline is None or deadline <= self.pair.clock.now:
            return
        now = max(self.pair.clock.now, deadline - early)
        if now >= deadline:
            return
        events, state = len(end.events), end.state
        end.connection.handle_timeout(now)
        end.pump()
        assert (len(end.events), end.state, end.connection.next_timeout()) == (events, state, deadline)
        self.pair.clock.now = now

    @rule(side=SIDES)
    def handle_timeout_moves_the_deadline(self, side: bool) -> None:
        end = self.end(side)
        end.connection.handle_timeout(self.pair.clock.now)
        deadline = end.connection.next_timeout()
        assert deadline is None or deadline > self.pair.clock.now
        end.pump()

    @precondition(lambda self: hasattr(self, "pair"))
    @invariant()
    def deadlines_are_pure_and_closing_states_have_one(self) -> None:
        for end in self.pair.endpoints:
            timer = end.connection.next_timer
            assert timer == end.connection.next_timer
            assert (None if timer is None else timer[1]) == end.connection.next_timeout()
            if end.state is State.CLOSED:
                assert timer is None
            elif end.state is not State.OPEN:
                assert timer is not None
                assert timer[1] <= self.pair.clock.now + CLOSE_TIMEOUT

    @precondition(lambda self: hasattr(self, "pair"))
    @invariant()
    def there_is_one_closed_and_nothing_after_it(self) -> None:
        for end in self.pair.endpoints:
            closed = [event for event in end.events if isinstance(event, Closed)]
            if end.state is State.CLOSED:
                assert end.events[-1:] == closed
                assert closed[0].info is end.close_info
            else:
                assert closed == []
                assert end.close_info is None

    @precondition(lambda self: hasattr(self, "pair"))
    @invariant()
    def messages_arrive_once_and_in_order(self) -> None:
        for end in self.pair.endpoints:
            received = self.other(end).messages
            assert received == self.sent[end][: len(received)]

    @precondition(lambda self: hasattr(self, "pair"))
    @invariant()
    def what_waits_is_bounded(self) -> None:
        for end in self.pair.endpoints:
            assert end.inbox.messages <= 3
            # Above the queue's bytes there is at most the message that filled it, and one that is not whole yet.
            assert end.inbox._bytes <= 1000 + MAX_MESSAGE
            assert end.inbox._unfinished_bytes <= MAX_MESSAGE

    def is_settled(self, end: Endpoint) -> bool:
        other = self.other(end)
        if end.state is State.CLOSED:
            return other.state is State.CLOSED  # which may still be on the way to it
        return end.state is State.OPEN and other.messages == self.sent[end]

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        for end in self.pair.endpoints:
            end.inbound.stopped = False
            if end.paused:
                end.resume()
        # The slowest link carries 64 bytes in 0.7 seconds.
        for _ in range(200):
            self.pair.advance(CLOSE_TIMEOUT + 5)
            if all(self.is_settled(end) for end in self.pair.endpoints):
                break
        for end in self.pair.endpoints:
            if end.state is State.CLOSED:
                assert self.other(end).state is State.CLOSED
                assert end.close_info is not None
                assert isinstance(end.close_info.cause, Cause)
            else:
                assert self.other(end).messages == self.sent[end]


class LivePeer(RuleBasedStateMachine):
    """The server's process stalls and its application is slow; the client lives, so it is never declared dead."""

    @initialize(latency=st.sampled_from([0.0, 0.2, 0.45]), max_missed=st.integers(1, 3))
    def open(self, latency: float, max_missed: int) -> None:
        beat = HeartbeatConfig(interval=3, timeout=1, max_missed=max_missed)
        queue = QueueConfig(max_messages=2, max_unread_age=None)
        server = ConnectionConfig(heartbeat=beat, queue=queue, idle_timeout=None)
        self.pair = Pair(ConnectionConfig(heartbeat=None), server, latency=latency)

    @rule(seconds=st.floats(0, 10))
    def advance(self, seconds: float) -> None:
        self.pair.advance(seconds)

    @rule(seconds=st.floats(0, 60))
    def stall(self, seconds: float) -> None:
        self.pair.stall(self.pair.server, seconds)

    @rule()
    def client_sends(self) -> None:
        self.pair.client.send("life")

    @rule()
    def server_application_stops_reading(self) -> None:
        self.pair.server.pause()

    @rule()
    def server_application_reads_on(self) -> None:
        self.pair.server.resume()

    @precondition(lambda self: hasattr(self, "pair"))
    @invariant()
    def the_peer_is_never_declared_dead(self) -> None:
        assert self.pair.server.state is State.OPEN, str(self.pair.server.close_info)


TestTwoConnections = TwoConnections.TestCase
TestTwoConnections.settings = settings(deadline=None, max_examples=300, stateful_step_count=40)
TestLivePeer = LivePeer.TestCase
TestLivePeer.settings = settings(deadline=None, max_examples=200, stateful_step_count=30)

"""What waits for the network in a connection: in line, bounded in bytes and age, dropped before it is framed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wsconnkit.machines.closing import State
from wsconnkit.machines.deadlines import READ_GRACE
from wsconnkit.protocol.closeinfo import Cause, CloseFrame, Initiator
from wsconnkit.protocol.config import OVERHEAD, CloseConfig, ConnectionConfig, QueueConfig, SlowConsumer
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.deflate import CompressionConfig, DeflateParams
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.events import Closed, Message, PongReceived
from wsconnkit.protocol.frames import Opcode, Role, encode_frame
from wsconnkit.protocol.timers import Timer

BLOCK, OLDEST, NEWEST, CLOSE = SlowConsumer
DROPPING = (OLDEST, NEWEST)
MASK = b"\x01\x02\x03\x04"
SIZE = 100 + OVERHEAD


def server(
    policy: SlowConsumer = BLOCK, *, messages: int = 3, age: float | None = 30.0, deflate: DeflateParams | None = None
) -> ConnectionProtocol:
    """A connection whose outbox has room for so many messages of 100 bytes."""
    queue = QueueConfig(slow_consumer=policy, max_unsent_bytes=messages * SIZE, max_unsent_age=age)
    config = ConnectionConfig(heartbeat=None, queue=queue, compression=CompressionConfig(threshold=0))
    return ConnectionProtocol(Role.SERVER, config, now=0.0, deflate=deflate)


def full(policy: SlowConsumer = BLOCK, **kwargs: Any) -> ConnectionProtocol:
    """A connection that waits for the network with as many messages as may wait: a, b and c."""
    connection = server(policy, **kwargs)
    connection.writing_paused(0.0)
    for name in "abc":
        assert connection.send_nowait(name * 100, 0.0)
    return connection


def received(connection: ConnectionProtocol) -> list[str]:
    """The messages, pings, pongs and Close that the connection has written, in one letter and in words."""
    peer = ConnectionProtocol(Role.CLIENT, ConnectionConfig(heartbeat=None), now=0.0)
    peer.receive_data(connection.data_to_send(), 0.0)
    out = []
    for event in peer.events():
        if isinstance(event, Message):
            assert isinstance(event.data, str)
            out.append(event.data[0])
        elif isinstance(event, PongReceived):
            out.append("pong")
        elif not isinstance(event, Closed):
            out.append("ping")
    peer.receive_eof(0.0)
    list(peer.events())
    assert peer.close_info is not None
    if peer.close_info.rcvd is not None:
        out.append(f"close {peer.close_info.rcvd.code}")
    return out


def resume(connection: ConnectionProtocol, now: float = 1.0) -> list[int]:
    connection.writing_resumed(now)
    sizes = []
    while more := connection.send_waiting(now):
        sizes += more
    return sizes


def dropped(connection: ConnectionProtocol) -> tuple[int, int]:
    return connection.stats.messages_dropped, connection.stats.bytes_dropped


def wake(connection: ConnectionProtocol, at: float) -> None:
    """Let the deadline that comes at `at` be over."""
    assert connection.next_timeout() == at
    connection.handle_timeout(at)
    assert connection.next_timeout() == at + READ_GRACE
    connection.handle_timeout(at + READ_GRACE)


def test_nothing_is_sent_once_the_connection_closes() -> None:
    connection = server()
    connection.close(1000, "", 0.0)
    with pytest.raises(LocalProtocolError, match="in state CLOSE_SENT"):
        connection.send("late", 0.0)
    assert not connection.send_nowait("late", 0.0)
    connection.receive_data(encode_frame(Opcode.PING, b"late", mask=MASK), 0.0)
    list(connection.events())
    assert received(connection) == ["close 1000"]


# In line.


def test_without_a_line_a_message_goes_out_at_once() -> None:
    connection = server()
    assert connection.is_clear
    assert connection.send_nowait("a", 0.0)
    assert received(connection) == ["a"]
    assert connection.outbox.size == 0


def test_what_waits_goes_out_in_order_when_there_is_room() -> None:
    connection = full()
    assert connection.bytes_to_send == 0
    assert connection.send_waiting(0.5) == []
    assert resume(connection) == [100, 100, 100]
    assert received(connection) == ["a", "b", "c"]
    assert connection.is_clear
    assert connection.stats.messages_sent == 3
    assert dropped(connection) == (0, 0)


def test_what_has_room_is_handed_over_a_little_at_a_time() -> None:
    queue = QueueConfig(max_unsent_bytes=1 << 20)
    connection = ConnectionProtocol(Role.SERVER, ConnectionConfig(queue=queue), now=0.0)
    connection.writing_paused(0.0)
    for _ in range(30):
        connection.send_nowait(bytes(10_000), 0.0)
    connection.writing_resumed(0.0)
    assert connection.send_waiting(0.0) == [10_000] * 7
    assert connection.send_waiting(0.0) == []  # what is there must be written first
    connection.data_to_send()
    assert connection.send_waiting(0.0) == [10_000] * 7


def test_a_ping_has_a_payload_of_its_own_unless_one_is_given() -> None:
    connection = ConnectionProtocol(Role.SERVER, ConnectionConfig(), now=0.0, random_bytes=lambda size: b"r" * size)
    assert connection.ping(None, 0.0) == b"rrrr"
    assert connection.ping(b"mine", 0.0) == b"mine"
    connection.close(1000, "", 0.0)
    with pytest.raises(LocalProtocolError, match="cannot ping in state CLOSE_SENT; it must be OPEN"):
        connection.ping(None, 0.0)


def test_pings_and_pongs_wait_for_no_message() -> None:
    connection = full()
    connection.ping(b"", 0.0)
    assert received(connection) == ["ping"]
    connection.receive_data(encode_frame(Opcode.PING, b"", mask=MASK), 0.0)
    list(connection.events())
    connection.writing_resumed(0.0)
    connection.send_waiting(0.0)
    assert received(connection) == ["pong", "a", "b", "c"]


def test_a_message_in_fragments_is_not_broken_into() -> None:
    connection = server()
    connection.send("a", 0.0, final=False)
    assert connection.send_nowait("b", 0.0)
    assert connection.send_waiting(0.0) == []
    connection.send("-", 0.0)
    assert connection.send_waiting(0.0) == [1]
    assert connection.data_to_send() == b"\x01\x01a\x80\x01-\x81\x01b"


def test_an_invalid_message_changes_nothing() -> None:
    connection = full()
    wrong: Any = 1
    for message, error in ((wrong, TypeError), ("\ud800", LocalProtocolError)):
        with pytest.raises(error):
            connection.send_nowait(message, 0.0)
    assert len(connection.outbox.line) == 3
    assert dropped(connection) == (0, 0)


def test_a_message_that_waits_is_compressed_when_it_goes_out_and_not_before() -> None:
    takeover = DeflateParams(False, False, 15, 15)
    connection = full(OLDEST, deflate=takeover)
    assert connection.send_nowait("d" * 100, 0.0)
    resume(connection)
    config = ConnectionConfig(compression=CompressionConfig(server_context_takeover=True))
    peer = ConnectionProtocol(Role.CLIENT, config, now=0.0, deflate=takeover)
    peer.receive_data(connection.data_to_send(), 0.0)
    assert [event.data for event in peer.events() if isinstance(event, Message)] == ["b" * 100, "c" * 100, "d" * 100]
    assert connection.stats.compression.outbound.messages_compressed == 3


# Senders in line.


def test_a_sender_has_its_turn_when_all_before_it_has_gone_out() -> None:
    connection = server()
    connection.writing_paused(0.0)
    connection.send_nowait("a", 0.0)
    turn = connection.queue_up("sender", 0.0)
    connection.send_nowait("c", 0.0)
    assert connection.turns_due() == []
    assert resume(connection) == [1]
    assert connection.turns_due() == connection.turns_due() == ["sender"]
    assert not connection.is_clear
    assert connection.send_nowait("d", 1.0)
    connection.leave(turn, 1.0)
    connection.send("b", 1.0)
    assert connection.turns_due() == []
    connection.send_waiting(1.0)
    assert received(connection) == ["a", "b", "c", "d"]
    assert connection.is_clear


def test_senders_have_their_turns_one_after_the_other() -> None:
    connection = server()
    connection.writing_paused(0.0)
    turns = [connection.queue_up(name, 0.0) for name in "abc"]
    connection.writing_resumed(0.0)
    for name, turn in zip("abc", turns, strict=True):
        assert connection.turns_due() == [name]
        connection.leave(turn, 0.0)
    assert connection.turns_due() == []


def test_it_is_nobodys_turn_while_the_transport_is_full_again() -> None:
    connection = server()
    connection.writing_paused(0.0)
    connection.queue_up("sender", 0.0)
    connection.writing_resumed(0.0)
    connection.writing_paused(0.0)
    assert connection.turns_due() == []


def test_a_sender_that_gives_up_lets_the_next_pass() -> None:
    connection = server()
    connection.writing_paused(0.0)
    turns = [connection.queue_up(name, 0.0) for name in "ab"]
    connection.send_nowait("c", 0.0)
    for turn in reversed(turns):
        connection.leave(turn, 0.0)
        connection.leave(turn, 0.0)
    assert resume(connection) == [1]


def test_a_close_dismisses_the_senders_once() -> None:
    connection = server()
    connection.writing_paused(0.0)
    turn = connection.queue_up("a", 0.0)
    connection.queue_up("b", 0.0)
    connection.close(1000, "", 0.0)
    assert connection.turns_due() == ["a", "b"]
    assert connection.turns_due() == []
    connection.leave(turn, 0.0)


# Bounds.


@pytest.mark.parametrize("policy", [BLOCK, NEWEST])
def test_what_does_not_fit_is_dropped(policy: SlowConsumer) -> None:
    connection = full(policy)
    assert not connection.send_nowait("d" * 50, 0.0)
    assert dropped(connection) == (1, 50)
    resume(connection)
    assert received(connection) == ["a", "b", "c"]


def test_the_oldest_make_room_for_what_comes() -> None:
    connection = full(OLDEST)
    assert connection.send_nowait("d" * 101, 0.0)
    assert dropped(connection) == (2, 200)
    resume(connection)
    assert received(connection) == ["c", "d"]


def test_nothing_makes_room_for_what_can_never_fit() -> None:
    connection = full(OLDEST)
    assert not connection.send_nowait("d" * 3 * SIZE, 0.0)
    assert dropped(connection) == (1, 3 * SIZE)
    resume(connection)
    assert received(connection) == ["a", "b", "c"]


def test_what_does_not_fit_closes_where_the_policy_is_to_close() -> None:
    connection = full(CLOSE)
    assert not connection.send_nowait("d" * 100, 0.0)
    assert connection.state is State.CLOSE_SENT
    assert received(connection) == ["close 1013"]
    assert dropped(connection) == (4, 400)
    assert connection.outbox.size == 0
    assert not connection.send_nowait("e", 0.0)
    assert dropped(connection) == (4, 400)  # what nobody could expect to be sent is no loss
    connection.receive_eof(1.0)
    list(connection.events())
    info = connection.close_info
    assert info is not None
    assert (info.cause, info.initiator) == (Cause.SLOW_CONSUMER, Initiator.LOCAL)
    assert info.sent == CloseFrame(1013, "too much is unsent")


@pytest.mark.parametrize("policy", list(SlowConsumer))
def test_a_message_larger_than_all_that_may_wait_goes_out_when_nothing_does(policy: SlowConsumer) -> None:
    connection = server(policy)
    assert connection.send_nowait("a" * 10 * SIZE, 0.0)
    assert received(connection) == ["a"]


def test_empty_messages_take_room_too() -> None:
    connection = server(NEWEST, messages=10)
    connection.writing_paused(0.0)
    taken = sum(connection.send_nowait("", 0.0) for _ in range(1000))
    assert taken == 10 * SIZE // OVERHEAD


# Age.


@pytest.mark.parametrize("policy", [BLOCK, CLOSE])
def test_a_peer_that_takes_nothing_for_too_long_is_closed(policy: SlowConsumer) -> None:
    connection = server(policy)
    connection.send("a", 0.0)
    connection.data_to_send()
    connection.writing_paused(5.0)
    connection.writing_paused(20.0)
    assert connection.next_timer == (Timer.UNSENT, 35.0)
    wake(connection, 35.0)
    assert received(connection) == ["close 1013"]
    assert connection.state is State.CLOSE_SENT
    wake(connection, 35.0 + READ_GRACE + CloseConfig().timeout)
    list(connection.events())
    assert connection.close_info is not None
    assert connection.close_info.cause is Cause.SLOW_CONSUMER
    assert connection.close_info.sent == CloseFrame(1013, "nothing was read for too long")


@pytest.mark.parametrize("policy", DROPPING)
def test_a_peer_that_takes_nothing_is_kept_where_messages_are_dropped(policy: SlowConsumer) -> None:
    connection = server(policy)
    connection.writing_paused(0.0)
    assert connection.next_timeout() is None


@pytest.mark.parametrize("policy", DROPPING)
def test_what_has_waited_too_long_is_dropped(policy: SlowConsumer) -> None:
    connection = server(policy)
    connection.writing_paused(0.0)
    for at, name in ((1.0, "a"), (1.0, "b"), (20.0, "c")):
        connection.send_nowait(name * 100, at)
    wake(connection, 31.0)
    assert dropped(connection) == (2, 200)
    assert connection.outbox.size == SIZE
    assert connection.next_timeout() == 50.0
    resume(connection, 40.0)
    assert received(connection) == ["c"]
    assert connection.next_timeout() is None


@pytest.mark.parametrize("policy", [BLOCK, CLOSE])
def test_a_message_that_has_waited_too_long_closes_though_the_peer_takes_something(policy: SlowConsumer) -> None:
    connection = server(policy)
    connection.writing_paused(0.0)
    connection.send_nowait("a", 3.0)
    for at in range(1, 33):
        connection.writing_progressed(float(at))
    wake(connection, 33.0)
    assert connection.state is State.CLOSE_SENT
    assert dropped(connection) == (1, 1)


def test_a_sender_may_wait_for_as_long_as_the_peer_takes_something() -> None:
    connection = server()
    connection.writing_paused(0.0)
    connection.queue_up("sender", 0.0)
    for at in range(10, 1000, 10):
        connection.handle_timeout(float(at))
        connection.writing_progressed(float(at))
        assert connection.next_timeout() == at + 30.0
    assert received(connection) == []
    wake(connection, 1020.0)
    assert received(connection) == ["close 1013"]
    assert connection.turns_due() == ["sender"]


def test_progress_is_none_when_nothing_is_stuck() -> None:
    connection = server()
    connection.writing_progressed(1.0)
    assert connection.next_timeout() is None


def test_room_in_time_ends_the_wait() -> None:
    connection = full()
    assert connection.next_timeout() == 30.0
    connection.handle_timeout(40.0)  # late: it was us who were not there
    resume(connection, 40.001)
    assert connection.next_timeout() is None
    connection.handle_timeout(1000.0)
    assert connection.state is State.OPEN


def test_a_verdict_is_not_put_off_by_new_messages() -> None:
    connection = server(CLOSE, messages=1000)
    connection.writing_paused(0.0)
    connection.send_nowait("a", 0.0)
    now = 30.0
    while connection.state is State.OPEN:
        connection.handle_timeout(now)
        connection.send_nowait("b", now)
        now += READ_GRACE / 4
    assert now < 30.0 + 2 * READ_GRACE


@pytest.mark.parametrize("policy", list(SlowConsumer))
def test_without_a_bound_on_age_what_waits_may_wait_for_ever(policy: SlowConsumer) -> None:
    connection = full(policy, age=None)
    assert connection.next_timeout() is None
    connection.handle_timeout(1e6)
    assert connection.state is State.OPEN
    assert dropped(connection) == (0, 0)


# The end.


def test_a_close_overtakes_what_waits_for_the_network() -> None:
    connection = full()
    connection.close(1000, "", 0.0)
    assert received(connection) == ["close 1000"]
    assert dropped(connection) == (3, 300)
    assert connection.next_timer == (Timer.CLOSE, 5.0)
    assert resume(connection) == []
    assert connection.data_to_send() == b""


def in_turn() -> ConnectionProtocol:
    """A connection with a message behind a sender whose turn it is."""
    connection = server()
    connection.writing_paused(0.0)
    connection.queue_up("sender", 0.0)
    connection.send_nowait("a", 0.0)
    connection.writing_resumed(0.0)
    return connection


def test_what_waits_for_a_sender_alone_goes_out_before_our_close() -> None:
    connection = in_turn()
    connection.close(1000, "", 0.0)
    assert received(connection) == ["a", "close 1000"]
    assert connection.turns_due() == ["sender"]
    assert dropped(connection) == (0, 0)


def test_what_waits_for_a_sender_alone_goes_out_before_the_answer_to_a_close() -> None:
    connection = in_turn()
    connection.receive_data(encode_frame(Opcode.CLOSE, b"\x03\xe8", mask=MASK), 0.0)
    list(connection.events())
    assert received(connection) == ["a", "close 1000"]


def test_what_waits_when_the_transport_ends_is_lost() -> None:
    connection = in_turn()
    connection.receive_eof(0.0)
    list(connection.events())
    assert connection.data_to_send() == b""
    assert dropped(connection) == (1, 1)
    assert connection.turns_due() == ["sender"]


def test_a_close_within_fragments_breaks_off_and_sends_no_message_between() -> None:
    connection = server()
    connection.send("a", 0.0, final=False)
    connection.send_nowait("b", 0.0)
    connection.close(1000, "", 0.0)
    assert connection.data_to_send() == b"\x01\x01a\x88\x02\x03\xe8"
    assert dropped(connection) == (1, 1)


def test_after_the_end_there_is_no_deadline() -> None:
    connection = server()
    connection.receive_eof(0.0)
    list(connection.events())
    connection.writing_paused(1.0)
    connection.writing_progressed(2.0)
    assert connection.next_timeout() is None
    assert not connection.send_nowait("a", 3.0)


# All of it together.


class Line(RuleBasedStateMachine):
    """Whatever happens, what goes out is in the order in which it was given, and nothing is lost uncounted."""

    policy = BLOCK

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        queue = QueueConfig(slow_consumer=self.policy, max_unsent_bytes=1000, max_unsent_age=30.0)
        config = ConnectionConfig(heartbeat=None, queue=queue, close=CloseConfig(timeout=1.0))
        self.connection = ConnectionProtocol(Role.SERVER, config, now=0.0)
        self.peer = ConnectionProtocol(Role.CLIENT, ConnectionConfig(heartbeat=None), now=0.0)
        self.numbers = itertools.count()
        self.turns: dict[int, Any] = {}
        self.taken: set[int] = set()
        self.gone: list[int] = []
        self.refused = 0
        self.is_paused = False

    @rule(size=st.integers(4, 400))
    def send_nowait(self, size: int) -> None:
        number = next(self.numbers)
        was_open = self.connection.state is State.OPEN
        if self.connection.send_nowait(f"{number:0{size}}", self.now):
            self.taken.add(number)
        else:
            self.refused += was_open

    @precondition(lambda self: self.connection.state is State.OPEN and self.connection.outbox.blocks)
    @rule()
    def queue_up(self) -> None:
        number = next(self.numbers)
        self.turns[number] = self.connection.queue_up(number, self.now)

    @rule()
    def take_turns(self) -> None:
        for number in self.connection.turns_due():
            assert isinstance(number, int)
            turn = self.turns.pop(number, None)
            if turn is not None and self.connection.state is State.OPEN:
                self.connection.leave(turn, self.now)
                self.connection.send(str(number), self.now)
                self.taken.add(number)
                self.connection.send_waiting(self.now)

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        self.connection.leave(self.turns.pop(data.draw(st.sampled_from(sorted(self.turns)))), self.now)
        self.connection.send_waiting(self.now)

    @rule()
    def pause(self) -> None:
        self.is_paused = True
        self.connection.writing_paused(self.now)

    @rule()
    def resume(self) -> None:
        self.is_paused = False
        self.connection.writing_resumed(self.now)
        self.connection.send_waiting(self.now)

    @rule(seconds=st.sampled_from([0.0, 0.5, 10.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.connection.handle_timeout(self.now)
        self.connection.writing_progressed(self.now)

    @rule()
    def write(self) -> None:
        self.peer.receive_data(self.connection.data_to_send(), self.now)
        for event in self.peer.events():
            if isinstance(event, Message):
                assert isinstance(event.data, str)
                self.gone.append(int(event.data))

    @precondition(lambda self: len(self.gone) > 5)
    @rule()
    def close(self) -> None:
        self.connection.close(1000, "", self.now)

    @invariant()
    def in_order(self) -> None:
        assert self.gone == sorted({*self.gone})
        assert {*self.gone} <= self.taken

    @invariant()
    def bounded(self) -> None:
        outbox = self.connection.outbox
        assert outbox.size <= 1000
        messages = [entry[0] for entry in outbox.line if isinstance(entry, tuple)]
        assert outbox.size == sum(message.size + OVERHEAD for message in messages)
        if self.connection.state is not State.OPEN:
            assert not outbox.line

    @invariant()
    def nothing_is_stranded(self) -> None:
        if not self.is_paused and self.connection.outbox.line and not self.connection.bytes_to_send:
            assert self.connection.turns_due()

    def teardown(self) -> None:
        self.connection.close(1000, "", self.now)
        self.write()
        assert len(self.taken) - len(self.gone) + self.refused == self.connection.stats.messages_dropped
        assert len(self.gone) == self.connection.stats.messages_sent


def machine(policy: SlowConsumer) -> Any:
    line: Any = type(f"Line{policy.name}", (Line,), {"policy": policy})
    case = line.TestCase
    case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    return case


TestBlock = machine(BLOCK)
TestDropOldest = machine(OLDEST)
TestDropNewest = machine(NEWEST)
TestClose = machine(CLOSE)

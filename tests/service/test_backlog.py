from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.service.backlog import Backlog, BacklogConfig, WhenFull


def backlog(when_full: WhenFull = WhenFull.BLOCK, max_messages: int = 3, max_bytes: int = 10) -> Backlog:
    return Backlog(BacklogConfig(max_messages=max_messages, max_bytes=max_bytes, when_full=when_full))


def delivered(queue: Backlog) -> list[str | bytes]:
    """Deliver all that waits, and return it."""
    messages: list[str | bytes] = []
    while (message := queue.take()) is not None:
        messages.append(message)
        queue.delivered()
    return messages


def test_messages_come_out_in_order_and_once() -> None:
    queue = backlog()
    assert [queue.put(message) for message in ("a", b"b", "c")] == [True] * 3
    assert (len(queue), queue.size) == (3, 3)
    assert delivered(queue) == ["a", b"b", "c"]
    assert (len(queue), queue.size, queue.messages_dropped) == (0, 0, 0)


def test_a_message_in_hand_counts_until_it_is_delivered() -> None:
    queue = backlog(max_messages=1)
    queue.put("a")
    assert queue.take() == "a"
    assert (len(queue), queue.size) == (1, 1)
    assert queue.must_wait("b")
    queue.delivered()
    assert not queue.must_wait("b")


def test_a_message_that_no_connection_has_taken_is_the_next_one_again() -> None:
    queue = backlog()
    queue.put("a")
    queue.put("b")
    queue.take()
    queue.give_back()
    assert delivered(queue) == ["a", "b"]


def test_a_sender_waits_when_there_are_too_many_messages_or_bytes() -> None:
    queue = backlog()
    for _ in range(3):
        assert not queue.must_wait("a")
        queue.put("a")
    assert queue.must_wait("a")
    queue = backlog()
    queue.put("12345678")
    assert not queue.must_wait("90")
    assert queue.must_wait("ä0")


def test_one_that_does_not_wait_is_told_and_the_message_counts_as_dropped() -> None:
    queue = backlog()
    queue.put("12345678")
    assert not queue.put("abc")
    assert (queue.messages_dropped, queue.bytes_dropped) == (1, 3)
    assert delivered(queue) == ["12345678"]


def test_the_oldest_make_room() -> None:
    queue = backlog(WhenFull.DROP_OLDEST)
    for message in ("1", "2", "3", "4"):
        assert not queue.must_wait(message)
        assert queue.put(message)
    assert (queue.messages_dropped, queue.bytes_dropped) == (1, 1)
    assert queue.put("12345678")
    assert (queue.messages_dropped, queue.bytes_dropped) == (2, 2)
    assert delivered(queue) == ["3", "4", "12345678"]


def test_what_is_in_hand_is_not_dropped_to_make_room() -> None:
    queue = backlog(WhenFull.DROP_OLDEST, max_messages=2)
    queue.put("12345")
    queue.put("b")
    queue.take()
    assert not queue.put("1234567890")  # for which not even "b" could make room
    assert (queue.messages_dropped, queue.bytes_dropped) == (1, 10)
    assert queue.put("c")
    assert queue.put("d")
    assert (queue.messages_dropped, queue.bytes_dropped) == (3, 12)
    queue.give_back()
    assert delivered(queue) == ["12345", "d"]


def test_one_in_hand_where_only_one_may_wait_leaves_no_room_to_make() -> None:
    queue = backlog(WhenFull.DROP_OLDEST, max_messages=1)
    queue.put("a")
    queue.take()
    assert not queue.put("b")
    assert (len(queue), queue.messages_dropped) == (1, 1)


def test_the_newest_are_dropped() -> None:
    queue = backlog(WhenFull.DROP_NEWEST)
    assert [queue.put(message) for message in "1234"] == [True, True, True, False]
    assert not queue.must_wait("5")
    assert delivered(queue) == ["1", "2", "3"]
    assert (queue.messages_dropped, queue.bytes_dropped) == (1, 1)


def test_all_that_waits_can_be_dropped_but_not_what_is_in_hand() -> None:
    queue = backlog()
    for message in "123":
        queue.put(message)
    queue.take()
    queue.drop_all()
    assert (len(queue), queue.size, queue.messages_dropped, queue.bytes_dropped) == (1, 1, 2, 2)
    queue.delivered()
    assert (len(queue), queue.size) == (0, 0)


def test_what_was_put_does_not_change_with_the_senders_buffer() -> None:
    queue = backlog()
    buffer = bytearray(b"ab")
    queue.put(buffer)
    queue.put(memoryview(buffer))
    buffer[:] = b"xx"
    assert delivered(queue) == [b"ab", b"ab"]


@pytest.mark.parametrize("when_full", WhenFull)
def test_a_message_that_could_never_fit_is_refused(when_full: WhenFull) -> None:
    queue = backlog(when_full)
    queue.put("a")
    for call in (queue.put, queue.must_wait):
        with pytest.raises(LocalProtocolError, match=r"message of 11 bytes; at most 10 can wait \(max_bytes\)"):
            call("12345678901")
    assert (queue.messages_dropped, delivered(queue)) == (0, ["a"])


def test_what_could_never_be_sent_is_refused_at_once() -> None:
    queue = backlog()
    with pytest.raises(LocalProtocolError, match="text cannot be sent as UTF-8"):
        queue.put("\ud800")
    wrong: Any = 5
    with pytest.raises(TypeError, match="message is of type int; it must be str, bytes, bytearray or memoryview"):
        queue.put(wrong)
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_messages": 0}, "max_messages is 0; it must be an integer of at least 1"),
        ({"max_bytes": 1.5}, r"max_bytes is 1\.5; "),
        ({"when_full": "block"}, "when_full is 'block'; it must be a WhenFull"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        BacklogConfig(**settings)


class BacklogModel(RuleBasedStateMachine):
    """Nothing is lost that is not counted, nothing comes twice, and the bounds hold."""

    @initialize(when_full=st.sampled_from(WhenFull))
    def begin(self, when_full: WhenFull) -> None:
        self.when_full = when_full
        self.queue = backlog(when_full, max_messages=4, max_bytes=20)
        self.put = 0
        self.got: list[int] = []
        self.in_hand: int | None = None

    @rule(padding=st.integers(0, 15))
    def put_one(self, padding: int) -> None:
        must_wait = self.queue.must_wait(b"%03d" % self.put + b"." * padding)
        taken = self.queue.put(b"%03d" % self.put + b"." * padding)
        self.put += 1
        if self.when_full is WhenFull.BLOCK:
            assert taken is not must_wait
        else:
            assert not must_wait

    @precondition(lambda self: self.in_hand is None)
    @rule()
    def take(self) -> None:
        message = self.queue.take()
        if message is not None:
            assert isinstance(message, bytes)
            self.in_hand = int(message[:3])

    @precondition(lambda self: self.in_hand is not None)
    @rule(delivered=st.booleans())
    def let_go(self, delivered: bool) -> None:
        assert self.in_hand is not None
        if delivered:
            self.queue.delivered()
            self.got.append(self.in_hand)
        else:
            self.queue.give_back()
        self.in_hand = None

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if hasattr(self, "queue"):
            assert self.got == sorted(set(self.got))
            assert len(self.got) + self.queue.messages_dropped + len(self.queue) == self.put
            assert len(self.queue) <= 4
            assert 0 <= self.queue.size <= 20


test_any_order_of_calls = BacklogModel.TestCase

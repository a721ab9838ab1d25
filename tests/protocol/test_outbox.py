from __future__ import annotations

import pytest

from wsconnkit.machines.compression import CompressionStats
from wsconnkit.machines.framesize import FrameSizeStats
from wsconnkit.protocol.config import OVERHEAD, QueueConfig, SlowConsumer
from wsconnkit.protocol.outbox import Outbox, Put
from wsconnkit.protocol.prepared import PreparedMessage
from wsconnkit.protocol.stats import ConnectionStats

BLOCK, OLDEST, NEWEST, CLOSE = SlowConsumer
SIZE = 100 + OVERHEAD
A, B, C = (PreparedMessage(letter * 100) for letter in "abc")


class Waiting:
    """An outbox with room for two messages of 100 bytes, for 30 seconds, and its counts."""

    def __init__(self, policy: SlowConsumer, *, age: float | None = 30.0) -> None:
        self.stats = ConnectionStats(FrameSizeStats(), CompressionStats())
        queue = QueueConfig(slow_consumer=policy, max_unsent_bytes=2 * SIZE, max_unsent_age=age)
        self.outbox = Outbox(queue, self.stats)

    @property
    def dropped(self) -> tuple[int, int]:
        return self.stats.messages_dropped, self.stats.bytes_dropped


@pytest.mark.parametrize("policy", list(SlowConsumer))
def test_messages_are_taken_out_in_the_order_they_came_in(policy: SlowConsumer) -> None:
    waiting = Waiting(policy)
    outbox = waiting.outbox
    assert outbox.take() is None
    assert [outbox.put(message, 0.0) for message in (A, B)] == [Put.TAKEN] * 2
    assert outbox.size == 2 * SIZE
    assert [outbox.take(), outbox.take(), outbox.take()] == [A, B, None]
    assert (outbox.size, waiting.dropped) == (0, (0, 0))


@pytest.mark.parametrize(
    ("policy", "put", "left"),
    [
        (BLOCK, Put.DROPPED, [A, B]),
        (OLDEST, Put.TAKEN, [B, C]),
        (NEWEST, Put.DROPPED, [A, B]),
        (CLOSE, Put.OVERFLOW, [A, B]),
    ],
)
def test_what_does_not_fit_is_dropped_and_counted_as_the_policy_says(
    policy: SlowConsumer, put: Put, left: list[PreparedMessage]
) -> None:
    waiting = Waiting(policy)
    for message in (A, B):
        waiting.outbox.put(message, 0.0)
    assert waiting.outbox.put(C, 0.0) is put
    assert [waiting.outbox.take(), waiting.outbox.take()] == left
    assert waiting.dropped == (1, 100)


def test_a_message_larger_than_all_the_room_drives_nothing_out() -> None:
    waiting = Waiting(OLDEST)
    waiting.outbox.put(A, 0.0)
    assert waiting.outbox.put(PreparedMessage(bytes(1000)), 0.0) is Put.DROPPED
    assert waiting.outbox.take() is A
    assert waiting.dropped == (1, 1000)


def test_a_sender_in_line_holds_up_what_is_behind_until_it_leaves() -> None:
    outbox = Waiting(BLOCK).outbox
    assert outbox.blocks
    first, second = outbox.queue_up("first"), outbox.queue_up("second")
    outbox.put(A, 0.0)
    assert outbox.take() is None
    assert outbox.turns_due() == ["first"]
    outbox.leave(first)
    outbox.leave(first)
    assert outbox.turns_due() == ["second"]
    outbox.leave(second)
    assert outbox.turns_due() == []
    assert outbox.take() is A


def test_no_turn_comes_while_the_transport_is_stuck() -> None:
    outbox = Waiting(BLOCK).outbox
    outbox.stuck(0.0)
    outbox.queue_up("sender")
    assert outbox.turns_due() == []
    outbox.unstuck()
    assert outbox.turns_due() == ["sender"]


def test_emptied_it_tells_each_sender_once_that_no_turn_will_come() -> None:
    waiting = Waiting(BLOCK)
    outbox = waiting.outbox
    outbox.put(A, 0.0)
    turn = outbox.queue_up("sender")
    assert outbox.empty() == [A]
    assert (outbox.size, len(outbox.line)) == (0, 0)
    assert outbox.turns_due() == ["sender"]
    assert outbox.turns_due() == []
    outbox.leave(turn)
    assert waiting.dropped == (0, 0)
    outbox.put(B, 0.0)
    outbox.drop()
    assert (outbox.size, waiting.dropped) == (0, (1, 100))


@pytest.mark.parametrize("policy", [OLDEST, NEWEST])
def test_what_is_too_old_is_dropped_where_the_policy_is_to_drop(policy: SlowConsumer) -> None:
    waiting = Waiting(policy)
    outbox = waiting.outbox
    outbox.stuck(0.0)
    late_at = [outbox.late_at]
    outbox.put(A, 10.0)
    outbox.put(B, 20.0)
    late_at.append(outbox.late_at)
    assert late_at == [None, 40.0]
    assert not outbox.on_late(39.9)
    assert waiting.dropped == (0, 0)
    assert not outbox.on_late(40.0)
    assert (outbox.late_at, waiting.dropped) == (50.0, (1, 100))
    assert outbox.take() is B


@pytest.mark.parametrize("policy", [BLOCK, CLOSE])
def test_what_is_too_old_closes_where_the_policy_is_to_wait_or_to_close(policy: SlowConsumer) -> None:
    waiting = Waiting(policy)
    outbox = waiting.outbox
    outbox.put(A, 10.0)
    assert outbox.late_at == 40.0
    assert not outbox.on_late(39.9)
    assert outbox.on_late(40.0)
    assert (outbox.take(), waiting.dropped) == (A, (0, 0))
    assert not outbox.on_late(1000.0)


def test_a_transport_that_is_stuck_is_late_too_where_nothing_waits_or_a_sender_does() -> None:
    outbox = Waiting(BLOCK).outbox
    outbox.stuck(5.0)
    assert outbox.late_at == 35.0
    outbox.queue_up("sender")
    outbox.put(A, 6.0)
    assert outbox.late_at == 35.0
    outbox.stuck(20.0)
    assert outbox.late_at == 50.0
    outbox.unstuck()
    assert outbox.late_at is None


def test_the_older_of_a_message_and_of_what_is_stuck_counts() -> None:
    outbox = Waiting(BLOCK).outbox
    outbox.put(A, 5.0)
    outbox.stuck(10.0)
    assert outbox.late_at == 35.0
    outbox.stuck(2.0)
    assert outbox.late_at == 32.0


def test_without_a_bound_on_age_nothing_is_late() -> None:
    outbox = Waiting(CLOSE, age=None).outbox
    outbox.stuck(0.0)
    outbox.put(A, 0.0)
    assert outbox.late_at is None
    assert not outbox.on_late(1e9)

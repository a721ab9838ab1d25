from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from wsconnkit.machines.heartbeat import MAX_UNANSWERED_PINGS, READ_GRACE, Beat, Heartbeat, HeartbeatConfig

SETTINGS = settings(deadline=None)
CONFIG = HeartbeatConfig(interval=30, timeout=5, max_missed=3)


class CountingPayloads:
    """Gives 1, 2, 3, … as bytes, so that each ping can be told from the others."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self, size: int) -> bytes:
        self.given += 1
        return self.given.to_bytes(size, "big")


def payload(number: int) -> bytes:
    return number.to_bytes(4, "big")


def new_heartbeat(config: HeartbeatConfig | None = CONFIG, now: float = 0.0) -> Heartbeat:
    return Heartbeat(config, now=now, new_payload=CountingPayloads())


def silent(*wakes: float) -> Heartbeat:
    """Return a heartbeat whose timer has fired at each of `wakes`, without a byte from the peer."""
    heartbeat = new_heartbeat()
    for now in wakes:
        heartbeat.handle_timeout(now)
    return heartbeat


IDLE: tuple[float, ...] = ()
PINGED = (30.0,)
MISSED_ONCE = (30.0, 35.0)
MISSED_TWICE = (30.0, 35.0, 40.0)
CHECKING = (30.0, 35.0, 40.0, 45.0)
DEAD = (30.0, 35.0, 40.0, 45.0, 45.0 + READ_GRACE)
ALIVE = [IDLE, PINGED, MISSED_ONCE, MISSED_TWICE, CHECKING]
ALIVE_IDS = ["idle", "pinged", "missed once", "missed twice", "checking"]
in_every_phase = pytest.mark.parametrize("wakes", ALIVE, ids=ALIVE_IDS)


# Silence.


def test_a_silent_peer_is_pinged_at_30_35_and_40_and_dead_at_45_after_one_read() -> None:
    heartbeat = new_heartbeat()
    assert heartbeat.next_timeout() == 30
    assert heartbeat.handle_timeout(30) == Beat(ping=payload(1))
    assert heartbeat.next_timeout() == 35
    assert heartbeat.handle_timeout(35) == Beat(ping=payload(2), missed=1)
    assert heartbeat.next_timeout() == 40
    assert heartbeat.handle_timeout(40) == Beat(ping=payload(3), missed=2)
    assert heartbeat.next_timeout() == 45
    assert heartbeat.handle_timeout(45) == Beat()
    assert heartbeat.next_timeout() == 45 + READ_GRACE
    assert heartbeat.handle_timeout(45 + READ_GRACE) == Beat(missed=3, dead=True)
    assert heartbeat.next_timeout() is None


@pytest.mark.parametrize(
    ("wakes", "missed"), [(IDLE, 0), (PINGED, 0), (MISSED_ONCE, 1), (MISSED_TWICE, 2), (CHECKING, 2), (DEAD, 3)]
)
def test_misses_in_a_row_are_counted(wakes: tuple[float, ...], missed: int) -> None:
    assert silent(*wakes).missed == missed


def test_the_read_before_a_verdict_has_a_hundredth_of_a_second() -> None:
    assert READ_GRACE == 0.01


def test_a_single_allowed_miss_is_a_verdict_after_one_read() -> None:
    heartbeat = new_heartbeat(HeartbeatConfig(interval=30, timeout=5, max_missed=1))
    assert heartbeat.handle_timeout(30) == Beat(ping=payload(1))
    assert heartbeat.handle_timeout(35) == Beat()
    assert heartbeat.next_timeout() == 35 + READ_GRACE
    assert heartbeat.handle_timeout(35 + READ_GRACE) == Beat(missed=1, dead=True)


def test_time_starts_when_the_heartbeat_does() -> None:
    assert new_heartbeat(now=1000.0).next_timeout() == 1030.0


@in_every_phase
def test_an_early_call_does_nothing(wakes: tuple[float, ...]) -> None:
    heartbeat = silent(*wakes)
    deadline = heartbeat.next_timeout()
    assert deadline is not None
    assert heartbeat.handle_timeout(deadline - READ_GRACE / 2) == Beat()
    assert heartbeat.next_timeout() == deadline


@in_every_phase
def test_a_repeated_call_does_nothing(wakes: tuple[float, ...]) -> None:
    heartbeat = silent(*wakes)
    deadline = heartbeat.next_timeout()
    assert deadline is not None
    heartbeat.handle_timeout(deadline)
    following = heartbeat.next_timeout()
    assert heartbeat.handle_timeout(deadline) == Beat()
    assert heartbeat.next_timeout() == following


def test_death_is_told_once_and_is_final() -> None:
    heartbeat = silent(*DEAD)
    assert heartbeat.handle_timeout(100.0) == Beat()
    heartbeat.on_data(101.0)
    heartbeat.on_pong(payload(3), 101.0)
    heartbeat.reading_paused(102.0)
    heartbeat.reading_resumed(103.0)
    heartbeat.writing_paused(104.0)
    heartbeat.writing_resumed(105.0)
    assert heartbeat.next_timeout() is None
    assert heartbeat.handle_timeout(1000.0) == Beat()
    assert heartbeat.missed == 3


# Signs of life.


@in_every_phase
def test_any_byte_clears_the_misses_and_starts_the_interval_anew(wakes: tuple[float, ...]) -> None:
    heartbeat = silent(*wakes)
    heartbeat.on_data(45.005)
    assert heartbeat.missed == 0
    assert heartbeat.next_timeout() == 75.005
    assert heartbeat.handle_timeout(75.005).missed == 0
    assert heartbeat.handle_timeout(80.005).missed == 1
    assert heartbeat.handle_timeout(85.005).missed == 2
    assert heartbeat.handle_timeout(90.005) == Beat()
    assert heartbeat.handle_timeout(91.0) == Beat(missed=3, dead=True)


def test_a_peer_that_keeps_talking_is_never_pinged() -> None:
    heartbeat = new_heartbeat()
    for now in range(0, 1000, 29):
        assert heartbeat.handle_timeout(now) == Beat()
        heartbeat.on_data(now)


def test_a_pong_alone_moves_no_deadline_because_its_bytes_already_did() -> None:
    heartbeat = silent(*PINGED)
    heartbeat.on_pong(payload(1), 31.0)
    assert heartbeat.next_timeout() == 35


# Late timers.


def test_after_a_late_timer_the_socket_is_read_once_before_a_miss_counts() -> None:
    heartbeat = silent(*PINGED)
    assert heartbeat.handle_timeout(60.0) == Beat(late_by=25.0)
    assert heartbeat.next_timeout() == 60.0 + READ_GRACE
    assert heartbeat.handle_timeout(60.0 + READ_GRACE) == Beat(ping=payload(2), missed=1)
    assert heartbeat.next_timeout() == 60.0 + READ_GRACE + 5


def test_a_pong_found_by_that_read_clears_everything() -> None:
    heartbeat = silent(*PINGED)
    heartbeat.handle_timeout(60.0)
    heartbeat.on_data(60.001)
    assert heartbeat.handle_timeout(60.0 + READ_GRACE) == Beat()
    assert heartbeat.next_timeout() == 90.001


def test_one_stall_is_at_most_one_miss_however_long_it_was() -> None:
    heartbeat = silent(*PINGED)
    assert heartbeat.handle_timeout(100_000.0) == Beat(late_by=99_965.0)
    assert heartbeat.handle_timeout(100_000.0 + READ_GRACE).missed == 1
    assert heartbeat.next_timeout() == 100_000.0 + READ_GRACE + 5


def test_a_late_idle_timer_pings_and_tells_the_stall() -> None:
    heartbeat = new_heartbeat()
    assert heartbeat.handle_timeout(90.0) == Beat(ping=payload(1), late_by=60.0)
    assert heartbeat.next_timeout() == 95.0


def test_lateness_matters_from_more_than_half_a_timeout() -> None:
    heartbeat = silent(*PINGED)
    assert heartbeat.handle_timeout(37.5) == Beat(ping=payload(2), missed=1)
    assert heartbeat.handle_timeout(45.25) == Beat(late_by=2.75)


def test_a_stall_before_the_verdict_puts_it_off_once_more() -> None:
    heartbeat = silent(*CHECKING)
    assert heartbeat.handle_timeout(60.0) == Beat(late_by=60.0 - (45.0 + READ_GRACE))
    assert heartbeat.next_timeout() == 60.0 + READ_GRACE
    assert heartbeat.handle_timeout(60.0 + READ_GRACE) == Beat(missed=3, dead=True)


@pytest.mark.parametrize(
    ("wakes", "now", "late_by"),
    [
        (IDLE, 30.0, 0.0),
        (IDLE, 32.5, 0.0),
        (IDLE, 90.0, 60.0),
        (PINGED, 37.5, 0.0),
        (PINGED, 37.75, 2.75),
        (PINGED, 60.0, 25.0),
        (MISSED_TWICE, 60.0, 15.0),
        (CHECKING, 60.0, 60.0 - (45.0 + READ_GRACE)),
    ],
)
def test_a_read_ahead_of_a_late_timer_tells_the_stall(wakes: tuple[float, ...], now: float, late_by: float) -> None:
    heartbeat = silent(*wakes)
    assert heartbeat.on_data(now) == late_by
    assert heartbeat.next_timeout() == now + 30


def test_a_stall_is_told_once_whether_the_timer_or_the_read_comes_first() -> None:
    timer_first, read_first = silent(*PINGED), silent(*PINGED)
    assert timer_first.handle_timeout(60.0).late_by == 25.0
    assert timer_first.on_data(60.0) == 0.0
    assert read_first.on_data(60.0) == 25.0
    assert read_first.on_data(60.0) == 0.0
    assert read_first.handle_timeout(60.0) == Beat()


def test_a_read_tells_no_stall_where_there_is_no_timer() -> None:
    paused = silent(*PINGED)
    paused.reading_paused(31.0)
    assert paused.on_data(1000.0) == 0.0
    assert silent(*DEAD).on_data(1000.0) == 0.0
    assert new_heartbeat(None).on_data(1000.0) == 0.0


# Reading paused.


@pytest.mark.parametrize("wakes", [IDLE, PINGED, MISSED_ONCE, MISSED_TWICE, CHECKING], ids=ALIVE_IDS)
def test_while_we_do_not_read_there_is_no_verdict_but_two_pings_each_interval(wakes: tuple[float, ...]) -> None:
    heartbeat = silent(*wakes)
    missed = heartbeat.missed
    heartbeat.reading_paused(wakes[-1] if wakes else 0.0)
    pinged_at = []
    while (deadline := heartbeat.next_timeout()) is not None and deadline < 250.0:
        beat = heartbeat.handle_timeout(deadline)
        assert beat == Beat(ping=beat.ping)
        assert beat.ping is not None
        pinged_at.append(deadline)
    assert heartbeat.missed == missed
    waits = {round(later - earlier, 9) for earlier, later in pairwise(pinged_at)}
    assert waits == {30.0, 5.0}
    assert len(pinged_at) >= 11


def test_a_peer_that_has_left_is_pinged_twice_within_the_patience_we_have_with_a_silent_one() -> None:
    heartbeat = new_heartbeat(HeartbeatConfig(interval=30, timeout=5, max_missed=1))
    heartbeat.reading_paused(1.0)
    assert heartbeat.handle_timeout(30.0).ping is not None
    assert heartbeat.next_timeout() == 35.0
    assert heartbeat.handle_timeout(35.0).ping is not None


def test_while_bytes_are_stuck_there_are_no_pings_that_nobody_waits_for() -> None:
    heartbeat = silent(*PINGED)
    heartbeat.reading_paused(31.0)
    heartbeat.writing_paused(32.0)
    assert heartbeat.handle_timeout(35.0) == Beat()
    assert heartbeat.handle_timeout(65.0) == Beat()
    heartbeat.writing_resumed(66.0)
    heartbeat.reading_resumed(66.0)
    # What was pinged before may never have left.
    assert heartbeat.next_timeout() == 96.0
    assert heartbeat.handle_timeout(96.0).ping is not None


def test_a_pong_that_waited_for_us_to_read_says_nothing_of_the_latency() -> None:
    heartbeat = silent(*PINGED)
    heartbeat.reading_paused(31.0)
    heartbeat.on_ping_sent(b"app", 32.0)
    probe = heartbeat.handle_timeout(35.0).ping
    assert probe is not None
    heartbeat.reading_resumed(100.0)
    for late in (payload(1), b"app", probe):
        assert heartbeat.on_pong(late, 100.0) is None
    assert heartbeat.latency is None


@pytest.mark.parametrize(
    ("wakes", "wait"), [(IDLE, 30), (PINGED, 5), (MISSED_ONCE, 5), (MISSED_TWICE, 5), (CHECKING, 5)], ids=ALIVE_IDS
)
def test_when_we_read_again_the_current_wait_starts_anew(wakes: tuple[float, ...], wait: float) -> None:
    heartbeat = silent(*wakes)
    heartbeat.reading_paused(45.005)
    heartbeat.reading_resumed(100.0)
    assert heartbeat.next_timeout() == 100.0 + wait


def test_misses_from_before_a_pause_still_count() -> None:
    heartbeat = silent(*MISSED_ONCE)
    heartbeat.reading_paused(36.0)
    heartbeat.reading_resumed(100.0)
    assert heartbeat.handle_timeout(105.0) == Beat(ping=payload(3), missed=2)


def test_a_verdict_put_off_by_a_pause_waits_for_a_read_again() -> None:
    heartbeat = silent(*CHECKING)
    heartbeat.reading_paused(45.005)
    heartbeat.reading_resumed(100.0)
    assert heartbeat.handle_timeout(105.0) == Beat()
    assert heartbeat.handle_timeout(105.0 + READ_GRACE) == Beat(missed=3, dead=True)


@in_every_phase
def test_resuming_to_read_without_a_pause_changes_nothing(wakes: tuple[float, ...]) -> None:
    heartbeat = silent(*wakes)
    deadline = heartbeat.next_timeout()
    heartbeat.reading_resumed(45.005)
    assert heartbeat.next_timeout() == deadline


def test_a_second_pause_and_a_second_resumption_are_no_different() -> None:
    heartbeat = new_heartbeat()
    heartbeat.reading_paused(1.0)
    heartbeat.reading_paused(2.0)
    heartbeat.reading_resumed(10.0)
    heartbeat.reading_resumed(20.0)
    assert heartbeat.next_timeout() == 40.0


# Writing paused.


@pytest.mark.parametrize("wakes", [PINGED, MISSED_ONCE, MISSED_TWICE, CHECKING], ids=ALIVE_IDS[1:])
def test_while_the_ping_may_be_stuck_there_is_no_miss(wakes: tuple[float, ...]) -> None:
    heartbeat = silent(*wakes)
    heartbeat.writing_paused(wakes[-1])
    now = heartbeat.next_timeout()
    for _ in range(10):
        assert now is not None
        assert heartbeat.handle_timeout(now) == Beat()
        assert heartbeat.next_timeout() == now + 5
        now += 5


def test_a_stall_while_the_ping_may_be_stuck_is_told() -> None:
    heartbeat = silent(*PINGED)
    heartbeat.writing_paused(31.0)
    assert heartbeat.handle_timeout(45.0) == Beat(late_by=10.0)
    assert heartbeat.next_timeout() == 50.0


@pytest.mark.parametrize("wakes", [PINGED, MISSED_ONCE, MISSED_TWICE, CHECKING], ids=ALIVE_IDS[1:])
def test_the_pong_is_waited_for_from_when_the_ping_has_left(wakes: tuple[float, ...]) -> None:
    heartbeat = silent(*wakes)
    heartbeat.writing_paused(45.005)
    heartbeat.writing_resumed(45.008)
    assert heartbeat.next_timeout() == 45.008 + 5


def test_misses_count_again_once_the_ping_has_left() -> None:
    heartbeat = silent(*MISSED_TWICE)
    heartbeat.writing_paused(41.0)
    heartbeat.handle_timeout(45.0)
    heartbeat.writing_resumed(48.0)
    assert heartbeat.handle_timeout(53.0) == Beat()
    assert heartbeat.handle_timeout(53.0 + READ_GRACE) == Beat(missed=3, dead=True)


def test_an_idle_heartbeat_pings_on_time_whether_or_not_we_can_write() -> None:
    heartbeat = new_heartbeat()
    heartbeat.writing_paused(10.0)
    assert heartbeat.next_timeout() == 30
    heartbeat.writing_resumed(20.0)
    assert heartbeat.next_timeout() == 30
    heartbeat.writing_paused(25.0)
    assert heartbeat.handle_timeout(30.0) == Beat(ping=payload(1))


@in_every_phase
def test_resuming_to_write_without_a_pause_changes_nothing(wakes: tuple[float, ...]) -> None:
    heartbeat = silent(*wakes)
    deadline = heartbeat.next_timeout()
    heartbeat.writing_resumed(45.005)
    assert heartbeat.next_timeout() == deadline


# Latency.


def test_latency_comes_from_a_pong_with_the_payload_of_a_ping_of_ours() -> None:
    heartbeat = silent(*PINGED)
    assert heartbeat.latency is None
    assert heartbeat.on_pong(payload(1), 30.25) == 0.25
    assert heartbeat.latency == 0.25


@pytest.mark.parametrize("unasked", [b"", b"\0", payload(2), payload(1) + b"\0"])
def test_any_other_pong_gives_no_latency_and_leaves_the_last_one(unasked: bytes) -> None:
    heartbeat = silent(*PINGED)
    assert heartbeat.on_pong(unasked, 30.25) is None
    assert heartbeat.latency is None
    assert heartbeat.on_pong(payload(1), 30.5) == 0.5
    assert heartbeat.on_pong(unasked, 31.0) is None
    assert heartbeat.latency == 0.5


def test_a_second_pong_to_the_same_ping_gives_no_latency() -> None:
    heartbeat = silent(*PINGED)
    assert heartbeat.on_pong(payload(1), 30.25) == 0.25
    assert heartbeat.on_pong(payload(1), 40.0) is None
    assert heartbeat.latency == 0.25


def test_a_pong_answers_the_pings_before_it_and_none_after_it() -> None:
    # RFC 6455, section 5.5.3: a peer may answer the latest ping only.
    heartbeat = silent(*MISSED_TWICE)
    assert heartbeat.on_pong(payload(2), 40.5) == 5.5
    assert heartbeat.on_pong(payload(1), 40.5) is None
    assert heartbeat.on_pong(payload(3), 40.75) == 0.75


def test_each_miss_has_a_ping_of_its_own_that_can_be_answered() -> None:
    heartbeat = silent(*MISSED_TWICE)
    assert heartbeat.on_pong(payload(1), 41.0) == 11.0
    assert heartbeat.on_pong(payload(2), 42.0) == 7.0
    assert heartbeat.on_pong(payload(3), 43.0) == 3.0
    assert heartbeat.latency == 3.0


def test_pings_of_the_application_give_latencies_and_move_no_deadline() -> None:
    heartbeat = new_heartbeat()
    heartbeat.on_ping_sent(b"app", 10.0)
    assert heartbeat.next_timeout() == 30
    assert heartbeat.on_pong(b"app", 10.5) == 0.5


def test_a_payload_sent_again_counts_from_when_it_was_last_sent() -> None:
    heartbeat = new_heartbeat()
    heartbeat.on_ping_sent(b"same", 1.0)
    heartbeat.on_ping_sent(b"other", 2.0)
    heartbeat.on_ping_sent(b"same", 3.0)
    assert heartbeat.on_pong(b"same", 3.5) == 0.5
    assert heartbeat.on_pong(b"other", 4.0) is None


def test_a_latency_outlives_the_data_that_came_with_it() -> None:
    heartbeat = silent(*PINGED)
    heartbeat.on_data(30.25)
    assert heartbeat.on_pong(payload(1), 30.25) == 0.25
    heartbeat.on_data(31.0)
    assert heartbeat.latency == 0.25


def test_beyond_64_unanswered_pings_the_oldest_are_forgotten() -> None:
    assert MAX_UNANSWERED_PINGS == 64
    heartbeat = new_heartbeat()
    for number in range(66):
        heartbeat.on_ping_sent(payload(number), float(number))
    assert heartbeat.on_pong(payload(0), 100.0) is None
    assert heartbeat.on_pong(payload(1), 100.0) is None
    assert heartbeat.on_pong(payload(2), 100.0) == 98.0
    assert heartbeat.on_pong(payload(65), 100.0) == 35.0


def test_sending_a_remembered_payload_again_forgets_no_other() -> None:
    heartbeat = new_heartbeat()
    for number in range(64):
        heartbeat.on_ping_sent(payload(number), float(number))
    heartbeat.on_ping_sent(payload(63), 64.0)
    assert heartbeat.on_pong(payload(0), 100.0) == 100.0


def test_an_answered_ping_makes_room_for_another() -> None:
    heartbeat = new_heartbeat()
    for number in range(64):
        heartbeat.on_ping_sent(payload(number), float(number))
    heartbeat.on_pong(payload(0), 64.0)
    heartbeat.on_ping_sent(payload(64), 64.0)
    assert heartbeat.on_pong(payload(1), 65.0) == 64.0


def test_a_ping_has_four_bytes_of_the_systems_randomness_unless_told_otherwise() -> None:
    beat = Heartbeat(CONFIG, now=0.0).handle_timeout(30.0)
    assert beat.ping is not None
    assert len(beat.ping) == 4


# Switched off.


def test_without_a_config_there_is_no_deadline_and_no_ping() -> None:
    heartbeat = new_heartbeat(None)
    assert heartbeat.next_timeout() is None
    assert heartbeat.handle_timeout(1e9) == Beat()
    heartbeat.on_data(1e9)
    heartbeat.reading_paused(1e9)
    heartbeat.reading_resumed(1e9)
    heartbeat.writing_paused(1e9)
    heartbeat.writing_resumed(1e9)
    assert heartbeat.next_timeout() is None


def test_without_a_config_pongs_still_match_the_applications_pings() -> None:
    heartbeat = new_heartbeat(None)
    heartbeat.on_ping_sent(b"app", 1.0)
    assert heartbeat.on_pong(b"app", 1.5) == 0.5


# A clock that steps back.


@pytest.mark.parametrize(
    "call",
    [
        lambda heartbeat, now: heartbeat.on_data(now),
        lambda heartbeat, now: heartbeat.on_ping_sent(b"app", now),
        lambda heartbeat, now: heartbeat.on_pong(b"app", now),
        lambda heartbeat, now: heartbeat.reading_paused(now),
        lambda heartbeat, now: heartbeat.reading_resumed(now),
        lambda heartbeat, now: heartbeat.writing_paused(now),
        lambda heartbeat, now: heartbeat.writing_resumed(now),
        lambda heartbeat, now: heartbeat.handle_timeout(now),
    ],
    ids=["data", "ping sent", "pong", "reading paused", "resumed", "writing paused", "resumed", "timer"],
)
def test_every_call_moves_the_clock_on_and_none_moves_it_back(call: Callable[[Heartbeat, float], object]) -> None:
    heartbeat = new_heartbeat()
    call(heartbeat, 20.0)
    call(heartbeat, 5.0)
    heartbeat.reading_resumed(5.0)
    heartbeat.on_data(0.0)
    assert heartbeat.next_timeout() == 50.0


def test_a_pong_before_its_ping_has_taken_no_time() -> None:
    heartbeat = silent(*PINGED)
    assert heartbeat.on_pong(payload(1), 29.0) == 0.0


def test_a_ping_sent_before_the_last_call_was_sent_at_the_last_call() -> None:
    heartbeat = new_heartbeat()
    heartbeat.on_data(20.0)
    heartbeat.on_ping_sent(b"app", 10.0)
    assert heartbeat.on_pong(b"app", 20.5) == 0.5


def test_a_resumption_before_the_last_call_counts_from_the_last_call() -> None:
    heartbeat = silent(*PINGED)
    heartbeat.reading_paused(33.0)
    heartbeat.reading_resumed(10.0)
    assert heartbeat.next_timeout() == 38.0
    heartbeat.writing_paused(34.0)
    heartbeat.writing_resumed(10.0)
    assert heartbeat.next_timeout() == 39.0


def test_a_timer_that_fires_before_the_last_call_finds_what_was_due_by_then() -> None:
    heartbeat = new_heartbeat()
    heartbeat.on_ping_sent(b"app", 31.0)
    assert heartbeat.handle_timeout(10.0) == Beat(ping=payload(1))
    assert heartbeat.next_timeout() == 36.0


# Configuration.


def test_the_defaults_are_30_5_and_3() -> None:
    assert HeartbeatConfig() == HeartbeatConfig(interval=30.0, timeout=5.0, max_missed=3)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *(
            (name, value, "a finite number of seconds, more than 0")
            for name in ("interval", "timeout")
            for value in (0, 0.0, -0.0, -5, -1.5, float("nan"), float("inf"), float("-inf"), None, "5", b"5", [5], 5j)
        ),
        *(
            ("max_missed", value, "an integer of at least 1")
            for value in (0, -3, 2.5, 3.0, float("nan"), float("inf"), None, "3")
        ),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_what_is_allowed(name: str, value: object, allowed: str) -> None:
    bad: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match="must be") as caught:
        HeartbeatConfig(**bad)
    assert str(caught.value) == f"{name} is {value!r}; it must be {allowed}"


@pytest.mark.parametrize(
    "good",
    [
        *({name: value} for name in ("interval", "timeout") for value in (0.001, 1, 5e-324, 1e308)),
        {"max_missed": 1},
        {"max_missed": 1000},
    ],
)
def test_any_positive_value_is_allowed(good: dict[str, Any]) -> None:
    config = HeartbeatConfig(**good)
    assert {name: getattr(config, name) for name in good} == good


def test_a_config_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        CONFIG.interval = 1.0  # type: ignore[misc]


def test_a_config_is_given_by_name() -> None:
    with pytest.raises(TypeError):
        HeartbeatConfig(30, 5, 3)  # type: ignore[call-arg]


# Whatever happens.


class Step(NamedTuple):
    kind: str
    seconds: float
    """Time that passes before it; for a timer, how late it fires."""
    early: float
    """Where in that time an additional, early call is made, from 0 to 1."""


KINDS = [
    "timer",
    "timer",
    "timer",
    "call",
    "data",
    "ping",
    "pong",
    "reading_paused",
    "reading_resumed",
    "writing_paused",
    "writing_resumed",
]
STEPS = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from(KINDS),
        seconds=st.just(0.0) | st.floats(0.0, 8.0),
        early=st.floats(0.0, 1.0, exclude_max=True),
    ),
    max_size=40,
)
CONFIGS = st.builds(
    HeartbeatConfig, interval=st.floats(0.1, 10.0), timeout=st.floats(0.1, 3.0), max_missed=st.integers(1, 4)
)


def take(heartbeat: Heartbeat, kind: str, now: float) -> Beat | float | None:
    if kind in {"timer", "call"}:
        return heartbeat.handle_timeout(now)
    if kind == "data":
        return heartbeat.on_data(now)
    if kind == "pong":
        return heartbeat.on_pong(b"app", now)
    if kind == "ping":
        heartbeat.on_ping_sent(b"app", now)
    else:
        pause_or_resume: Callable[[float], None] = getattr(heartbeat, kind)
        pause_or_resume(now)
    return None


def walk(heartbeat: Heartbeat, steps: list[Step], *, early_calls: bool = False) -> list[object]:
    """Take `steps` and return all that can be seen on the way, checking what holds for every step."""
    now = 1000.0
    seen: list[object] = []
    for step in steps:
        deadline = heartbeat.next_timeout()
        then = now + step.seconds
        if step.kind == "timer" and deadline is not None:
            then = max(now, deadline) + step.seconds
        if early_calls:
            early = now + step.early * (then - now)
            if deadline is None or early < deadline:
                assert heartbeat.handle_timeout(early) == Beat()
                assert heartbeat.next_timeout() == deadline
        now = then
        seen.append(take(heartbeat, step.kind, now))
        following = heartbeat.next_timeout()
        assert heartbeat.next_timeout() == following
        if step.kind in {"timer", "call"}:
            assert following is None or following > now
        seen += [following, heartbeat.latency]
    return seen


@SETTINGS
@given(config=st.none() | CONFIGS, steps=STEPS)
def test_early_calls_change_nothing_that_can_be_seen(config: HeartbeatConfig | None, steps: list[Step]) -> None:
    plain, called_early = new_heartbeat(config, now=1000.0), new_heartbeat(config, now=1000.0)
    assert walk(called_early, steps, early_calls=True) == walk(plain, steps)


@SETTINGS
@given(config=CONFIGS, steps=STEPS)
def test_the_peer_is_declared_dead_at_most_once_and_only_after_all_its_misses(
    config: HeartbeatConfig, steps: list[Step]
) -> None:
    heartbeat = new_heartbeat(config, now=1000.0)
    seen = walk(heartbeat, steps)
    assert 0 <= heartbeat.missed <= config.max_missed
    beats = [beat for beat in seen if isinstance(beat, Beat)]
    deaths = [index for index, beat in enumerate(beats) if beat.dead]
    assert len(deaths) <= 1
    for index in deaths:
        misses = [beat.missed for beat in beats[: index + 1] if beat.missed]
        assert misses[-config.max_missed :] == list(range(1, config.max_missed + 1))
        assert set(beats[index + 1 :]) <= {Beat()}


@SETTINGS
@given(config=CONFIGS, lateness=st.lists(st.just(0.0) | st.floats(0.0, 100.0), min_size=9, max_size=9))
def test_a_silent_peer_is_found_dead_in_time_but_never_too_early(
    config: HeartbeatConfig, lateness: list[float]
) -> None:
    heartbeat = new_heartbeat(config)
    now, beat, pings, misses, wakes = 0.0, Beat(), 0, [0], 0
    while not beat.dead:
        deadline = heartbeat.next_timeout()
        assert deadline is not None
        now = deadline + (lateness[wakes] if wakes < len(lateness) else 0.0)
        beat = heartbeat.handle_timeout(now)
        wakes += 1
        pings += beat.ping is not None
        misses += [beat.missed] if beat.missed else []
    patience = config.interval + config.max_missed * config.timeout
    assert misses == list(range(config.max_missed + 1))
    assert pings == config.max_missed
    # Each miss takes a timeout, one more read, and another for each time that we are late to it.
    late = sum(by > config.timeout / 2 for by in lateness[:wakes])
    assert wakes <= 1 + 2 * config.max_missed + late
    assert patience - 1e-6 <= now <= patience + (config.max_missed + late) * READ_GRACE + sum(lateness) + 1e-6
    if not any(lateness):
        assert now == pytest.approx(patience + READ_GRACE)


def naive_pings(config: HeartbeatConfig, data_at: list[int], end: int) -> tuple[list[float], bool]:
    """Return when a punctual heartbeat pings between 0 and `end`, and whether it finds the peer dead by then."""
    pings: list[float] = []
    for start, stop in zip([0, *data_at], [*data_at, end], strict=True):
        for number in range(config.max_missed):
            at = start + config.interval + number * config.timeout
            if at < stop:
                pings.append(at)
        if start + config.interval + config.max_missed * config.timeout < stop:
            return pings, True
    return pings, False


@SETTINGS
@given(
    interval=st.integers(1, 20),
    timeout=st.integers(1, 6),
    max_missed=st.integers(1, 4),
    data_at=st.lists(st.integers(0, 150), max_size=12).map(sorted),
)
def test_a_punctual_heartbeat_pings_when_naive_arithmetic_says(
    interval: int, timeout: int, max_missed: int, data_at: list[int]
) -> None:
    config = HeartbeatConfig(interval=interval, timeout=timeout, max_missed=max_missed)
    heartbeat = new_heartbeat(config)
    pings: list[float] = []
    dead = False
    end = 200
    for until in [*data_at, end]:
        while (deadline := heartbeat.next_timeout()) is not None and deadline < until:
            beat = heartbeat.handle_timeout(deadline)
            if beat.ping is not None:
                pings.append(deadline)
            dead = dead or beat.dead
        heartbeat.on_data(until)
    assert (pings, dead) == naive_pings(config, data_at, end)


class LivePeer(RuleBasedStateMachine):
    """A peer that answers each ping within the timeout, and an event loop of ours that stalls as it likes.

    What has arrived waits in the socket until we read. The worst order is taken: each turn of the loop fires the
    timer first and reads afterwards, so that all the heartbeat is given is one read between two timers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.heartbeat = new_heartbeat()
        self.round_trip = 0.0
        self.unsent: list[bytes] = []
        self.under_way: list[tuple[float, bytes]] = []
        self.waited_for_us: set[bytes] = set()
        """Pings whose pongs may have waited in the socket while we did not read."""
        self.writing = self.reading = True

    @initialize(config=CONFIGS, share=st.floats(0.0, 0.99))
    def connect(self, config: HeartbeatConfig, share: float) -> None:
        self.heartbeat = new_heartbeat(config)
        self.round_trip = config.timeout * share

    def send(self) -> None:
        if self.writing:
            self.under_way += [(self.now + self.round_trip, ping) for ping in self.unsent]
            self.unsent.clear()

    def turn(self) -> None:
        beat = self.heartbeat.handle_timeout(self.now)
        assert not beat.dead
        if beat.ping is not None:
            self.unsent.append(beat.ping)
            if not self.reading:
                self.waited_for_us.add(beat.ping)
        self.send()
        arrived = [ping for at, ping in self.under_way if at <= self.now]
        if arrived and self.reading:
            self.under_way = [pong for pong in self.under_way if pong[0] > self.now]
            self.heartbeat.on_data(self.now)
            for ping in arrived:
                latency = self.heartbeat.on_pong(ping, self.now)
                assert (latency is None) is (ping in self.waited_for_us)
                assert latency is None or latency >= self.round_trip - 1e-6

    @rule(late_by=st.just(0.0) | st.floats(0.0, 20.0))
    def the_timer_fires(self, late_by: float) -> None:
        deadline = self.heartbeat.next_timeout()
        if deadline is not None:
            self.now = max(self.now, deadline) + late_by
        self.turn()

    @rule(seconds=st.floats(0.0, 20.0))
    def the_loop_turns_for_another_reason(self, seconds: float) -> None:
        self.now += seconds
        self.turn()

    @precondition(lambda self: self.reading)
    @rule()
    def we_stop_reading(self) -> None:
        self.reading = False
        self.waited_for_us.update(self.unsent, [ping for _, ping in self.under_way])
        self.heartbeat.reading_paused(self.now)

    @precondition(lambda self: not self.reading)
    @rule(seconds=st.floats(0.0, 20.0))
    def we_read_again(self, seconds: float) -> None:
        self.now += seconds
        self.reading = True
        self.heartbeat.reading_resumed(self.now)

    @precondition(lambda self: self.writing)
    @rule()
    def our_bytes_get_stuck(self) -> None:
        self.writing = False
        self.heartbeat.writing_paused(self.now)

    @precondition(lambda self: not self.writing)
    @rule(seconds=st.floats(0.0, 20.0))
    def our_bytes_leave(self, seconds: float) -> None:
        self.now += seconds
        self.writing = True
        self.send()
        self.heartbeat.writing_resumed(self.now)


def test_a_live_peer_is_never_declared_dead_however_late_our_timers_fire() -> None:
    run_state_machine_as_test(LivePeer, settings=settings(deadline=None, max_examples=150, stateful_step_count=40))

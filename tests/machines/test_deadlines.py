from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from wsconnkit.machines.deadlines import READ_GRACE, Deadlines


def new_deadlines(**at: float) -> Deadlines[str]:
    deadlines: Deadlines[str] = Deadlines()
    for name, seconds in at.items():
        deadlines.set(name, seconds)
    return deadlines


def test_without_deadlines_there_is_nothing_to_wait_for() -> None:
    deadlines = new_deadlines()
    assert deadlines.next() is None
    assert deadlines.next_timeout() is None
    assert deadlines.handle_timeout(100.0) == []


def test_the_earliest_deadline_comes_next_with_its_name() -> None:
    deadlines = new_deadlines(idle=60.0, close=5.0, ping=30.0)
    assert deadlines.next() == ("close", 5.0)
    assert deadlines.next_timeout() == 5.0


def test_a_deadline_is_told_only_after_a_chance_to_read() -> None:
    deadlines = new_deadlines(idle=60.0)
    assert deadlines.handle_timeout(60.0) == []
    assert deadlines.next() == ("idle", 60.0 + READ_GRACE)
    assert deadlines.handle_timeout(60.0 + READ_GRACE) == ["idle"]
    assert deadlines.next() is None
    assert deadlines.handle_timeout(1000.0) == []


def test_a_late_timer_gives_the_same_chance_from_when_it_fired() -> None:
    deadlines = new_deadlines(idle=60.0)
    assert deadlines.handle_timeout(75.0) == []
    assert deadlines.next_timeout() == 75.0 + READ_GRACE
    assert deadlines.handle_timeout(75.0 + READ_GRACE) == ["idle"]


def test_the_chance_to_read_is_a_hundredth_of_a_second() -> None:
    assert READ_GRACE == 0.01


def test_what_was_read_in_the_meantime_can_move_the_deadline() -> None:
    deadlines = new_deadlines(idle=60.0)
    deadlines.handle_timeout(75.0)
    deadlines.set("idle", 135.0)
    assert deadlines.next_timeout() == 135.0
    assert deadlines.handle_timeout(75.0 + READ_GRACE) == []
    assert deadlines.handle_timeout(135.0) == []
    assert deadlines.handle_timeout(135.0 + READ_GRACE) == ["idle"]


def test_a_deadline_cleared_before_its_verdict_is_never_told() -> None:
    deadlines = new_deadlines(idle=60.0)
    deadlines.handle_timeout(60.0)
    deadlines.clear("idle")
    assert deadlines.next_timeout() is None
    assert deadlines.handle_timeout(61.0) == []
    deadlines.set("idle", 70.0)
    assert deadlines.next_timeout() == 70.0


def test_clearing_what_is_not_set_changes_nothing() -> None:
    deadlines = new_deadlines(close=5.0)
    deadlines.clear("idle")
    assert deadlines.next() == ("close", 5.0)


def test_setting_one_deadline_leaves_the_verdict_on_another_alone() -> None:
    deadlines = new_deadlines(close=5.0)
    deadlines.handle_timeout(5.0)
    deadlines.set("idle", 60.0)
    assert deadlines.next() == ("close", 5.0 + READ_GRACE)
    assert deadlines.handle_timeout(5.0 + READ_GRACE) == ["close"]
    assert deadlines.next() == ("idle", 60.0)


def test_a_deadline_that_waits_for_its_verdict_does_not_hide_an_earlier_one() -> None:
    deadlines = new_deadlines(close=5.0)
    deadlines.handle_timeout(5.0)
    deadlines.set("idle", 5.0 + READ_GRACE / 2)
    assert deadlines.next() == ("idle", 5.0 + READ_GRACE / 2)


def test_deadlines_are_told_in_the_order_they_were_due() -> None:
    deadlines = new_deadlines(third=30.0, first=10.0, second=20.0)
    assert deadlines.handle_timeout(40.0) == []
    assert deadlines.handle_timeout(40.0 + READ_GRACE) == ["first", "second", "third"]


def test_deadlines_found_due_at_different_times_wait_for_their_own_verdicts() -> None:
    deadlines = new_deadlines(one=10.0, two=10.0 + READ_GRACE / 2)
    assert deadlines.handle_timeout(10.0) == []
    assert deadlines.handle_timeout(10.0 + READ_GRACE / 2) == []
    assert deadlines.handle_timeout(10.0 + READ_GRACE) == ["one"]
    assert deadlines.next() == ("two", 10.0 + READ_GRACE / 2 + READ_GRACE)


def test_repeated_calls_do_not_put_the_verdict_off() -> None:
    deadlines = new_deadlines(idle=60.0)
    for _ in range(3):
        assert deadlines.handle_timeout(60.0) == []
        assert deadlines.next_timeout() == 60.0 + READ_GRACE
    assert deadlines.handle_timeout(60.0 + READ_GRACE / 2) == []
    assert deadlines.next_timeout() == 60.0 + READ_GRACE


def test_an_early_call_finds_nothing_and_keeps_the_deadline() -> None:
    deadlines = new_deadlines(idle=60.0)
    assert deadlines.handle_timeout(59.999) == []
    assert deadlines.next() == ("idle", 60.0)


def test_a_now_before_the_last_one_is_clamped() -> None:
    deadlines = new_deadlines()
    deadlines.handle_timeout(100.0)
    deadlines.set("idle", 60.0)
    assert deadlines.handle_timeout(0.0) == []
    assert deadlines.next_timeout() == 100.0 + READ_GRACE


def test_names_may_be_members_of_an_enum() -> None:
    class Timer(Enum):
        IDLE = "idle"
        CLOSE = "close"

    deadlines: Deadlines[Timer] = Deadlines()
    deadlines.set(Timer.IDLE, 2.0)
    deadlines.set(Timer.CLOSE, 1.0)
    assert deadlines.next() == (Timer.CLOSE, 1.0)


NAMES = st.sampled_from("abc")
# Steps about as long as READ_GRACE, so that verdicts, deadlines and calls meet in every order.
SECONDS = st.sampled_from([0.0, READ_GRACE / 2, READ_GRACE, 1.5 * READ_GRACE, 1.0]) | st.floats(0.0, 3.0)


class DeadlinesAgainstAModel(RuleBasedStateMachine):
    """The model keeps, for each name, when it is due and when it was first found due.

    `now` is the clock, `seen` the latest time that the machine has been told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.deadlines: Deadlines[str] = Deadlines()
        self.now = 1000.0
        self.seen = float("-inf")
        self.due: dict[str, float] = {}
        self.found: dict[str, float] = {}

    def wake_at(self, name: str) -> float:
        return self.found[name] + READ_GRACE if name in self.found else self.due[name]

    @rule(name=NAMES, seconds=SECONDS)
    def set_ahead(self, name: str, seconds: float) -> None:
        self.set_to(name, self.now + seconds)

    @rule(name=NAMES, seconds=SECONDS)
    def set_in_the_past(self, name: str, seconds: float) -> None:
        self.set_to(name, self.now - seconds)

    def set_to(self, name: str, at: float) -> None:
        self.deadlines.set(name, at)
        self.due[name] = at
        self.found.pop(name, None)

    @rule(name=NAMES)
    def clear(self, name: str) -> None:
        self.deadlines.clear(name)
        self.due.pop(name, None)
        self.found.pop(name, None)

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.handle(self.now)

    @precondition(lambda self: self.due)
    @rule(late_by=st.just(0.0) | SECONDS)
    def the_timer_fires(self, late_by: float) -> None:
        self.now = max(self.now, min(map(self.wake_at, self.due)) + late_by)
        self.handle(self.now)

    @rule(seconds=SECONDS)
    def a_clock_steps_back(self, seconds: float) -> None:
        self.handle(self.now - seconds)

    @precondition(lambda self: self.due and min(map(self.wake_at, self.due)) > self.now)
    @rule()
    def an_early_call_changes_nothing(self) -> None:
        before = self.deadlines.next()
        self.handle(self.now)
        assert self.deadlines.next() == before

    def handle(self, now: float) -> None:
        told = self.deadlines.handle_timeout(now)
        self.seen = now = max(now, self.seen)
        over = {name for name in self.found if self.wake_at(name) <= now}
        assert set(told) == over
        assert len(told) == len(over)
        assert [self.due[name] for name in told] == sorted(self.due[name] for name in over)
        for name in over:
            del self.due[name], self.found[name]
        for name, at in self.due.items():
            if at <= now:
                self.found.setdefault(name, now)
        upcoming = self.deadlines.next_timeout()
        assert upcoming is None or upcoming > now

    @invariant()
    def the_next_wake_up_is_that_of_the_model(self) -> None:
        upcoming = self.deadlines.next()
        assert self.deadlines.next() == upcoming
        assert self.deadlines.next_timeout() == (None if upcoming is None else upcoming[1])
        if upcoming is None:
            assert not self.due
        else:
            name, at = upcoming
            assert at == self.wake_at(name) == min(map(self.wake_at, self.due))


def test_any_order_of_calls_agrees_with_a_naive_model() -> None:
    run_state_machine_as_test(
        DeadlinesAgainstAModel, settings=settings(deadline=None, max_examples=100, stateful_step_count=30)
    )


@settings(deadline=None)
@given(at=st.floats(0, 1e6), late_by=st.floats(0, 1e6), moved_by=st.floats(READ_GRACE * 2, 1e6))
def test_a_deadline_that_a_read_moves_on_is_not_told_however_late_the_timer(
    at: float, late_by: float, moved_by: float
) -> None:
    deadlines = new_deadlines(idle=at)
    now = at + late_by
    assert deadlines.handle_timeout(now) == []
    deadlines.set("idle", now + moved_by)
    assert deadlines.handle_timeout(now + READ_GRACE) == []
    assert deadlines.next_timeout() == now + moved_by


@pytest.mark.parametrize(
    "call",
    [lambda deadlines: deadlines.next(), lambda deadlines: deadlines.next_timeout()],
    ids=["next", "next_timeout"],
)
def test_asking_for_the_next_deadline_changes_nothing(call: Callable[[Deadlines[str]], object]) -> None:
    asked, unasked = new_deadlines(idle=60.0, close=61.0), new_deadlines(idle=60.0, close=61.0)
    for now in (59.0, 60.0, 60.5, 61.0, 62.0):
        call(asked)
        call(asked)
        assert asked.handle_timeout(now) == unasked.handle_timeout(now)
        assert call(asked) == call(unasked)

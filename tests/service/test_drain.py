from __future__ import annotations

from collections.abc import Iterable
from dataclasses import FrozenInstanceError, dataclass, replace
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from wsconnkit.machines.closing import State
from wsconnkit.protocol.closeinfo import Cause, CloseFrame, CloseInfo, Initiator
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.service.drain import (
    ABORT_WAIT,
    FAREWELL,
    Drain,
    DrainConfig,
    Drained,
    DrainReport,
    Orders,
    Outcome,
)

ANSWERED = CloseInfo(
    cause=Cause.DRAIN,
    initiator=Initiator.LOCAL,
    phase=State.CLOSE_EXCHANGED,
    sent=CloseFrame(1012, ""),
    rcvd=CloseFrame(1012, ""),
    rcvd_then_sent=False,
    error=None,
    last_byte_in_age=0.0,
    last_byte_out_age=0.0,
)
UNANSWERED = replace(ANSWERED, phase=State.CLOSE_SENT, rcvd=None, rcvd_then_sent=None)
PEER_CLOSED = replace(ANSWERED, cause=Cause.PEER_CLOSE, initiator=Initiator.PEER, rcvd_then_sent=True)
LOST = replace(
    ANSWERED,
    cause=Cause.TRANSPORT_LOST,
    initiator=Initiator.TRANSPORT,
    phase=State.OPEN,
    sent=None,
    rcvd=None,
    rcvd_then_sent=None,
)
INFOS = (ANSWERED, UNANSWERED, PEER_CLOSED, LOST)


def drain_of(connections: Iterable[str], *, window: float = 10.0, grace: float = 5.0, now: float = 0.0) -> Drain[str]:
    members = [(name, f"id-{name}", f"user-{name}") for name in connections]
    return Drain(members, window=window, grace=grace, now=now)


def outcomes(drain: Drain[str], now: float = 1000.0) -> dict[str, str]:
    return {drained.id.removeprefix("id-"): drained.outcome.value for drained in drain.report(now).connections}


def test_turns_are_spread_evenly_over_the_window() -> None:
    drain = drain_of("abcd", now=100.0)
    closed = []
    while (at := drain.next_timeout()) is not None and at < 115.0:
        closed += [(at, name) for name in drain.handle_timeout(at).close]
    assert closed == [(100.0, "a"), (102.5, "b"), (105.0, "c"), (107.5, "d")]
    assert drain.next_timeout() == 115.0


def test_what_is_left_at_the_deadline_is_aborted() -> None:
    drain = drain_of("ab")
    assert drain.handle_timeout(10.0) == Orders(close=("a", "b"))
    assert drain.handle_timeout(14.999) == Orders()
    assert drain.handle_timeout(15.0) == Orders(abort=("a", "b"))
    drain.on_closed("a", UNANSWERED, 15.0)
    drain.on_closed("b", LOST, 15.0)
    assert drain.done
    assert drain.next_timeout() is None
    assert outcomes(drain) == {"a": "aborted", "b": "aborted"}


@pytest.mark.parametrize(
    ("info", "before", "after"),
    [
        (ANSWERED, Outcome.CLOSED, Outcome.CLOSED),
        (UNANSWERED, Outcome.UNANSWERED, Outcome.ABORTED),
        (PEER_CLOSED, Outcome.LEFT, Outcome.LEFT),
        (LOST, Outcome.LEFT, Outcome.ABORTED),
    ],
)
def test_the_outcome_of_each_end_before_and_after_the_abort(info: CloseInfo, before: Outcome, after: Outcome) -> None:
    for at, expected in ((0.0, before), (15.0, after)):
        drain = drain_of("a")
        drain.handle_timeout(0.0)
        drain.handle_timeout(at)
        drain.on_closed("a", info, at + 0.5)
        assert drain.report(at + 0.5).connections == (Drained("id-a", "user-a", expected, info),)


def test_a_connection_that_leaves_before_its_turn_is_not_closed() -> None:
    drain = drain_of("abc")
    drain.handle_timeout(0.0)
    drain.on_closed("b", PEER_CLOSED, 1.0)
    assert drain.next_timeout() == pytest.approx(20 / 3)  # the turn of c, which has not moved
    assert drain.handle_timeout(5.0) == Orders()
    assert drain.handle_timeout(7.0) == Orders(close=("c",))
    assert outcomes(drain) == {"b": "left"}


def test_nobody_wakes_for_turns_of_connections_that_have_left() -> None:
    drain = drain_of("abcd")
    drain.handle_timeout(0.0)
    drain.on_closed("c", PEER_CLOSED, 1.0)
    assert drain.next_timeout() == 2.5
    drain.handle_timeout(2.5)
    assert drain.next_timeout() == 7.5
    drain.on_closed("d", PEER_CLOSED, 3.0)
    assert drain.next_timeout() == 15.0


def test_a_connection_closed_by_someone_else_in_the_course_of_the_drain_counts_as_closed() -> None:
    drain = drain_of("ab")
    drain.on_closed("b", ANSWERED, 0.0)
    assert outcomes(drain) == {"b": "closed"}


def test_a_busy_connection_is_closed_as_soon_as_it_is_idle() -> None:
    drain = drain_of("ab")
    drain.busy("a")
    assert drain.handle_timeout(0.0) == Orders()
    assert drain.idle("a", 3.0)
    assert drain.handle_timeout(3.0) == Orders()
    assert drain.handle_timeout(5.0) == Orders(close=("b",))


def test_a_connection_that_is_idle_again_before_its_turn_waits_for_it() -> None:
    drain = drain_of("ab")
    for now in (1.0, 2.0):
        drain.busy("b")
        drain.busy("b")
        assert not drain.idle("b", now)
        assert not drain.idle("b", now)
    assert drain.handle_timeout(5.0) == Orders(close=("a", "b"))


def test_a_connection_is_told_to_close_once() -> None:
    drain = drain_of("a")
    drain.busy("a")
    drain.handle_timeout(0.0)
    assert drain.idle("a", 1.0)
    assert not drain.idle("a", 1.0)
    drain.busy("a")  # it closes already
    assert not drain.idle("a", 2.0)
    assert drain.handle_timeout(3.0) == Orders()


def test_a_turn_that_comes_while_the_timer_is_late_counts_when_the_connection_becomes_idle() -> None:
    drain = drain_of("ab")
    drain.busy("b")
    assert drain.idle("b", 6.0)
    assert drain.next_timeout() == 0.0
    assert drain.handle_timeout(6.0) == Orders(close=("a",))
    assert drain.next_timeout() == 15.0


def test_who_is_told_to_close_only_at_the_deadline_has_a_moment_before_the_abort() -> None:
    drain = drain_of("ab")
    drain.busy("b")
    assert drain.handle_timeout(10.0) == Orders(close=("a",))
    assert not drain.idle("b", 15.0)
    assert drain.handle_timeout(15.0) == Orders(close=("b",))
    assert not drain.idle("b", 15.05)
    assert drain.next_timeout() == 15.0 + FAREWELL
    drain.on_closed("a", ANSWERED, 15.05)
    assert drain.handle_timeout(15.0 + FAREWELL) == Orders(abort=("b",))
    drain.on_closed("b", UNANSWERED, 16.0)
    assert outcomes(drain) == {"a": "closed", "b": "aborted"}


@pytest.mark.parametrize(
    ("info", "outcome"),
    [
        (ANSWERED, Outcome.ABORTED),
        (UNANSWERED, Outcome.ABORTED),
        (PEER_CLOSED, Outcome.LEFT),
        (LOST, Outcome.LEFT),
    ],
)
def test_who_is_told_to_close_only_at_the_deadline_counts_as_aborted(info: CloseInfo, outcome: Outcome) -> None:
    drain = drain_of("a")
    drain.handle_timeout(15.0)
    drain.on_closed("a", info, 15.05)
    assert drain.report(16.0).connections == (Drained("id-a", "user-a", outcome, info),)


def test_a_connection_that_ends_while_it_is_busy_is_not_closed_when_idle() -> None:
    drain = drain_of("a")
    drain.busy("a")
    drain.handle_timeout(0.0)
    drain.on_closed("a", PEER_CLOSED, 1.0)
    assert not drain.idle("a", 1.0)
    drain.busy("a")
    assert drain.handle_timeout(20.0) == Orders()
    assert outcomes(drain) == {"a": "left"}


def test_a_connection_is_due_from_its_turn_on() -> None:
    drain = drain_of("ab")
    drain.busy("b")
    assert drain.is_due("a")
    assert not drain.is_due("b")
    drain.handle_timeout(0.0)
    assert drain.next_timeout() == 5.0  # also for a busy one, which takes no new requests from then on
    drain.handle_timeout(5.0)
    assert drain.is_due("b")
    assert not drain.is_due("unknown")


def test_only_the_first_end_counts() -> None:
    drain = drain_of("ab")
    drain.on_closed("a", PEER_CLOSED, 1.0)
    drain.on_closed("a", ANSWERED, 2.0)
    assert not drain.done
    assert drain.report(2.0).connections == (Drained("id-a", "user-a", Outcome.LEFT, PEER_CLOSED),)


def test_unknown_connections_are_ignored() -> None:
    drain = drain_of("a")
    drain.busy("unknown")
    assert not drain.idle("unknown", 5.0)
    drain.on_closed("unknown", PEER_CLOSED, 5.0)
    assert not drain.done
    assert drain.report(5.0).connections == ()


def test_a_connection_named_twice_has_one_turn() -> None:
    drain = Drain([("a", "1", None), ("a", "1", None), ("b", "2", "bob")], window=10.0, grace=5.0, now=0.0)
    assert drain.handle_timeout(0.0) == Orders(close=("a",))
    assert drain.next_timeout() == 5.0


def test_early_and_repeated_calls_change_nothing() -> None:
    drain = drain_of("ab")
    assert drain.handle_timeout(-1.0) == Orders(close=("a",))  # clamped to when it began
    for now in (0.0, 4.999, 1.0):
        assert drain.handle_timeout(now) == Orders()
        assert drain.next_timeout() == 5.0


def test_a_late_call_catches_up() -> None:
    drain = drain_of("abcd")
    assert drain.handle_timeout(6.0) == Orders(close=("a", "b", "c"))
    assert drain.next_timeout() == 7.5


def test_a_late_call_leaves_out_who_is_busy_closing_already_or_gone() -> None:
    drain = drain_of("abcde")
    drain.busy("b")
    drain.busy("c")
    assert drain.idle("c", 4.0)
    drain.on_closed("d", PEER_CLOSED, 5.0)
    assert drain.handle_timeout(9.0) == Orders(close=("a", "e"))


def test_calls_after_the_deadline_close_everything_once_and_then_abort_it_once() -> None:
    drain = drain_of("ab")
    assert drain.handle_timeout(20.0) == Orders(close=("a", "b"))
    assert drain.handle_timeout(20.0) == Orders()
    assert drain.handle_timeout(30.0) == Orders(abort=("a", "b"))
    assert drain.handle_timeout(30.0) == Orders()
    assert drain.next_timeout() == 30.0 + ABORT_WAIT


def test_a_connection_that_does_not_say_that_it_was_aborted_is_given_up_a_second_later() -> None:
    drain = drain_of("ab")
    drain.handle_timeout(14.0)
    drain.handle_timeout(15.0)
    drain.on_closed("a", PEER_CLOSED, 15.5)
    assert drain.handle_timeout(15.999) == Orders()
    assert drain.next_timeout() == 16.0
    assert drain.handle_timeout(16.0) == Orders()
    assert drain.done
    assert drain.next_timeout() is None
    drain.on_closed("b", LOST, 16.5)
    report = drain.report(17.0)
    assert report.connections == (
        Drained("id-a", "user-a", Outcome.LEFT, PEER_CLOSED),
        Drained("id-b", "user-b", Outcome.ABORTED, None),
    )
    assert report.duration == 16.0


def test_the_wait_after_the_abort_is_a_second() -> None:
    assert ABORT_WAIT == 1.0


def test_without_a_window_all_are_closed_at_once() -> None:
    drain = drain_of("abc", window=0.0)
    assert drain.next_timeout() == 0.0
    assert drain.handle_timeout(0.0) == Orders(close=("a", "b", "c"))
    assert drain.next_timeout() == 5.0


def test_without_grace_what_is_left_at_the_end_of_the_window_is_aborted() -> None:
    drain = drain_of("ab", grace=0.0)
    assert drain.handle_timeout(5.0) == Orders(close=("a", "b"))
    assert drain.next_timeout() == 10.0
    assert drain.handle_timeout(10.0) == Orders(abort=("a", "b"))


def test_without_either_all_are_closed_at_once_and_aborted_a_moment_later() -> None:
    drain = drain_of("ab", window=0.0, grace=0.0)
    assert drain.next_timeout() == 0.0
    assert drain.handle_timeout(0.0) == Orders(close=("a", "b"))
    assert drain.next_timeout() == FAREWELL
    assert drain.handle_timeout(FAREWELL) == Orders(abort=("a", "b"))


def test_without_connections_it_is_done_before_it_begins() -> None:
    drain = drain_of("")
    assert drain.done
    assert drain.next_timeout() is None
    assert drain.handle_timeout(100.0) == Orders()
    assert drain.next_timeout() is None
    report = drain.report(100.0)
    assert report == DrainReport(connections=(), duration=0.0)
    assert str(report) == "drained 0 connections in 0.0 s"


def test_the_report_grows_until_it_is_done_and_then_stays_the_same() -> None:
    drain = drain_of("ba", now=100.0)
    drain.handle_timeout(105.0)
    drain.on_closed("a", UNANSWERED, 106.0)
    report = drain.report(107.0)
    assert (report.duration, [drained.id for drained in report.connections]) == (7.0, ["id-a"])
    drain.on_closed("b", ANSWERED, 108.0)
    assert drain.report(107.5) == drain.report(200.0)
    report = drain.report(200.0)
    assert (report.duration, [drained.id for drained in report.connections]) == (8.0, ["id-b", "id-a"])


def test_counts_name_every_outcome() -> None:
    drained = [Drained("", None, outcome, None) for outcome in (Outcome.CLOSED, Outcome.CLOSED, Outcome.LEFT)]
    report = DrainReport(connections=tuple(drained), duration=1.0)
    assert report.counts == {Outcome.CLOSED: 2, Outcome.UNANSWERED: 0, Outcome.LEFT: 1, Outcome.ABORTED: 0}


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((195, 5, 0, 0), "drained 200 connections in 3.2 s: 195 closed, 5 unanswered"),
        ((0, 0, 0, 1), "drained 1 connection in 3.2 s: 1 aborted"),
        ((4, 3, 2, 1), "drained 10 connections in 3.2 s: 4 closed, 3 unanswered, 2 left, 1 aborted"),
    ],
)
def test_the_report_is_one_line(numbers: tuple[int, ...], text: str) -> None:
    connections = [
        Drained("", None, outcome, None)
        for outcome, number in zip(Outcome, numbers, strict=True)
        for _ in range(number)
    ]
    assert str(DrainReport(connections=tuple(connections), duration=3.21)) == text


def test_without_a_word_clients_are_told_that_they_may_come_back_and_kubernetes_has_not_killed() -> None:
    config = DrainConfig()
    assert (config.code, config.reason) == (1012, "server shutdown")
    assert config.window + config.grace < 30


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["window", "grace"])
def test_a_config_has_times_that_end(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}; it must be a finite number of seconds, at least 0"):
        DrainConfig(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{name} is "):
        DrainConfig().replaced(**{"window": None, "grace": None, "code": None, "reason": None, name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [999, 1005, 1006, 5000])
def test_a_config_has_a_code_that_can_be_sent(code: int) -> None:
    with pytest.raises(LocalProtocolError):
        DrainConfig(code=code)
    with pytest.raises(LocalProtocolError):
        DrainConfig().replaced(window=None, grace=None, code=code, reason=None)


def test_a_config_has_a_reason_that_can_be_sent() -> None:
    with pytest.raises(LocalProtocolError, match="close reason cannot be sent as UTF-8"):
        DrainConfig(reason="x\ud83dy")


def test_what_is_given_replaces_what_was_configured() -> None:
    config = DrainConfig(window=1.0, grace=2.0, code=4000, reason="bye")
    assert config.replaced(window=None, grace=None, code=None, reason=None) == config
    assert config.replaced(window=0.0, grace=0.0, code=1001, reason="") == DrainConfig(
        window=0.0, grace=0.0, code=1001, reason=""
    )


def test_the_report_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        DrainReport(connections=(), duration=0.0).duration = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("value", [-1.0, -0.001, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["window", "grace"])
def test_times_are_finite_and_not_negative(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="it must be a finite number of seconds, at least 0") as caught:
        Drain([], **{"window": 1.0, "grace": 1.0, name: value}, now=0.0)
    assert str(caught.value).startswith(f"{name} is {value!r};")


@settings(deadline=None)
@given(
    n=st.integers(1, 30),
    window=st.floats(0.01, 100.0),
    extra=st.lists(st.floats(0.0, 1.0), max_size=10),
    left=st.sets(st.integers(0, 29)),
)
def test_closes_never_come_in_a_herd(n: int, window: float, extra: list[float], left: set[int]) -> None:
    # Whoever wakes in time, and also at other times, closes no faster than evenly.
    drain = Drain([(i, str(i), None) for i in range(n)], window=window, grace=1.0, now=0.0)
    for i in left:
        drain.on_closed(i, PEER_CLOSED, 0.0)
    others = sorted(fraction * window for fraction in extra)
    closes: list[float] = []
    while (at := drain.next_timeout()) is not None and at < window:
        if others and others[0] < at:
            at = others.pop(0)
        closes += [at] * len(drain.handle_timeout(at).close)
    assert len(closes) == n - len({i for i in left if i < n})
    for i, first in enumerate(closes):
        for j, last in enumerate(closes[i:], i):
            assert j - i + 1 <= ceil(n * (last - first) / window) + 1


@dataclass
class Fate:
    """What the model knows of one connection."""

    due_at: float
    busy: bool = False
    closed_at: float | None = None
    late: bool = False
    aborted: bool = False
    outcome: Outcome | None = None
    info: CloseInfo | None = None


class DrainAgainstAModel(RuleBasedStateMachine):
    """The model looks at every connection each time."""

    @initialize(
        n=st.integers(0, 6),
        window=st.sampled_from([0.0, 1.0, 10.0]) | st.floats(0.0, 20.0),
        grace=st.sampled_from([0.0, 5.0]) | st.floats(0.0, 10.0),
        now=st.sampled_from([0.0, 1e6]),
    )
    def begin(self, n: int, window: float, grace: float, now: float) -> None:
        self.drain = Drain([(i, str(i), None) for i in range(n)], window=window, grace=grace, now=now)
        self.fates = [Fate(now + window * i / n) for i in range(n)]
        self.began = self.now = now
        self.deadline = now + window + grace
        self.aborted_at: float | None = None

    def end(self, fate: Fate, outcome: Outcome, info: CloseInfo | None) -> None:
        fate.outcome, fate.info = outcome, info

    def tick(self, now: float) -> None:
        # Never earlier than what the drain was told before, as on a monotonic clock.
        self.now = max(self.now, now)
        orders = self.drain.handle_timeout(now)
        alive = [i for i, fate in enumerate(self.fates) if fate.outcome is None]
        close: list[int] = []
        abort: list[int] = []
        if self.aborted_at is not None:
            if self.now >= self.aborted_at + 1.0:
                for i in alive:
                    self.end(self.fates[i], Outcome.ABORTED, None)
        elif self.now >= self.deadline:
            close = [i for i in alive if self.fates[i].closed_at is None]
            if close:
                self.deadline = self.now + FAREWELL
                for i in close:
                    self.fates[i].late = True
            else:
                abort = alive
                self.aborted_at = self.now
        else:
            for i in alive:
                fate = self.fates[i]
                if fate.closed_at is None and not fate.busy and fate.due_at <= self.now:
                    close.append(i)
        assert orders == Orders(close=tuple(close), abort=tuple(abort))
        for i in close:
            self.fates[i].closed_at = self.now
        for i in abort:
            self.fates[i].aborted = True
        timeout = self.drain.next_timeout()
        assert timeout is None or timeout > self.now

    @rule(step=st.sampled_from([-1.0, 0.0, 0.5, 1.0]) | st.floats(0.0, 5.0))
    def wake_at_some_time(self, step: float) -> None:
        self.tick(self.now + step)

    @rule()
    def wake_in_time(self) -> None:
        timeout = self.drain.next_timeout()
        if timeout is not None:
            self.tick(timeout)

    @rule(i=st.integers(0, 7))
    def busy(self, i: int) -> None:
        self.drain.busy(i)
        if i < len(self.fates):
            self.fates[i].busy = True

    @rule(i=st.integers(0, 7), step=st.sampled_from([0.0, 0.1]) | st.floats(0.0, 2.0))
    def idle(self, i: int, step: float) -> None:
        self.now += step
        close = self.drain.idle(i, self.now)
        if i >= len(self.fates):
            assert not close
            return
        fate = self.fates[i]
        fate.busy = False
        waits = fate.outcome is None and fate.closed_at is None
        assert close is (waits and fate.due_at <= self.now < self.deadline)
        if close:
            fate.closed_at = self.now

    @rule(i=st.integers(0, 7), info=st.sampled_from(INFOS), step=st.sampled_from([0.0, 0.1]))
    def closed(self, i: int, info: CloseInfo, step: float) -> None:
        self.now += step
        self.drain.on_closed(i, info, self.now)
        if i >= len(self.fates) or self.fates[i].outcome is not None:
            return
        fate = self.fates[i]
        outcome = {ANSWERED: Outcome.CLOSED, UNANSWERED: Outcome.UNANSWERED}.get(info, Outcome.LEFT)
        if (fate.aborted and info in (UNANSWERED, LOST)) or (fate.late and info in (ANSWERED, UNANSWERED)):
            outcome = Outcome.ABORTED
        self.end(fate, outcome, info)

    @invariant()
    def each_has_one_outcome_and_is_closed_in_its_turn(self) -> None:
        for fate in self.fates:
            if fate.closed_at is not None:
                assert fate.due_at <= fate.closed_at < self.deadline  # which moves when some are closed at it
        ended = [
            Drained(str(i), None, fate.outcome, fate.info)
            for i, fate in enumerate(self.fates)
            if fate.outcome is not None
        ]
        report = self.drain.report(self.now)
        assert list(report.connections) == ended
        assert 0 <= report.duration <= self.now - self.began
        assert self.drain.done is (len(ended) == len(self.fates))

    @invariant()
    def next_timeout_only_reads_and_is_none_only_when_done(self) -> None:
        timeout = self.drain.next_timeout()
        assert self.drain.next_timeout() == timeout
        assert (timeout is None) is self.drain.done
        if timeout is not None and self.aborted_at is None:
            assert timeout <= self.deadline

    @invariant()
    def due_is_who_has_had_its_turn(self) -> None:
        for i, fate in enumerate(self.fates):
            assert self.drain.is_due(i) is (fate.due_at <= self.now)

    def teardown(self) -> None:
        # Whatever has happened, whoever wakes in time is done soon after the deadline.
        if not hasattr(self, "drain"):
            return
        for _ in range(len(self.fates) + 3):
            self.wake_in_time()
        assert self.drain.done
        assert self.drain.report(self.now).duration <= max(self.now, self.deadline + ABORT_WAIT) - self.began


def test_agrees_with_a_naive_model_whatever_the_order_of_calls() -> None:
    run_state_machine_as_test(
        DrainAgainstAModel, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )

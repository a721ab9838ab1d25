from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import FrozenInstanceError
from fractions import Fraction
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from wsconnkit.machines.ratelimit import RateLimit, TokenBucket, TokenBuckets

SETTINGS = settings(deadline=None)
SLACK = Fraction(1, 500)
"""Tokens by which the sums of floats may be off; a thousandth is forgiven on purpose."""

# As fast as a thousand tokens a second, on a clock that may have run for months.
LIMITS = st.builds(RateLimit, st.integers(1, 1000), st.floats(1.0, 86_400.0))
CLOCKS = st.floats(0.0, 1e7)
STEPS = st.lists(st.floats(0.0, 100.0) | st.sampled_from([0.0, 0.01, 1.0, 60.0]), min_size=1, max_size=60)

Name = tuple[Hashable, RateLimit]


class ExactBucket:
    """The definition, in fractions: tokens come back all the time, up to as many as there is room for."""

    def __init__(self, limit: RateLimit, now: float) -> None:
        self.count = limit.count
        self.rate = limit.count / Fraction(limit.period)
        self.tokens = Fraction(limit.count)
        self.at = Fraction(now)

    def tokens_at(self, now: float) -> Fraction:
        return min(Fraction(self.count), self.tokens + (max(Fraction(now), self.at) - self.at) * self.rate)

    def wait(self, now: float) -> Fraction:
        return max(Fraction(0), 1 - self.tokens_at(now)) / self.rate

    def take(self, now: float) -> None:
        self.tokens = self.tokens_at(now) - 1
        self.at = max(Fraction(now), self.at)

    @property
    def full_at(self) -> Fraction:
        return self.at + (self.count - self.tokens) / self.rate


def taken(bucket: TokenBucket, tries: int, now: float) -> int:
    return [bucket.take(now) for _ in range(tries)].count(0.0)


def test_a_full_bucket_gives_all_its_tokens_at_once_and_the_next_one_after_its_share_of_the_period() -> None:
    bucket = TokenBucket(RateLimit(3, 60.0), now=100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 20.0]
    assert bucket.take(115.0) == 5.0
    assert bucket.take(120.0) == 0.0
    assert bucket.take(120.0) == 20.0


def test_a_minute_is_the_period_where_none_is_given() -> None:
    assert RateLimit(100) == RateLimit(100, 60.0) == RateLimit(count=100, period=60)


def test_trying_in_vain_takes_nothing() -> None:
    bucket = TokenBucket(RateLimit(1, 10.0), now=0.0)
    bucket.take(0.0)
    assert [bucket.take(now) for now in (1.0, 2.0, 9.0)] == [9.0, 8.0, 1.0]
    assert bucket.take(10.0) == 0.0


def test_asking_for_the_wait_takes_nothing() -> None:
    bucket = TokenBucket(RateLimit(1, 10.0), now=0.0)
    assert [bucket.wait(0.0) for _ in range(5)] == [0.0] * 5
    bucket.take(0.0)
    assert [bucket.wait(4.0) for _ in range(5)] == [6.0] * 5
    assert bucket.take(10.0) == 0.0


def test_a_bucket_never_holds_more_than_its_count() -> None:
    bucket = TokenBucket(RateLimit(5, 10.0), now=0.0)
    assert taken(bucket, 10, now=1_000_000.0) == 5


def test_it_is_told_when_a_bucket_is_full() -> None:
    bucket = TokenBucket(RateLimit(4, 8.0), now=1.0)
    assert bucket.full_at == 1.0
    taken(bucket, 2, now=5.0)
    assert bucket.full_at == 9.0
    bucket.take(6.0)
    assert bucket.full_at == 11.0
    taken(bucket, 9, now=6.0)
    assert bucket.full_at == 13.0


def test_a_clock_that_goes_back_gives_and_takes_no_time() -> None:
    bucket = TokenBucket(RateLimit(2, 10.0), now=100.0)
    assert taken(bucket, 2, now=50.0) == 2
    assert bucket.take(0.0) == 5.0
    assert bucket.take(104.0) == 1.0
    assert bucket.take(90.0) == 1.0
    assert bucket.take(105.0) == 0.0


@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, float("inf"), float("nan"), "5", None])
def test_a_count_that_is_no_integer_of_at_least_1_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        RateLimit(value)
    assert str(caught.value) == f"count is {value!r}; it must be an integer of at least 1"
    with pytest.raises(ValueError, match="must be") as caught:
        TokenBuckets(value)
    assert str(caught.value) == f"max_keys is {value!r}; it must be an integer of at least 1"


@pytest.mark.parametrize("value", [0, 0.0, -1.0, float("inf"), float("nan"), "60", None])
def test_a_period_that_is_no_finite_number_of_seconds_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        RateLimit(5, value)
    assert str(caught.value) == f"period is {value!r}; it must be a finite number of seconds, more than 0"


def test_a_limit_does_not_change_and_is_a_key() -> None:
    with pytest.raises(FrozenInstanceError):
        RateLimit(5).count = 6  # type: ignore[misc]
    assert {RateLimit(5): 1}[RateLimit(5, 60.0)] == 1


@SETTINGS
@given(LIMITS, CLOCKS, st.integers(0, 2000))
@example(RateLimit(1000, 1.0), 1e7 - 0.3, 2000)
def test_a_burst_gets_exactly_what_is_there(limit: RateLimit, now: float, tries: int) -> None:
    assert taken(TokenBucket(limit, now=now), tries, now) == min(tries, limit.count)


@SETTINGS
@given(LIMITS, CLOCKS)
def test_whoever_waits_as_long_as_told_gets_a_token(limit: RateLimit, now: float) -> None:
    bucket = TokenBucket(limit, now=now)
    taken(bucket, limit.count, now)
    for _ in range(10):
        wait = bucket.take(now)
        assert wait == pytest.approx(limit.period / limit.count, rel=0.01)
        now += wait
        assert bucket.take(now) == 0.0


@SETTINGS
@given(LIMITS, CLOCKS, STEPS)
def test_agrees_with_the_exact_definition(limit: RateLimit, start: float, steps: list[float]) -> None:
    bucket, exact = TokenBucket(limit, now=start), ExactBucket(limit, start)
    for now in accumulate(steps, initial=start):
        wait = bucket.take(now)
        if wait:
            assert exact.tokens_at(now) < 1
            assert abs(Fraction(wait) - exact.wait(now)) * exact.rate <= SLACK
        else:
            assert exact.tokens_at(now) >= 1 - SLACK
            exact.take(now)


@SETTINGS
@given(st.integers(1, 10), st.floats(1.0, 100.0), CLOCKS, STEPS)
def test_in_no_span_of_time_more_is_given_than_a_full_bucket_and_what_comes_back_meanwhile(
    count: int, period: float, start: float, steps: list[float]
) -> None:
    bucket = TokenBucket(RateLimit(count, period), now=start)
    given_at = [now for now in accumulate(steps, initial=start) for _ in range(3) if bucket.take(now) == 0.0]
    rate = count / Fraction(period)
    for first, since in enumerate(given_at):
        for last, until in enumerate(given_at[first:], start=first):
            assert last - first + 1 <= count + (Fraction(until) - Fraction(since)) * rate + SLACK


@SETTINGS
@given(LIMITS, CLOCKS, st.lists(st.floats(-1e7, 1e7) | st.floats(-1.0, 1.0), max_size=40))
def test_moments_before_the_last_one_are_as_good_as_the_last_one(
    limit: RateLimit, start: float, steps: list[float]
) -> None:
    back_and_forth, clamped = TokenBucket(limit, now=start), TokenBucket(limit, now=start)
    latest = start
    for now in accumulate(steps, initial=start):
        latest = max(latest, now)
        assert back_and_forth.take(now) == clamped.take(latest)


ONE = RateLimit(1, 60.0)
TWO = RateLimit(2, 60.0)


def test_each_key_has_its_own_tokens() -> None:
    buckets = TokenBuckets()
    assert [buckets.take("a", TWO, 0.0) for _ in range(3)] == [0.0, 0.0, 30.0]
    assert [buckets.take("b", TWO, 0.0) for _ in range(3)] == [0.0, 0.0, 30.0]
    assert len(buckets) == 2


def test_to_ask_when_there_is_a_token_takes_none_and_makes_no_bucket() -> None:
    buckets, limit = TokenBuckets(), RateLimit(1, 10.0)
    assert [buckets.wait("a", limit, 0.0) for _ in range(3)] == [0.0] * 3
    assert len(buckets) == 0
    buckets.take("a", limit, 5.0)
    assert buckets.wait("a", limit, 5.0) == 10.0
    assert buckets.wait("a", limit, 0.0) == 10.0  # time does not go back
    assert buckets.wait("a", RateLimit(2, 10.0), 5.0) == buckets.wait("b", limit, 5.0) == 0.0
    assert buckets.wait("a", limit, 15.0) == 0.0


def test_a_key_has_other_tokens_under_another_limit() -> None:
    buckets = TokenBuckets()
    assert [buckets.take("a", ONE, 0.0), buckets.take("a", TWO, 0.0), buckets.take("a", TWO, 0.0)] == [0.0] * 3
    assert buckets.take("a", ONE, 0.0) == 60.0
    assert buckets.take("a", TWO, 0.0) == 30.0


def test_of_several_keys_one_token_each_is_taken_or_none_at_all() -> None:
    buckets = TokenBuckets()
    wanted = [("ip", TWO), ("user", ONE)]
    assert buckets.take_all(wanted, 0.0) == 0.0
    for _ in range(5):
        assert buckets.take_all(wanted, 0.0) == 60.0
    assert [buckets.take("ip", TWO, 0.0) for _ in range(2)] == [0.0, 30.0]


def test_the_longest_wait_is_told_wherever_it_stands() -> None:
    for wanted in ([("ip", TWO), ("user", ONE)], [("user", ONE), ("ip", TWO)]):
        buckets = TokenBuckets()
        assert [buckets.take_all(wanted, 0.0), buckets.take("ip", TWO, 0.0)] == [0.0, 0.0]
        assert buckets.take_all(iter(wanted), 10.0) == 50.0


def test_nothing_wanted_is_there_at_once() -> None:
    assert TokenBuckets().take_all([], 0.0) == 0.0


def test_no_more_keys_are_remembered_than_is_said() -> None:
    buckets = TokenBuckets(max_keys=3)
    for key in range(100):
        assert buckets.take(key, ONE, float(key) / 100) == 0.0
        assert len(buckets) == min(key + 1, 3)
    buckets.take_all([(key, ONE) for key in range(50)], 100.0)
    assert len(buckets) <= 3


def test_one_key_is_remembered_at_least() -> None:
    buckets = TokenBuckets(max_keys=1)
    assert [buckets.take(key, ONE, 0.0) for key in ("a", "a", "b", "b", "a")] == [0.0, 60.0, 0.0, 60.0, 0.0]


def test_a_full_bucket_is_forgotten_before_one_that_is_not() -> None:
    buckets = TokenBuckets(max_keys=2)
    buckets.take("empty", RateLimit(1, 600.0), 0.0)
    buckets.take("full again", ONE, 10.0)
    buckets.take("new", ONE, 80.0)
    assert buckets.take("empty", RateLimit(1, 600.0), 80.0) == 520.0
    assert buckets.take("new", ONE, 80.0) == 60.0


def test_who_keeps_being_refused_is_not_forgotten_while_there_are_fuller_ones() -> None:
    buckets = TokenBuckets(max_keys=10)
    hundred = RateLimit(100, 60.0)
    for _ in range(100):
        assert buckets.take("greedy", hundred, 0.0) == 0.0
    for stranger in range(1000):
        assert buckets.take(f"stranger {stranger}", hundred, 0.0) == 0.0
        assert buckets.take("greedy", hundred, 0.0) > 0.0


def test_who_is_refused_makes_nobody_forgotten() -> None:
    buckets = TokenBuckets(max_keys=2)
    buckets.take("busy", ONE, 0.0)
    buckets.take("known", ONE, 0.0)
    for stranger in range(100):
        assert buckets.take_all([(f"stranger {stranger}", ONE), ("busy", ONE)], 0.0) == 60.0
    assert buckets.take("known", ONE, 0.0) == 60.0


def test_a_clock_that_goes_back_gives_nothing_to_keys_that_were_not_there_either() -> None:
    buckets = TokenBuckets()
    buckets.take("a", ONE, 100.0)
    assert buckets.take("b", ONE, 0.0) == 0.0
    assert buckets.take("b", ONE, 100.0) == 60.0
    assert buckets.take("a", ONE, 0.0) == 60.0


class Counted(float):
    """A moment that counts what is done with it, and with what comes of it."""

    steps = 0

    def __add__(self, other: float) -> Counted:
        return Counted(float(self) + other)

    def __sub__(self, other: float) -> Counted:
        return Counted(float(self) - other)

    def __eq__(self, other: object) -> bool:
        Counted.steps += 1
        return float(self) == other

    def __lt__(self, other: float) -> bool:
        Counted.steps += 1
        return float(self) < float(other)

    def __gt__(self, other: float) -> bool:
        Counted.steps += 1
        return float(self) > float(other)

    __hash__ = float.__hash__


def test_no_token_costs_more_than_a_few_steps_whatever_was_taken_before() -> None:
    keys = 1000
    buckets = TokenBuckets(max_keys=keys)
    limit = RateLimit(100, 60.0)
    worst = 0
    # All keys are new, then all are known, first to last and last to first; then each is new and another is forgotten.
    rounds = (range(keys), range(keys), reversed(range(keys)), range(keys, 2 * keys))
    for number, names in enumerate(rounds):
        for key in names:
            Counted.steps = 0
            assert buckets.take(key, limit, Counted(number)) == 0.0
            worst = max(worst, Counted.steps)
    assert worst <= 10 * keys.bit_length()


# Of these limits and steps all sums are exact, so that floats and fractions are equal.
EXACT_LIMITS = [RateLimit(4, 8.0), RateLimit(1, 4.0), RateLimit(2, 0.25)]
NAMES: list[Name] = [(key, limit) for key in ("a", "b", "c") for limit in EXACT_LIMITS]
EXACT_STEPS = st.sampled_from([0.0, 0.0, 0.125, 0.5, 2.0, 3.0, 30.0, -1.0, -50.0])


class ExactBuckets:
    """Remembers all keys it is allowed to; over that, forgets the one that is, or was, full the soonest."""

    def __init__(self, max_keys: int) -> None:
        self.max_keys = max_keys
        self.buckets: dict[Name, ExactBucket] = {}
        self.now = float("-inf")

    def take_all(self, wanted: Iterable[Name], now: float) -> Fraction:
        names = list(wanted)
        self.now = now = max(now, self.now)
        wait = max(self.buckets.get(name, ExactBucket(name[1], now)).wait(now) for name in names)
        for name in names if not wait else ():
            if name not in self.buckets:
                if len(self.buckets) == self.max_keys:
                    # The one that was made first, where several are full at the same time.
                    del self.buckets[min(self.buckets, key=lambda name: self.buckets[name].full_at)]
                self.buckets[name] = ExactBucket(name[1], now)
            self.buckets[name].take(now)
        return wait

    def not_full(self, names: Iterable[Name], now: float) -> set[Name]:
        """Return the names that will not be full once `names` have been taken from."""
        now = max(now, self.now)
        return {name for name, bucket in self.buckets.items() if bucket.full_at > now} | set(names)


class BucketsAgainstModel(RuleBasedStateMachine):
    """The model looks at everything anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.buckets = TokenBuckets(max_keys=3)
        self.model = ExactBuckets(max_keys=3)
        self.now = 1000.0

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True), step=EXACT_STEPS)
    def take_all(self, names: list[Name], step: float) -> None:
        self.now += step
        assert self.buckets.take_all(names, self.now) == self.model.take_all(names, self.now)

    @rule(name=st.sampled_from(NAMES), times=st.integers(1, 5))
    def take(self, name: Name, times: int) -> None:
        for _ in range(times):
            assert self.buckets.take(*name, self.now) == self.model.take_all([name], self.now)

    @invariant()
    def remembers_as_many(self) -> None:
        assert len(self.buckets) == len(self.model.buckets) <= 3


def test_agrees_with_a_naive_model_whatever_the_order_of_calls() -> None:
    run_state_machine_as_test(
        BucketsAgainstModel, settings=settings(max_examples=200, stateful_step_count=40, deadline=None)
    )


@SETTINGS
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True), EXACT_STEPS), max_size=60
    ),
    st.integers(1, 5),
)
def test_as_long_as_only_full_buckets_must_be_forgotten_nothing_shows(
    calls: list[tuple[list[Name], float]], max_keys: int
) -> None:
    buckets, model = TokenBuckets(max_keys), ExactBuckets(max_keys=len(NAMES))
    now = 1000.0
    for names, step in calls:
        now += step
        if len(model.not_full(names, now)) <= max_keys:
            assert buckets.take_all(names, now) == model.take_all(names, now)

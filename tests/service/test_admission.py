from __future__ import annotations

import copy
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.service.admission import Admission, AdmissionConfig, Rates, Refusal, Refused
from wsconnkit.service.registry import Registry

SETTINGS = settings(deadline=None)
UNLIMITED = AdmissionConfig(max_connections_per_user=None)
IP = "192.0.2.1"
COUNTS = [
    "max_connections",
    "max_connections_per_user",
    "max_connections_per_ip",
    "max_handshakes",
    "max_handshakes_per_ip",
    "max_violations",
]


class Door:
    """A server that registers whom it admits."""

    def __init__(self, config: AdmissionConfig) -> None:
        self.admission = Admission(config)
        self.registry: Registry[str] = Registry()
        self._made = 0

    def enter(
        self, user: str | None = None, ip: str | None = None, *, tier: str | None = None, now: float = 0.0
    ) -> Refusal | None:
        refusal = self.admission.check(user=user, tier=tier, ip=ip, registry=self.registry, now=now)
        if refusal is None:
            self._made += 1
            self.registry.add(str(self._made), id=str(self._made), user=user, ip=ip)
        return refusal

    def message(
        self, user: str | None = None, ip: str | None = None, *, tier: str | None = None, now: float = 0.0
    ) -> float:
        return self.admission.on_message(user=user, tier=tier, ip=ip, now=now)


def wait_of(refusal: Refusal | None) -> float:
    """Return the seconds until a refused upgrade has a token."""
    assert refusal is not None
    assert refusal.reason is Refused.RATE
    return refusal.retry_after


def messages(count: int, period: float = 60.0) -> Rates:
    return Rates(messages=RateLimit(count, period))


def upgrades(count: int, period: float = 60.0) -> Rates:
    return Rates(upgrades=RateLimit(count, period))


def test_a_user_has_3_connections_and_nothing_else_is_limited_by_default() -> None:
    door = Door(AdmissionConfig())
    assert [door.enter("ada", IP) for _ in range(3)] == [None] * 3
    assert door.enter("ada", IP) == Refusal(Refused.USER_CAP, 10.0)
    assert [door.enter(None, IP) for _ in range(1000)] == [None] * 1000
    assert [door.message("ada", IP) for _ in range(1000)] == [0.0] * 1000
    assert door.admission.config == AdmissionConfig()
    assert door.admission.limits_messages is False


def test_nobody_more_comes_in_when_the_server_is_full() -> None:
    door = Door(AdmissionConfig(max_connections=2, retry_after=3.5))
    assert [door.enter("ada"), door.enter()] == [None, None]
    assert door.enter("bob", IP) == Refusal(Refused.CAPACITY, 3.5)
    assert len(door.registry) == 2


def test_an_address_has_no_more_connections_than_it_may() -> None:
    door = Door(AdmissionConfig(max_connections_per_ip=2))
    assert [door.enter("ada", IP), door.enter("bob", IP)] == [None, None]
    assert door.enter("eve", IP) == Refusal(Refused.IP_CAP, 10.0)
    assert door.enter("eve", "192.0.2.2") is None


@pytest.mark.parametrize("cap", COUNTS[:3])
def test_a_cap_counts_at_once_and_gives_room_as_soon_as_one_has_gone(cap: str) -> None:
    limits: dict[str, Any] = {cap: 5}
    door = Door(replace(UNLIMITED, **limits))
    assert [door.enter("ada", IP) is None for _ in range(8)] == [True] * 5 + [False] * 3
    door.registry.remove("2")
    door.registry.remove("2")
    assert [door.enter("ada", IP) is None for _ in range(3)] == [True, False, False]


def test_who_is_nobody_and_comes_from_nowhere_is_held_to_the_cap_of_all_only() -> None:
    one = Rates(upgrades=RateLimit(1), messages=RateLimit(1))
    config = AdmissionConfig(
        max_connections=50, max_connections_per_user=1, max_connections_per_ip=1, per_ip=one, per_user=one
    )
    door = Door(config)
    assert [door.enter() for _ in range(50)] == [None] * 50
    assert door.enter() == Refusal(Refused.CAPACITY, 10.0)
    assert [door.message() for _ in range(50)] == [0.0] * 50


def test_the_caps_are_asked_in_order_all_user_address_and_then_the_rate() -> None:
    config = AdmissionConfig(
        max_connections=4, max_connections_per_user=1, max_connections_per_ip=1, per_ip=upgrades(1, 30.0)
    )
    door = Door(config)
    assert door.enter("ada", IP) is None
    assert door.enter("ada", IP) == Refusal(Refused.USER_CAP, 10.0)
    assert door.enter("bob", IP) == Refusal(Refused.IP_CAP, 10.0)
    door.registry.remove("1")
    assert wait_of(door.enter("bob", IP)) == pytest.approx(30.0, rel=0.01)
    for number in range(4):
        door.enter(f"user {number}")
    assert door.enter("ada", IP) == Refusal(Refused.CAPACITY, 10.0)


def test_who_is_refused_by_a_cap_loses_no_token() -> None:
    door = Door(AdmissionConfig(max_connections=1, per_ip=upgrades(2)))
    assert door.enter("ada", IP) is None
    for _ in range(10):
        assert door.enter("bob", IP) == Refusal(Refused.CAPACITY, 10.0)
    door.registry.remove("1")
    assert door.enter("bob", IP) is None


def test_upgrades_over_the_rate_are_refused_until_a_token_is_there() -> None:
    door = Door(replace(UNLIMITED, per_user=upgrades(2, 60.0)))
    assert [door.enter("ada", now=5.0), door.enter("ada", now=5.0)] == [None, None]
    assert wait_of(door.enter("ada", now=15.0)) == pytest.approx(20.0, rel=0.01)
    assert door.enter("bob", now=15.0) is None
    assert door.enter("ada", now=35.0) is None
    assert door.enter("ada", now=35.0) is not None


def test_the_longer_of_two_waits_is_told() -> None:
    door = Door(replace(UNLIMITED, per_user=upgrades(1, 60.0), per_ip=upgrades(1, 5.0)))
    assert door.enter("ada", IP) is None
    assert wait_of(door.enter("ada", IP)) == pytest.approx(60.0, rel=0.01)
    assert wait_of(door.enter("bob", IP)) == pytest.approx(5.0, rel=0.01)
    assert door.enter("bob", "192.0.2.2") is None


@pytest.mark.parametrize("kind", ["upgrades", "messages"])
def test_a_token_is_taken_of_user_and_address_or_of_neither(kind: str) -> None:
    rates: dict[str, Any] = {kind: RateLimit(3)}
    door = Door(replace(UNLIMITED, per_user=Rates(**rates), per_ip=Rates(**rates)))

    def passes(user: str, ip: str) -> bool:
        return not (door.enter(user, ip) if kind == "upgrades" else door.message(user, ip))

    assert [passes("ada", IP) for _ in range(4)] == [True, True, True, False]
    # Tries in vain took nothing of a user, nor of an address, that had some left.
    assert [passes("bob", IP) for _ in range(9)] == [False] * 9
    assert [passes("ada", "192.0.2.2") for _ in range(9)] == [False] * 9
    assert [passes("bob", "192.0.2.2") for _ in range(4)] == [True, True, True, False]


def test_messages_are_limited_over_all_connections_of_a_user_and_of_an_address() -> None:
    door = Door(AdmissionConfig(per_user=messages(3), per_ip=messages(5)))
    assert [door.message("ada", IP) for _ in range(3)] == [0.0] * 3
    assert door.message("ada", "192.0.2.2") == pytest.approx(20.0, rel=0.01)
    assert [door.message("bob", IP) for _ in range(2)] == [0.0] * 2
    assert door.message("bob", IP) == pytest.approx(12.0, rel=0.01)
    assert door.message("bob", "192.0.2.2") == 0.0
    assert door.message("ada", "192.0.2.2", now=20.0) == 0.0


def test_a_message_over_the_rate_takes_nothing_so_that_waiting_helps() -> None:
    door = Door(AdmissionConfig(per_user=messages(1, 10.0)))
    assert door.message("ada") == 0.0
    for tenth in range(1, 99):
        assert door.message("ada", now=tenth / 10) == pytest.approx(10.0 - tenth / 10, abs=0.02)
    assert door.message("ada", now=10.0) == 0.0


def test_upgrades_and_messages_are_limited_apart() -> None:
    door = Door(replace(UNLIMITED, per_user=Rates(upgrades=RateLimit(1), messages=RateLimit(1))))
    assert door.enter("ada") is None
    assert door.message("ada") == 0.0
    assert door.enter("ada") is not None
    assert door.message("ada") > 0.0


def test_a_user_whose_name_is_an_address_does_not_share_with_it() -> None:
    one = Rates(upgrades=RateLimit(1), messages=RateLimit(1))
    door = Door(AdmissionConfig(per_user=one, per_ip=one))
    assert door.enter(IP, IP) is None
    assert door.message(IP, IP) == 0.0


def test_users_of_a_tier_have_its_rates() -> None:
    config = AdmissionConfig(
        per_user=messages(2), tiers={"premium": messages(4), "enterprise": Rates(), "closed": messages(1)}
    )
    door = Door(config)
    for tier, allowed in ((None, 2), ("premium", 4), ("closed", 1), ("unheard of", 2), ("", 2)):
        passed = [door.message(f"user of {tier}", tier=tier) == 0.0 for _ in range(6)]
        assert passed == [True] * allowed + [False] * (6 - allowed)
    assert [door.message("big", tier="enterprise") for _ in range(100)] == [0.0] * 100


def test_a_tier_has_its_own_rate_of_upgrades_too() -> None:
    door = Door(replace(UNLIMITED, per_user=upgrades(1), tiers={"premium": upgrades(2)}))
    assert [door.enter("ada", tier="premium") is None for _ in range(3)] == [True, True, False]
    assert [door.enter("bob") is None for _ in range(3)] == [True, False, False]


def test_a_tier_does_not_lift_the_limits_of_an_address() -> None:
    door = Door(AdmissionConfig(per_ip=messages(1), tiers={"premium": Rates()}))
    assert [door.message("ada", IP, tier="premium") == 0.0 for _ in range(2)] == [True, False]


def test_it_is_told_whether_messages_are_limited_at_all() -> None:
    assert Admission(AdmissionConfig(per_ip=messages(1))).limits_messages
    assert Admission(AdmissionConfig(per_user=messages(1))).limits_messages
    assert Admission(AdmissionConfig(tiers={"free": messages(1)})).limits_messages
    assert not Admission(AdmissionConfig(per_ip=upgrades(1), per_user=upgrades(1))).limits_messages


def test_a_flood_of_upgrades_does_not_make_who_sends_too_much_forgotten() -> None:
    door = Door(AdmissionConfig(max_connections_per_user=None, max_keys=10, per_ip=upgrades(1), per_user=messages(1)))
    assert door.message("ada") == 0.0
    for number in range(100):
        assert door.enter(None, f"198.51.100.{number}") is None
    assert door.message("ada") > 0.0


def test_no_more_keys_are_remembered_than_is_said() -> None:
    one = Rates(upgrades=RateLimit(1), messages=RateLimit(1))
    door = Door(replace(UNLIMITED, max_keys=1, per_ip=one))
    ips = [IP, IP, "192.0.2.2", "192.0.2.2", IP]
    assert [door.enter(None, ip) is None for ip in ips] == [True, False, True, False, True]
    assert [door.message(None, ip) == 0.0 for ip in ips] == [True, False, True, False, True]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", float("inf"), float("nan")])
def test_a_limit_that_is_no_integer_of_at_least_1_is_refused_by_name_and_value(name: str, value: object) -> None:
    bad: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match="must be") as caught:
        AdmissionConfig(**bad)
    assert str(caught.value) == f"{name} is {value!r}; it must be an integer of at least 1, or None for no limit"


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [1, 10**9, None])
def test_a_limit_may_be_any_positive_integer_or_off(name: str, value: int | None) -> None:
    good: dict[str, Any] = {name: value}
    assert getattr(AdmissionConfig(**good), name) == value


@pytest.mark.parametrize("value", [0, -1, 1.5, None, "3"])
def test_the_keys_that_are_remembered_are_never_without_limit(value: Any) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        AdmissionConfig(max_keys=value)
    assert str(caught.value) == f"max_keys is {value!r}; it must be an integer of at least 1"


@pytest.mark.parametrize("value", [0, 0.0, -1.0, float("inf"), float("nan"), "5", None])
def test_the_time_to_try_again_is_a_finite_number_of_seconds(value: Any) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        AdmissionConfig(retry_after=value)
    assert str(caught.value) == f"retry_after is {value!r}; it must be a finite number of seconds, more than 0"


@pytest.mark.parametrize("value", [None, 5, RateLimit(5), {}, Rates])
def test_rates_of_the_wrong_type_are_refused_by_name(value: Any) -> None:
    for name in ("per_ip", "per_user"):
        bad: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match="must be Rates") as caught:
            AdmissionConfig(**bad)
        assert str(caught.value) == f"{name} is {value!r}; it must be Rates"
    with pytest.raises(ValueError, match="must be Rates") as caught:
        AdmissionConfig(tiers={"free": Rates(), "premium": value})
    assert str(caught.value) == f"tiers['premium'] is {value!r}; it must be Rates"


@pytest.mark.parametrize("value", [None, 5, ["free"], {"free"}])
def test_tiers_of_the_wrong_type_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        AdmissionConfig(tiers=value)
    assert str(caught.value) == f"tiers is {value!r}; it must be a mapping of names to Rates"


@pytest.mark.parametrize("name", ["upgrades", "messages"])
@pytest.mark.parametrize("value", [5, 0, "5", (5, 60.0), RateLimit])
def test_a_rate_that_is_none_is_refused_by_name(name: str, value: object) -> None:
    bad: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match="must be") as caught:
        Rates(**bad)
    assert str(caught.value) == f"{name} is {value!r}; it must be a RateLimit, or None for no limit"


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        AdmissionConfig().max_keys = 5  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Rates().messages = None  # type: ignore[misc]
    tiers = {"premium": messages(1)}
    config = AdmissionConfig(tiers=tiers)
    tiers.clear()
    assert config.tiers == {"premium": messages(1)}


def test_settings_are_given_by_name() -> None:
    make: Any = AdmissionConfig
    with pytest.raises(TypeError):
        make(5)
    make = Rates
    with pytest.raises(TypeError):
        make(RateLimit(1))


def test_settings_are_equal_by_value_hashable_and_can_be_copied() -> None:
    config = AdmissionConfig(tiers={"premium": messages(1)}, per_ip=upgrades(5))
    assert config == AdmissionConfig(tiers={"premium": messages(1)}, per_ip=upgrades(5)) == copy.deepcopy(config)
    assert config != AdmissionConfig(per_ip=upgrades(5))
    assert hash(config) == hash(copy.deepcopy(config))


@pytest.mark.parametrize("value", [0, 10, "10", Rates()])
def test_a_limit_of_failed_authentications_is_a_rate_or_none(value: Any) -> None:
    assert AdmissionConfig().failed_auth == RateLimit(10, 60.0)
    assert AdmissionConfig(failed_auth=None).failed_auth is None
    with pytest.raises(ValueError, match="it must be a RateLimit, or None for no limit") as caught:
        AdmissionConfig(failed_auth=value)
    assert str(caught.value).startswith(f"failed_auth is {value!r}; ")


def test_the_reasons_are_a_closed_set_of_labels() -> None:
    assert {reason.value for reason in Refused} == {
        "draining",
        "path",
        "host",
        "origin",
        "missing",
        "invalid",
        "expired",
        "failed_auth",
        "unavailable",
        "capacity",
        "user_cap",
        "ip_cap",
        "rate",
        "request",
        "application",
    }


CALLS = st.lists(
    st.tuples(
        st.none() | st.sampled_from(["ada", "bob"]),
        st.none() | st.sampled_from([IP, "2001:db8::/64"]),
        st.sampled_from([0.0, 0.5, 1.0, 7.0]),
    ),
    max_size=60,
)


@SETTINGS
@given(CALLS, st.integers(1, 5), st.integers(1, 5))
def test_no_user_and_no_address_ever_gets_more_than_its_rate(
    calls: list[tuple[str | None, str | None, float]], of_user: int, of_ip: int
) -> None:
    door = Door(AdmissionConfig(per_user=messages(of_user, 10.0), per_ip=messages(of_ip, 10.0)))
    now = 0.0
    passed: dict[str | None, int] = {}
    for user, ip, step in calls:
        now += step
        wait = door.message(user, ip, now=now)
        assert wait >= 0.0
        if not wait:
            for key in (user, ip):
                passed[key] = passed.get(key, 0) + 1
        else:
            assert door.admission.on_message(user=user, tier=None, ip=ip, now=now) == wait
    for key, count in passed.items():
        limit = of_user if key in ("ada", "bob") else of_ip
        assert key is None or count <= limit + now * limit / 10.0 + 0.01


class CapsAgainstModel(RuleBasedStateMachine):
    """The model counts everyone anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.door = Door(AdmissionConfig(max_connections=6, max_connections_per_user=3, max_connections_per_ip=4))
        self.model: list[tuple[str, str | None, str | None]] = []
        self.entered = 0

    def count(self, place: int, value: str | None) -> int:
        return 0 if value is None else [entry[place] for entry in self.model].count(value)

    @rule(user=st.none() | st.sampled_from(["ada", "bob"]), ip=st.none() | st.sampled_from([IP, "192.0.2.2"]))
    def enter(self, user: str | None, ip: str | None) -> None:
        expected = None
        if len(self.model) == 6:
            expected = Refused.CAPACITY
        elif self.count(1, user) == 3:
            expected = Refused.USER_CAP
        elif self.count(2, ip) == 4:
            expected = Refused.IP_CAP
        refusal = self.door.enter(user, ip)
        assert refusal == (None if expected is None else Refusal(expected, 10.0))
        if refusal is None:
            self.entered += 1
            self.model.append((str(self.entered), user, ip))

    @rule(choice=st.integers(0, 5), times=st.integers(1, 2))
    def leave(self, choice: int, times: int) -> None:
        if choice < len(self.model):
            for _ in range(times):
                self.door.registry.remove(self.model[choice][0])
            del self.model[choice]

    @invariant()
    def nobody_is_over_a_cap(self) -> None:
        registry = self.door.registry
        assert len(registry) == len(self.model) <= 6
        for user in ("ada", "bob"):
            assert registry.count_user(user) == self.count(1, user) <= 3
        for ip in (IP, "192.0.2.2"):
            assert registry.count_ip(ip) == self.count(2, ip) <= 4


def test_caps_are_exact_whoever_comes_and_goes() -> None:
    run_state_machine_as_test(
        CapsAgainstModel, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )

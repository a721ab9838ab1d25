from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from wsconnkit.service.registry import Registry

USERS = ["", "ada", "bob"]
IPS = ["192.0.2.1", "2001:db8::/64"]
IDS = ["1", "2", "3", "4", "5"]


class Ws:
    """Stands for a connection: the registry needs no more of one than that it is itself."""


def test_a_connection_is_found_by_its_id_and_by_its_user() -> None:
    registry: Registry[Ws] = Registry()
    one, two, other = Ws(), Ws(), Ws()
    registry.add(one, id="1", user="ada", ip="192.0.2.1")
    registry.add(other, id="2", user="bob", ip="192.0.2.1")
    registry.add(two, id="3", user="ada", ip="192.0.2.2")
    assert (registry.get("1"), registry.get("2"), registry.get("3")) == (one, other, two)
    assert registry.by_user("ada") == (one, two)
    assert registry.by_user("bob") == (other,)
    assert list(registry) == [one, other, two]


def test_the_open_connections_of_a_user_and_an_address_are_counted() -> None:
    registry: Registry[Ws] = Registry()
    for number, (user, ip) in enumerate([("ada", "192.0.2.1"), ("ada", "192.0.2.2"), ("bob", "192.0.2.1")]):
        registry.add(Ws(), id=str(number), user=user, ip=ip)
    assert len(registry) == 3
    assert (registry.count_user("ada"), registry.count_user("bob")) == (2, 1)
    assert (registry.count_ip("192.0.2.1"), registry.count_ip("192.0.2.2")) == (2, 1)


def test_who_is_not_there_is_not_found_and_not_counted() -> None:
    registry: Registry[Ws] = Registry()
    assert registry.get("1") is None
    assert registry.by_user("ada") == ()
    assert (registry.count_user("ada"), registry.count_ip("192.0.2.1"), len(registry)) == (0, 0, 0)
    assert Ws() not in registry
    assert "1" not in registry


def test_a_connection_without_user_and_address_is_nobodys() -> None:
    registry: Registry[Ws] = Registry()
    one = Ws()
    registry.add(one, id="1", user=None, ip=None)
    assert one in registry
    assert list(registry) == [one]
    registry.remove("1")
    assert one not in registry
    assert len(registry) == 0


def test_a_reserved_place_counts_and_is_nobody() -> None:
    registry: Registry[Ws] = Registry()
    registry.reserve("1", user="ada", ip="192.0.2.1")
    assert (registry.count(), registry.count_user("ada"), registry.count_ip("192.0.2.1")) == (1, 1, 1)
    assert (len(registry), list(registry), registry.get("1"), registry.by_user("ada")) == (0, [], None, ())


def test_a_connection_takes_the_place_that_was_reserved_for_it() -> None:
    registry: Registry[Ws] = Registry()
    one = Ws()
    registry.reserve("1", user="ada", ip="192.0.2.1")
    registry.add(one, id="1", user="ada", ip="192.0.2.1")
    assert (registry.count(), registry.count_user("ada"), registry.count_ip("192.0.2.1")) == (1, 1, 1)
    assert (list(registry), registry.get("1"), registry.by_user("ada")) == ([one], one, (one,))
    registry.remove("1")
    assert (registry.count(), registry.count_user("ada"), registry.count_ip("192.0.2.1")) == (0, 0, 0)


def test_a_reserved_place_is_given_back() -> None:
    registry: Registry[Ws] = Registry()
    registry.reserve("1", user="ada", ip="192.0.2.1")
    registry.reserve("2", user=None, ip=None)
    for id_ in ("1", "1", "2"):
        registry.remove(id_)
    assert (registry.count(), registry.count_user("ada"), registry.count_ip("192.0.2.1")) == (0, 0, 0)
    registry.reserve("1", user="bob", ip=None)
    assert registry.count() == 1


def test_a_place_is_reserved_once() -> None:
    registry: Registry[Ws] = Registry()
    registry.reserve("1", user="ada", ip=None)
    registry.add(Ws(), id="2", user="ada", ip=None)
    for id_ in ("1", "2"):
        with pytest.raises(ValueError, match=f"the connection '{id_}' is already registered; remove it first"):
            registry.reserve(id_, user="bob", ip=None)
    assert (registry.count(), registry.count_user("ada"), registry.count_user("bob")) == (2, 2, 0)


def test_removing_twice_or_what_was_never_there_changes_nothing() -> None:
    registry: Registry[Ws] = Registry()
    registry.add(Ws(), id="1", user="ada", ip="192.0.2.1")
    registry.add(Ws(), id="2", user="ada", ip="192.0.2.1")
    for id_ in ("1", "1", "nobody"):
        registry.remove(id_)
    assert (registry.count_user("ada"), registry.count_ip("192.0.2.1"), len(registry)) == (1, 1, 1)


def test_an_id_may_come_back_after_it_was_removed() -> None:
    registry: Registry[Ws] = Registry()
    one = Ws()
    for user in ("ada", "bob"):
        registry.add(one, id="1", user=user, ip=None)
        assert registry.by_user(user) == (one,)
        registry.remove("1")
    assert registry.by_user("ada") == ()


def test_adding_an_id_or_a_connection_twice_is_refused_and_changes_nothing() -> None:
    registry: Registry[Ws] = Registry()
    one = Ws()
    registry.add(one, id="1", user="ada", ip="192.0.2.1")
    for connection, id_ in ((Ws(), "1"), (one, "2"), (one, "1")):
        with pytest.raises(ValueError, match=f"the connection '{id_}' is already registered; remove it first"):
            registry.add(connection, id=id_, user="bob", ip="192.0.2.9")
    assert list(registry) == [one]
    assert (registry.count_user("bob"), registry.count_ip("192.0.2.9")) == (0, 0)
    assert registry.get("2") is None


def test_connections_may_come_and_go_while_others_are_iterated_over() -> None:
    registry: Registry[Ws] = Registry()
    there = [Ws() for _ in range(3)]
    for number, connection in enumerate(there):
        registry.add(connection, id=str(number), user="ada", ip=None)
    seen = []
    for number, connection in enumerate(registry):
        seen.append(connection)
        registry.remove(str(number))
        registry.add(Ws(), id=f"new {number}", user="ada", ip=None)
    assert seen == there
    mine = registry.by_user("ada")
    registry.remove("new 0")
    assert len(mine) == 3


def test_nothing_is_left_of_who_has_gone() -> None:
    registry: Registry[Ws] = Registry()
    before = size_of(registry)
    for number in range(100):
        registry.add(Ws(), id=str(number), user=f"user {number % 7}", ip=f"192.0.2.{number % 11}")
    for number in range(100):
        registry.count_user(f"stranger {number}")
        registry.count_ip(f"198.51.100.{number}")
        registry.by_user(f"stranger {number}")
        registry.remove(str(number))
    assert size_of(registry) == before


def size_of(registry: Registry[Ws]) -> int:
    """Count the entries of all that the registry remembers."""
    return sum(len(getattr(registry, name)) for name in Registry.__slots__)


class Entry(NamedTuple):
    connection: Ws
    user: str | None
    ip: str | None


class RegistryAgainstModel(RuleBasedStateMachine):
    """The model is a dict of entries that are counted anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.registry: Registry[Ws] = Registry()
        self.model: dict[str, Entry] = {}
        self.reserved: dict[str, Entry] = {}
        self.gone: list[Ws] = []

    @rule(id_=st.sampled_from(IDS), user=st.none() | st.sampled_from(USERS), ip=st.none() | st.sampled_from(IPS))
    def reserve(self, id_: str, user: str | None, ip: str | None) -> None:
        if id_ in self.model or id_ in self.reserved:
            with pytest.raises(ValueError, match="already registered"):
                self.registry.reserve(id_, user=user, ip=ip)
            return
        self.registry.reserve(id_, user=user, ip=ip)
        self.reserved[id_] = Entry(Ws(), user, ip)

    @rule(id_=st.sampled_from(IDS), user=st.none() | st.sampled_from(USERS), ip=st.none() | st.sampled_from(IPS))
    def add(self, id_: str, user: str | None, ip: str | None) -> None:
        entry = self.reserved.pop(id_, None) or Entry(Ws(), user, ip)
        user, ip = entry.user, entry.ip
        if id_ in self.model:
            with pytest.raises(ValueError, match="already registered"):
                self.registry.add(entry.connection, id=id_, user=user, ip=ip)
            return
        self.registry.add(entry.connection, id=id_, user=user, ip=ip)
        self.model[id_] = entry

    @rule(id_=st.sampled_from(IDS))
    def remove(self, id_: str) -> None:
        self.registry.remove(id_)
        self.reserved.pop(id_, None)
        if id_ in self.model:
            self.gone.append(self.model.pop(id_).connection)

    @invariant()
    def agrees(self) -> None:
        entries = list(self.model.values())
        assert list(self.registry) == [entry.connection for entry in entries]
        assert len(self.registry) == len(entries)
        places = [*entries, *self.reserved.values()]
        assert self.registry.count() == len(places)
        for id_ in IDS:
            entry = self.model.get(id_)
            assert self.registry.get(id_) is (None if entry is None else entry.connection)
        for user in USERS:
            theirs = tuple(entry.connection for entry in entries if entry.user == user)
            assert self.registry.by_user(user) == theirs
            assert self.registry.count_user(user) == sum(place.user == user for place in places)
        for ip in IPS:
            assert self.registry.count_ip(ip) == sum(place.ip == ip for place in places)
        assert all(entry.connection in self.registry for entry in entries)
        assert not any(connection in self.registry for connection in self.gone)
        assert places or size_of(self.registry) == 0


def test_agrees_with_a_naive_model_whatever_the_order_of_calls() -> None:
    run_state_machine_as_test(
        RegistryAgainstModel, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )

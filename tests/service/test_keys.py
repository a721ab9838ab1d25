from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from wsconnkit.service.keys import FETCH_WINDOW, MAX_FETCHES, KeyCache
from wsconnkit.service.principal import KeysNeeded, KeysUnavailable

LIFESPAN = 300.0


class Key(NamedTuple):
    """A key as far as the rules look at it."""

    key_id: str | None
    algorithm_name: str = "RS256"


ONE, TWO = Key("one"), Key("two")


def fetched(*keys: Key, at: float = 0.0) -> KeyCache[Key]:
    """Return a cache whose keys were fetched once."""
    cache: KeyCache[Key] = KeyCache(LIFESPAN)
    assert cache.begin_fetch(at)
    cache.put(keys)
    return cache


def needs_keys(cache: KeyCache[Key], kid: str | None, now: float) -> bool:
    try:
        cache.find(kid, "RS256", now)
    except KeysNeeded:
        return True
    return False


def test_before_the_first_fetch_keys_are_needed() -> None:
    cache: KeyCache[Key] = KeyCache(LIFESPAN)
    assert needs_keys(cache, "one", 0.0)


def test_after_a_first_fetch_that_failed_keys_are_unavailable() -> None:
    cache: KeyCache[Key] = KeyCache(LIFESPAN)
    assert cache.begin_fetch(0.0)
    with pytest.raises(KeysUnavailable, match="could not be fetched"):
        cache.find("one", "RS256", 1.0, waited=True)
    assert needs_keys(cache, "one", 1.0)


def test_a_key_is_found_by_its_id_and_algorithm() -> None:
    cache = fetched(ONE, TWO, Key("one", "ES256"))
    assert cache.find("one", "RS256", 1.0) is ONE
    assert cache.find("two", "RS256", 1.0) is TWO
    assert cache.find("one", "ES256", 1.0) == Key("one", "ES256")


def test_of_several_keys_with_one_id_and_algorithm_the_first_is_used() -> None:
    first, second = Key("one"), Key("one")
    assert fetched(first, second).find("one", "RS256", 1.0) is first


def test_an_unknown_id_asks_for_one_fetch_and_then_there_is_no_such_key() -> None:
    cache = fetched(ONE)
    assert needs_keys(cache, "two", 1.0)
    assert cache.begin_fetch(1.0)
    cache.put([ONE])
    assert cache.find("two", "RS256", 1.0, waited=True) is None


def test_an_unknown_id_is_found_when_the_keys_have_been_rotated() -> None:
    cache = fetched(ONE)
    assert cache.begin_fetch(1.0)
    cache.put([TWO])
    assert cache.find("two", "RS256", 1.0, waited=True) is TWO
    assert cache.find("one", "RS256", 1.0, waited=True) is None


def test_a_key_for_another_algorithm_is_no_such_key() -> None:
    assert fetched(ONE).find("one", "ES256", 1.0, waited=True) is None


def test_without_an_id_the_only_key_for_the_algorithm_is_used() -> None:
    assert fetched(ONE, Key("three", "ES256")).find(None, "RS256", 1.0) is ONE
    assert fetched(Key(None)).find(None, "RS256", 1.0) == Key(None)


def test_without_an_id_two_keys_for_the_algorithm_are_one_too_many() -> None:
    cache = fetched(ONE, TWO)
    assert needs_keys(cache, None, 1.0)
    assert cache.find(None, "RS256", 1.0, waited=True) is None


def test_a_key_without_an_id_is_not_the_one_that_a_token_names() -> None:
    assert fetched(Key(None)).find("one", "RS256", 1.0, waited=True) is None


def test_keys_are_needed_again_when_their_lifespan_is_over() -> None:
    cache = fetched(ONE, at=1000.0)
    assert not needs_keys(cache, "one", 1299.9)
    assert needs_keys(cache, "one", 1300.0)


def test_old_keys_are_used_when_no_newer_ones_can_be_had() -> None:
    cache = fetched(ONE)
    assert cache.begin_fetch(5000.0)  # and it fails
    assert cache.find("one", "RS256", 5000.0, waited=True) is ONE
    assert needs_keys(cache, "one", 5000.0)


def test_keys_are_as_old_as_the_beginning_of_their_fetch() -> None:
    cache = fetched(ONE, at=0.0)
    assert cache.begin_fetch(100.0)
    assert needs_keys(cache, "one", 300.0)
    cache.put([ONE])
    assert not needs_keys(cache, "one", 399.9)
    assert needs_keys(cache, "one", 400.0)


def test_a_clock_that_goes_back_makes_no_keys_old() -> None:
    assert not needs_keys(fetched(ONE, at=1000.0), "one", 0.0)


def test_there_are_at_most_5_fetches_a_minute() -> None:
    cache: KeyCache[Key] = KeyCache(LIFESPAN)
    assert (MAX_FETCHES, FETCH_WINDOW) == (5, 60)
    assert [cache.begin_fetch(at) for at in (1000.0, 1000.0, 1010.0, 1020.0, 1030.0, 1059.9)] == [True] * 5 + [False]
    assert [cache.begin_fetch(at) for at in (1060.0, 1060.0, 1069.9)] == [True, True, False]
    assert [cache.begin_fetch(at) for at in (1070.0, 1079.9)] == [True, False]


def test_a_fetch_that_may_not_begin_changes_nothing() -> None:
    cache = fetched(ONE)
    for _ in range(4):
        assert cache.begin_fetch(1.0)
    assert not cache.begin_fetch(5.0)
    cache.put([ONE])
    assert needs_keys(cache, "one", 301.0)


def test_keys_may_come_from_another_thread() -> None:
    cache = fetched(ONE)
    assert cache.begin_fetch(1.0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(cache.put, iter([TWO])).result(10)
    assert cache.find("two", "RS256", 2.0) is TWO


def test_an_unknown_id_is_not_refused_for_good_while_the_keys_may_not_be_fetched() -> None:
    cache = fetched(ONE)
    while cache.begin_fetch(1.0):
        pass
    with pytest.raises(KeysUnavailable, match="so soon"):
        cache.find("new", "RS256", 2.0, waited=True)
    assert cache.find("one", "RS256", 2.0, waited=True) is ONE
    assert cache.begin_fetch(60.0)
    assert cache.find("new", "RS256", 60.0, waited=True) is None

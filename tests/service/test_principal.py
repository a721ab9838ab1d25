from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from operator import delitem, setitem
from typing import Any

import pytest

from wsconnkit.protocol.errors import WsconnkitError
from wsconnkit.service.principal import (
    AuthenticationError,
    AuthFailure,
    KeysNeeded,
    KeysUnavailable,
    Principal,
    TooManyFailures,
)


def test_too_many_failures_say_when_a_token_is_looked_at_again() -> None:
    error = pickle.loads(pickle.dumps(TooManyFailures(5.25)))
    assert isinstance(error, TooManyFailures)
    assert error.retry_after == 5.25
    assert str(error) == "too many tokens from this address were invalid; the next is looked at in 5.25 s"


@pytest.mark.parametrize("failure", AuthFailure)
def test_an_error_tells_peers_only_what_failed_and_keeps_the_detail_for_the_log(failure: AuthFailure) -> None:
    error = AuthenticationError(failure, "InvalidAudienceError")
    assert str(error) == f"the token is {failure.value}"
    assert (error.failure, error.detail) == (failure, "InvalidAudienceError")
    assert AuthenticationError(failure).detail == ""


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(AuthenticationError(AuthFailure.EXPIRED, "why")))
    assert (error.failure, error.detail) == (AuthFailure.EXPIRED, "why")


@pytest.mark.parametrize("error", [AuthenticationError, KeysNeeded, KeysUnavailable])
def test_all_errors_are_the_packages_own(error: type[Exception]) -> None:
    assert issubclass(error, WsconnkitError)


def test_a_principal_needs_no_more_than_a_subject() -> None:
    principal = Principal(subject="alice")
    assert (principal.subject, principal.tier, principal.expires_at, principal.leeway) == ("alice", None, None, 0.0)
    assert principal.claims == {}
    assert principal.valid_until is None


def test_a_principal_is_valid_until_the_leeway_is_over() -> None:
    assert Principal(subject="alice", expires_at=1000.0, leeway=10.0).valid_until == 1010.0
    assert Principal(subject="alice", expires_at=0).valid_until == 0.0


def test_claims_are_a_copy_that_cannot_be_changed() -> None:
    claims = {"sub": "alice", "role": "user"}
    principal = Principal(subject="alice", claims=claims)
    claims["role"] = "admin"
    assert principal.claims["role"] == "user"
    with pytest.raises(TypeError):
        principal.claims["role"] = "admin"  # type: ignore[index]


def test_a_principal_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Principal(subject="alice").tier = "enterprise"  # type: ignore[misc]


def test_claims_are_not_in_the_repr() -> None:
    principal = Principal(subject="alice", tier="free", claims={"email": "alice@example.org"})
    assert "alice@example.org" not in repr(principal)
    assert "subject='alice'" in repr(principal)


def test_principals_are_equal_by_value_and_can_be_keys() -> None:
    first, second = (Principal(subject="alice", claims={"scope": ["read"]}) for _ in range(2))
    assert first == second
    assert len({first, second}) == 1
    assert first != Principal(subject="alice", claims={"scope": ["write"]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"subject": ""}, "subject is ''; it must be a string that is not empty"),
        ({"subject": 7}, "subject is 7; it must be a string that is not empty"),
        ({"tier": 7}, "tier is 7; it must be a string, or None"),
        ({"expires_at": "soon"}, "expires_at is 'soon'; it must be seconds since the epoch, or None"),
        ({"expires_at": float("nan")}, "expires_at is nan; it must be seconds since the epoch, or None"),
        ({"expires_at": float("inf")}, "expires_at is inf; it must be seconds since the epoch, or None"),
        ({"leeway": -1}, "leeway is -1; it must be a finite number of seconds, 0 or more"),
        ({"leeway": None}, "leeway is None; it must be a finite number of seconds, 0 or more"),
        ({"leeway": float("inf")}, "leeway is inf; it must be a finite number of seconds, 0 or more"),
    ],
)
def test_a_bad_value_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="it must be") as caught:
        Principal(**{"subject": "alice", **values})
    assert str(caught.value) == message


def test_a_time_that_no_float_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="expires_at is 1000"):
        Principal(subject="alice", expires_at=10**400)


def test_values_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        Principal("alice")  # type: ignore[call-arg]


def test_claims_stay_read_only_in_each_copy_and_are_json() -> None:
    principal = Principal(subject="ada", claims={"roles": ["a"]})
    changes: list[Callable[[Any], object]] = [
        lambda claims: claims.update(a=1),
        lambda claims: claims.pop("roles"),
        lambda claims: setitem(claims, "a", 1),
        lambda claims: delitem(claims, "roles"),
        lambda claims: claims.__ior__({"a": 1}),
    ]
    for copied in (principal, copy.copy(principal), copy.deepcopy(principal), pickle.loads(pickle.dumps(principal))):
        for change in changes:
            with pytest.raises(TypeError, match="the claims of a token are read-only"):
                change(copied.claims)
        assert json.dumps(dataclasses.asdict(copied)["claims"]) == '{"roles": ["a"]}'
    assert copy.deepcopy(principal).claims["roles"] is not principal.claims["roles"]

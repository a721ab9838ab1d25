from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from math import inf, isfinite, nextafter
from sys import float_info
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsconnkit.machines.deadlines import READ_GRACE
from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.frames import Role
from wsconnkit.service.admission import Admission, AdmissionConfig, Rates
from wsconnkit.service.log import ConnectionLog
from wsconnkit.service.principal import AuthenticationError, AuthFailure, KeysUnavailable, Principal, TooManyFailures
from wsconnkit.service.serverstats import ServerStats
from wsconnkit.service.session import Action, End, Renew, Reply, Session

from .kit import kinds, logged

SETTINGS = settings(deadline=None)
WALL = 1_700_000_000.0
"""What the clock on the wall says at 0.0 of the monotonic one."""
ADA = Principal(subject="ada")
IP = "192.0.2.1"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2ln"


def messages(count: int, period: float = 60.0) -> Rates:
    return Rates(messages=RateLimit(count, period))


def limited(count: int = 1, period: float = 60.0, *, max_violations: int | None = None) -> AdmissionConfig:
    return AdmissionConfig(per_user=messages(count, period), max_violations=max_violations)


def session_of(
    principal: Principal | None = ADA,
    config: AdmissionConfig | None = None,
    *,
    admission: Admission | None = None,
    ip: str | None = IP,
    reauthenticate: bool = False,
    server_stats: ServerStats | None = None,
    now: float = 0.0,
    wall_now: float = WALL,
) -> Session:
    return Session(
        ConnectionLog("c1", user_id=None if principal is None else principal.subject),
        principal,
        ip,
        admission=admission or Admission(config or AdmissionConfig()),
        server_stats=server_stats or ServerStats(),
        reauthenticate=reauthenticate,
        now=now,
        wall_now=wall_now,
    )


def expiring(seconds: float, *, subject: str = "ada", leeway: float = 0.0) -> Principal:
    """Return who has a token that expires so many seconds after 0.0."""
    return Principal(subject=subject, expires_at=WALL + seconds, leeway=leeway)


def auth(payload: object, request_id: object = "1") -> str:
    return json.dumps({"type": "auth", "requestId": request_id, "payload": payload, "timestamp": 0})


def request_of(length: int) -> str:
    """Return a request of so many characters, with the id 7."""
    text = '{"type":"request","requestId":"7","payload":"%s"}'
    return text % ("x" * (length + 2 - len(text)))


def say(session: Session, message: str | bytes, now: float = 0.0) -> Action | None:
    return session.on_message(message, now, WALL + now)


def begin(session: Session, token: str = TOKEN, request_id: str = "1", now: float = 0.0) -> Renew:
    """Send a fresh token."""
    action = say(session, auth({"token": token}, request_id), now)
    assert isinstance(action, Renew)
    return action


def read(action: Action | None) -> dict[str, Any]:
    """Return the envelope that is the answer."""
    assert isinstance(action, Reply)
    envelope = json.loads(action.text)
    assert list(envelope) == ["type", "requestId", "payload", "timestamp"]
    return dict(envelope)


def error_of(action: Action | None) -> tuple[str | None, str, str]:
    """Return the id, the code and the message of an answer that is an error."""
    envelope = read(action)
    assert envelope["type"] == "error"
    return envelope["requestId"], envelope["payload"]["code"], envelope["payload"]["message"]


def look(session: Session, now: float, *, jump: float = 0.0) -> End | None:
    """Let a timer fire at `now`, when the clock on the wall has gone so many seconds further than the other one."""
    return session.handle_timeout(now, WALL + now + jump)


def expire(session: Session, now: float, *, jump: float = 0.0) -> End | None:
    """Let the timer of the expiry fire at `now`, and once more after what it leaves time to read."""
    assert session.handle_timeout(now, WALL + now + jump) is None
    again = session.next_timeout()
    assert again is not None
    assert again == pytest.approx(now + READ_GRACE)
    return look(session, again, jump=jump)


EXPIRED = End(Cause.AUTH_EXPIRED, "token expired")


def test_a_session_is_of_the_principals_subject_or_of_nobody() -> None:
    assert session_of(ADA).user == "ada"
    nobody = session_of(None, ip=None)
    assert (nobody.user, nobody.principal, nobody.ip, nobody.next_timeout()) == (None, None, None, None)


@pytest.mark.parametrize("config", [AdmissionConfig(), limited(1), AdmissionConfig(tiers={"free": messages(1)})])
@pytest.mark.parametrize("reauthenticate", [False, True])
def test_messages_are_looked_at_where_they_are_limited_or_may_bring_a_token(
    config: AdmissionConfig, reauthenticate: bool
) -> None:
    session = session_of(config=config, reauthenticate=reauthenticate)
    assert session.filters_messages is (reauthenticate or config != AdmissionConfig())


@pytest.mark.parametrize("message", ["", "hello", b"", b"\xff", auth({"token": TOKEN}), auth({}), "[" * 100_000])
def test_without_limits_and_renewal_the_application_gets_everything(message: str | bytes) -> None:
    session = session_of()
    assert [say(session, message) for _ in range(10)] == [None] * 10


# Too many messages.


def test_a_message_over_the_rate_is_answered_with_the_seconds_to_wait() -> None:
    server_stats = ServerStats()
    session = session_of(config=limited(2, 60.0), server_stats=server_stats)
    request = json.dumps({"type": "request", "requestId": "7", "payload": {"action": "getData"}})
    assert [say(session, request) for _ in range(2)] == [None, None]
    assert read(say(session, request, 20.0)) == {
        "type": "error",
        "requestId": "7",
        "payload": {"code": "rate_limited", "message": "too many messages", "retryAfter": 10.0},
        "timestamp": (WALL + 20.0) * 1000,
    }
    assert say(session, request, 30.0) is None
    assert server_stats.rate_limited == {"message": 1}


@pytest.mark.parametrize(
    "message",
    [
        "hello",
        b"hello",
        b'{"type": "request", "requestId": "7"}',
        '{"type": "request"}',
        '{"type": "request", "requestId": 7}',
        '{"type": "request", "requestId": ""}',
        json.dumps({"type": "request", "requestId": "7" * 129}),
        '{"type": "response", "requestId": "7"}',
        '{"type": "request", "requestId": "7"',
        '{"requestId": ' + "[" * 50_000,
        request_of(64 * 1024 + 1),
    ],
)
def test_the_answer_to_what_is_no_request_has_no_id(message: str | bytes) -> None:
    session = session_of(config=limited(1))
    say(session, "first")
    assert error_of(say(session, message)) == (None, "rate_limited", "too many messages")


def test_a_request_of_64_ki_characters_is_answered_by_its_id() -> None:
    session = session_of(config=limited(1))
    say(session, "first")
    assert error_of(say(session, request_of(64 * 1024))) == ("7", "rate_limited", "too many messages")


def test_a_fresh_token_over_the_rate_is_answered_by_its_id_so_that_nobody_waits_for_nothing() -> None:
    session = session_of(config=limited(1), reauthenticate=True)
    say(session, "first")
    assert error_of(say(session, auth({"token": TOKEN}, "7"))) == ("7", "rate_limited", "too many messages")


def test_a_flood_is_counted_whole_and_logged_ever_more_rarely() -> None:
    server_stats = ServerStats()
    session = session_of(config=limited(1), server_stats=server_stats)
    with logged() as records:
        for _ in range(1000):
            say(session, "x")
    assert server_stats.rate_limited == {"message": 999}
    assert set(kinds(records)) == {"rate_limited"}
    assert [record.__dict__["violations"] for record in records] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert records[0].__dict__["retry_after"] == pytest.approx(60.0)


def test_pauses_between_floods_make_no_more_lines_of_them() -> None:
    session = session_of(config=limited(1))
    with logged() as records:
        for minute in range(500):
            assert say(session, "x", 60.0 * minute) is None
            assert isinstance(say(session, "x", 60.0 * minute), Reply)
    assert [record.__dict__["violations"] for record in records] == [1, 2, 4, 8, 16, 32, 64, 128, 256]


def test_the_connection_is_closed_with_the_last_violation_that_is_allowed_and_only_once() -> None:
    session = session_of(config=limited(1, max_violations=3))
    actions = [say(session, "x") for _ in range(7)]
    assert actions[0] is None
    assert actions[3] == End(Cause.RATE_LIMIT, "rate limit exceeded")
    assert [isinstance(action, Reply) for action in actions] == [False, True, True, False, True, True, True]


def test_messages_within_the_rate_do_not_count_against_it() -> None:
    session = session_of(config=limited(1, 60.0, max_violations=2))
    assert [say(session, "x", 60.0 * minute) for minute in range(100)] == [None] * 100
    assert isinstance(say(session, "x", 5940.0), Reply)
    assert say(session, "x", 6000.0) is None
    assert isinstance(say(session, "x", 6000.0), End)


def test_one_violation_may_be_one_too_many() -> None:
    session = session_of(config=limited(1, max_violations=1))
    assert [say(session, "x"), say(session, "x")] == [None, End(Cause.RATE_LIMIT, "rate limit exceeded")]


def test_all_connections_of_a_user_share_one_rate_but_not_their_violations() -> None:
    admission = Admission(limited(1, max_violations=2))
    first, second = session_of(admission=admission), session_of(admission=admission)
    assert say(first, "x") is None
    assert isinstance(say(second, "x"), Reply)
    assert isinstance(say(first, "x"), Reply)
    assert isinstance(say(second, "x"), End)


def test_an_address_is_limited_without_a_user_and_a_tier_has_its_own_rate() -> None:
    config = AdmissionConfig(per_ip=messages(3), per_user=messages(1), tiers={"premium": messages(2)})
    nobody = session_of(None, config)
    assert [say(nobody, "x") is None for _ in range(4)] == [True, True, True, False]
    premium = session_of(Principal(subject="ada", tier="premium"), config)
    assert [say(premium, "x") is None for _ in range(3)] == [True, True, False]
    from_nowhere = session_of(None, config, ip=None)
    assert [say(from_nowhere, "x") for _ in range(100)] == [None] * 100


rates = st.builds(RateLimit, st.integers(1, 1000), st.sampled_from([0.5, 1.0, 60.0, 3600.0]))


@SETTINGS
@given(rates, st.floats(0.0, 1.0))
@example(RateLimit(1000, 60.0), 0.0296)
def test_who_waits_as_long_as_is_told_is_not_refused_again(rate: RateLimit, at: float) -> None:
    session = session_of(config=AdmissionConfig(per_user=Rates(messages=rate)))
    for now in (0.0, at):
        while (action := say(session, "x", now)) is None:
            pass
    wait = read(action)["payload"]["retryAfter"]
    assert say(session, "x", at + wait) is None


def test_the_seconds_to_wait_are_rounded_up_to_milliseconds() -> None:
    session = session_of(config=limited(1000, 60.0))
    for _ in range(1000):
        say(session, "x")
    assert read(say(session, "x", 0.0296))["payload"]["retryAfter"] == 0.031


# Fresh tokens.


def test_a_fresh_token_is_to_be_verified_and_not_for_the_application() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    assert say(session, auth({"token": TOKEN}, "7")) == Renew(TOKEN, "7")


@pytest.mark.parametrize("request_id", [None, 7, "", "7" * 129])
def test_a_fresh_token_needs_no_request_id(request_id: object) -> None:
    session = session_of(reauthenticate=True)
    assert say(session, auth({"token": TOKEN}, request_id)) == Renew(TOKEN, None)


@pytest.mark.parametrize(
    "message",
    [
        "auth",
        '"auth"',
        auth({"token": TOKEN}).encode(),
        auth({"token": TOKEN})[:-1],
        json.dumps([{"type": "auth"}]),
        json.dumps({"type": "request", "requestId": "7", "payload": {"action": "auth"}}),
        json.dumps({"type": "Auth", "payload": {"token": TOKEN}, "x": "auth"}),
        json.dumps({"type": ["auth"]}),
        '{"type": "auth", "payload": ' + "[" * 100_000,
        '{"type": "auth", "payload": NaN}',
        auth({"token": "x" * 64 * 1024}),
    ],
)
def test_what_is_no_message_of_type_auth_is_for_the_application(message: str | bytes) -> None:
    assert say(session_of(reauthenticate=True), message) is None


@pytest.mark.parametrize(
    "payload",
    [None, "", TOKEN, [], [TOKEN], {}, {"token": None}, {"token": ""}, {"token": "  "}, {"token": 7}, {"Token": TOKEN}],
)
def test_a_message_of_type_auth_without_a_token_is_answered_with_what_is_missing(payload: object) -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    with logged() as records:
        assert error_of(say(session, auth(payload, "7"))) == ("7", "auth_failed", "missing")
    assert kinds(records) == ["auth_failed"]
    assert session.next_timeout() == 10.0
    begin(session)


def test_one_fresh_token_is_verified_at_a_time() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    first = begin(session, "first-token", "1")
    busy = error_of(say(session, auth({"token": "second-token"}, "2")))
    assert busy == ("2", "auth_busy", "another token is being verified")
    session.renewed(expiring(20.0), first.request_id, 1.0, WALL + 1.0)
    assert begin(session, "third-token", "3") == Renew("third-token", "3")
    session.not_renewed(AuthenticationError(AuthFailure.EXPIRED), "3", WALL)
    assert begin(session, "fourth-token", "4") == Renew("fourth-token", "4")
    session.renewed(expiring(20.0, subject="eve"), "4", 1.0, WALL + 1.0)
    assert begin(session, "fifth-token", "5") == Renew("fifth-token", "5")


def test_a_message_without_a_token_leaves_alone_the_verification_of_the_one_before() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session, "first-token", now=9.0)
    assert error_of(say(session, auth({}, "2"), 9.0)) == ("2", "auth_failed", "missing")
    assert error_of(say(session, auth({"token": "second-token"}, "3"), 9.0))[1] == "auth_busy"
    assert expire(session, 10.0) is None
    session.renewed(expiring(60.0), "1", 11.0, WALL + 11.0)
    assert session.next_timeout() == 60.0


def test_a_connection_may_bring_5_tokens_at_once_and_5_in_a_minute() -> None:
    session = session_of(reauthenticate=True)
    for number in range(5):
        begin(session, now=3.0)
        session.not_renewed(AuthenticationError(AuthFailure.INVALID), str(number), WALL)
    with logged() as records:
        replies = [read(say(session, auth({"token": TOKEN}, "7"), now)) for now in (3.0, 10.0, 14.9875)]
    assert [reply["requestId"] for reply in replies] == ["7"] * 3
    assert [reply["payload"] for reply in replies] == [
        {"code": "rate_limited", "message": "too many tokens", "retryAfter": seconds} for seconds in (12.0, 5.0, 0.013)
    ]
    assert records == []
    begin(session, now=15.0)


@pytest.mark.parametrize("payload", [{}, {"token": ""}, {"token": "another"}])
def test_messages_of_type_auth_count_whatever_comes_of_them(payload: object) -> None:
    session = session_of(reauthenticate=True)
    begin(session)
    codes = [error_of(say(session, auth(payload)))[1] for _ in range(10)]
    assert "rate_limited" not in codes[:4]
    assert codes[4:] == ["rate_limited"] * 6


def test_too_many_tokens_are_no_violation_and_other_messages_are_no_tokens() -> None:
    session = session_of(config=limited(1000, max_violations=1), reauthenticate=True)
    assert [say(session, '{"type": "request", "payload": "\\"auth\\""}') for _ in range(100)] == [None] * 100
    assert [error_of(say(session, auth({})))[1] for _ in range(100)] == ["auth_failed"] * 5 + ["rate_limited"] * 95


def test_each_connection_may_bring_tokens_of_its_own() -> None:
    admission = Admission(AdmissionConfig())
    for _ in range(3):
        session = session_of(admission=admission, reauthenticate=True)
        assert [error_of(say(session, auth({})))[1] for _ in range(6)] == ["auth_failed"] * 5 + ["rate_limited"]


def test_a_verified_token_takes_the_place_of_the_one_before_and_its_expiry_is_told_in_milliseconds() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session, now=5.0)
    fresh = expiring(100.0, leeway=3.0)
    with logged() as records:
        reply = session.renewed(fresh, "7", 6.0, WALL + 6.0)
    assert read(reply) == {
        "type": "response",
        "requestId": "7",
        "payload": {"expiresAt": (WALL + 100.0) * 1000},
        "timestamp": (WALL + 6.0) * 1000,
    }
    assert session.principal is fresh
    assert expire(session, 102.0) is None
    assert session.next_timeout() == 103.0
    assert kinds(records) == ["auth_renewed"]


def test_a_token_without_an_expiry_is_the_last_that_is_needed() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session)
    assert read(session.renewed(ADA, "7", 1.0, WALL + 1.0))["payload"] == {"expiresAt": None}
    assert session.next_timeout() is None
    assert look(session, 1e9) is None


def test_a_fresh_token_may_expire_sooner_than_the_one_before() -> None:
    session = session_of(expiring(100.0), reauthenticate=True)
    begin(session)
    session.renewed(expiring(10.0), "7", 1.0, WALL + 1.0)
    assert session.next_timeout() == 10.0


@pytest.mark.parametrize(
    ("expires_at", "told"),
    [
        (float_info.max, 253402300799000),
        (10**300, 253402300799000),
        (253402300800.0, 253402300799000),
        (253402300798.0, 253402300798000),
        (1700000100.0019999, 1700000100002),
        (1700000100, 1700000100000),
        (-1e12, -253402300799000),
    ],
)
def test_an_expiry_is_told_in_whole_milliseconds_and_never_beyond_the_year_9999(expires_at: float, told: int) -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session)
    fresh = Principal(subject="ada", expires_at=expires_at, leeway=float_info.max)
    assert read(session.renewed(fresh, "7", 1.0, WALL + 1.0))["payload"] == {"expiresAt": told}


def test_a_token_that_expired_as_early_as_a_principal_may_is_answered() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session)
    never = Principal(subject="ada", expires_at=-float_info.max)
    assert read(session.renewed(never, "7", 1.0, WALL + 1.0))["type"] == "response"


def test_a_token_that_is_longer_than_a_header_may_be_is_not_verified() -> None:
    session = session_of(reauthenticate=True)
    assert error_of(say(session, auth({"token": "x" * 8193}, "7"))) == ("7", "auth_failed", "invalid")
    assert isinstance(say(session, auth({"token": "x" * 8192}, "8")), Renew)


def test_a_fresh_token_can_change_the_tier() -> None:
    config = AdmissionConfig(per_user=messages(2), tiers={"premium": messages(4)})
    session = session_of(config=config, reauthenticate=True)
    begin(session)
    session.renewed(replace(ADA, tier="premium"), "1", 0.0, WALL)
    assert [say(session, "x") is None for _ in range(5)] == [True, True, True, True, False]


def test_the_token_of_another_subject_is_refused_and_the_one_before_goes_on() -> None:
    before = expiring(10.0)
    session = session_of(before, reauthenticate=True)
    begin(session)
    with logged() as records:
        reply = session.renewed(expiring(100.0, subject="eve"), "7", 1.0, WALL + 1.0)
    assert error_of(reply) == ("7", "auth_failed", "invalid")
    assert session.principal is before
    assert session.user == "ada"
    assert session.next_timeout() == 10.0
    assert kinds(records) == ["auth_failed"]
    assert records[0].__dict__["detail"] == "another subject"


@pytest.mark.parametrize("failure", AuthFailure)
def test_a_token_that_is_no_good_is_answered_and_logged_and_the_one_before_goes_on(failure: AuthFailure) -> None:
    before = expiring(10.0)
    session = session_of(before, reauthenticate=True)
    begin(session)
    with logged() as records:
        reply = session.not_renewed(AuthenticationError(failure, "of what is wrong"), "7", WALL + 1.0)
    assert error_of(reply) == ("7", "auth_failed", failure.value)
    assert "of what is wrong" not in reply.text
    assert (session.principal, session.next_timeout()) == (before, 10.0)
    assert kinds(records) == ["auth_failed"]
    assert (records[0].__dict__["reason"], records[0].__dict__["detail"]) == (failure.value, "of what is wrong")


def test_a_fresh_token_that_was_not_looked_at_is_answered_with_when_one_will_be() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session)
    with logged() as records:
        reply = session.not_renewed(TooManyFailures(5.25), "7", WALL)
    payload = json.loads(reply.text)["payload"]
    assert payload == {"code": "rate_limited", "message": "too many invalid tokens", "retryAfter": 5.25}
    assert records == []  # of which the log knows
    assert session.next_timeout() == 10.0
    begin(session)


@pytest.mark.parametrize("error", [OSError("no database"), TypeError()])
def test_a_token_that_nobody_could_verify_is_answered_without_saying_why_and_logged(error: Exception) -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session)
    with logged() as records:
        reply = session.not_renewed(error, "7", WALL + 1.0)
    assert error_of(reply) == ("7", "auth_unavailable", "the token could not be verified")
    assert session.next_timeout() == 10.0
    assert kinds(records) == ["auth_error"]
    assert records[0].exc_info is not None
    assert records[0].exc_info[1] is error


def test_a_token_without_keys_to_verify_it_is_no_error_of_this_connection() -> None:
    # Whoever could not fetch them has logged that, once and not for each connection.
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session)
    with logged() as records:
        reply = session.not_renewed(KeysUnavailable("no keys"), "7", WALL + 1.0)
    assert error_of(reply) == ("7", "auth_unavailable", "the token could not be verified")
    assert records == []
    assert session.next_timeout() == 10.0
    begin(session)


def test_a_fresh_token_is_in_no_line_from_the_moment_it_came() -> None:
    session = session_of(reauthenticate=True)
    begin(session)
    with logged() as records:
        session.not_renewed(ValueError(f"cannot read {TOKEN}"), "7", WALL)
        session.log.request_error(f"of {TOKEN}", KeyError(TOKEN))
    for record in records:
        assert TOKEN not in logging.Formatter().format(record) + repr(record.__dict__)


def test_the_details_of_a_failure_are_told_without_the_token() -> None:
    session = session_of(reauthenticate=True)
    begin(session)
    with logged() as records:
        session.not_renewed(AuthenticationError(AuthFailure.INVALID, f"cannot read {TOKEN}"), "7", WALL)
    assert records[0].__dict__["detail"] == "cannot read ***"


def test_a_token_that_is_not_verified_because_another_one_is_is_in_no_line_either() -> None:
    session = session_of(reauthenticate=True)
    begin(session, "first-token")
    say(session, auth({"token": TOKEN}))
    with logged() as records:
        session.log.handler_error(KeyError(TOKEN))
    assert records[0].getMessage().endswith("KeyError: '***'")


def test_a_token_to_verify_is_not_in_the_repr() -> None:
    assert repr(begin(session_of(reauthenticate=True), request_id="7")) == "Renew(request_id='7')"


def test_fresh_tokens_count_as_messages_do() -> None:
    session = session_of(config=limited(2, max_violations=2), reauthenticate=True)
    begin(session)
    session.renewed(ADA, "1", 0.0, WALL)
    begin(session)
    session.renewed(ADA, "2", 0.0, WALL)
    assert isinstance(say(session, auth({"token": TOKEN})), Reply)
    assert isinstance(say(session, auth({"token": TOKEN})), End)


def test_in_between_the_application_gets_its_messages() -> None:
    session = session_of(reauthenticate=True)
    begin(session)
    assert [say(session, "x"), say(session, b"x"), say(session, '{"type": "request"}')] == [None] * 3


# The expiry.


def test_a_connection_is_closed_when_its_token_has_expired_and_not_a_moment_before() -> None:
    session = session_of(expiring(10.0, leeway=2.5))
    assert session.next_timeout() == session.next_timeout() == 12.5
    assert [look(session, now) for now in (0.0, 10.0, 12.4999)] == [None] * 3
    assert session.next_timeout() == 12.5
    assert expire(session, 12.5) == EXPIRED


def test_a_late_timer_still_closes_and_none_closes_twice() -> None:
    session = session_of(expiring(10.0))
    assert expire(session, 1000.0) == EXPIRED
    assert session.next_timeout() is None
    assert look(session, 1001.0) is None


def test_a_timer_that_fires_again_too_early_changes_nothing() -> None:
    session = session_of(expiring(10.0))
    assert [look(session, now) for now in (10.0, 10.0, 10.005, 9.0)] == [None] * 4
    assert session.next_timeout() == 10.0 + READ_GRACE
    assert look(session, 10.0 + READ_GRACE) == EXPIRED


def test_a_token_that_expired_on_the_way_is_due_at_once() -> None:
    session = session_of(expiring(-1.0), now=0.0)
    assert session.next_timeout() == -1.0
    assert expire(session, 0.0) == EXPIRED


def test_a_fresh_token_that_has_expired_meanwhile_is_due_at_once() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session)
    session.renewed(expiring(4.0), "1", 5.0, WALL + 5.0)
    assert expire(session, 5.0) == EXPIRED


def test_a_fresh_token_that_lay_in_the_socket_when_the_timer_fired_late_is_read_first() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    assert look(session, 15.0) is None
    begin(session, now=15.0)
    assert look(session, 15.0 + READ_GRACE) is None
    session.renewed(expiring(60.0), "1", 15.5, WALL + 15.5)
    assert session.next_timeout() == 60.0


def test_a_fresh_token_that_is_read_and_verified_at_once_saves_a_connection_however_late_the_timer_was() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    assert look(session, 1000.0) is None
    begin(session, now=1000.0)
    session.renewed(expiring(1050.0), "1", 1000.0, WALL + 1000.0)
    assert look(session, 1000.0 + READ_GRACE) is None
    assert session.next_timeout() == 1050.0


def test_a_token_that_came_in_time_may_be_verified_however_late_the_timer_was() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    assert look(session, 1000.0) is None
    begin(session, now=1000.0)
    assert look(session, 1000.0 + READ_GRACE) is None


def test_a_fresh_token_may_be_verified_until_10_seconds_after_the_expiry_of_the_one_before() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session, now=9.0)
    assert expire(session, 10.0) is None
    assert session.next_timeout() == pytest.approx(20.0 + READ_GRACE)
    assert look(session, 19.9) is None
    assert expire(session, 20.0 + READ_GRACE) == EXPIRED
    assert session.next_timeout() is None


def test_a_fresh_token_that_is_good_in_the_end_saves_the_connection() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session, now=9.0)
    assert expire(session, 10.0) is None
    session.renewed(expiring(60.0), "1", 19.0, WALL + 19.0)
    assert session.next_timeout() == 60.0
    assert expire(session, 60.0) == EXPIRED


@pytest.mark.parametrize("error", [AuthenticationError(AuthFailure.EXPIRED), KeysUnavailable(), OSError()])
def test_a_fresh_token_that_is_no_good_in_the_end_leaves_the_expiry_where_it_was(error: Exception) -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session, now=9.0)
    assert expire(session, 10.0) is None
    session.not_renewed(error, "1", WALL + 12.0)
    assert session.next_timeout() == 10.0
    assert expire(session, 12.0) == EXPIRED


def test_one_bad_token_after_the_other_does_not_keep_a_connection_open() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session, now=9.0)
    assert expire(session, 10.0) is None
    session.not_renewed(AuthenticationError(AuthFailure.INVALID), "1", WALL + 19.0)
    begin(session, now=19.0)
    assert expire(session, 19.0) is None
    assert session.next_timeout() == pytest.approx(20.0 + READ_GRACE)
    session.not_renewed(AuthenticationError(AuthFailure.INVALID), "1", WALL + 21.0)
    begin(session, now=21.0)
    assert expire(session, 21.0) == EXPIRED


@pytest.mark.parametrize("jump", [-1e9, -3600.0, -1.0, 0.9])
def test_a_clock_on_the_wall_that_is_set_back_makes_no_token_live_longer(jump: float) -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    assert session.on_message("x", 5.0, WALL + 5.0 + jump) is None
    session.not_renewed(AuthenticationError(AuthFailure.INVALID), "1", WALL + 5.0 + jump)
    assert look(session, 9.0, jump=jump) is None
    assert session.next_timeout() == 10.0
    assert expire(session, 10.0, jump=jump) == EXPIRED


def test_a_clock_on_the_wall_that_is_set_forward_is_noticed_within_a_minute() -> None:
    session = session_of(expiring(7200.0))
    assert session.next_timeout() == 60.0
    assert expire(session, 60.0) is None
    assert session.next_timeout() == pytest.approx(120.0 + READ_GRACE)
    assert expire(session, 130.0, jump=7100.0) == EXPIRED
    assert session.next_timeout() is None


@pytest.mark.parametrize("jump", [1.5, 3600.0, 7100.0])
def test_a_token_expires_by_the_clock_that_goes_further(jump: float) -> None:
    # The monotonic clock of Linux stands still while the system is suspended.
    session = session_of(expiring(7200.0))
    assert look(session, 60.0, jump=jump) is None
    assert look(session, 7200.0 - jump - 0.1, jump=jump) is None
    assert expire(session, 7200.0 - jump, jump=jump) == EXPIRED


@pytest.mark.parametrize("back", [0.0, -3600.0])
def test_a_clock_on_the_wall_that_was_ahead_for_a_while_ends_nothing_early(back: float) -> None:
    session = session_of(expiring(7200.0))
    assert look(session, 60.0, jump=3600.0) is None
    assert look(session, 130.0, jump=back) is None
    assert expire(session, 3600.0, jump=back) is None
    assert expire(session, 7200.0, jump=back) == EXPIRED


def test_a_fresh_token_that_lay_in_the_socket_after_a_suspend_is_read_first() -> None:
    session = session_of(expiring(7200.0), reauthenticate=True)
    assert look(session, 60.0, jump=10_000.0) is None
    begin(session, now=60.0)
    assert look(session, 60.0 + READ_GRACE, jump=10_000.0) is None
    reply = session.renewed(expiring(11_000.0), "1", 61.0, WALL + 10_061.0)
    assert read(reply)["type"] == "response"
    assert session.next_timeout() == 121.0
    assert expire(session, 121.0, jump=10_000.0) is None


def test_the_clock_on_the_wall_has_no_say_while_a_fresh_token_is_verified() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session, now=9.0)
    assert expire(session, 10.0) is None
    assert look(session, 11.0, jump=3600.0) is None
    assert session.next_timeout() == pytest.approx(20.0 + READ_GRACE)
    assert expire(session, 20.0 + READ_GRACE, jump=3600.0) == EXPIRED


def test_the_next_token_goes_by_the_clock_on_the_wall_as_it_then_is() -> None:
    session = session_of(expiring(10.0), reauthenticate=True)
    begin(session)
    session.renewed(expiring(3600.0 + 50.0), "1", 5.0, WALL + 3600.0)
    assert session.next_timeout() == 55.0


def test_a_token_for_ever_has_a_time_that_timers_can_express() -> None:
    forever = Principal(subject="ada", expires_at=float_info.max, leeway=float_info.max)
    assert forever.valid_until == inf
    session = session_of(forever, now=5.0)
    assert session.next_timeout() == 65.0
    assert expire(session, 9 * 365 * 86400.0) is None
    assert expire(session, 11 * 365 * 86400.0) == EXPIRED


finite = st.floats(allow_nan=False, allow_infinity=False)


@SETTINGS
@given(finite, st.floats(0.0, float_info.max), st.floats(0.0, 1e9), st.floats(-1e12, 1e12))
def test_whatever_the_clocks_say_a_deadline_is_finite_and_closes_once_it_is_there(
    expires_at: float, leeway: float, now: float, wall_now: float
) -> None:
    principal = Principal(subject="ada", expires_at=expires_at, leeway=leeway)
    session = session_of(principal, now=now, wall_now=wall_now)
    deadline = session.next_timeout()
    assert deadline is not None
    assert isfinite(deadline)
    if deadline > now:
        early = nextafter(deadline, now)
        assert session.handle_timeout(early, wall_now + early - now) is None
        assert session.next_timeout() == deadline
    due = now + 11 * 365 * 86400.0  # longer than any token holds
    assert expire(session, due) == EXPIRED
    assert session.next_timeout() is None
    assert look(session, due + 1.0) is None


class Renewals:
    """A session whose timers fire on time, beside what must hold for it."""

    def __init__(self) -> None:
        self.session = session_of(expiring(10.0), reauthenticate=True)
        self.now = 0.0
        self.ended_at: float | None = None
        self.valid_until = 10.0
        self.verifying = False
        self.refused_at = 0.0

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.session.next_timeout()) is not None and at <= until and self.ended_at is None:
            self.now = max(self.now, at)
            if look(self.session, self.now) is not None:
                self.ended_at = self.now
            after = self.session.next_timeout()
            assert after is None or after > self.now
        self.now = until

    def bring(self, seconds: float) -> None:
        """Wait, and bring a token."""
        self.wait(seconds)
        if self.ended_at is None:
            self.verifying |= isinstance(say(self.session, auth({"token": TOKEN}), self.now), Renew)

    def renew(self, seconds: float) -> None:
        """Find the token good for some seconds."""
        if self.verifying and self.ended_at is None:
            self.session.renewed(expiring(self.now + seconds), "1", self.now, WALL + self.now)
            self.verifying, self.valid_until = False, self.now + seconds

    def refuse(self, _: float) -> None:
        """Find the token no good."""
        if self.verifying and self.ended_at is None:
            self.session.not_renewed(AuthenticationError(AuthFailure.INVALID), "1", WALL + self.now)
            self.verifying, self.refused_at = False, self.now


@SETTINGS
@given(
    st.lists(
        st.tuples(
            st.sampled_from([Renewals.wait, Renewals.bring, Renewals.renew, Renewals.refuse]),
            st.sampled_from([0.0, 0.005, 0.5, 3.0, 9.99, 10.0, 25.0]),
        ),
        max_size=20,
    )
)
def test_a_connection_ends_with_its_token_and_only_a_verification_puts_that_off(
    steps: list[tuple[Callable[[Renewals, float], None], float]],
) -> None:
    renewals = Renewals()
    for step, seconds in steps:
        step(renewals, seconds)
        if renewals.ended_at is None:
            at_last = renewals.valid_until + 10.0 if renewals.verifying else renewals.valid_until
            assert renewals.now < max(at_last, renewals.refused_at) + 2 * READ_GRACE
        else:
            first = renewals.valid_until + 10.0 if renewals.verifying else renewals.valid_until
            assert renewals.ended_at >= first


# What peers send.

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(TOKEN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["token", "x"]), inner, max_size=2),
    max_leaves=5,
)
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["auth", "request", "response"]) | values,
        "requestId": st.text(max_size=5) | values,
        "payload": values,
    },
).map(json.dumps)


@SETTINGS
@given(
    st.lists(
        st.tuples(st.text() | st.binary() | envelopes, st.sampled_from([0.0, 1.0, 30.0]), st.integers(0, 4)),
        max_size=12,
    ),
    st.none() | st.integers(1, 3),
)
def test_whatever_is_sent_is_answered_passed_on_or_ends_the_connection(
    sent: list[tuple[str | bytes, float, int]], max_violations: int | None
) -> None:
    server_stats = ServerStats()
    session = session_of(
        config=limited(3, 60.0, max_violations=max_violations), reauthenticate=True, server_stats=server_stats
    )
    now = 0.0
    ends = 0
    verifying = False
    results: list[Callable[[str | None], Reply]] = [
        lambda request_id: session.renewed(expiring(1e6), request_id, now, WALL + now),
        lambda request_id: session.renewed(expiring(1e6, subject="eve"), request_id, now, WALL + now),
        lambda request_id: session.not_renewed(AuthenticationError(AuthFailure.EXPIRED), request_id, WALL + now),
        lambda request_id: session.not_renewed(OSError(), request_id, WALL + now),
    ]
    for message, later, result in sent:
        now += later
        action = say(session, message, now)
        if isinstance(action, Renew):
            assert action.token
            assert not verifying
            verifying = result == len(results)  # or it is done at once
            action = None if verifying else results[result](action.request_id)
        if isinstance(action, Reply):
            assert read(action)["type"] in ("error", "response")
            assert action.text.isascii()
        ends += isinstance(action, End)
    assert ends == (max_violations is not None and server_stats.rate_limited["message"] >= max_violations)
    assert session.user == "ada"


# What is counted.


def test_events_and_the_end_are_counted() -> None:
    server_stats = ServerStats()
    session = session_of(server_stats=server_stats)
    client = ConnectionProtocol(Role.CLIENT, now=0.0)
    server = ConnectionProtocol(Role.SERVER, now=0.0)
    server.ping(b"1", 0.0)
    client.receive_data(server.data_to_send(), 0.0)
    assert len([*client.events()]) == 1
    client.send("hello", 0.0)
    client.close(1000, "", 0.0)
    server.receive_data(client.data_to_send(), 0.25)
    events = [*server.events()]
    server.receive_eof(0.5)
    events += server.events()
    for event in events:
        session.on_event(event, server.stats)
    assert session.server_stats is server_stats
    assert server_stats.closed == {(Cause.PEER_CLOSE, "1000"): 1}
    assert server_stats.ended.messages_received == 1
    assert server_stats.latencies.total == 0.25

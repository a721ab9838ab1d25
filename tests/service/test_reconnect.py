from __future__ import annotations

import logging
from email.utils import formatdate
from ssl import SSLCertVerificationError, SSLError
from time import gmtime, strftime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsconnkit.machines.backoff import BackoffConfig
from wsconnkit.machines.closing import State
from wsconnkit.protocol.closeinfo import Cause, CloseFrame, CloseInfo, Initiator
from wsconnkit.protocol.errors import (
    ConnectionClosed,
    HandshakeInterrupted,
    InvalidHandshake,
    InvalidStatus,
    LocalProtocolError,
    ProxyRefused,
    connection_closed,
)
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.service.reconnect import Opened, Reconnect, ReconnectEvent, Retrying, Stopped, retry_after

WALL = 1_700_000_000.0
SECRET = "s3cr3t-token"


def closed(code: int, initiator: Initiator = Initiator.PEER, reason: str = "") -> ConnectionClosed:
    frame = None if code == 1006 else CloseFrame(code, reason)
    return connection_closed(
        CloseInfo(
            cause=Cause.PEER_CLOSE if initiator is Initiator.PEER else Cause.LOCAL_CLOSE,
            initiator=initiator,
            phase=State.CLOSE_EXCHANGED,
            sent=frame,
            rcvd=frame,
            rcvd_then_sent=None if frame is None else initiator is Initiator.PEER,
            error=None,
            last_byte_in_age=0.0,
            last_byte_out_age=0.0,
        )
    )


def refused(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> InvalidStatus:
    return InvalidStatus(Response(status, Headers(headers or {}), body))


def reconnect(config: BackoffConfig | None = None, **kwargs: Any) -> Reconnect:
    return Reconnect(config or BackoffConfig(), where="ws://example.org/", **kwargs)


def ended(policy: Reconnect, error: Exception, now: float = 0.0, jitter: float = 0.5, **kwargs: Any) -> Any:
    return policy.on_end(error, now, jitter=jitter, wall_now=WALL, **kwargs)


NEVER: list[Exception] = [
    *(closed(code) for code in (1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003, 3999, 4000, 4999)),
    *(refused(status) for status in (200, 301, 302, 400, 401, 403, 404, 405, 410, 426, 501, 505)),
    *(ProxyRefused(Response(status)) for status in (400, 401, 403, 407)),
    SSLCertVerificationError("certificate has expired"),
    InvalidHandshake("the server's response breaks the protocol"),
    LocalProtocolError("no"),
    ValueError("no"),
]
AGAIN: list[Exception] = [
    *(closed(code) for code in (1001, 1005, 1006, 1011, 1014, 3008)),
    *(refused(status) for status in (408, 425, 429, 500, 502, 503, 504, 522, 599, 600, 999)),
    *(ProxyRefused(Response(status)) for status in (502, 503, 504)),
    HandshakeInterrupted("EOF"),
    TimeoutError("no connection within 10 s"),
    ConnectionRefusedError(111, "refused"),
    OSError("Name or service not known"),
    SSLError("handshake failure"),
]


@pytest.mark.parametrize("error", NEVER, ids=str)
def test_what_can_never_work_stops_at_once(error: Exception) -> None:
    assert ended(reconnect(), error) == Stopped(attempts=1, error=error)


@pytest.mark.parametrize("error", AGAIN, ids=str)
def test_what_may_work_later_is_tried_again_after_a_random_part_of_the_window(error: Exception) -> None:
    assert ended(reconnect(), error) == Retrying(attempt=2, delay=1.0, refresh=False, error=error)
    assert ended(reconnect(), error, jitter=0.0).delay == 0.0


@pytest.mark.parametrize("initiator", [Initiator.PEER, Initiator.LOCAL])
def test_a_close_with_1000_by_either_side_is_the_end_and_no_error(initiator: Initiator) -> None:
    assert ended(reconnect(), closed(1000, initiator)) == Stopped(attempts=1, error=None)


@pytest.mark.parametrize("code", [1012, 1013])
def test_after_a_restart_or_overload_clients_come_back_spread_over_5_to_30_seconds(code: int) -> None:
    assert [ended(reconnect(), closed(code), jitter=jitter).delay for jitter in (0.0, 0.5, 1.0)] == [5.0, 17.5, 30.0]


def test_the_spread_of_a_restart_does_not_shrink_a_wider_window() -> None:
    policy = reconnect(BackoffConfig(cap=60.0))
    waits = [ended(policy, closed(1012), jitter=1.0).delay for _ in range(6)]
    assert waits == [30.0, 30.0, 30.0, 30.0, 37.0, 65.0]


@pytest.mark.parametrize("error", [refused(503, {"Retry-After": "20"}), refused(429, {"Retry-After": "20"})], ids=str)
def test_retry_after_is_waited_for_and_the_window_comes_on_top(error: Exception) -> None:
    assert [ended(reconnect(), error, jitter=jitter).delay for jitter in (0.0, 0.5)] == [20.0, 21.0]


def test_retry_after_of_a_proxy_counts_too() -> None:
    error = ProxyRefused(Response(503, Headers({"Retry-After": "20"})))
    assert ended(reconnect(), error, jitter=0.0).delay == 20.0


def test_it_gives_up_after_the_attempts_that_it_has_with_the_last_error() -> None:
    policy = reconnect(BackoffConfig(max_attempts=3))
    errors = [OSError(str(n)) for n in range(3)]
    steps = [ended(policy, error) for error in errors]
    assert [step.attempt for step in steps[:2]] == [2, 3]
    assert steps[2] == Stopped(attempts=3, error=errors[2])


def test_attempts_are_made_without_end_and_each_is_told() -> None:
    events: list[ReconnectEvent] = []
    policy = reconnect(on_event=events.append)
    steps = [ended(policy, OSError()) for _ in range(1000)]
    assert [step.attempt for step in steps] == list(range(2, 1002))
    assert events == steps


def test_as_many_attempts_are_made_in_a_row_as_there_may_be() -> None:
    policy = reconnect(BackoffConfig(max_attempts=10))
    steps = [ended(policy, OSError()) for _ in range(10)]
    assert [type(step) for step in steps] == [Retrying] * 9 + [Stopped]
    assert steps[-1].attempts == 10


@pytest.mark.parametrize("error", [refused(403), SSLCertVerificationError("certificate has expired")], ids=str)
def test_what_can_never_work_stops_a_client_without_a_limit_too(error: Exception) -> None:
    policy = reconnect()
    for _ in range(100):
        ended(policy, OSError())
    assert ended(policy, error) == Stopped(attempts=101, error=error)


def test_a_connection_that_lasted_starts_the_count_again() -> None:
    policy = reconnect()
    for _ in range(5):
        ended(policy, OSError())
    assert policy.on_open(100.0) == Opened(attempts=6)
    assert ended(policy, closed(1006), now=130.0).attempt == 1


def test_only_the_time_until_its_end_counts_for_a_connection() -> None:
    policy = reconnect()
    ended(policy, OSError())
    policy.on_open(100.0)
    policy.on_close(101.0)
    assert ended(policy, closed(1006), now=200.0).attempt == 3


def test_a_server_that_accepts_and_drops_is_not_hammered() -> None:
    policy = reconnect()
    delays = []
    for second in range(5):
        policy.on_open(float(second))
        delays.append(ended(policy, closed(1006), now=float(second)).delay)
    assert delays == [1.0, 2.0, 4.0, 8.0, 15.0]


@pytest.mark.parametrize("error", [refused(401), closed(1008), closed(3000)], ids=str)
def test_a_refused_token_is_refreshed_where_that_is_possible(error: Exception) -> None:
    assert ended(reconnect(can_refresh=True), error) == Retrying(attempt=2, delay=1.0, refresh=True, error=error)


def test_a_fresh_token_that_is_refused_too_is_the_end() -> None:
    policy = reconnect(can_refresh=True)
    assert ended(policy, refused(401)).refresh
    assert ended(policy, OSError()).refresh is False
    policy = reconnect(can_refresh=True)
    assert ended(policy, refused(401)).refresh
    error = refused(401)
    assert ended(policy, error) == Stopped(attempts=2, error=error)


def test_a_token_is_refreshed_also_after_failures_of_another_kind() -> None:
    policy = reconnect(can_refresh=True)
    for _ in range(2):
        ended(policy, OSError())
        assert ended(policy, refused(401)).refresh


def test_a_fresh_token_that_was_accepted_can_expire_in_its_turn() -> None:
    policy = reconnect(BackoffConfig(max_attempts=4), can_refresh=True)
    for _ in range(3):
        assert ended(policy, closed(1008)).refresh
        policy.on_open(0.0)
    assert isinstance(ended(policy, closed(1008)), Stopped)


@pytest.mark.parametrize("error", [refused(403), closed(3003), ProxyRefused(Response(401))], ids=str)
def test_a_fresh_token_does_not_help_against_what_is_forbidden(error: Exception) -> None:
    assert isinstance(ended(reconnect(can_refresh=True), error), Stopped)


def test_a_connection_that_the_application_left_open_is_followed_by_another() -> None:
    policy = reconnect(BackoffConfig(max_attempts=2))
    error = closed(1000, Initiator.LOCAL)
    assert ended(policy, error, left=True) == Retrying(attempt=2, delay=1.0, refresh=False, error=error)
    assert ended(policy, error, left=True) == Stopped(attempts=2, error=error)


def test_the_application_is_not_asked_about_a_connection_that_it_has_left_itself() -> None:
    policy = reconnect(should_retry=lambda _: False)
    assert isinstance(ended(policy, closed(1000, Initiator.LOCAL), left=True), Retrying)


def test_what_the_server_did_to_it_in_the_same_moment_counts_more() -> None:
    assert ended(reconnect(), closed(1000), left=True) == Stopped(attempts=1, error=None)
    assert ended(reconnect(), closed(1012), jitter=0.0, left=True).delay == 5.0


@pytest.mark.parametrize("error", [closed(4001), closed(1000), refused(404), ValueError()], ids=str)
def test_the_application_can_say_that_it_comes_back(error: Exception) -> None:
    policy = reconnect(BackoffConfig(max_attempts=2), should_retry=lambda given: given is error)
    assert ended(policy, error) == Retrying(attempt=2, delay=1.0, refresh=False, error=error)
    assert ended(policy, error) == Stopped(attempts=2, error=error)


def test_the_application_can_say_that_it_does_not() -> None:
    error = closed(1006)
    assert ended(reconnect(should_retry=lambda _: False), error) == Stopped(attempts=1, error=error)
    assert ended(reconnect(should_retry=lambda _: False), closed(1000)) == Stopped(attempts=1, error=None)
    assert ended(reconnect(can_refresh=True, should_retry=lambda _: False), refused(401)).error is not None


def test_an_application_without_an_opinion_leaves_it_to_the_rules() -> None:
    policy = reconnect(should_retry=lambda _: None)
    assert isinstance(ended(policy, closed(1006)), Retrying)
    assert isinstance(ended(policy, closed(1000)), Stopped)


def test_the_wait_that_a_server_asks_for_holds_for_an_application_that_comes_back_anyway() -> None:
    assert ended(reconnect(should_retry=lambda _: True), closed(1012), jitter=0.0).delay == 5.0
    assert ended(reconnect(can_refresh=True, should_retry=lambda _: True), refused(401)).refresh


def test_each_step_is_an_event() -> None:
    events: list[ReconnectEvent] = []
    policy = reconnect(on_event=events.append)
    steps = [ended(policy, OSError()), policy.on_open(0.0), ended(policy, closed(1000))]
    assert events == steps
    assert [type(event) for event in events] == [Retrying, Opened, Stopped]


def test_each_step_is_logged_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    policy = reconnect(BackoffConfig(max_attempts=2))
    with caplog.at_level(logging.INFO, "wsconnkit.client"):
        for error in (refused(503, body=SECRET.encode()), closed(1011, reason=SECRET)):
            ended(policy, error, secrets=[SECRET])
        ended(policy, closed(1000))
    assert [(record.levelname, record.__dict__["type"], record.__dict__["uri"]) for record in caplog.records] == [
        ("INFO", "connection_retry", "ws://example.org/"),
        ("WARNING", "connection_gave_up", "ws://example.org/"),
        ("INFO", "connection_done", "ws://example.org/"),
    ]
    retry, gave_up, _ = (record.__dict__ for record in caplog.records)
    assert (retry["attempt"], retry["delay"]) == (2, 1.0)
    assert retry["error"] == "InvalidStatus: the server refused the WebSocket: HTTP 503: '***'"
    assert gave_up["attempts"] == 2
    assert "ConnectionClosedError" in gave_up["error"]
    assert SECRET not in gave_up["error"]


def after(*values: str, date: str | None = None) -> float:
    headers = [("Retry-After", value) for value in values]
    return retry_after(Headers(headers if date is None else [*headers, ("Date", date)]), WALL)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert after("120") == 120.0
    assert after(" 0 ") == 0.0
    assert after(formatdate(WALL + 90, usegmt=True)) == 90.0
    assert after() == 0.0


@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"])
def test_a_date_may_have_each_of_its_three_forms(form: str) -> None:
    # RFC 9110, section 5.6.7; the last one has no zone, and is in UTC too.
    assert after(strftime(form, gmtime(WALL + 90))) == 90.0
    assert after(strftime(form, gmtime(WALL - 90))) == 0.0


def test_a_date_counts_from_the_servers_own_clock_where_it_tells_it() -> None:
    until = formatdate(WALL + 5000, usegmt=True)
    assert after(until, date=formatdate(WALL + 4970, usegmt=True)) == 30.0
    assert after(until, date="nonsense") == 3600.0


def test_the_longest_of_several_counts() -> None:
    assert after("5", "50", "nonsense") == 50.0


def test_nobody_is_sent_away_for_more_than_an_hour() -> None:
    assert after("3601") == 3600.0
    assert after("9" * 5000) == 3600.0
    assert after("Fri, 31 Dec 9999 23:59:59 GMT") == 3600.0


@pytest.mark.parametrize("value", ["", "-5", "+5", "1.5", "1e3", "5 s", "٣", "soon", "0x10", "5, 6"])
def test_what_is_neither_is_ignored(value: str) -> None:
    assert after(value) == 0.0


@given(
    st.one_of(
        st.text(),
        st.text("0123456789: ,-+GMTJanSu"),
        st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,20} [A-Z][a-z]{2} [0-9]{1,20} [0-9:]{0,20} [-+A-Z0-9]{0,20}"),
    ),
    st.text("0123456789: ,-+GMTJanSu"),
)
@example("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", "")
@example("Fri, 99999999999999999999 Dec 2026 23:59:59 GMT", "")
@example("\N{SUPERSCRIPT TWO}", "")
def test_nothing_that_a_server_says_raises(value: str, date: str) -> None:
    assert 0.0 <= after(value, date=date) <= 3600.0

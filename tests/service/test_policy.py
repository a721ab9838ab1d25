from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.machines.ratelimit import RateLimit
from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.errors import InvalidStatus
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.protocol.transportaction import TransportAction
from wsconnkit.protocol.upgrade import HTTPRequest, UpgradeRequest, refusal
from wsconnkit.protocol.uri import parse_uri
from wsconnkit.service.admission import AdmissionConfig, Rates, Refused
from wsconnkit.service.handshakes import Surplus
from wsconnkit.service.policy import PendingUpgrade, ServerPolicy
from wsconnkit.service.principal import AuthenticationError, AuthFailure, KeysUnavailable, Principal, TooManyFailures
from wsconnkit.service.proxies import TrustedProxies
from wsconnkit.service.session import Renew, Session

from .kit import kinds, logged, upgrade_request

SETTINGS = settings(deadline=None)
WALL = 1_700_000_000.0
PEER = ("192.0.2.1", 50_000)
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2ln"
ADA = Principal(subject="ada")
UNLIMITED = AdmissionConfig(max_connections_per_user=None)
ORIGIN = ("Origin", "https://evil.example")


def printed(record: logging.LogRecord) -> str:
    """Return all of a record that a formatter may print, tracebacks included."""
    return logging.Formatter().format(record) + "\n" + repr(record.__dict__)


def upgrade_of(policy: ServerPolicy[str], request: UpgradeRequest | None = None, peer: object = PEER) -> PendingUpgrade:
    upgrade = policy.receive(request or upgrade_request(), peer)
    assert isinstance(upgrade, PendingUpgrade)
    return upgrade


class House:
    """A server that lets in whoever its policy does."""

    def __init__(self, config: AdmissionConfig | None = None, **options: Any) -> None:
        self.policy: ServerPolicy[str] = ServerPolicy(admission=config, **options)
        self._visits = 0

    def visit(
        self,
        principal: Principal | None = None,
        ip: str = "192.0.2.1",
        *,
        request: UpgradeRequest | None = None,
        now: float = 0.0,
    ) -> Session | Response:
        session = self.admit(principal, ip, request=request, now=now)
        if isinstance(session, Session):
            self.policy.enter(f"the connection {session.log.connection_id}", session)
        return session

    def admit(
        self,
        principal: Principal | None = None,
        ip: str = "192.0.2.1",
        *,
        request: UpgradeRequest | None = None,
        now: float = 0.0,
    ) -> Session | Response:
        """Let a visitor in, who does not enter."""
        upgrade = self.policy.receive(request or upgrade_request(), (ip, 50_000))
        if isinstance(upgrade, Response):
            return upgrade
        self._visits += 1
        return self.policy.admit(upgrade, principal, f"c{self._visits}", now=now, wall_now=WALL + now)

    def enter(self, principal: Principal | None = None, ip: str = "192.0.2.1", *, now: float = 0.0) -> Session:
        session = self.visit(principal, ip, now=now)
        assert isinstance(session, Session)
        return session

    def status(self, principal: Principal | None = None, ip: str = "192.0.2.1", *, now: float = 0.0) -> int:
        """Visit, and return 101 or the status of the refusal."""
        answer = self.visit(principal, ip, now=now)
        return answer.status if isinstance(answer, Response) else 101


def upgrades(count: int, period: float = 60.0) -> Rates:
    return Rates(upgrades=RateLimit(count, period))


# Who is let in.


def test_who_is_let_in_has_a_session_and_is_there_until_it_leaves() -> None:
    house = House()
    policy = house.policy
    with logged() as records:
        session = house.enter(ADA)
    assert (session.principal, session.user, session.ip) == (ADA, "ada", "192.0.2.1")
    assert (session.log.connection_id, session.log.user_id) == ("c1", "ada")
    assert session.server_stats is policy.stats
    assert policy.connections.get("c1") == "the connection c1"
    assert policy.connections.by_user("ada") == ("the connection c1",)
    assert (policy.stats.opened, policy.stats.refused) == (1, {})
    policy.leave(session)
    policy.leave(session)
    assert len(policy.connections) == policy.connections.count_user("ada") == 0
    assert policy.connections.count_ip("192.0.2.1") == 0
    assert policy.stats.opened == 1
    assert records == []


def test_without_authentication_a_connection_is_of_nobody() -> None:
    session = House().enter()
    assert (session.principal, session.user, session.log.user_id) == (None, None, None)


def test_whoever_is_admitted_is_not_there_before_it_enters() -> None:
    policy: ServerPolicy[str] = ServerPolicy()
    assert isinstance(policy.admit(upgrade_of(policy), ADA, "c1", now=0.0, wall_now=WALL), Session)
    assert (len(policy.connections), policy.stats.opened) == (0, 0)


def test_the_session_knows_until_when_its_token_holds() -> None:
    session = House().enter(Principal(subject="ada", expires_at=WALL + 55.0, leeway=1.0), now=5.0)
    assert session.next_timeout() == 56.0


@pytest.mark.parametrize("reauthenticate", [False, True])
@pytest.mark.parametrize("principal", [None, ADA])
def test_only_who_has_a_token_may_renew_it_and_only_where_that_is_wanted(
    reauthenticate: bool, principal: Principal | None
) -> None:
    session = House(reauthenticate=reauthenticate).enter(principal)
    message = json.dumps({"type": "auth", "requestId": "1", "payload": {"token": TOKEN}})
    is_taken = session.on_message(message, 0.0, WALL) == Renew(TOKEN, "1")
    assert is_taken is session.filters_messages is (reauthenticate and principal is not None)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (f"/ws?token={TOKEN}", []),
        ("/ws", [("Authorization", f"Bearer {TOKEN}")]),
        ("/ws", [("Sec-WebSocket-Protocol", f"bearer, {TOKEN}")]),
    ],
)
def test_the_token_of_a_request_is_found_and_printed_nowhere(target: str, headers: list[tuple[str, str]]) -> None:
    policy: ServerPolicy[str] = ServerPolicy()
    upgrade = upgrade_of(policy, upgrade_request(target, *headers))
    assert upgrade.token == TOKEN
    assert TOKEN not in f"{upgrade} {upgrade!r} {[upgrade]}"
    session = policy.admit(upgrade, ADA, "c1", now=0.0, wall_now=WALL)
    assert isinstance(session, Session)
    with logged() as records:
        session.log.opened(PEER, None, f"/{TOKEN}")
        session.log.handler_error(KeyError(TOKEN))
        policy.refuse_for(KeyError(TOKEN), upgrade)
    assert kinds(records) == ["connection_opened", "handler_error", "auth_error", "upgrade_refused"]
    assert not [record for record in records if TOKEN in printed(record)]


def test_a_request_without_a_token_has_none() -> None:
    upgrade = upgrade_of(ServerPolicy())
    assert upgrade.token is None
    assert repr(upgrade) == "<PendingUpgrade 192.0.2.1 <UpgradeRequest '/ws'>>"


def test_the_address_of_a_client_is_the_one_that_trusted_proxies_tell() -> None:
    request = upgrade_request("/ws", ("X-Forwarded-For", "198.51.100.7"))
    assert upgrade_of(ServerPolicy(), request).ip == "192.0.2.1"
    behind: ServerPolicy[str] = ServerPolicy(proxies=TrustedProxies(["192.0.2.0/24"]))
    upgrade = upgrade_of(behind, request)
    assert (upgrade.ip, upgrade.remote_address) == ("198.51.100.7", PEER)
    session = behind.admit(upgrade, None, "c1", now=0.0, wall_now=WALL)
    assert isinstance(session, Session)
    assert session.ip == "198.51.100.7"


def test_addresses_of_one_network_of_ipv6_count_as_one() -> None:
    house = House(AdmissionConfig(max_connections_per_ip=1))
    assert house.enter(ip="2001:db8::1").ip == "2001:db8::/64"
    assert house.status(ip="2001:db8::ffff") == 429
    assert house.status(ip="2001:db8:0:1::1") == 101


@pytest.mark.parametrize("peer", ["", "/run/ws.sock", None, (), ("host", 1), b"\0abstract"])
def test_who_has_no_address_is_limited_by_none(peer: object) -> None:
    policy: ServerPolicy[str] = ServerPolicy(admission=AdmissionConfig(max_connections_per_ip=1, per_ip=upgrades(1)))
    for number in range(5):
        session = policy.admit(upgrade_of(policy, peer=peer), None, str(number), now=0.0, wall_now=WALL)
        assert isinstance(session, Session)
        assert session.ip is None
        policy.enter(f"the connection {number}", session)


# Who is refused.


def fail(error: Exception, house: House) -> Response:
    """Let an authentication raise."""
    return house.policy.refuse_for(error, upgrade_of(house.policy))


def come_from_elsewhere(house: House) -> Response:
    return refused(house.visit(request=upgrade_request("/ws", ORIGIN)))


def come_for_another_host(house: House) -> Response:
    house.policy = ServerPolicy(allowed_hosts=["chat.example"])
    return refused(house.visit(request=upgrade_request("/ws", ORIGIN)))


def come_twice(house: House) -> Response:
    house.enter(ADA)
    return refused(house.visit(ADA))


def come_to_a_drain(house: House) -> Response:
    house.policy.is_draining = True
    return refused(house.visit(ADA))


def come_before_a_drain(house: House) -> Response:
    upgrade = upgrade_of(house.policy)
    house.policy.is_draining = True  # while it is found out who that is
    return refused(house.policy.admit(upgrade, ADA, "c1", now=0.0, wall_now=WALL))


def refused(answer: Session | Response) -> Response:
    assert isinstance(answer, Response)
    return answer


def wait_until_the_end(house: House) -> Response:
    return house.policy.dismiss(upgrade_of(house.policy))


CASES: list[tuple[Refused, int, AdmissionConfig | None, Callable[[House], Response]]] = [
    (Refused.DRAINING, 503, None, come_to_a_drain),
    (Refused.DRAINING, 503, None, come_before_a_drain),
    (Refused.DRAINING, 503, None, wait_until_the_end),
    (Refused.HOST, 421, None, come_for_another_host),
    (Refused.ORIGIN, 403, None, come_from_elsewhere),
    (Refused.MISSING, 401, None, partial(fail, AuthenticationError(AuthFailure.MISSING))),
    (Refused.INVALID, 401, None, partial(fail, AuthenticationError(AuthFailure.INVALID))),
    (Refused.EXPIRED, 401, None, partial(fail, AuthenticationError(AuthFailure.EXPIRED))),
    (Refused.UNAVAILABLE, 503, None, partial(fail, KeysUnavailable("no keys"))),
    (Refused.UNAVAILABLE, 500, None, partial(fail, OSError("no database"))),
    (Refused.CAPACITY, 503, AdmissionConfig(max_connections=1), come_twice),
    (Refused.USER_CAP, 429, AdmissionConfig(max_connections_per_user=1), come_twice),
    (Refused.IP_CAP, 429, AdmissionConfig(max_connections_per_ip=1), come_twice),
    (Refused.RATE, 429, AdmissionConfig(per_user=upgrades(1)), come_twice),
]


@pytest.mark.parametrize(
    ("reason", "status", "config", "come"), CASES, ids=[f"{case[0].value}-{case[1]}" for case in CASES]
)
def test_a_refusal_is_a_whole_response_counted_once_and_told_in_one_line(
    reason: Refused, status: int, config: AdmissionConfig | None, come: Callable[[House], Response]
) -> None:
    house = House(config)
    with logged() as records:
        response = come(house)
    assert response.status == status
    assert house.policy.stats.refused == {reason: 1}
    (line,) = [record for record in records if record.__dict__["type"] == "upgrade_refused"]
    assert (line.__dict__["status"], line.__dict__["reason"]) == (status, reason.value)
    assert (line.__dict__["remote_address"], line.__dict__["client_ip"]) == (PEER, "192.0.2.1")
    # It gets through to the client as it is.
    client = ClientHandshake(parse_uri("ws://example.org/ws"), now=0.0)
    server = ServerHandshake(now=0.0)
    server.receive_data(client.data_to_send(), 0.0)
    server.respond(response)
    client.receive_data(server.data_to_send(), 0.0)
    assert isinstance(client.error, InvalidStatus)
    assert client.error.response.status == status
    assert list(json.loads(client.error.response.body)) == ["error"]
    headers = client.error.response.headers
    assert headers.get("Content-Type") == "application/json"
    assert ("WWW-Authenticate" in headers) is (status == 401)
    assert ("Retry-After" in headers) is (status in (429, 503))


def test_the_cases_above_are_all_that_a_policy_refuses_by_itself() -> None:
    others = {Refused.PATH, Refused.REQUEST, Refused.APPLICATION, Refused.FAILED_AUTH}
    assert {reason for reason, *_ in CASES} == set(Refused) - others


def test_whose_tokens_are_not_looked_at_is_told_when_they_will_be_and_no_line_tells_of_each() -> None:
    house = House()
    with logged() as records:
        response = fail(TooManyFailures(5.2), house)
    assert (response.status, response.headers.get("Retry-After")) == (429, "6")
    assert json.loads(response.body) == {"error": "too many invalid tokens from this address"}
    assert house.policy.stats.refused == {Refused.FAILED_AUTH: 1}
    assert records == []


def test_a_failed_authentication_is_told_with_its_details_and_answered_without() -> None:
    policy: ServerPolicy[str] = ServerPolicy()
    upgrade = upgrade_of(policy)
    with logged() as records:
        response = policy.refuse_for(AuthenticationError(AuthFailure.INVALID, "of what is wrong"), upgrade)
    assert kinds(records) == ["auth_failed", "upgrade_refused"]
    assert records[0].__dict__["remote_address"] == PEER
    assert (records[0].__dict__["reason"], records[0].__dict__["detail"]) == ("invalid", "of what is wrong")
    assert json.loads(response.body) == {"error": "invalid token"}


@pytest.mark.parametrize(
    ("failure", "challenge"),
    [
        (AuthFailure.MISSING, "Bearer"),
        (AuthFailure.INVALID, 'Bearer error="invalid_token"'),
        (AuthFailure.EXPIRED, 'Bearer error="invalid_token"'),
    ],
)
def test_a_client_is_told_whether_a_token_is_missing_or_no_good(failure: AuthFailure, challenge: str) -> None:
    response = fail(AuthenticationError(failure, "of what is wrong"), House())
    assert response.headers.get_all("WWW-Authenticate") == [challenge]


def test_lines_of_a_refusal_say_from_behind_which_proxy_it_was_asked_for() -> None:
    policy: ServerPolicy[str] = ServerPolicy(proxies=TrustedProxies(["192.0.2.0/24"]))
    with logged() as records:
        upgrade = upgrade_of(policy, upgrade_request("/ws", ("X-Forwarded-For", "198.51.100.7")))
        policy.refuse_for(AuthenticationError(AuthFailure.EXPIRED), upgrade)
        policy.refuse_for(KeysUnavailable(), upgrade)
        policy.on_refusal(refusal(402, "pay first"), upgrade)
        policy.is_draining = True
        policy.admit(upgrade, None, "c1", now=0.0, wall_now=WALL)
    assert kinds(records) == ["auth_failed"] + ["upgrade_refused"] * 4
    for record in records:
        assert (record.__dict__["remote_address"], record.__dict__["client_ip"]) == (PEER, "198.51.100.7")


@pytest.mark.parametrize(
    "config",
    [
        AdmissionConfig(max_connections=1),
        AdmissionConfig(max_connections_per_user=1),
        AdmissionConfig(max_connections_per_ip=1),
        AdmissionConfig(per_user=upgrades(1)),
        AdmissionConfig(per_ip=upgrades(1)),
    ],
)
def test_a_user_that_is_refused_by_a_cap_or_a_rate_is_named(config: AdmissionConfig) -> None:
    house = House(config)
    with logged() as records:
        come_twice(house)
    assert [(*kinds(records), record.__dict__["user_id"]) for record in records] == [("upgrade_refused", "ada")]


@pytest.mark.parametrize("come", [come_from_elsewhere, come_to_a_drain, partial(fail, KeysUnavailable())])
def test_an_upgrade_that_is_refused_before_it_is_known_who_that_is_has_no_name(
    come: Callable[[House], Response],
) -> None:
    with logged() as records:
        come(House())
    assert [record.__dict__["user_id"] for record in records] == [None]


def test_the_details_of_a_failed_authentication_are_told_without_the_token() -> None:
    policy: ServerPolicy[str] = ServerPolicy()
    upgrade = upgrade_of(policy, upgrade_request(f"/ws?token={TOKEN}"))
    with logged() as records:
        policy.refuse_for(AuthenticationError(AuthFailure.INVALID, f"cannot read {TOKEN}"), upgrade)
    assert kinds(records) == ["auth_failed", "upgrade_refused"]
    assert records[0].__dict__["detail"] == "cannot read ***"
    assert not [record for record in records if TOKEN in printed(record)]


def test_what_goes_wrong_in_an_authentication_is_told_whole_and_answered_without_a_word_of_it() -> None:
    policy: ServerPolicy[str] = ServerPolicy()
    upgrade = upgrade_of(policy, upgrade_request(f"/ws?token={TOKEN}"))
    with logged() as records:
        response = policy.refuse_for(OSError(f"no table for {TOKEN}"), upgrade)
    assert kinds(records) == ["auth_error", "upgrade_refused"]
    assert records[0].levelno == logging.ERROR
    assert records[0].getMessage().endswith("OSError: no table for ***")
    assert (response.status, json.loads(response.body)) == (500, {"error": "internal error"})


def test_what_the_application_refuses_with_is_counted_as_its_own() -> None:
    policy: ServerPolicy[str] = ServerPolicy()
    with logged() as records:
        policy.on_refusal(refusal(402, "pay first"), upgrade_of(policy))
    assert policy.stats.refused == {Refused.APPLICATION: 1}
    assert kinds(records) == ["upgrade_refused"]
    assert records[0].__dict__["status"] == 402


def answered_by_the_handshake(data: bytes, *, now: float = 0.0) -> Response:
    """Return what a handshake answers by itself."""
    handshake = ServerHandshake(now=0.0, path="/ws")
    handshake.receive_data(data, 0.0)
    for late in (now, now + 1.0):
        handshake.handle_timeout(late)
    assert handshake.response is not None
    assert handshake.transport_action is TransportAction.SEND_EOF
    return handshake.response


HEAD = (
    b"Host: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize(
    ("data", "now", "status", "reason"),
    [
        (b"GET /other HTTP/1.1\r\n" + HEAD, 0.0, 404, Refused.PATH),
        (b"GET /ws HTTP/1.1\r\nHost: example.org\r\n\r\n", 0.0, 426, Refused.REQUEST),
        (b"POST /ws HTTP/1.1\r\n" + HEAD, 0.0, 405, Refused.REQUEST),
        (b"\r\n\x00\r\n\r\n", 0.0, 400, Refused.REQUEST),
        (b"GET /ws", 100.0, 408, Refused.REQUEST),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + HEAD, 0.0, 414, Refused.REQUEST),
        (b"GET /ws HTTP/1.1\r\n" + HEAD, 100.0, 503, Refused.UNAVAILABLE),
    ],
)
def test_what_a_handshake_refuses_by_itself_is_counted_too(
    data: bytes, now: float, status: int, reason: Refused
) -> None:
    policy: ServerPolicy[str] = ServerPolicy()
    response = answered_by_the_handshake(data, now=now)
    with logged() as records:
        policy.on_handshake_response(response, PEER)
    assert response.status == status
    assert policy.stats.refused == {reason: 1}
    (line,) = records
    assert (line.__dict__["status"], line.__dict__["reason"]) == (status, reason.value)
    assert line.__dict__["remote_address"] == PEER
    assert "client_ip" not in line.__dict__


@pytest.mark.parametrize(
    ("origins", "origin", "is_let_in"),
    [
        ((), "https://evil.example", False),
        ((), "https://example.org", True),
        (["https://app.example"], "https://app.example", True),
        (["https://app.example"], "https://evil.example", False),
        (None, "https://evil.example", True),
    ],
)
def test_web_pages_may_come_from_where_they_are_let_in(origins: Any, origin: str, is_let_in: bool) -> None:
    policy: ServerPolicy[str] = ServerPolicy(origins=origins)
    answer = policy.receive(upgrade_request("/ws", ("Origin", origin)), PEER)
    assert isinstance(answer, PendingUpgrade) is is_let_in


@pytest.mark.parametrize(
    ("allowed_hosts", "is_let_in"), [(None, True), (["example.org"], True), (["chat.example"], False)]
)
def test_a_page_whose_name_was_made_to_lead_here_gets_in_only_without_allowed_hosts(
    allowed_hosts: Any, is_let_in: bool
) -> None:
    policy: ServerPolicy[str] = ServerPolicy(allowed_hosts=allowed_hosts)
    answer = policy.receive(upgrade_request("/ws", ("Origin", "http://example.org")), PEER)
    assert isinstance(answer, PendingUpgrade) is is_let_in


def test_a_request_for_a_page_of_another_host_is_refused_and_not_counted_as_an_upgrade() -> None:
    policy: ServerPolicy[str] = ServerPolicy(allowed_hosts=["chat.example"])
    answer = policy.misdirected(HTTPRequest("GET", "/", Headers([("Host", "evil.example")])))
    assert answer is not None
    assert answer.status == 421
    assert policy.misdirected(HTTPRequest("GET", "/", Headers([("Host", "chat.example")]))) is None
    assert not policy.stats.refused


def test_handshakes_are_counted_by_network_but_those_through_a_trusted_proxy() -> None:
    policy: ServerPolicy[str] = ServerPolicy(
        admission=AdmissionConfig(max_handshakes_per_ip=1), proxies=TrustedProxies(["10.0.0.0/8"])
    )
    for number, peer in enumerate([("10.0.0.1", 1), ("10.0.0.1", 2), None, None, ("2001:db8::1", 1, 0, 0)]):
        policy.begin_handshake(number, peer)
    assert policy.handshakes.surplus() is None
    policy.begin_handshake("next", ("2001:db8::2", 1, 0, 0))
    assert policy.handshakes.surplus() == (4, "max_handshakes_per_ip", "2001:db8::/64")


def test_handshakes_that_are_ended_for_newer_ones_are_counted_each_and_logged_together() -> None:
    policy: ServerPolicy[str] = ServerPolicy()
    with logged() as records:
        for now in (100.0, 100.0, 105.0, 109.9, 110.0, 115.0, 500.0):
            policy.on_handshake_dropped(Surplus(None, "max_handshakes", "192.0.2.1"), now=now)
    assert policy.stats.handshakes_dropped == {"max_handshakes": 7}
    assert kinds(records) == ["server_handshakes_dropped"] * 3
    assert [record.__dict__["count"] for record in records] == [1, 4, 2]


def test_a_server_that_drains_says_so_before_it_looks_at_the_origin() -> None:
    policy: ServerPolicy[str] = ServerPolicy()
    policy.is_draining = True
    answer = policy.receive(upgrade_request("/ws", ORIGIN), PEER)
    assert isinstance(answer, Response)
    assert answer.status == 503


def test_a_drain_refuses_whoever_comes_and_keeps_whoever_is_there() -> None:
    house = House()
    session = house.enter(ADA)
    house.policy.is_draining = True
    assert house.status(ADA) == 503
    assert len(house.policy.connections) == 1
    house.policy.leave(session)
    assert len(house.policy.connections) == 0
    assert house.policy.stats.refused == {Refused.DRAINING: 1}


# Caps and rates.


def test_a_cap_has_room_again_as_soon_as_one_has_left() -> None:
    house = House(AdmissionConfig(max_connections_per_user=2))
    sessions = [house.enter(ADA), house.enter(ADA)]
    assert house.status(ADA) == 429
    house.policy.leave(sessions[0])
    assert [house.status(ADA), house.status(ADA)] == [101, 429]


def test_who_is_admitted_has_a_place_before_the_connection_is_there() -> None:
    house = House(AdmissionConfig(max_connections_per_user=2))
    sessions = [house.admit(ADA), house.admit(ADA)]
    assert all(isinstance(session, Session) for session in sessions)
    assert refused(house.admit(ADA)).status == 429
    assert (len(house.policy.connections), house.policy.connections.count(), house.policy.stats.opened) == (0, 2, 0)


def test_who_is_admitted_and_does_not_come_gives_the_place_back() -> None:
    house = House(AdmissionConfig(max_connections=1))
    session = house.admit(ADA)
    assert isinstance(session, Session)
    assert refused(house.admit(ADA)).status == 503
    for _ in range(2):
        house.policy.leave(session)
    assert (house.policy.connections.count(), house.policy.stats.opened) == (0, 0)
    assert house.status(ADA) == 101


def test_who_is_refused_by_a_cap_loses_nothing_of_the_rate() -> None:
    house = House(AdmissionConfig(max_connections_per_user=1, per_user=upgrades(2)))
    session = house.enter(ADA)
    assert [house.status(ADA) for _ in range(10)] == [429] * 10
    assert house.policy.stats.refused == {Refused.USER_CAP: 10}
    assert house.policy.stats.rate_limited == {}
    house.policy.leave(session)
    house.policy.leave(house.enter(ADA))
    assert house.status(ADA) == 429
    assert house.policy.stats.refused == {Refused.USER_CAP: 10, Refused.RATE: 1}
    assert house.policy.stats.rate_limited == {"upgrade": 1}


def test_who_is_refused_by_the_rate_is_not_there_and_comes_in_when_it_has_waited() -> None:
    house = House(replace(UNLIMITED, per_user=upgrades(1, 60.0)))
    house.enter(ADA)
    assert refused(house.visit(ADA, now=29.5)).headers.get("Retry-After") == "31"
    assert len(house.policy.connections) == 1
    assert [house.status(ADA, now=59.9), house.status(ADA, now=60.0)] == [429, 101]


def test_a_refused_authentication_costs_nothing() -> None:
    house = House(AdmissionConfig(max_connections=1, per_ip=upgrades(1)))
    for _ in range(10):
        fail(AuthenticationError(AuthFailure.INVALID), house)
    assert house.status(ADA) == 101


def test_a_tier_has_its_own_rate_of_upgrades() -> None:
    house = House(replace(UNLIMITED, per_user=upgrades(1), tiers={"premium": upgrades(3)}))
    premium = Principal(subject="eve", tier="premium")
    assert [house.status(premium) for _ in range(4)] == [101, 101, 101, 429]
    assert [house.status(ADA) for _ in range(2)] == [101, 429]


@pytest.mark.parametrize(
    ("retry_after", "told"), [(0.001, "1"), (1.0, "1"), (1.001, "2"), (10, "10"), (1e300, str(int(1e300)))]
)
def test_where_no_better_time_is_known_the_configured_one_is_told_in_whole_seconds(
    retry_after: float, told: str
) -> None:
    house = House(AdmissionConfig(max_connections=1, retry_after=retry_after))
    house.enter()
    for response in (refused(house.visit()), fail(KeysUnavailable(), house), come_to_a_drain(house)):
        assert response.headers.get_all("Retry-After") == [told]


@SETTINGS
@given(
    st.builds(RateLimit, st.integers(1, 50), st.floats(0.001, 1e6)),
    st.lists(st.floats(0.0, 10.0), max_size=5),
)
def test_the_seconds_to_wait_are_whole_at_least_1_and_enough(rate: RateLimit, pauses: list[float]) -> None:
    house = House(replace(UNLIMITED, per_ip=Rates(upgrades=rate)))
    now = 0.0
    for pause in [0.0, *pauses]:
        now += pause
        while isinstance(answer := house.visit(now=now), Session):
            pass
        told = answer.headers.get("Retry-After")
        assert told is not None
        assert told.isdecimal()
        assert 1 <= int(told) <= rate.period + 1
        assert house.status(now=now + int(told)) == 101
        now += int(told)


users = st.none() | st.sampled_from(["ada", "bob"])
visits = st.tuples(st.just("visit"), users, st.sampled_from(["192.0.2.1", "2001:db8::1", "2001:db8::2"]))
departures = st.tuples(st.just("leave"), st.integers(0, 9))
failures = st.tuples(
    st.just("fail"),
    st.sampled_from([AuthenticationError(AuthFailure.EXPIRED), KeysUnavailable(), OSError(), KeyError(TOKEN)]),
)
others = st.tuples(st.sampled_from(["origin", "application", "handshake", "drain", "wait"]))


@SETTINGS
@given(st.lists(visits | departures | failures | others, max_size=40))
def test_everyone_is_let_in_or_refused_for_one_reason_and_no_cap_is_ever_passed(steps: list[tuple[Any, ...]]) -> None:
    config = AdmissionConfig(
        max_connections=4,
        max_connections_per_user=2,
        max_connections_per_ip=3,
        per_ip=upgrades(8, 60.0),
        per_user=upgrades(4, 60.0),
    )
    house = House(config)
    policy = house.policy
    upgrade = PendingUpgrade(upgrade_request(f"/ws?token={TOKEN}"), PEER, "192.0.2.1", TOKEN)
    inside: list[Session] = []
    statuses: Counter[int] = Counter()
    came = 0
    now = 0.0
    with logged() as records:
        for step in steps:
            came += step[0] not in ("leave", "drain", "wait")
            answer: object = None
            if step[0] == "visit":
                answer = house.visit(None if step[1] is None else Principal(subject=step[1]), step[2], now=now)
                if isinstance(answer, Session):
                    inside.append(answer)
            elif step[0] == "leave" and inside:
                policy.leave(inside.pop(step[1] % len(inside)))
            elif step[0] == "fail":
                answer = policy.refuse_for(step[1], upgrade)
            elif step[0] == "origin":
                answer = policy.receive(upgrade_request("/ws", ORIGIN), PEER)
            elif step[0] == "application":
                answer = refusal(402, "pay first")
                policy.on_refusal(answer, upgrade)
            elif step[0] == "handshake":
                answer = answered_by_the_handshake(b"GET /other HTTP/1.1\r\n" + HEAD)
                policy.on_handshake_response(answer, PEER)
            elif step[0] == "drain":
                policy.is_draining = not policy.is_draining
            elif step[0] == "wait":
                now += 10.0
            if isinstance(answer, Response):
                statuses[answer.status] += 1
            assert len(policy.connections) == len(inside) <= 4
            assert all(policy.connections.count_user(user) <= 2 for user in ("ada", "bob"))
            assert all(policy.connections.count_ip(ip) <= 3 for ip in ("192.0.2.1", "2001:db8::/64"))
    assert policy.stats.opened + sum(policy.stats.refused.values()) == came
    assert sum(policy.stats.refused.values()) == sum(statuses.values())
    assert policy.stats.rate_limited["upgrade"] == policy.stats.refused[Refused.RATE]
    lines = [record.__dict__ for record in records if record.__dict__["type"] == "upgrade_refused"]
    assert Counter(line["status"] for line in lines) == statuses
    assert Counter(line["reason"] for line in lines) == {
        reason.value: count for reason, count in policy.stats.refused.items()
    }


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"proxies": ["10.0.0.0/8"]}, r"proxies is \['10.0.0.0/8'\]; it must be TrustedProxies, or None"),
        ({"admission": 3}, "admission is 3; it must be AdmissionConfig, or None"),
    ],
)
def test_settings_of_another_type_are_refused_at_once(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        ServerPolicy(**arguments)


def test_a_request_for_no_websocket_that_the_end_finds_waiting_is_answered_and_not_counted() -> None:
    house = House()
    with logged() as records:
        response = house.policy.dismiss(None)
    assert (response.status, response.headers.get("Retry-After")) == (503, "10")
    assert json.loads(response.body) == {"error": "the server is shutting down"}
    assert not house.policy.stats.refused
    assert kinds(records) == []

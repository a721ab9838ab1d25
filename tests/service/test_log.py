from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.machines.compression import CompressionStats, DirectionStats
from wsconnkit.machines.framesize import FrameLimits, FrameSizeStats
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.deflate import CompressionConfig, DeflateParams
from wsconnkit.protocol.events import (
    Closed,
    Event,
    FrameSizeWarning,
    HeartbeatStalled,
    Message,
    PingReceived,
    PongReceived,
    UnreadWarning,
)
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.stats import ConnectionStats
from wsconnkit.service.log import (
    ConnectionLog,
    Seldom,
    log_auth_failed,
    log_auth_limited,
    log_draining,
    log_handshakes_dropped,
    log_refused,
    log_retry,
    log_server_error,
    log_stopped,
)

from .kit import logged

SETTINGS = settings(deadline=None)
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2ln"
PEER = ("192.0.2.1", 50_000)
NOTHING = ConnectionStats(FrameSizeStats(), CompressionStats())
USUAL = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a record has besides what all have."""
    return {name: value for name, value in record.__dict__.items() if name not in USUAL}


def printed(record: logging.LogRecord) -> str:
    """Return all of a record that a formatter may print, tracebacks included."""
    return logging.Formatter().format(record) + "\n" + repr(fields_of(record))


def raised(error: Exception) -> Exception:
    """Return `error` with a traceback."""
    try:
        raise error
    except Exception as caught:
        return caught


def run(
    *,
    config: ConnectionConfig | None = None,
    deflate: DeflateParams | None = None,
    messages: tuple[str, ...] = (),
    reason: str = "",
    answers: tuple[str, ...] = (),
) -> tuple[Closed, ConnectionStats]:
    """Return how a server's connection ended that the client closed behind `messages`, and what it carried."""
    client = ConnectionProtocol(Role.CLIENT, config, now=0.0, deflate=deflate)
    server = ConnectionProtocol(Role.SERVER, config, now=0.0, deflate=deflate)
    for message in messages:
        client.send(message, 0.0)
    for answer in answers:
        server.send(answer, 0.0)
    server.receive_data(client.data_to_send(), 0.0)
    assert len([*server.events()]) == len(messages)
    client.close(1000, reason, 0.0)
    server.receive_data(client.data_to_send(), 0.0)
    server.receive_eof(0.0)
    (closed,) = server.events()
    assert isinstance(closed, Closed)
    return closed, server.stats


def test_an_opening_is_told_with_who_from_where_and_to_which_path() -> None:
    with logged() as records:
        ConnectionLog("c1", user_id="ada").opened(PEER, "198.51.100.7", "/ws")
    (record,) = records
    assert (record.name, record.levelno, record.getMessage()) == (
        "wsconnkit.connection",
        logging.INFO,
        "connection_opened c1",
    )
    assert fields_of(record) == {
        "type": "connection_opened",
        "connection_id": "c1",
        "user_id": "ada",
        "remote_address": PEER,
        "client_ip": "198.51.100.7",
        "path": "/ws",
    }


def test_a_connection_of_nobody_known_has_no_user() -> None:
    with logged() as records:
        ConnectionLog("c1").opened(None, None, "/")
    assert fields_of(records[0])["user_id"] is None


def test_an_end_is_told_with_its_whole_story() -> None:
    with logged() as records:
        ConnectionLog("c1", user_id="ada").event(*run(reason="done"))
    (record,) = records
    assert (record.levelno, record.getMessage()) == (logging.INFO, "connection_closed c1")
    assert fields_of(record) == {
        "type": "connection_closed",
        "connection_id": "c1",
        "user_id": "ada",
        "code": 1000,
        "reason": "done",
        "cause": "peer_close",
        "initiator": "peer",
        "phase": "close_exchanged",
        "clean": True,
        "error": None,
    }


def test_an_end_by_an_error_of_the_transport_tells_what_the_system_said() -> None:
    core = ConnectionProtocol(Role.SERVER, now=0.0)
    core.receive_eof(1.0, ConnectionResetError(104, "Connection reset by peer"))
    (closed,) = core.events()
    with logged() as records:
        ConnectionLog("c1").event(closed, core.stats)
    fields = fields_of(records[0])
    assert (fields["code"], fields["cause"], fields["clean"]) == (1006, "transport_lost", False)
    assert fields["error"] == "[Errno 104] Connection reset by peer"


@pytest.mark.parametrize("to_us", [False, True])
@pytest.mark.parametrize("from_us", [False, True])
def test_what_compression_saved_is_told_at_the_end_where_anything_was_compressed(to_us: bool, from_us: bool) -> None:
    config = ConnectionConfig(compression=CompressionConfig(threshold=100))
    long, short = "x" * 1000, "x"
    closed, stats = run(
        config=config,
        deflate=DeflateParams(True, True, 15, 15),
        messages=(long if to_us else short,),
        answers=(long if from_us else short,),
    )
    with logged() as records:
        ConnectionLog("c1", user_id="ada").event(closed, stats)
    *summaries, end = map(fields_of, records)
    assert end["type"] == "connection_closed"
    if not (to_us or from_us):
        assert summaries == []
        return
    (summary,) = summaries
    assert {**summary, "percent_saved_in": 0, "percent_saved_out": 0} == {
        "type": "compression_summary",
        "connection_id": "c1",
        "user_id": "ada",
        "messages_in": int(to_us),
        "messages_out": int(from_us),
        "percent_saved_in": 0,
        "percent_saved_out": 0,
        "errors": 0,
    }
    assert (summary["percent_saved_in"] > 95) is to_us
    assert (summary["percent_saved_out"] > 95) is from_us


def test_an_error_of_compression_alone_is_told_too() -> None:
    closed, _ = run()
    stats = ConnectionStats(FrameSizeStats(), CompressionStats(inbound=DirectionStats(errors=1)))
    with logged() as records:
        ConnectionLog("c1").event(closed, stats)
    assert [fields_of(record)["type"] for record in records] == ["compression_summary", "connection_closed"]
    assert fields_of(records[0])["errors"] == 1


def test_pings_are_told_at_debug_and_missed_ones_as_warnings() -> None:
    core = ConnectionProtocol(
        Role.SERVER, ConnectionConfig(heartbeat=HeartbeatConfig(interval=10.0, timeout=1.0, max_missed=3)), now=0.0
    )
    with logged() as records:
        while core.close_info is None:
            timeout = core.next_timeout()
            assert timeout is not None
            core.handle_timeout(timeout)
            core.data_to_send()
            for event in core.events():
                ConnectionLog("c1").event(event, core.stats)
    told = [(record.levelno, record.getMessage(), fields_of(record).get("missed")) for record in records]
    assert told[:3] == [
        (logging.DEBUG, "heartbeat_ping c1", 0),
        (logging.WARNING, "heartbeat_missed c1", 1),
        (logging.WARNING, "heartbeat_missed c1", 2),
    ]
    assert [message for _, message, _ in told[3:]] == ["connection_closed c1"]
    assert fields_of(records[-1])["cause"] == "heartbeat"


def test_a_stall_of_our_own_and_a_frame_near_the_limit_are_warnings() -> None:
    core = ConnectionProtocol(
        Role.SERVER, ConnectionConfig(heartbeat=HeartbeatConfig(), limits=FrameLimits(warn_threshold=5)), now=0.0
    )
    client = ConnectionProtocol(Role.CLIENT, now=0.0)
    client.send("12345", 0.0)
    core.handle_timeout(1000.0)
    core.receive_data(client.data_to_send(), 1000.0)
    with logged() as records:
        events = [*core.events()]
        for event in events:
            ConnectionLog("c1").event(event, core.stats)
    assert {type(event) for event in events} >= {HeartbeatStalled, FrameSizeWarning, Message}
    told = {fields_of(record)["type"]: record for record in records}
    assert fields_of(told["heartbeat_stalled"])["late_by"] > 900.0
    assert fields_of(told["frame_size_warning"])["size"] == 5
    assert told["heartbeat_stalled"].levelno == told["frame_size_warning"].levelno == logging.WARNING


def test_an_application_that_takes_no_messages_is_a_warning() -> None:
    with logged() as records:
        ConnectionLog("c1").event(UnreadWarning(30.0101), ConnectionProtocol(Role.SERVER, now=0.0).stats)
    (record,) = records
    assert (record.levelno, record.getMessage()) == (logging.WARNING, "unread_warning c1")
    assert fields_of(record)["age"] == 30.01


@pytest.mark.parametrize("event", [Message("hi", 2), PingReceived(b"1"), PongReceived(b"1", 0.1)])
def test_what_happens_all_the_time_is_worth_no_line(event: Event) -> None:
    with logged() as records:
        ConnectionLog("c1").event(event, NOTHING)
    assert records == []


CALLS: list[tuple[Callable[[ConnectionLog], None], int, str, dict[str, Any]]] = [
    (ConnectionLog.auth_renewed, logging.INFO, "auth_renewed", {}),
    (
        lambda log: log.auth_failed("invalid", "another subject"),
        logging.WARNING,
        "auth_failed",
        {"reason": "invalid", "detail": "another subject"},
    ),
    (
        lambda log: log.rate_limited(1.5, 3),
        logging.WARNING,
        "rate_limited",
        {"retry_after": 1.5, "violations": 3},
    ),
    (ConnectionLog.handler_stuck, logging.ERROR, "handler_stuck_error", {}),
    (lambda log: log.auth_error(ValueError("no")), logging.ERROR, "auth_error", {}),
    (lambda log: log.handler_error(ValueError("no")), logging.ERROR, "handler_error", {}),
    (lambda log: log.request_error("7", ValueError("no")), logging.ERROR, "request_error", {"request_id": "7"}),
]


@pytest.mark.parametrize(("call", "level", "event_type", "fields"), CALLS, ids=[entry[2] for entry in CALLS])
def test_each_line_of_a_connection_says_which_and_whose(
    call: Callable[[ConnectionLog], None], level: int, event_type: str, fields: dict[str, Any]
) -> None:
    with logged() as records:
        call(ConnectionLog("c1", user_id="ada"))
    (record,) = records
    assert (record.name, record.levelno, record.getMessage()) == ("wsconnkit.connection", level, f"{event_type} c1")
    assert fields_of(record) == {"type": event_type, "connection_id": "c1", "user_id": "ada", **fields}


@pytest.mark.parametrize("call", [call for call, *_ in CALLS[-3:]], ids=[entry[2] for entry in CALLS[-3:]])
def test_an_error_comes_with_its_exception(call: Callable[[ConnectionLog], None]) -> None:
    with logged() as records:
        call(ConnectionLog("c1", secrets=[TOKEN]))
    assert records[0].exc_info is not None
    assert str(records[0].exc_info[1]) == "no"


def test_of_many_things_a_line_tells_at_once_and_then_every_ten_seconds() -> None:
    seldom = Seldom()
    assert [seldom.count(now) for now in (5.0, 5.0, 14.9, 15.0, 15.1, 90.0, 90.0)] == [1, 0, 0, 3, 0, 2, 0]


def test_lines_of_the_server_say_what_they_are_about() -> None:
    with logged() as records:
        log_refused(403, "origin", remote_address=PEER, client_ip="198.51.100.7", user_id="ada")
        log_refused(400, "request", remote_address=PEER)
        log_auth_failed("expired", "ExpiredSignatureError", [], remote_address=PEER, client_ip="198.51.100.7")
        log_handshakes_dropped(3, "max_handshakes", "198.51.100.7")
        log_draining(7, 10.0, 15.0)
        log_server_error("auth_error", error := ValueError("no"))
    who = {"remote_address": PEER, "client_ip": "198.51.100.7"}
    assert {record.name for record in records} == {"wsconnkit.server"}
    assert [(record.levelno, record.getMessage()) for record in records] == [
        (logging.INFO, "upgrade_refused"),
        (logging.INFO, "upgrade_refused"),
        (logging.WARNING, "auth_failed"),
        (logging.WARNING, "server_handshakes_dropped"),
        (logging.INFO, "server_draining"),
        (logging.ERROR, "auth_error"),
    ]
    assert [fields_of(record) for record in records] == [
        {"type": "upgrade_refused", "status": 403, "reason": "origin", **who, "user_id": "ada"},
        {"type": "upgrade_refused", "status": 400, "reason": "request", "remote_address": PEER},
        {"type": "auth_failed", "reason": "expired", "detail": "ExpiredSignatureError", **who},
        {"type": "server_handshakes_dropped", "count": 3, "cap": "max_handshakes", "client_ip": "198.51.100.7"},
        {"type": "server_draining", "connections": 7, "window": 10.0, "grace": 15.0},
        {"type": "auth_error"},
    ]
    assert records[-1].exc_info == (ValueError, error, None)


def test_a_line_that_nobody_wants_costs_nothing() -> None:
    asked = []

    class Costly(Exception):
        def __str__(self) -> str:
            asked.append(self)
            return "costly"

    with logged(logging.CRITICAL) as records:
        ConnectionLog("c1", secrets=[TOKEN]).handler_error(Costly())
        log_server_error("auth_error", Costly())
        log_refused(403, "origin", remote_address=PEER)
    assert records == []
    assert asked == []


def test_an_exception_that_quotes_a_secret_is_told_without_it() -> None:
    log = ConnectionLog("c1", secrets=[TOKEN])
    with logged() as records:
        log.handler_error(raised(ValueError(f"cannot read {TOKEN!r}")))
        log_server_error("auth_error", raised(KeyError(TOKEN)), [TOKEN])
    for record in records:
        assert record.exc_info is None
        assert TOKEN not in printed(record)
    assert records[0].getMessage().startswith("handler_error c1\nTraceback (most recent call last):")
    assert records[0].getMessage().endswith("ValueError: cannot read '***'")
    assert records[1].getMessage().endswith("KeyError: '***'")


def test_a_secret_is_found_in_what_led_to_an_exception_too() -> None:
    error = RuntimeError("no such user")
    error.__cause__ = raised(KeyError(TOKEN))
    with logged() as records:
        ConnectionLog("c1", secrets=[TOKEN]).request_error("7", raised(error))
    assert TOKEN not in printed(records[0])
    assert "KeyError: '***'" in records[0].getMessage()
    assert records[0].getMessage().endswith("RuntimeError: no such user")


def test_a_secret_in_a_path_a_reason_or_a_request_id_is_not_told() -> None:
    log = ConnectionLog("c1", secrets=["other-secret", TOKEN])
    with logged() as records:
        log.opened(PEER, None, f"/ws/{TOKEN}/{TOKEN}")
        log.event(*run(reason=f"bye {TOKEN}"))
        log.request_error(f"7-{TOKEN}", ValueError())
    assert [fields_of(records[0])["path"], fields_of(records[1])["reason"], fields_of(records[2])["request_id"]] == [
        "/ws/***/***",
        "bye ***",
        "7-***",
    ]


def test_a_line_tells_how_many_tokens_were_not_looked_at() -> None:
    with logged() as records:
        log_auth_limited(7, "198.51.100.7", 5.12345)
    (record,) = records
    assert (record.name, record.levelno, record.getMessage()) == ("wsconnkit.server", logging.WARNING, "auth_limited")
    told = fields_of(record)
    assert (told["tokens"], told["client_ip"], told["retry_after"]) == (7, "198.51.100.7", 5.123)


def test_a_secret_in_the_detail_of_a_failure_is_not_told() -> None:
    with logged() as records:
        ConnectionLog("c1", secrets=[TOKEN]).auth_failed("invalid", f"cannot read {TOKEN}")
        log_auth_failed("invalid", f"cannot read {TOKEN!r}", [TOKEN], remote_address=PEER)
    assert [fields_of(record)["detail"] for record in records] == ["cannot read ***", "cannot read '***'"]


def test_a_secret_that_is_learned_later_is_not_told_from_then_on() -> None:
    log = ConnectionLog("c1", secrets=["first-secret"])
    with logged() as records:
        log.keep_out("second-secret")
        log.handler_error(ValueError("first-secret second-secret"))
    assert records[0].getMessage().endswith("ValueError: *** ***")


def test_of_ever_new_secrets_the_latest_are_remembered() -> None:
    log = ConnectionLog("c1", secrets=["first-secret", "second-secret"])
    for number in range(1000):
        log.keep_out(f"secret-{number:03}")
    assert len(log.secrets) == 2 + 16
    with logged() as records:
        log.handler_error(ValueError(" ".join(f"secret-{number:03}" for number in range(984, 1000))))
    assert "secret" not in records[0].getMessage()


def test_the_secrets_of_the_opening_are_remembered_whatever_comes_later() -> None:
    log = ConnectionLog("c1", secrets=[TOKEN])
    for number in range(1000):
        log.keep_out(f"secret-{number:03}")
    with logged() as records:
        log.handler_error(ValueError(TOKEN))
    assert TOKEN not in printed(records[0])


@SETTINGS
@given(st.text(), st.text(), st.text(), st.text())
def test_what_peers_name_is_only_in_fields_so_that_a_line_stays_a_line(
    user: str, path: str, request_id: str, reason: str
) -> None:
    log = ConnectionLog("c1", user_id=user)
    reason = reason.encode("utf-8", "ignore")[:100].decode("utf-8", "ignore")
    with logged() as records:
        log.opened(("192.0.2.1", 1), None, path)
        log.request_error(request_id, ValueError())
        log.event(*run(reason=reason))
        log.auth_failed("invalid", reason)
    assert [record.getMessage() for record in records] == [
        "connection_opened c1",
        "request_error c1",
        "connection_closed c1",
        "auth_failed c1",
    ]
    opened, failed, closed, _ = map(fields_of, records)
    assert {opened["user_id"], failed["user_id"], closed["user_id"]} == {user}
    assert (opened["path"], failed["request_id"], closed["reason"]) == (path, request_id, reason)


# Of characters that are in none of our own words.
secret = st.text("XYZQ~+", min_size=4, max_size=12)


@SETTINGS
@given(st.lists(secret, min_size=1, max_size=4), st.text("XYZQ~+ ", max_size=20), st.integers(0, 3))
def test_no_secret_is_in_any_line_however_secrets_overlap(secrets: list[str], noise: str, later: int) -> None:
    words = noise + "".join(secrets) + noise.join(secrets) + noise
    log = ConnectionLog("c1", user_id="ada", secrets=secrets[later:])
    for late in secrets[:later]:
        log.keep_out(late)
    with logged() as records:
        log.opened(PEER, None, "/" + words)
        log.event(*run(reason=words[:100]))
        log.handler_error(raised(ValueError(words)))
        log.auth_error(raised(KeyError(words)))
        log.request_error(words, raised(OSError(2, words, words)))
        log_server_error("http_error", raised(RuntimeError(words, [words])), secrets)
    assert len(records) == 6
    for record in records:
        assert not [word for word in secrets if word in printed(record)]


def test_each_cause_can_be_told() -> None:
    core = ConnectionProtocol(Role.SERVER, now=0.0)
    with logged() as records:
        for cause in Cause:
            core = ConnectionProtocol(Role.SERVER, now=0.0)
            core.close(cause.code if cause is not Cause.TRANSPORT_LOST else 1000, "", 0.0, cause=cause)
            core.receive_eof(0.0)
            for event in core.events():
                ConnectionLog("c1").event(event, core.stats)
    assert [fields_of(record)["cause"] for record in records] == [cause.value for cause in Cause]


class Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the disk is full")


@pytest.mark.parametrize("tells", [True, False])
def test_a_handler_that_fails_keeps_nobody_from_what_comes_after(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tells: bool
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", tells)
    logger, handler = logging.getLogger("wsconnkit.server"), Broken()
    logger.addHandler(handler)
    try:
        log_draining(1, 2.0, 3.0)
    finally:
        logger.removeHandler(handler)
    assert ("the disk is full" in capsys.readouterr().err) is tells


def test_a_client_that_comes_back_gives_up_or_is_done_says_so() -> None:
    with logged() as records:
        log_retry("ws://example.org/", 2, 1.23456, OSError(f"no {TOKEN}"), [TOKEN])
        log_stopped("ws://example.org/", 10, ValueError(TOKEN), [TOKEN])
        log_stopped("ws://example.org/", 0, None, [TOKEN])
    assert [(record.name, record.levelno) for record in records] == [
        ("wsconnkit.client", logging.INFO),
        ("wsconnkit.client", logging.WARNING),
        ("wsconnkit.client", logging.INFO),
    ]
    assert [fields_of(record) for record in records] == [
        {
            "type": "connection_retry",
            "uri": "ws://example.org/",
            "attempt": 2,
            "delay": 1.235,
            "error": "OSError: no ***",
        },
        {"type": "connection_gave_up", "uri": "ws://example.org/", "attempts": 10, "error": "ValueError: ***"},
        {"type": "connection_done", "uri": "ws://example.org/"},
    ]

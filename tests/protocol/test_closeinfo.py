from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from wsconnkit.machines.closecodes import may_send
from wsconnkit.machines.closing import State
from wsconnkit.protocol.closeinfo import Cause, CloseFrame, CloseInfo, Initiator

PEER_CLOSED = CloseInfo(
    cause=Cause.PEER_CLOSE,
    initiator=Initiator.PEER,
    phase=State.CLOSE_EXCHANGED,
    sent=CloseFrame(1000, "echo"),
    rcvd=CloseFrame(1000, "bye"),
    rcvd_then_sent=True,
    error=None,
    last_byte_in_age=0.5,
    last_byte_out_age=0.25,
)
WE_CLOSED = replace(
    PEER_CLOSED,
    cause=Cause.LOCAL_CLOSE,
    initiator=Initiator.LOCAL,
    sent=CloseFrame(1001, "restart"),
    rcvd=CloseFrame(1001, "echo"),
    rcvd_then_sent=False,
)
LOST = replace(
    PEER_CLOSED,
    cause=Cause.TRANSPORT_LOST,
    initiator=Initiator.TRANSPORT,
    phase=State.OPEN,
    sent=None,
    rcvd=None,
    rcvd_then_sent=None,
)
UNANSWERED = replace(WE_CLOSED, phase=State.CLOSE_SENT, rcvd=None, rcvd_then_sent=None)


def test_code_and_reason_are_those_of_whoever_began() -> None:
    sent, rcvd = CloseFrame(4001, "ours"), CloseFrame(4002, "theirs")
    ours = replace(WE_CLOSED, sent=sent, rcvd=rcvd)
    theirs = replace(PEER_CLOSED, sent=sent, rcvd=rcvd)
    assert (ours.code, ours.reason) == (4001, "ours")
    assert (theirs.code, theirs.reason) == (4002, "theirs")


def test_code_is_1006_without_a_reason_where_the_transport_ended_without_close_frames() -> None:
    assert (LOST.code, LOST.reason) == (1006, "")


def test_a_close_that_the_peer_did_not_answer_keeps_our_code_but_is_not_clean() -> None:
    assert (UNANSWERED.code, UNANSWERED.reason, UNANSWERED.clean, UNANSWERED.ok) == (1001, "restart", False, False)


@pytest.mark.parametrize("order", [True, False])
def test_clean_in_either_order_of_the_close_frames(order: bool) -> None:
    assert replace(PEER_CLOSED, rcvd_then_sent=order).clean


@pytest.mark.parametrize(
    ("code", "ok"),
    [(1000, True), (1001, True), (1005, True), (1002, False), (1011, False), (1012, False), (4000, False)],
)
def test_ok_only_for_codes_that_say_that_the_work_was_done(code: int, ok: bool) -> None:
    assert replace(PEER_CLOSED, rcvd=CloseFrame(code, "")).ok is ok
    assert replace(WE_CLOSED, sent=CloseFrame(code, "")).ok is ok


def test_not_ok_without_both_close_frames_even_with_code_1000() -> None:
    assert not replace(UNANSWERED, sent=CloseFrame(1000, "")).ok


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (PEER_CLOSED, "1000 (normal closure) 'bye', begun by the peer, cause peer_close"),
        (WE_CLOSED, "1001 (going away) 'restart', begun by us, cause local_close"),
        (
            LOST,
            "1006 (abnormal closure), begun by the transport, cause transport_lost, no Close frames exchanged",
        ),
        (
            UNANSWERED,
            "1001 (going away) 'restart', begun by us, cause local_close, handshake incomplete",
        ),
        (
            replace(PEER_CLOSED, sent=None, rcvd_then_sent=None),
            "1000 (normal closure) 'bye', begun by the peer, cause peer_close, handshake incomplete",
        ),
        (
            replace(LOST, error=ConnectionResetError(104, "Connection reset by peer")),
            "1006 (abnormal closure), begun by the transport, cause transport_lost, no Close frames exchanged, "
            "[Errno 104] Connection reset by peer",
        ),
    ],
)
def test_text_tells_the_whole_story(info: CloseInfo, text: str) -> None:
    assert str(info) == text


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        PEER_CLOSED.cause = Cause.IDLE  # type: ignore[misc]


def test_values_of_the_enums_are_the_words_that_logs_and_metrics_use() -> None:
    assert all(cause.value == cause.name.lower() for cause in Cause)
    assert all(initiator.value == initiator.name.lower() for initiator in Initiator)


def test_every_cause_has_a_code_that_may_be_sent_but_for_the_loss_of_the_transport() -> None:
    assert {cause for cause in Cause if not may_send(cause.code)} == {Cause.TRANSPORT_LOST}


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (Cause.LOCAL_CLOSE, 1000),
        (Cause.HANDLER_ERROR, 1011),
        (Cause.HEARTBEAT, 1001),
        (Cause.IDLE, 1001),
        (Cause.TOO_BIG, 1009),
        (Cause.PROTOCOL_ERROR, 1002),
        (Cause.INVALID_DATA, 1007),
        (Cause.SLOW_CONSUMER, 1013),
        (Cause.RATE_LIMIT, 1008),
        (Cause.AUTH_EXPIRED, 1008),
        (Cause.DRAIN, 1001),
    ],
)
def test_causes_close_with_the_codes_that_peers_act_on(cause: Cause, code: int) -> None:
    assert cause.code == code

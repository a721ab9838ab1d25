from __future__ import annotations

import pytest

from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.machines.closing import State
from wsconnkit.protocol.closeinfo import Cause, CloseFrame, CloseInfo, Initiator
from wsconnkit.protocol.closerecord import CloseRecord
from wsconnkit.protocol.frames import FrameError

OURS, THEIRS = CloseFrame(1001, "ours"), CloseFrame(1000, "theirs")


def test_of_an_end_that_nothing_announced_only_the_transport_is_known() -> None:
    record = CloseRecord(10.0)
    assert record.info(State.OPEN, 12.5, is_stuck=False) == CloseInfo(
        cause=Cause.TRANSPORT_LOST,
        initiator=Initiator.TRANSPORT,
        phase=State.OPEN,
        sent=None,
        rcvd=None,
        rcvd_then_sent=None,
        error=None,
        last_byte_in_age=2.5,
        last_byte_out_age=2.5,
    )


def test_all_that_was_told_is_in_the_info() -> None:
    record = CloseRecord(0.0)
    record.last_byte_in_at, record.last_byte_out_at = 3.0, 4.0
    record.begin(Cause.DRAIN, Initiator.LOCAL)
    record.on_sent(OURS)
    record.on_received(THEIRS)
    error = OSError("reset")
    record.on_error(error)
    assert record.info(State.CLOSE_EXCHANGED, 5.0, is_stuck=False) == CloseInfo(
        cause=Cause.DRAIN,
        initiator=Initiator.LOCAL,
        phase=State.CLOSE_EXCHANGED,
        sent=OURS,
        rcvd=THEIRS,
        rcvd_then_sent=False,
        error=error,
        last_byte_in_age=2.0,
        last_byte_out_age=1.0,
    )


def test_the_first_cause_and_the_first_error_count() -> None:
    record = CloseRecord(0.0)
    record.begin(Cause.PEER_CLOSE, Initiator.PEER)
    record.begin(Cause.LOCAL_CLOSE, Initiator.LOCAL)
    first = OSError("first")
    for error in (None, first, None, OSError("second")):
        record.on_error(error)
    info = record.info(State.FAILING, 0.0, is_stuck=False)
    assert (info.cause, info.initiator, info.error) == (Cause.PEER_CLOSE, Initiator.PEER, first)


@pytest.mark.parametrize("is_stuck", [False, True])
@pytest.mark.parametrize("theirs_first", [False, True])
def test_the_order_of_the_close_frames_is_known_when_both_have_gone(theirs_first: bool, is_stuck: bool) -> None:
    record = CloseRecord(0.0)
    if theirs_first:
        record.on_received(THEIRS)
        record.on_sent(OURS)
    else:
        record.on_sent(OURS)
        record.on_received(THEIRS)
    info = record.info(State.CLOSE_EXCHANGED, 0.0, is_stuck=is_stuck)
    assert (info.sent, info.rcvd) == (OURS, THEIRS)
    assert info.rcvd_then_sent == (None if is_stuck else theirs_first)


def test_a_close_that_has_no_answer_has_no_order() -> None:
    record = CloseRecord(0.0)
    record.on_sent(OURS)
    assert record.info(State.CLOSE_SENT, 0.0, is_stuck=False).rcvd_then_sent is None


@pytest.mark.parametrize("end", [THEIRS, FrameError(CloseCode.PROTOCOL_ERROR, Cause.PROTOCOL_ERROR, "wrong")])
def test_an_end_is_held_until_it_is_released_once(end: CloseFrame | FrameError) -> None:
    record = CloseRecord(0.0)
    assert (record.held, record.release()) == (None, None)
    record.hold(end, 2.0)
    assert (record.held, record.held_at) == (end, 2.0)
    assert record.release() is end
    assert (record.held, record.release()) == (None, None)
    assert record.info(State.OPEN, 3.0, is_stuck=False).rcvd is None

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from wsconnkit.machines.closing import State
from wsconnkit.protocol import events
from wsconnkit.protocol.closeinfo import Cause, CloseInfo, Initiator

INFO = CloseInfo(
    cause=Cause.TRANSPORT_LOST,
    initiator=Initiator.TRANSPORT,
    phase=State.OPEN,
    sent=None,
    rcvd=None,
    rcvd_then_sent=None,
    error=None,
    last_byte_in_age=0.0,
    last_byte_out_age=0.0,
)
ALL: list[events.Event] = [
    events.Message("é", 2),
    events.MessageDiscarded(2),
    events.PingReceived(b"p"),
    events.PongReceived(b"p", 0.5),
    events.HeartbeatPinged(1),
    events.HeartbeatStalled(2.0),
    events.FrameSizeWarning(3),
    events.UnreadWarning(30.0),
    events.Closed(INFO),
]


def test_a_message_is_whole_unless_it_says_otherwise() -> None:
    assert events.Message("é", 2).final
    assert events.Message("é", 2) == ("é", 2, True)
    assert not events.Message(b"", 0, final=False).final


@pytest.mark.parametrize("event", ALL, ids=lambda event: type(event).__name__)
def test_events_cannot_be_changed(event: events.Event) -> None:
    field = "data" if isinstance(event, events.Message) else next(iter(event.__slots__))
    with pytest.raises((FrozenInstanceError, AttributeError)):
        setattr(event, field, None)


def test_events_compare_by_what_they_say() -> None:
    assert events.PingReceived(b"p") == events.PingReceived(b"p")
    assert events.PongReceived(b"p", None) != events.PongReceived(b"p", 0.5)
    assert len(set(ALL)) == len(ALL)

from __future__ import annotations

import pytest

from wsconnkit.managed.broadcast import broadcast
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.prepared import Content, PreparedMessage


class Recipient:
    """Takes messages, or not, and leaves `room` with the first one."""

    def __init__(self, room: set[Recipient], *, takes: bool = True) -> None:
        self._room = room
        self._takes = takes
        self.given: list[Content | PreparedMessage] = []
        room.add(self)

    def send_nowait(self, message: Content | PreparedMessage) -> bool:
        self.given.append(message)
        self._room.discard(self)
        return self._takes


def test_all_are_given_the_same_prepared_message_also_those_who_leave_meanwhile() -> None:
    room: set[Recipient] = set()
    everyone = [Recipient(room, takes=number != 1) for number in range(3)]
    assert broadcast(room, "hello") == 2
    given = [message for recipient in everyone for message in recipient.given]
    assert len(given) == 3
    assert isinstance(given[0], PreparedMessage)
    assert given[0].payload == b"hello"
    assert given[0] is given[1] is given[2]


def test_a_message_that_is_prepared_already_goes_out_as_it_is() -> None:
    recipient, prepared = Recipient(set()), PreparedMessage(b"\x00")
    assert broadcast(iter([recipient]), prepared) == 1
    assert recipient.given == [prepared]


def test_what_cannot_be_sent_is_refused_whoever_is_there() -> None:
    with pytest.raises(LocalProtocolError):
        broadcast([], "\ud800")
    assert broadcast([], "nobody") == 0

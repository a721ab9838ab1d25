from __future__ import annotations

import pytest

from wsconnkit.protocol.config import CloseConfig, ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.frames import Opcode, Role, encode_frame
from wsconnkit.protocol.transportaction import TransportAction

CONFIG = ConnectionConfig(compression=None, heartbeat=None, close=CloseConfig(timeout=2.0))


@pytest.mark.parametrize(
    ("role", "exchanged"), [(Role.SERVER, TransportAction.SEND_EOF), (Role.CLIENT, TransportAction.OPEN)]
)
def test_the_server_ends_its_direction_first_and_nobody_waits_for_ever(role: Role, exchanged: TransportAction) -> None:
    # RFC 6455, section 7.1.1: the server closes first, so that TIME_WAIT stays with it.
    connection = ConnectionProtocol(role, CONFIG, now=0.0)
    mask = b"mask" if role is Role.SERVER else None
    connection.receive_data(encode_frame(Opcode.CLOSE, b"\x03\xe8", mask=mask), 0.0)
    assert [*connection.events()] == []
    assert connection.transport_action == exchanged
    while (deadline := connection.next_timeout()) is not None:
        connection.handle_timeout(deadline)
    assert connection.transport_action == TransportAction.ABORT


def test_a_transport_that_ends_is_to_be_released() -> None:
    connection = ConnectionProtocol(Role.SERVER, CONFIG, now=0.0)
    connection.receive_eof(0.0)
    assert len(list(connection.events())) == 1
    assert connection.transport_action == TransportAction.ABORT

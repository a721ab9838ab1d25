"""What wsproto's own handshake does, and why ours is over h11: a failure here says that wsproto has changed."""

from __future__ import annotations

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, Request, TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.handshake import server_extensions_handshake
from wsproto.utilities import RemoteProtocolError

from wsconnkit.protocol.frames import Opcode, encode_frame

HEAD = (
    "GET /ws HTTP/{version}\r\n"
    "Host: example.org\r\n"
    "Connection: {connection}\r\n"
    "Upgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "{headers}\r\n"
)


def request(*, version: str = "1.1", connection: str = "Upgrade", headers: str = "") -> bytes:
    return HEAD.format(version=version, connection=connection, headers=headers).encode("latin-1")


def server_with(data: bytes) -> tuple[WSConnection, list[Event]]:
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(data)
    return server, list(server.events())


def test_a_usual_request_is_accepted() -> None:
    # What the other tests vary.
    server, events = server_with(request())
    assert [type(event) for event in events] == [Request]
    assert server.send(AcceptConnection()).startswith(b"HTTP/1.1 101 ")


def test_http_1_0_is_accepted() -> None:
    server, events = server_with(request(version="1.0"))
    assert [type(event) for event in events] == [Request]
    assert server.send(AcceptConnection()).startswith(b"HTTP/1.1 101 ")


def test_bytes_outside_ascii_in_connection_raise() -> None:
    with pytest.raises(UnicodeDecodeError):
        server_with(request(connection="Upgrade, \xff"))


def test_frames_that_come_with_the_request_are_lost() -> None:
    server, _ = server_with(request() + encode_frame(Opcode.TEXT, b"lost", mask=b"\x01\x02\x03\x04"))
    server.send(AcceptConnection())
    assert list(server.events()) == []
    server.receive_data(encode_frame(Opcode.TEXT, b"found", mask=b"\x01\x02\x03\x04"))
    assert [event.data for event in server.events() if isinstance(event, TextMessage)] == ["found"]


def test_the_limit_on_the_head_is_fixed_and_holds_only_for_a_head_in_pieces() -> None:
    large = request(headers="X-A: " + "a" * 100_000 + "\r\n")
    assert [type(event) for event in server_with(large)[1]] == [Request]
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(large[:16_384])
    with pytest.raises(RemoteProtocolError, match="Bad HTTP message"):
        server.receive_data(large[16_384:20_000])


@pytest.mark.parametrize(
    "parameter", ["client_max_window_bits=x", "server_max_window_bits=", "server_max_window_bits=1.5"]
)
def test_malformed_deflate_offers_raise_value_error(parameter: str) -> None:
    server, events = server_with(request(headers=f"Sec-WebSocket-Extensions: permessage-deflate; {parameter}\r\n"))
    assert [type(event) for event in events] == [Request]
    with pytest.raises(ValueError, match="invalid literal for int"):
        server.send(AcceptConnection(extensions=[PerMessageDeflate()]))


def test_a_declined_deflate_offer_leaks_its_parameters_into_the_next() -> None:
    several = ["permessage-deflate; server_no_context_takeover; server_max_window_bits=7", "permessage-deflate"]
    extension = PerMessageDeflate()
    assert extension.accept(several[0]) is None
    assert extension.accept(several[1]) == "server_no_context_takeover"
    answer = server_extensions_handshake(several, [PerMessageDeflate()])
    assert answer == b"permessage-deflate; server_no_context_takeover"


def test_unknown_and_repeated_deflate_parameters_are_not_declined() -> None:
    assert PerMessageDeflate().accept("permessage-deflate; unknown") == ""
    twice = "permessage-deflate; server_max_window_bits=10; server_max_window_bits=11"
    assert PerMessageDeflate().accept(twice) == "server_max_window_bits=11"


def test_extensions_of_a_client_that_were_not_negotiated_are_dropped() -> None:
    # So a local extension, such as one that judges frames by their headers, never sees a frame.
    client, server = WSConnection(ConnectionType.CLIENT), WSConnection(ConnectionType.SERVER)
    server.receive_data(client.send(Request(host="example.org", target="/", extensions=[PerMessageDeflate()])))
    client.receive_data(server.send(AcceptConnection()))
    (event,) = client.events()
    assert isinstance(event, AcceptConnection)
    assert event.extensions == []

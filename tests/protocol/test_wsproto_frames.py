"""What bare wsproto leaves to us, row by row, and what a connection of ours does in its place.

A test named `test_wsproto_…` that fails says that wsproto has changed: see whether our own code for it can go.
"""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import pytest
from wsproto import connection as wsproto_connection
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits
from wsproto.utilities import LocalProtocolError as WsprotoLocalProtocolError

from wsconnkit.machines.closing import State
from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.protocol import events as ours
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.deflate import DeflateParams
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.frames import Role

CONTINUATION, TEXT, BINARY, CLOSE, PING = 0x0, 0x1, 0x2, 0x8, 0x9
TAKEOVER = DeflateParams(False, False, 15, 15)
TIB = 1 << 40


def wire(opcode: int, payload: bytes = b"", *, fin: bool = True, compressed: bool = False) -> bytes:
    """A frame as a server sends it."""
    first = opcode | (128 if fin else 0) | (64 if compressed else 0)
    if len(payload) < 126:
        return struct.pack("!BB", first, len(payload)) + payload
    assert len(payload) < 65536
    return struct.pack("!BBH", first, 126, len(payload)) + payload


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def bare(*extensions: Extension) -> wsproto_connection.Connection:
    return wsproto_connection.Connection(wsproto_connection.CLIENT, list(extensions))


def bare_deflate() -> PerMessageDeflate:
    extension = PerMessageDeflate()
    extension.finalize("permessage-deflate")
    return extension


def fed(connection: wsproto_connection.Connection, data: bytes | None) -> list[Event]:
    connection.receive_data(data)
    return list(connection.events())


def own(limits: FrameLimits | None = None, deflate: DeflateParams | None = None) -> ConnectionProtocol:
    return ConnectionProtocol(Role.CLIENT, ConnectionConfig(limits=limits or FrameLimits()), now=0.0, deflate=deflate)


def own_fed(connection: ConnectionProtocol, data: bytes) -> list[ours.Event]:
    connection.receive_data(data, 0.0)
    events = list(connection.events())
    connection.handle_timeout(0.0)  # an end that came behind messages has waited for answers to them
    return events


# A parse failure.


def test_wsproto_tells_of_a_parse_failure_as_of_a_close_stays_open_and_goes_on_buffering() -> None:
    connection = bare()
    (event,) = fed(connection, wire(3))
    assert isinstance(event, CloseConnection)
    assert event.code is CloseReason.PROTOCOL_ERROR
    assert connection.state is ConnectionState.OPEN
    for _ in range(10):
        assert fed(connection, bytes(100_000)) == []
    assert len(connection._proto._frame_decoder.buffer) >= 1_000_000


def test_we_fail_the_connection_and_keep_nothing_that_follows() -> None:
    connection = own()
    assert own_fed(connection, wire(3)) == []
    assert connection.state is State.FAILING
    assert connection.data_to_send()[:1] == b"\x88"
    tracemalloc.start()
    try:
        for _ in range(10):
            assert own_fed(connection, bytes(100_000)) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 50_000


# After the end.


def test_wsproto_tells_of_a_second_close_when_the_transport_ends_after_a_clean_one() -> None:
    connection = bare()
    (close,) = fed(connection, wire(CLOSE, b"\x03\xe8"))
    assert isinstance(close, CloseConnection)
    connection.send(close.response())
    assert connection.state is ConnectionState.CLOSED
    assert fed(connection, None) == [CloseConnection(code=CloseReason.ABNORMAL_CLOSURE)]


def test_wsproto_raises_for_data_after_closed() -> None:
    connection = bare()
    (close,) = fed(connection, wire(CLOSE))
    assert isinstance(close, CloseConnection)
    connection.send(close.response())
    with pytest.raises(WsprotoLocalProtocolError, match="already closed"):
        connection.receive_data(b"x")


def test_we_tell_of_one_end_and_swallow_what_follows() -> None:
    connection = own()
    assert own_fed(connection, wire(CLOSE, b"\x03\xe8")) == []
    connection.receive_eof(0.0)
    (closed,) = connection.events()
    assert isinstance(closed, ours.Closed)
    assert closed.info.ok
    connection.receive_eof(0.0)
    assert own_fed(connection, wire(TEXT, b"late")) == []


def test_wsproto_raises_for_a_pong_after_our_close() -> None:
    connection = bare()
    connection.send(CloseConnection(code=1000))
    (ping,) = fed(connection, wire(PING, b"p"))
    assert isinstance(ping, Ping)
    with pytest.raises(WsprotoLocalProtocolError, match="LOCAL_CLOSING"):
        connection.send(ping.response())


def test_we_answer_no_ping_after_our_close() -> None:
    connection = own()
    connection.close(1000, "", 0.0)
    connection.data_to_send()
    own_fed(connection, wire(PING, b"p"))
    assert connection.data_to_send() == b""


# Compression.


def test_wsproto_inflates_without_bound() -> None:
    size = 8 * 1024 * 1024
    payload = deflated(bytes(size))
    assert len(payload) < 10_000
    (event,) = fed(bare(bare_deflate()), wire(BINARY, payload, compressed=True))
    assert isinstance(event, BytesMessage)
    assert len(event.data) == size


def test_we_inflate_up_to_the_message_limit() -> None:
    connection = own(deflate=TAKEOVER)
    payload = deflated(bytes(8 * 1024 * 1024))
    tracemalloc.start()
    try:
        assert own_fed(connection, wire(BINARY, payload, compressed=True)) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024 * 1024
    connection.receive_eof(0.0)
    (closed,) = connection.events()
    assert isinstance(closed, ours.Closed)
    assert (closed.info.code, closed.info.cause) == (1009, Cause.TOO_BIG)


def test_wsproto_stops_inflating_at_a_control_frame_within_a_message() -> None:
    connection = bare(bare_deflate())
    payload = deflated(b"hello" * 10)
    data = wire(BINARY, payload[:3], fin=False, compressed=True) + wire(PING) + wire(CONTINUATION, payload[3:])
    message = b"".join(bytes(event.data) for event in fed(connection, data) if isinstance(event, BytesMessage))
    assert message != b"hello" * 10
    assert message.endswith(payload[3:])
    (following,) = fed(connection, wire(BINARY, payload, compressed=True))
    assert isinstance(following, BytesMessage)
    assert following.data != b"hello" * 10


def test_wsproto_fails_on_the_message_after_one_with_a_final_block() -> None:
    connection = bare(bare_deflate())
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    final = compressor.compress(b"final") + compressor.flush(zlib.Z_FINISH) + b"\x00"
    assert fed(connection, wire(BINARY, final, compressed=True)) == [BytesMessage(data=b"final")]
    (event,) = fed(connection, wire(BINARY, deflated(b"next"), compressed=True))
    assert isinstance(event, CloseConnection)
    assert event.code is CloseReason.INVALID_FRAME_PAYLOAD_DATA


def test_we_inflate_past_control_frames_and_final_blocks() -> None:
    connection = own(deflate=TAKEOVER)
    payload = deflated(b"hello" * 10)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    final = compressor.compress(b"final") + compressor.flush(zlib.Z_FINISH) + b"\x00"
    data = wire(BINARY, payload[:3], fin=False, compressed=True) + wire(PING) + wire(CONTINUATION, payload[3:])
    data += wire(BINARY, final, compressed=True) + wire(BINARY, deflated(b"next"), compressed=True)
    messages = [event for event in own_fed(connection, data) if isinstance(event, ours.Message)]
    assert b"".join(bytes(part.data) for part in messages[:2] if isinstance(part.data, bytes)) == b"hello" * 10
    assert [message.data for message in messages[2:]] == [b"final", b"next"]


# Limits.


def test_wsproto_accepts_a_frame_of_any_size() -> None:
    connection = bare()
    assert fed(connection, b"\x82\x7f" + struct.pack("!Q", TIB)) == []
    (event,) = fed(connection, b"x")
    assert event == BytesMessage(data=b"x", frame_finished=False, message_finished=False)


def test_wsproto_accepts_messages_of_any_size_and_any_number_of_fragments() -> None:
    connection = bare()
    assert len(fed(connection, wire(BINARY, fin=False) + wire(CONTINUATION, fin=False) * 5000)) == 5001
    for _ in range(40):
        (event,) = fed(connection, wire(CONTINUATION, bytes(65535), fin=False))
        assert isinstance(event, BytesMessage)
    assert connection.state is ConnectionState.OPEN


@pytest.mark.parametrize(
    ("limits", "data"),
    [
        (FrameLimits(), b"\x82\x7f" + struct.pack("!Q", TIB)),
        (FrameLimits(max_message_size=65535), wire(BINARY, bytes(65535), fin=False) + wire(CONTINUATION, b"x")),
        (FrameLimits(max_fragments=5000), wire(BINARY, fin=False) + wire(CONTINUATION, fin=False) * 5000),
    ],
)
def test_we_limit_frames_messages_and_fragments(limits: FrameLimits, data: bytes) -> None:
    connection = own(limits)
    own_fed(connection, data)
    assert connection.state is State.FAILING
    connection.receive_eof(0.0)
    (closed,) = connection.events()
    assert isinstance(closed, ours.Closed)
    assert (closed.info.code, closed.info.cause) == (1009, Cause.TOO_BIG)


class Recorder(Extension):
    name = "recorder"

    def __init__(self, verdict: CloseReason | None = None) -> None:
        self.headers: list[int] = []
        self.payload = b""
        self.verdict = verdict

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        self.headers.append(payload_length)
        return self.verdict or RsvBits(False, False, False)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes:
        self.payload += data
        return data


def test_wsproto_asks_an_extension_again_while_a_masked_header_trickles_in() -> None:
    recorder = Recorder()
    connection = wsproto_connection.Connection(wsproto_connection.SERVER, [recorder])
    for byte in b"\x82\x85\x00\x00\x00\x00hello":
        fed(connection, bytes([byte]))
    assert recorder.payload == b"hello"
    assert recorder.headers == [5] * 5


def test_wsproto_lets_an_extension_refuse_a_frame_before_its_payload() -> None:
    recorder = Recorder(CloseReason.MESSAGE_TOO_BIG)
    (event,) = fed(bare(recorder), b"\x82\x7f" + struct.pack("!Q", TIB))
    assert isinstance(event, CloseConnection)
    assert event.code is CloseReason.MESSAGE_TOO_BIG
    assert recorder.payload == b""


def test_we_count_a_trickled_masked_frame_once() -> None:
    connection = ConnectionProtocol(Role.SERVER, ConnectionConfig(limits=FrameLimits(max_fragments=1)), now=0.0)
    received = [event for byte in b"\x82\x85\x00\x00\x00\x00hello" for event in own_fed(connection, bytes([byte]))]
    assert received == [ours.Message(b"hello", 5)]
    assert connection.stats.frames.total_frames == 1


# Boundaries.


def test_wsproto_events_follow_read_boundaries_and_text_is_counted_in_characters() -> None:
    connection = bare()
    data = wire(TEXT, "né".encode())
    assert fed(connection, data[:-1]) == [TextMessage(data="n", frame_finished=False, message_finished=False)]
    assert fed(connection, data[-1:]) == [TextMessage(data="é")]


def test_our_messages_follow_frames_and_are_counted_in_bytes() -> None:
    connection = own()
    data = wire(TEXT, "né".encode())
    assert own_fed(connection, data[:-1]) == []
    assert own_fed(connection, data[-1:]) == [ours.Message("né", 3)]


# Close codes.


@pytest.mark.parametrize("code", [0, 999, 1004, 1014, 1016, 2999, 5000, 65535])
def test_wsproto_sends_any_close_code(code: int) -> None:
    server = wsproto_connection.Connection(wsproto_connection.SERVER)
    assert server.send(CloseConnection(code=code)) == b"\x88\x02" + struct.pack("!H", code)


@pytest.mark.parametrize("code", [1005, 1006, 1015])
def test_wsproto_sends_1000_in_place_of_codes_that_never_travel(code: int) -> None:
    server = wsproto_connection.Connection(wsproto_connection.SERVER)
    assert server.send(CloseConnection(code=code, reason="r")) == b"\x88\x03\x03\xe8r"


def test_wsproto_refuses_1014_from_a_peer() -> None:
    (event,) = fed(bare(), wire(CLOSE, struct.pack("!H", 1014)))
    assert isinstance(event, CloseConnection)
    assert event.code is CloseReason.PROTOCOL_ERROR
    assert event.reason == "CLOSE with unknown reserved code"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535, 65536, -1])
def test_we_send_no_close_code_that_may_not_be_sent(code: int) -> None:
    connection = own()
    with pytest.raises(LocalProtocolError, match=f"close code {code} "):
        connection.close(code, "", 0.0)
    assert connection.state is State.OPEN
    assert connection.data_to_send() == b""


def test_we_send_and_accept_1014() -> None:
    connection = own()
    connection.close(1014, "", 0.0)
    own_fed(connection, wire(CLOSE, struct.pack("!H", 1014)))
    connection.receive_eof(0.0)
    (closed,) = connection.events()
    assert isinstance(closed, ours.Closed)
    assert closed.info.sent == closed.info.rcvd == (1014, "")

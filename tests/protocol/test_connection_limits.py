"""What a peer may make a connection hold: refused early, in every chunking, and never much more than the limit."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest

from wsconnkit.machines.closing import State
from wsconnkit.machines.compression import DirectionStats
from wsconnkit.machines.framesize import MIB, FrameLimits
from wsconnkit.protocol.closeinfo import Cause, CloseInfo, Initiator
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.deflate import DeflateParams
from wsconnkit.protocol.events import Closed, Event, FrameSizeWarning, Message, MessageDiscarded, PingReceived
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.transportaction import TransportAction

CONTINUATION, TEXT, BINARY, PING = 0x0, 0x1, 0x2, 0x9
NO_TAKEOVER = DeflateParams(True, True, 15, 15)
TAKEOVER = DeflateParams(False, False, 15, 15)
UNLIMITED = FrameLimits(max_frame_size=None, max_message_size=None, warn_threshold=None, max_fragments=None)


def wire(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """A frame as a server sends it."""
    head = struct.pack("!B", opcode | (128 if fin else 0) | (64 if rsv1 else 0))
    size = len(payload)
    if size < 126:
        return head + struct.pack("!B", size) + payload
    if size < 65536:
        return head + struct.pack("!BH", 126, size) + payload
    return head + struct.pack("!BQ", 127, size) + payload


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def opened(
    limits: FrameLimits | None = None, deflate: DeflateParams | None = None, role: Role = Role.CLIENT
) -> ConnectionProtocol:
    config = ConnectionConfig(heartbeat=None, limits=limits or FrameLimits())
    return ConnectionProtocol(role, config, now=0.0, deflate=deflate)


def fed(connection: ConnectionProtocol, data: bytes) -> list[Event]:
    connection.receive_data(data, 0.0)
    return list(connection.events())


def ended(connection: ConnectionProtocol) -> CloseInfo:
    connection.receive_eof(0.0)
    (closed,) = connection.events()
    assert isinstance(closed, Closed)
    return closed.info


def refused_as_too_big(connection: ConnectionProtocol) -> bool:
    failing = (connection.state, connection.transport_action) == (State.FAILING, TransportAction.SEND_EOF)
    info = ended(connection)
    too_big = (info.code, info.cause, info.initiator) == (1009, Cause.TOO_BIG, Initiator.LOCAL)
    return failing and too_big and connection.stats.frames.violations == 1


def chunkings(data: bytes) -> Iterator[list[bytes]]:
    for cuts in range(1 << (len(data) - 1)):
        chunks, start = [], 0
        for end in range(1, len(data) + 1):
            if end == len(data) or cuts >> (end - 1) & 1:
                chunks.append(data[start:end])
                start = end
        yield chunks


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
def test_a_frame_of_one_tebibyte_is_refused_at_its_header_in_every_chunking(role: Role) -> None:
    header = struct.pack("!BBQ", 0x82, 0xFF if role is Role.SERVER else 0x7F, 1 << 40)
    for chunks in chunkings(header):
        connection = opened(role=role)
        for chunk in chunks:
            assert connection.state is State.OPEN
            assert fed(connection, chunk) == []
        assert refused_as_too_big(connection)
        assert connection.data_to_send()[:1] == b"\x88"


@pytest.mark.parametrize("compressed", [False, True])
def test_a_frame_over_its_limit_is_refused_compressed_or_not(compressed: bool) -> None:
    connection = opened(FrameLimits(max_frame_size=200), NO_TAKEOVER)
    fed(connection, wire(BINARY, bytes(200)))
    assert connection.stats.messages_received == 1
    fed(connection, wire(BINARY, bytes(201), rsv1=compressed)[:4])
    assert refused_as_too_big(connection)


def test_a_message_over_its_limit_is_refused_at_the_header_of_the_frame_that_passes_it() -> None:
    connection = opened(FrameLimits(max_message_size=10))
    assert fed(connection, wire(TEXT, b"12345", fin=False)) == [Message("12345", 5, final=False)]
    assert fed(connection, wire(CONTINUATION, b"12345")) == [Message("12345", 5)]
    assert fed(connection, wire(TEXT, b"12345", fin=False)) == [Message("12345", 5, final=False)]
    assert fed(connection, wire(CONTINUATION, b"123456")[:2]) == []
    assert refused_as_too_big(connection)


def test_sizes_are_bytes_and_not_characters() -> None:
    connection = opened(FrameLimits(max_message_size=10))
    assert fed(connection, wire(TEXT, "é".encode() * 5)) == [Message("é" * 5, 10)]
    fed(connection, wire(TEXT, "é".encode() * 6))
    assert refused_as_too_big(connection)


def test_too_many_fragments_are_refused() -> None:
    connection = opened(FrameLimits(max_fragments=3))
    message = wire(BINARY, fin=False) + wire(PING) + wire(CONTINUATION, fin=False) + wire(CONTINUATION)
    assert len(fed(connection, message * 2)) == 8
    assert len(fed(connection, wire(BINARY, fin=False) + wire(CONTINUATION, fin=False) * 2)) == 3
    assert fed(connection, wire(CONTINUATION)) == []
    assert refused_as_too_big(connection)


def test_warnings_count_frames_on_the_wire() -> None:
    connection = opened(FrameLimits(warn_threshold=100), NO_TAKEOVER)
    data = wire(TEXT, b"x" * 99) + wire(TEXT, b"x" * 100, fin=False) + wire(CONTINUATION, b"x" * 101)
    warnings = [event for event in fed(connection, data) if isinstance(event, FrameSizeWarning)]
    assert warnings == [FrameSizeWarning(100), FrameSizeWarning(101)]
    # What inflates to a lot is small on the wire.
    assert fed(connection, wire(TEXT, deflated(b"x" * 5000), rsv1=True)) == [Message("x" * 5000, 5000)]
    assert connection.stats.frames.warnings == 2
    assert connection.stats.frames.largest_frame == 101


def test_limits_hold_after_our_own_close() -> None:
    connection = opened(FrameLimits(max_message_size=10, warn_threshold=5))
    connection.close(1000, "", 0.0)
    assert fed(connection, wire(BINARY, bytes(5))) == [FrameSizeWarning(5), MessageDiscarded(5)]
    assert fed(connection, wire(BINARY, bytes(11))[:2]) == []
    assert (connection.state, connection.transport_action) == (State.FAILING, TransportAction.SEND_EOF)
    assert ended(connection).cause is Cause.LOCAL_CLOSE


def test_without_limits_large_messages_pass_compressed_or_not() -> None:
    connection = opened(UNLIMITED, NO_TAKEOVER)
    content = bytes(2 * MIB)
    assert fed(connection, wire(BINARY, content)) == [Message(content, len(content))]
    assert fed(connection, wire(BINARY, deflated(content), rsv1=True)) == [Message(content, len(content))]


@pytest.mark.parametrize("step", [64, 1 << 20])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_deflate_bomb_is_refused_while_it_is_still_small(opcode: int, step: int) -> None:
    data = wire(opcode, deflated(bytes(64 * MIB)), rsv1=True)
    assert len(data) < 66 * 1024
    connection = opened(deflate=NO_TAKEOVER)
    tracemalloc.start()
    try:
        for i in range(0, len(data), step):
            assert fed(connection, data[i : i + step]) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB
    assert refused_as_too_big(connection)


def test_a_deflate_bomb_over_many_fragments_is_refused() -> None:
    connection = opened(FrameLimits(max_message_size=MIB), NO_TAKEOVER)
    payload = deflated(bytes(2 * MIB))
    cut = len(payload) // 8
    fed(connection, wire(BINARY, payload[:cut], fin=False, rsv1=True))
    for i in range(1, 9):
        fed(connection, wire(CONTINUATION, payload[i * cut : (i + 1) * cut], fin=False))
    assert refused_as_too_big(connection)
    assert MIB // 2 < connection.stats.frames.total_bytes * 1000 < 2 * MIB


def test_a_frame_that_trickles_in_takes_memory_in_proportion_to_its_payload() -> None:
    connection = opened()
    size = 20_000
    data = wire(TEXT, b"x" * size)
    fed(connection, data[:4])
    tracemalloc.start()
    try:
        for i in range(4, len(data) - 1):
            assert fed(connection, data[i : i + 1]) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Text is kept as characters, and a list of small strings takes a pointer each.
    assert held < 16 * size
    assert fed(connection, data[-1:]) == [Message("x" * size, size)]


def test_a_ping_within_a_fragmented_compressed_message_harms_neither_it_nor_the_next() -> None:
    connection = opened(deflate=TAKEOVER)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    data, texts = b"", ["first " * 50, "second " * 50]
    for text in texts:
        payload = (compressor.compress(text.encode()) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        data += wire(TEXT, payload[:3], fin=False, rsv1=True) + wire(PING, b"p")
        data += wire(CONTINUATION, fin=False) + wire(PING, b"q") + wire(CONTINUATION, payload[3:])
    for step in (1, len(data)):
        connection = opened(deflate=TAKEOVER)
        events = [event for i in range(0, len(data), step) for event in fed(connection, data[i : i + step])]
        parts = [event for event in events if isinstance(event, Message)]
        assert [part.final for part in parts] == [False, False, True] * 2
        assert "".join(str(part.data) for part in parts) == "".join(texts)
        assert sum(part.size for part in parts) == sum(map(len, texts))
        assert [event.payload for event in events if isinstance(event, PingReceived)] == [b"p", b"q"] * 2
        inbound = connection.stats.compression.inbound
        assert (inbound.messages_compressed, inbound.bytes_before) == (2, sum(map(len, texts)))


@pytest.mark.parametrize("agreed", [TAKEOVER, NO_TAKEOVER], ids=["takeover", "no takeover"])
def test_a_final_deflate_block_ends_neither_the_message_nor_the_connection(agreed: DeflateParams) -> None:
    connection = opened(deflate=agreed)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    final = compressor.compress(b"final ") + compressor.flush(zlib.Z_FINISH)
    more = deflated(b"and more")
    for payload, message in ((final + b"\x00", b"final "), (final + more, b"final and more"), (more, b"and more")):
        assert fed(connection, wire(BINARY, payload, rsv1=True)) == [Message(message, len(message))]


def test_corrupt_compressed_data_is_invalid_data() -> None:
    connection = opened(deflate=NO_TAKEOVER)
    assert fed(connection, wire(BINARY, b"\x07", rsv1=True)) == []
    info = ended(connection)
    assert (info.code, info.reason, info.cause) == (1007, "corrupt deflate data", Cause.INVALID_DATA)
    assert connection.stats.compression.inbound == DirectionStats(errors=1)


@pytest.mark.parametrize("step", [1, 5, 10_000])
def test_more_than_256_final_blocks_in_all_frames_of_a_message_are_invalid_data(step: int) -> None:
    final = b"\x03\x00"
    full = wire(BINARY, final * 200, rsv1=True, fin=False) + wire(CONTINUATION, final * 56)
    over = wire(BINARY, final * 200, rsv1=True, fin=False) + wire(CONTINUATION, final * 57)
    data = full * 2 + over
    connection = opened(deflate=TAKEOVER)
    events = [event for i in range(0, len(data), step) for event in fed(connection, data[i : i + step])]
    parts = [event for event in events if isinstance(event, Message)]
    assert [(part.data, part.final) for part in parts] == [(b"", False), (b"", True)] * 2 + [(b"", False)]
    connection.handle_timeout(0.0)
    info = ended(connection)
    assert (info.code, info.cause) == (1007, Cause.INVALID_DATA)
    assert info.reason == "more than 256 final blocks in a message"
    assert connection.stats.compression.inbound.errors == 1


def test_invalid_text_in_a_compressed_message_is_refused_as_it_arrives() -> None:
    connection = opened(deflate=NO_TAKEOVER)
    # A stored block, so that its bytes stand on the wire as they are.
    payload = b"\x00" + struct.pack("<HH", 100, 100 ^ 0xFFFF) + b"\xff" + bytes(99)
    assert fed(connection, wire(TEXT, payload, rsv1=True)[:10]) == []
    info = ended(connection)
    assert (info.code, info.cause) == (1007, Cause.INVALID_DATA)


def test_compression_that_was_not_agreed_on_is_a_protocol_error() -> None:
    connection = opened()
    fed(connection, wire(BINARY, deflated(b"x"), rsv1=True))
    info = ended(connection)
    assert (info.code, info.cause) == (1002, Cause.PROTOCOL_ERROR)
    assert connection.stats.compression.inbound.messages_compressed == 0

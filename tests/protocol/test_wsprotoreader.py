from __future__ import annotations

import struct
import tracemalloc
import zlib
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import MessageDecoder

from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.machines.compression import DirectionStats
from wsconnkit.machines.framesize import FrameLimits, FrameSize
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.deflate import Inflater
from wsconnkit.protocol.framereader import FrameReader
from wsconnkit.protocol.frames import FrameError, Opcode, Role
from wsconnkit.protocol.wsprotoreader import WsprotoReader, _Inbound

from .reading import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DEFAULT_LIMITS,
    MASK,
    PING,
    PONG,
    TEXT,
    UNLIMITED,
    Frame,
    deflated,
    failure_of,
    next_frame,
    one_by_one,
    read_all,
    reader,
    wire,
)


@pytest.mark.parametrize("opcode", [Opcode.CLOSE, Opcode.PING, Opcode.PONG])
def test_control_frames_are_read_whole(opcode: Opcode) -> None:
    data = wire(opcode, b"c" * 125) + wire(opcode)
    expected = [Frame(opcode, b"c" * 125, True, 125, 125), Frame(opcode, b"", True, 0, 0)]
    assert read_all(reader(), [data]) == expected
    assert read_all(reader(), one_by_one(data)) == expected


def test_fragments_keep_the_opcode_of_their_message_and_let_control_frames_pass() -> None:
    data = wire(TEXT, b"a", fin=False) + wire(PING, b"p") + wire(CONTINUATION, b"bc", fin=False)
    data += wire(PONG) + wire(CONTINUATION, b"def") + wire(BINARY, b"\xff")
    expected = [
        Frame(Opcode.TEXT, "a", False, 1, 1),
        Frame(Opcode.PING, b"p", True, 1, 1),
        Frame(Opcode.TEXT, "bc", False, 2, 2),
        Frame(Opcode.PONG, b"", True, 0, 0),
        Frame(Opcode.TEXT, "def", True, 3, 3),
        Frame(Opcode.BINARY, b"\xff", True, 1, 1),
    ]
    assert read_all(reader(), [data]) == expected
    assert read_all(reader(), one_by_one(data)) == expected


def test_a_character_may_be_split_over_frames_and_sizes_stay_those_of_bytes() -> None:
    content = "€".encode()
    data = wire(TEXT, content[:1], fin=False) + wire(CONTINUATION, content[1:])
    assert read_all(reader(), [data]) == [Frame(Opcode.TEXT, "", False, 1, 1), Frame(Opcode.TEXT, "€", True, 2, 2)]


def test_a_trickled_frame_takes_memory_in_proportion_to_its_payload() -> None:
    size = 20_000
    data = wire(BINARY, b"x" * size)
    frames = reader()
    frames.receive_data(data[:4])
    assert frames.next_frame() is None
    tracemalloc.start()
    try:
        for i in range(4, len(data) - 1):
            frames.receive_data(data[i : i + 1])
            assert frames.next_frame() is None
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 8 * size


@pytest.mark.parametrize(
    ("role", "data", "message"),
    [
        (Role.CLIENT, wire(TEXT, b"x", mask=MASK), "masked"),
        (Role.SERVER, wire(TEXT, b"x"), "unmasked"),
        (Role.CLIENT, wire(3), "opcode"),
        (Role.CLIENT, wire(0xB), "opcode"),
        (Role.CLIENT, wire(PING, fin=False), "fragment"),
        (Role.CLIENT, wire(PING, b"x" * 126), "125"),
        (Role.CLIENT, b"\x82\x7e\x00\x7d", "Payload length"),
        (Role.CLIENT, b"\x82\x7f" + struct.pack("!Q", 65535), "Payload length"),
        (Role.CLIENT, b"\x82\x7f" + struct.pack("!Q", 1 << 63), "payload length"),
        (Role.CLIENT, wire(TEXT, rsv=1), "Reserved bit"),
        (Role.CLIENT, wire(TEXT, rsv=2), "Reserved bit"),
        (Role.CLIENT, wire(TEXT, rsv=4), "Reserved bit"),
        (Role.CLIENT, wire(CONTINUATION), "CONTINUATION"),
        (Role.CLIENT, wire(TEXT, b"x", fin=False) + wire(TEXT, b"x"), "TEXT frame within a message"),
    ],
)
def test_what_breaks_the_framing_is_a_protocol_error(role: Role, data: bytes, message: str) -> None:
    error = failure_of(data, role)
    assert (error.code, error.cause) == (CloseCode.PROTOCOL_ERROR, Cause.PROTOCOL_ERROR)
    assert message in str(error)


@pytest.mark.parametrize("opcode", [CONTINUATION, PING, PONG, CLOSE])
def test_rsv1_belongs_on_the_first_frame_of_a_message_only(opcode: int) -> None:
    frames = reader(stats=DirectionStats())
    frames.receive_data(wire(BINARY, deflated(b"x"), rsv=4, fin=False) + wire(opcode, rsv=4))
    assert frames.next_frame() is not None
    with pytest.raises(FrameError, match=f"RSV1 set on a {Opcode(opcode).name} frame") as caught:
        frames.next_frame()
    assert caught.value.code is CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("rsv", [1, 2])
def test_rsv2_and_rsv3_are_refused_with_compression_too(rsv: int) -> None:
    frames = reader(stats=DirectionStats())
    frames.receive_data(wire(BINARY, rsv=rsv))
    with pytest.raises(FrameError, match="Reserved bit"):
        frames.next_frame()


def test_text_that_is_no_utf8_is_refused_before_its_frame_has_ended() -> None:
    assert failure_of(wire(TEXT, b"ab\xff" + b"x" * 1000)[:10]).code is CloseCode.INVALID_DATA


def test_a_new_message_within_one_is_the_same_error_whatever_the_read_boundaries() -> None:
    data = wire(BINARY, b"x" * 8, fin=False) + wire(BINARY, b"x" * 8)
    limits = FrameLimits(max_message_size=10)
    with pytest.raises(FrameError) as in_pieces:
        read_all(reader(limits=limits), one_by_one(data))
    assert in_pieces.value.code is CloseCode.PROTOCOL_ERROR
    assert failure_of(data, limits=limits).code is CloseCode.PROTOCOL_ERROR


def test_invalid_text_before_the_size_limit_is_the_same_error_whatever_the_read_boundaries() -> None:
    data = wire(TEXT, deflated(b"\xff" + b"x" * 100), rsv=4)
    codes = set()
    for chunks in ([data], one_by_one(data)):
        with pytest.raises(FrameError) as caught:
            read_all(reader(limits=FrameLimits(max_message_size=10), stats=DirectionStats()), chunks)
        codes.add(caught.value.code)
    assert len(codes) == 1


@pytest.mark.parametrize(
    ("limits", "data", "message"),
    [
        (FrameLimits(max_frame_size=9), wire(BINARY, b"x" * 10)[:2], "frame of 10 bytes is over max_frame_size (9)"),
        (FrameLimits(max_message_size=9), wire(BINARY, b"x" * 10)[:2], "of 10 bytes is over max_message_size (9)"),
        (
            FrameLimits(max_message_size=9),
            wire(BINARY, b"x" * 5, fin=False) + wire(CONTINUATION, b"x" * 5)[:2],
            "message of 10 bytes is over max_message_size (9)",
        ),
        (
            FrameLimits(max_fragments=2),
            wire(BINARY, fin=False) + wire(CONTINUATION, fin=False) + wire(CONTINUATION, b"x")[:2],
            "message of 3 fragments is over max_fragments (2)",
        ),
    ],
)
def test_what_is_too_big_is_refused_at_its_header(limits: FrameLimits, data: bytes, message: str) -> None:
    # on_frame_end belongs to the owner of FrameSize, so fragments are counted by hand here.
    sizes = FrameSize(limits)
    frames = FrameReader(Role.CLIENT, sizes)
    for chunk in one_by_one(data[:-1]):
        for frame in read_all(frames, [chunk]):
            sizes.on_frame_end(frame.wire_size, fin=frame.fin)
    frames.receive_data(data[-1:])
    with pytest.raises(FrameError) as caught:
        frames.next_frame()
    assert (caught.value.code, caught.value.cause) == (CloseCode.MESSAGE_TOO_BIG, Cause.TOO_BIG)
    assert message in str(caught.value)
    assert sizes.stats.violations == 1


def test_the_limits_are_never_offered_as_an_extension() -> None:
    assert _Inbound(FrameSize(FrameLimits()), MessageDecoder(), None, None).offer() is False


# Compression.


def test_compressed_frames_are_inflated_and_counted() -> None:
    stats = DirectionStats()
    content = b"abc" * 100
    payload = deflated(content)
    assert read_all(reader(stats=stats), [wire(TEXT, payload, rsv=4) + wire(BINARY, b"plain")]) == [
        Frame(Opcode.TEXT, content.decode(), True, len(payload), 300),
        Frame(Opcode.BINARY, b"plain", True, 5, 5),
    ]
    assert stats == DirectionStats(
        messages_compressed=1,
        messages_uncompressed=1,
        bytes_before=300,
        bytes_after=len(payload),
        bytes_uncompressed=5,
    )


def test_a_fragmented_uncompressed_message_is_one_in_the_statistics() -> None:
    stats = DirectionStats()
    data = wire(TEXT, b"ab", fin=False) + wire(CONTINUATION, b"cde") + wire(TEXT, b"f")
    assert len(read_all(reader(stats=stats), [data])) == 3
    assert stats == DirectionStats(messages_uncompressed=2, bytes_uncompressed=6)


def test_a_fragmented_compressed_message_is_one_in_the_statistics() -> None:
    stats = DirectionStats()
    content = bytes(range(256)) * 4
    payload = deflated(content)
    data = wire(BINARY, payload[:7], rsv=4, fin=False) + wire(PING, b"within")
    data += wire(CONTINUATION, payload[7:100], fin=False) + wire(CONTINUATION, payload[100:])
    frames = [frame for frame in read_all(reader(stats=stats), [data]) if frame.opcode is Opcode.BINARY]
    assert b"".join(frame.payload for frame in frames if isinstance(frame.payload, bytes)) == content
    assert sum(frame.size for frame in frames) == len(content)
    assert [frame.wire_size for frame in frames] == [7, 93, len(payload) - 100]
    assert stats == DirectionStats(messages_compressed=1, bytes_before=len(content), bytes_after=len(payload))


@pytest.mark.parametrize("step", [1, 1000])
def test_inflated_bytes_count_against_the_message_limit(step: int) -> None:
    data = wire(BINARY, deflated(bytes(1001)), rsv=4)
    frames = reader(limits=FrameLimits(max_message_size=1000), stats=DirectionStats())
    with pytest.raises(FrameError, match=r"message of 1001 bytes is over max_message_size \(1000\)") as caught:
        read_all(frames, [data[i : i + step] for i in range(0, len(data), step)])
    assert (caught.value.code, caught.value.cause) == (CloseCode.MESSAGE_TOO_BIG, Cause.TOO_BIG)


def test_a_message_that_inflates_to_the_limit_is_read() -> None:
    frames = reader(limits=FrameLimits(max_message_size=1000), stats=DirectionStats())
    (frame,) = read_all(frames, [wire(BINARY, deflated(bytes(1000)), rsv=4)])
    assert frame.size == 1000


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x07", id="a block type that does not exist"),
        # A stored block of five bytes: what ends the message contradicts its length.
        pytest.param(b"\x00\x05", id="found only at the end of the message"),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_corrupt_deflate_data_is_invalid_data_and_counted(payload: bytes, bytewise: bool) -> None:
    stats = DirectionStats()
    data = wire(BINARY, payload, rsv=4)
    with pytest.raises(FrameError, match=r"^corrupt deflate data$") as caught:
        read_all(reader(stats=stats), one_by_one(data) if bytewise else [data])
    assert (caught.value.code, caught.value.cause) == (CloseCode.INVALID_DATA, Cause.INVALID_DATA)
    assert stats == DirectionStats(errors=1)


@pytest.mark.parametrize("ending", [b"\x07", b"\x00\x05"], ids=["found at once", "found at the end of the message"])
@pytest.mark.parametrize("bytewise", [False, True])
def test_text_before_corrupt_deflate_data_is_judged_first(ending: bytes, bytewise: bool) -> None:
    for content, message, errors in ((b"\xff", "text is not valid UTF-8", 0), (b"x", "corrupt deflate data", 1)):
        stats = DirectionStats()
        data = wire(TEXT, b"\x00\x01\x00\xfe\xff" + content + ending, rsv=4)
        with pytest.raises(FrameError, match=f"^{message}$"):
            read_all(reader(stats=stats), one_by_one(data) if bytewise else [data])
        assert stats == DirectionStats(errors=errors)


@pytest.mark.parametrize("bytewise", [False, True])
def test_too_many_final_blocks_in_a_message_are_invalid_data_and_counted(bytewise: bool) -> None:
    stats = DirectionStats()
    final = b"\x03\x00"
    frames = reader(stats=stats)
    allowed = wire(BINARY, final * 255, rsv=4, fin=False) + wire(CONTINUATION, final) + wire(PING)
    assert len(read_all(frames, one_by_one(allowed * 2) if bytewise else [allowed * 2])) == 6
    data = wire(BINARY, final * 255, rsv=4, fin=False) + wire(CONTINUATION, final * 2)
    with pytest.raises(FrameError, match=r"^more than 256 final blocks in a message$") as caught:
        read_all(frames, one_by_one(data) if bytewise else [data])
    assert (caught.value.code, caught.value.cause) == (CloseCode.INVALID_DATA, Cause.INVALID_DATA)
    assert stats.errors == 1


def test_compressed_messages_are_read_without_any_limit() -> None:
    content = bytes(100_000)
    (frame,) = read_all(reader(limits=UNLIMITED, stats=DirectionStats()), [wire(BINARY, deflated(content), rsv=4)])
    assert frame.payload == content


def test_context_takeover_reaches_back_into_the_last_message() -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = bytes(range(200))
    data = b""
    for _ in range(2):
        payload = (compressor.compress(content) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        data += wire(BINARY, payload, rsv=4)
    frames = read_all(reader(stats=DirectionStats(), context_takeover=True), [data])
    assert [frame.payload for frame in frames] == [content, content]
    assert frames[1].wire_size < 20


@pytest.mark.parametrize("step", [1, 3, 100])
def test_text_is_judged_up_to_the_limit_before_its_size(step: int) -> None:
    limits = FrameLimits(max_frame_size=100, max_message_size=10)
    for content, code in ((b"\xff" + b"x" * 20, CloseCode.INVALID_DATA), (b"x" * 20, CloseCode.MESSAGE_TOO_BIG)):
        frames = FrameReader(
            Role.CLIENT,
            FrameSize(limits),
            inflater=Inflater(window_bits=15, context_takeover=False),
            stats=DirectionStats(),
        )
        data = wire(TEXT, deflated(content), rsv=4)
        with pytest.raises(FrameError) as caught:
            read_all(frames, [data[i : i + step] for i in range(0, len(data), step)])
        assert caught.value.code is code


@given(st.lists(st.sampled_from([b"", b"a", "é".encode(), b"x" * 200, b"\xff"]), max_size=5), st.data())
@settings(deadline=None, max_examples=100)
def test_what_is_read_does_not_depend_on_who_reads_short_messages(contents: list[bytes], data: st.DataObject) -> None:
    opcodes = st.sampled_from([TEXT, BINARY, PING, CONTINUATION])
    sent = b"".join(wire(data.draw(opcodes), content, fin=data.draw(st.booleans())) for content in contents)
    step = data.draw(st.integers(1, len(sent) or 1))
    outcomes = []
    for kind in (FrameReader, WsprotoReader):
        frames = kind(Role.CLIENT, FrameSize(DEFAULT_LIMITS), inflater=None, stats=None)
        found: list[Frame] = []
        error = ""
        try:
            for start in range(0, len(sent), step):
                frames.receive_data(sent[start : start + step])
                found += iter(partial(next_frame, frames), None)
        except FrameError as caught:
            error = str(caught)
        outcomes.append((found, error))
    assert outcomes[0] == outcomes[1]

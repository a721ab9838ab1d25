from __future__ import annotations

import itertools
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as PeerFrame
from websockets.frames import Opcode as PeerOpcode
from websockets.protocol import OPEN, Protocol, Side
from wsproto import connection as wsproto_connection
from wsproto.events import BytesMessage, Ping, Pong, TextMessage
from wsproto.frame_protocol import MessageDecoder

from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.machines.compression import DirectionStats
from wsconnkit.machines.framesize import FrameLimits, FrameSize
from wsconnkit.protocol.closeinfo import Cause, CloseFrame
from wsconnkit.protocol.deflate import Inflater
from wsconnkit.protocol.frames import (
    Frame,
    FrameError,
    FrameReader,
    Opcode,
    Role,
    _Inbound,
    apply_mask,
    encode_frame,
    parse_close,
)

MASK = b"\x9a\x00\xff\x31"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
DEFAULT_LIMITS = FrameLimits()
UNLIMITED = FrameLimits(max_frame_size=None, max_message_size=None, warn_threshold=None, max_fragments=None)

opcodes = st.sampled_from(list(Opcode))
masks = st.none() | st.binary(min_size=4, max_size=4)
# The sizes around which the header changes its form (RFC 6455, section 5.2), and some between.
payloads = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 70001]).map(
    lambda size: bytes(itertools.islice(itertools.cycle(b"wsconnkit\x00\xff"), size))
) | st.binary(max_size=300)


def naive_mask(data: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


def wire(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = None) -> bytes:
    # Written from the figure in RFC 6455, section 5.2, and from nothing of the package.
    size = len(payload)
    if size <= 125:
        length = struct.pack("!B", size)
    elif size <= 0xFFFF:
        length = struct.pack("!BH", 126, size)
    else:
        length = struct.pack("!BQ", 127, size)
    head = bytearray([opcode + (128 if fin else 0) + 16 * rsv])
    head += length
    if mask is not None:
        head[1] += 128
        return bytes(head) + mask + naive_mask(payload, mask)
    return bytes(head) + payload


def deflated(data: bytes, *, level: int = 6) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def reader(
    role: Role = Role.CLIENT,
    limits: FrameLimits = DEFAULT_LIMITS,
    *,
    stats: DirectionStats | None = None,
    context_takeover: bool = False,
) -> FrameReader:
    """A reader that inflates when it is given stats."""
    if stats is None:
        return FrameReader(role, FrameSize(limits))
    inflater = Inflater(window_bits=15, context_takeover=context_takeover)
    return FrameReader(role, FrameSize(limits), inflater=inflater, stats=stats)


def read_all(frames: FrameReader, chunks: Iterable[bytes]) -> list[Frame]:
    found: list[Frame] = []
    for chunk in chunks:
        frames.receive_data(chunk)
        while (frame := frames.next_frame()) is not None:
            found.append(frame)
    return found


def one_by_one(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def failure_of(data: bytes, role: Role = Role.CLIENT, limits: FrameLimits = DEFAULT_LIMITS) -> FrameError:
    with pytest.raises(FrameError) as caught:
        read_all(reader(role, limits), [data])
    return caught.value


def judged(payload: bytes) -> CloseFrame | tuple[CloseCode, Cause, str]:
    try:
        return parse_close(payload)
    except FrameError as error:
        return error.code, error.cause, str(error)


# Encoding.


@given(opcodes, payloads, st.booleans(), st.booleans(), masks)
@settings(deadline=None, max_examples=150)
def test_encoding_agrees_with_a_naive_encoder(
    opcode: Opcode, payload: bytes, fin: bool, compressed: bool, mask: bytes | None
) -> None:
    encoded = encode_frame(opcode, payload, fin=fin, compressed=compressed, mask=mask)
    assert encoded == wire(opcode, payload, fin=fin, rsv=4 if compressed else 0, mask=mask)


@given(st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG]), payloads)
@settings(deadline=None, max_examples=60)
def test_a_servers_frames_are_those_that_wsproto_sends(opcode: Opcode, payload: bytes) -> None:
    peer = wsproto_connection.Connection(wsproto_connection.SERVER)
    if opcode.iscontrol():
        payload = payload[:125]
    if opcode is Opcode.TEXT:
        text = payload.decode("latin-1")
        payload = text.encode()
        expected = peer.send(TextMessage(data=text))
    elif opcode is Opcode.BINARY:
        expected = peer.send(BytesMessage(data=payload))
    elif opcode is Opcode.PING:
        expected = peer.send(Ping(payload=payload))
    else:
        expected = peer.send(Pong(payload=payload))
    assert encode_frame(opcode, payload) == expected


@given(payloads, st.binary(min_size=4, max_size=4))
@settings(deadline=None, max_examples=60)
def test_wsproto_reads_a_clients_frames(payload: bytes, mask: bytes) -> None:
    peer = wsproto_connection.Connection(wsproto_connection.SERVER)
    peer.receive_data(encode_frame(Opcode.BINARY, payload, mask=mask))
    assert list(peer.events()) == [BytesMessage(data=payload)]


@given(st.lists(st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)), max_size=3), payloads, st.data())
@settings(deadline=None, max_examples=60)
def test_websockets_reads_our_frames(controls: list[tuple[int, bytes]], payload: bytes, data: st.DataObject) -> None:
    side = data.draw(st.sampled_from([Side.CLIENT, Side.SERVER]))
    mask = data.draw(st.binary(min_size=4, max_size=4)) if side is Side.SERVER else None
    cut = data.draw(st.integers(0, len(payload)))
    sent = [(Opcode.BINARY, payload[:cut], False)]
    sent += [(Opcode(opcode), content, True) for opcode, content in controls]
    sent += [(Opcode.CONTINUATION, payload[cut:], True)]

    peer = Protocol(side, state=OPEN, max_size=None)
    for opcode, content, fin in sent:
        peer.receive_data(encode_frame(opcode, content, fin=fin, mask=mask))
    received = peer.events_received()

    assert peer.parser_exc is None
    frames = [frame for frame in received if isinstance(frame, PeerFrame)]
    assert [(Opcode(frame.opcode), bytes(frame.data), frame.fin) for frame in frames] == sent


def test_websockets_inflates_our_compressed_frame() -> None:
    peer = Protocol(Side.CLIENT, state=OPEN, max_size=None)
    peer.extensions = [PerMessageDeflate(True, True, 15, 15)]
    peer.receive_data(encode_frame(Opcode.TEXT, deflated(b"squeeze" * 50), compressed=True))
    (frame,) = peer.events_received()
    assert isinstance(frame, PeerFrame)
    assert bytes(frame.data) == b"squeeze" * 50


# Masks.


@given(st.binary(max_size=2000), st.binary(min_size=4, max_size=4))
@settings(deadline=None)
def test_masking_agrees_with_a_naive_mask(data: bytes, mask: bytes) -> None:
    masked = apply_mask(data, mask)
    assert masked == naive_mask(data, mask)
    assert apply_mask(masked, mask) == data


@pytest.mark.parametrize("size", range(10))
def test_a_mask_that_zeroes_the_data_keeps_its_length(size: int) -> None:
    assert apply_mask((b"\x01\x02\x03\x04" * 3)[:size], b"\x01\x02\x03\x04") == bytes(size)


# The content of Close frames.


def test_every_close_code_is_judged_as_the_rfc_says() -> None:
    # Registered and not "MUST NOT be set as a status code in a Close control frame" (section 7.4.1), or 3000 to 4999.
    allowed = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    for code in range(65536):
        expected = (code, ""), (CloseCode.PROTOCOL_ERROR, Cause.PROTOCOL_ERROR, f"Close frame with the code {code}")
        assert judged(struct.pack("!H", code)) == expected[code not in allowed]


def test_an_empty_close_frame_has_no_status() -> None:
    assert parse_close(b"") == CloseFrame(CloseCode.NO_STATUS_RCVD, "")


def test_a_close_frame_of_one_byte_is_a_protocol_error() -> None:
    with pytest.raises(FrameError, match="one byte") as caught:
        parse_close(b"\x03")
    assert (caught.value.code, caught.value.cause) == (CloseCode.PROTOCOL_ERROR, Cause.PROTOCOL_ERROR)


def test_a_close_reason_is_decoded() -> None:
    assert parse_close(b"\x03\xe8" + "à bientôt".encode()) == (1000, "à bientôt")


@pytest.mark.parametrize("reason", [b"\xff", b"cut \xc3", b"\xed\xa0\x80"])
def test_a_close_reason_that_is_no_utf8_is_invalid_data(reason: bytes) -> None:
    with pytest.raises(FrameError, match=r"no UTF-8") as caught:
        parse_close(b"\x03\xe8" + reason)
    assert (caught.value.code, caught.value.cause) == (CloseCode.INVALID_DATA, Cause.INVALID_DATA)


# Reading.


@pytest.mark.parametrize(("role", "mask"), [(Role.CLIENT, None), (Role.SERVER, MASK)])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
def test_frames_of_every_header_form_are_read(role: Role, mask: bytes | None, size: int) -> None:
    content = b"x" * size
    data = wire(BINARY, content, mask=mask) + wire(TEXT, content, mask=mask)
    assert read_all(reader(role), [data]) == [
        Frame(Opcode.BINARY, content, True, size, size),
        Frame(Opcode.TEXT, content.decode(), True, size, size),
    ]


def test_nothing_is_read_from_nothing() -> None:
    assert reader().next_frame() is None


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


@pytest.mark.parametrize("data", [wire(BINARY, b"12345"), wire(TEXT, b"12345")])
def test_a_frame_leaves_only_when_it_is_whole(data: bytes) -> None:
    frames = reader()
    assert read_all(frames, one_by_one(data)[:-1]) == []
    (frame,) = read_all(frames, [data[-1:]])
    assert frame.payload in ("12345", b"12345")


@given(
    st.sampled_from([None, MASK]),
    st.lists(st.tuples(st.text(max_size=40) | st.binary(max_size=200), st.integers(0, 3)), max_size=5),
    st.lists(st.integers(1, 50), max_size=40),
)
@settings(deadline=None, max_examples=50)
def test_read_boundaries_do_not_show(
    mask: bytes | None, messages: list[tuple[str | bytes, int]], steps: list[int]
) -> None:
    data = b""
    for content, pings in messages:
        opcode = TEXT if isinstance(content, str) else BINARY
        raw = content.encode() if isinstance(content, str) else content
        for index in range(pings):
            data += wire(CONTINUATION if index else opcode, raw[index : index + 1], fin=False, mask=mask)
            data += wire(PING, b"p", mask=mask)
        data += wire(CONTINUATION if pings else opcode, raw[pings:], mask=mask)
    cuts = [0, *itertools.accumulate(steps), len(data)]
    role = Role.CLIENT if mask is None else Role.SERVER

    whole = read_all(reader(role), [data])
    unread = reader(role)
    for byte in one_by_one(data):
        unread.receive_data(byte)

    assert read_all(unread, [b""]) == whole
    assert read_all(reader(role), one_by_one(data)) == whole
    assert read_all(reader(role), itertools.starmap(lambda a, b: data[a:b], itertools.pairwise(cuts))) == whole
    assert len(whole) == sum(1 + 2 * pings for _, pings in messages)


@pytest.mark.parametrize(("role", "mask"), [(Role.CLIENT, None), (Role.SERVER, MASK)])
def test_what_arrives_joins_what_was_not_read_yet(role: Role, mask: bytes | None) -> None:
    frames = reader(role)
    data = b"".join(wire(TEXT, b"%d" % i, mask=mask) for i in range(4))
    frames.receive_data(data[:17])
    first = frames.next_frame()
    frames.receive_data(data[17:18])
    frames.receive_data(data[18:])
    assert [frame.payload for frame in [first, *read_all(frames, [b""])] if frame] == ["0", "1", "2", "3"]


def test_what_arrives_while_nothing_is_read_costs_no_more_the_more_there_is() -> None:
    # While the application is slow, every read joins what waits already; it must not be copied each time.
    def seconds(count: int) -> float:
        frames = reader()
        piece = wire(BINARY, bytes(60_000))
        started = time.process_time()
        for _ in range(count):
            frames.receive_data(piece)
        return time.process_time() - started

    assert min(seconds(800) for _ in range(3)) < 40 * min(seconds(100) for _ in range(3)) + 0.02


@pytest.mark.parametrize("size", [0, 1, 125, 126, 200, 65535, 65536])
def test_a_message_may_be_as_large_as_the_limits_and_no_larger(size: int) -> None:
    for limits in (FrameLimits(max_frame_size=size or 1), FrameLimits(max_message_size=size or 1)):
        (frame,) = read_all(reader(limits=limits), [wire(BINARY, bytes(size))])
        assert frame.size == size
        assert failure_of(wire(BINARY, bytes((size or 1) + 1)), limits=limits).code is CloseCode.MESSAGE_TOO_BIG


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


@pytest.mark.parametrize("data", [wire(TEXT, b"ab\xff"), wire(TEXT, b"\xc3"), wire(TEXT, b"\xc3", fin=False) + wire(0)])
def test_text_that_is_no_utf8_is_invalid_data(data: bytes) -> None:
    error = failure_of(data)
    assert (error.code, error.cause) == (CloseCode.INVALID_DATA, Cause.INVALID_DATA)


def test_text_that_is_no_utf8_is_refused_before_its_frame_has_ended() -> None:
    assert failure_of(wire(TEXT, b"ab\xff" + b"x" * 1000)[:10]).code is CloseCode.INVALID_DATA


def test_what_is_said_of_invalid_text_does_not_depend_on_read_boundaries() -> None:
    data = wire(TEXT, b"abcdefg\xff")
    with pytest.raises(FrameError) as in_pieces:
        read_all(reader(), one_by_one(data))
    assert str(in_pieces.value) == str(failure_of(data))


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


@given(st.lists(st.binary(max_size=300) | st.text(max_size=100), max_size=4), st.booleans())
@settings(deadline=None, max_examples=60)
def test_frames_that_websockets_sends_are_read(messages: list[bytes | str], compress: bool) -> None:
    extensions = [PerMessageDeflate(True, True, 15, 15)] if compress else []
    data = b""
    for message in messages:
        opcode, raw = (PeerOpcode.TEXT, message.encode()) if isinstance(message, str) else (PeerOpcode.BINARY, message)
        data += PeerFrame(opcode, raw).serialize(mask=True, extensions=extensions)
    frames = read_all(reader(Role.SERVER, stats=DirectionStats() if compress else None), [data])
    assert [frame.payload for frame in frames] == messages


@given(st.binary(max_size=60), st.booleans(), st.booleans())
@settings(deadline=None)
def test_arbitrary_bytes_give_frames_or_one_error(data: bytes, server: bool, compress: bool) -> None:
    frames = reader(Role.SERVER if server else Role.CLIENT, stats=DirectionStats() if compress else None)
    frames.receive_data(data)
    size = 0
    code: CloseCode | None = None
    try:
        while (frame := frames.next_frame()) is not None:
            size += frame.wire_size
    except FrameError as error:
        code = error.code
    assert size <= len(data)
    assert code in (None, CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG)


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

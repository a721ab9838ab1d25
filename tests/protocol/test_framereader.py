from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as PeerFrame
from websockets.frames import Opcode as PeerOpcode

from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.machines.compression import DirectionStats
from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.frames import FrameError, Opcode, Role

from .reading import (
    BINARY,
    CONTINUATION,
    MASK,
    PING,
    TEXT,
    Frame,
    failure_of,
    next_frame,
    one_by_one,
    read_all,
    reader,
    wire,
)

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
    first = next_frame(frames)
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

    # Copied each time it is 19 GB, which takes seconds; the 48 MB themselves take some hundredths of one.
    assert min(seconds(800) for _ in range(3)) < 40 * min(seconds(100) for _ in range(3)) + 0.5


@pytest.mark.parametrize("size", [0, 1, 125, 126, 200, 65535, 65536])
def test_a_message_may_be_as_large_as_the_limits_and_no_larger(size: int) -> None:
    for limits in (FrameLimits(max_frame_size=size or 1), FrameLimits(max_message_size=size or 1)):
        (frame,) = read_all(reader(limits=limits), [wire(BINARY, bytes(size))])
        assert frame.size == size
        assert failure_of(wire(BINARY, bytes((size or 1) + 1)), limits=limits).code is CloseCode.MESSAGE_TOO_BIG


@pytest.mark.parametrize("data", [wire(TEXT, b"ab\xff"), wire(TEXT, b"\xc3"), wire(TEXT, b"\xc3", fin=False) + wire(0)])
def test_text_that_is_no_utf8_is_invalid_data(data: bytes) -> None:
    error = failure_of(data)
    assert (error.code, error.cause) == (CloseCode.INVALID_DATA, Cause.INVALID_DATA)


def test_what_is_said_of_invalid_text_does_not_depend_on_read_boundaries() -> None:
    data = wire(TEXT, b"abcdefg\xff")
    with pytest.raises(FrameError) as in_pieces:
        read_all(reader(), one_by_one(data))
    assert str(in_pieces.value) == str(failure_of(data))


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
        while (frame := next_frame(frames)) is not None:
            size += frame.wire_size
    except FrameError as error:
        code = error.code
    assert size <= len(data)
    assert code in (None, CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG)


def test_a_length_in_more_bytes_than_it_needs_is_a_protocol_error() -> None:
    assert failure_of(b"\x82\x7e\x00\x05" + b"12345").code is CloseCode.PROTOCOL_ERROR


def test_messages_that_come_as_they_are_are_counted_where_compression_was_agreed_on() -> None:
    stats = DirectionStats()
    assert len(read_all(reader(stats=stats), [wire(BINARY, b"12345") + wire(TEXT, b"abc")])) == 2
    assert stats == DirectionStats(messages_uncompressed=2, bytes_uncompressed=8)

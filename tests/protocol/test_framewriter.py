from __future__ import annotations

from functools import partial

import pytest

from wsconnkit.machines.compression import DirectionStats
from wsconnkit.machines.framesize import FrameLimits, FrameSize
from wsconnkit.protocol.deflate import CompressionConfig, Deflater, Inflater
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.framereader import FrameReader
from wsconnkit.protocol.frames import Opcode, Role
from wsconnkit.protocol.framewriter import FrameWriter
from wsconnkit.protocol.prepared import PreparedMessage

from .reading import next_frame

MASK = b"\x01\x02\x03\x04"
LONG = "a" * 1000
CONFIG = CompressionConfig(threshold=100)
SERVER, CLIENT = Role.SERVER, Role.CLIENT


class Side:
    """A writer with the reader of the other side."""

    def __init__(self, role: Role = SERVER, *, deflates: bool = False, context_takeover: bool = False) -> None:
        self.stats = DirectionStats()
        inflater = Inflater(window_bits=15, context_takeover=context_takeover) if deflates else None
        deflater = Deflater(CONFIG, window_bits=15, context_takeover=context_takeover) if deflates else None
        self.writer = FrameWriter(role, deflater=deflater, stats=self.stats, random_bytes=lambda size: MASK[:size])
        other = CLIENT if role is SERVER else SERVER
        inbound = DirectionStats() if deflates else None
        self._reader = FrameReader(other, FrameSize(FrameLimits()), inflater=inflater, stats=inbound)

    def read(self, *written: bytes) -> list[tuple[Opcode, str | bytes, bool]]:
        self._reader.receive_data(b"".join(written))
        frames = iter(partial(next_frame, self._reader), None)
        return [(frame.opcode, frame.payload, frame.fin) for frame in frames]


@pytest.mark.parametrize("role", [SERVER, CLIENT])
def test_a_message_is_one_frame(role: Role) -> None:
    side = Side(role)
    written = side.writer.message(Opcode.TEXT, b"hello"), side.writer.message(Opcode.BINARY, b"\x00")
    assert side.read(*written) == [(Opcode.TEXT, "hello", True), (Opcode.BINARY, b"\x00", True)]
    assert (side.stats.messages_uncompressed, side.stats.bytes_uncompressed) == (2, 6)


def test_clients_mask_and_servers_do_not() -> None:
    for role, data in ((SERVER, b"\x89\x01a"), (CLIENT, b"\x89\x81" + MASK + b"\x60")):
        side = Side(role)
        assert side.writer.control(Opcode.PING, b"a") == data


@pytest.mark.parametrize("role", [SERVER, CLIENT])
@pytest.mark.parametrize("context_takeover", [False, True])
@pytest.mark.parametrize("is_prepared", [False, True])
def test_messages_from_the_threshold_on_are_compressed(role: Role, context_takeover: bool, is_prepared: bool) -> None:
    side = Side(role, deflates=True, context_takeover=context_takeover)
    data = b""
    for text in ("short", LONG, LONG):
        if is_prepared:
            data += side.writer.prepared(PreparedMessage(text))
        else:
            data += side.writer.message(Opcode.TEXT, text.encode())
    assert len(data) < 150
    assert [payload for _, payload, _ in side.read(data)] == ["short", LONG, LONG]
    assert (side.stats.messages_uncompressed, side.stats.messages_compressed) == (1, 2)
    assert (side.stats.bytes_uncompressed, side.stats.bytes_before) == (5, 2000)


def test_a_message_that_does_not_shrink_goes_out_as_it_is() -> None:
    side = Side(deflates=True)
    noise = bytes(pow(3, power, 257) % 256 for power in range(200))
    written = side.writer.message(Opcode.BINARY, noise), side.writer.prepared(PreparedMessage(noise))
    assert [payload for _, payload, _ in side.read(*written)] == [noise, noise]
    assert (side.stats.messages_uncompressed, side.stats.messages_compressed) == (2, 0)


@pytest.mark.parametrize("deflates", [False, True])
def test_servers_share_the_frame_of_a_prepared_message(deflates: bool) -> None:
    message = PreparedMessage(LONG)
    one, two = Side(deflates=deflates), Side(deflates=deflates)
    frame = one.writer.shared(message)
    assert frame is not None
    assert two.writer.shared(message) is frame
    assert one.read(frame) == [(Opcode.TEXT, LONG, True)]
    assert one.stats == two.stats
    assert one.stats.messages_compressed == deflates
    assert two.writer.prepared(message) is frame


def test_a_frame_that_depends_on_its_connection_is_not_shared() -> None:
    for side in (Side(CLIENT), Side(deflates=True, context_takeover=True)):
        assert side.writer.shared(PreparedMessage("a")) is None
        assert side.stats == DirectionStats()


def test_no_frame_is_shared_within_a_message() -> None:
    side = Side()
    side.writer.fragment(Opcode.TEXT, b"a", final=False)
    assert side.writer.shared(PreparedMessage("a")) is None


def test_fragments_make_one_message_and_are_never_compressed() -> None:
    side = Side(deflates=True)
    assert side.writer.unfinished is None
    written = []
    for number in range(3):
        written.append(side.writer.fragment(Opcode.TEXT, LONG.encode(), final=number == 2))
        assert side.writer.unfinished is (Opcode.TEXT if number < 2 else None)
        written.append(side.writer.control(Opcode.PING, b""))
    frames = side.read(*written)
    assert [(payload, fin) for opcode, payload, fin in frames if opcode is not Opcode.PING] == [
        (LONG, False),
        (LONG, False),
        (LONG, True),
    ]
    assert len(frames) == 6
    assert (side.stats.messages_uncompressed, side.stats.bytes_uncompressed) == (1, 3000)
    assert side.read(side.writer.message(Opcode.TEXT, LONG.encode())) == [(Opcode.TEXT, LONG, True)]
    for number in range(3):
        side.writer.fragment(Opcode.BINARY, b"ab", final=number == 2)
    assert (side.stats.messages_uncompressed, side.stats.bytes_uncompressed) == (2, 3006)


def test_a_fragment_of_another_type_is_refused_and_changes_nothing() -> None:
    side = Side()
    written = [side.writer.fragment(Opcode.TEXT, b"a", final=False)]
    with pytest.raises(LocalProtocolError, match="a BINARY fragment cannot go on a TEXT message; send its last"):
        side.writer.fragment(Opcode.BINARY, b"b", final=True)
    written.append(side.writer.fragment(Opcode.TEXT, b"c", final=True))
    assert side.read(*written) == [(Opcode.TEXT, "a", False), (Opcode.TEXT, "c", True)]
    assert side.stats.bytes_uncompressed == 2

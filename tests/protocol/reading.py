"""Frames as a peer writes them, readers of them, and what no Close frame may say."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import pytest

from wsconnkit.machines.compression import DirectionStats
from wsconnkit.machines.framesize import FrameLimits, FrameSize
from wsconnkit.protocol.deflate import Inflater
from wsconnkit.protocol.events import Message
from wsconnkit.protocol.framereader import FrameReader
from wsconnkit.protocol.frames import FrameError, Opcode, Role
from wsconnkit.protocol.wsprotoreader import WsprotoReader

MASK = b"\x9a\x00\xff\x31"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
DEFAULT_LIMITS = FrameLimits()
# Codes that may not be sent, and those that are not of the type of a code although they compare like one.
NO_CODES: list[Any] = [0, -1, 999, 1004, 1005, 1006, 1015, 2999, 5000, 1 << 64]
NO_CODES += [1000.0, 1000.5, float("nan"), "1000", b"\x03\xe8", None, True, [1000]]
NO_REASONS: list[Any] = [None, b"bye", 5, 1.5, ["bye"], bytearray(b"bye")]
NO_TEXTS = ["x\ud83dy", "a\udcffb", "a" * 123 + "\ud800"]

UNLIMITED = FrameLimits(max_frame_size=None, max_message_size=None, warn_threshold=None, max_fragments=None)


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


class Frame(NamedTuple):
    """What a reader gave, with all that it tells of it."""

    opcode: Opcode
    payload: str | bytes
    fin: bool
    wire_size: int
    size: int


def next_frame(frames: FrameReader | WsprotoReader) -> Frame | None:
    frame = frames.next_frame()
    if frame is None:
        return None
    if isinstance(frame, Message):
        opcode = Opcode.TEXT if isinstance(frame.data, str) else Opcode.BINARY
        return Frame(opcode, frame.data, frame.final, frames.wire_size, frame.size)
    return Frame(frame.opcode, frame.payload, True, len(frame.payload), len(frame.payload))


def read_all(frames: FrameReader | WsprotoReader, chunks: Iterable[bytes]) -> list[Frame]:
    found: list[Frame] = []
    for chunk in chunks:
        frames.receive_data(chunk)
        found += iter(partial(next_frame, frames), None)
    return found


def one_by_one(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def failure_of(data: bytes, role: Role = Role.CLIENT, limits: FrameLimits = DEFAULT_LIMITS) -> FrameError:
    with pytest.raises(FrameError) as caught:
        read_all(reader(role, limits), [data])
    return caught.value

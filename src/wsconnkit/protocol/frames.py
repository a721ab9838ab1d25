"""Frames from bytes and bytes from frames: the one place that knows wsproto.

Everything a connection needs of the wire passes through `FrameReader` and `encode_frame`, so that another engine
can take their place.
"""

from __future__ import annotations

import sys
from enum import Enum
from typing import NamedTuple

from wsproto.extensions import Extension
from wsproto.frame_protocol import (
    CloseReason,
    FrameDecoder,
    FrameProtocol,
    MessageDecoder,
    Opcode,
    ParseFailed,
    RsvBits,
)
from wsproto.frame_protocol import Frame as WsprotoFrame

from wsconnkit.machines.closecodes import CloseCode, may_send
from wsconnkit.machines.compression import DirectionStats
from wsconnkit.machines.framesize import FrameSize, Violation
from wsconnkit.protocol.closeinfo import Cause, CloseFrame
from wsconnkit.protocol.deflate import InflateError, Inflater

__all__ = ["Frame", "FrameError", "FrameReader", "Opcode", "Role", "encode_frame", "parse_close"]


class Role(Enum):
    """Which side of a connection this is: a client masks what it sends (RFC 6455, section 5.3)."""

    CLIENT = "client"
    SERVER = "server"


class Frame(NamedTuple):
    """A whole frame; in a data frame `opcode` is that of its message, and text is decoded."""

    opcode: Opcode
    payload: str | bytes
    fin: bool
    wire_size: int
    """Payload bytes on the wire."""
    size: int
    """Payload bytes after inflation."""


class FrameError(Exception):
    """The peer sent what cannot be read on: the code to close with, the cause, and what was wrong."""

    def __init__(self, code: CloseCode, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.cause = cause


_CAUSES = {CloseCode.MESSAGE_TOO_BIG: Cause.TOO_BIG, CloseCode.INVALID_DATA: Cause.INVALID_DATA}


class _Inbound(Extension):
    """Judges each frame by its header, and inflates its payload as it arrives.

    wsproto calls `frame_inbound_header` again and again while a header trickles in, so it must not count.
    """

    name = "wsconnkit"

    def __init__(self, frame_size: FrameSize, inflater: Inflater | None, stats: DirectionStats | None) -> None:
        self._frame_size = frame_size
        self._inflater = inflater
        self._stats = stats
        self._rsv = RsvBits(inflater is not None, False, False)
        self._is_control = False
        self._compressed = False
        self._wire_bytes = 0
        self._size = 0
        self.error = ""
        self.frame_wire_size = 0
        self.frame_content_size = 0

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool | str:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        self._is_control = opcode.iscontrol()
        first = opcode is not Opcode.CONTINUATION
        if rsv.rsv1 and (self._is_control or not first):
            # RSV1 marks the first frame of a compressed message only (RFC 7692, section 6).
            self.error = f"RSV1 set on a {opcode.name} frame"
            return CloseReason.PROTOCOL_ERROR
        if not self._is_control:
            if first:
                self._compressed = rsv.rsv1
            self.frame_wire_size = payload_length
            self.frame_content_size = 0
            violation = self._frame_size.on_header(payload_length, first=first, compressed=self._compressed)
            if violation is not None:
                return self._too_big(violation)
        return self._rsv

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        if self._is_control:
            return data
        if self._compressed:
            return self._inflated(data, last=False)
        return self._counted(data)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        if self._is_control:
            return None
        self._wire_bytes += self.frame_wire_size
        last: bytes | CloseReason | None = None
        if fin and self._compressed:
            last = self._inflated(b"", last=True)
            if isinstance(last, CloseReason):
                return last
        self._size += self.frame_content_size
        if fin:
            if self._stats is not None:
                if self._compressed:
                    self._stats.on_compressed(before=self._size, after=self._wire_bytes)
                else:
                    self._stats.on_uncompressed(self._size)
            self._size = self._wire_bytes = 0
            self._compressed = False
        return last

    def _inflated(self, data: bytes, *, last: bool) -> bytes | CloseReason:
        assert self._inflater is not None  # or RSV1 would have been refused
        budget = self._frame_size.remaining
        try:
            output = self._inflater.finish(budget) if last else self._inflater.inflate(data, budget)
        except InflateError as error:
            self.error = f"corrupt deflate data: {error}"
            assert self._stats is not None
            self._stats.on_error()
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return self._counted(output)

    def _counted(self, data: bytes) -> bytes | CloseReason:
        violation = self._frame_size.on_payload(len(data))
        if violation is not None:
            return self._too_big(violation)
        self.frame_content_size += len(data)
        return data

    def _too_big(self, violation: Violation) -> CloseReason:
        self.error = str(violation)
        return CloseReason.MESSAGE_TOO_BIG


class FrameReader:
    """Reads the frames that a peer sends; stats are those of compressed messages, if compression was agreed on."""

    __slots__ = ("_decoder", "_inbound", "_messages", "_parts")

    def __init__(
        self,
        role: Role,
        frame_size: FrameSize,
        *,
        inflater: Inflater | None = None,
        stats: DirectionStats | None = None,
    ) -> None:
        self._inbound = _Inbound(frame_size, inflater, stats)
        self._decoder = FrameDecoder(role is Role.CLIENT, [self._inbound])
        self._messages = MessageDecoder()
        self._parts: list[WsprotoFrame] = []

    def receive_data(self, data: bytes) -> None:
        """Take bytes off the wire."""
        self._decoder.receive_bytes(data)

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, None where bytes are missing.

        Raises FrameError, after which nothing more can be read.
        """
        while True:
            try:
                part = self._decoder.process_buffer()
                if part is None:
                    return None
                if part.opcode.iscontrol():
                    assert isinstance(part.payload, bytes)
                    size = len(part.payload)
                    return Frame(part.opcode, part.payload, True, size, size)
                part = self._messages.process_frame(part)
            except ParseFailed as error:
                code = CloseCode(error.code)
                raise FrameError(
                    code, _CAUSES.get(code, Cause.PROTOCOL_ERROR), self._inbound.error or str(error)
                ) from None
            # wsproto's parts end where reads ended; here only whole frames leave.
            if not part.frame_finished:
                self._parts.append(part)
                continue
            payload = self._joined(part)
            inbound = self._inbound
            return Frame(
                part.opcode, payload, part.message_finished, inbound.frame_wire_size, inbound.frame_content_size
            )

    def _joined(self, last: WsprotoFrame) -> str | bytes:
        assert isinstance(last.payload, (str, bytes))
        if not self._parts:
            return last.payload
        payloads = [part.payload for part in self._parts]
        self._parts.clear()
        payloads.append(last.payload)
        if last.opcode is Opcode.TEXT:
            return "".join(payload for payload in payloads if isinstance(payload, str))
        return b"".join(payload for payload in payloads if isinstance(payload, bytes))


def parse_close(payload: bytes) -> CloseFrame:
    """Return what a Close frame says (RFC 6455, section 5.5.1). Raises FrameError."""
    if not payload:
        return CloseFrame(CloseCode.NO_STATUS_RCVD, "")
    if len(payload) == 1:
        raise FrameError(CloseCode.PROTOCOL_ERROR, Cause.PROTOCOL_ERROR, "Close frame with a payload of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not may_send(code):
        raise FrameError(CloseCode.PROTOCOL_ERROR, Cause.PROTOCOL_ERROR, f"Close frame with the code {code}")
    try:
        return CloseFrame(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise FrameError(
            CloseCode.INVALID_DATA, Cause.INVALID_DATA, "Close frame with a reason that is no UTF-8"
        ) from None


def encode_frame(
    opcode: Opcode, payload: bytes, *, fin: bool = True, compressed: bool = False, mask: bytes | None = None
) -> bytes:
    """Return a frame's bytes; `mask` is a client's four unpredictable bytes (RFC 6455, sections 5.2 and 5.3)."""
    first = opcode | (0x80 if fin else 0) | (0x40 if compressed else 0)
    masked = 0 if mask is None else 0x80
    length = len(payload)
    if length < 126:
        header = bytes((first, masked | length))
    elif length < 65536:
        header = bytes((first, masked | 126, length >> 8, length & 0xFF))
    else:
        header = bytes((first, masked | 127)) + length.to_bytes(8, "big")
    if mask is None:
        return header + payload
    return b"".join((header, mask, apply_mask(payload, mask)))


def apply_mask(data: bytes, mask: bytes) -> bytes:
    """XOR `data` with the four bytes of `mask`, repeated (RFC 6455, section 5.3)."""
    # One big integer operation is many times faster than a loop over bytes.
    size = len(data)
    repeated = (mask * (size // 4 + 1))[:size]
    order = sys.byteorder
    return (int.from_bytes(data, order) ^ int.from_bytes(repeated, order)).to_bytes(size, order)

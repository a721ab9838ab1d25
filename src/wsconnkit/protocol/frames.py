"""Frames from bytes and bytes from frames: the one place that knows wsproto.

Everything a connection needs of the wire passes through `FrameReader` and `encode_frame`, so that another engine
can take their place.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from enum import Enum
from io import StringIO
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
    XorMaskerSimple,
)

from wsconnkit.machines.closecodes import CloseCode, may_send
from wsconnkit.machines.compression import DirectionStats
from wsconnkit.machines.framesize import FrameSize
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


_SIMPLE = {0x81: Opcode.TEXT, 0x82: Opcode.BINARY}
"""The first bytes of an uncompressed message in one frame."""

_CAUSES = {CloseCode.MESSAGE_TOO_BIG: Cause.TOO_BIG, CloseCode.INVALID_DATA: Cause.INVALID_DATA}


class _Inbound(Extension):
    """Judges each data frame by its header, and inflates and counts its payload as it arrives.

    wsproto calls `frame_inbound_header` again and again while a header trickles in, so it must not count.
    """

    def __init__(
        self,
        frame_size: FrameSize,
        messages: MessageDecoder,
        inflater: Inflater | None,
        stats: DirectionStats | None,
    ) -> None:
        self._frame_size = frame_size
        self._messages = messages
        self._inflater = inflater
        self._stats = stats
        self._rsv = RsvBits(inflater is not None, False, False)
        self._is_control = False
        self._compressed = False
        self._is_text = False
        self._wire_bytes = 0
        self._size = 0
        self.within_message = False
        """The last data frame was not the last of its message."""
        self.error = ""
        """What was wrong, where it was not wsproto that found it."""
        self.frame_wire_size = 0
        self.frame_content_size = 0

    def offer(self) -> bool | str:
        """Offer nothing: this is no extension that a handshake agrees on."""
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        self._is_control = opcode.iscontrol()
        first = opcode is not Opcode.CONTINUATION
        if rsv.rsv1 and (self._is_control or not first):
            # RSV1 marks the first frame of a compressed message only (RFC 7692, section 6).
            return self._refuse(CloseReason.PROTOCOL_ERROR, f"RSV1 set on a {opcode.name} frame")
        if self._is_control:
            return self._rsv
        if first is self.within_message:
            wrong = f"{opcode.name} frame within a message" if first else "CONTINUATION frame without a message"
            return self._refuse(CloseReason.PROTOCOL_ERROR, wrong)
        if first:
            self._compressed = rsv.rsv1
            self._is_text = opcode is Opcode.TEXT
        self.frame_wire_size = payload_length
        self.frame_content_size = 0
        violation = self._frame_size.on_header(payload_length, first=first, compressed=self._compressed)
        if violation is not None:
            return self._refuse(CloseReason.MESSAGE_TOO_BIG, str(violation))
        return self._rsv

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        if self._is_control:
            return data
        return self._inflated(data, last=False) if self._compressed else self._counted(data)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        if self._is_control:
            return None
        last: bytes | CloseReason | None = None
        if fin and self._compressed:
            last = self._inflated(b"", last=True)
            if isinstance(last, CloseReason):
                return last
        self._wire_bytes += self.frame_wire_size
        self._size += self.frame_content_size
        self.within_message = not fin
        return last

    def count_message(self) -> None:
        """Count a message that was read to its end and found good."""
        if self._stats is not None:
            if self._compressed:
                self._stats.on_compressed(before=self._size, after=self._wire_bytes)
            else:
                self._stats.on_uncompressed(self._size)
        self._size = self._wire_bytes = 0

    def _inflated(self, data: bytes, *, last: bool) -> bytes | CloseReason:
        assert self._inflater is not None  # or RSV1 would have been refused
        budget = self._frame_size.remaining
        try:
            output = self._inflater.finish(budget) if last else self._inflater.inflate(data, budget)
        except InflateError as error:
            assert self._stats is not None
            self._stats.on_error()
            return self._refuse(CloseReason.INVALID_FRAME_PAYLOAD_DATA, str(error))
        return self._counted(output)

    def _counted(self, data: bytes) -> bytes | CloseReason:
        fits = self._frame_size.remaining
        violation = self._frame_size.on_payload(len(data))
        if violation is None:
            self.frame_content_size += len(data)
            return data
        # What fits is judged first, as it would have been had it arrived alone.
        if self._is_text and not self._is_valid_so_far(data[:fits]):
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return self._refuse(CloseReason.MESSAGE_TOO_BIG, str(violation))

    def _is_valid_so_far(self, data: bytes) -> bool:
        decoder = self._messages.decoder or getincrementaldecoder("utf-8")()
        try:
            decoder.decode(data)
        except UnicodeDecodeError:
            return False
        return True

    def _refuse(self, code: CloseReason, error: str) -> CloseReason:
        self.error = error
        return code


class FrameReader:
    """Reads the frames that a peer sends; stats are those of compressed messages, if compression was agreed on."""

    __slots__ = (
        "_binary",
        "_data",
        "_decoder",
        "_frame_size",
        "_handed_back",
        "_inbound",
        "_mask_bit",
        "_messages",
        "_position",
        "_stats",
        "_text",
    )

    def __init__(
        self,
        role: Role,
        frame_size: FrameSize,
        *,
        inflater: Inflater | None = None,
        stats: DirectionStats | None = None,
    ) -> None:
        self._messages = MessageDecoder()
        self._inbound = _Inbound(frame_size, self._messages, inflater, stats)
        self._decoder = FrameDecoder(role is Role.CLIENT, [self._inbound])
        self._text = StringIO()
        self._binary = bytearray()
        self._frame_size = frame_size
        self._stats = stats
        self._mask_bit = 0 if role is Role.CLIENT else 0x80
        # Bytes that wsproto has not been given: whole messages in one short frame are read without it.
        self._data = b""
        self._position = 0
        self._handed_back = False

    def receive_data(self, data: bytes) -> None:
        """Take bytes off the wire."""
        self._handed_back = False
        if self._data:
            self._to_wsproto()
            self._decoder.receive_bytes(data)
        elif self._is_between_messages and not self._decoder.buffer:
            self._data = data
        else:
            self._decoder.receive_bytes(data)

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, None where bytes are missing.

        Raises FrameError, after which nothing more can be read.
        """
        if self._data:
            frame = self._next_simple_frame()
            if frame is not None:
                return frame
            # Everything else, and every verdict, is wsproto's.
            self._to_wsproto()
        elif not self._decoder.buffer:
            return None
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
                raise self._error(error) from None
            # wsproto's parts end where reads ended; here only whole frames leave.
            if not part.frame_finished:
                self._keep(part.payload)
                continue
            payload = self._joined(part.payload)
            inbound = self._inbound
            if part.message_finished:
                inbound.count_message()
                self._hand_back()
            return Frame(
                part.opcode, payload, part.message_finished, inbound.frame_wire_size, inbound.frame_content_size
            )

    def _to_wsproto(self) -> None:
        self._decoder.receive_bytes(self._data[self._position :])
        self._data = b""
        self._position = 0

    def _error(self, error: ParseFailed) -> FrameError:
        code = CloseCode(error.code)
        message = self._inbound.error or str(error)
        if code is CloseCode.INVALID_DATA and not self._inbound.error:
            message = "text is not valid UTF-8"  # wsproto's words depend on where reads ended
        return FrameError(code, _CAUSES.get(code, Cause.PROTOCOL_ERROR), message)

    @property
    def _is_between_messages(self) -> bool:
        return self._decoder.header is None and not self._inbound.within_message

    def _hand_back(self) -> None:
        """Take what wsproto has not read, at most once a read so that nothing is copied again and again."""
        buffer = self._decoder.buffer
        if buffer and not self._handed_back:
            self._handed_back = True
            self._data = bytes(buffer.consume_at_most(len(buffer)))
            buffer.commit()

    def _next_simple_frame(self) -> Frame | None:
        """Read a whole uncompressed message in one frame of less than 64 KiB, if that is what comes next.

        It takes nothing in and judges nothing where it returns None.
        """
        data, start = self._data, self._position
        if len(data) - start < 4:
            return None
        opcode = _SIMPLE.get(data[start])
        second = data[start + 1]
        if opcode is None or second & 0x80 != self._mask_bit:
            return None
        length = second & 0x7F
        start += 2
        if length >= 126:
            if length == 127:
                return None
            length = data[start] << 8 | data[start + 1]
            start += 2
            if length < 126:
                return None
        mask = b""
        if self._mask_bit:
            mask = data[start : start + 4]
            start += 4
        end = start + length
        if end > len(data) or length > self._frame_size.largest_message:
            return None
        content = apply_mask(data[start:end], mask) if mask else data[start:end]
        payload: str | bytes = content
        if opcode is Opcode.TEXT:
            try:
                payload = content.decode()
            except UnicodeDecodeError:
                return None
        if self._stats is not None:
            self._stats.on_uncompressed(length)
        if end == len(data):
            self._data = b""
            self._position = 0
        else:
            self._position = end
        return Frame(opcode, payload, True, length, length)

    def _keep(self, part: str | bytes | tuple[int, str]) -> None:
        if isinstance(part, str):
            self._text.write(part)
        else:
            assert isinstance(part, bytes)  # only a Close frame of wsproto's own is a tuple
            self._binary += part

    def _joined(self, last: str | bytes | tuple[int, str]) -> str | bytes:
        self._keep(last)
        if isinstance(last, str):
            text = self._text.getvalue()
            self._text = StringIO()
            return text
        binary = bytes(self._binary)
        self._binary.clear()
        return binary


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
    size = len(data)
    if size > _SHORT:
        return bytes(XorMaskerSimple(mask).process(bytearray(data)))
    # For short data one operation on big integers beats four slices of bytes.
    words = (size + 3) // 4
    masked = int.from_bytes(data, "little") ^ (_ONES[words] * int.from_bytes(mask, "little"))
    return masked.to_bytes(words * 4, "little")[:size]


_SHORT = 512
_ONES = [int.from_bytes(b"\1\0\0\0" * words, "little") for words in range(_SHORT // 4 + 1)]
"""For each number of 32-bit words an integer with a 1 in every one: times a mask it is the mask, repeated."""

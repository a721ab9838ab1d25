"""What frames are made of (RFC 6455, section 5): opcodes, masks, their bytes, and the content of a Close frame."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import NamedTuple

from wsconnkit.machines.closecodes import CloseCode, may_send
from wsconnkit.protocol.closeinfo import Cause, CloseFrame
from wsconnkit.protocol.errors import LocalProtocolError

_MAX_CONTROL_PAYLOAD = 125
"""Bytes (RFC 6455, section 5.5)."""


class Role(Enum):
    """Which side of a connection this is: a client masks what it sends (RFC 6455, section 5.3)."""

    CLIENT = "client"
    SERVER = "server"


class Opcode(IntEnum):
    """What a frame is (RFC 6455, section 5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA

    def iscontrol(self) -> bool:
        """Tell whether such a frame may come between those of a message."""
        return self >= Opcode.CLOSE


class ControlFrame(NamedTuple):
    """A ping, a pong or a Close frame, whole; data frames are `Message`."""

    opcode: Opcode
    payload: bytes


class FrameError(Exception):
    """The peer sent what cannot be read on: the code to close with, the cause, and what was wrong."""

    def __init__(self, code: CloseCode, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.cause = cause


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


def check_close(code: object, reason: object) -> None:
    """Raise LocalProtocolError when `code` or `reason` may not be sent (RFC 6455, section 7.4)."""
    if not (isinstance(code, int) and may_send(code)):
        raise LocalProtocolError(
            f"close code {code!r} cannot be sent; allowed are 1000 to 1003, 1007 to 1014 and 3000 to 4999"
        )
    if not isinstance(reason, str):
        raise LocalProtocolError(f"close reason is of type {type(reason).__name__}; it must be str")
    try:
        reason.encode()
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"close reason cannot be sent as UTF-8: {error}") from None


def check_ping(payload: object) -> None:
    """Raise TypeError when the payload of a ping is no bytes, LocalProtocolError when it is too long for one."""
    if not isinstance(payload, bytes):
        raise TypeError(f"ping payload is of type {type(payload).__name__}; it must be bytes")
    if len(payload) > _MAX_CONTROL_PAYLOAD:
        raise LocalProtocolError(f"ping payload of {len(payload)} bytes; at most {_MAX_CONTROL_PAYLOAD} are allowed")


def close_payload(frame: CloseFrame) -> bytes:
    """Return the payload of a Close frame, as `parse_close` reads it."""
    if frame.code == CloseCode.NO_STATUS_RCVD:
        return b""
    return frame.code.to_bytes(2, "big") + frame.reason.encode()


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
        masked = bytearray(data)
        for position in range(4):
            masked[position::4] = masked[position::4].translate(_XOR[mask[position]])
        return bytes(masked)
    # For short data one operation on big integers beats four slices of bytes.
    words = (size + 3) // 4
    number = int.from_bytes(data, "little") ^ (_ONES[words] * int.from_bytes(mask, "little"))
    return number.to_bytes(words * 4, "little")[:size]


_SHORT = 512
_ONES = [int.from_bytes(b"\1\0\0\0" * words, "little") for words in range(_SHORT // 4 + 1)]
"""For each number of 32-bit words an integer with a 1 in every one: times a mask it is the mask, repeated."""

_XOR = [bytes(byte ^ key for byte in range(256)) for key in range(256)]
"""For each byte of a mask what it makes of every byte."""

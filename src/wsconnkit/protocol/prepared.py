"""A message that is framed, and compressed, once for any number of connections."""

from __future__ import annotations

from typing import TypeAlias

from wsconnkit.protocol.deflate import Deflater
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.frames import Opcode, encode_frame

Content: TypeAlias = str | bytes | bytearray | memoryview
"""What a message is made of: text is `str`, all else is binary."""


class PreparedMessage:
    """A message to send on many connections, text for `str` and binary otherwise.

    Servers send the same bytes to all whose compression has the same settings. Clients mask each frame anew, and with
    context takeover the bytes depend on the messages before; they share what they can.

    Raises LocalProtocolError for text that is no valid Unicode, TypeError for other types.
    """

    __slots__ = ("_deflated", "_frames", "opcode", "payload")

    def __init__(self, message: Content) -> None:
        self.opcode: Opcode
        self.payload: bytes
        self.opcode, self.payload = payload_of(message)
        self._deflated: dict[tuple[int, int, int], bytes | None] = {}
        self._frames: dict[bytes | None, bytes] = {}

    @property
    def size(self) -> int:
        """Bytes of the message."""
        return len(self.payload)

    def deflate(self, deflater: Deflater) -> bytes | None:
        """Return what `deflater` makes of the message, or None where sending it as it is takes no more bytes."""
        settings = deflater.settings
        if settings is None:
            return deflater.compress(self.payload)
        if settings not in self._deflated:
            self._deflated[settings] = deflater.compress(self.payload)
        return self._deflated[settings]

    def frame(self, deflated: bytes | None) -> bytes:
        """Return the frame of a server; `deflated` is what `deflate` has returned, None for the message as it is."""
        frame = self._frames.get(deflated)
        if frame is None:
            payload = self.payload if deflated is None else deflated
            frame = self._frames[deflated] = encode_frame(self.opcode, payload, compressed=deflated is not None)
        return frame


def payload_of(message: Content) -> tuple[Opcode, bytes]:
    """Return the opcode and the payload of a message. Raises as `PreparedMessage` does."""
    if isinstance(message, str):
        try:
            return Opcode.TEXT, message.encode()
        except UnicodeEncodeError as error:
            raise LocalProtocolError(f"text cannot be sent as UTF-8: {error}") from None
    if isinstance(message, (bytes, bytearray, memoryview)):
        return Opcode.BINARY, bytes(message)
    raise TypeError(f"message is of type {type(message).__name__}; it must be str, bytes, bytearray or memoryview")

"""The frames that we send: messages, compressed where that helps, fragments and control frames."""

from __future__ import annotations

from collections.abc import Callable

from wsconnkit.machines.compression import DirectionStats
from wsconnkit.protocol.deflate import Deflater
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.frames import Opcode, Role, encode_frame
from wsconnkit.protocol.prepared import PreparedMessage


class FrameWriter:
    """Turns what one side of a connection sends into frames; the counterpart of `FrameReader`.

    deflater: compresses messages; None sends all as they are.
    stats: where messages are counted.
    random_bytes: gives the masks of a client.
    """

    __slots__ = (
        "_deflater",
        "_is_client",
        "_random_bytes",
        "_stats",
        "_unfinished_size",
        "unfinished",
    )

    def __init__(
        self, role: Role, *, deflater: Deflater | None, stats: DirectionStats, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._is_client = role is Role.CLIENT
        self._deflater = deflater
        self._stats = stats
        self._random_bytes = random_bytes
        self._unfinished_size = 0
        self.unfinished: Opcode | None = None
        """The type of a message whose last fragment is still to come, so that no other message can."""

    def message(self, opcode: Opcode, payload: bytes) -> bytes:
        """Return the frame of a whole message."""
        size = len(payload)
        compressed = None
        if self._deflater is not None and self._deflater.wants(size):
            compressed = self._deflater.compress(payload)
        mask = self._random_bytes(4) if self._is_client else None
        if compressed is None:
            self._stats.on_uncompressed(size)
            return encode_frame(opcode, payload, mask=mask)
        self._stats.on_compressed(before=size, after=len(compressed))
        return encode_frame(opcode, compressed, compressed=True, mask=mask)

    def prepared(self, message: PreparedMessage) -> bytes:
        """Return the frame of a whole message that other connections may send too."""
        deflated = self._deflate(message)
        if self._can_share:
            return message.frame(deflated)
        payload = message.payload if deflated is None else deflated
        return self._encode(message.opcode, payload, compressed=deflated is not None)

    def shared(self, message: PreparedMessage) -> bytes | None:
        """Return the frame of a message where it is the same for other connections, else None, counting nothing."""
        if self.unfinished is not None or not self._can_share:
            return None
        return message.frame(self._deflate(message))

    def fragment(self, opcode: Opcode, payload: bytes, *, final: bool) -> bytes:
        """Return a fragment; those up to the final one are one message, never compressed (RFC 6455, section 5.4).

        Raises LocalProtocolError for an opcode that is not that of the message.
        """
        if self.unfinished is None:
            frame_opcode = opcode
        elif self.unfinished is opcode:
            frame_opcode = Opcode.CONTINUATION
        else:
            raise LocalProtocolError(
                f"a {opcode.name} fragment cannot go on a {self.unfinished.name} message; send its last fragment first"
            )
        self.unfinished = None if final else opcode
        self._unfinished_size += len(payload)
        if final:
            self._stats.on_uncompressed(self._unfinished_size)
            self._unfinished_size = 0
        return self._encode(frame_opcode, payload, fin=final)

    def control(self, opcode: Opcode, payload: bytes) -> bytes:
        """Return a control frame, which may come between the fragments of a message."""
        return self._encode(opcode, payload)

    @property
    def _can_share(self) -> bool:
        """Frames are the same for all connections whose compression has the same settings."""
        return not self._is_client and (self._deflater is None or self._deflater.settings is not None)

    def _deflate(self, message: PreparedMessage) -> bytes | None:
        """Return the message as it is to be sent, None for unchanged, and count it."""
        deflater = self._deflater
        deflated = message.deflate(deflater) if deflater is not None and deflater.wants(message.size) else None
        if deflated is None:
            self._stats.on_uncompressed(message.size)
        else:
            self._stats.on_compressed(before=message.size, after=len(deflated))
        return deflated

    def _encode(self, opcode: Opcode, payload: bytes, *, fin: bool = True, compressed: bool = False) -> bytes:
        mask = self._random_bytes(4) if self._is_client else None
        return encode_frame(opcode, payload, fin=fin, compressed=compressed, mask=mask)

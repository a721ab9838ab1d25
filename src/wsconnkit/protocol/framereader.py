"""Frames from bytes: whole short messages, which are nearly all there is, and an engine for everything else."""

from __future__ import annotations

from wsconnkit.machines.compression import DirectionStats
from wsconnkit.machines.framesize import FrameSize
from wsconnkit.protocol.deflate import Inflater
from wsconnkit.protocol.events import Message
from wsconnkit.protocol.frames import ControlFrame, Opcode, Role, apply_mask
from wsconnkit.protocol.wsprotoreader import WsprotoReader

_TEXT = 0x80 | Opcode.TEXT
_BINARY = 0x80 | Opcode.BINARY
"""The first byte of an uncompressed message in one frame."""


class FrameReader:
    """Reads the frames that a peer sends: a data frame is a `Message`, one frame of it where it has several.

    role: which side reads.
    frame_size: judges data frames; whoever takes them calls its `on_frame_end`.
    inflater, stats: if compression was agreed on; where messages are counted then.
    """

    __slots__ = (
        "_data",
        "_engine",
        "_frame_size",
        "_handed_back",
        "_inflater",
        "_is_with_engine",
        "_mask_bit",
        "_position",
        "_role",
        "_stats",
        "wire_size",
    )

    def __init__(
        self,
        role: Role,
        frame_size: FrameSize,
        *,
        inflater: Inflater | None = None,
        stats: DirectionStats | None = None,
    ) -> None:
        self._role = role
        self._frame_size = frame_size
        self._inflater = inflater
        self._stats = stats
        self._mask_bit = 0 if role is Role.CLIENT else 0x80
        # Bytes that the engine has not been given: whole messages in one short frame are read without it.
        self._data = b""
        self._position = 0
        self._engine: WsprotoReader | None = None  # until it is needed
        self._is_with_engine = False  # what arrives goes on what the engine has
        self._handed_back = False
        self.wire_size: int = 0
        """Payload bytes on the wire of the data frame that `next_frame` returned last."""

    def receive_data(self, data: bytes) -> None:
        """Take bytes off the wire."""
        self._handed_back = False
        if self._data:
            self._hand_over()
        if self._is_with_engine:
            assert self._engine is not None
            self._engine.receive_data(data)
        else:
            self._data = data

    def next_frame(self) -> Message | ControlFrame | None:
        """Return the next whole frame, None where bytes are missing.

        Raises FrameError, after which nothing more can be read.
        """
        if self._data:
            message = self._next_simple_message()
            if message is not None:
                return message
            # Everything else, and every verdict, is the engine's.
            self._hand_over()
        if not self._is_with_engine:
            return None
        engine = self._engine
        assert engine is not None
        frame = engine.next_frame()
        if isinstance(frame, Message):
            self.wire_size = engine.wire_size
            if frame.final and not self._handed_back:
                # At most once a read, so that nothing is copied again and again.
                self._data = engine.take_unread()
                self._handed_back = bool(self._data)
        self._is_with_engine = not engine.is_between_messages
        return frame

    def _hand_over(self) -> None:
        if self._engine is None:
            self._engine = WsprotoReader(self._role, self._frame_size, inflater=self._inflater, stats=self._stats)
        self._is_with_engine = True
        self._engine.receive_data(self._data[self._position :])
        self._data = b""
        self._position = 0

    def _next_simple_message(self) -> Message | None:
        """Read a whole uncompressed message in one frame of less than 64 KiB, if that is what comes next.

        It takes nothing in and judges nothing where it returns None.
        """
        data, start = self._data, self._position
        if len(data) - start < 4:
            return None
        first, second = data[start], data[start + 1]
        if (first != _TEXT and first != _BINARY) or second & 0x80 != self._mask_bit:
            return None
        size = second & 0x7F
        start += 2
        if size >= 126:
            if size == 127:
                return None
            size = data[start] << 8 | data[start + 1]
            start += 2
            if size < 126:
                return None
        mask = b""
        if self._mask_bit:
            mask = data[start : start + 4]
            start += 4
        end = start + size
        if end > len(data) or size > self._frame_size.largest_message:
            return None
        payload = apply_mask(data[start:end], mask) if mask else data[start:end]
        content: str | bytes = payload
        if first == _TEXT:
            try:
                content = payload.decode()
            except UnicodeDecodeError:
                return None
        if self._stats is not None:
            self._stats.on_uncompressed(size)
        if end == len(data):
            self._data = b""
            self._position = 0
        else:
            self._position = end
        self.wire_size = size
        return Message(content, size)

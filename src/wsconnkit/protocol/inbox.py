"""Received messages that the application has not taken yet: bounded, and whole or frame by frame."""

from __future__ import annotations

from collections import deque

from wsconnkit.protocol.config import OVERHEAD, QueueConfig
from wsconnkit.protocol.events import Message


class Inbox:
    """Puts messages together and says when it holds too much.

    Only whole messages count as waiting: an unfinished one is bounded by the frame limits, and pausing on it
    would wait for a last frame that could then never arrive; unless the application takes it frame by frame.
    """

    __slots__ = (
        "_bytes",
        "_frames",
        "_incoming",
        "_max_bytes",
        "_max_messages",
        "_unfinished_bytes",
        "_within",
        "full",
        "messages",
    )

    def __init__(self, config: QueueConfig) -> None:
        self._max_messages = config.max_messages
        self._max_bytes = config.max_bytes
        self._frames: deque[Message] = deque()
        self._bytes = 0
        self._unfinished_bytes = 0
        self._incoming: int | None = None
        """Bytes so far of the message that is being put, taken ones too; None between messages."""
        self._within = False  # the application has taken a part of the first message
        self.messages: int = 0
        """Whole messages that wait."""
        self.full: bool = False
        """Reading should pause."""

    def put(self, frame: Message) -> int | None:
        """Add a message or one frame of it; return the size of the message in bytes when that is its end, else None."""
        self._frames.append(frame)
        self._unfinished_bytes += frame.size + OVERHEAD
        size = frame.size if self._incoming is None else self._incoming + frame.size
        if not frame.final:
            self._incoming = size
            self.full = self._is_full
            return None
        self._bytes += self._unfinished_bytes
        self._unfinished_bytes = 0
        self._incoming = None
        self.messages += 1
        self.full = self.messages >= self._max_messages or self._bytes >= self._max_bytes
        return size

    @property
    def _is_full(self) -> bool:
        if self._within and not self.messages:
            return self._unfinished_bytes >= self._max_bytes
        return self.messages >= self._max_messages or self._bytes >= self._max_bytes

    @property
    def low(self) -> bool:
        """Reading may resume: at most half of what is allowed is left."""
        if self._within and not self.messages:
            return self._unfinished_bytes <= self._max_bytes // 2
        return self.messages <= self._max_messages // 2 and self._bytes <= self._max_bytes // 2

    @property
    def is_unfinished(self) -> bool:
        """The message that was put last is still to go on."""
        return self._incoming is not None

    @property
    def size(self) -> int:
        """Bytes that wait, those of an unfinished message too, with `OVERHEAD` for each frame."""
        return self._bytes + self._unfinished_bytes

    def get_message(self) -> str | bytes | None:
        """Take the next whole message, or None; what is left of one taken frame by frame is dropped first."""
        while self._within:
            if self.get_frame() is None:
                return None
        if not self.messages:
            return None
        first = self._frames.popleft()
        self._bytes -= first.size + OVERHEAD
        if first.final:
            self.messages -= 1
            message = first.data
        else:
            message = self._take_rest(first)
        if self.full:
            self.full = self._is_full
        return message

    def get_frame(self) -> Message | None:
        """Take the next frame of the current or next message, or None."""
        if not self._frames:
            return None
        frame = self._take()
        self._within = not frame.final
        self.full = self._is_full
        return frame

    def _take_rest(self, first: Message) -> str | bytes:
        parts = [first]
        while not parts[-1].final:
            parts.append(self._take())
        if isinstance(first.data, str):
            return "".join(part.data for part in parts if isinstance(part.data, str))
        return b"".join(part.data for part in parts if isinstance(part.data, bytes))

    def _take(self) -> Message:
        frame = self._frames.popleft()
        if self.messages:  # the frame belongs to a whole message
            self._bytes -= frame.size + OVERHEAD
            if frame.final:
                self.messages -= 1
        else:
            self._unfinished_bytes -= frame.size + OVERHEAD
        return frame

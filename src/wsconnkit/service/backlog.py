"""Messages of a client that wait for a connection: bounded, in order, and each handed over at most once.

backlog = Backlog(BacklogConfig(when_full=WhenFull.DROP_OLDEST))
backlog.put("hello")
message = backlog.take()      # in hand: it still counts
backlog.delivered()           # a connection has it; or give_back(), where none has taken it
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from wsconnkit.machines.framesize import MIB
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.prepared import payload_of


class WhenFull(Enum):
    """What becomes of a message for which there is no room."""

    BLOCK = "block"
    """Its sender waits; one that never waits is told that it was not taken."""
    DROP_OLDEST = "drop_oldest"
    """Those that have waited the longest make room."""
    DROP_NEWEST = "drop_newest"
    """It is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogConfig:
    """How much may wait for a connection. Raises ValueError for a limit below 1.

    max_messages, max_bytes: of messages that no connection has taken yet.
    """

    max_messages: int = 1000
    max_bytes: int = MIB
    when_full: WhenFull = WhenFull.BLOCK

    def __post_init__(self) -> None:
        for name in ("max_messages", "max_bytes"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")
        if not isinstance(self.when_full, WhenFull):
            raise ValueError(f"when_full is {self.when_full!r}; it must be a WhenFull")


class Backlog:
    """A queue of messages, of which the first can be in hand: taken out, and not yet known to be delivered."""

    __slots__ = ("_bytes", "_config", "_in_hand", "_waiting", "bytes_dropped", "messages_dropped")

    def __init__(self, config: BacklogConfig) -> None:
        self._config = config
        self._waiting: deque[tuple[str | bytes, int]] = deque()
        self._in_hand: tuple[str | bytes, int] | None = None
        self._bytes = 0
        self.messages_dropped: int = 0
        """Messages that were given to the queue and to no connection."""
        self.bytes_dropped: int = 0
        """Their bytes."""

    def __len__(self) -> int:
        """Return how many messages wait, one in hand included."""
        return len(self._waiting) + (self._in_hand is not None)

    @property
    def size(self) -> int:
        """Bytes that wait, those in hand included."""
        return self._bytes

    def must_wait(self, message: str | bytes | bytearray | memoryview) -> bool:
        """Tell whether the sender of `message` has to wait for room. Raises as `put` does."""
        _, size = self._checked(message)
        return self._config.when_full is WhenFull.BLOCK and not self._has_room(size)

    def put(self, message: str | bytes | bytearray | memoryview) -> bool:
        """Add a message behind the others, and tell whether it was taken; one that was not counts as dropped.

        Raises LocalProtocolError for a message over `max_bytes`, and for text that is no valid Unicode; TypeError for
        other types.
        """
        data, size = self._checked(message)
        if self._config.when_full is WhenFull.DROP_OLDEST and self._can_make_room(size):
            while not self._has_room(size):
                self._drop(self._waiting.popleft()[1], waited=True)
        if not self._has_room(size):
            self._drop(size, waited=False)
            return False
        self._waiting.append((data, size))
        self._bytes += size
        return True

    def take(self) -> str | bytes | None:
        """Take the first message in hand, or return None where none waits. One at a time."""
        assert self._in_hand is None  # the one before was delivered or given back
        if not self._waiting:
            return None
        self._in_hand = self._waiting.popleft()
        return self._in_hand[0]

    def delivered(self) -> None:
        """A connection has the message in hand."""
        assert self._in_hand is not None  # it was taken
        self._bytes -= self._in_hand[1]
        self._in_hand = None

    def give_back(self) -> None:
        """Put the message in hand back to the front: no connection has it."""
        assert self._in_hand is not None  # it was taken
        self._waiting.appendleft(self._in_hand)
        self._in_hand = None

    def drop_all(self) -> None:
        """Drop what waits: there will be no connection. What is in hand stays there."""
        while self._waiting:
            self._drop(self._waiting.popleft()[1], waited=True)

    def _has_room(self, size: int) -> bool:
        return len(self) < self._config.max_messages and self._bytes + size <= self._config.max_bytes

    def _can_make_room(self, size: int) -> bool:
        # What is in hand may be on its way already.
        messages, held = (0, 0) if self._in_hand is None else (1, self._in_hand[1])
        return messages < self._config.max_messages and held + size <= self._config.max_bytes

    def _drop(self, size: int, *, waited: bool) -> None:
        self.messages_dropped += 1
        self.bytes_dropped += size
        if waited:
            self._bytes -= size

    def _checked(self, message: str | bytes | bytearray | memoryview) -> tuple[str | bytes, int]:
        """Return what to keep of a message, which may change behind our back, and its size in bytes."""
        _, payload = payload_of(message)
        size = len(payload)
        if size > self._config.max_bytes:
            raise LocalProtocolError(f"message of {size} bytes; at most {self._config.max_bytes} can wait (max_bytes)")
        return message if isinstance(message, str) else payload, size

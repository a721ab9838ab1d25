"""Our messages that the network has not taken yet: bounded in bytes and age, and still as the application gave them.

They are neither framed nor compressed before the transport has room for them, so dropping one harms no other.

A connection owns its outbox; adapters look at `line`, `size` and `blocks`, and call the connection. While `is_clear`
(nothing waits, and the adapter has not said `writing_paused`) a message is sent at once. Otherwise

- `send_nowait` puts a message at the end of the line, as far as `QueueConfig` allows;
- `queue_up` puts a sender there who waits for its turn, `leave` takes it out again;
- `send_waiting`, after `writing_resumed` and after a turn was taken, hands over what has room, up to the next turn;
- `turns_due` returns those who are to be woken: it is their turn, or the connection has begun to close.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from wsconnkit.protocol.config import OVERHEAD, QueueConfig, SlowConsumer
from wsconnkit.protocol.prepared import PreparedMessage
from wsconnkit.protocol.stats import ConnectionStats


class Put(Enum):
    """What became of a message."""

    TAKEN = "taken"
    DROPPED = "dropped"
    OVERFLOW = "overflow"
    """It was dropped, and the connection is to be closed."""


class Turn:
    """The place of a sender who waits in line; `owner` is what its adapter wakes it by."""

    __slots__ = ("owner",)

    def __init__(self, owner: object) -> None:
        self.owner: object = owner


class Outbox:
    """The line of messages, and of senders with a message each, before the transport.

    config: the bounds, and what to do when they are reached.
    stats: where dropped messages are counted.
    """

    __slots__ = ("_dismissed", "_max_age", "_max_bytes", "_policy", "_stats", "_stuck_at", "line", "size")

    def __init__(self, config: QueueConfig, stats: ConnectionStats) -> None:
        self._max_bytes = config.max_unsent_bytes
        self._max_age = config.max_unsent_age
        self._policy = config.slow_consumer
        self._stats = stats
        self._stuck_at: float | None = None
        """When the transport took the last bytes, while it is stuck."""
        self._dismissed: list[object] = []
        self.line: deque[tuple[PreparedMessage, float] | Turn] = deque()
        """Messages with the time of their arrival, and turns."""
        self.size: int = 0
        """Bytes that wait, with `OVERHEAD` for each message."""

    @property
    def blocks(self) -> bool:
        """`send` is to wait for its turn."""
        return self._policy is SlowConsumer.BLOCK

    def put(self, message: PreparedMessage, now: float) -> Put:
        """Add a message to the end, as far as there is room or room is to be made."""
        size = message.size + OVERHEAD
        if self.size + size > self._max_bytes:
            if self._policy is not SlowConsumer.DROP_OLDEST or size > self._max_bytes:
                self._count(message)
                return Put.OVERFLOW if self._policy is SlowConsumer.CLOSE else Put.DROPPED
            while self.size + size > self._max_bytes:
                self._drop_first()
        self.line.append((message, now))
        self.size += size
        return Put.TAKEN

    def take(self) -> PreparedMessage | None:
        """Remove the first message and return it; None when nothing waits, or a sender is before it."""
        if not self.line or isinstance(self.line[0], Turn):
            return None
        message, _ = self.line[0]
        self.line.popleft()
        self.size -= message.size + OVERHEAD
        return message

    def queue_up(self, owner: object) -> Turn:
        """Put a sender at the end."""
        turn = Turn(owner)
        self.line.append(turn)
        return turn

    def leave(self, turn: Turn) -> None:
        """Take a sender out, whose turn it is or who gives up; safe when it is not there any more."""
        if turn in self.line:
            self.line.remove(turn)

    def turns_due(self) -> list[object]:
        """Return the owners of turns that have come, as long as they stay, and once of those that never will."""
        due, self._dismissed = self._dismissed, []
        if self._stuck_at is None and self.line and isinstance(self.line[0], Turn):
            due.append(self.line[0].owner)
        return due

    def empty(self) -> list[PreparedMessage]:
        """Remove everything: return the messages, and the turns as due."""
        messages = []
        for entry in self.line:
            if isinstance(entry, Turn):
                self._dismissed.append(entry.owner)
            else:
                messages.append(entry[0])
        self.line.clear()
        self.size = 0
        return messages

    def drop(self) -> None:
        """Remove everything, and count the messages as dropped."""
        for message in self.empty():
            self._count(message)

    def stuck(self, now: float) -> None:
        """The transport takes no more, or it does but still holds some of our bytes."""
        self._stuck_at = now

    def unstuck(self) -> None:
        """All bytes have left the transport."""
        self._stuck_at = None

    @property
    def late_at(self) -> float | None:
        """When to call `on_late`, or None.

        Senders in line have no age: how long to wait is their own affair, as long as the peer takes something.
        """
        if self._max_age is None:
            return None
        since = None if self._drops else self._stuck_at
        if self.line and not isinstance(self.line[0], Turn):
            waiting_since = self.line[0][1]
            since = waiting_since if since is None else min(since, waiting_since)
        return None if since is None else since + self._max_age

    def on_late(self, now: float) -> bool:
        """Drop what has waited too long; or tell that the connection is to be closed."""
        if not self._drops:
            return (late_at := self.late_at) is not None and late_at <= now
        while (late_at := self.late_at) is not None and late_at <= now:
            self._drop_first()
        return False

    @property
    def _drops(self) -> bool:
        return self._policy is SlowConsumer.DROP_OLDEST or self._policy is SlowConsumer.DROP_NEWEST

    def _drop_first(self) -> None:
        message = self.take()
        assert message is not None  # nobody waits for a turn where messages are dropped
        self._count(message)

    def _count(self, message: PreparedMessage) -> None:
        self._stats.messages_dropped += 1
        self._stats.bytes_dropped += message.size

"""What happens on a connection, told in the order it happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from wsconnkit.protocol.closeinfo import CloseInfo


class Message(NamedTuple):
    """A message, or one frame of it: all but the last frame of a fragmented one have `final=False`.

    Frames end where the peer ended them, never where a read did. `Inbox` puts messages together.
    """

    data: str | bytes
    size: int
    """Bytes after inflation; for text those of its UTF-8."""
    final: bool = True


@dataclass(frozen=True, slots=True)
class MessageDiscarded:
    """A message, or one frame of it, came after the end had begun, and nobody gets it; `size` as in `Message`."""

    size: int


@dataclass(frozen=True, slots=True)
class PingReceived:
    """A ping arrived; while the connection is open it is answered without further ado."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class PongReceived:
    """A pong arrived; `latency` in seconds when it answers a ping of ours and we have read all the time, else None."""

    payload: bytes
    latency: float | None


@dataclass(frozen=True, slots=True)
class HeartbeatPinged:
    """The heartbeat sent a ping, after `missed` unanswered ones."""

    missed: int


@dataclass(frozen=True, slots=True)
class HeartbeatStalled:
    """Our own timer fired `late_by` seconds late; the peer is not judged by that."""

    late_by: float


@dataclass(frozen=True, slots=True)
class FrameSizeWarning:
    """A frame of `size` bytes passed that is at or over `warn_threshold`."""

    size: int


@dataclass(frozen=True, slots=True)
class UnreadWarning:
    """The application has taken nothing from a full queue for `age` seconds, a tenth of what it may at least."""

    age: float


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection has ended; nothing follows."""

    info: CloseInfo


Event: TypeAlias = (
    Message
    | MessageDiscarded
    | PingReceived
    | PongReceived
    | HeartbeatPinged
    | HeartbeatStalled
    | FrameSizeWarning
    | UnreadWarning
    | Closed
)

"""The settings of one connection: frozen, validated when made, `None` switches a part off."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from math import inf

from wsconnkit.machines.framesize import MIB, FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.deflate import CompressionConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseConfig:
    """timeout: seconds that the whole closing may take before the transport is aborted; more than 0."""

    timeout: float = 5.0

    def __post_init__(self) -> None:
        _check_seconds(self, "timeout")


class SlowConsumer(Enum):
    """What becomes of our messages when the peer does not read as fast as they come."""

    BLOCK = "block"
    """`send` waits; `send_nowait` takes what fits into the queue, and refuses the rest."""
    DROP_OLDEST = "drop_oldest"
    """The messages that have waited longest make room for new ones; `send` does not wait."""
    DROP_NEWEST = "drop_newest"
    """What does not fit into the queue is dropped; `send` does not wait."""
    CLOSE = "close"
    """The first message that does not fit closes the connection with 1013; `send` does not wait."""


OVERHEAD = 128
"""Bytes that a frame or message which waits takes besides its payload, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """How much may wait for the application, and for the network. Raises ValueError for values out of range.

    max_messages, max_bytes: received messages that the application has not taken, with 128 bytes more counted for each
        frame of them; from either on, reading pauses.
    max_unread_age: seconds for which the application may take nothing while reading is paused, or None; then the
        connection is closed with 1013.
    write_high_water: bytes in the transport's buffer above which messages wait.
    max_unsent_bytes: of messages that wait for the transport, with 128 more counted for each.
    max_unsent_age: seconds that a message may wait, and for which the peer may take nothing at all, or None. A message
        that is older is dropped where `slow_consumer` is to drop, else the connection is closed with 1013.
    slow_consumer: what to do when the peer is too slow.
    """

    max_messages: int = 256
    max_bytes: int = MIB
    max_unread_age: float | None = 300.0
    write_high_water: int = 64 * 1024
    max_unsent_bytes: int = MIB
    max_unsent_age: float | None = 30.0
    slow_consumer: SlowConsumer = SlowConsumer.BLOCK

    def __post_init__(self) -> None:
        _check_counts(self, "max_messages", "max_bytes", "write_high_water", "max_unsent_bytes")
        for name in ("max_unread_age", "max_unsent_age"):
            if getattr(self, name) is not None:
                _check_seconds(self, name)
        if not isinstance(self.slow_consumer, SlowConsumer):
            raise ValueError(f"slow_consumer is {self.slow_consumer!r}; it must be a SlowConsumer")


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeLimits:
    """Limits on a peer's opening handshake. Raises ValueError for values that are not positive.

    timeout: seconds from the first wait to the last byte of the head, and then for our answer to a request.
    max_line: bytes of the request target, or of one header's name and value.
    max_headers: number of headers.
    max_head: bytes of the request or status line and all headers together.
    max_body: bytes kept of the body of a response that refuses.
    """

    timeout: float = 10.0
    max_line: int = 8 * 1024
    max_headers: int = 128
    max_head: int = 32 * 1024
    max_body: int = 64 * 1024

    def __post_init__(self) -> None:
        _check_seconds(self, "timeout")
        _check_counts(self, "max_line", "max_headers", "max_head", "max_body")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionConfig:
    """All settings of a connection.

    heartbeat: None sends no pings and never declares a peer dead.
    limits: on frames and messages from the peer.
    compression: None neither offers nor accepts permessage-deflate.
    close: the closing handshake.
    queue: bounds on what waits.
    handshake: limits on the opening handshake.
    idle_timeout: seconds without an application message in either direction before a close with 1001, or None.
    """

    heartbeat: HeartbeatConfig | None = field(default_factory=HeartbeatConfig)
    limits: FrameLimits = field(default_factory=FrameLimits)
    compression: CompressionConfig | None = field(default_factory=CompressionConfig)
    close: CloseConfig = field(default_factory=CloseConfig)
    queue: QueueConfig = field(default_factory=QueueConfig)
    handshake: HandshakeLimits = field(default_factory=HandshakeLimits)
    idle_timeout: float | None = None

    def __post_init__(self) -> None:
        if self.idle_timeout is not None:
            _check_seconds(self, "idle_timeout")
        for name, kind in _PARTS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) and (value is not None or name not in ("heartbeat", "compression")):
                raise ValueError(f"{name} is {value!r}; it must be a {kind.__name__}")


_PARTS = {
    "heartbeat": HeartbeatConfig,
    "limits": FrameLimits,
    "compression": CompressionConfig,
    "close": CloseConfig,
    "queue": QueueConfig,
    "handshake": HandshakeLimits,
}


def _check_seconds(config: CloseConfig | QueueConfig | HandshakeLimits | ConnectionConfig, name: str) -> None:
    value = getattr(config, name)
    if not (isinstance(value, (int, float)) and 0 < value < inf):
        raise ValueError(f"{name} is {value!r}; it must be a finite number of seconds, more than 0")


def _check_counts(config: QueueConfig | HandshakeLimits, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")

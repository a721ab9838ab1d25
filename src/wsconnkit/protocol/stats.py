"""What one connection has carried."""

from __future__ import annotations

from dataclasses import dataclass

from wsconnkit.machines.compression import CompressionStats
from wsconnkit.machines.framesize import FrameSizeStats


@dataclass(slots=True)
class ConnectionStats:
    """What one connection has carried; bytes are those on the wire."""

    frames: FrameSizeStats
    compression: CompressionStats
    bytes_received: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    messages_discarded: int = 0
    """Messages that were not read when we closed, or arrived after it."""
    messages_dropped: int = 0
    """Messages that the application gave us to send without waiting, and that were not sent."""
    bytes_dropped: int = 0
    """The sizes of those."""
    stalls: int = 0

"""Statistics of what compression saved, in both directions.

Alone::

    from wsconnkit.machines.compression import CompressionStats

    stats = CompressionStats()
    stats.outbound.on_compressed(before=4096, after=512)
    stats.outbound.on_uncompressed(20)
    stats.outbound.ratio                  # 0.125
    stats.outbound.percent_saved          # 87.5
    stats.outbound.average_bytes_saved    # 3584.0
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class DirectionStats:
    """One direction's messages; bytes before and after are those of compressed messages only."""

    messages_compressed: int = 0
    messages_uncompressed: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    bytes_uncompressed: int = 0
    errors: int = 0

    def on_compressed(self, *, before: int, after: int) -> None:
        """Count a message of `before` bytes that travelled as `after` bytes."""
        self.messages_compressed += 1
        self.bytes_before += before
        self.bytes_after += after

    def on_uncompressed(self, size: int) -> None:
        """Count a message of `size` bytes that travelled as it was."""
        self.messages_uncompressed += 1
        self.bytes_uncompressed += size

    def on_error(self) -> None:
        """Count a message that could not be inflated."""
        self.errors += 1

    @property
    def ratio(self) -> float:
        """Bytes after compression for each byte before; 1.0 when nothing was compressed."""
        return self.bytes_after / self.bytes_before if self.bytes_before else 1.0

    @property
    def percent_saved(self) -> float:
        """How much smaller compressed messages became, in percent; negative when they grew."""
        return (1.0 - self.ratio) * 100.0

    @property
    def average_bytes_saved(self) -> float:
        """Mean bytes saved by a compressed message; 0.0 when there was none."""
        saved = self.bytes_before - self.bytes_after
        return saved / self.messages_compressed if self.messages_compressed else 0.0


@dataclass(slots=True)
class CompressionStats:
    """Both directions of one connection, or of many added up by their owner."""

    outbound: DirectionStats = field(default_factory=DirectionStats)
    inbound: DirectionStats = field(default_factory=DirectionStats)

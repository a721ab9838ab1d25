"""Limits on frames, messages and fragments, in bytes, judged before anything is buffered.

Alone::

    from wsconnkit.machines.framesize import FrameLimits, FrameSize

    sizes = FrameSize(FrameLimits.strict())
    violation = sizes.on_header(300_000, first=True)
    if violation is not None:
        print(violation)                  # 'frame of 300000 bytes is over max_frame_size (262144)'
    sizes.on_header(1000, first=True)     # None: go on and read the payload
    sizes.on_payload(1000)                # None
    sizes.on_frame_end(1000, fin=True)    # False: below warn_threshold
    sizes.stats.average_frame_size        # 1000.0
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, fields
from sys import maxsize

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLimits:
    """Limits on what a peer may send; None switches one off. Raises ValueError for a limit below 1.

    max_frame_size: payload bytes of one frame on the wire.
    max_message_size: bytes of one message, after inflation, over all its fragments.
    warn_threshold: payload bytes from which a frame counts as a warning.
    max_fragments: frames of one message.
    max_control_frames_per_second: pings, and pongs that answer no ping of ours; as many may come at once.
    """

    max_frame_size: int | None = MIB
    max_message_size: int | None = MIB
    warn_threshold: int | None = 512 * KIB
    max_fragments: int | None = 1024
    max_control_frames_per_second: int | None = 100

    def __post_init__(self) -> None:
        for name in (limit.name for limit in fields(self)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1, or None for no limit")

    @classmethod
    def strict(cls) -> FrameLimits:
        """256 KiB a frame and a message, a warning from 128 KiB."""
        return cls(max_frame_size=256 * KIB, max_message_size=256 * KIB, warn_threshold=128 * KIB)

    @classmethod
    def lenient(cls) -> FrameLimits:
        """10 MiB a frame and a message, a warning from 5 MiB."""
        return cls(max_frame_size=10 * MIB, max_message_size=10 * MIB, warn_threshold=5 * MIB)


@dataclass(frozen=True, slots=True)
class Violation:
    """A limit that was passed: `size` is what was seen or announced, `limit` what is allowed."""

    limit_name: str
    size: int
    limit: int

    def __str__(self) -> str:
        if self.limit_name == "max_fragments":
            return f"message of {self.size} fragments is over max_fragments ({self.limit})"
        what = "frame" if self.limit_name == "max_frame_size" else "message"
        return f"{what} of {self.size} bytes is over {self.limit_name} ({self.limit})"


@dataclass(slots=True)
class FrameSizeStats:
    """What passed and what did not; sizes in bytes on the wire."""

    total_frames: int = 0
    total_bytes: int = 0
    violations: int = 0
    warnings: int = 0
    largest_frame: int = 0
    recent_violations: deque[Violation] = field(default_factory=lambda: deque(maxlen=100))

    @property
    def average_frame_size(self) -> float:
        """Mean payload bytes a frame; 0.0 before the first."""
        return self.total_bytes / self.total_frames if self.total_frames else 0.0


class FrameSize:
    """Follows the frames of one direction of one connection against `limits`."""

    __slots__ = (
        "_fragments",
        "_max_fragments",
        "_max_frame",
        "_max_message",
        "_message_size",
        "_warn_from",
        "largest_message",
        "stats",
    )

    def __init__(self, limits: FrameLimits) -> None:
        self._max_frame = maxsize if limits.max_frame_size is None else limits.max_frame_size
        self._max_message = maxsize if limits.max_message_size is None else limits.max_message_size
        self._max_fragments = maxsize if limits.max_fragments is None else limits.max_fragments
        self._warn_from = maxsize if limits.warn_threshold is None else limits.warn_threshold
        self._message_size = 0
        self._fragments = 0
        self.largest_message: int = min(self._max_frame, self._max_message)
        """Bytes that a message in a single frame may have."""
        self.stats: FrameSizeStats = FrameSizeStats()

    @property
    def remaining(self) -> int:
        """Bytes that the current message may still grow by."""
        return self._max_message - self._message_size

    def on_header(self, length: int, *, first: bool, compressed: bool = False) -> Violation | None:
        """Judge a data frame by the `length` in its header; safe to repeat for the same header.

        first: the frame starts a message. compressed: `length` says nothing about the message's size.
        """
        if length > self._max_frame:
            return self._violated("max_frame_size", length, self._max_frame)
        fragments = 1 if first else self._fragments + 1
        if fragments > self._max_fragments:
            return self._violated("max_fragments", fragments, self._max_fragments)
        size = length if first else self._message_size + length
        if size > self._max_message and not compressed:
            return self._violated("max_message_size", size, self._max_message)
        return None

    def on_payload(self, size: int) -> Violation | None:
        """Add `size` bytes, inflated where they came compressed, to the current message."""
        self._message_size += size
        if self._message_size > self._max_message:
            return self._violated("max_message_size", self._message_size, self._max_message)
        return None

    def on_frame_end(self, length: int, *, fin: bool) -> bool:
        """Count a data frame of `length` wire bytes; `fin` ends its message. True: it is worth a warning."""
        stats = self.stats
        stats.total_frames += 1
        stats.total_bytes += length
        if length > stats.largest_frame:
            stats.largest_frame = length
        if fin:
            self._message_size = self._fragments = 0
        else:
            self._fragments += 1
        if length < self._warn_from:
            return False
        stats.warnings += 1
        return True

    def _violated(self, limit_name: str, size: int, limit: int) -> Violation:
        violation = Violation(limit_name, size, limit)
        self.stats.violations += 1
        self.stats.recent_violations.append(violation)
        return violation

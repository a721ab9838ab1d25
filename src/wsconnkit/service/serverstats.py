"""What a server has done since it started, as plain numbers; most of them only ever grow.

    server_stats = ServerStats()
    server_stats.on_opened()
    server_stats.received.observe(512)
    server_stats.on_closed(info, stats)
    server_stats.closed[Cause.PEER_CLOSE, "1000"]   # 1
    server_stats.ended.bytes_received               # what closed connections have carried

What open connections have carried is in their own stats, and is not counted twice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeAlias

from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.protocol.closeinfo import Cause, CloseInfo
from wsconnkit.protocol.events import Event, HeartbeatPinged, HeartbeatStalled, PongReceived
from wsconnkit.protocol.stats import ConnectionStats
from wsconnkit.service.admission import Refused
from wsconnkit.service.handshakes import Cap

Limited: TypeAlias = Literal["upgrade", "message", "auth"]
"""What is refused when it comes too often; "auth" is a token, after too many that were invalid."""

LATENCY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""
SIZE_BOUNDS = (64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0)
"""Bytes."""

_REGISTERED = {int(code): str(int(code)) for code in CloseCode}


def code_label(code: int) -> str:
    """Return one of few names for any close code, so that peers cannot make up ever new ones.

    Codes of RFC 6455 and IANA below 3000 keep theirs; the others are `3xxx`, `4xxx` and `other`.
    """
    if code in _REGISTERED:
        return _REGISTERED[code]
    if 3000 <= code <= 3999:
        return "3xxx"
    return "4xxx" if 4000 <= code <= 4999 else "other"


class Histogram:
    """How many values were how large; raises ValueError for `bounds` that do not rise.

    bounds: the largest value of each class but the last, which has none.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds: tuple[float, ...] = tuple(bounds)
        if any(not low < high for low, high in pairwise(self.bounds)):
            raise ValueError(f"bounds are {self.bounds!r}; each must be more than the one before")
        self.counts: list[int] = [0] * (len(self.bounds) + 1)
        """Values in each class."""
        self.total: float = 0
        """The sum of all values."""

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Totals:
    """The stats of many connections, added up; bytes before and after compression are those of compressed messages."""

    bytes_received: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    messages_discarded: int = 0
    messages_dropped: int = 0
    bytes_dropped: int = 0
    frame_violations: int = 0
    frame_warnings: int = 0
    compressed_received: int = 0
    received_before: int = 0
    received_after: int = 0
    compressed_sent: int = 0
    sent_before: int = 0
    sent_after: int = 0
    compression_errors: int = 0

    def add(self, connections: Iterable[ConnectionStats]) -> None:
        """Add the stats of connections."""
        bytes_received = bytes_sent = messages_received = messages_sent = messages_discarded = violations = warnings = 0
        messages_dropped = bytes_dropped = 0
        compressed_received = received_before = received_after = errors = 0
        compressed_sent = sent_before = sent_after = 0
        # There may be ten thousand of them while an event loop waits: names are cheaper here than attributes, and sums
        # of tuples would make the garbage collector run.
        for stats in connections:
            bytes_received += stats.bytes_received
            bytes_sent += stats.bytes_sent
            messages_received += stats.messages_received
            messages_sent += stats.messages_sent
            messages_discarded += stats.messages_discarded
            messages_dropped += stats.messages_dropped
            bytes_dropped += stats.bytes_dropped
            frames, compression = stats.frames, stats.compression
            violations += frames.violations
            warnings += frames.warnings
            inbound, outbound = compression.inbound, compression.outbound
            compressed_received += inbound.messages_compressed
            received_before += inbound.bytes_before
            received_after += inbound.bytes_after
            errors += inbound.errors
            compressed_sent += outbound.messages_compressed
            sent_before += outbound.bytes_before
            sent_after += outbound.bytes_after
        self.bytes_received += bytes_received
        self.bytes_sent += bytes_sent
        self.messages_received += messages_received
        self.messages_sent += messages_sent
        self.messages_discarded += messages_discarded
        self.messages_dropped += messages_dropped
        self.bytes_dropped += bytes_dropped
        self.frame_violations += violations
        self.frame_warnings += warnings
        self.compressed_received += compressed_received
        self.received_before += received_before
        self.received_after += received_after
        self.compressed_sent += compressed_sent
        self.sent_before += sent_before
        self.sent_after += sent_after
        self.compression_errors += errors


@dataclass(slots=True, eq=False)
class ServerStats:
    """Counts what happens on a server; every call costs the same, however many connections there are."""

    opened: int = 0
    closed: Counter[tuple[Cause, str]] = field(default_factory=Counter)
    """Ends by cause and `code_label`."""
    refused: Counter[Refused] = field(default_factory=Counter)
    rate_limited: Counter[Limited] = field(default_factory=Counter)
    handshakes_dropped: Counter[Cap] = field(default_factory=Counter)
    """Handshakes that were ended for newer ones, by the cap that was reached."""
    misses: int = 0
    """Pings that went unanswered for the heartbeat's timeout."""
    stalls: int = 0
    """Heartbeats that came late because our own timer did."""
    latencies: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS))
    """Seconds from a ping to its pong."""
    received: Histogram = field(default_factory=lambda: Histogram(SIZE_BOUNDS))
    """Sizes of received messages in bytes, after inflation."""
    sent: Histogram = field(default_factory=lambda: Histogram(SIZE_BOUNDS))
    """Sizes of sent messages in bytes, before compression."""
    ended: Totals = field(default_factory=Totals)
    """What closed connections have carried."""

    def on_opened(self) -> None:
        """Count a connection that has opened."""
        self.opened += 1

    def on_event(self, event: Event) -> None:
        """Count what an event says of the heartbeat; other events are ignored."""
        if isinstance(event, PongReceived):
            if event.latency is not None:
                self.latencies.observe(event.latency)
        elif isinstance(event, HeartbeatPinged):
            if event.missed:
                self.misses += 1
        elif isinstance(event, HeartbeatStalled):
            self.stalls += 1

    def on_closed(self, info: CloseInfo, stats: ConnectionStats) -> None:
        """Count a connection that has ended; to be called once, as soon as it is in state CLOSED."""
        self.closed[info.cause, code_label(info.code)] += 1
        if info.cause is Cause.HEARTBEAT:
            self.misses += 1  # the last one, after which there is no further ping
        self.ended.add([stats])

    def on_refused(self, reason: Refused) -> None:
        """Count an upgrade that was refused."""
        self.refused[reason] += 1

    def on_handshake_dropped(self, cap: Cap) -> None:
        """Count a handshake that was ended for a newer one."""
        self.handshakes_dropped[cap] += 1

    def on_limited(self, kind: Limited) -> None:
        """Count an upgrade, a message or a token that came too early."""
        self.rate_limited[kind] += 1

"""What a server does, as Prometheus metrics; needs `wsconnkit[prometheus]`.

    REGISTRY.register(ServerMetrics(server))                        # next to those of the application
    content_type, body = render_metrics(server, headers.get("Accept"))      # or alone, as the answer to GET /metrics

Nothing is done per message: connections and their server count anyway, and are added up when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import accumulate
from typing import Protocol, TypeAlias, get_args

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from wsconnkit.machines.closing import State
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.stats import ConnectionStats
from wsconnkit.service.admission import Refused
from wsconnkit.service.handshakes import Cap
from wsconnkit.service.serverstats import Histogram, Limited, ServerStats, Totals, code_label

_OPENMETRICS = "application/openmetrics-text"

_Series: TypeAlias = dict[tuple[str, ...], int]
"""Values by those of the labels."""


class MeasuredConnection(Protocol):
    """What is read of a connection."""

    @property
    def state(self) -> State:
        """Where it stands; when it is CLOSED, its stats must have been given to `ServerStats.on_closed`."""

    @property
    def stats(self) -> ConnectionStats:
        """What it has carried."""

    @property
    def queued_bytes(self) -> tuple[int, int]:
        """Bytes that wait for the application, and for the network, with what it takes to hold them."""


class MeasuredServer(Protocol):
    """What is read of a server."""

    @property
    def stats(self) -> ServerStats:
        """What it has done."""

    @property
    def connections(self) -> Iterable[MeasuredConnection]:
        """Those that are there."""

    @property
    def is_draining(self) -> bool:
        """Whether it refuses new connections because it shuts down."""


class ServerMetrics(Collector):
    """The metrics of one server, for a `CollectorRegistry`; to be collected in the thread that the server runs in."""

    def __init__(self, server: MeasuredServer) -> None:
        self._server = server

    def collect(self) -> Iterable[Metric]:
        """Return all metrics as they are now."""
        server = self._server
        return _families(server.stats, _Sums(server.stats.ended, server.connections), server.is_draining)

    def describe(self) -> Iterable[Metric]:
        """Return the same metrics without looking at the server."""
        return _families(ServerStats(), _Sums(Totals(), ()), False)


def render_metrics(server: MeasuredServer, accept: str | None) -> tuple[str, bytes]:
    """Return the content type and the body of an answer to GET /metrics.

    accept: the request's Accept header; OpenMetrics for those who name it, else Prometheus's text format.
    """
    accepted = {part.partition(";")[0].strip().lower() for part in (accept or "").split(",")}
    # The header itself goes no further: choose_encoder raises for some versions in it, and repeats others.
    encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in accepted else "")
    return content_type, encode(ServerMetrics(server))


class _Sums:
    """What there is at one moment; `ended` is what the connections of before have carried."""

    def __init__(self, ended: Totals, connections: Iterable[MeasuredConnection]) -> None:
        self.states = dict.fromkeys(State, 0)
        self.unread = self.unsent = 0
        self.totals = replace(ended)
        self.totals.add(self._live(connections))

    def _live(self, connections: Iterable[MeasuredConnection]) -> Iterator[ConnectionStats]:
        """Yield the stats that are not among `ended`, and take note of all else on the way."""
        open_ = unread = unsent = 0
        for connection in connections:
            in_, out = connection.queued_bytes
            unread += in_
            unsent += out
            state = connection.state
            if state is State.OPEN:
                open_ += 1  # members of an Enum are slow to hash
            else:
                self.states[state] += 1
            if state is not State.CLOSED:
                yield connection.stats
        self.states[State.OPEN] = open_
        self.unread, self.unsent = unread, unsent


def _families(server_stats: ServerStats, sums: _Sums, is_draining: bool) -> Iterator[Metric]:
    totals = sums.totals
    states: _Series = {(state.value,): count for state, count in sums.states.items()}
    # A series that is there from the start shows its first increase; each cause has one at least.
    closed: _Series = {(cause.value, code_label(cause.code)): 0 for cause in Cause}
    closed |= {(cause.value, code): count for (cause, code), count in server_stats.closed.items()}
    refused: _Series = {(reason.value,): server_stats.refused[reason] for reason in Refused}
    dropped: _Series = {(cap,): server_stats.handshakes_dropped[cap] for cap in get_args(Cap)}
    limited: _Series = {(kind,): server_stats.rate_limited[kind] for kind in get_args(Limited)}

    yield _gauge("connections", "Connections by where they stand.", states, "state")
    yield _counter("connections_opened", "Connections that have opened.", {(): server_stats.opened})
    yield _counter("connections_closed", "Connections that have ended.", closed, "cause", "code")
    yield _counter("upgrades_refused", "Upgrades that were refused.", refused, "reason")
    yield _counter("handshakes_dropped", "Handshakes that were ended for newer ones.", dropped, "cap")
    yield _counter("rate_limited", "Upgrades, messages and tokens that came too early.", limited, "kind")
    yield _gauge("draining", "1 while the server refuses upgrades because it shuts down.", {(): int(is_draining)})

    directions = _directions(totals.bytes_received, totals.bytes_sent)
    yield _counter("bytes", "Bytes on the wire, without opening handshakes.", directions, "direction")
    directions = _directions(totals.messages_received, totals.messages_sent)
    yield _counter("messages", "Messages that were received whole or sent.", directions, "direction")
    text = "Messages from peers that were dropped because we were closing."
    yield _counter("messages_discarded", text, {(): totals.messages_discarded})
    text = "Messages to peers that were dropped because they read too slowly, or not before the end."
    yield _counter("messages_dropped", text, {(): totals.messages_dropped})
    yield _counter("dropped_bytes", "Bytes of the messages to peers that were dropped.", {(): totals.bytes_dropped})
    sizes: dict[tuple[str, ...], Histogram] = {("in",): server_stats.received, ("out",): server_stats.sent}
    yield _histogram("message_size_bytes", "Sizes of messages without compression.", sizes, "direction")
    queues: _Series = {("inbound",): sums.unread, ("outbound",): sums.unsent}
    text = "Bytes that wait for the application to read, or for the peer, with 128 more for each frame or message."
    yield _gauge("queue_bytes", text, queues, "queue")

    directions = _directions(totals.compressed_received, totals.compressed_sent)
    yield _counter("compression_messages", "Messages that travelled compressed.", directions, "direction")
    directions = _directions(totals.received_before, totals.sent_before)
    yield _counter("compression_input_bytes", "Bytes of compressed messages, inflated.", directions, "direction")
    directions = _directions(totals.received_after, totals.sent_after)
    yield _counter("compression_output_bytes", "Bytes of compressed messages, deflated.", directions, "direction")
    yield _counter("compression_errors", "Messages that could not be inflated.", {(): totals.compression_errors})
    yield _counter("frame_violations", "Frames and messages over a limit.", {(): totals.frame_violations})
    yield _counter("frame_size_warnings", "Frames at or over the warning threshold.", {(): totals.frame_warnings})

    yield _counter("heartbeat_misses", "Heartbeats that were not answered in time.", {(): server_stats.misses})
    yield _counter("heartbeat_stalls", "Heartbeats that our own event loop delayed.", {(): server_stats.stalls})
    yield _histogram("heartbeat_rtt_seconds", "Time from a ping to its pong.", {(): server_stats.latencies})


def _directions(inbound: int, outbound: int) -> _Series:
    return {("in",): inbound, ("out",): outbound}


def _counter(name: str, text: str, values: _Series, *labels: str) -> Metric:
    family = CounterMetricFamily(f"wsconnkit_{name}", text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _gauge(name: str, text: str, values: _Series, *labels: str) -> Metric:
    family = GaugeMetricFamily(f"wsconnkit_{name}", text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _histogram(name: str, text: str, values: dict[tuple[str, ...], Histogram], *labels: str) -> Metric:
    family = HistogramMetricFamily(f"wsconnkit_{name}", text, labels=labels)
    for label_values, histogram in values.items():
        bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
        family.add_metric(label_values, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.total)
    return family

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.machines.closing import State
from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.observe.metrics import MeasuredConnection, ServerMetrics, render_metrics
from wsconnkit.protocol.closeinfo import Cause, CloseFrame, CloseInfo, Initiator
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.deflate import CompressionConfig, DeflateParams
from wsconnkit.protocol.events import Closed, HeartbeatPinged, HeartbeatStalled, PongReceived
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.stats import ConnectionStats
from wsconnkit.service.admission import Refused
from wsconnkit.service.serverstats import ServerStats

SETTINGS = settings(deadline=None)
OPENMETRICS = "application/openmetrics-text"
TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

TYPES = {
    "wsconnkit_connections": "gauge",
    "wsconnkit_connections_opened": "counter",
    "wsconnkit_connections_closed": "counter",
    "wsconnkit_upgrades_refused": "counter",
    "wsconnkit_handshakes_dropped": "counter",
    "wsconnkit_rate_limited": "counter",
    "wsconnkit_draining": "gauge",
    "wsconnkit_bytes": "counter",
    "wsconnkit_messages": "counter",
    "wsconnkit_messages_discarded": "counter",
    "wsconnkit_messages_dropped": "counter",
    "wsconnkit_dropped_bytes": "counter",
    "wsconnkit_message_size_bytes": "histogram",
    "wsconnkit_queue_bytes": "gauge",
    "wsconnkit_compression_messages": "counter",
    "wsconnkit_compression_input_bytes": "counter",
    "wsconnkit_compression_output_bytes": "counter",
    "wsconnkit_compression_errors": "counter",
    "wsconnkit_frame_violations": "counter",
    "wsconnkit_frame_size_warnings": "counter",
    "wsconnkit_heartbeat_misses": "counter",
    "wsconnkit_heartbeat_stalls": "counter",
    "wsconnkit_heartbeat_rtt_seconds": "histogram",
}
LABELS = {
    "wsconnkit_connections": {"state"},
    "wsconnkit_connections_closed": {"cause", "code"},
    "wsconnkit_upgrades_refused": {"reason"},
    "wsconnkit_handshakes_dropped": {"cap"},
    "wsconnkit_rate_limited": {"kind"},
    "wsconnkit_bytes": {"direction"},
    "wsconnkit_messages": {"direction"},
    "wsconnkit_message_size_bytes": {"direction"},
    "wsconnkit_queue_bytes": {"queue"},
    "wsconnkit_compression_messages": {"direction"},
    "wsconnkit_compression_input_bytes": {"direction"},
    "wsconnkit_compression_output_bytes": {"direction"},
}


class Link:
    """A server's connection and its client; the server's part is what metrics see."""

    def __init__(self, limits: FrameLimits | None = None) -> None:
        compression = CompressionConfig(threshold=100)
        config = ConnectionConfig(limits=limits or FrameLimits(), compression=compression, heartbeat=None)
        deflate = DeflateParams(True, True, 15, 15)
        self.server = ConnectionProtocol(Role.SERVER, config, now=0.0, deflate=deflate)
        config = ConnectionConfig(compression=compression, heartbeat=None)
        self.client = ConnectionProtocol(Role.CLIENT, config, now=0.0, deflate=deflate)
        self.queued_bytes = (0, 0)

    @property
    def state(self) -> State:
        return self.server.state

    @property
    def stats(self) -> ConnectionStats:
        return self.server.stats


@dataclass
class Server:
    stats: ServerStats = field(default_factory=ServerStats)
    connections: list[MeasuredConnection] = field(default_factory=list)
    is_draining: bool = False

    def open(self, limits: FrameLimits | None = None) -> Link:
        link = Link(limits)
        self.connections.append(link)
        self.stats.on_opened()
        return link

    def carry(self, link: Link) -> None:
        """Take all bytes and events to where they belong, until there are none."""
        moved = True
        while moved:
            to_server, to_client = link.client.data_to_send(), link.server.data_to_send()
            link.server.receive_data(to_server, 0.0)
            link.client.receive_data(to_client, 0.0)
            moved = bool(to_server or to_client)
            list(link.client.events())
            for event in link.server.events():
                self.stats.on_event(event)
                if isinstance(event, Closed):
                    self.stats.on_closed(event.info, link.stats)

    def lose(self, link: Link) -> None:
        link.server.receive_eof(0.0)
        self.carry(link)


Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series_of(families: Iterable[Metric]) -> Series:
    series: Series = {}
    for family in families:
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in series, f"{sample} is there twice"
            series[key] = sample.value
    return series


def scraped(server: Server) -> Series:
    return series_of(ServerMetrics(server).collect())


def value(series: Series, name: str, **labels: str) -> float:
    return series[f"wsconnkit_{name}", frozenset(labels.items())]


def labelled(series: Series, name: str) -> dict[str, float]:
    """The values of a metric with one label, by that label's value."""
    return {
        label_value: value
        for (found, labels), value in series.items()
        for _, label_value in labels
        if found == f"wsconnkit_{name}"
    }


def counters(series: Series) -> Series:
    return {key: value for key, value in series.items() if key[0].endswith(("_total", "_bucket", "_count", "_sum"))}


def busy_server() -> Server:
    """A server on which everything has happened once at least."""
    server = Server()
    for code in (1000, 4444):
        link = server.open()
        link.client.send("x" * 500, 0.0)
        server.carry(link)
        link.client.close(code, "", 0.0)
        server.carry(link)
        server.lose(link)
    server.open()
    for reason in Refused:
        server.stats.on_refused(reason)
    server.stats.on_handshake_dropped("max_handshakes")
    server.stats.on_handshake_dropped("max_handshakes_per_ip")
    server.stats.on_limited("upgrade")
    server.stats.on_limited("message")
    server.stats.on_limited("auth")
    for event in (PongReceived(b"", 0.02), HeartbeatPinged(1), HeartbeatStalled(2.0)):
        server.stats.on_event(event)
    for size in (10, 1_000_000, 2**40):
        server.stats.received.observe(size)
        server.stats.sent.observe(size)
    return server


@pytest.mark.parametrize("server", [Server(), busy_server()], ids=["new", "busy"])
def test_names_and_types_are_those_that_dashboards_rely_on(server: Server) -> None:
    families = list(ServerMetrics(server).collect())
    assert len(families) == len(TYPES)
    assert {family.name: family.type for family in families} == TYPES
    for family in families:
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == LABELS.get(family.name, set())


@pytest.mark.parametrize("server", [Server(), busy_server()], ids=["new", "busy"])
def test_the_text_format_parses_to_what_was_collected(server: Server) -> None:
    content_type, body = render_metrics(server, None)
    families = list(parse_text(body.decode()))
    assert content_type == TEXT_TYPE
    assert {family.name: family.type for family in families} == TYPES
    assert series_of(families) == scraped(server)


@pytest.mark.parametrize("server", [Server(), busy_server()], ids=["new", "busy"])
def test_openmetrics_parses_to_what_was_collected(server: Server) -> None:
    content_type, body = render_metrics(server, OPENMETRICS)
    families = list(parse_openmetrics(body.decode()))  # type: ignore[no-untyped-call]
    assert content_type == OPENMETRICS_TYPE
    assert {family.name: family.type for family in families} == TYPES
    assert series_of(families) == scraped(server)


ABBREVIATIONS = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "m", "h", "d"}
NOT_BASE_UNITS = {"milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "bits", "kilobytes"}
TYPE_WORDS = {"counter", "gauge", "histogram", "summary"}


def test_names_follow_the_conventions_of_prometheus() -> None:
    _, body = render_metrics(busy_server(), None)
    for line in body.decode().splitlines():
        if line.startswith("# TYPE"):
            name, kind = line.split()[2:]
            assert re.fullmatch(r"wsconnkit_[a-z]+(_[a-z]+)*", name)
            assert name.endswith("_total") == (kind == "counter")
            assert not name.endswith(("_bucket", "_count", "_sum", "_created"))
            assert set(name.split("_")) & (ABBREVIATIONS | NOT_BASE_UNITS | TYPE_WORDS) == set()
            unit = name.removesuffix("_total").rpartition("_")[2]
            assert unit in {"bytes", "seconds"} or not set(name.split("_")) & {"bytes", "seconds"}


def test_each_metric_has_one_sentence_of_help_of_its_own() -> None:
    texts = [family.documentation for family in ServerMetrics(Server()).collect()]
    assert len(set(texts)) == len(texts) == len(TYPES)
    for text in texts:
        assert re.fullmatch(r"[A-Z0-9][^.]{9,}\.", text)


def test_states_reasons_kinds_and_causes_are_there_before_they_happen() -> None:
    series = scraped(Server())
    assert labelled(series, "connections") == dict.fromkeys((state.value for state in State), 0)
    assert labelled(series, "upgrades_refused_total") == dict.fromkeys((reason.value for reason in Refused), 0)
    assert labelled(series, "handshakes_dropped_total") == {"max_handshakes": 0, "max_handshakes_per_ip": 0}
    assert labelled(series, "rate_limited_total") == {"upgrade": 0, "message": 0, "auth": 0}
    assert labelled(series, "queue_bytes") == {"inbound": 0, "outbound": 0}
    assert value(series, "heartbeat_rtt_seconds_count") == 0
    for cause in Cause:
        assert value(series, "connections_closed_total", cause=cause.value, code=str(int(cause.code))) == 0


def test_all_values_of_a_new_server_are_zero() -> None:
    assert set(scraped(Server()).values()) == {0}


def test_connections_are_counted_by_their_state() -> None:
    server = Server()
    server.open()
    server.open()
    sent, exchanged, failing, gone = (server.open() for _ in range(4))
    sent.server.close(1000, "", 0.0)
    exchanged.client.close(1000, "", 0.0)
    server.carry(exchanged)
    failing.server.receive_data(b"\xff\xff", 0.0)
    server.carry(failing)
    server.lose(gone)
    assert labelled(scraped(server), "connections") == {
        "open": 2,
        "close_sent": 1,
        "close_exchanged": 1,
        "failing": 1,
        "closed": 1,
    }


def test_what_connections_carry_is_added_up() -> None:
    server = Server()
    links = [server.open() for _ in range(3)]
    for link in links:
        link.client.send("a" * 1000, 0.0)
        link.client.send("short", 0.0)
        link.server.send(b"b" * 3000, 0.0)
        server.carry(link)
    series = scraped(server)
    assert labelled(series, "messages_total") == {"in": 6, "out": 3}
    assert labelled(series, "bytes_total") == {
        "in": sum(link.stats.bytes_received for link in links),
        "out": sum(link.stats.bytes_sent for link in links),
    }
    assert labelled(series, "compression_messages_total") == {"in": 3, "out": 3}
    assert labelled(series, "compression_input_bytes_total") == {"in": 3000, "out": 9000}
    assert labelled(series, "compression_output_bytes_total") == {
        "in": sum(link.stats.compression.inbound.bytes_after for link in links),
        "out": sum(link.stats.compression.outbound.bytes_after for link in links),
    }
    assert value(series, "connections_opened_total") == 3


def test_what_goes_wrong_is_added_up() -> None:
    server = Server()
    warned = server.open(FrameLimits(warn_threshold=10))
    warned.client.send("a" * 50, 0.0)
    server.carry(warned)
    refused = server.open(FrameLimits(max_frame_size=10))
    refused.client.send("a" * 50, 0.0)
    server.carry(refused)
    garbled = server.open()
    garbled.server.receive_data(b"\xc1\x84\0\0\0\0\xff\xff\xff\xff", 0.0)
    server.carry(garbled)
    closing = server.open()
    closing.server.close(1000, "", 0.0)
    closing.client.send("crosses the close", 0.0)
    server.carry(closing)
    series = scraped(server)
    assert value(series, "frame_size_warnings_total") == 1
    assert value(series, "frame_violations_total") == 1
    assert value(series, "compression_errors_total") == 1
    assert value(series, "messages_discarded_total") == 1


def test_what_slow_peers_do_not_get_is_added_up() -> None:
    server = Server()
    slow = server.open()
    slow.server.writing_paused(0.0)
    for text in ("one", "three"):
        assert slow.server.send_nowait(text, 0.0)
    slow.server.writing_resumed(1.0)
    slow.server.writing_paused(1.0)
    slow.server.close(1000, "", 2.0)
    series = scraped(server)
    assert value(series, "messages_dropped_total") == 2
    assert value(series, "dropped_bytes_total") == 8


def test_what_the_server_stats_count_is_shown() -> None:
    server = busy_server()
    series = scraped(server)
    assert value(series, "connections_opened_total") == 3
    assert value(series, "connections_closed_total", cause="peer_close", code="1000") == 1
    assert value(series, "connections_closed_total", cause="peer_close", code="4xxx") == 1
    assert labelled(series, "upgrades_refused_total") == dict.fromkeys((reason.value for reason in Refused), 1)
    assert labelled(series, "handshakes_dropped_total") == {"max_handshakes": 1, "max_handshakes_per_ip": 1}
    assert labelled(series, "rate_limited_total") == {"upgrade": 1, "message": 1, "auth": 1}
    assert value(series, "heartbeat_misses_total") == 1
    assert value(series, "heartbeat_stalls_total") == 1


def test_histograms_have_classes_that_include_the_smaller_ones() -> None:
    series = scraped(busy_server())
    buckets = {
        dict(labels)["le"]: count
        for (name, labels), count in series.items()
        if name == "wsconnkit_message_size_bytes_bucket" and ("direction", "in") in labels
    }
    assert buckets["64.0"] == buckets["262144.0"] == 1
    assert buckets["1048576.0"] == buckets["16777216.0"] == 2
    assert buckets["+Inf"] == value(series, "message_size_bytes_count", direction="in") == 3
    assert value(series, "message_size_bytes_sum", direction="in") == 10 + 1_000_000 + 2**40
    assert value(series, "heartbeat_rtt_seconds_bucket", le="0.01") == 0
    assert value(series, "heartbeat_rtt_seconds_bucket", le="0.025") == 1
    assert value(series, "heartbeat_rtt_seconds_sum") == 0.02


def test_queues_are_added_up_over_all_connections() -> None:
    server = Server()
    for queued in ((1, 10), (2, 20), (4, 40)):
        server.open().queued_bytes = queued
    assert labelled(scraped(server), "queue_bytes") == {"inbound": 7, "outbound": 70}


@pytest.mark.parametrize("is_draining", [False, True])
def test_a_drain_is_shown(is_draining: bool) -> None:
    assert value(scraped(Server(is_draining=is_draining)), "draining") == is_draining


def test_a_connection_counts_once_while_it_is_open_when_it_has_closed_and_when_it_is_gone() -> None:
    server = Server()
    link = server.open()
    link.client.send("a" * 1000, 0.0)
    link.server.send("b" * 1000, 0.0)
    server.carry(link)
    is_open = counters(scraped(server))
    server.lose(link)
    is_closed = counters(scraped(server))
    server.connections.clear()
    is_gone = counters(scraped(server))

    lost = ("wsconnkit_connections_closed_total", frozenset({"cause": "transport_lost", "code": "1006"}.items()))
    assert is_closed.pop(lost) == is_gone.pop(lost) == is_open.pop(lost) + 1
    assert is_open == is_closed == is_gone


STEPS = st.one_of(
    st.tuples(st.just("open"), st.just(0)),
    st.tuples(st.sampled_from(["receive", "send"]), st.integers(0, 5000)),
    st.tuples(st.sampled_from(["close", "peer closes"]), st.sampled_from([1000, 1001, 3003, 4000, 4999])),
    st.tuples(st.sampled_from(["lose", "break", "forget"]), st.just(0)),
)


@SETTINGS
@given(st.lists(st.tuples(STEPS, st.integers(0, 5)), max_size=40))
def test_counters_never_go_down(steps: list[tuple[tuple[str, int], int]]) -> None:
    server = Server()
    links: list[Link] = []
    before = counters(scraped(server))
    for (step, number), chosen in steps:
        if step == "open" or not links:
            links.append(server.open())
            continue
        link = links[chosen % len(links)]
        if step == "receive" and link.client.state is State.OPEN:
            link.client.send(b"a" * number, 0.0)
        elif step == "send" and link.state is State.OPEN:
            link.server.send(b"a" * number, 0.0)
        elif step == "close":
            link.server.close(number, "", 0.0)
        elif step == "peer closes":
            link.client.close(number, "", 0.0)
        elif step == "break":
            link.server.receive_data(b"\xff\xff", 0.0)
        elif step == "lose":
            server.lose(link)
        server.carry(link)
        if step == "forget" and link.state is State.CLOSED:
            links.remove(link)
            server.connections.remove(link)
        after = counters(scraped(server))
        assert {key: value for key, value in before.items() if after[key] < value} == {}
        before = after
    ends = sum(count for (name, _), count in before.items() if name == "wsconnkit_connections_closed_total")
    assert ends == server.stats.opened - sum(link.state is not State.CLOSED for link in links)


def test_neither_peers_nor_users_add_series() -> None:
    server = busy_server()
    link = server.open()
    link.client.close(3000, "", 0.0)
    server.carry(link)
    server.lose(link)
    before = set(scraped(server))
    for code in range(3000, 5000, 7):
        link = server.open()
        link.client.send(f"I am user {code}", 0.0)
        link.client.close(code, f"reason {code}", 0.0)
        server.carry(link)
        server.lose(link)
    assert set(scraped(server)) == before


def test_there_is_a_bound_on_the_series_of_ends() -> None:
    server, stats = Server(), Link().stats
    for cause in Cause:
        for code in range(900, 5100):
            info = CloseInfo(
                cause=cause,
                initiator=Initiator.PEER,
                phase=State.CLOSE_EXCHANGED,
                sent=None,
                rcvd=CloseFrame(code, f"reason {code}"),
                rcvd_then_sent=True,
                error=None,
                last_byte_in_age=0.0,
                last_byte_out_age=0.0,
            )
            server.stats.on_closed(info, stats)
    ends = [name for name, _ in scraped(server) if name == "wsconnkit_connections_closed_total"]
    assert len(ends) == len(Cause) * (len(CloseCode) + 3)


def test_the_size_of_an_answer_does_not_depend_on_the_number_of_connections() -> None:
    few, many = Server(), Server()
    few.open()
    for _ in range(500):
        many.open()
    assert set(scraped(few)) == set(scraped(many))


class Unseen:
    """A server that must not be looked at."""

    @property
    def stats(self) -> ServerStats:
        raise AssertionError

    @property
    def connections(self) -> list[MeasuredConnection]:
        raise AssertionError

    @property
    def is_draining(self) -> bool:
        raise AssertionError


def test_it_describes_itself_without_looking_at_the_server() -> None:
    described = {family.name: family.type for family in ServerMetrics(Unseen()).describe()}
    assert described == TYPES


def test_it_works_in_a_registry_next_to_other_metrics() -> None:
    registry = CollectorRegistry()
    registry.register(ServerMetrics(busy_server()))
    assert registry.get_sample_value("wsconnkit_connections_opened_total") == 3
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(ServerMetrics(Server()))


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, TEXT_TYPE),
        ("", TEXT_TYPE),
        ("*/*", TEXT_TYPE),
        ("text/plain", TEXT_TYPE),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", TEXT_TYPE),
        ("text/html, application/xml;q=0.9", TEXT_TYPE),
        ("application/openmetrics-text-and-more", TEXT_TYPE),
        (OPENMETRICS, OPENMETRICS_TYPE),
        ("Application/OpenMetrics-Text; version=1.0.0", OPENMETRICS_TYPE),
        ("text/plain;version=0.0.4;q=0.5, application/openmetrics-text;version=0.0.1,*/*;q=0.1", OPENMETRICS_TYPE),
        ("application/openmetrics-text;version=7.0.0;escaping=dots", OPENMETRICS_TYPE),
        ("application/openmetrics-text;version=one", OPENMETRICS_TYPE),
        ("text/plain;version=one", TEXT_TYPE),
    ],
)
def test_openmetrics_is_for_those_who_name_it(accept: str | None, expected: str) -> None:
    assert render_metrics(Server(), accept)[0] == expected


@SETTINGS
@given(st.text() | st.lists(st.sampled_from([OPENMETRICS, ";", ",", "version=", "1.0.0", "x", "="])).map("".join))
@example("application/openmetrics-text;version=")
def test_whatever_is_accepted_the_answer_is_one_of_two(accept: str) -> None:
    content_type, body = render_metrics(Server(), accept)
    assert content_type in (TEXT_TYPE, OPENMETRICS_TYPE)
    assert body.endswith(b"# EOF\n") == (content_type == OPENMETRICS_TYPE)

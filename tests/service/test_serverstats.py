from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.machines.compression import CompressionStats, DirectionStats
from wsconnkit.machines.framesize import FrameLimits, FrameSizeStats
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.closeinfo import Cause, CloseInfo
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.deflate import CompressionConfig, DeflateParams
from wsconnkit.protocol.events import (
    Closed,
    Event,
    FrameSizeWarning,
    HeartbeatPinged,
    HeartbeatStalled,
    Message,
    PingReceived,
    PongReceived,
)
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.stats import ConnectionStats
from wsconnkit.service.admission import Refused
from wsconnkit.service.serverstats import LATENCY_BOUNDS, SIZE_BOUNDS, Histogram, ServerStats, Totals, code_label

SETTINGS = settings(deadline=None)
LABELS = {str(int(code)) for code in CloseCode} | {"3xxx", "4xxx", "other"}

counts = st.integers(0, 2**40)
directions = st.builds(
    DirectionStats,
    messages_compressed=counts,
    messages_uncompressed=counts,
    bytes_before=counts,
    bytes_after=counts,
    bytes_uncompressed=counts,
    errors=counts,
)
stats_of_connections = st.builds(
    ConnectionStats,
    frames=st.builds(
        FrameSizeStats,
        total_frames=counts,
        total_bytes=counts,
        violations=counts,
        warnings=counts,
        largest_frame=counts,
    ),
    compression=st.builds(CompressionStats, outbound=directions, inbound=directions),
    bytes_received=counts,
    bytes_sent=counts,
    messages_received=counts,
    messages_sent=counts,
    messages_discarded=counts,
    messages_dropped=counts,
    bytes_dropped=counts,
    stalls=counts,
)


def deflating(role: Role, limits: FrameLimits | None = None) -> ConnectionProtocol:
    config = ConnectionConfig(
        limits=limits or FrameLimits(), compression=CompressionConfig(threshold=100), heartbeat=None
    )
    return ConnectionProtocol(role, config, now=0.0, deflate=DeflateParams(True, True, 15, 15))


def carry(source: ConnectionProtocol, target: ConnectionProtocol) -> list[Event]:
    target.receive_data(source.data_to_send(), 0.0)
    return list(target.events())


def closed_in(events: Iterator[Event] | list[Event]) -> CloseInfo:
    (info,) = (event.info for event in events if isinstance(event, Closed))
    return info


@pytest.mark.parametrize("code", list(CloseCode))
def test_registered_codes_keep_their_numbers(code: CloseCode) -> None:
    assert code_label(code) == code_label(int(code)) == str(int(code))


@pytest.mark.parametrize(
    ("code", "label"),
    [
        (999, "other"),
        (1016, "other"),
        (2999, "other"),
        (3000, "3xxx"),
        (3999, "3xxx"),
        (4000, "4xxx"),
        (4999, "4xxx"),
        (5000, "other"),
        (-1, "other"),
    ],
)
def test_other_codes_share_a_label(code: int, label: str) -> None:
    assert code_label(code) == label


@SETTINGS
@given(st.integers())
def test_there_are_few_labels_whatever_the_codes(code: int) -> None:
    assert code_label(code) in LABELS


def test_a_value_counts_in_the_first_class_that_is_large_enough() -> None:
    histogram = Histogram((1.0, 2.0, 4.0))
    for value in (0, 1.0, 1.5, 2, 4, 4.1, 1000):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1, 2]
    assert histogram.total == 1013.6 - 1.0


def test_a_histogram_begins_empty() -> None:
    histogram = Histogram([1, 2])
    assert (histogram.bounds, histogram.counts, histogram.total) == ((1, 2), [0, 0, 0], 0)


@SETTINGS
@given(
    st.lists(st.integers(-100, 100), unique=True).map(sorted),
    st.lists(st.integers(-200, 200)),
)
def test_each_value_is_counted_once_and_below_the_bounds_that_it_does_not_pass(
    bounds: list[int], values: list[int]
) -> None:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    assert sum(histogram.counts) == len(values)
    assert histogram.total == sum(values)
    for index, bound in enumerate(bounds):
        assert sum(histogram.counts[: index + 1]) == sum(value <= bound for value in values)


@pytest.mark.parametrize("bounds", [(1, 1), (2, 1), (1, 3, 2), (1, float("nan"))])
def test_bounds_that_do_not_rise_are_refused(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"bounds are \(.*\); each must be more than the one before"):
        Histogram(bounds)


@pytest.mark.parametrize("bounds", [LATENCY_BOUNDS, SIZE_BOUNDS])
def test_the_bounds_in_use_rise(bounds: tuple[float, ...]) -> None:
    assert Histogram(bounds).bounds == bounds


def test_totals_take_each_number_from_its_place() -> None:
    stats = ConnectionStats(
        FrameSizeStats(total_frames=101, total_bytes=102, violations=1, warnings=2, largest_frame=103),
        CompressionStats(
            inbound=DirectionStats(3, 104, 4, 5, 105, 6),
            outbound=DirectionStats(7, 106, 8, 9, 107, 108),
        ),
        bytes_received=10,
        bytes_sent=11,
        messages_received=12,
        messages_sent=13,
        messages_discarded=14,
        messages_dropped=15,
        bytes_dropped=16,
        stalls=109,
    )
    totals = Totals()
    totals.add([stats])
    assert totals == Totals(
        frame_violations=1,
        frame_warnings=2,
        compressed_received=3,
        received_before=4,
        received_after=5,
        compression_errors=6,
        compressed_sent=7,
        sent_before=8,
        sent_after=9,
        bytes_received=10,
        bytes_sent=11,
        messages_received=12,
        messages_sent=13,
        messages_discarded=14,
        messages_dropped=15,
        bytes_dropped=16,
    )


@SETTINGS
@given(st.lists(stats_of_connections, max_size=5), st.lists(stats_of_connections, max_size=5))
def test_adding_one_by_one_is_adding_all_at_once(first: list[ConnectionStats], then: list[ConnectionStats]) -> None:
    at_once = Totals()
    at_once.add([*first, *then])
    in_two = Totals()
    in_two.add(first)
    in_two.add(iter(then))
    one_by_one = Totals()
    for stats in (*first, *then):
        one_by_one.add([stats])
    assert at_once == in_two == one_by_one
    assert at_once.bytes_received == sum(stats.bytes_received for stats in (*first, *then))
    assert at_once.sent_after == sum(stats.compression.outbound.bytes_after for stats in (*first, *then))


def test_server_stats_begin_with_nothing() -> None:
    server_stats = ServerStats()
    assert (server_stats.opened, server_stats.misses, server_stats.stalls) == (0, 0, 0)
    assert (server_stats.closed, server_stats.refused, server_stats.rate_limited) == (Counter(), Counter(), Counter())
    assert (server_stats.latencies.bounds, server_stats.received.bounds, server_stats.sent.bounds) == (
        LATENCY_BOUNDS,
        SIZE_BOUNDS,
        SIZE_BOUNDS,
    )
    assert server_stats.ended == Totals()


def test_server_stats_share_nothing() -> None:
    one, other = ServerStats(), ServerStats()
    one.on_refused(Refused.PATH)
    one.received.observe(1)
    one.ended.bytes_sent += 1
    assert (other.refused, sum(other.received.counts), other.ended) == (Counter(), 0, Totals())


def test_received_and_sent_messages_are_counted_apart() -> None:
    server_stats = ServerStats()
    server_stats.received.observe(10)
    assert (server_stats.received.total, server_stats.sent.total) == (10, 0)


def test_openings_refusals_and_limits_are_counted() -> None:
    server_stats = ServerStats()
    server_stats.on_opened()
    server_stats.on_opened()
    server_stats.on_refused(Refused.ORIGIN)
    server_stats.on_refused(Refused.ORIGIN)
    server_stats.on_refused(Refused.RATE)
    server_stats.on_handshake_dropped("max_handshakes")
    server_stats.on_handshake_dropped("max_handshakes")
    server_stats.on_limited("upgrade")
    server_stats.on_limited("message")
    server_stats.on_limited("message")
    assert server_stats.opened == 2
    assert server_stats.refused == {Refused.ORIGIN: 2, Refused.RATE: 1}
    assert server_stats.handshakes_dropped == {"max_handshakes": 2}
    assert server_stats.rate_limited == {"upgrade": 1, "message": 2}


def test_only_pongs_that_answer_a_ping_of_ours_have_a_latency() -> None:
    server_stats = ServerStats()
    server_stats.on_event(PongReceived(b"ours", 0.03))
    server_stats.on_event(PongReceived(b"unasked", None))
    assert (sum(server_stats.latencies.counts), server_stats.latencies.total) == (1, 0.03)


def test_a_ping_is_a_miss_when_one_before_it_went_unanswered() -> None:
    server_stats = ServerStats()
    for missed in (0, 1, 2, 0):
        server_stats.on_event(HeartbeatPinged(missed))
    assert server_stats.misses == 2


def test_stalls_are_counted() -> None:
    server_stats = ServerStats()
    server_stats.on_event(HeartbeatStalled(3.0))
    assert (server_stats.stalls, server_stats.misses) == (1, 0)


@pytest.mark.parametrize("event", [Message("text", 4), PingReceived(b""), FrameSizeWarning(5)])
def test_other_events_count_nothing(event: Event) -> None:
    server_stats = ServerStats()
    server_stats.on_event(event)
    assert (
        server_stats.misses,
        server_stats.stalls,
        sum(server_stats.latencies.counts),
        sum(server_stats.received.counts),
    ) == (0, 0, 0, 0)


@pytest.mark.parametrize("max_missed", [1, 3])
def test_a_dead_peer_has_missed_as_many_heartbeats_as_it_may(max_missed: int) -> None:
    config = ConnectionConfig(heartbeat=HeartbeatConfig(interval=30, timeout=5, max_missed=max_missed))
    connection = ConnectionProtocol(Role.SERVER, config, now=0.0)
    server_stats = ServerStats()
    while (at := connection.next_timeout()) is not None:
        connection.handle_timeout(at)
        for event in connection.events():
            server_stats.on_event(event)
            if isinstance(event, Closed):
                server_stats.on_closed(event.info, connection.stats)
    assert server_stats.misses == max_missed
    assert server_stats.closed == {(Cause.HEARTBEAT, "1001"): 1}


def test_an_end_is_counted_by_its_cause_and_code() -> None:
    server_stats = ServerStats()
    for code in (1000, 4001, 4002, 3999):
        client, server = deflating(Role.CLIENT), deflating(Role.SERVER)
        client.close(code, "", 0.0)
        carry(client, server)
        server.receive_eof(0.0)
        server_stats.on_closed(closed_in(server.events()), server.stats)
    server = deflating(Role.SERVER)
    server.receive_eof(0.0)
    server_stats.on_closed(closed_in(server.events()), server.stats)
    assert server_stats.closed == {
        (Cause.PEER_CLOSE, "1000"): 1,
        (Cause.PEER_CLOSE, "4xxx"): 2,
        (Cause.PEER_CLOSE, "3xxx"): 1,
        (Cause.TRANSPORT_LOST, "1006"): 1,
    }


def test_what_ended_connections_have_carried_is_kept() -> None:
    server_stats = ServerStats()
    client, server = deflating(Role.CLIENT), deflating(Role.SERVER, FrameLimits(max_message_size=5000))
    client.send("a" * 1000, 0.0)
    client.send(b"short", 0.0)
    carry(client, server)
    server.send("b" * 2000, 0.0)
    carry(server, client)
    client.send("c" * 6000, 0.0)
    carry(client, server)
    carry(server, client)
    server.receive_eof(0.0)
    server.data_to_send()
    server_stats.on_closed(closed_in(server.events()), server.stats)

    ended, stats = server_stats.ended, server.stats
    assert (ended.messages_received, ended.messages_sent, ended.frame_violations) == (2, 1, 1)
    assert (ended.compressed_received, ended.received_before) == (1, 1000)
    assert (ended.compressed_sent, ended.sent_before) == (1, 2000)
    assert 0 < ended.received_after < 1000
    assert 0 < ended.sent_after < 2000
    assert (ended.bytes_received, ended.bytes_sent) == (stats.bytes_received, stats.bytes_sent)
    assert server_stats.closed == {(Cause.TOO_BIG, "1009"): 1}


def test_nothing_is_added_to_the_stats_of_a_connection_after_it_was_counted() -> None:
    server_stats = ServerStats()
    client, server = deflating(Role.CLIENT), deflating(Role.SERVER)
    client.send("late", 0.0)
    server.receive_eof(0.0)
    server_stats.on_closed(closed_in(server.events()), server.stats)
    carry(client, server)
    server.data_to_send()
    again = Totals()
    again.add([server.stats])
    assert again == server_stats.ended

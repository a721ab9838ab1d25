from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.machines.compression import CompressionStats, DirectionStats

SETTINGS = settings(deadline=None)


def test_before_the_first_message_nothing_is_saved() -> None:
    stats = DirectionStats()
    assert stats == DirectionStats(
        messages_compressed=0,
        messages_uncompressed=0,
        bytes_before=0,
        bytes_after=0,
        bytes_uncompressed=0,
        errors=0,
    )
    assert (stats.ratio, stats.percent_saved, stats.average_bytes_saved) == (1.0, 0.0, 0.0)


def test_a_compressed_message_counts_its_bytes_before_and_after() -> None:
    stats = DirectionStats()
    stats.on_compressed(before=4096, after=512)
    assert stats == DirectionStats(messages_compressed=1, bytes_before=4096, bytes_after=512)
    assert (stats.ratio, stats.percent_saved, stats.average_bytes_saved) == (0.125, 87.5, 3584.0)


def test_messages_of_different_sizes_weigh_by_their_bytes_and_average_by_their_number() -> None:
    stats = DirectionStats()
    stats.on_compressed(before=1000, after=100)
    stats.on_compressed(before=3000, after=900)
    assert (stats.ratio, stats.percent_saved, stats.average_bytes_saved) == (0.25, 75.0, 1500.0)


def test_an_uncompressed_message_leaves_what_compression_saved_alone() -> None:
    stats = DirectionStats()
    stats.on_compressed(before=4096, after=512)
    stats.on_uncompressed(20)
    stats.on_uncompressed(0)
    assert stats == DirectionStats(
        messages_compressed=1, messages_uncompressed=2, bytes_before=4096, bytes_after=512, bytes_uncompressed=20
    )
    assert (stats.ratio, stats.percent_saved, stats.average_bytes_saved) == (0.125, 87.5, 3584.0)


def test_messages_that_grew_show_as_a_loss() -> None:
    stats = DirectionStats()
    stats.on_compressed(before=100, after=125)
    assert (stats.ratio, stats.percent_saved, stats.average_bytes_saved) == (1.25, -25.0, -25.0)


def test_a_compressed_empty_message_has_no_ratio_but_a_cost() -> None:
    stats = DirectionStats()
    stats.on_compressed(before=0, after=1)
    assert (stats.ratio, stats.percent_saved, stats.average_bytes_saved) == (1.0, 0.0, -1.0)


def test_an_error_is_counted_and_nothing_else() -> None:
    stats = DirectionStats()
    stats.on_error()
    stats.on_error()
    assert stats == DirectionStats(errors=2)


def test_directions_and_connections_count_apart() -> None:
    stats, other = CompressionStats(), CompressionStats()
    stats.outbound.on_compressed(before=10, after=5)
    stats.inbound.on_uncompressed(7)
    assert stats.outbound == DirectionStats(messages_compressed=1, bytes_before=10, bytes_after=5)
    assert stats.inbound == DirectionStats(messages_uncompressed=1, bytes_uncompressed=7)
    assert other == CompressionStats(outbound=DirectionStats(), inbound=DirectionStats())


SIZES = st.integers(min_value=0, max_value=2**40)


@SETTINGS
@given(compressed=st.lists(st.tuples(SIZES, SIZES)), uncompressed=st.lists(SIZES), errors=st.integers(0, 5))
def test_totals_are_sums_over_all_messages(
    compressed: list[tuple[int, int]], uncompressed: list[int], errors: int
) -> None:
    stats = DirectionStats()
    for before, after in compressed:
        stats.on_compressed(before=before, after=after)
    for size in uncompressed:
        stats.on_uncompressed(size)
    for _ in range(errors):
        stats.on_error()

    before_all = sum(before for before, _ in compressed)
    after_all = sum(after for _, after in compressed)
    assert stats == DirectionStats(
        messages_compressed=len(compressed),
        messages_uncompressed=len(uncompressed),
        bytes_before=before_all,
        bytes_after=after_all,
        bytes_uncompressed=sum(uncompressed),
        errors=errors,
    )
    if before_all:
        assert stats.ratio == pytest.approx(after_all / before_all)
        assert stats.percent_saved == pytest.approx(100 * (before_all - after_all) / before_all, abs=1e-9, rel=1e-9)
    if compressed:
        assert stats.average_bytes_saved == pytest.approx((before_all - after_all) / len(compressed))

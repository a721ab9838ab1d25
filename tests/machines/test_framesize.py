from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.machines.framesize import KIB, MIB, FrameLimits, FrameSize, FrameSizeStats, Violation

SETTINGS = settings(deadline=None)
UNLIMITED = FrameLimits(max_frame_size=None, max_message_size=None, warn_threshold=None, max_fragments=None)
NAMES = ["max_frame_size", "max_message_size", "warn_threshold", "max_fragments"]


def read_frame(sizes: FrameSize, length: int, *, first: bool = True, fin: bool = True) -> bool:
    """Take a frame that passes, whole; True: it was worth a warning."""
    assert sizes.on_header(length, first=first) is None
    assert sizes.on_payload(length) is None
    return sizes.on_frame_end(length, fin=fin)


@pytest.mark.parametrize(
    ("limits", "frame", "message", "warning"),
    [
        (FrameLimits(), 1_048_576, 1_048_576, 524_288),
        (FrameLimits.strict(), 262_144, 262_144, 131_072),
        (FrameLimits.lenient(), 10_485_760, 10_485_760, 5_242_880),
    ],
    ids=["default", "strict", "lenient"],
)
def test_presets_have_the_sizes_they_promise(limits: FrameLimits, frame: int, message: int, warning: int) -> None:
    assert limits == FrameLimits(
        max_frame_size=frame, max_message_size=message, warn_threshold=warning, max_fragments=1024
    )


def test_units_are_powers_of_1024() -> None:
    assert (KIB, MIB) == (1024, 1_048_576)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, 1.5, float("inf"), float("nan"), "1024"])
def test_a_limit_that_is_no_integer_of_at_least_1_is_refused_by_name_and_value(name: str, value: object) -> None:
    bad: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match="must be") as caught:
        FrameLimits(**bad)
    assert str(caught.value) == f"{name} is {value!r}; it must be an integer of at least 1, or None for no limit"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [1, 2**62, None])
def test_a_limit_may_be_any_positive_integer_or_off(name: str, value: int | None) -> None:
    good: dict[str, Any] = {name: value}
    assert getattr(FrameLimits(**good), name) == value


def test_limits_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        FrameLimits().max_frame_size = 5  # type: ignore[misc]


def test_limits_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        FrameLimits(1024)  # type: ignore[call-arg]


def test_a_frame_is_refused_at_its_header_from_one_byte_over() -> None:
    sizes = FrameSize(FrameLimits(max_frame_size=100, max_message_size=1000))
    assert sizes.on_header(100, first=True) is None
    assert sizes.on_header(101, first=True) == Violation("max_frame_size", 101, 100)
    assert sizes.stats.total_frames == 0


def test_a_message_is_refused_at_the_header_that_would_take_it_over() -> None:
    sizes = FrameSize(FrameLimits(max_frame_size=100, max_message_size=150))
    read_frame(sizes, 100, fin=False)
    assert sizes.on_header(50, first=False) is None
    assert sizes.on_header(51, first=False) == Violation("max_message_size", 151, 150)


def test_a_first_frame_alone_can_be_over_the_message_limit() -> None:
    sizes = FrameSize(FrameLimits(max_frame_size=1000, max_message_size=150))
    assert sizes.on_header(150, first=True) is None
    assert sizes.on_header(151, first=True) == Violation("max_message_size", 151, 150)


def test_the_wire_length_of_a_compressed_frame_says_nothing_about_its_message() -> None:
    sizes = FrameSize(FrameLimits(max_frame_size=1000, max_message_size=150))
    assert sizes.on_header(1000, first=True, compressed=True) is None
    assert sizes.on_header(1001, first=True, compressed=True) == Violation("max_frame_size", 1001, 1000)


def test_inflated_bytes_are_refused_as_soon_as_they_pass_the_message_limit() -> None:
    sizes = FrameSize(FrameLimits(max_frame_size=100, max_message_size=150))
    assert sizes.on_header(10, first=True, compressed=True) is None
    assert sizes.on_payload(100) is None
    assert sizes.on_payload(50) is None
    assert sizes.on_payload(1) == Violation("max_message_size", 151, 150)


@pytest.mark.parametrize(
    ("frame", "message", "largest"), [(100, 150, 100), (150, 100, 100), (None, 100, 100), (7, None, 7)]
)
def test_the_largest_message_in_one_frame_is_that_which_both_limits_let_pass(
    frame: int | None, message: int | None, largest: int
) -> None:
    sizes = FrameSize(FrameLimits(max_frame_size=frame, max_message_size=message))
    assert sizes.largest_message == largest
    assert sizes.on_header(largest, first=True) is None
    assert sizes.on_header(largest + 1, first=True) is not None


def test_remaining_shrinks_with_the_payload_and_is_whole_again_for_the_next_message() -> None:
    sizes = FrameSize(FrameLimits(max_message_size=150))
    assert sizes.remaining == 150
    sizes.on_payload(60)
    assert sizes.remaining == 90
    sizes.on_frame_end(60, fin=False)
    assert sizes.remaining == 90
    sizes.on_payload(90)
    assert sizes.remaining == 0
    sizes.on_frame_end(90, fin=True)
    assert sizes.remaining == 150


def test_a_message_is_refused_at_the_header_of_one_fragment_too_many() -> None:
    sizes = FrameSize(FrameLimits(max_fragments=3))
    read_frame(sizes, 1, fin=False)
    read_frame(sizes, 1, first=False, fin=False)
    assert sizes.on_header(1, first=False) is None
    read_frame(sizes, 1, first=False, fin=False)
    assert sizes.on_header(1, first=False) == Violation("max_fragments", 4, 3)


def test_empty_fragments_count_as_fragments() -> None:
    sizes = FrameSize(FrameLimits(max_fragments=2))
    read_frame(sizes, 0, fin=False)
    read_frame(sizes, 0, first=False, fin=False)
    assert sizes.on_header(0, first=False) == Violation("max_fragments", 3, 2)


def test_each_message_starts_with_its_whole_allowance() -> None:
    sizes = FrameSize(FrameLimits(max_message_size=100, max_fragments=2))
    for _ in range(3):
        read_frame(sizes, 60, fin=False)
        read_frame(sizes, 40, first=False)
    assert sizes.on_header(100, first=True) is None
    assert sizes.stats.violations == 0


def test_one_fragment_is_always_allowed() -> None:
    sizes = FrameSize(FrameLimits(max_fragments=1))
    read_frame(sizes, 10, fin=False)
    assert sizes.on_header(0, first=False) == Violation("max_fragments", 2, 1)


def test_the_frame_limit_is_judged_first_and_the_fragments_second() -> None:
    sizes = FrameSize(FrameLimits(max_frame_size=10, max_message_size=5, max_fragments=1))
    sizes.on_frame_end(0, fin=False)
    assert sizes.on_header(11, first=False) == Violation("max_frame_size", 11, 10)
    assert sizes.on_header(6, first=False) == Violation("max_fragments", 2, 1)
    assert sizes.on_header(6, first=True) == Violation("max_message_size", 6, 5)


def test_judging_the_same_header_again_changes_nothing() -> None:
    # wsproto shows a header again for each byte of it that trickles in.
    sizes = FrameSize(FrameLimits(max_message_size=100, max_fragments=2))
    read_frame(sizes, 60, fin=False)
    for _ in range(5):
        assert sizes.on_header(40, first=False) is None
    read_frame(sizes, 40, first=False)
    assert sizes.stats.total_frames == 2
    assert sizes.stats.total_bytes == 100


def test_limits_that_are_off_refuse_nothing() -> None:
    sizes = FrameSize(UNLIMITED)
    assert sizes.on_header(2**62, first=True) is None
    assert sizes.on_payload(2**62) is None
    assert sizes.on_frame_end(2**62, fin=False) is False
    for _ in range(5000):
        assert sizes.on_header(0, first=False) is None
        assert sizes.on_frame_end(0, fin=False) is False
    assert sizes.remaining > 2**60


def test_a_frame_is_worth_a_warning_from_the_threshold_on() -> None:
    sizes = FrameSize(FrameLimits(warn_threshold=100))
    assert read_frame(sizes, 99) is False
    assert read_frame(sizes, 100) is True
    assert read_frame(sizes, 101) is True
    assert sizes.stats.warnings == 2


def test_stats_follow_the_frames_on_the_wire() -> None:
    sizes = FrameSize(FrameLimits())
    assert sizes.stats == FrameSizeStats()
    assert sizes.stats.average_frame_size == 0.0
    read_frame(sizes, 100)
    read_frame(sizes, 300)
    read_frame(sizes, 50)
    stats = sizes.stats
    assert (stats.total_frames, stats.total_bytes, stats.largest_frame) == (3, 450, 300)
    assert stats.average_frame_size == 150.0
    assert (stats.violations, stats.warnings, list(stats.recent_violations)) == (0, 0, [])


def test_stats_count_the_wire_and_not_what_was_inflated() -> None:
    sizes = FrameSize(FrameLimits(warn_threshold=500))
    sizes.on_header(10, first=True, compressed=True)
    sizes.on_payload(1000)
    assert sizes.on_frame_end(10, fin=True) is False
    assert (sizes.stats.total_bytes, sizes.stats.largest_frame) == (10, 10)


def test_the_last_100_violations_are_remembered_and_all_are_counted() -> None:
    sizes = FrameSize(FrameLimits(max_frame_size=1000))
    for excess in range(1, 251):
        sizes.on_header(1000 + excess, first=True)
    assert sizes.stats.violations == 250
    assert list(sizes.stats.recent_violations) == [
        Violation("max_frame_size", 1000 + excess, 1000) for excess in range(151, 251)
    ]


def test_violations_of_payloads_are_remembered_too() -> None:
    sizes = FrameSize(FrameLimits(max_message_size=10))
    violation = sizes.on_payload(11)
    assert violation == Violation("max_message_size", 11, 10)
    assert (sizes.stats.violations, list(sizes.stats.recent_violations)) == (1, [violation])


def test_connections_do_not_share_their_stats() -> None:
    one, other = FrameSize(FrameLimits(max_frame_size=1)), FrameSize(FrameLimits())
    one.on_header(2, first=True)
    assert other.stats == FrameSizeStats()


@pytest.mark.parametrize(
    ("violation", "text"),
    [
        (Violation("max_frame_size", 300_000, 262_144), "frame of 300000 bytes is over max_frame_size (262144)"),
        (Violation("max_message_size", 151, 150), "message of 151 bytes is over max_message_size (150)"),
        (Violation("max_fragments", 4, 3), "message of 4 fragments is over max_fragments (3)"),
    ],
    ids=lambda value: value.limit_name if isinstance(value, Violation) else "",
)
def test_a_violation_says_what_was_seen_and_what_is_allowed(violation: Violation, text: str) -> None:
    assert str(violation) == text


class SentFrame(NamedTuple):
    wire: int
    chunks: list[int]
    """Sizes of what the payload is read in, after inflation."""


class SentMessage(NamedTuple):
    compressed: bool
    frames: list[SentFrame]


@st.composite
def sent_messages(draw: st.DrawFn) -> SentMessage:
    compressed = draw(st.booleans())
    frames = []
    for _ in range(draw(st.integers(1, 6))):
        chunks = draw(st.lists(st.integers(0, 12), max_size=4))
        # Without compression, what is read is what is on the wire.
        frames.append(SentFrame(draw(st.integers(0, 25)) if compressed else sum(chunks), chunks))
    return SentMessage(compressed, frames)


LIMIT = st.none() | st.integers(1, 40)
LIMITS = st.builds(
    FrameLimits,
    max_frame_size=LIMIT,
    max_message_size=LIMIT,
    warn_threshold=LIMIT,
    max_fragments=st.none() | st.integers(1, 6),
)


def over(size: int, limit: int | None) -> bool:
    return limit is not None and size > limit


def expected_of_header(limits: FrameLimits, message: SentMessage, index: int) -> Violation | None:
    """Judge a header from everything its message has on the wire and nothing else."""
    frames = message.frames[: index + 1]
    if over(frames[-1].wire, limits.max_frame_size):
        return Violation("max_frame_size", frames[-1].wire, limits.max_frame_size or 0)
    if over(len(frames), limits.max_fragments):
        return Violation("max_fragments", len(frames), limits.max_fragments or 0)
    size = sum(frame.wire for frame in frames)
    if not message.compressed and over(size, limits.max_message_size):
        return Violation("max_message_size", size, limits.max_message_size or 0)
    return None


def violation_in(
    sizes: FrameSize, limits: FrameLimits, messages: list[SentMessage], accepted: list[int]
) -> Violation | None:
    """Read `messages` until one is refused, comparing each answer with that of the naive arithmetic."""
    for message in messages:
        read = 0
        for index, frame in enumerate(message.frames):
            violation = sizes.on_header(frame.wire, first=index == 0, compressed=message.compressed)
            assert violation == expected_of_header(limits, message, index)
            if violation is not None:
                return violation
            for chunk in frame.chunks:
                read += chunk
                violation = sizes.on_payload(chunk)
                assert (violation is not None) == over(read, limits.max_message_size)
                if violation is not None:
                    assert violation == Violation("max_message_size", read, limits.max_message_size or 0)
                    return violation
                if limits.max_message_size is not None:
                    assert sizes.remaining == limits.max_message_size - read
            warned = sizes.on_frame_end(frame.wire, fin=index == len(message.frames) - 1)
            assert warned == (limits.warn_threshold is not None and frame.wire >= limits.warn_threshold)
            accepted.append(frame.wire)
    return None


@SETTINGS
@given(limits=LIMITS, messages=st.lists(sent_messages(), max_size=5))
def test_verdicts_and_stats_are_those_of_naive_arithmetic(limits: FrameLimits, messages: list[SentMessage]) -> None:
    sizes = FrameSize(limits)
    accepted: list[int] = []
    violation = violation_in(sizes, limits, messages, accepted)
    stats = sizes.stats
    assert stats.total_frames == len(accepted)
    assert stats.total_bytes == sum(accepted)
    assert stats.largest_frame == max(accepted, default=0)
    assert stats.average_frame_size == (sum(accepted) / len(accepted) if accepted else 0.0)
    threshold = limits.warn_threshold
    assert stats.warnings == sum(threshold is not None and wire >= threshold for wire in accepted)
    assert stats.violations == (violation is not None)
    assert list(stats.recent_violations) == ([] if violation is None else [violation])


@SETTINGS
@given(limit=st.integers(1, 1000), chunks=st.lists(st.integers(0, 300)))
def test_however_a_message_is_chunked_it_is_refused_once_over_the_limit_and_not_before(
    limit: int, chunks: list[int]
) -> None:
    sizes = FrameSize(FrameLimits(max_message_size=limit))
    refused = [sizes.on_payload(chunk) is not None for chunk in chunks]
    assert refused == [sum(chunks[: count + 1]) > limit for count in range(len(chunks))]

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.machines.closecodes import (
    MAX_REASON_BYTES,
    CloseCode,
    describe,
    is_normal,
    may_send,
    should_retry,
    truncate_reason,
)

SETTINGS = settings(deadline=None)


class Row(NamedTuple):
    code: int
    name: str
    description: str
    may_send: bool
    is_normal: bool
    should_retry: bool


TAXONOMY = [
    Row(1000, "NORMAL_CLOSURE", "normal closure", True, True, False),
    Row(1001, "GOING_AWAY", "going away", True, True, True),
    Row(1002, "PROTOCOL_ERROR", "protocol error", True, False, False),
    Row(1003, "UNSUPPORTED_DATA", "unsupported data", True, False, False),
    Row(1004, "RESERVED", "reserved", False, False, False),
    Row(1005, "NO_STATUS_RCVD", "no status received", False, True, True),
    Row(1006, "ABNORMAL_CLOSURE", "abnormal closure", False, False, True),
    Row(1007, "INVALID_DATA", "invalid data", True, False, False),
    Row(1008, "POLICY_VIOLATION", "policy violation", True, False, False),
    Row(1009, "MESSAGE_TOO_BIG", "message too big", True, False, False),
    Row(1010, "MANDATORY_EXTENSION", "mandatory extension", True, False, False),
    Row(1011, "INTERNAL_ERROR", "internal error", True, False, True),
    Row(1012, "SERVICE_RESTART", "service restart", True, False, True),
    Row(1013, "TRY_AGAIN_LATER", "try again later", True, False, True),
    Row(1014, "BAD_GATEWAY", "bad gateway", True, False, True),
    Row(1015, "TLS_HANDSHAKE", "TLS handshake failure", False, False, False),
]
REGISTERED_ABOVE = {3000: "unauthorized", 3003: "forbidden", 3008: "timeout"}

# Every code that two bytes can carry, and some on either side.
CODES = range(-1000, 0x10000 + 1000)


@pytest.mark.parametrize("row", TAXONOMY, ids=lambda row: str(row.code))
def test_each_code_below_3000_is_what_the_registry_says(row: Row) -> None:
    assert CloseCode(row.code).name == row.name
    assert describe(row.code) == row.description
    assert may_send(row.code) is row.may_send
    assert is_normal(row.code) is row.is_normal
    assert should_retry(row.code) is row.should_retry


def test_close_code_holds_these_and_no_others() -> None:
    assert {code.value: code.name for code in CloseCode} == {row.code: row.name for row in TAXONOMY}


def test_a_close_code_is_judged_like_its_number() -> None:
    assert describe(CloseCode.BAD_GATEWAY) == "bad gateway"
    assert may_send(CloseCode.BAD_GATEWAY)
    assert not may_send(CloseCode.TLS_HANDSHAKE)
    assert is_normal(CloseCode.NO_STATUS_RCVD)
    assert should_retry(CloseCode.TRY_AGAIN_LATER)


def test_a_frame_carries_the_registered_codes_and_those_of_libraries_and_applications() -> None:
    registered = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014}
    assert {code for code in CODES if may_send(code)} == registered | set(range(3000, 5000))


def test_only_1000_1001_and_no_status_are_normal() -> None:
    assert {code for code in CODES if is_normal(code)} == {1000, 1001, 1005}


def test_a_retry_may_help_after_these_codes_only() -> None:
    assert {code for code in CODES if should_retry(code)} == {1001, 1005, 1006, 1011, 1012, 1013, 1014, 3008}


def test_every_code_above_the_registered_ones_is_described_by_its_range() -> None:
    assert {describe(code) for code in range(1016, 3000)} == {"reserved"}
    libraries = {code: describe(code) for code in range(3000, 4000)}
    assert {code: text for code, text in libraries.items() if code in REGISTERED_ABOVE} == REGISTERED_ABOVE
    assert {text for code, text in libraries.items() if code not in REGISTERED_ABOVE} == {
        "registered by a library or framework"
    }
    assert {describe(code) for code in range(4000, 5000)} == {"private to the application"}


@pytest.mark.parametrize("code", [-(2**70), -1000, -1, 0, 1, 999, 5000, 65535, 65536, 2**70])
def test_a_number_outside_the_ranges_is_not_a_close_code(code: int) -> None:
    assert describe(code) == "not a close code"
    assert not may_send(code)
    assert not is_normal(code)
    assert not should_retry(code)


@SETTINGS
@given(st.integers(max_value=999) | st.integers(min_value=5000))
def test_no_integer_outside_the_ranges_is_a_close_code(code: int) -> None:
    assert describe(code) == "not a close code"
    assert (may_send(code), is_normal(code), should_retry(code)) == (False, False, False)


def test_a_reason_has_the_bytes_that_the_code_leaves_of_a_control_frame() -> None:
    assert MAX_REASON_BYTES == 125 - 2


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("", ""),
        ("going down", "going down"),
        ("a" * 123, "a" * 123),
        ("a" * 124, "a" * 123),
        ("a" * 121 + "é", "a" * 121 + "é"),
        ("a" * 122 + "é", "a" * 122),
        ("a" * 120 + "€", "a" * 120 + "€"),
        ("a" * 121 + "€", "a" * 121),
        ("a" * 122 + "€", "a" * 122),
        ("a" * 119 + "😀", "a" * 119 + "😀"),
        ("a" * 120 + "😀", "a" * 120),
        ("a" * 122 + "😀b", "a" * 122),
        ("é" * 300, "é" * 61),
    ],
)
def test_a_reason_is_cut_to_123_bytes_of_whole_characters(reason: str, expected: str) -> None:
    assert truncate_reason(reason) == expected


@SETTINGS
@given(st.text(max_size=200) | st.text(st.sampled_from("aé€😀"), min_size=30, max_size=140))
def test_a_cut_reason_is_the_longest_prefix_that_fits(reason: str) -> None:
    cut = truncate_reason(reason)
    assert reason.startswith(cut)
    assert len(cut.encode()) <= 123
    one_more = reason[: len(cut) + 1]
    assert cut == reason or len(one_more.encode()) > 123


@pytest.mark.parametrize("reason", ["x\ud83dy", "\ud83d\ude00", "\udfff" * 200, "a" * 123 + "\ud800"])
def test_lone_surrogates_are_no_reason_to_give(reason: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        truncate_reason(reason)

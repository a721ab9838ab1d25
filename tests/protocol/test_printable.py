from __future__ import annotations

import sys
import unicodedata

import pytest

from wsconnkit.protocol.printable import printable


@pytest.mark.parametrize("text", ["", "plain", "é 日本 \u3000\xa0|", "\U0001f600", r"a\x1bb", "e\u0301"])
def test_text_that_can_be_seen_is_left_alone(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\x00\a\b\t\n\r\x7f", r"\x00\x07\x08\t\n\r\x7f"),
        ("\x85\x9b31m", r"\x85\x9b31m"),
        ("a\u202eb\u2066\u200f", r"a\u202eb\u2066\u200f"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("\ud800", r"\ud800"),
        ("\u0378\ue000\U000e0041", r"\u0378\ue000\U000e0041"),
        ("soft\xadhyphen\ufeff", r"soft\xadhyphen\ufeff"),
        ("é\x1b日", r"é\x1b日"),
    ],
)
def test_what_is_not_to_be_seen_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_what_a_caller_handles_is_left_to_it() -> None:
    assert printable("a\tb\nc\x1b", keep="\n\t") == "a\tb\nc\\x1b"


def test_no_character_of_unicode_is_left_that_controls_or_cannot_be_encoded() -> None:
    shown = printable("".join(map(chr, range(sys.maxunicode + 1))))
    shown.encode()
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

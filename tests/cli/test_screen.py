from __future__ import annotations

import os
import sys

import pytest

from wsconnkit.cli.screen import Screen, Terminal, describe_binary


@pytest.fixture(autouse=True)
def _small_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((20, 6)))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"", "[binary, 0 bytes]"),
        (b"\x00\xff", "[binary, 2 bytes] 00 ff"),
        (bytes(32), f"[binary, 32 bytes] {bytes(32).hex(' ')}"),
        (bytes(33), f"[binary, 33 bytes] {bytes(32).hex(' ')} …"),
    ],
)
def test_binary_messages_are_told_by_size_and_beginning(message: bytes, text: str) -> None:
    assert describe_binary(message) == text


def test_a_filter_passes_messages_on_untouched(capfd: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.prompt(0.1)
    screen.message("é\x1b[31m\ntwo lines")
    screen.message(b"\x01")
    screen.leave()
    screen.note("told\x1b")
    assert capfd.readouterr() == ("é\x1b[31m\ntwo lines\n[binary, 1 bytes] 01\n", "told\\x1b\n")


@pytest.mark.parametrize(
    ("message", "rows"),
    [("short", 1), ("x" * 18, 1), ("x" * 19, 2), ("日" * 9, 1), ("日" * 10, 2), ("a\n\nb", 3), (b"\0", 2)],
)
def test_a_message_moves_the_prompt_down_by_the_rows_that_it_takes(
    capfd: pytest.CaptureFixture[str], message: str | bytes, rows: int
) -> None:
    Terminal().message(message)
    shown = capfd.readouterr().out
    assert shown.startswith("\x1b7" + "\n" * rows + f"\x1b[{rows}A\x1b[{rows}L\r")
    assert shown.endswith(f"\n\x1b8\x1b[{rows}B")


def test_a_message_that_fills_the_screen_is_followed_by_a_new_prompt(capfd: pytest.CaptureFixture[str]) -> None:
    screen = Terminal()
    screen.prompt(0.0012)
    prompt = capfd.readouterr().out
    assert "1.2 ms" in prompt
    screen.message("\n".join("12345"))
    assert capfd.readouterr().out.endswith(f"  5\n{prompt}")
    screen.leave()
    screen.message("\n".join("12345"))
    assert capfd.readouterr().out.endswith("  5\n")


@pytest.mark.parametrize("kind", [Terminal, Screen])
def test_a_message_cannot_control_the_terminal(
    kind: type[Screen], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    kind().message("a\x1b[2Jb\r\x9b31m\u202ec\u2028d\ud800")
    assert r"a\x1b[2Jb\r\x9b31m\u202ec\u2028d\ud800" in capsys.readouterr().out


def test_a_filter_in_a_terminal_shows_lines_and_tabs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Screen().message("a\tb\nc")
    assert capsys.readouterr().out == "a\tb\nc\n"


def test_a_note_is_one_line_wherever_it_goes(capfd: pytest.CaptureFixture[str]) -> None:
    Screen().note("a\nb\u2028c\u202e")
    assert capfd.readouterr().err == "a\\nb\\u2028c\\u202e\n"

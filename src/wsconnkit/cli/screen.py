"""What the user of `wsconnkit connect` sees: messages on standard output, everything else on standard error."""

from __future__ import annotations

import os
import shutil
import sys

import click
from rich.cells import cell_len

from wsconnkit.protocol.printable import printable

_MAX_HEX_BYTES = 32


def describe_binary(message: bytes) -> str:
    """Return the size of a binary message, and how it begins in hexadecimal."""
    more = " …" if len(message) > _MAX_HEX_BYTES else ""
    return f"[binary, {len(message)} bytes] {message[:_MAX_HEX_BYTES].hex(' ')}{more}".rstrip()


def _shown(message: str | bytes) -> str:
    """Return a message as it is shown on a terminal, which it cannot control; it has lines and tabs."""
    return describe_binary(message) if isinstance(message, bytes) else printable(message, keep="\n\t")


class Screen:
    """Prints as a filter does: messages one after the other and no prompt; untouched, unless a terminal shows them."""

    interactive = False

    def message(self, message: str | bytes) -> None:
        """Show a message from the peer."""
        is_data = isinstance(message, str) and not (sys.stdout and sys.stdout.isatty())
        click.echo(str(message).encode() if is_data else _shown(message))

    def note(self, text: str) -> None:
        """Tell something about the connection."""
        click.echo(printable(text), err=True)

    def prompt(self, latency: float | None) -> None:
        """Ask for a line."""

    def leave(self) -> None:
        """The prompt is no longer answered."""


class Terminal(Screen):
    """A prompt with the latency in the last line, and messages above it that leave what is being typed alone."""

    interactive = True

    def __init__(self) -> None:
        self._prompt = ""

    def message(self, message: str | bytes) -> None:
        """Show a message above the prompt."""
        self._above(click.style("< ", fg="cyan", bold=True), _shown(message).expandtabs())

    def note(self, text: str) -> None:
        """Tell something above the prompt."""
        self._above(click.style("* ", dim=True), printable(text))

    def prompt(self, latency: float | None) -> None:
        """Begin the last line anew."""
        shown = "" if latency is None else f"{latency * 1000:.1f} ms "
        self._prompt = click.style(shown, dim=True) + click.style("> ", fg="green", bold=True)
        self._write(self._prompt)

    def leave(self) -> None:
        """Clear the line of the prompt."""
        self._prompt = ""
        self._write("\r\x1b[J")

    def _above(self, mark: str, text: str) -> None:
        columns, lines = shutil.get_terminal_size()
        rows = sum(max(1, -(-(cell_len(line) + 2) // columns)) for line in text.split("\n"))
        body = mark + text.replace("\n", "\n  ")
        if rows < lines - 1:
            # Save the cursor, make room by scrolling if need be, push the prompt down, and go back to it.
            self._write(f"\x1b7{chr(10) * rows}\x1b[{rows}A\x1b[{rows}L\r{body}\n\x1b8\x1b[{rows}B")
        else:
            self._write(f"\r\x1b[J{body}\n{self._prompt}")  # what is being typed is still there, but not to be seen

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def open_screen() -> Screen:
    """Return a terminal where there is one on both ends, and a filter otherwise."""
    ends = (sys.stdin, sys.stdout, sys.stderr)
    if os.name == "posix" and os.environ.get("TERM") != "dumb" and all(end and end.isatty() for end in ends):
        return Terminal()
    return Screen()


def forget_typing() -> None:
    """Drop what was typed and not sent: the shell would take it for the beginning of its next line."""
    try:
        descriptor = sys.stdin.fileno()
        # In the background the terminal is not ours, and whoever touches it is stopped.
        if os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp():
            import termios

            termios.tcflush(descriptor, termios.TCIFLUSH)
    except (AttributeError, ImportError, OSError, ValueError):
        pass  # it is closed, the terminal has gone, or this is Windows

"""What becomes of the command's output when whoever reads it has gone: it goes nowhere, and nothing is said of that."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """Run the command in the block, and leave the standard streams such that Python can end with its exit status.

    A write to standard output raises BrokenPipeError all the same, for a command that has nothing else to do; one to
    standard error does not, since what is told there is beside the matter.
    """
    if sys.stderr is not None:
        sys.stderr = cast(TextIO, _Unheard(sys.stderr))
    try:
        yield
    finally:
        if sys.__stdout__ is not None:
            try:
                sys.__stdout__.flush()
            except BrokenPipeError:
                # Python flushes it again when it exits, and would make that 120 with a complaint. What is left goes to
                # nobody, as the documentation of Python's signal has it in its note on SIGPIPE.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, sys.__stdout__.fileno())
                os.close(nowhere)


class _Unheard:
    """A stream that need not have a reader."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(BrokenPipeError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(BrokenPipeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

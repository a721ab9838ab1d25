"""Lines of standard input for asyncio, whatever it is: a terminal, a pipe or a file."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

_CHUNK = 64 * 1024
_MAX_WAITING = 64
"""Lines read ahead."""


class Lines:
    """`await get()` returns the next line without its end, and None at the end of the input."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = threading.Semaphore(_MAX_WAITING)
        # A daemon, because nothing can interrupt its read when the connection ends first.
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    async def get(self) -> bytes | None:
        """Return the next line, or None at the end, and then again."""
        line = await self._queue.get()
        self._room.release()
        if line is None:
            self._queue.put_nowait(None)
        return line

    def _read(self) -> None:
        rest = b""
        while chunk := self._read_chunk():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._put(line.removesuffix(b"\r"))
        if rest:
            self._put(rest)
        self._put(None)

    def _read_chunk(self) -> bytes:
        try:
            # Not through sys.stdin: its lock, held by a read that never ends, would stop the interpreter from exiting.
            return os.read(sys.stdin.fileno(), _CHUNK)
        except (AttributeError, OSError, ValueError):
            return b""  # closed, or the terminal has gone

    def _put(self, line: bytes | None) -> None:
        self._room.acquire()
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, line)
        except RuntimeError:
            self._room.release()  # the loop has ended, so nobody waits for the rest

"""What several modules of this package do with trio's clock and streams."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

MAX_READ = 64 * 1024
"""Bytes that are read at once."""

_TLS_ENDS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""How TLS tells that the bytes beneath it have ended; which it is depends on the versions of Python and OpenSSL."""

T = TypeVar("T")


class Alarm:
    """Calls `ring` at a deadline; one that moves later costs nothing until the old one has passed.

    nursery: where it waits, while there is a deadline.
    shield: wait on when the nursery is cancelled from outside; whoever made the alarm then cancels it.
    """

    def __init__(self, nursery: trio.Nursery, ring: Callable[[], None], *, shield: bool = False) -> None:
        self._nursery = nursery
        self._ring = ring
        self._shield = shield
        self._scope: trio.CancelScope | None = None

    def set(self, deadline: float | None) -> None:
        """Ring at `deadline` seconds on trio's clock, or before; None leaves everything as it is."""
        if deadline is None:
            return
        if self._scope is None:
            self._scope = trio.CancelScope(deadline=deadline, shield=self._shield)
            self._nursery.start_soon(self._wait, self._scope)
        elif deadline < self._scope.deadline:
            self._scope.deadline = deadline

    def cancel(self) -> None:
        """Do not ring."""
        if self._scope is not None:
            self._scope.cancel()
            self._scope = None

    @trio.lowlevel.enable_ki_protection
    async def _wait(self, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep_forever()
        if scope is self._scope:  # else it was cancelled
            self._scope = None
            self._ring()


def addresses(stream: trio.abc.Stream) -> tuple[Any, Any]:
    """Return our address and the peer's, None each where the stream is over no socket."""
    inner: object = stream
    while isinstance(inner, trio.SSLStream):
        inner = inner.transport_stream
    if not isinstance(inner, trio.SocketStream):
        return None, None
    try:
        return inner.socket.getsockname(), inner.socket.getpeername()
    except OSError:  # the peer has left already
        return None, None


@contextmanager
def cancelled_only() -> Iterator[None]:
    """Let a cancellation out alone, without errors of the application that it came with in one group.

    Whoever has cancelled would get these errors; who does not handle them ends with them, a server as a whole.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        _, others = group.split(Exception)
        if others is None:
            raise
        raise others from None


@trio.lowlevel.disable_ki_protection
async def interruptible(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Call what the application gave: unlike our own tasks, Ctrl-C may interrupt it anywhere."""
    return await function(*args)


async def end_writing(stream: trio.abc.Stream) -> None:
    """End our side of the stream; TLS has no half-close, so there it ends altogether."""
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
    else:
        await stream.aclose()


async def drop(stream: trio.abc.Stream) -> None:
    """Close the stream at once, also where everything is being cancelled."""
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(stream)


def os_error(error: trio.BrokenResourceError) -> OSError | None:
    """Return what the operating system said of a stream that broke, None for an end without an error."""
    cause = error.__cause__
    # A peer that ends TLS without saying so is common, and ends the connection as any other end does.
    return cause if isinstance(cause, OSError) and not isinstance(cause, _TLS_ENDS) else None

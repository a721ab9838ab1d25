"""One client of the demo: what it does, what should become of it, and what the server has seen of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from wsconnkit.asyncio import Connection
from wsconnkit.cli.failure import os_error_text
from wsconnkit.protocol.closeinfo import Cause, CloseInfo
from wsconnkit.protocol.printable import printable


@dataclass(slots=True, kw_only=True)
class Actor:
    """A client.

    does: what it does, in a few words.
    enters: seconds after the beginning.
    play: what it does, given the URI of the server.
    code, cause: how the server should see it end.
    kib_to_send: what the server sends to it, beside the answers.
    """

    name: str
    does: str
    enters: float
    play: Callable[[str], Awaitable[None]]
    code: int
    cause: Cause
    kib_to_send: int = 0
    connection: Connection | None = field(default=None, init=False)
    """The server's side of its connection."""
    note: str = field(default="", init=False)
    """What the server says about it at the moment."""
    failure: str = field(default="", init=False)
    """What went wrong on the client's own side."""

    @property
    def path(self) -> str:
        """The path that it connects to, by which the server knows it."""
        return "/" + self.name.replace(" ", "-")

    @property
    def close_info(self) -> CloseInfo | None:
        """How it ended, as the server saw it."""
        return self.connection.close_info if self.connection is not None else None

    @property
    def why(self) -> str:
        """The reason of its end, or what the operating system said."""
        info = self.close_info
        if info is None:
            return ""
        return os_error_text(info.error) if info.error is not None else printable(info.reason)

    @property
    def as_expected(self) -> bool:
        """It has ended as it should."""
        info = self.close_info
        return info is not None and (info.code, info.cause) == (self.code, self.cause) and not self.failure

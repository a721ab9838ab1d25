"""One message to many connections, on every event loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from wsconnkit.protocol.prepared import Content, PreparedMessage


class Recipient(Protocol):
    """A connection that takes messages without waiting."""

    def send_nowait(self, message: Content | PreparedMessage) -> bool:
        """Tell whether the message was taken."""


def broadcast(connections: Iterable[Recipient], message: Content | PreparedMessage) -> int:
    """Send a message to each of `connections` by `send_nowait`; return how many have taken it.

    It is framed once for all of them, and compressed once for all that do it with the same settings.
    """
    prepared = message if isinstance(message, PreparedMessage) else PreparedMessage(message)
    # A connection that closes meanwhile may leave the collection it came from.
    return sum([connection.send_nowait(prepared) for connection in tuple(connections)])

"""One message to many connections, on trio."""

from __future__ import annotations

from collections.abc import Iterable

from wsconnkit.protocol.prepared import Content, PreparedMessage
from wsconnkit.trio.connection import Connection


def broadcast(connections: Iterable[Connection], message: Content | PreparedMessage) -> int:
    """Send a message to each of `connections` by `send_nowait`; return how many have taken it.

    It is framed once for all of them, and compressed once for all that do it with the same settings.
    """
    prepared = message if isinstance(message, PreparedMessage) else PreparedMessage(message)
    # A connection that closes meanwhile may leave the collection it came from.
    return sum([connection.send_nowait(prepared) for connection in tuple(connections)])

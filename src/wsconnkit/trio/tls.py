"""TLS on top of a stream of trio's, and what it says of ends."""

from __future__ import annotations

import ssl

import trio

from wsconnkit.managed.transport import TLS_ENDS
from wsconnkit.protocol.hosts import server_name


async def start_tls(stream: trio.abc.Stream, context: ssl.SSLContext, host: str) -> trio.abc.Stream:
    """Return a stream with TLS to a server. Raises BrokenResourceError, ConnectionResetError for an end."""
    secured = trio.SSLStream(stream, context, server_hostname=server_name(host))
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as error:
        if os_error(error) is None:
            raise ConnectionResetError("the connection ended during the TLS handshake") from None
        raise
    return secured


def os_error(error: trio.BrokenResourceError | trio.ClosedResourceError) -> OSError | None:
    """Return what the operating system said of a stream that broke, None for an end without an error."""
    cause = error.__cause__
    # A peer that ends TLS without saying so is common, and ends the connection as any other end does.
    return cause if isinstance(cause, OSError) and not isinstance(cause, TLS_ENDS) else None

"""The opening handshake over h11 and without I/O (RFC 6455, section 4): what both sides share.

A handshake is driven like a `ConnectionProtocol`: bytes and time in, `data_to_send()` and `transport_action` out. When
it is done, `connection()` goes on with the bytes that came behind it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import h11

from wsconnkit.machines.deadlines import Deadlines
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.http import Headers
from wsconnkit.protocol.transportaction import TransportAction
from wsconnkit.protocol.upgrade import Agreement

_Head = TypeVar("_Head", h11.Request, h11.InformationalResponse, h11.Response)


class Handshake:
    """What `ClientHandshake` and `ServerHandshake` share: h11, limits, the deadline and the bytes to send."""

    def __init__(self, role: Role, config: ConnectionConfig, now: float) -> None:
        self._role = role
        self._config = config
        self._limits = config.handshake
        self._h11 = h11.Connection(h11.CLIENT if role is Role.CLIENT else h11.SERVER, self._limits.max_head)
        self._received = 0
        self._output: list[bytes] = []
        self._deadlines: Deadlines[str] = Deadlines()
        self._deadlines.set("handshake", now + self._limits.timeout)
        self.transport_action = TransportAction.OPEN
        """What the adapter must do with the transport next."""
        self.agreement: Agreement | None = None
        """What both sides agreed on; None until the handshake has succeeded."""

    def data_to_send(self) -> bytes:
        """Return the bytes to send and forget them."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout`, or None. Changes nothing."""
        return (
            None if self.agreement or self.transport_action is TransportAction.ABORT else self._deadlines.next_timeout()
        )

    def connection(self, now: float, *, random_bytes: Callable[[int], bytes] = os.urandom) -> ConnectionProtocol:
        """Return the connection that begins where the handshake ended.

        Raises LocalProtocolError when the handshake has not succeeded.
        """
        if self.agreement is None:
            raise LocalProtocolError("there is no connection: the handshake has not succeeded")
        return ConnectionProtocol(
            self._role,
            self._config,
            now=now,
            deflate=self.agreement.deflate,
            trailing_data=self._h11.trailing_data[0],
            random_bytes=random_bytes,
        )

    def _feed(self, data: bytes) -> None:
        self._received += len(data)
        if data:  # to h11 no bytes are the end
            self._h11.receive_data(data)

    def _send_head(self, kind: type[_Head], headers: Headers, **fields: Any) -> None:
        """Send the start of a message. Raises LocalProtocolError for headers that cannot be sent."""
        try:
            head = kind(headers=_raw(headers), **fields)
        except h11.LocalProtocolError:
            # h11's own words quote the value, which may be a secret.
            raise LocalProtocolError(
                "headers are not valid HTTP: a name must be a token, a value hold no line breaks or control characters"
            ) from None
        self._send(head)

    def _send(self, event: h11.Event) -> None:
        self._output.append(self._h11.send(event) or b"")

    def _over_limits(self, headers: Sequence[tuple[bytes, bytes]], line: bytes) -> tuple[int, str] | None:
        """Return the status and the words for a head that is over a limit (RFC 6585, section 5)."""
        limits = self._limits
        if self._received - len(self._h11.trailing_data[0]) > limits.max_head:
            return 431, f"the head is longer than {limits.max_head} bytes"
        if len(line) > limits.max_line:
            return 414, f"the request target is longer than {limits.max_line} bytes"
        if len(headers) > limits.max_headers:
            return 431, f"there are more than {limits.max_headers} headers"
        if any(len(name) + len(value) > limits.max_line for name, value in headers):
            return 431, f"a header is longer than {limits.max_line} bytes"
        return None


def _raw(headers: Headers) -> list[tuple[bytes, bytes]]:
    try:
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    except UnicodeEncodeError:
        names = ", ".join(repr(name) for name, value in headers if max(name + value, default="") > "\xff")
        raise LocalProtocolError(f"headers hold characters beyond ISO 8859-1: {names}") from None

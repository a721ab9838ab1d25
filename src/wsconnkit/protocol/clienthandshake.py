"""The client's side of the opening handshake.

handshake = ClientHandshake(parse_uri("ws://example.org/"), now=now)
handshake.data_to_send()            # the request
handshake.receive_data(data, now)   # until there is an `agreement`, or an `error`
connection = handshake.connection(now)
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence

import h11

from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import HandshakeInterrupted, InvalidHandshake, InvalidStatus
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.handshake import Handshake
from wsconnkit.protocol.http import Headers, HeadersLike, Response
from wsconnkit.protocol.transportaction import TransportAction
from wsconnkit.protocol.upgrade import Agreement, UpgradeRequest, ask, check_answer
from wsconnkit.protocol.uri import URI


class ClientHandshake(Handshake):
    """The client's side: the request is there to send at once; then `agreement` or `error` will be set.

    subprotocols: those we would speak, the preferred first.
    headers: added to the request.
    Raises LocalProtocolError for headers or subprotocols that cannot be sent.
    """

    def __init__(
        self,
        uri: URI,
        config: ConnectionConfig | None = None,
        *,
        now: float,
        subprotocols: Sequence[str] = (),
        headers: HeadersLike = (),
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        super().__init__(Role.CLIENT, config or ConnectionConfig(), now)
        self.error: InvalidHandshake | TimeoutError | None = None
        """Why the handshake failed."""
        self._refused: h11.Response | None = None
        self._body = b""
        key = base64.b64encode(random_bytes(16)).decode()
        self.request: UpgradeRequest = ask(uri, self._config, key, subprotocols=subprotocols, headers=headers)
        """The request that is sent."""
        self._send_head(h11.Request, self.request.headers, method="GET", target=self.request.target)
        self._send(h11.EndOfMessage())

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the server; those behind its response belong to the connection. Never raises."""
        if self.error is None:
            self._feed(data)
            self._read()

    def receive_eof(self, now: float) -> None:
        """The server sends no more."""
        self.transport_lost(now)

    def transport_lost(self, now: float, error: OSError | None = None) -> None:
        """The transport is gone, maybe before the handshake has ended."""
        if self.error is not None or self.agreement is not None:
            return
        if self._refused is not None:
            self._fail_refused()
        else:
            self._fail(HandshakeInterrupted(f"the connection ended during the opening handshake: {error or 'EOF'}"))

    def handle_timeout(self, now: float) -> None:
        """Fail when the server is too slow."""
        if self.agreement is None and self.error is None and self._deadlines.handle_timeout(now):
            if self._refused is not None:
                self._fail_refused()
            else:
                self._fail(TimeoutError(f"no complete response within {self._limits.timeout:g} s"))

    def _read(self) -> None:
        try:
            while self.error is None and self.agreement is None:
                event = self._h11.next_event()
                if isinstance(event, (h11.InformationalResponse, h11.Response)):
                    self._on_response(event)
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) >= self._limits.max_body:
                        self._fail_refused()
                elif isinstance(event, h11.EndOfMessage):
                    self._fail_refused()
                else:
                    return  # more data is needed
        except h11.RemoteProtocolError as error:
            if self._refused is not None:
                self._fail_refused()  # its body is cut short
            else:
                self._fail(InvalidHandshake(f"the server's response is malformed: {error}"))

    def _fail(self, error: InvalidHandshake | TimeoutError) -> None:
        self.error = error
        self.transport_action = TransportAction.ABORT

    def _fail_refused(self) -> None:
        assert self._refused is not None  # a body comes after its head
        headers = Headers.from_raw(self._refused.headers.raw_items())
        self._fail(InvalidStatus(Response(self._refused.status_code, headers, self._body[: self._limits.max_body])))

    def _on_response(self, event: h11.InformationalResponse | h11.Response) -> None:
        over = self._over_limits(event.headers.raw_items(), b"")
        if over is not None:
            self._fail(InvalidHandshake(f"the server's response breaks a limit: {over[1]}"))
        elif event.status_code == 101:
            self._on_switch(event)
        elif isinstance(event, h11.Response):
            self._refused = event

    def _on_switch(self, event: h11.InformationalResponse | h11.Response) -> None:
        headers = Headers.from_raw(event.headers.raw_items())
        checked = check_answer(self.request, self._config, event.http_version.decode("ascii"), headers)
        if isinstance(checked, str):
            self._fail(InvalidHandshake(f"the server's response breaks the protocol: {checked}"))
        else:
            self.agreement: Agreement | None = checked

"""The server's side of the opening handshake.

handshake = ServerHandshake(now=now)
handshake.receive_data(data, now)   # until there is a `request`, or it was refused
handshake.accept()                  # or respond(Response(403))
handshake.data_to_send()
connection = handshake.connection(now)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from email.utils import formatdate
from http import HTTPStatus

import h11

from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.handshake import Handshake
from wsconnkit.protocol.http import Headers, HeadersLike, Response
from wsconnkit.protocol.transportaction import TransportAction
from wsconnkit.protocol.upgrade import (
    Agreement,
    HTTPRequest,
    UpgradeRequest,
    agree,
    check_request,
    check_subprotocols,
    refusal,
)

_NEEDED = {401: ("WWW-Authenticate", "Bearer"), 426: ("Upgrade", "websocket")}
"""What a response with that status must have, and has from us (RFC 9110, sections 15.5.2 and 15.5.22)."""


class ServerHandshake(Handshake):
    """The server's side: `request` is there once the client's is complete; then `accept` it, or `respond` otherwise.

    path: the only one that is served, None for every path.
    subprotocols: those we speak, the preferred first.
    http: whether requests that ask for no WebSocket wait in `http_request` for a response.
    wall_clock: returns epoch seconds, for the Date of responses; None sends none.
    A request that is no valid one is refused without being asked about, and one that has no answer after the
    handshake's timeout with 503.
    """

    def __init__(
        self,
        config: ConnectionConfig | None = None,
        *,
        now: float,
        path: str | None = None,
        subprotocols: Sequence[str] = (),
        http: bool = False,
        wall_clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(Role.SERVER, config or ConnectionConfig(), now)
        self._now = now
        self._path = path
        self._http = http
        self._wall_clock = wall_clock
        self._subprotocols = check_subprotocols(subprotocols)
        self._is_head = False
        self._line = 0  # bytes of the request line, as far as it has come
        self._has_line = False
        self.request: UpgradeRequest | None = None
        """The client's request, once it is complete and valid."""
        self.http_request: HTTPRequest | None = None
        """The client's request where it asks for no WebSocket."""
        self.response: Response | None = None
        """The response to a request that was not accepted."""
        self.client_has_ended: bool = False
        """The client sends no more, and may have left."""

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the client; those behind its request wait for the connection. Never raises."""
        self._now = max(now, self._now)
        if self.response is not None or self.transport_action is TransportAction.ABORT:
            return  # read on only so that the refusal is not lost in a reset
        if self.http_request is not None:
            return  # its body
        if not self._received:
            data = data.lstrip(b"\r\n")  # empty lines before the request line (RFC 9112, section 2.2)
        if not self._has_line:
            line, end, _ = data.partition(b"\n")
            self._line += len(line)
            self._has_line = bool(end)
        self._feed(data)
        if self.request is None:
            self._read()
        # "the client MUST wait for a response" (RFC 6455, section 4.1); a little haste is forgiven.
        is_waiting = self.request is not None and not self.agreement and not self.response
        if is_waiting and len(self._h11.trailing_data[0]) > self._limits.max_head:
            self._respond(refusal(400, "too much was sent before the upgrade was accepted"))

    def receive_eof(self, now: float) -> None:
        """The client sends no more, which is no reason not to answer what it has asked for before.

        A WebSocket cannot open any more, whatever the application would say: its request is refused with 400.
        """
        self._now = max(now, self._now)
        self.client_has_ended = True
        if self.is_pending and self.request is not None:
            self._respond(refusal(400, "the client has ended its side of the connection"))
        elif self.http_request is None and self.response is None:
            self.transport_action = TransportAction.ABORT

    def transport_lost(self, now: float, error: OSError | None = None) -> None:
        """The transport is gone."""
        self._now = max(now, self._now)
        self.transport_action = TransportAction.ABORT

    def accept(self, headers: HeadersLike = ()) -> Agreement:
        """Answer 101 with `headers` added.

        Raises LocalProtocolError when there is no request to accept, or for headers that cannot be sent.
        """
        request = self.request
        if request is None or not self.is_pending:
            raise LocalProtocolError("there is no request to answer")
        agreement = agree(request, self._config, subprotocols=self._subprotocols, headers=headers)
        self._send_head(h11.InformationalResponse, agreement.headers, status_code=101, reason=_phrase(101))
        if "100-continue" in (request.headers.get("Expect") or "").lower():
            self._output.insert(-1, b"HTTP/1.1 100 Continue\r\n\r\n")  # before the 101 (RFC 9110, section 7.8)
        self.agreement: Agreement | None = agreement
        return agreement

    def respond(self, response: Response, now: float | None = None) -> None:
        """Answer with a complete `response`, to an upgrade or another request.

        now: when, which is when the time begins that the client has to take it; None for when it was last heard of.
        Raises LocalProtocolError when there is no request to answer, or for a response that cannot be sent.
        """
        if not self.is_pending:
            raise LocalProtocolError("there is no request to answer")
        if now is not None:
            self._now = max(now, self._now)
        self._respond(response)

    def handle_timeout(self, now: float) -> None:
        """Refuse a client that is too slow, and drop one that does not go away."""
        self._now = max(now, self._now)
        if self.transport_action is not TransportAction.ABORT and self._deadlines.handle_timeout(self._now):
            if self.is_pending:
                self._respond(refusal(503, "the server is too slow", {"Retry-After": "1"}))
            elif self.response is None and self._received:
                self._respond(refusal(408, f"no complete request within {self._limits.timeout:g} s"))
            else:
                self.transport_action = TransportAction.ABORT

    @property
    def is_pending(self) -> bool:
        """There is a request to answer."""
        is_answered = self.response or self.agreement or self.transport_action is TransportAction.ABORT
        return (self.request or self.http_request) is not None and not is_answered

    def _read(self) -> None:
        try:
            event = self._h11.next_event()
            if isinstance(event, h11.Request):
                self._on_request(event)
        except h11.RemoteProtocolError as error:
            self._respond(refusal(self._status(error.error_status_hint), f"malformed request: {error}"))

    def _on_request(self, event: h11.Request) -> None:
        self._is_head = event.method == b"HEAD"
        over = self._over_limits(event.headers.raw_items(), event.target)
        if over is not None:
            self._respond(refusal(self._status(over[0]), over[1]))
            return
        checked = check_request(
            event.method.decode("ascii"),
            event.target.decode("latin-1"),
            event.http_version.decode("ascii"),
            Headers.from_raw(event.headers.raw_items()),
            path=self._path,
            http=self._http,
        )
        if isinstance(checked, Response):
            self._respond(checked)
            return
        if isinstance(checked, HTTPRequest):
            self.http_request = checked
        else:
            self._h11.next_event()  # the end of a request without a body, before which h11 does not switch
            self.request = checked
        # From here on it is the application that takes its time.
        self._deadlines.set("handshake", self._now + self._limits.timeout)

    def _status(self, status: int) -> int:
        """Return 414 in place of 431 where the request line alone is too long (RFC 9112, section 3)."""
        return 414 if status == 431 and self._line > self._limits.max_head else status

    def _respond(self, response: Response) -> None:
        for name in ("Connection", "Content-Length", "Transfer-Encoding"):
            if name in response.headers:
                raise LocalProtocolError(f"the header {name!r} belongs to the handshake; it cannot be given")
        if not 200 <= response.status <= 999:
            raise LocalProtocolError(f"the status is {response.status}; it must be 200 to 999")
        if response.body and response.status in (204, 205, 304):
            raise LocalProtocolError(f"a response with the status {response.status} has no body")
        if response.status == 405 and "Allow" not in response.headers:
            raise LocalProtocolError("a response with the status 405 has the header 'Allow', which names the methods")
        headers = [*response.headers]
        if response.status in _NEEDED and _NEEDED[response.status][0] not in response.headers:
            headers.append(_NEEDED[response.status])
        # Who names Upgrade in a message means this hop (RFC 9110, section 7.8).
        headers.append(("Connection", "close, Upgrade" if "Upgrade" in Headers(headers) else "close"))
        if response.status not in (204, 304):
            headers.append(("Content-Length", str(len(response.body))))
        if self._wall_clock is not None and "Date" not in response.headers:
            headers.append(("Date", formatdate(self._wall_clock(), usegmt=True)))
        phrase = _phrase(response.status)
        self._send_head(h11.Response, Headers(headers), status_code=response.status, reason=phrase)
        self._send(h11.Data(data=b"" if self._is_head else response.body))
        self._send(h11.EndOfMessage())
        self.response = response
        self.transport_action: TransportAction = TransportAction.SEND_EOF
        self._deadlines.set("handshake", self._now + self._config.close.timeout)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""

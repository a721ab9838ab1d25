"""The opening handshake of both sides, over h11 and without I/O (RFC 6455, section 4).

A handshake is driven like a `Connection`: bytes and time in, `data_to_send()` and `transport` out. When it is done,
`connection()` goes on with the bytes that came behind it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import h11

from wsconnkit.machines.deadlines import Deadlines
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import Connection, Transport
from wsconnkit.protocol.deflate import DeflateParams, client_accept, client_offer, server_accept
from wsconnkit.protocol.errors import HandshakeInterrupted, InvalidHandshake, InvalidStatus, LocalProtocolError
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.http import ExtensionOffer, Headers, Response, is_token, parse_extensions
from wsconnkit.protocol.uri import URI

_TARGET = re.compile(r'[!"\x24-~\x80-\xff]+')  # no spaces, no control characters, no fragment
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

HeadersLike = Headers | Mapping[str, str] | Iterable[tuple[str, str]]


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455, section 4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()


def refusal(status: int, error: str, headers: HeadersLike = ()) -> Response:
    """Return the response that refuses an upgrade: a short JSON body that says why."""
    body = json.dumps({"error": error}).encode() + b"\n"
    return Response(status, Headers([("Content-Type", "application/json"), *Headers(headers)]), body)


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """A client's request for a WebSocket (RFC 6455, section 4.1)."""

    target: str
    headers: Headers
    key: str
    subprotocols: tuple[str, ...]
    extensions: tuple[ExtensionOffer, ...]

    @property
    def path(self) -> str:
        """The target's path, without the query, as the client wrote it."""
        return _path_of(self.target) or "/"

    def __repr__(self) -> str:
        # Targets, headers and subprotocols can hold tokens.
        return f"<UpgradeRequest {self.path!r}>"


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """The head of an HTTP request that asks for no WebSocket; a body is not read."""

    method: str
    target: str
    headers: Headers

    @property
    def path(self) -> str:
        """The target's path, without the query, as the client wrote it."""
        return _path_of(self.target) or "/"

    def __repr__(self) -> str:
        return f"<HTTPRequest {self.method} {self.path!r}>"


def check_upgrade(method: str, target: str, http_version: str, headers: Headers) -> UpgradeRequest | Response:
    """Return the request for a WebSocket that an HTTP request makes, or the response that refuses it.

    For servers that parse HTTP themselves; `ServerHandshake` does it for those that do not.
    """
    if method != "GET":
        return refusal(405, f"the method is {method}; a WebSocket opens with GET", {"Allow": "GET"})
    if _path_of(target) is None:
        return refusal(400, "the request target is no URI")
    if http_version != "1.1":
        return refusal(505, "a WebSocket needs HTTP/1.1")
    connection = [token.lower() for token in headers.tokens("Connection")]
    if "upgrade" not in connection or not _asks_for_websocket(headers):
        return refusal(426, "this is a WebSocket endpoint", {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"})
    if headers.get("Sec-WebSocket-Version") != "13":
        return refusal(426, "Sec-WebSocket-Version must be 13", {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"})
    if headers.get("Content-Length") not in (None, "0") or "Transfer-Encoding" in headers:
        return refusal(400, "a request for a WebSocket has no body")
    key = headers.get("Sec-WebSocket-Key") or ""
    if not _is_nonce(key):
        return refusal(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    subprotocols = headers.tokens("Sec-WebSocket-Protocol")
    if not _are_distinct_tokens(subprotocols):
        return refusal(400, "Sec-WebSocket-Protocol must list distinct tokens")
    extensions = parse_extensions(headers.get("Sec-WebSocket-Extensions") or "")
    if extensions is None:
        return refusal(400, "Sec-WebSocket-Extensions is malformed")
    return UpgradeRequest(target, headers, key, tuple(subprotocols), tuple(extensions))


def _asks_for_websocket(headers: Headers) -> bool:
    return "websocket" in [token.lower() for token in headers.tokens("Upgrade")]


def _path_of(target: str) -> str | None:
    """Return the path of a request target, None where it is malformed."""
    if not _TARGET.fullmatch(target):
        return None
    if target.startswith("/"):
        return target.partition("?")[0]
    try:
        parts = urlsplit(target)  # the absolute form (RFC 9112, section 3.2.2)
    except ValueError:
        return None
    return parts.path or "/" if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc else None


def check_subprotocols(subprotocols: Sequence[str]) -> tuple[str, ...]:
    """Return `subprotocols` as they are. Raises LocalProtocolError when they are no sequence of distinct tokens."""
    names: object = subprotocols
    if not isinstance(names, (list, tuple)) or not _are_distinct_tokens(names):
        raise LocalProtocolError(f"subprotocols is {subprotocols!r}; it must be a list of distinct tokens")
    return tuple(names)


def _are_distinct_tokens(names: Sequence[object]) -> bool:
    return all(isinstance(name, str) and is_token(name) for name in names) and len(set(names)) == len(names)


def _is_nonce(key: str) -> bool:
    try:
        return len(base64.b64decode(key.encode(), validate=True)) == 16
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a server answers to an `UpgradeRequest`: the headers of its 101, and what they agree on."""

    headers: Headers
    subprotocol: str | None
    deflate: DeflateParams | None


def agree(
    request: UpgradeRequest, config: ConnectionConfig, *, subprotocols: Sequence[str] = (), headers: HeadersLike = ()
) -> Agreement:
    """Return the answer to `request`; the first of our `subprotocols` that the client knows is chosen."""
    subprotocol = next((name for name in check_subprotocols(subprotocols) if name in request.subprotocols), None)
    accepted = server_accept(config.compression, request.extensions) if config.compression else None
    answer = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(request.key)),
    ]
    if subprotocol is not None:
        answer.append(("Sec-WebSocket-Protocol", subprotocol))
    deflate = None
    if accepted is not None:
        deflate, extension = accepted
        answer.append(("Sec-WebSocket-Extensions", extension))
    extra = Headers(headers)
    _check_extra(extra)
    return Agreement(Headers([*answer, *extra]), subprotocol, deflate)


_RESERVED = frozenset(
    {
        "connection",
        "upgrade",
        "sec-websocket-accept",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-extensions",
        "sec-websocket-protocol",
        "content-length",
        "transfer-encoding",
    }
)


def _check_extra(headers: Headers) -> None:
    for name, _ in headers:
        if name.lower() in _RESERVED:
            raise LocalProtocolError(f"the header {name!r} belongs to the handshake; it cannot be given")


# h11's own words quote the value, which may be a secret.
_BAD_HEADERS = "headers are not valid HTTP: a name must be a token, a value hold no line breaks or control characters"


def _raw(headers: Headers) -> list[tuple[bytes, bytes]]:
    try:
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    except UnicodeEncodeError:
        names = ", ".join(name for name, value in headers if max(name + value, default="") > "\xff")
        raise LocalProtocolError(f"headers hold characters beyond ISO 8859-1: {names}") from None


class _Handshake:
    """What both sides share: h11, limits, the deadline and the bytes to send."""

    def __init__(self, role: Role, config: ConnectionConfig, now: float) -> None:
        self._role = role
        self._config = config
        self._limits = config.handshake
        self._h11 = h11.Connection(h11.CLIENT if role is Role.CLIENT else h11.SERVER, self._limits.max_head)
        self._received = 0
        self._output: list[bytes] = []
        self._deadlines: Deadlines[str] = Deadlines()
        self._deadlines.set("handshake", now + self._limits.timeout)
        self.transport = Transport.OPEN
        """What the adapter must do with the socket."""
        self.agreement: Agreement | None = None
        """What both sides agreed on; None until the handshake has succeeded."""

    def data_to_send(self) -> bytes:
        """Return the bytes to send and forget them."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout`, or None. Changes nothing."""
        return None if self.agreement or self.transport is Transport.ABORT else self._deadlines.next_timeout()

    def connection(self, now: float, *, random_bytes: Callable[[int], bytes] = os.urandom) -> Connection:
        """Return the connection that begins where the handshake ended.

        Raises LocalProtocolError when the handshake has not succeeded.
        """
        if self.agreement is None:
            raise LocalProtocolError("there is no connection: the handshake has not succeeded")
        return Connection(
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

    def _send(self, *events: h11.Event) -> None:
        for event in events:
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


class ServerHandshake(_Handshake):
    """The server's side: `request` is there once the client's is complete; then `accept` it, or `respond` otherwise.

    path: the only one that is served, None for every path.
    subprotocols: those we speak, the preferred first.
    http: whether requests that ask for no WebSocket wait in `http_request` for a response.
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
    ) -> None:
        super().__init__(Role.SERVER, config or ConnectionConfig(), now)
        self._now = now
        self._path = path
        self._http = http
        self._subprotocols = check_subprotocols(subprotocols)
        self._is_head = False
        self.request: UpgradeRequest | None = None
        """The client's request, once it is complete and valid."""
        self.http_request: HTTPRequest | None = None
        """The client's request where it asks for no WebSocket."""
        self.response: Response | None = None
        """The response to a request that was not accepted."""

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the client; those behind its request wait for the connection. Never raises."""
        self._now = max(now, self._now)
        if self.response is not None or self.transport is Transport.ABORT:
            return  # read on only so that the refusal is not lost in a reset
        if self.http_request is not None:
            return  # its body
        self._feed(data)
        if self.request is None:
            self._read()
        # "the client MUST wait for a response" (RFC 6455, section 4.1); a little haste is forgiven.
        is_waiting = self.request is not None and not self.agreement and not self.response
        if is_waiting and len(self._h11.trailing_data[0]) > self._limits.max_head:
            self._respond(refusal(400, "too much was sent before the upgrade was accepted"))

    def receive_eof(self, now: float, error: OSError | None = None) -> None:
        """The client is gone."""
        self._now = max(now, self._now)
        self.transport = Transport.ABORT

    def accept(self, headers: HeadersLike = ()) -> Agreement:
        """Answer 101 with `headers` added.

        Raises LocalProtocolError when there is no request to accept, or for headers that cannot be sent.
        """
        request = self.request
        if request is None or not self.is_pending:
            raise LocalProtocolError("there is no request to answer")
        agreement = agree(request, self._config, subprotocols=self._subprotocols, headers=headers)
        try:
            response = h11.InformationalResponse(status_code=101, headers=_raw(agreement.headers))
        except h11.LocalProtocolError:
            raise LocalProtocolError(_BAD_HEADERS) from None
        self._send(response)
        self.agreement = agreement
        return agreement

    def respond(self, response: Response) -> None:
        """Answer with a complete `response`, to an upgrade or another request.

        Raises LocalProtocolError when there is no request to answer, or for a response that cannot be sent.
        """
        if not self.is_pending:
            raise LocalProtocolError("there is no request to answer")
        self._respond(response)

    def handle_timeout(self, now: float) -> None:
        """Refuse a client that is too slow, and drop one that does not go away."""
        self._now = max(now, self._now)
        if self.transport is not Transport.ABORT and self._deadlines.handle_timeout(self._now):
            if self.is_pending:
                self._respond(refusal(503, "the server is too slow", {"Retry-After": "1"}))
            elif self.response is None and self._received:
                self._respond(refusal(408, f"no complete request within {self._limits.timeout:g} s"))
            else:
                self.transport = Transport.ABORT

    @property
    def is_pending(self) -> bool:
        """There is a request to answer."""
        is_answered = self.response or self.agreement or self.transport is Transport.ABORT
        return (self.request or self.http_request) is not None and not is_answered

    def _read(self) -> None:
        try:
            event = self._h11.next_event()
            if isinstance(event, h11.Request):
                self._on_request(event)
        except h11.RemoteProtocolError as error:
            self._respond(refusal(error.error_status_hint, f"malformed request: {error}"))

    def _on_request(self, event: h11.Request) -> None:
        self._is_head = event.method == b"HEAD"
        over = self._over_limits(event.headers.raw_items(), event.target)
        if over is not None:
            self._respond(refusal(*over))
            return
        method, target = event.method.decode("ascii"), event.target.decode("latin-1")
        headers = Headers.from_raw(event.headers.raw_items())
        if self._http and not _asks_for_websocket(headers) and _path_of(target) is not None:
            self.http_request = HTTPRequest(method, target, headers)
        else:
            checked = check_upgrade(method, target, event.http_version.decode("ascii"), headers)
            if isinstance(checked, Response):
                self._respond(checked)
                return
            if self._path is not None and checked.path != self._path:
                self._respond(refusal(404, "there is no WebSocket at this path"))
                return
            self._h11.next_event()  # the end of a request without a body, before which h11 does not switch
            self.request = checked
        # From here on it is the application that takes its time.
        self._deadlines.set("handshake", self._now + self._limits.timeout)

    def _respond(self, response: Response) -> None:
        for name in ("Connection", "Content-Length", "Transfer-Encoding"):
            if name in response.headers:
                raise LocalProtocolError(f"the header {name!r} belongs to the handshake; it cannot be given")
        if not 200 <= response.status <= 999:
            raise LocalProtocolError(f"the status is {response.status}; it must be 200 to 999")
        has_body = response.status not in (204, 304)
        if response.body and not has_body:
            raise LocalProtocolError(f"a response with the status {response.status} has no body")
        headers = [*_raw(response.headers), (b"Connection", b"close")]
        if has_body:
            headers.append((b"Content-Length", b"%d" % len(response.body)))
        try:
            head = h11.Response(status_code=response.status, headers=headers, reason=_phrase(response.status))
        except h11.LocalProtocolError:
            raise LocalProtocolError(_BAD_HEADERS) from None
        self._send(head, h11.Data(data=b"" if self._is_head else response.body), h11.EndOfMessage())
        self.response = response
        self.transport = Transport.SEND_EOF
        self._deadlines.set("handshake", self._now + self._config.close.timeout)


class ClientHandshake(_Handshake):
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
        self._subprotocols = check_subprotocols(subprotocols)
        self._key = base64.b64encode(random_bytes(16)).decode()
        self._refused: h11.Response | None = None
        self._body = b""
        extra = Headers(headers)
        _check_extra(extra)
        request = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self._key),
            ("Sec-WebSocket-Version", "13"),
        ]
        if "Host" not in extra:
            request.insert(0, ("Host", uri.host_header))
        if uri.user is not None and "Authorization" not in extra:
            credentials = base64.b64encode(f"{uri.user}:{uri.password or ''}".encode()).decode()
            request.append(("Authorization", f"Basic {credentials}"))
        if self._subprotocols:
            request.append(("Sec-WebSocket-Protocol", ", ".join(self._subprotocols)))
        if self._config.compression is not None:
            request.append(("Sec-WebSocket-Extensions", client_offer(self._config.compression)))
        headers = Headers([*request, *extra])
        try:
            head = h11.Request(method="GET", target=uri.resource, headers=_raw(headers))
        except h11.LocalProtocolError:
            raise LocalProtocolError(_BAD_HEADERS) from None
        self._send(head, h11.EndOfMessage())
        offers = parse_extensions(headers.get("Sec-WebSocket-Extensions") or "") or ()
        self.request = UpgradeRequest(uri.resource, headers, self._key, self._subprotocols, tuple(offers))
        """The request that is sent."""

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the server; those behind its response belong to the connection. Never raises."""
        if self.error is None:
            self._feed(data)
            self._read()

    def receive_eof(self, now: float, error: OSError | None = None) -> None:
        """The transport has ended, before the handshake has."""
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
        self.transport = Transport.ABORT

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
        wrong = "it is not HTTP/1.1" if event.http_version != b"1.1" else self._check(headers)
        deflate = None
        if wrong is None and headers.tokens("Sec-WebSocket-Extensions"):
            deflate = self._agreed_deflate(headers)
            wrong = None if deflate else "Sec-WebSocket-Extensions is not an answer to what was offered"
        if wrong is not None:
            self._fail(InvalidHandshake(f"the server's response breaks the protocol: {wrong}"))
        else:
            self.agreement = Agreement(headers, headers.get("Sec-WebSocket-Protocol"), deflate)

    def _agreed_deflate(self, headers: Headers) -> DeflateParams | None:
        answers = parse_extensions(headers.get("Sec-WebSocket-Extensions") or "")
        if answers is None or len(answers) != 1 or self._config.compression is None:
            return None
        return client_accept(self._config.compression, answers[0])

    def _check(self, headers: Headers) -> str | None:
        """Return what is wrong with a 101 (RFC 6455, section 4.1), or None."""
        if (headers.get("Upgrade") or "").lower() != "websocket":
            return "Upgrade is not websocket"
        if "upgrade" not in [token.lower() for token in headers.tokens("Connection")]:
            return "Connection does not name Upgrade"
        if headers.get("Sec-WebSocket-Accept") != accept_key(self._key):
            return "Sec-WebSocket-Accept does not answer our key"
        subprotocol = headers.get("Sec-WebSocket-Protocol")
        if subprotocol is not None and subprotocol not in self._subprotocols:
            return f"it chose the subprotocol {subprotocol!r}, which was not offered"
        return None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""

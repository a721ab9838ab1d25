"""The rules of the upgrade: what asks for a WebSocket, what answers, and how each side judges the other.

asked = ask(parse_uri("ws://example.org/"), config, key)                    # the client
checked = check_upgrade("GET", asked.target, "1.1", asked.headers)          # the server, which could refuse
agreement = agree(checked, config)
assert check_answer(asked, config, "1.1", agreement.headers) == agreement   # the client

Functions of what was said (RFC 6455, section 4): HTTP on the wire is for `ClientHandshake` and `ServerHandshake`,
or for another server.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.deflate import DeflateParams, client_accept, client_offer, server_accept
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.http import ExtensionOffer, Headers, HeadersLike, Response, is_token, parse_extensions
from wsconnkit.protocol.uri import URI

USER_AGENT = "wsconnkit"
"""What our requests say of themselves."""

_TARGET = re.compile(r'[!"\x24-~\x80-\xff]+')  # no spaces, no control characters, no fragment
_VERSION = re.compile(r"1\.[0-9]")
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]+)(?::[0-9]*)?")  # no user, and a host
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
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


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a server answers to an `UpgradeRequest`: the headers of its 101, and what they agree on."""

    headers: Headers
    subprotocol: str | None
    deflate: DeflateParams | None


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455, section 4.2.2)."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()


def check_subprotocols(subprotocols: Sequence[str]) -> tuple[str, ...]:
    """Return `subprotocols` as they are. Raises LocalProtocolError when they are no sequence of distinct tokens."""
    names: object = subprotocols
    if not isinstance(names, (list, tuple)) or not _are_distinct_tokens(names):
        raise LocalProtocolError(f"subprotocols is {subprotocols!r}; it must be a list of distinct tokens")
    return tuple(names)


def ask(
    uri: URI, config: ConnectionConfig, key: str, *, subprotocols: Sequence[str] = (), headers: HeadersLike = ()
) -> UpgradeRequest:
    """Return the request for a WebSocket at `uri`.

    key: 16 unpredictable bytes in base64.
    Raises LocalProtocolError for subprotocols or headers that a request cannot have.
    """
    subprotocols = check_subprotocols(subprotocols)
    extra = Headers(headers)
    _check_extra(extra)
    request = [
        *(("Host", host) for host in extra.get_all("Host") or [uri.host_header]),  # first (RFC 9110, section 7.2)
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", "13"),
    ]
    if "User-Agent" not in extra:
        request.append(("User-Agent", USER_AGENT))
    if uri.user is not None and "Authorization" not in extra:
        credentials = base64.b64encode(f"{uri.user}:{uri.password or ''}".encode()).decode()
        request.append(("Authorization", f"Basic {credentials}"))
    if subprotocols:
        request.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
    if config.compression is not None:
        request.append(("Sec-WebSocket-Extensions", client_offer(config.compression)))
    headers = Headers([*request, *extra.without("Host")])
    offers = parse_extensions(headers.get("Sec-WebSocket-Extensions") or "") or ()
    return UpgradeRequest(uri.resource, headers, key, subprotocols, tuple(offers))


def check_request(
    method: str, target: str, http_version: str, headers: Headers, *, path: str | None, http: bool
) -> UpgradeRequest | HTTPRequest | Response:
    """Return what an HTTP request asks for, or the response that refuses it.

    path: the only one that has a WebSocket, None for every path.
    http: whether requests that ask for no WebSocket are let through.
    """
    if any(host and not _AUTHORITY.fullmatch(host) for host in headers.get_all("Host")):
        return refusal(400, "Host is no host, with or without a port")
    authority, path_of_target = _split(target) or ("", None)
    if authority:  # it overrules Host (RFC 9112, section 3.2.2)
        headers = Headers([("Host", authority), *headers.without("Host")])
    if http_version == "1.0":  # where Upgrade has no meaning (RFC 9110, section 7.8)
        headers = headers.without("Upgrade")
    is_known = _VERSION.fullmatch(http_version) and method != "CONNECT" and path_of_target is not None
    if http and is_known and not _asks_for_websocket(headers):
        return HTTPRequest(method, target, headers)
    checked = check_upgrade(method, target, http_version, headers)
    return (check_path(checked, path) or checked) if isinstance(checked, UpgradeRequest) else checked


def check_path(request: UpgradeRequest, path: str | None) -> Response | None:
    """Return the response that refuses a request for another path than the one with a WebSocket; None is every path."""
    if path is None or request.path == path:
        return None
    return refusal(404, "there is no WebSocket at this path")


def check_upgrade(method: str, target: str, http_version: str, headers: Headers) -> UpgradeRequest | Response:
    """Return the request for a WebSocket that an HTTP request makes, or the response that refuses it.

    For servers that parse HTTP themselves; `ServerHandshake` does it for those that do not.
    """
    if method != "GET":
        return refusal(405, f"the method is {method}; a WebSocket opens with GET", {"Allow": "GET"})
    if _path_of(target) is None:
        return refusal(400, "the request target is no URI")
    if not _VERSION.fullmatch(http_version):
        return refusal(505, "a WebSocket needs HTTP/1.1")
    connection = [token.lower() for token in headers.tokens("Connection")]
    if not _can_switch(http_version) or "upgrade" not in connection or not _asks_for_websocket(headers):
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


def refusal(status: int, error: str, headers: HeadersLike = ()) -> Response:
    """Return the response that refuses an upgrade: a short JSON body that says why."""
    body = json.dumps({"error": error}).encode() + b"\n"
    return Response(status, Headers([("Content-Type", "application/json"), *Headers(headers)]), body)


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


def check_answer(
    request: UpgradeRequest, config: ConnectionConfig, http_version: str, headers: Headers
) -> Agreement | str:
    """Return what a server's 101 agrees to, or what is wrong with it (RFC 6455, section 4.1)."""
    if not _can_switch(http_version):
        return "it is not HTTP/1.1"
    if (headers.get("Upgrade") or "").lower() != "websocket":
        return "Upgrade is not websocket"
    if "upgrade" not in [token.lower() for token in headers.tokens("Connection")]:
        return "Connection does not name Upgrade"
    if headers.get("Sec-WebSocket-Accept") != accept_key(request.key):
        return "Sec-WebSocket-Accept does not answer our key"
    subprotocol = headers.get("Sec-WebSocket-Protocol")
    if subprotocol is not None and subprotocol not in request.subprotocols:
        return f"it chose the subprotocol {subprotocol!r}, which was not offered"
    deflate = None
    if headers.tokens("Sec-WebSocket-Extensions"):
        answers = parse_extensions(headers.get("Sec-WebSocket-Extensions") or "")
        if answers is not None and len(answers) == 1 and config.compression is not None:
            deflate = client_accept(config.compression, answers[0])
        if deflate is None:
            return "Sec-WebSocket-Extensions is not an answer to what was offered"
    return Agreement(headers, subprotocol, deflate)


def _asks_for_websocket(headers: Headers) -> bool:
    return "websocket" in [token.lower() for token in headers.tokens("Upgrade")]


def _can_switch(http_version: str) -> bool:
    # What comes after 1.1 is taken for it (RFC 9110, section 6.2).
    return http_version != "1.0" and _VERSION.fullmatch(http_version) is not None


def _path_of(target: str) -> str | None:
    """Return the path of a request target, None where it is malformed."""
    parts = _split(target)
    return None if parts is None else parts[1]


def _split(target: str) -> tuple[str, str] | None:
    """Return the authority, where a request target has one, and the path; None where it is malformed."""
    if not _TARGET.fullmatch(target):
        return None
    if target.startswith("/"):
        return "", target.partition("?")[0]
    try:
        parts = urlsplit(target)  # the absolute form (RFC 9112, section 3.2.2)
    except ValueError:
        return None
    is_uri = parts.scheme in ("http", "https", "ws", "wss") and _AUTHORITY.fullmatch(parts.netloc)
    return (parts.netloc, parts.path or "/") if is_uri else None


def _are_distinct_tokens(names: Sequence[object]) -> bool:
    return all(isinstance(name, str) and is_token(name) for name in names) and len(set(names)) == len(names)


def _is_nonce(key: str) -> bool:
    try:
        return len(base64.b64decode(key.encode(), validate=True)) == 16
    except ValueError:
        return False


def _check_extra(headers: Headers) -> None:
    for name, _ in headers:
        if name.lower() in _RESERVED:
            raise LocalProtocolError(f"the header {name!r} belongs to the handshake; it cannot be given")

from __future__ import annotations

import base64
import contextlib
import json
import re
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.connection import Connection, Transport
from wsconnkit.protocol.deflate import CompressionConfig, DeflateParams
from wsconnkit.protocol.errors import HandshakeInterrupted, InvalidHandshake, InvalidStatus, LocalProtocolError
from wsconnkit.protocol.events import Message
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.http import ExtensionOffer, Headers, HeadersLike, Response
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.protocol.upgrade import UpgradeRequest, accept_key, agree, check_subprotocols, check_upgrade, refusal
from wsconnkit.protocol.uri import parse_uri

# The example of RFC 6455, sections 1.3 and 4.2.2.
NONCE = b"the sample nonce"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

PLAIN = ConnectionConfig(compression=None)
SMALL = replace(PLAIN, handshake=HandshakeLimits(max_line=100, max_headers=8, max_head=400, max_body=10))
MASK = b"\x01\x02\x03\x04"


def request(*headers: str, line: str = "GET /ws HTTP/1.1", without: str = "") -> bytes:
    """Return a request; `headers` replace those of the same name."""
    names = {header.partition(":")[0].lower() for header in headers} | {without.lower()}
    usual = [
        "Host: example.org",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
    ]
    lines = [line, *(header for header in usual if header.partition(":")[0].lower() not in names), *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def response(*headers: str, line: str = "HTTP/1.1 101 Switching Protocols", without: str = "") -> bytes:
    """Return the server's answer to a client that uses NONCE; `headers` replace those of the same name."""
    names = {header.partition(":")[0].lower() for header in headers} | {without.lower()}
    usual = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {ACCEPT}"]
    lines = [line, *(header for header in usual if header.partition(":")[0].lower() not in names), *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def head_of(size: int) -> bytes:
    """Return a valid request whose head takes exactly `size` bytes, with no header that is long for it."""
    room = size - len(request("X-A: ", "X-B: ", "X-C: "))
    values = ["a" * (room // 3), "b" * (room // 3), "c" * (room - room // 3 * 2)]
    head = request(*(f"X-{value[0].upper()}: {value}" for value in values))
    assert len(head) == size
    return head


class Raw(NamedTuple):
    """A response as a client would take it apart."""

    status: int
    phrase: str
    headers: Headers
    body: bytes


def take_apart(data: bytes) -> Raw:
    head, _, body = data.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    version, status, phrase = line.split(" ", 2)
    assert version == "HTTP/1.1"
    pairs = [item.partition(": ")[::2] for item in lines]
    return Raw(int(status), phrase, Headers((name, value) for name, value in pairs), body)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def serve(
    data: bytes,
    config: ConnectionConfig = PLAIN,
    *,
    path: str | None = None,
    subprotocols: Sequence[str] = (),
    chunk: int | None = None,
) -> ServerHandshake:
    handshake = ServerHandshake(config, now=0.0, path=path, subprotocols=subprotocols)
    for piece in pieces(data, chunk or max(len(data), 1)):
        handshake.receive_data(piece, 0.0)
    return handshake


def connect(
    config: ConnectionConfig = PLAIN,
    *,
    uri: str = "ws://example.org/ws",
    subprotocols: Sequence[str] = (),
    headers: HeadersLike = (),
) -> ClientHandshake:
    return ClientHandshake(
        parse_uri(uri),
        config,
        now=0.0,
        subprotocols=subprotocols,
        headers=headers,
        random_bytes=lambda size: NONCE[:size],
    )


def expire(handshake: ServerHandshake | ClientHandshake) -> float:
    """Let virtual time pass until the next deadline, and until the verdict that follows it; return the deadline."""
    deadline = handshake.next_timeout()
    assert deadline is not None
    handshake.handle_timeout(deadline)
    verdict = handshake.next_timeout()
    assert verdict is not None
    assert verdict > deadline
    handshake.handle_timeout(verdict)
    return deadline


def messages(connection: Connection) -> list[str | bytes]:
    return [event.data for event in connection.events() if isinstance(event, Message)]


def text_frame(text: str, *, masked: bool) -> bytes:
    return encode_frame(Opcode.TEXT, text.encode(), mask=MASK if masked else None)


# The pieces.


def test_accept_key_of_the_rfc() -> None:
    assert accept_key(KEY) == ACCEPT


def test_a_refusal_is_json_that_says_why() -> None:
    made = refusal(403, 'the "Origin" is not welcome', {"X-A": "1"})
    assert made.status == 403
    assert json.loads(made.body) == {"error": 'the "Origin" is not welcome'}
    assert list(made.headers) == [("Content-Type", "application/json"), ("X-A", "1")]


def upgrade_headers(**changes: str) -> Headers:
    headers = {
        "Connection": "keep-alive, Upgrade",
        "Upgrade": "WebSocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
    }
    return Headers({**headers, **{name.replace("_", "-"): value for name, value in changes.items()}})


def test_check_upgrade_works_for_servers_that_parse_http_themselves() -> None:
    checked = check_upgrade(
        "GET",
        "/ws?a=b",
        "1.1",
        upgrade_headers(Sec_WebSocket_Protocol="a, b", Sec_WebSocket_Extensions="x; y=1, z"),
    )
    assert isinstance(checked, UpgradeRequest)
    assert (checked.target, checked.path, checked.key) == ("/ws?a=b", "/ws", KEY)
    assert checked.subprotocols == ("a", "b")
    assert checked.extensions == (ExtensionOffer("x", (("y", "1"),)), ExtensionOffer("z"))


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("1.1", None),
        # An Upgrade is HTTP/1.1's: HTTP/2 has no such header (RFC 9113, section 8.2.2).
        *((version, 505) for version in ("1.0", "0.9", "1", "1.2", "1.10", "1.1 ", "HTTP/1.1", "2", "2.0", "3", "")),
    ],
)
def test_check_upgrade_needs_http_1_1(version: str, status: int | None) -> None:
    checked = check_upgrade("GET", "/", version, upgrade_headers())
    assert (checked.status if isinstance(checked, Response) else None) == status


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/a/b?c/d", "/a/b"),
        ("//a//b", "//a//b"),
        ("/%61?x", "/%61"),
        ("/a;b", "/a;b"),
        # The absolute form, which a server must accept (RFC 9112, section 3.2.2).
        ("http://example.org/a?b", "/a"),
        ("ws://example.org:8080/a/b", "/a/b"),
        ("http://example.org", "/"),
        ("http://example.org?x", "/"),
        ("http://example.org:port/a", "/a"),
        ("HTTP://example.org/a", "/a"),
        ("https://example.org/a?b", "/a"),
        ("wss://example.org?x", "/"),
        ("WSS://alice@example.org/a//b", "/a//b"),
    ],
)
def test_path_is_the_target_without_query_and_authority(target: str, path: str) -> None:
    assert UpgradeRequest(target, Headers(), KEY, (), ()).path == path


NO_URIS = [
    "http://[",
    "http://[::1/ws",
    "http://]/ws",
    "*",  # the asterisk form is for OPTIONS (RFC 9112, section 3.2.4)
    "ws",
    "?x",
    "./ws",
    "example.org/ws",
    "example.org:80",  # the authority form is for CONNECT (RFC 9112, section 3.2.3)
    "ftp://example.org/ws",
    "file:///ws",
    "httpx://example.org/ws",
    "://example.org/ws",
    "http:",
    "http:/ws",
    "http:///ws",
    "ws:ws",
    # A fragment is never sent (RFC 9112, section 3.2; RFC 6455, section 3).
    "/#",
    "/ws#a",
    "/ws?a#b",
    "#/ws",
    "http://example.org/ws#",
    "ws://example.org#/ws",
]


@pytest.mark.parametrize("target", [*NO_URIS, "http://\N{ACCOUNT OF}/ws", ""])
def test_no_target_is_too_strange_to_have_a_path(target: str) -> None:
    assert UpgradeRequest(target, Headers(), KEY, (), ()).path == "/"


def test_a_target_on_which_versions_of_python_differ_has_a_path_too() -> None:
    assert UpgradeRequest("http://[x]/ws", Headers(), KEY, (), ()).path in ("/", "/ws")


@pytest.mark.parametrize("target", [*NO_URIS, "http://\N{ACCOUNT OF}/ws", ""])
def test_check_upgrade_refuses_a_target_that_is_no_uri(target: str) -> None:
    checked = check_upgrade("GET", target, "1.1", upgrade_headers())
    assert isinstance(checked, Response)
    assert (checked.status, json.loads(checked.body)) == (400, {"error": "the request target is no URI"})
    # Not even a client that could not open a WebSocket anyway is told to try again with another version.
    checked = check_upgrade("GET", target, "1.0", Headers())
    assert isinstance(checked, Response)
    assert checked.status == 400


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [
        ((), (), None),
        (("a",), (), None),
        ((), ("a",), None),
        (("a", "b"), ("b", "a"), "a"),
        (("a", "b"), ("c", "b"), "b"),
        (("A",), ("a",), None),
    ],
)
def test_agree_chooses_the_subprotocol_that_we_prefer(
    ours: tuple[str, ...], theirs: tuple[str, ...], chosen: str | None
) -> None:
    asked = UpgradeRequest("/", Headers(), KEY, theirs, ())
    agreement = agree(asked, PLAIN, subprotocols=ours, headers={"X-A": "1"})
    assert agreement.subprotocol == chosen
    assert agreement.headers.get("Sec-WebSocket-Protocol") == chosen
    assert agreement.headers.get("Sec-WebSocket-Accept") == ACCEPT
    assert agreement.headers.get("X-A") == "1"
    assert agreement.deflate is None


def test_agree_compresses_only_where_both_want_to() -> None:
    offer = ExtensionOffer("permessage-deflate")
    asked = UpgradeRequest("/", Headers(), KEY, (), (offer,))
    agreement = agree(asked, ConnectionConfig())
    assert agreement.deflate == DeflateParams(True, True, 15, 15)
    answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    assert agreement.headers.get_all("Sec-WebSocket-Extensions") == [answer]
    # A window that the client names is in the answer, although the parameters alone do not need it.
    named = replace(asked, extensions=(ExtensionOffer(offer.name, (("server_max_window_bits", "15"),)),))
    agreement = agree(named, ConnectionConfig())
    assert agreement.deflate == DeflateParams(True, True, 15, 15)
    assert agreement.headers.get_all("Sec-WebSocket-Extensions") == [answer + "; server_max_window_bits=15"]
    for nothing in (agree(asked, PLAIN), agree(replace(asked, extensions=()), ConnectionConfig())):
        assert nothing.deflate is None
        assert "Sec-WebSocket-Extensions" not in nothing.headers


# The server accepts.


def test_server_answers_the_example_of_the_rfc() -> None:
    handshake = serve(request())
    assert handshake.request is not None
    assert handshake.data_to_send() == b""
    agreement = handshake.accept()
    assert handshake.agreement is agreement
    raw = take_apart(handshake.data_to_send())
    assert raw.status == 101
    assert list(raw.headers) == list(agreement.headers)
    assert raw.headers.get("Upgrade") == "websocket"
    assert raw.headers.get("Connection") == "Upgrade"
    assert raw.headers.get("Sec-WebSocket-Accept") == ACCEPT
    assert raw.body == b""
    assert (handshake.transport, handshake.next_timeout(), handshake.data_to_send()) == (Transport.OPEN, None, b"")


@pytest.mark.parametrize(
    "headers",
    [
        ["Connection: keep-alive, Upgrade"],
        ["Connection: keep-alive", "Connection: UPGRADE"],
        ["Connection: close, upgrade"],
        ["Connection: \xff, Upgrade"],  # bytes outside ASCII in a token we do not look for
        ["Upgrade: WebSocket"],
        ["Upgrade: h2c, websocket"],
        ["Content-Length: 0"],
        ["Expect: 100-continue"],
        ["X-Header: \xe9"],
        ["sec-websocket-key:  " + KEY + " "],
        ["Sec-WebSocket-Extensions: ,"],
        ["Sec-WebSocket-Extensions: unknown; a=b"],
        ["Sec-WebSocket-Protocol: "],
    ],
)
@pytest.mark.parametrize("chunk", [None, 1])
def test_server_takes_requests_that_look_unusual(headers: list[str], chunk: int | None) -> None:
    handshake = serve(request(*headers), ConnectionConfig(), chunk=chunk)
    assert handshake.response is None
    handshake.accept()
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, raw.headers.get("Sec-WebSocket-Accept")) == (101, ACCEPT)


def test_server_keeps_what_it_read_for_the_application() -> None:
    handshake = serve(
        request("Sec-WebSocket-Protocol: b, a", "Sec-WebSocket-Protocol: c", "X-A: \xe9", line="GET /a?b=c HTTP/1.1"),
        subprotocols=("a", "b"),
    )
    asked = handshake.request
    assert asked is not None
    assert (asked.target, asked.path, asked.subprotocols) == ("/a?b=c", "/a", ("b", "a", "c"))
    assert asked.headers.get("x-a") == "é"
    assert handshake.accept().subprotocol == "a"
    assert take_apart(handshake.data_to_send()).headers.get("Sec-WebSocket-Protocol") == "a"


@pytest.mark.parametrize("path", [None, "/ws"])
@pytest.mark.parametrize("target", ["/ws", "/ws?token=1", "http://example.org/ws", "ws://example.org:80/ws?token=1"])
def test_server_serves_its_path_in_every_form(target: str, path: str | None) -> None:
    assert serve(request(line=f"GET {target} HTTP/1.1"), path=path).request is not None


def test_server_without_a_path_serves_every_path() -> None:
    assert serve(request(line="GET /other HTTP/1.1")).request is not None


def test_headers_given_to_accept_go_into_the_response() -> None:
    handshake = serve(request())
    handshake.accept([("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    assert take_apart(handshake.data_to_send()).headers.get_all("Set-Cookie") == ["a=1", "b=2"]


# The server refuses.

VERSION = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
REFUSALS: dict[str, tuple[bytes, int, dict[str, str], str]] = {
    "post": (request(line="POST /ws HTTP/1.1"), 405, {"Allow": "GET"}, "the method is POST"),
    "head": (request(line="HEAD /ws HTTP/1.1"), 405, {"Allow": "GET"}, "the method is HEAD"),
    "connect": (request(line="CONNECT example.org:80 HTTP/1.1"), 405, {"Allow": "GET"}, "the method is CONNECT"),
    "http 1.0": (request(line="GET /ws HTTP/1.0"), 505, {}, "HTTP/1.1"),
    "http 1.2": (request(line="GET /ws HTTP/1.2"), 505, {}, "HTTP/1.1"),
    "http 2.0": (request(line="GET /ws HTTP/2.0"), 505, {}, "HTTP/1.1"),
    "asterisk": (request(line="GET * HTTP/1.1"), 400, {}, "the request target is no URI"),
    "fragment": (request(line="GET /ws#a HTTP/1.1"), 400, {}, "the request target is no URI"),
    "no upgrade": (request(without="Upgrade"), 426, VERSION, "this is a WebSocket endpoint"),
    "other upgrade": (request("Upgrade: h2c"), 426, VERSION, "this is a WebSocket endpoint"),
    "no connection": (request(without="Connection"), 426, VERSION, "this is a WebSocket endpoint"),
    "other connection": (request("Connection: keep-alive"), 426, VERSION, "this is a WebSocket endpoint"),
    "strange connection": (request("Connection: \xff\xfe"), 426, VERSION, "this is a WebSocket endpoint"),
    "no version": (request(without="Sec-WebSocket-Version"), 426, VERSION, "Sec-WebSocket-Version must be 13"),
    "old version": (request("Sec-WebSocket-Version: 8"), 426, VERSION, "Sec-WebSocket-Version must be 13"),
    "two versions": (request("Sec-WebSocket-Version: 13, 8"), 426, VERSION, "Sec-WebSocket-Version must be 13"),
    "body": (request("Content-Length: 5") + b"Hello", 400, {}, "has no body"),
    "chunked": (request("Transfer-Encoding: chunked") + b"0\r\n\r\n", 400, {}, "has no body"),
    "coding": (request("Transfer-Encoding: gzip"), 501, {}, "malformed request"),
    "bad length": (request("Content-Length: -1"), 400, {}, "malformed request"),
    "no key": (request(without="Sec-WebSocket-Key"), 400, {}, "Sec-WebSocket-Key must be 16 bytes"),
    "short key": (request("Sec-WebSocket-Key: Zm9v"), 400, {}, "Sec-WebSocket-Key must be 16 bytes"),
    "no base64": (request("Sec-WebSocket-Key: " + "*" * 24), 400, {}, "Sec-WebSocket-Key must be 16 bytes"),
    "padding": (request("Sec-WebSocket-Key: " + KEY[:-1]), 400, {}, "Sec-WebSocket-Key must be 16 bytes"),
    "strange key": (request("Sec-WebSocket-Key: \xe9" + KEY), 400, {}, "Sec-WebSocket-Key must be 16 bytes"),
    "two keys": (
        request(f"Sec-WebSocket-Key: {KEY}", f"Sec-WebSocket-Key: {KEY}"),
        400,
        {},
        "Sec-WebSocket-Key must be 16 bytes",
    ),
    "subprotocol": (request("Sec-WebSocket-Protocol: a b"), 400, {}, "must list distinct tokens"),
    "same subprotocols": (request("Sec-WebSocket-Protocol: a, b, a"), 400, {}, "must list distinct tokens"),
    "extensions": (request("Sec-WebSocket-Extensions: permessage-deflate; ;"), 400, {}, "Extensions is malformed"),
    "path": (request(line="GET /other HTTP/1.1"), 404, {}, "no WebSocket at this path"),
    "absolute path": (request(line="GET http://ws/other HTTP/1.1"), 404, {}, "no WebSocket at this path"),
    "no host": (request(without="Host"), 400, {}, "malformed request"),
    "two hosts": (request("Host: a", "Host: b"), 400, {}, "malformed request"),
    "request line": (b"GET /ws\r\nHost: a\r\n\r\n", 400, {}, "malformed request"),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, {}, "malformed request"),
    "header line": (request("no colon"), 400, {}, "malformed request"),
    "nul": (request("X-A: a\x00b"), 400, {}, "malformed request"),
    "long target": (request(line="GET /" + "a" * 100 + " HTTP/1.1"), 414, {}, "longer than 100 bytes"),
    "long header": (request("X-A: " + "a" * 98), 431, {}, "a header is longer than 100 bytes"),
    "many headers": (request(*(f"X-{n}: {n}" for n in range(4))), 431, {}, "more than 8 headers"),
    "long head": (head_of(401), 431, {}, "the head is longer than 400 bytes"),
}


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize("name", REFUSALS)
def test_server_refuses_with_a_complete_response(name: str, chunk: int | None) -> None:
    data, status, headers, error = REFUSALS[name]
    handshake = serve(data, SMALL, path="/ws", chunk=chunk)
    output = handshake.data_to_send()
    assert output == serve(data, SMALL, path="/ws").data_to_send()
    raw = take_apart(output)
    assert raw.status == status
    assert raw.headers.get("Connection") == "close"
    assert raw.headers.get("Content-Type") == "application/json"
    for key, value in headers.items():
        assert raw.headers.get(key) == value
    assert handshake.response is not None
    assert error in json.loads(handshake.response.body)["error"]
    assert raw.headers.get_all("Content-Length") == [str(len(handshake.response.body))]
    # An answer to HEAD says how long the body would be, and leaves it out (RFC 9110, section 9.3.2).
    assert raw.body == (b"" if data.startswith(b"HEAD") else handshake.response.body)
    assert (handshake.transport, handshake.request, handshake.agreement) == (Transport.SEND_EOF, None, None)


@pytest.mark.parametrize("path", [None, "/", "/ws"])
@pytest.mark.parametrize("target", NO_URIS)
def test_server_refuses_a_target_that_is_no_uri(target: str, path: str | None) -> None:
    handshake = serve(request(line=f"GET {target} HTTP/1.1"), path=path)
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, json.loads(raw.body)) == (400, {"error": "the request target is no URI"})
    assert (handshake.request, handshake.transport) == (None, Transport.SEND_EOF)


def test_an_answer_to_head_is_that_to_get_without_the_body() -> None:
    # "The server MUST NOT send content in the response" (RFC 9110, section 9.3.2): it would be read as the next.
    head = serve(request(line="HEAD /ws HTTP/1.1"))
    raw = take_apart(head.data_to_send())
    assert head.response is not None
    assert head.response.body
    assert (raw.status, raw.body) == (405, b"")
    assert raw.headers.get_all("Content-Length") == [str(len(head.response.body))]
    assert raw.headers.get("Content-Type") == "application/json"
    over = serve(request(line="HEAD /" + "a" * 100 + " HTTP/1.1"), SMALL)
    raw = take_apart(over.data_to_send())
    assert over.response is not None
    assert (raw.status, raw.body, raw.headers.get("Content-Length")) == (414, b"", str(len(over.response.body)))


@pytest.mark.parametrize("name", ["post", "http 1.0", "no upgrade", "body", "path", "tls", "long header"])
def test_after_a_refusal_nothing_more_is_read_or_accepted(name: str) -> None:
    handshake = serve(REFUSALS[name][0], SMALL, path="/ws")
    handshake.data_to_send()
    rejected = handshake.response
    handshake.receive_data(request(), 1.0)
    assert (handshake.response, handshake.request, handshake.data_to_send()) == (rejected, None, b"")
    with pytest.raises(LocalProtocolError, match="there is no request to answer"):
        handshake.accept()
    with pytest.raises(LocalProtocolError, match="there is no request to answer"):
        handshake.respond(Response(403))
    with pytest.raises(LocalProtocolError, match="no connection"):
        handshake.connection(1.0)
    assert handshake.data_to_send() == b""


def test_a_refused_client_that_goes_away_lets_the_transport_go() -> None:
    handshake = serve(request(line="POST /ws HTTP/1.1"))
    handshake.receive_eof(1.0)
    assert (handshake.transport, handshake.next_timeout()) == (Transport.ABORT, None)
    assert take_apart(handshake.data_to_send()).status == 405  # it may still be there to read it


def test_a_refused_client_that_stays_is_dropped_after_the_close_timeout() -> None:
    handshake = ServerHandshake(replace(PLAIN, close=CloseConfig(timeout=3.0)), now=0.0)
    handshake.receive_data(request(line="POST /ws HTTP/1.1"), 2.0)
    assert handshake.transport is Transport.SEND_EOF
    assert expire(handshake) == 5.0
    assert (handshake.transport, handshake.next_timeout()) == (Transport.ABORT, None)
    handshake.handle_timeout(100.0)
    assert (handshake.transport, handshake.next_timeout()) == (Transport.ABORT, None)


def test_a_clock_that_goes_back_does_not_shorten_the_close_timeout() -> None:
    handshake = ServerHandshake(PLAIN, now=100.0)
    handshake.receive_data(request(line="POST /ws HTTP/1.1"), 50.0)
    assert expire(handshake) == 105.0


# The application refuses.


@pytest.mark.parametrize("status", [403, 401, 503, 302, 499, 599])
def test_reject_sends_the_response_that_is_given(status: int) -> None:
    handshake = serve(request())
    handshake.respond(Response(status, Headers([("X-A", "1"), ("X-A", "2")]), b"because"))
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, raw.body, raw.headers.get_all("X-A")) == (status, b"because", ["1", "2"])
    assert raw.phrase == {403: "Forbidden", 401: "Unauthorized", 503: "Service Unavailable", 302: "Found"}.get(
        status, ""
    )
    assert (raw.headers.get("Content-Length"), raw.headers.get("Connection")) == ("7", "close")
    assert handshake.transport is Transport.SEND_EOF
    assert handshake.response is not None


def test_reject_needs_no_body() -> None:
    handshake = serve(request())
    handshake.respond(Response(403))
    raw = take_apart(handshake.data_to_send())
    assert (raw.headers.get("Content-Length"), raw.body) == ("0", b"")


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_is_sent_without_a_length(status: int) -> None:
    # "A server MUST NOT send a Content-Length header field in any response with a status code of [...] 204", and
    # that of a 304 would be that of another response (RFC 9110, section 8.6).
    handshake = serve(request())
    rejected = Response(status, Headers({"ETag": '"a"'}))
    handshake.respond(rejected)
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, raw.body, raw.headers.get("ETag"), raw.headers.get("Connection")) == (
        status,
        b"",
        '"a"',
        "close",
    )
    assert "Content-Length" not in raw.headers
    assert "Transfer-Encoding" not in raw.headers
    assert (handshake.response, handshake.transport) == (rejected, Transport.SEND_EOF)
    client = connect()
    client.receive_data(f"HTTP/1.1 {status} X\r\nConnection: close\r\n\r\n".encode(), 0.0)
    assert isinstance(client.error, InvalidStatus)  # without waiting for an end


@pytest.mark.parametrize(("name", "value"), [("Content-Length", "5"), ("Transfer-Encoding", "chunked")])
def test_a_204_with_a_length_is_not_sent(name: str, value: str) -> None:
    handshake = serve(request())
    with contextlib.suppress(LocalProtocolError):
        handshake.respond(Response(204, Headers({name: value})))
    assert name not in take_apart(handshake.data_to_send() or b"HTTP/1.1 0 \r\n\r\n").headers


BAD_HEADERS: dict[str, list[tuple[str, str]]] = {
    "line break in a value": [("X-A", "1\r\nX-Evil: 1")],
    "line feed in a value": [("X-A", "1\nX-Evil: 1")],
    "carriage return in a value": [("X-A", "1\rX-Evil: 1")],
    "body in a value": [("X-A", "1\r\n\r\n<html>")],
    "line break in a name": [("X-A\r\nX-Evil", "1")],
    "colon in a name": [("X-A:", "1")],
    "empty name": [("", "1")],
    "nul": [("X-A", "\x00")],
    "not latin": [("X-A", "\N{SNOWMAN}")],
    "name not latin": [("X-\N{SNOWMAN}", "1")],
}


def complaint(name: str) -> str:
    """Return a pattern for what is said of BAD_HEADERS[name]."""
    beyond = "headers hold characters beyond ISO 8859-1: "
    return {"not latin": f"^{beyond}X-A$", "name not latin": f"^{beyond}X-\N{SNOWMAN}$"}.get(
        name, "^headers are not valid HTTP: "
    )


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_headers_that_http_forbids_are_refused_by_accept_which_then_still_works(name: str) -> None:
    handshake = serve(request())
    with pytest.raises(LocalProtocolError, match=complaint(name)):
        handshake.accept(BAD_HEADERS[name])
    assert (handshake.agreement, handshake.data_to_send(), handshake.transport) == (None, b"", Transport.OPEN)
    handshake.accept()
    assert take_apart(handshake.data_to_send()).status == 101


RESERVED = [
    "Connection",
    "Upgrade",
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Protocol",
    "Content-Length",
    "Transfer-Encoding",
]


@pytest.mark.parametrize("name", RESERVED)
def test_headers_of_the_handshake_itself_are_refused_by_accept_which_then_still_works(name: str) -> None:
    handshake = serve(request("Sec-WebSocket-Protocol: a"), subprotocols=("a",))
    assert handshake.request is not None
    for written in (name, name.upper(), name.lower()):
        message = f"^the header '{written}' belongs to the handshake; it cannot be given$"
        with pytest.raises(LocalProtocolError, match=message):
            handshake.accept([("X-A", "1"), (written, "1")])
        with pytest.raises(LocalProtocolError, match=message):
            agree(handshake.request, PLAIN, headers={written: "1"})
    assert (handshake.agreement, handshake.data_to_send(), handshake.transport) == (None, b"", Transport.OPEN)
    handshake.accept()
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, raw.headers.get_all("Sec-WebSocket-Protocol")) == (101, ["a"])


@pytest.mark.parametrize("value", ["s3cret\n", "s3cret\r\n", " s3cret", "s3cret\N{SNOWMAN}"])
def test_no_header_value_in_an_error(value: str) -> None:
    # A token that was read from a file ends with a line break; it must not reach a log.
    headers = [("Authorization", value)]
    handshake = serve(request())
    errors = []
    for call in (
        lambda: connect(headers=headers),
        lambda: handshake.accept(headers),
        lambda: handshake.respond(Response(403, Headers(headers))),
    ):
        with pytest.raises(LocalProtocolError) as caught:
            call()
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or caught.value.__suppress_context__
        errors.append(str(caught.value))
    assert not [error for error in errors if "s3cret" in error]


def test_only_headers_that_cannot_be_sent_are_named_in_an_error() -> None:
    with pytest.raises(LocalProtocolError, match=r"^headers hold characters beyond ISO 8859-1: X-A, X-C$"):
        connect(headers=[("X-A", "\N{SNOWMAN}"), ("X-B", "\xe9"), ("X-C", "\N{SNOWMAN}"), ("X-D", "d")])


def test_headers_within_iso_8859_1_are_sent_as_such() -> None:
    assert b"X-A: caf\xe9\r\n" in connect(headers={"X-A": "caf\xe9"}).data_to_send()
    handshake = serve(request())
    handshake.accept({"X-A": "caf\xe9"})
    assert b"X-A: caf\xe9\r\n" in handshake.data_to_send()
    handshake = serve(request())
    handshake.respond(Response(403, Headers({"X-A": "caf\xe9"})))
    assert b"X-A: caf\xe9\r\n" in handshake.data_to_send()


BAD_RESPONSES = {
    **{name: Response(403, Headers(headers)) for name, headers in BAD_HEADERS.items()},
    "length": Response(403, Headers({"Content-Length": "1"}), b"Hello"),
    "switching": Response(101),
    "early": Response(100),
    "no status": Response(99),
    "large status": Response(1000),
    # These have no body by definition (RFC 9110, sections 15.3.5 and 15.4.5).
    "body with 204": Response(204, Headers(), b"Hello"),
    "body with 304": Response(304, Headers(), b"Hello"),
}


@pytest.mark.parametrize("name", BAD_RESPONSES)
def test_responses_that_http_forbids_are_refused_by_reject_and_accept_then_still_works(name: str) -> None:
    handshake = serve(request())
    response = BAD_RESPONSES[name]
    message = complaint(name)
    if name == "length":
        message = "^the header 'Content-Length' belongs to the handshake"
    elif not 200 <= response.status <= 999:
        message = f"^the status is {response.status}; it must be 200 to 999$"
    elif name.startswith("body with "):
        message = f"^a response with the status {response.status} has no body$"
    with pytest.raises(LocalProtocolError, match=message):
        handshake.respond(response)
    assert (handshake.response, handshake.data_to_send(), handshake.transport) == (None, b"", Transport.OPEN)
    handshake.accept()
    assert take_apart(handshake.data_to_send()).status == 101


def test_accept_and_reject_need_a_request() -> None:
    handshake = serve(request()[:-1])
    with pytest.raises(LocalProtocolError, match="there is no request to answer"):
        handshake.accept()
    with pytest.raises(LocalProtocolError, match="there is no request to answer"):
        handshake.respond(Response(403))
    with pytest.raises(LocalProtocolError, match="the handshake has not succeeded"):
        handshake.connection(0.0)
    handshake.receive_data(b"\n", 0.0)
    handshake.accept()


def answered(answer: Callable[[ServerHandshake], object]) -> ServerHandshake:
    """Return a handshake that has answered a request."""
    handshake = serve(request())
    assert handshake.is_pending
    answer(handshake)
    return handshake


def asked(data: bytes) -> ServerHandshake:
    """Return a handshake that takes other requests too, and has received one."""
    handshake = ServerHandshake(PLAIN, now=0.0, http=True)
    handshake.receive_data(data, 0.0)
    return handshake


@pytest.mark.parametrize(
    ("make", "is_pending"),
    [
        (lambda: serve(b""), False),
        (lambda: serve(request()[:-1]), False),
        (lambda: serve(request()), True),
        (lambda: serve(request(line="POST /ws HTTP/1.1")), False),
        (lambda: asked(request()), True),
        (lambda: asked(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), True),
        (lambda: asked(b"GET / HTTP/1.1\r\n\r\n"), False),
        (lambda: answered(ServerHandshake.accept), False),
        (lambda: answered(lambda handshake: handshake.respond(Response(403))), False),
        (lambda: answered(lambda handshake: handshake.receive_eof(0.0)), False),
        (lambda: answered(expire), False),
    ],
)
def test_an_answer_is_pending_from_the_end_of_a_valid_request_on_and_can_be_given_just_then(
    make: Callable[[], ServerHandshake], is_pending: bool
) -> None:
    handshake = make()
    assert handshake.is_pending is is_pending
    if is_pending:
        handshake.respond(Response(403))
        assert not handshake.is_pending
    else:
        with pytest.raises(LocalProtocolError, match="there is no request to answer"):
            handshake.respond(Response(403))


def test_accept_and_reject_work_once() -> None:
    handshake = serve(request())
    handshake.accept()
    output = handshake.data_to_send()
    with pytest.raises(LocalProtocolError):
        handshake.accept()
    with pytest.raises(LocalProtocolError):
        handshake.respond(Response(403))
    assert output
    assert handshake.data_to_send() == b""
    assert handshake.agreement is not None


# Limits.


@pytest.mark.parametrize("chunk", [None, 1])
def test_server_takes_what_is_exactly_at_its_limits(chunk: int | None) -> None:
    for data in (
        request(line="GET /" + "a" * 99 + " HTTP/1.1"),
        request("X-A: " + "a" * 97),
        request("X-A: 1", "X-B: 2", "X-C: 3"),
        head_of(400),
    ):
        assert serve(data, SMALL, chunk=chunk).request is not None


@pytest.mark.parametrize("extra", [1, 2, 100])
@pytest.mark.parametrize("chunk", [None, 1, 7, 399, 400, 401])
def test_a_head_over_the_limit_is_refused_however_it_arrives(extra: int, chunk: int | None) -> None:
    limits = replace(SMALL.handshake, max_line=400)
    handshake = serve(head_of(400 + extra), replace(SMALL, handshake=limits), chunk=chunk)
    assert take_apart(handshake.data_to_send()).status == 431


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        (1000, 0, 431),  # a head that is too long is never read further, so it comes first
        (1000, 20, 431),
        (101, 50, 431),
        (101, 4, 414),  # then the target, which comes before the headers
        (101, 0, 414),
        (100, 4, 431),
    ],
)
def test_a_head_over_several_limits_is_refused_alike_however_it_arrives(
    target: int, headers: int, status: int, chunk: int | None
) -> None:
    data = request(*(f"X-{n}: {n}" for n in range(headers)), line="GET /" + "a" * (target - 1) + " HTTP/1.1")
    handshake = serve(data, SMALL, chunk=chunk)
    assert take_apart(handshake.data_to_send()).status == status


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_a_long_head_that_goes_over_no_other_limit_is_refused(chunk: int | None) -> None:
    handshake = serve(head_of(401), replace(SMALL, handshake=HandshakeLimits(max_head=400)), chunk=chunk)
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, json.loads(raw.body)) == (431, {"error": "the head is longer than 400 bytes"})


@pytest.mark.parametrize("chunk", [None, 1, 1000])
def test_a_head_that_never_ends_is_refused_at_the_limit(chunk: int | None) -> None:
    handshake = serve(request()[:-2] + b"X-A: " + b"a" * 5000, SMALL, chunk=chunk)
    assert take_apart(handshake.data_to_send()).status == 431


def test_frames_behind_the_request_do_not_count_as_its_head() -> None:
    frames = text_frame("x" * 300, masked=True)
    handshake = serve(head_of(400) + frames, SMALL)
    handshake.accept()
    assert messages(handshake.connection(0.0)) == ["x" * 300]


TOO_EARLY = {"error": "too much was sent before the upgrade was accepted"}


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_early_data_is_forgiven_up_to_the_size_of_a_head(chunk: int | None) -> None:
    frames = text_frame("x" * (400 - 8), masked=True)  # a header of 8 bytes
    assert len(frames) == 400
    handshake = serve(request(), SMALL)
    for piece in pieces(frames, chunk or len(frames)):
        handshake.receive_data(piece, 0.0)
    assert handshake.response is None
    handshake.accept()
    assert messages(handshake.connection(0.0)) == ["x" * 392]


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_more_early_data_is_refused(chunk: int | None) -> None:
    # "The client MUST wait for a response from the server before sending any further data" (RFC 6455, section 4.1).
    handshake = serve(request(), SMALL)
    frames = text_frame("x" * (401 - 8), masked=True)
    for piece in pieces(frames, chunk or len(frames)):
        handshake.receive_data(piece, 2.0)
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, json.loads(raw.body)) == (400, TOO_EARLY)
    assert (handshake.transport, handshake.agreement) == (Transport.SEND_EOF, None)
    assert handshake.response is not None
    assert handshake.response.body == raw.body
    for call in (handshake.accept, lambda: handshake.respond(Response(403))):
        with pytest.raises(LocalProtocolError, match="there is no request to answer"):
            call()
    handshake.receive_data(b"x" * 1000, 2.0)
    assert handshake.data_to_send() == b""
    assert expire(handshake) == 2.0 + PLAIN.close.timeout
    assert handshake.transport is Transport.ABORT


def test_after_an_answer_nothing_is_too_early() -> None:
    handshake = serve(request(), SMALL)
    handshake.accept()
    frames = text_frame("x" * 1000, masked=True)
    for piece in pieces(frames, 300):
        handshake.receive_data(piece, 0.0)
    assert (handshake.response, handshake.transport) == (None, Transport.OPEN)
    assert messages(handshake.connection(0.0)) == ["x" * 1000]


def test_an_empty_read_is_no_verdict_on_what_came_before_it() -> None:
    handshake = serve(head_of(400) + text_frame("x" * 1000, masked=True), SMALL)
    verdict = handshake.response
    handshake.receive_data(b"", 0.0)
    assert handshake.response is verdict


def test_what_is_kept_for_the_connection_before_an_answer_is_bounded() -> None:
    # While the application makes up its mind, a client must not be able to fill our memory.
    handshake = serve(request())
    flood = bytes(64 * 1024)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(128):
            handshake.receive_data(flood, 0.0)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < 2 << 20
    assert json.loads(take_apart(handshake.data_to_send()).body) == TOO_EARLY


# Time and the end of the transport.


def test_a_client_that_never_finishes_its_request_is_told_so() -> None:
    handshake = ServerHandshake(replace(PLAIN, handshake=HandshakeLimits(timeout=4.0)), now=100.0)
    handshake.receive_data(request()[:-1], 103.0)
    assert expire(handshake) == 104.0
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, json.loads(raw.body)) == (408, {"error": "no complete request within 4 s"})
    assert raw.headers.get("Content-Length") == str(len(raw.body))
    assert raw.headers.get("Connection") == "close"
    assert handshake.transport is Transport.SEND_EOF
    expire(handshake)
    assert (handshake.transport, handshake.next_timeout()) == (Transport.ABORT, None)


def test_a_client_that_sends_nothing_is_dropped_without_a_word() -> None:
    handshake = ServerHandshake(PLAIN, now=0.0)
    assert expire(handshake) == 10.0
    assert (handshake.transport, handshake.data_to_send(), handshake.response) == (Transport.ABORT, b"", None)
    assert handshake.next_timeout() is None


def test_a_request_that_lies_in_the_socket_when_the_timer_fires_late_is_taken() -> None:
    handshake = ServerHandshake(PLAIN, now=0.0)
    handshake.handle_timeout(60.0)  # our process was blocked
    assert handshake.transport is Transport.OPEN
    handshake.receive_data(request(), 60.0)
    handshake.accept()
    handshake.handle_timeout(61.0)
    assert take_apart(handshake.data_to_send()).status == 101
    assert (handshake.transport, handshake.next_timeout()) == (Transport.OPEN, None)


def test_the_application_has_as_long_as_the_client_and_then_the_answer_is_503() -> None:
    handshake = ServerHandshake(PLAIN, now=0.0)
    handshake.receive_data(request()[:-1], 5.0)
    assert handshake.next_timeout() == 10.0
    handshake.handle_timeout(10.0)
    handshake.receive_data(request()[-1:], 10.005)  # before the verdict
    handshake.handle_timeout(20.0)
    assert (handshake.response, handshake.transport) == (None, Transport.OPEN)
    assert expire(handshake) == pytest.approx(20.005)
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, raw.headers.get("Retry-After")) == (503, "1")
    with pytest.raises(LocalProtocolError, match="no request to answer"):
        handshake.accept()


PLAIN_HTTP = b"GET /healthz?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        PLAIN_HTTP,
        b"HEAD /healthz HTTP/1.0\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_a_request_for_something_else_can_be_answered(data: bytes) -> None:
    handshake = ServerHandshake(PLAIN, now=0.0, path="/ws", http=True)
    handshake.receive_data(data, 0.0)
    assert handshake.request is None
    assert handshake.http_request is not None
    assert (handshake.http_request.method, handshake.http_request.path) == (data.split()[0].decode(), "/healthz")
    with pytest.raises(LocalProtocolError, match="no request to answer"):
        handshake.accept()
    handshake.respond(Response(200, Headers({"Content-Type": "text/plain"}), b"well\n"))
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, raw.body) == (200, b"" if data.startswith(b"HEAD") else b"well\n")
    assert (raw.headers.get("Content-Length"), raw.headers.get("Connection")) == ("5", "close")
    assert handshake.transport is Transport.SEND_EOF
    with pytest.raises(LocalProtocolError, match="no request to answer"):
        handshake.respond(Response(200))


def test_what_follows_a_request_for_something_else_is_its_body_and_not_kept() -> None:
    handshake = ServerHandshake(PLAIN, now=0.0, http=True)
    handshake.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", 0.0)
    tracemalloc.start()
    try:
        for _ in range(1000):
            handshake.receive_data(b"x" * 1000, 0.0)
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()
    assert handshake.is_pending
    handshake.respond(Response(200))
    assert take_apart(handshake.data_to_send()).status == 200


def test_without_being_asked_for_such_requests_are_refused() -> None:
    handshake = ServerHandshake(PLAIN, now=0.0)
    handshake.receive_data(PLAIN_HTTP, 0.0)
    assert handshake.http_request is None
    assert handshake.response is not None
    assert handshake.response.status == 426


def test_requests_show_neither_query_nor_headers() -> None:
    handshake = ServerHandshake(PLAIN, now=0.0)
    handshake.receive_data(request(line="GET /ws?token=secret HTTP/1.1"), 0.0)
    assert repr(handshake.request) == "<UpgradeRequest '/ws'>"
    other = ServerHandshake(PLAIN, now=0.0, http=True)
    other.receive_data(PLAIN_HTTP, 0.0)
    assert repr(other.http_request) == "<HTTPRequest GET '/healthz'>"


def test_an_application_that_refuses_late_gives_the_client_the_whole_close_timeout() -> None:
    handshake = serve(request())
    handshake.handle_timeout(60.0)
    handshake.respond(Response(403))
    assert expire(handshake) == 60.0 + PLAIN.close.timeout
    assert (handshake.transport, handshake.next_timeout()) == (Transport.ABORT, None)


def test_the_time_of_an_answer_may_come_with_it_and_never_goes_back() -> None:
    handshake = serve(request())
    handshake.respond(Response(403), 8.0)
    assert expire(handshake) == 8.0 + PLAIN.close.timeout
    backward = serve(request())
    backward.handle_timeout(8.0)
    backward.respond(Response(403), 3.0)
    assert expire(backward) == 8.0 + PLAIN.close.timeout


@pytest.mark.parametrize("make", [lambda: ServerHandshake(now=0.0), connect])
def test_early_and_backward_timers_change_nothing(make: Callable[[], ServerHandshake | ClientHandshake]) -> None:
    handshake = make()
    handshake.data_to_send()
    for now in (5.0, -1.0, 9.999):
        handshake.handle_timeout(now)
        assert (handshake.next_timeout(), handshake.transport) == (10.0, Transport.OPEN)
        assert handshake.data_to_send() == b""


@pytest.mark.parametrize("data", [b"", request()[:20], request()])
def test_the_end_of_the_transport_ends_the_handshake(data: bytes) -> None:
    handshake = serve(data)
    for _ in range(2):
        handshake.receive_eof(1.0)
        assert (handshake.transport, handshake.next_timeout()) == (Transport.ABORT, None)
    with pytest.raises(LocalProtocolError):
        handshake.accept()
    with pytest.raises(LocalProtocolError):
        handshake.respond(Response(403))
    assert handshake.data_to_send() == b""


def silent() -> ServerHandshake:
    handshake = ServerHandshake(PLAIN, now=0.0)
    expire(handshake)
    return handshake


def ended(data: bytes) -> ServerHandshake:
    handshake = serve(data)
    handshake.receive_eof(1.0)
    return handshake


@pytest.mark.parametrize(
    "make", [silent, lambda: ended(b""), lambda: ended(b"GET /ws"), lambda: ended(request()[:-2])], ids=range(4)
)
def test_an_aborted_handshake_stays_so_whatever_comes_late(make: Callable[[], ServerHandshake]) -> None:
    rest = request()[-2:]
    for late in (b"\r\n\r\n", rest, request(), request(line="POST / HTTP/1.1"), b"x" * 100_000, b""):
        handshake = make()
        handshake.receive_data(late, 20.0)
        handshake.receive_eof(20.0, ConnectionResetError(104, "Connection reset by peer"))
        for now in (20.0, 21.0, 40.0):
            handshake.handle_timeout(now)
        with pytest.raises(LocalProtocolError, match="there is no request to answer"):
            handshake.accept()
        assert (handshake.transport, handshake.next_timeout(), handshake.data_to_send()) == (
            Transport.ABORT,
            None,
            b"",
        )
        assert (handshake.request, handshake.response, handshake.agreement) == (None, None, None)


@pytest.mark.parametrize("make", [lambda: ServerHandshake(now=0.0), connect])
def test_an_empty_read_is_no_end_of_the_transport(make: Callable[[], ServerHandshake | ClientHandshake]) -> None:
    handshake = make()
    handshake.receive_data(b"", 0.0)
    assert handshake.transport is Transport.OPEN
    handshake.receive_data(request() if isinstance(handshake, ServerHandshake) else response(), 0.0)
    if isinstance(handshake, ServerHandshake):
        handshake.accept()
    assert handshake.agreement is not None


def test_empty_reads_at_any_time_change_nothing() -> None:
    server = ServerHandshake(PLAIN, now=0.0)
    client = connect()
    for handshake, data in ((server, request()), (client, response())):
        handshake.data_to_send()
        for piece in pieces(data, 10):
            handshake.receive_data(b"", 0.0)
            handshake.receive_data(piece, 0.0)
        handshake.receive_data(b"", 0.0)
        assert handshake.data_to_send() == b""
    server.accept()
    for handshake in (server, client):
        handshake.receive_data(b"", 0.0)
        assert handshake.transport is Transport.OPEN
        assert list(handshake.connection(0.0).events()) == []
    refused = connect()
    refused.receive_data(b"HTTP/1.1 403 Forbidden\r\n\r\nHello", 0.0)
    refused.receive_data(b"", 0.0)
    assert refused.error is None  # the body ends with the transport, not with an empty read


def test_a_client_that_sends_only_empty_reads_is_dropped_without_a_word() -> None:
    handshake = ServerHandshake(PLAIN, now=0.0)
    handshake.receive_data(b"", 1.0)
    assert expire(handshake) == 10.0
    assert (handshake.transport, handshake.data_to_send(), handshake.response) == (Transport.ABORT, b"", None)


# What comes behind the handshake.


@pytest.mark.parametrize("chunk", [None, 1, 13])
def test_frames_that_come_with_the_request_wait_for_the_connection(chunk: int | None) -> None:
    frames = text_frame("one", masked=True) + text_frame("two", masked=True)
    handshake = serve(request() + frames, chunk=chunk)
    handshake.accept()
    assert messages(handshake.connection(0.0)) == ["one", "two"]


def test_frames_that_come_before_and_after_the_answer_wait_for_the_connection() -> None:
    one, two, three = (text_frame(text, masked=True) for text in ("one", "two", "three"))
    handshake = serve(request() + one[:3])
    handshake.receive_data(one[3:] + two[:1], 0.0)
    handshake.accept()
    handshake.receive_data(two[1:] + three, 0.0)
    connection = handshake.connection(0.0)
    assert messages(connection) == ["one", "two", "three"]


@pytest.mark.parametrize("chunk", [None, 1, 13])
def test_frames_that_come_with_the_response_wait_for_the_connection(chunk: int | None) -> None:
    frames = text_frame("one", masked=False) + text_frame("two", masked=False)
    handshake = connect()
    data = response() + frames
    for piece in pieces(data, chunk or len(data)):
        handshake.receive_data(piece, 0.0)
    assert messages(handshake.connection(0.0)) == ["one", "two"]


def test_frames_that_come_after_the_response_wait_for_the_connection() -> None:
    # The adapter may read again before it has made the connection.
    one, two, three = (text_frame(text, masked=False) for text in ("one", "two", "three"))
    handshake = connect()
    handshake.receive_data(response() + one[:3], 0.0)
    assert handshake.agreement is not None
    handshake.receive_data(one[3:] + two[:1], 0.0)
    handshake.receive_data(two[1:], 0.0)
    handshake.receive_data(three, 0.0)
    assert (handshake.error, handshake.transport) == (None, Transport.OPEN)
    assert messages(handshake.connection(0.0)) == ["one", "two", "three"]


def test_frames_behind_the_response_do_not_count_as_its_head() -> None:
    handshake = connect(SMALL)
    handshake.receive_data(response() + text_frame("x" * 1000, masked=False), 0.0)
    assert handshake.error is None
    assert messages(handshake.connection(0.0)) == ["x" * 1000]


# Garbage.


def drive(handshake: ServerHandshake, chunks: list[bytes]) -> None:
    """Feed a server anything, and check that it either waits, has a request, or has refused in full."""
    for chunk in chunks:
        handshake.receive_data(chunk, 0.0)
    output = handshake.data_to_send()
    if handshake.response is not None:
        raw = take_apart(output)
        assert 400 <= raw.status < 600
        assert (raw.status, raw.headers.get("Content-Length")) == (
            handshake.response.status,
            str(len(handshake.response.body)),
        )
        assert handshake.transport is Transport.SEND_EOF
        assert handshake.request is None
    else:
        assert (output, handshake.transport) == (b"", Transport.OPEN)
    if handshake.request is not None:
        assert isinstance(handshake.request.path, str)
        handshake.accept()
        assert take_apart(handshake.data_to_send()).status == 101
        list(handshake.connection(0.0).events())


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(min_size=1, max_size=60), max_size=6))
def test_no_bytes_make_a_server_raise(chunks: list[bytes]) -> None:
    drive(ServerHandshake(SMALL, now=0.0, path="/ws"), chunks)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 250), st.integers(0, 4), st.binary(max_size=4)), min_size=1, max_size=4),
    st.integers(1, 300),
)
def test_no_mutation_of_a_request_makes_a_server_raise(edits: list[tuple[int, int, bytes]], chunk: int) -> None:
    data = request("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10", "Content-Length: 0")
    for at, drop, insert in edits:
        data = data[:at] + insert + data[at + drop :]
    config = replace(SMALL, compression=CompressionConfig())
    drive(ServerHandshake(config, now=0.0, path="/ws", subprotocols=("a",)), [*pieces(data, chunk)])


ODD_NAMES = ["Host", "Connection", "Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Content-Length"]
ODD_NAMES += ["Transfer-Encoding", "Expect", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "X"]
ODD_VALUES = [
    "",
    ",",
    "0",
    "1",
    "00",
    "13",
    "a",
    "a, a",
    "chunked",
    "100-continue",
    "websocket",
    "close",
    "Upgrade",
    KEY,
]
ODD_VALUES += ["permessage-deflate", 'permessage-deflate; a="', "\x7f", "\xff", "["]
ODD_TARGETS = ["/ws", "/ws?", "*", "http://a/ws", "http://[", "a:80", "/%", "http:", "//", "http://[::1]:x/ws"]
ODD_TARGETS += ["/ws#", "ftp://a/ws", "http:///ws"]


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "CONNECT", "OPTIONS", "get", "PRI"]),
    st.sampled_from(ODD_TARGETS),
    st.sampled_from(["1.1", "1.1", "1.0", "0.9", "2.0", "9.9"]),
    st.lists(st.tuples(st.sampled_from(ODD_NAMES), st.sampled_from(ODD_VALUES)), max_size=4),
    st.binary(max_size=10),
    st.integers(1, 300),
)
def test_no_combination_of_odd_parts_makes_a_server_raise(
    method: str, target: str, version: str, headers: list[tuple[str, str]], rest: bytes, chunk: int
) -> None:
    data = request(*(f"{name}: {value}" for name, value in headers), line=f"{method} {target} HTTP/{version}") + rest
    config = replace(SMALL, compression=CompressionConfig())
    drive(ServerHandshake(config, now=0.0, path="/ws", subprotocols=("a",)), [*pieces(data, chunk)])


# The client asks.


def test_client_sends_the_example_of_the_rfc_at_once() -> None:
    handshake = connect(uri="ws://example.org:8080/ws?a=b")
    assert handshake.data_to_send().decode() == (
        "GET /ws?a=b HTTP/1.1\r\n"
        "Host: example.org:8080\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {KEY}\r\n"
        "Sec-WebSocket-Version: 13\r\n"
        "\r\n"
    )
    assert handshake.data_to_send() == b""
    assert handshake.next_timeout() == 10.0


def sent_headers(handshake: ClientHandshake) -> Headers:
    pairs = [line.partition(": ")[::2] for line in handshake.data_to_send().decode().split("\r\n")[1:-2]]
    return Headers((name, value) for name, value in pairs)


def test_client_asks_for_subprotocols_and_compression() -> None:
    handshake = connect(ConnectionConfig(), subprotocols=("b", "a"))
    headers = sent_headers(handshake)
    assert headers.get("Sec-WebSocket-Protocol") == "b, a"
    offer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits"
    assert headers.get_all("Sec-WebSocket-Extensions") == [offer]


def test_client_shows_the_request_that_it_sends() -> None:
    handshake = connect(ConnectionConfig(), subprotocols=("b", "a"), headers={"X-A": "1"})
    assert list(handshake.request.headers) == list(sent_headers(handshake))
    assert (handshake.request.target, handshake.request.path, handshake.request.key) == ("/ws", "/ws", KEY)
    assert handshake.request.subprotocols == ("b", "a")
    assert [offer.name for offer in handshake.request.extensions] == ["permessage-deflate"]
    assert connect().request.extensions == ()


def test_client_sends_a_new_unpredictable_key_each_time() -> None:
    keys = {ClientHandshake(parse_uri("ws://a"), now=0.0).request.key for _ in range(10)}
    assert len(keys) == 10
    assert all(len(base64.b64decode(key)) == 16 for key in keys)


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [
        ("alice:s3cret@", b"alice:s3cret"),
        ("alice@", b"alice:"),
        ("al%C3%AFce:p%3Aw@", "alïce:p:w".encode()),
        (":x@", b":x"),
    ],
)
def test_client_sends_the_credentials_of_the_uri(userinfo: str, credentials: bytes) -> None:
    handshake = connect(uri=f"ws://{userinfo}example.org/")
    raw = handshake.data_to_send()
    assert b"Authorization: Basic " + base64.b64encode(credentials) + b"\r\n" in raw
    assert b"Host: example.org\r\n" in raw


def test_headers_given_to_a_client_are_sent_and_replace_host_and_authorization() -> None:
    given_headers = [("X-A", "1"), ("X-A", "2"), ("host", "other.example"), ("AUTHORIZATION", "Bearer token")]
    handshake = connect(uri="ws://alice:s3cret@example.org/", headers=given_headers)
    headers = sent_headers(handshake)
    assert headers.get_all("X-A") == ["1", "2"]
    assert headers.get_all("Host") == ["other.example"]
    assert headers.get_all("Authorization") == ["Bearer token"]


@pytest.mark.parametrize("name", RESERVED)
def test_headers_of_the_handshake_itself_cannot_be_given(name: str) -> None:
    for written in (name, name.upper(), name.lower()):
        message = f"^the header '{written}' belongs to the handshake; it cannot be given$"
        with pytest.raises(LocalProtocolError, match=message):
            connect(headers=[("X-A", "1"), (written, "1")])


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_headers_that_http_forbids_cannot_be_given(name: str) -> None:
    with pytest.raises(LocalProtocolError, match=complaint(name)):
        connect(headers=BAD_HEADERS[name])


@pytest.mark.parametrize(
    "subprotocols",
    [
        ("a\r\nX-Evil: 1",),
        ("a\x00",),
        ("a", "b c"),
        ("a, b",),
        ("a;b",),
        ("",),
        ("\xe9",),
        ("\N{SNOWMAN}",),
        ("a", "b", "a"),
        ["a", "a"],
        # A str is a sequence too, of subprotocols that nobody meant.
        "chat",
        "a",
        "",
    ],
)
def test_subprotocols_must_be_distinct_tokens(subprotocols: Sequence[str]) -> None:
    # A server of ours would refuse them (RFC 6455, section 4.1), and a line break would bring in a header.
    for call in (
        lambda: connect(subprotocols=subprotocols),
        lambda: ServerHandshake(PLAIN, now=0.0, subprotocols=subprotocols),
        lambda: check_subprotocols(subprotocols),
    ):
        with pytest.raises(LocalProtocolError) as caught:
            call()
        assert str(caught.value) == f"subprotocols is {subprotocols!r}; it must be a list of distinct tokens"


@pytest.mark.parametrize("subprotocols", [(), [], ("a",), ["b", "a"], ("a", "A"), ("v1.chat~!#$%&'*+-.^_`|",)])
def test_distinct_tokens_are_subprotocols_in_their_order(subprotocols: Sequence[str]) -> None:
    assert check_subprotocols(subprotocols) == tuple(subprotocols)
    assert connect(subprotocols=subprotocols).request.subprotocols == tuple(subprotocols)
    for name in subprotocols:
        assert serve(request(f"Sec-WebSocket-Protocol: {name}"), subprotocols=subprotocols).accept().subprotocol == name


def test_a_list_of_subprotocols_that_changes_later_changes_nothing() -> None:
    names = ["a"]
    server, client = serve(request("Sec-WebSocket-Protocol: b, a"), subprotocols=names), connect(subprotocols=names)
    names.insert(0, "b")
    assert server.accept().subprotocol == "a"
    client.receive_data(response("Sec-WebSocket-Protocol: b"), 0.0)
    assert "it chose the subprotocol 'b', which was not offered" in str(client.error)


def test_subprotocols_that_differ_only_in_case_are_distinct() -> None:
    assert sent_headers(connect(subprotocols=("a", "A"))).get("Sec-WebSocket-Protocol") == "a, A"


# The client is answered.


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize(
    "data",
    [
        response(),
        response("Upgrade: WebSocket", "Connection: keep-alive, UPGRADE"),
        response("X-A: \xe9", line="HTTP/1.1 101"),
        response("Sec-WebSocket-Extensions: "),
        b"HTTP/1.1 100 Continue\r\n\r\n" + response(),
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + response(),
    ],
)
def test_client_takes_a_101(data: bytes, chunk: int | None) -> None:
    handshake = connect(ConnectionConfig())
    for piece in pieces(data, chunk or len(data)):
        assert handshake.agreement is None
        handshake.receive_data(piece, 0.0)
    assert handshake.error is None
    assert handshake.agreement is not None
    assert (handshake.agreement.subprotocol, handshake.agreement.deflate) == (None, None)
    assert handshake.agreement.headers.get("Sec-WebSocket-Accept") == ACCEPT
    assert (handshake.transport, handshake.next_timeout()) == (Transport.OPEN, None)


def test_client_learns_what_was_agreed_on() -> None:
    handshake = connect(ConnectionConfig(), subprotocols=("a", "b"))
    answer = "permessage-deflate; server_no_context_takeover; server_max_window_bits=10"
    handshake.receive_data(response("Sec-WebSocket-Protocol: b", f"Sec-WebSocket-Extensions: {answer}"), 0.0)
    assert handshake.agreement is not None
    assert handshake.agreement.subprotocol == "b"
    assert handshake.agreement.deflate == DeflateParams(True, True, 10, 15)


DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (response(without="Upgrade"), "Upgrade is not websocket"),
        (response("Upgrade: h2c"), "Upgrade is not websocket"),
        (response("Upgrade: websocket, h2c"), "Upgrade is not websocket"),
        (response(without="Connection"), "Connection does not name Upgrade"),
        (response("Connection: keep-alive"), "Connection does not name Upgrade"),
        (response("Connection: \xff"), "Connection does not name Upgrade"),
        (response(without="Sec-WebSocket-Accept"), "Sec-WebSocket-Accept does not answer our key"),
        (response(f"Sec-WebSocket-Accept: {ACCEPT.lower()}"), "Sec-WebSocket-Accept does not answer our key"),
        (response(f"Sec-WebSocket-Accept: {KEY}"), "Sec-WebSocket-Accept does not answer our key"),
        (response("Sec-WebSocket-Protocol: c"), "it chose the subprotocol 'c', which was not offered"),
        (response("Sec-WebSocket-Protocol: a, b"), "it chose the subprotocol 'a, b', which was not offered"),
        (response("Sec-WebSocket-Protocol: A"), "it chose the subprotocol 'A', which was not offered"),
        (response("Sec-WebSocket-Extensions: unknown"), "Sec-WebSocket-Extensions is not an answer"),
        (response("Sec-WebSocket-Extensions: permessage-deflate"), "Sec-WebSocket-Extensions is not an answer"),
        (response(DEFLATE, DEFLATE), "Sec-WebSocket-Extensions is not an answer"),
        (response(DEFLATE + ", unknown"), "Sec-WebSocket-Extensions is not an answer"),
        (response(DEFLATE + "; ;"), "Sec-WebSocket-Extensions is not an answer"),
        *(
            (response(line=f"HTTP/{version} 101 Switching Protocols"), "it is not HTTP/1.1")
            for version in ("1.0", "0.9", "1.2", "2.0")
        ),
        # What a proxy answered that does not know what it switches to, whatever else it says.
        (response("Upgrade: h2c", line="HTTP/1.0 101 Switching Protocols"), "it is not HTTP/1.1"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + response(line="HTTP/1.0 101 Switching Protocols"), "it is not HTTP/1.1"),
        (b"HTTP/1.0 100 Continue\r\n\r\n" + response("Upgrade: h2c"), "Upgrade is not websocket"),
    ],
)
def test_client_refuses_a_101_that_breaks_the_protocol(data: bytes, message: str) -> None:
    handshake = connect(replace(SMALL, compression=CompressionConfig()), subprotocols=("a", "b"))
    handshake.data_to_send()
    handshake.receive_data(data, 0.0)
    assert type(handshake.error) is InvalidHandshake
    assert str(handshake.error).startswith("the server's response breaks the protocol: ")
    assert message in str(handshake.error)
    assert (handshake.agreement, handshake.transport, handshake.next_timeout()) == (None, Transport.ABORT, None)
    with pytest.raises(LocalProtocolError):
        handshake.connection(0.0)


BROKEN_LIMITS = [
    (["X-A: " + "a" * 98], "a header is longer than 100 bytes"),
    ([f"X-{n}: {n}" for n in range(9)], "there are more than 8 headers"),
    ([f"X-{n}: " + "a" * 95 for n in range(4)], "the head is longer than 400 bytes"),
]


def broken_limit(data: bytes, chunk: int | None = None) -> str:
    """Return what the client says of a response that goes over a limit."""
    handshake = connect(SMALL)
    for piece in pieces(data, chunk or len(data)):
        handshake.receive_data(piece, 0.0)
    assert isinstance(handshake.error, InvalidHandshake)
    assert not isinstance(handshake.error, InvalidStatus)
    assert (handshake.agreement, handshake.transport, handshake.next_timeout()) == (None, Transport.ABORT, None)
    with pytest.raises(LocalProtocolError):
        handshake.connection(0.0)
    return str(handshake.error)


@pytest.mark.parametrize(("headers", "message"), BROKEN_LIMITS)
@pytest.mark.parametrize(
    "line", ["HTTP/1.1 101 Switching Protocols", "HTTP/1.0 101 Switching Protocols", "HTTP/1.1 103 Early Hints"]
)
def test_the_limits_hold_for_a_101_and_for_what_comes_before_it(line: str, headers: list[str], message: str) -> None:
    # It breaks a limit of ours, and no protocol; even where it breaks that too.
    said = f"the server's response breaks a limit: {message}"
    alone = "\r\n".join([line, *headers, "", ""]).encode()
    assert broken_limit(alone) == broken_limit(alone + response()) == said
    if " 101 " in line:
        assert broken_limit(response(*headers, line=line)) == said
        assert broken_limit(response(*headers, line=line) + text_frame("x", masked=False)) == said


def hints(size: int) -> bytes:
    """Return an informational response that takes exactly `size` bytes."""
    head = b"HTTP/1.1 103 Early Hints\r\nX: %s\r\n\r\n"
    return head % (b"a" * (size - len(head % b"")))


FINAL = {
    "101": response(),
    "403": b"HTTP/1.1 403 Forbidden\r\nX-A: " + b"a" * 70 + b"\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("chunk", [None, 1, 7, 100])
@pytest.mark.parametrize("name", FINAL)
def test_informational_responses_count_towards_the_head(name: str, chunk: int | None) -> None:
    final = FINAL[name]
    room = 400 - len(final) - 3 * 60
    whole = hints(60) * 3 + hints(room) + final
    assert len(whole) == 400
    handshake = connect(SMALL)
    behind = b"Hello" if name == "403" else text_frame("x" * 500, masked=False)
    for piece in pieces(whole + behind, chunk or 1000):
        handshake.receive_data(piece, 0.0)
    if name == "403":
        assert isinstance(handshake.error, InvalidStatus)
        assert handshake.error.response.body == b"Hello"
    else:
        assert handshake.error is None
        assert messages(handshake.connection(0.0)) == ["x" * 500]
    longer = hints(60) * 3 + hints(room + 1) + final + behind
    assert broken_limit(longer, chunk) == "the server's response breaks a limit: the head is longer than 400 bytes"


@pytest.mark.parametrize("chunk", [1, 7, 60, 61, 1000])
def test_a_server_that_only_ever_sends_informational_responses_is_left_at_the_limit(chunk: int) -> None:
    handshake = connect(SMALL)
    taken = 0
    for piece in pieces(hints(60) * 100, chunk):
        handshake.receive_data(piece, 0.0)
        taken += len(piece)
        if handshake.error is not None:
            break
    assert str(handshake.error) == "the server's response breaks a limit: the head is longer than 400 bytes"
    assert 400 < taken <= max(420 + chunk, 2 * chunk)  # the seventh of them ends at 420
    assert handshake.transport is Transport.ABORT


def test_client_refuses_what_it_did_not_ask_for_at_all() -> None:
    for header in (DEFLATE, "Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: "):
        handshake = connect()
        handshake.receive_data(response(header), 0.0)
        assert isinstance(handshake.error, InvalidHandshake)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 1O1 Switching\r\n\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 500,
    ],
)
@pytest.mark.parametrize("chunk", [None, 1])
def test_client_refuses_what_is_no_http(data: bytes, chunk: int | None) -> None:
    handshake = connect(SMALL)
    for piece in pieces(data, chunk or len(data)):
        handshake.receive_data(piece, 0.0)
    assert isinstance(handshake.error, InvalidHandshake)
    assert "the server's response is malformed" in str(handshake.error)
    assert handshake.transport is Transport.ABORT


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize(
    ("data", "eof", "body"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nHello", False, b"Hello"),
        (b"HTTP/1.1 403 Forbidden\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n", False, b""),
        (
            b"HTTP/1.1 403 F\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nHe\r\n3\r\nllo\r\n0\r\n\r\n",
            False,
            b"Hello",
        ),
        (b"HTTP/1.1 403 Forbidden\r\nX-A: 1\r\n\r\nHello", True, b"Hello"),
        (b"HTTP/1.0 403 Forbidden\r\nX-A: 1\r\n\r\n", True, b""),
        # Bodies cut short.
        (b"HTTP/1.1 403 Forbidden\r\nX-A: 1\r\nContent-Length: 9\r\n\r\nHello", True, b"Hello"),
        (b"HTTP/1.1 403 F\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nHello", True, b"Hello"),
        (b"HTTP/1.1 403 F\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHello\r\n0\r\n", True, b"Hello"),
        (b"HTTP/1.1 403 Forbidden\r\nX-A: 1\r\nContent-Length: 9\r\n\r\n", True, b""),
        (b"HTTP/1.1 403 F\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHello\r\nx\r\n", False, b"Hello"),
        # Bodies larger than max_body.
        (b"HTTP/1.1 403 Forbidden\r\nX-A: 1\r\nContent-Length: 99\r\n\r\nHello World", False, b"Hello Worl"),
        (b"HTTP/1.1 403 Forbidden\r\nX-A: 1\r\n\r\nHello World", False, b"Hello Worl"),
        (b"HTTP/1.1 403 Forbidden\r\nX-A: 1\r\nContent-Length: 99\r\n\r\nHello Worl", False, b"Hello Worl"),
        (b"HTTP/1.1 403 Forbidden\r\nX-A: 1\r\nContent-Length: 10\r\n\r\nHello Worl", False, b"Hello Worl"),
        # An earlier interim response changes nothing.
        (b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 403 F\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nHello", False, b"Hello"),
    ],
)
@pytest.mark.parametrize("end", ["eof", "reset", "timeout"])
def test_client_learns_how_it_was_refused(data: bytes, eof: bool, body: bytes, chunk: int | None, end: str) -> None:
    handshake = connect(SMALL)
    for piece in pieces(data, chunk or len(data)):
        handshake.receive_data(piece, 0.0)
    if eof:
        # However the body ends, what there is of it says more than its end.
        assert (handshake.error, handshake.transport) == (None, Transport.OPEN)
        if end == "eof":
            handshake.receive_eof(0.0)
        elif end == "reset":
            handshake.receive_eof(0.0, ConnectionResetError(104, "Connection reset by peer"))
        else:
            assert expire(handshake) == 10.0
    assert isinstance(handshake.error, InvalidStatus)
    refused = handshake.error.response
    assert (refused.status, refused.headers.get("x-a"), refused.body) == (403, "1", body)
    assert (handshake.transport, handshake.next_timeout()) == (Transport.ABORT, None)


@pytest.mark.parametrize("line", ["HTTP/1.1 403 Forbidden", "HTTP/1.1 200 OK", "HTTP/1.0 301 Moved"])
@pytest.mark.parametrize(("headers", "message"), BROKEN_LIMITS)
def test_the_limits_hold_for_other_responses_too(headers: list[str], message: str, line: str) -> None:
    data = "\r\n".join([line, *headers, "", "Hello"]).encode()
    handshake = connect(SMALL)
    handshake.receive_data(data, 0.0)
    assert isinstance(handshake.error, InvalidHandshake)
    assert not isinstance(handshake.error, InvalidStatus)
    assert str(handshake.error) == f"the server's response breaks a limit: {message}"
    assert (handshake.agreement, handshake.transport, handshake.next_timeout()) == (None, Transport.ABORT, None)
    first = handshake.error
    handshake.receive_data(b"more", 0.0)
    handshake.receive_eof(0.0)
    assert handshake.error is first
    in_pieces = connect(SMALL)
    for piece in pieces(data, 7):
        in_pieces.receive_data(piece, 0.0)
    assert isinstance(in_pieces.error, InvalidHandshake)
    assert not isinstance(in_pieces.error, InvalidStatus)


@pytest.mark.parametrize("chunk", [None, 1])
def test_a_refusal_exactly_at_the_limits_is_told_whole(chunk: int | None) -> None:
    start = "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n"
    most = [*(f"X-{n}: {n}" for n in range(6)), "X-A: " + "a" * 97]
    room = 400 - len(start + "X-A: \r\nX-B: \r\nX-C: \r\nX-D: \r\n\r\n")
    full = [f"X-{name}: " + "a" * size for name, size in zip("ABCD", (97, 97, 97, room - 291), strict=True)]
    for headers in (most, full):
        head = start + "\r\n".join([*headers, "", ""])
        data = head.encode() + b"Forbidden"
        handshake = connect(SMALL)
        for piece in pieces(data, chunk or len(data)):
            handshake.receive_data(piece, 0.0)
        assert isinstance(handshake.error, InvalidStatus)
        assert handshake.error.response.body == b"Forbidden"
    assert len(head) == 400


@pytest.mark.parametrize("status", [200, 204, 301, 304, 401, 407, 426, 500, 503])
def test_client_takes_every_other_status_for_a_refusal(status: int) -> None:
    handshake = connect()
    handshake.receive_data(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode(), 0.0)
    assert isinstance(handshake.error, InvalidStatus)
    assert handshake.error.response.status == status


def test_a_large_refusal_takes_no_more_memory_than_max_body() -> None:
    handshake = connect()
    handshake.receive_data(b"HTTP/1.1 403 Forbidden\r\n\r\n", 0.0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            handshake.receive_data(bytes(16 * 1024), 0.0)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert isinstance(handshake.error, InvalidStatus)
    assert len(handshake.error.response.body) == 64 * 1024
    assert held < 256 * 1024


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 101 Sw", b"HTTP/1.1 100 Continue\r\n\r\n", response()[:-1]])
def test_client_says_that_the_transport_ended_before_the_answer(data: bytes) -> None:
    handshake = connect()
    if data:
        handshake.receive_data(data, 0.0)
    handshake.receive_eof(1.0)
    assert isinstance(handshake.error, HandshakeInterrupted)
    assert str(handshake.error) == "the connection ended during the opening handshake: EOF"
    assert (handshake.transport, handshake.next_timeout()) == (Transport.ABORT, None)
    first = handshake.error
    handshake.receive_eof(2.0)
    assert handshake.error is first


def test_client_says_how_the_transport_broke() -> None:
    handshake = connect()
    handshake.receive_eof(1.0, ConnectionResetError(104, "Connection reset by peer"))
    assert isinstance(handshake.error, HandshakeInterrupted)
    assert str(handshake.error) == (
        "the connection ended during the opening handshake: [Errno 104] Connection reset by peer"
    )


def test_a_refusal_whose_transport_breaks_still_tells_the_status() -> None:
    # A server that refuses and closes with unread bytes in its socket causes a reset.
    handshake = connect()
    handshake.receive_data(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nHello", 0.0)
    handshake.receive_eof(1.0, ConnectionResetError(104, "Connection reset by peer"))
    assert isinstance(handshake.error, InvalidStatus)
    assert handshake.error.response.body == b"Hello"


def test_client_gives_up_on_a_server_that_is_too_slow() -> None:
    handshake = connect(replace(PLAIN, handshake=HandshakeLimits(timeout=4.0)))
    handshake.receive_data(response()[:-1], 3.0)
    assert expire(handshake) == 4.0
    assert isinstance(handshake.error, TimeoutError)
    assert str(handshake.error) == "no complete response within 4 s"
    assert (handshake.agreement, handshake.transport, handshake.next_timeout()) == (None, Transport.ABORT, None)


def test_after_a_failure_the_client_takes_nothing_more() -> None:
    handshake = connect()
    expire(handshake)
    error = handshake.error
    handshake.receive_data(response(), 20.0)
    handshake.receive_eof(20.0)
    handshake.handle_timeout(30.0)
    assert (handshake.error, handshake.agreement, handshake.transport) == (error, None, Transport.ABORT)


def test_after_success_time_and_the_transport_are_the_connections() -> None:
    handshake = connect()
    handshake.receive_data(response(), 0.0)
    handshake.handle_timeout(60.0)
    handshake.handle_timeout(61.0)
    handshake.receive_eof(62.0)
    assert handshake.error is None
    assert handshake.agreement is not None


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 150), st.integers(0, 4), st.binary(max_size=4)), max_size=4),
    st.integers(1, 200),
    st.booleans(),
)
def test_no_mutation_of_a_response_makes_a_client_raise(
    edits: list[tuple[int, int, bytes]], chunk: int, refused: bool
) -> None:
    data = (
        b"HTTP/1.1 403 F\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHello\r\n0\r\n\r\n" if refused else response(DEFLATE)
    )
    for at, drop, insert in edits:
        data = data[:at] + insert + data[at + drop :]
    handshake = connect(replace(SMALL, compression=CompressionConfig()))
    for piece in pieces(data, chunk):
        handshake.receive_data(piece, 0.0)
    handshake.receive_eof(0.0)
    assert (handshake.error is None) is (handshake.agreement is not None)
    assert (handshake.transport is Transport.ABORT) is (handshake.error is not None)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(min_size=1, max_size=60), max_size=6))
def test_no_bytes_make_a_client_raise(chunks: list[bytes]) -> None:
    handshake = connect(SMALL)
    for chunk in chunks:
        handshake.receive_data(chunk, 0.0)
    handshake.receive_eof(0.0)
    assert handshake.error is not None


# Both sides.

COMPRESSION = st.none() | st.builds(
    CompressionConfig,
    level=st.sampled_from([1, 6, 9]),
    memory_level=st.sampled_from([1, 8]),
    threshold=st.sampled_from([0, 100]),
    server_max_window_bits=st.integers(9, 15),
    client_max_window_bits=st.integers(9, 15),
    server_context_takeover=st.booleans(),
    client_context_takeover=st.booleans(),
)
SUBPROTOCOLS = st.lists(st.sampled_from(["a", "b", "c"]), unique=True).map(lambda names: (*names,))


@settings(deadline=None, max_examples=150)
@given(COMPRESSION, COMPRESSION, SUBPROTOCOLS, SUBPROTOCOLS, st.integers(1, 400), st.text(max_size=30))
def test_both_sides_agree_whatever_their_settings(
    client_compression: CompressionConfig | None,
    server_compression: CompressionConfig | None,
    client_subprotocols: tuple[str, ...],
    server_subprotocols: tuple[str, ...],
    chunk: int,
    text: str,
) -> None:
    client = connect(ConnectionConfig(compression=client_compression), subprotocols=client_subprotocols)
    server = serve(
        client.data_to_send(),
        ConnectionConfig(compression=server_compression),
        path="/ws",
        subprotocols=server_subprotocols,
        chunk=chunk,
    )
    theirs = server.accept({"X-A": "1"})
    for piece in pieces(server.data_to_send(), chunk):
        client.receive_data(piece, 0.0)
    ours = client.agreement
    assert ours is not None
    assert list(ours.headers) == list(theirs.headers)
    assert (ours.subprotocol, ours.deflate) == (theirs.subprotocol, theirs.deflate)
    assert ours.subprotocol == next((name for name in server_subprotocols if name in client_subprotocols), None)
    assert (ours.deflate is None) is (client_compression is None or server_compression is None)
    ends = client.connection(0.0), server.connection(0.0)
    sent: list[str | bytes] = [text, text * 20, text.encode() * 20, text * 20]
    for near, far in (ends, ends[::-1]):
        for message in sent:
            near.send(message, 0.0)
        for piece in pieces(near.data_to_send(), chunk):
            far.receive_data(piece, 0.0)
        assert messages(far) == sent


def test_a_refusal_of_ours_reaches_a_client_of_ours_whole() -> None:
    for name, (data, *_) in REFUSALS.items():
        server, client = serve(data, SMALL, path="/ws"), connect()
        output = server.data_to_send()
        if name == "head":
            continue  # its answer has no body, which a client that asked with GET would wait for
        client.receive_data(output, 0.0)
        assert isinstance(client.error, InvalidStatus)
        assert server.response is not None
        assert (client.error.response.status, client.error.response.body) == (
            server.response.status,
            server.response.body,
        )


def test_the_same_random_bytes_give_the_same_bytes_on_the_wire() -> None:
    def run() -> tuple[bytes, bytes]:
        count = 0

        def random_bytes(size: int) -> bytes:
            nonlocal count
            count += 1
            return bytes((count + at) % 256 for at in range(size))

        handshake = ClientHandshake(parse_uri("ws://example.org/"), PLAIN, now=0.0, random_bytes=random_bytes)
        first = handshake.data_to_send()
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", first)
        assert key is not None
        handshake.receive_data(response(f"Sec-WebSocket-Accept: {accept_key(key[1].decode())}"), 0.0)
        connection = handshake.connection(0.0, random_bytes=random_bytes)
        connection.send("Hello", 0.0)
        connection.ping(None, 0.0)
        return first, connection.data_to_send()

    first, second = run(), run()
    assert first == second
    # The mask is what the source gave after the key.
    assert encode_frame(Opcode.TEXT, b"Hello", mask=bytes((2, 3, 4, 5))) in first[1]


@pytest.mark.parametrize("target", ["ht\ntp://a/b", " http://a/b", "http://a/b\n", "/\x00", "/a b", "/a#b", "", "*"])
def test_check_upgrade_refuses_targets_that_no_request_has(target: str) -> None:
    checked = check_upgrade("GET", target, "1.1", Headers())
    assert isinstance(checked, Response)
    assert (checked.status, json.loads(checked.body)) == (400, {"error": "the request target is no URI"})


@pytest.mark.parametrize("subprotocols", [(5,), (None,), None, b"ab", {"a"}, "chat", ["a", "a"], ["a b"]])
def test_subprotocols_of_other_kinds_are_refused(subprotocols: Any) -> None:
    with pytest.raises(LocalProtocolError, match="it must be a list of distinct tokens"):
        check_subprotocols(subprotocols)
    upgrade = check_upgrade("GET", "/", "1.1", Headers(line for line in UPGRADE_HEADERS))
    assert isinstance(upgrade, UpgradeRequest)
    with pytest.raises(LocalProtocolError, match="it must be a list of distinct tokens"):
        agree(upgrade, ConnectionConfig(), subprotocols=subprotocols)


UPGRADE_HEADERS = [
    ("Host", "example.org"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
]

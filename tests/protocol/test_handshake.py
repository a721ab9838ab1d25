from __future__ import annotations

import base64
import json
import re
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.connection import Connection, Transport
from wsconnkit.protocol.deflate import CompressionConfig, DeflateParams
from wsconnkit.protocol.errors import InvalidHandshake, InvalidStatus, LocalProtocolError
from wsconnkit.protocol.events import Message
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.handshake import (
    ClientHandshake,
    HeadersLike,
    ServerHandshake,
    UpgradeRequest,
    accept_key,
    agree,
    check_upgrade,
    refusal,
)
from wsconnkit.protocol.http import ExtensionOffer, Headers, Response
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
    subprotocols: tuple[str, ...] = (),
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
    subprotocols: tuple[str, ...] = (),
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


@pytest.mark.parametrize(("version", "status"), [("1.0", 505), ("0.9", 505), ("1", 505), ("1.1", None), ("2", None)])
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
        ("*", "*"),
    ],
)
def test_path_is_the_target_without_query_and_authority(target: str, path: str) -> None:
    assert UpgradeRequest(target, Headers(), KEY, (), ()).path == path


@pytest.mark.parametrize("target", ["http://[", "http://[::1", "http://]/ws", "http://[x]/ws"])
def test_no_target_is_too_strange_to_have_a_path(target: str) -> None:
    assert isinstance(UpgradeRequest(target, Headers(), KEY, (), ()).path, str)


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
    assert agreement.headers.get("Sec-WebSocket-Extensions") == agreement.deflate.header()
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
    assert handshake.rejected is None
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
    assert handshake.rejected is not None
    assert error in json.loads(handshake.rejected.body)["error"]
    assert raw.headers.get_all("Content-Length") == [str(len(handshake.rejected.body))]
    # An answer to HEAD says how long the body would be, and leaves it out (RFC 9110, section 9.3.2).
    assert raw.body == (b"" if data.startswith(b"HEAD") else handshake.rejected.body)
    assert (handshake.transport, handshake.request, handshake.agreement) == (Transport.SEND_EOF, None, None)


@pytest.mark.parametrize("target", ["http://[", "http://[::1/ws", "http://]/ws"])
def test_server_refuses_a_target_that_is_no_uri(target: str) -> None:
    handshake = serve(request(line=f"GET {target} HTTP/1.1"), path="/ws")
    assert take_apart(handshake.data_to_send()).status in (400, 404)


@pytest.mark.parametrize("name", ["post", "http 1.0", "no upgrade", "body", "path", "tls", "long header"])
def test_after_a_refusal_nothing_more_is_read_or_accepted(name: str) -> None:
    handshake = serve(REFUSALS[name][0], SMALL, path="/ws")
    handshake.data_to_send()
    rejected = handshake.rejected
    handshake.receive_data(request(), 1.0)
    assert (handshake.rejected, handshake.request, handshake.data_to_send()) == (rejected, None, b"")
    with pytest.raises(LocalProtocolError, match="no request to accept"):
        handshake.accept()
    with pytest.raises(LocalProtocolError, match="no request to refuse"):
        handshake.reject(Response(403))
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
    handshake.reject(Response(status, Headers([("X-A", "1"), ("X-A", "2")]), b"because"))
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, raw.body, raw.headers.get_all("X-A")) == (status, b"because", ["1", "2"])
    assert raw.phrase == {403: "Forbidden", 401: "Unauthorized", 503: "Service Unavailable", 302: "Found"}.get(
        status, ""
    )
    assert (raw.headers.get("Content-Length"), raw.headers.get("Connection")) == ("7", "close")
    assert handshake.transport is Transport.SEND_EOF
    assert handshake.rejected is not None


def test_reject_needs_no_body() -> None:
    handshake = serve(request())
    handshake.reject(Response(403))
    raw = take_apart(handshake.data_to_send())
    assert (raw.headers.get("Content-Length"), raw.body) == ("0", b"")


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
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_headers_that_http_forbids_are_refused_by_accept_which_then_still_works(name: str) -> None:
    handshake = serve(request())
    with pytest.raises(LocalProtocolError, match="headers are not valid"):
        handshake.accept(BAD_HEADERS[name])
    assert (handshake.agreement, handshake.data_to_send(), handshake.transport) == (None, b"", Transport.OPEN)
    handshake.accept()
    assert take_apart(handshake.data_to_send()).status == 101


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
    with pytest.raises(LocalProtocolError, match="the response is not valid"):
        handshake.reject(BAD_RESPONSES[name])
    assert (handshake.rejected, handshake.data_to_send(), handshake.transport) == (None, b"", Transport.OPEN)
    handshake.accept()
    assert take_apart(handshake.data_to_send()).status == 101


def test_accept_and_reject_need_a_request() -> None:
    handshake = serve(request()[:-1])
    with pytest.raises(LocalProtocolError, match="no request to accept"):
        handshake.accept()
    with pytest.raises(LocalProtocolError, match="no request to refuse"):
        handshake.reject(Response(403))
    with pytest.raises(LocalProtocolError, match="the handshake has not succeeded"):
        handshake.connection(0.0)
    handshake.receive_data(b"\n", 0.0)
    handshake.accept()


def test_accept_and_reject_work_once() -> None:
    handshake = serve(request())
    handshake.accept()
    output = handshake.data_to_send()
    with pytest.raises(LocalProtocolError):
        handshake.accept()
    with pytest.raises(LocalProtocolError):
        handshake.reject(Response(403))
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
def test_a_target_over_every_limit_is_refused_alike_however_it_arrives(chunk: int | None) -> None:
    handshake = serve(request(line="GET /" + "a" * 1000 + " HTTP/1.1"), SMALL, chunk=chunk)
    assert take_apart(handshake.data_to_send()).status == 414


@pytest.mark.parametrize("chunk", [None, 1, 1000])
def test_a_head_that_never_ends_is_refused_at_the_limit(chunk: int | None) -> None:
    handshake = serve(request()[:-2] + b"X-A: " + b"a" * 5000, SMALL, chunk=chunk)
    assert take_apart(handshake.data_to_send()).status == 431


def test_frames_behind_the_request_do_not_count_as_its_head() -> None:
    frames = text_frame("x" * 1000, masked=True)
    handshake = serve(head_of(400) + frames, SMALL)
    handshake.accept()
    assert messages(handshake.connection(0.0)) == ["x" * 1000]


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
    assert (handshake.transport, handshake.data_to_send(), handshake.rejected) == (Transport.ABORT, b"", None)
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


def test_the_deadline_is_for_the_client_not_for_the_application() -> None:
    # The limit is "from the first wait to the last byte of the head", and the head is there.
    handshake = serve(request())
    handshake.handle_timeout(60.0)
    handshake.handle_timeout(61.0)
    assert handshake.rejected is None or handshake.rejected.status != 408


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
        handshake.reject(Response(403))
    assert handshake.data_to_send() == b""


def test_an_aborted_handshake_stays_so_whatever_comes_late() -> None:
    for late in (
        lambda handshake: [handshake.handle_timeout(now) for now in (20.0, 21.0)],
        lambda handshake: handshake.receive_data(b"\r\n\r\n", 20.0),
    ):
        handshake = serve(b"GET /ws")
        handshake.receive_eof(1.0)
        late(handshake)
        assert handshake.transport is Transport.ABORT


@pytest.mark.parametrize("make", [lambda: ServerHandshake(now=0.0), connect])
def test_an_empty_read_is_no_end_of_the_transport(make: Callable[[], ServerHandshake | ClientHandshake]) -> None:
    handshake = make()
    handshake.receive_data(b"", 0.0)
    assert handshake.transport is Transport.OPEN
    handshake.receive_data(request() if isinstance(handshake, ServerHandshake) else response(), 0.0)
    if isinstance(handshake, ServerHandshake):
        handshake.accept()
    assert handshake.agreement is not None


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


# Garbage.


def drive(handshake: ServerHandshake, chunks: list[bytes]) -> None:
    """Feed a server anything, and check that it either waits, has a request, or has refused in full."""
    for chunk in chunks:
        handshake.receive_data(chunk, 0.0)
    output = handshake.data_to_send()
    if handshake.rejected is not None:
        raw = take_apart(output)
        assert 400 <= raw.status < 600
        assert (raw.status, raw.headers.get("Content-Length")) == (
            handshake.rejected.status,
            str(len(handshake.rejected.body)),
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


@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "Upgrade",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Protocol",
        "Content-Length",
        "Transfer-Encoding",
    ],
)
def test_headers_of_the_handshake_itself_cannot_be_given(name: str) -> None:
    for written in (name, name.upper()):
        with pytest.raises(ValueError, match=f"the header {written!r} belongs to the handshake"):
            connect(headers={written: "1"})


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_headers_that_http_forbids_cannot_be_given(name: str) -> None:
    with pytest.raises(ValueError, match=r"not valid|ordinal not in range"):
        connect(headers=BAD_HEADERS[name])


@pytest.mark.parametrize("subprotocol", ["a\r\nX-Evil: 1", "a\x00"])
def test_a_subprotocol_cannot_bring_in_a_header(subprotocol: str) -> None:
    with pytest.raises(ValueError, match="not valid"):
        connect(subprotocols=(subprotocol,))


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
        (response("X-A: " + "a" * 98), "a header is longer than 100 bytes"),
        (response(*(f"X-{n}: {n}" for n in range(6))), "more than 8 headers"),
        (response(*(f"X-{n}: " + "a" * 95 for n in range(4))), "the head is longer than 400 bytes"),
    ],
)
def test_client_refuses_a_101_that_breaks_the_protocol(data: bytes, message: str) -> None:
    handshake = connect(replace(SMALL, compression=CompressionConfig()), subprotocols=("a", "b"))
    handshake.data_to_send()
    handshake.receive_data(data, 0.0)
    assert isinstance(handshake.error, InvalidHandshake)
    assert str(handshake.error).startswith("the server's response breaks the protocol: ")
    assert message in str(handshake.error)
    assert (handshake.agreement, handshake.transport, handshake.next_timeout()) == (None, Transport.ABORT, None)
    with pytest.raises(LocalProtocolError):
        handshake.connection(0.0)


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
def test_client_learns_how_it_was_refused(data: bytes, eof: bool, body: bytes, chunk: int | None) -> None:
    handshake = connect(SMALL)
    for piece in pieces(data, chunk or len(data)):
        handshake.receive_data(piece, 0.0)
    if eof:
        assert handshake.error is None
        handshake.receive_eof(0.0)
    assert isinstance(handshake.error, InvalidStatus)
    refused = handshake.error.response
    assert (refused.status, refused.headers.get("x-a"), refused.body) == (403, "1", body)
    assert (handshake.transport, handshake.next_timeout()) == (Transport.ABORT, None)


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
    assert isinstance(handshake.error, InvalidHandshake)
    assert not isinstance(handshake.error, InvalidStatus)
    assert "the connection ended during the opening handshake" in str(handshake.error)
    assert (handshake.transport, handshake.next_timeout()) == (Transport.ABORT, None)
    first = handshake.error
    handshake.receive_eof(2.0)
    assert handshake.error is first


def test_client_says_how_the_transport_broke() -> None:
    handshake = connect()
    handshake.receive_eof(1.0, ConnectionResetError(104, "Connection reset by peer"))
    assert isinstance(handshake.error, InvalidHandshake)
    assert "the connection ended during the opening handshake" in str(handshake.error)
    assert "Connection reset by peer" in str(handshake.error)


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
        assert server.rejected is not None
        assert (client.error.response.status, client.error.response.body) == (
            server.rejected.status,
            server.rejected.body,
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

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.errors import InvalidStatus, LocalProtocolError
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.protocol.transportaction import TransportAction

from .handshakes import (
    ACCEPT,
    BAD_HEADERS,
    KEY,
    NO_URIS,
    PLAIN,
    RESERVED,
    SMALL,
    complaint,
    connect,
    expire,
    head_of,
    messages,
    pieces,
    request,
    serve,
    take_apart,
    text_frame,
)

PLAIN_HTTP = b"GET /healthz?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"

# The server accepts.


def test_server_answers_the_example_of_the_rfc() -> None:
    handshake = serve(request())
    assert handshake.request is not None
    assert handshake.data_to_send() == b""
    agreement = handshake.accept()
    assert handshake.agreement is agreement
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, raw.phrase) == (101, "Switching Protocols")  # some clients take no status line without
    assert list(raw.headers) == list(agreement.headers)
    assert raw.headers.get("Upgrade") == "websocket"
    assert raw.headers.get("Connection") == "Upgrade"
    assert raw.headers.get("Sec-WebSocket-Accept") == ACCEPT
    assert raw.body == b""
    assert (handshake.transport_action, handshake.next_timeout(), handshake.data_to_send()) == (
        TransportAction.OPEN,
        None,
        b"",
    )


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


@pytest.mark.parametrize("before", [b"\r\n", b"\n", b"\r\n\r\n\n\r\n"])
@pytest.mark.parametrize("chunk", [None, 1])
def test_empty_lines_before_the_request_are_ignored(before: bytes, chunk: int | None) -> None:
    assert serve(before + request(), chunk=chunk).request is not None
    assert serve(before + b"\x00" + request(), chunk=chunk).response is not None


def test_empty_lines_alone_are_no_request_to_complain_of() -> None:
    handshake = serve(b"\r\n" * 1000, SMALL)
    assert (handshake.response, handshake.transport_action) == (None, TransportAction.OPEN)
    expire(handshake)
    assert (handshake.response, handshake.transport_action) == (None, TransportAction.ABORT)


@pytest.mark.parametrize("chunk", [None, 1])
def test_lines_may_end_without_a_carriage_return_and_be_folded(chunk: int | None) -> None:
    assert serve(request().replace(b"\r\n", b"\n"), chunk=chunk).request is not None
    asked = serve(request("X-A: a\r\n\t b"), chunk=chunk).request
    assert asked is not None
    assert asked.headers.get("X-A") == "a b"


def test_a_client_that_waits_for_a_word_before_it_goes_on_gets_it_before_the_switch() -> None:
    handshake = serve(request("Expect: 100-Continue"))
    agreement = handshake.accept()
    first, _, rest = handshake.data_to_send().partition(b"\r\n\r\n")
    assert first == b"HTTP/1.1 100 Continue"
    assert (take_apart(rest).status, list(take_apart(rest).headers)) == (101, list(agreement.headers))
    client = connect()
    client.receive_data(first + b"\r\n\r\n" + rest, 0.0)
    assert client.agreement is not None
    refused = serve(request("Expect: 100-continue"))
    refused.respond(Response(403))
    assert take_apart(refused.data_to_send()).status == 403  # a final word is one too


def test_headers_given_to_accept_go_into_the_response() -> None:
    handshake = serve(request())
    handshake.accept([("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    assert take_apart(handshake.data_to_send()).headers.get_all("Set-Cookie") == ["a=1", "b=2"]


# The server refuses.


VERSION = {"Connection": "close, Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
REFUSALS: dict[str, tuple[bytes, int, dict[str, str], str]] = {
    "post": (request(line="POST /ws HTTP/1.1"), 405, {"Allow": "GET"}, "the method is POST"),
    "head": (request(line="HEAD /ws HTTP/1.1"), 405, {"Allow": "GET"}, "the method is HEAD"),
    "connect": (request(line="CONNECT example.org:80 HTTP/1.1"), 405, {"Allow": "GET"}, "the method is CONNECT"),
    "http 1.0": (request(line="GET /ws HTTP/1.0"), 426, VERSION, "this is a WebSocket endpoint"),
    "http 2.0": (request(line="GET /ws HTTP/2.0"), 505, {}, "HTTP/1.1"),
    "strange host": (request("Host: a b"), 400, {}, "Host is no host"),
    "space behind a name": (request("X-A : 1"), 400, {}, "malformed request"),
    "space before the first header": (request(line="GET /ws HTTP/1.1\r\n X: 1"), 400, {}, "malformed request"),
    "two spaces": (request(line="GET  /ws HTTP/1.1"), 400, {}, "malformed request"),
    "bare carriage return": (request("X-A: a\rb"), 400, {}, "malformed request"),
    "two lengths": (request("Content-Length: 1", "Content-Length: 2"), 400, {}, "malformed request"),
    "target without an end": (b"GET /" + b"a" * 500, 414, {}, "malformed request"),
    "asterisk": (request(line="GET * HTTP/1.1"), 400, {}, "the request target is no URI"),
    "no upgrade": (request(without="Upgrade"), 426, VERSION, "this is a WebSocket endpoint"),
    "strange connection": (request("Connection: \xff\xfe"), 426, VERSION, "this is a WebSocket endpoint"),
    "body": (request("Content-Length: 5") + b"Hello", 400, {}, "has no body"),
    "chunked": (request("Transfer-Encoding: chunked") + b"0\r\n\r\n", 400, {}, "has no body"),
    "length and coding": (
        request("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        400,
        {},
        "has no body",
    ),
    "coding in http 1.0": (
        request("Transfer-Encoding: chunked", line="GET /ws HTTP/1.0") + b"0\r\n\r\n",
        426,
        VERSION,
        "this is a WebSocket endpoint",
    ),
    "coding": (request("Transfer-Encoding: gzip"), 501, {}, "malformed request"),
    "bad length": (request("Content-Length: -1"), 400, {}, "malformed request"),
    "no key": (request(without="Sec-WebSocket-Key"), 400, {}, "Sec-WebSocket-Key must be 16 bytes"),
    "strange key": (request("Sec-WebSocket-Key: \xe9" + KEY), 400, {}, "Sec-WebSocket-Key must be 16 bytes"),
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
    assert raw.headers.tokens("Connection")[0] == "close"
    assert raw.headers.get("Content-Type") == "application/json"
    for key, value in headers.items():
        assert (raw.headers.get(key) or "").lower() == value.lower()
    assert handshake.response is not None
    assert error in json.loads(handshake.response.body)["error"]
    assert raw.headers.get_all("Content-Length") == [str(len(handshake.response.body))]
    # An answer to HEAD says how long the body would be, and leaves it out (RFC 9110, section 9.3.2).
    assert raw.body == (b"" if data.startswith(b"HEAD") else handshake.response.body)
    assert (handshake.transport_action, handshake.request, handshake.agreement) == (
        TransportAction.SEND_EOF,
        None,
        None,
    )


@pytest.mark.parametrize("path", [None, "/", "/ws"])
@pytest.mark.parametrize("target", NO_URIS)
def test_server_refuses_a_target_that_is_no_uri(target: str, path: str | None) -> None:
    handshake = serve(request(line=f"GET {target} HTTP/1.1"), path=path)
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, json.loads(raw.body)) == (400, {"error": "the request target is no URI"})
    assert (handshake.request, handshake.transport_action) == (None, TransportAction.SEND_EOF)


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
    handshake.transport_lost(1.0)
    assert (handshake.transport_action, handshake.next_timeout()) == (TransportAction.ABORT, None)
    assert take_apart(handshake.data_to_send()).status == 405  # it may still be there to read it


def test_a_refused_client_that_stays_is_dropped_after_the_close_timeout() -> None:
    handshake = ServerHandshake(replace(PLAIN, close=CloseConfig(timeout=3.0)), now=0.0)
    handshake.receive_data(request(line="POST /ws HTTP/1.1"), 2.0)
    assert handshake.transport_action is TransportAction.SEND_EOF
    assert expire(handshake) == 5.0
    assert (handshake.transport_action, handshake.next_timeout()) == (TransportAction.ABORT, None)
    handshake.handle_timeout(100.0)
    assert (handshake.transport_action, handshake.next_timeout()) == (TransportAction.ABORT, None)


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
    assert handshake.transport_action is TransportAction.SEND_EOF
    assert handshake.response is not None


def test_reject_needs_no_body() -> None:
    handshake = serve(request())
    handshake.respond(Response(403))
    raw = take_apart(handshake.data_to_send())
    assert (raw.headers.get("Content-Length"), raw.body) == ("0", b"")


NOON = 784111777.9  # the time that the RFCs have as their example
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize("data", [request(), PLAIN_HTTP, request(line="POST /ws HTTP/1.1"), b"\x00"])
def test_a_server_with_a_clock_dates_its_responses(data: bytes) -> None:
    handshake = ServerHandshake(PLAIN, now=0.0, http=True, wall_clock=lambda: NOON)
    handshake.receive_data(data, 0.0)
    if handshake.is_pending:
        handshake.respond(Response(403))
    assert take_apart(handshake.data_to_send()).headers.get_all("Date") == [DATE]


def test_a_date_that_was_given_is_sent_as_it_is() -> None:
    handshake = ServerHandshake(PLAIN, now=0.0, wall_clock=lambda: NOON)
    handshake.receive_data(request(), 0.0)
    handshake.respond(Response(403, Headers({"date": "Thu, 01 Jan 1970 00:00:00 GMT"})))
    assert take_apart(handshake.data_to_send()).headers.get_all("Date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]


def test_a_server_without_a_clock_sends_no_date() -> None:
    handshake = serve(request())
    handshake.respond(Response(403))
    assert "Date" not in take_apart(handshake.data_to_send()).headers


@pytest.mark.parametrize(
    ("status", "name", "ours", "theirs"),
    [(401, "WWW-Authenticate", "Bearer", 'Basic realm="a"'), (426, "Upgrade", "websocket", "h2c")],
)
def test_a_status_is_not_sent_without_the_header_that_belongs_to_it(
    status: int, name: str, ours: str, theirs: str
) -> None:
    for headers, value in (({}, ours), ({name.lower(): theirs}, theirs)):
        handshake = serve(request())
        handshake.respond(Response(status, Headers(headers)))
        assert take_apart(handshake.data_to_send()).headers.get_all(name) == [value]


def test_a_405_says_which_methods_there_are() -> None:
    handshake = serve(request())
    with pytest.raises(LocalProtocolError, match=r"^a response with the status 405 has the header 'Allow'"):
        handshake.respond(Response(405, Headers({"X-A": "1"})))
    assert (handshake.is_pending, handshake.data_to_send()) == (True, b"")
    handshake.respond(Response(405, Headers({"allow": ""})))
    assert take_apart(handshake.data_to_send()).headers.get_all("Allow") == [""]


def test_who_names_upgrade_in_a_response_says_that_it_is_for_this_hop() -> None:
    for headers, connection in (({}, "close"), ({"upgrade": "websocket"}, "close, Upgrade")):
        handshake = serve(request())
        handshake.respond(Response(403, Headers(headers)))
        assert take_apart(handshake.data_to_send()).headers.get_all("Connection") == [connection]


def test_a_205_has_no_body_and_says_so() -> None:
    handshake = serve(request())
    with pytest.raises(LocalProtocolError, match="a response with the status 205 has no body"):
        handshake.respond(Response(205, body=b"x"))
    handshake.respond(Response(205))
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, raw.headers.get("Content-Length"), raw.body) == (205, "0", b"")


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
    assert (handshake.response, handshake.transport_action) == (rejected, TransportAction.SEND_EOF)
    client = connect()
    client.receive_data(f"HTTP/1.1 {status} X\r\nConnection: close\r\n\r\n".encode(), 0.0)
    assert isinstance(client.error, InvalidStatus)  # without waiting for an end


@pytest.mark.parametrize(("name", "value"), [("Content-Length", "5"), ("Transfer-Encoding", "chunked")])
def test_a_204_with_a_length_is_not_sent(name: str, value: str) -> None:
    handshake = serve(request())
    with contextlib.suppress(LocalProtocolError):
        handshake.respond(Response(204, Headers({name: value})))
    assert name not in take_apart(handshake.data_to_send() or b"HTTP/1.1 0 \r\n\r\n").headers


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_headers_that_http_forbids_are_refused_by_accept_which_then_still_works(name: str) -> None:
    handshake = serve(request())
    with pytest.raises(LocalProtocolError, match=complaint(name)):
        handshake.accept(BAD_HEADERS[name])
    assert (handshake.agreement, handshake.data_to_send(), handshake.transport_action) == (
        None,
        b"",
        TransportAction.OPEN,
    )
    handshake.accept()
    assert take_apart(handshake.data_to_send()).status == 101


@pytest.mark.parametrize("name", RESERVED)
def test_headers_of_the_handshake_itself_are_refused_by_accept_which_then_still_works(name: str) -> None:
    handshake = serve(request("Sec-WebSocket-Protocol: a"), subprotocols=("a",))
    for written in (name, name.upper(), name.lower()):
        message = f"^the header '{written}' belongs to the handshake; it cannot be given$"
        with pytest.raises(LocalProtocolError, match=message):
            handshake.accept([("X-A", "1"), (written, "1")])
    assert (handshake.agreement, handshake.data_to_send(), handshake.transport_action) == (
        None,
        b"",
        TransportAction.OPEN,
    )
    handshake.accept()
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, raw.headers.get_all("Sec-WebSocket-Protocol")) == (101, ["a"])


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
    assert (handshake.response, handshake.data_to_send(), handshake.transport_action) == (
        None,
        b"",
        TransportAction.OPEN,
    )
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
        (lambda: answered(lambda handshake: handshake.transport_lost(0.0)), False),
        (lambda: half_closed(asked(PLAIN_HTTP)), True),
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


# What comes too early.


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
    assert (handshake.transport_action, handshake.agreement) == (TransportAction.SEND_EOF, None)
    assert handshake.response is not None
    assert handshake.response.body == raw.body
    for call in (handshake.accept, lambda: handshake.respond(Response(403))):
        with pytest.raises(LocalProtocolError, match="there is no request to answer"):
            call()
    handshake.receive_data(b"x" * 1000, 2.0)
    assert handshake.data_to_send() == b""
    assert expire(handshake) == 2.0 + PLAIN.close.timeout
    assert handshake.transport_action is TransportAction.ABORT


def test_after_an_answer_nothing_is_too_early() -> None:
    handshake = serve(request(), SMALL)
    handshake.accept()
    frames = text_frame("x" * 1000, masked=True)
    for piece in pieces(frames, 300):
        handshake.receive_data(piece, 0.0)
    assert (handshake.response, handshake.transport_action) == (None, TransportAction.OPEN)
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
    assert handshake.transport_action is TransportAction.SEND_EOF
    expire(handshake)
    assert (handshake.transport_action, handshake.next_timeout()) == (TransportAction.ABORT, None)


def test_a_client_that_sends_nothing_is_dropped_without_a_word() -> None:
    handshake = ServerHandshake(PLAIN, now=0.0)
    assert expire(handshake) == 10.0
    assert (handshake.transport_action, handshake.data_to_send(), handshake.response) == (
        TransportAction.ABORT,
        b"",
        None,
    )
    assert handshake.next_timeout() is None


def test_a_request_that_lies_in_the_socket_when_the_timer_fires_late_is_taken() -> None:
    handshake = ServerHandshake(PLAIN, now=0.0)
    handshake.handle_timeout(60.0)  # our process was blocked
    assert handshake.transport_action is TransportAction.OPEN
    handshake.receive_data(request(), 60.0)
    handshake.accept()
    handshake.handle_timeout(61.0)
    assert take_apart(handshake.data_to_send()).status == 101
    assert (handshake.transport_action, handshake.next_timeout()) == (TransportAction.OPEN, None)


def test_the_application_has_as_long_as_the_client_and_then_the_answer_is_503() -> None:
    handshake = ServerHandshake(PLAIN, now=0.0)
    handshake.receive_data(request()[:-1], 5.0)
    assert handshake.next_timeout() == 10.0
    handshake.handle_timeout(10.0)
    handshake.receive_data(request()[-1:], 10.005)  # before the verdict
    handshake.handle_timeout(20.0)
    assert (handshake.response, handshake.transport_action) == (None, TransportAction.OPEN)
    assert expire(handshake) == pytest.approx(20.005)
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, raw.headers.get("Retry-After")) == (503, "1")
    with pytest.raises(LocalProtocolError, match="no request to answer"):
        handshake.accept()


# Requests for something else.


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
    assert handshake.transport_action is TransportAction.SEND_EOF
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


# The end of a handshake.


def test_an_application_that_refuses_late_gives_the_client_the_whole_close_timeout() -> None:
    handshake = serve(request())
    handshake.handle_timeout(60.0)
    handshake.respond(Response(403))
    assert expire(handshake) == 60.0 + PLAIN.close.timeout
    assert (handshake.transport_action, handshake.next_timeout()) == (TransportAction.ABORT, None)


def test_the_time_of_an_answer_may_come_with_it_and_never_goes_back() -> None:
    handshake = serve(request())
    handshake.respond(Response(403), 8.0)
    assert expire(handshake) == 8.0 + PLAIN.close.timeout
    backward = serve(request())
    backward.handle_timeout(8.0)
    backward.respond(Response(403), 3.0)
    assert expire(backward) == 8.0 + PLAIN.close.timeout


def half_closed(handshake: ServerHandshake) -> ServerHandshake:
    for now in (1.0, 2.0):
        handshake.receive_eof(now)
    assert handshake.client_has_ended
    return handshake


@pytest.mark.parametrize("data", [b"", b"\r\n", request()[:20], PLAIN_HTTP[:20]])
def test_a_client_that_ends_within_its_request_is_dropped(data: bytes) -> None:
    handshake = half_closed(asked(data))
    assert (handshake.transport_action, handshake.next_timeout()) == (TransportAction.ABORT, None)
    assert handshake.data_to_send() == b""


def test_a_client_that_ends_behind_its_request_is_answered() -> None:
    handshake = half_closed(asked(PLAIN_HTTP))
    assert handshake.transport_action is TransportAction.OPEN
    handshake.respond(Response(200, body=b"well"), 5.0)
    assert take_apart(handshake.data_to_send()).body == b"well"
    assert (handshake.transport_action, expire(handshake)) == (TransportAction.SEND_EOF, 5.0 + PLAIN.close.timeout)


def test_a_client_that_ends_behind_its_request_does_not_wait_for_ever() -> None:
    handshake = half_closed(asked(PLAIN_HTTP))
    assert expire(handshake) == PLAIN.handshake.timeout
    assert take_apart(handshake.data_to_send()).status == 503


def test_a_client_that_ends_behind_its_upgrade_is_refused() -> None:
    handshake = half_closed(serve(request()))
    raw = take_apart(handshake.data_to_send())
    assert (raw.status, json.loads(raw.body)) == (400, {"error": "the client has ended its side of the connection"})
    assert (handshake.transport_action, handshake.agreement) == (TransportAction.SEND_EOF, None)
    assert expire(handshake) == 1.0 + PLAIN.close.timeout


def test_a_client_that_ends_behind_a_refusal_may_still_read_it() -> None:
    handshake = half_closed(serve(request(line="POST /ws HTTP/1.1")))
    assert take_apart(handshake.data_to_send()).status == 405
    assert (handshake.transport_action, expire(handshake)) == (TransportAction.SEND_EOF, PLAIN.close.timeout)


@pytest.mark.parametrize("data", [b"", request()[:20], request(), PLAIN_HTTP])
def test_the_end_of_the_transport_ends_the_handshake(data: bytes) -> None:
    handshake = asked(data)
    for _ in range(2):
        handshake.transport_lost(1.0)
        assert (handshake.transport_action, handshake.next_timeout()) == (TransportAction.ABORT, None)
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
        handshake.transport_lost(20.0, ConnectionResetError(104, "Connection reset by peer"))
        for now in (20.0, 21.0, 40.0):
            handshake.handle_timeout(now)
        with pytest.raises(LocalProtocolError, match="there is no request to answer"):
            handshake.accept()
        assert (handshake.transport_action, handshake.next_timeout(), handshake.data_to_send()) == (
            TransportAction.ABORT,
            None,
            b"",
        )
        assert (handshake.request, handshake.response, handshake.agreement) == (None, None, None)


def test_a_client_that_sends_only_empty_reads_is_dropped_without_a_word() -> None:
    handshake = ServerHandshake(PLAIN, now=0.0)
    handshake.receive_data(b"", 1.0)
    assert expire(handshake) == 10.0
    assert (handshake.transport_action, handshake.data_to_send(), handshake.response) == (
        TransportAction.ABORT,
        b"",
        None,
    )


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
        assert handshake.transport_action is TransportAction.SEND_EOF
        assert handshake.request is None
    else:
        assert (output, handshake.transport_action) == (b"", TransportAction.OPEN)
    if handshake.request is not None:
        assert isinstance(handshake.request.path, str)
        handshake.accept()
        output = handshake.data_to_send()
        if "100-continue" in (handshake.request.headers.get("Expect") or ""):
            output = output.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")  # RFC 9110, section 7.8
        assert take_apart(output).status == 101
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

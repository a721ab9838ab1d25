from __future__ import annotations

import base64
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.config import ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.deflate import CompressionConfig, DeflateParams, deflate_pair
from wsconnkit.protocol.errors import HandshakeInterrupted, InvalidHandshake, InvalidStatus, LocalProtocolError
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.http import Headers
from wsconnkit.protocol.transportaction import TransportAction
from wsconnkit.protocol.upgrade import ask
from wsconnkit.protocol.uri import parse_uri

from .handshakes import (
    ACCEPT,
    BAD_HEADERS,
    BROKEN_LIMITS,
    KEY,
    PLAIN,
    SMALL,
    complaint,
    connect,
    expire,
    messages,
    pieces,
    response,
    text_frame,
)

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
        "User-Agent: wsconnkit\r\n"
        "\r\n"
    )
    assert handshake.data_to_send() == b""
    assert handshake.next_timeout() == 10.0


def sent_headers(handshake: ClientHandshake) -> Headers:
    pairs = [line.partition(": ")[::2] for line in handshake.data_to_send().decode().split("\r\n")[1:-2]]
    return Headers((name, value) for name, value in pairs)


@pytest.mark.parametrize("uri", ["ws://example.org/ws?a=b", "wss://alice:s3cret@example.org:8443/ws"])
def test_client_shows_the_request_that_it_sends(uri: str) -> None:
    handshake = connect(ConnectionConfig(), uri=uri, subprotocols=("b", "a"), headers={"X-A": "1"})
    asked = handshake.request
    assert list(asked.headers) == list(sent_headers(handshake))
    assert list(
        ask(parse_uri(uri), ConnectionConfig(), KEY, subprotocols=("b", "a"), headers={"X-A": "1"}).headers
    ) == (list(asked.headers))
    assert (asked.path, asked.key, asked.subprotocols) == ("/ws", KEY, ("b", "a"))
    assert [offer.name for offer in asked.extensions] == ["permessage-deflate"] * 2


def test_client_sends_a_new_unpredictable_key_each_time() -> None:
    keys = {ClientHandshake(parse_uri("ws://a"), now=0.0).request.key for _ in range(10)}
    assert len(keys) == 10
    assert all(len(base64.b64decode(key)) == 16 for key in keys)


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_headers_that_http_forbids_cannot_be_given(name: str) -> None:
    with pytest.raises(LocalProtocolError, match=complaint(name)):
        connect(headers=BAD_HEADERS[name])


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
    assert (handshake.transport_action, handshake.next_timeout()) == (TransportAction.OPEN, None)


DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (response(without="Upgrade"), "Upgrade is not websocket"),
        (response(DEFLATE + ", unknown"), "Sec-WebSocket-Extensions is not an answer"),
        (response(line="HTTP/1.0 101 Switching Protocols"), "it is not HTTP/1.1"),
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
    assert (handshake.agreement, handshake.transport_action, handshake.next_timeout()) == (
        None,
        TransportAction.ABORT,
        None,
    )
    with pytest.raises(LocalProtocolError):
        handshake.connection(0.0)


def test_a_server_that_keeps_its_window_although_it_was_asked_not_to_is_understood() -> None:
    client = connect(ConnectionConfig())
    client.receive_data(response("Sec-WebSocket-Extensions: permessage-deflate"), 0.0)
    assert client.agreement is not None
    assert client.agreement.deflate == DeflateParams(False, True, 15, 15)
    connection = client.connection(0.0)
    deflater, _ = deflate_pair(CompressionConfig(threshold=0), client.agreement.deflate, is_client=False)
    text = "".join(map(chr, range(32, 127)))
    sizes = []
    for _ in range(3):
        payload = deflater.compress(text.encode())
        assert payload is not None
        sizes.append(len(payload))
        connection.receive_data(encode_frame(Opcode.TEXT, payload, compressed=True), 0.0)
    assert max(sizes[1:]) < sizes[0] / 4  # they lean on what came before
    assert messages(connection) == [text] * 3


def broken_limit(data: bytes, chunk: int | None = None) -> str:
    """Return what the client says of a response that goes over a limit."""
    handshake = connect(SMALL)
    for piece in pieces(data, chunk or len(data)):
        handshake.receive_data(piece, 0.0)
    assert isinstance(handshake.error, InvalidHandshake)
    assert not isinstance(handshake.error, InvalidStatus)
    assert (handshake.agreement, handshake.transport_action, handshake.next_timeout()) == (
        None,
        TransportAction.ABORT,
        None,
    )
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
    assert handshake.transport_action is TransportAction.ABORT


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
    assert handshake.transport_action is TransportAction.ABORT


# The client is refused.


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
        assert (handshake.error, handshake.transport_action) == (None, TransportAction.OPEN)
        if end == "eof":
            handshake.receive_eof(0.0)
        elif end == "reset":
            handshake.transport_lost(0.0, ConnectionResetError(104, "Connection reset by peer"))
        else:
            assert expire(handshake) == 10.0
    assert isinstance(handshake.error, InvalidStatus)
    refused = handshake.error.response
    assert (refused.status, refused.headers.get("x-a"), refused.body) == (403, "1", body)
    assert (handshake.transport_action, handshake.next_timeout()) == (TransportAction.ABORT, None)


@pytest.mark.parametrize("line", ["HTTP/1.1 403 Forbidden", "HTTP/1.1 200 OK", "HTTP/1.0 301 Moved"])
@pytest.mark.parametrize(("headers", "message"), BROKEN_LIMITS)
def test_the_limits_hold_for_other_responses_too(headers: list[str], message: str, line: str) -> None:
    data = "\r\n".join([line, *headers, "", "Hello"]).encode()
    handshake = connect(SMALL)
    handshake.receive_data(data, 0.0)
    assert isinstance(handshake.error, InvalidHandshake)
    assert not isinstance(handshake.error, InvalidStatus)
    assert str(handshake.error) == f"the server's response breaks a limit: {message}"
    assert (handshake.agreement, handshake.transport_action, handshake.next_timeout()) == (
        None,
        TransportAction.ABORT,
        None,
    )
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


# The client is left alone.


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 101 Sw", b"HTTP/1.1 100 Continue\r\n\r\n", response()[:-1]])
def test_client_says_that_the_transport_ended_before_the_answer(data: bytes) -> None:
    handshake = connect()
    if data:
        handshake.receive_data(data, 0.0)
    handshake.receive_eof(1.0)
    assert isinstance(handshake.error, HandshakeInterrupted)
    assert str(handshake.error) == "the connection ended during the opening handshake: EOF"
    assert (handshake.transport_action, handshake.next_timeout()) == (TransportAction.ABORT, None)
    first = handshake.error
    handshake.receive_eof(2.0)
    assert handshake.error is first


def test_client_says_how_the_transport_broke() -> None:
    handshake = connect()
    handshake.transport_lost(1.0, ConnectionResetError(104, "Connection reset by peer"))
    assert isinstance(handshake.error, HandshakeInterrupted)
    assert str(handshake.error) == (
        "the connection ended during the opening handshake: [Errno 104] Connection reset by peer"
    )


def test_a_refusal_whose_transport_breaks_still_tells_the_status() -> None:
    # A server that refuses and closes with unread bytes in its socket causes a reset.
    handshake = connect()
    handshake.receive_data(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nHello", 0.0)
    handshake.transport_lost(1.0, ConnectionResetError(104, "Connection reset by peer"))
    assert isinstance(handshake.error, InvalidStatus)
    assert handshake.error.response.body == b"Hello"


def test_client_gives_up_on_a_server_that_is_too_slow() -> None:
    handshake = connect(replace(PLAIN, handshake=HandshakeLimits(timeout=4.0)))
    handshake.receive_data(response()[:-1], 3.0)
    assert expire(handshake) == 4.0
    assert isinstance(handshake.error, TimeoutError)
    assert str(handshake.error) == "no complete response within 4 s"
    assert (handshake.agreement, handshake.transport_action, handshake.next_timeout()) == (
        None,
        TransportAction.ABORT,
        None,
    )


def test_after_a_failure_the_client_takes_nothing_more() -> None:
    handshake = connect()
    expire(handshake)
    error = handshake.error
    handshake.receive_data(response(), 20.0)
    handshake.receive_eof(20.0)
    handshake.handle_timeout(30.0)
    assert (handshake.error, handshake.agreement, handshake.transport_action) == (error, None, TransportAction.ABORT)


def test_after_success_time_and_the_transport_are_the_connections() -> None:
    handshake = connect()
    handshake.receive_data(response(), 0.0)
    handshake.handle_timeout(60.0)
    handshake.handle_timeout(61.0)
    handshake.receive_eof(62.0)
    assert handshake.error is None
    assert handshake.agreement is not None


# Garbage.


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
    assert (handshake.transport_action is TransportAction.ABORT) is (handshake.error is not None)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(min_size=1, max_size=60), max_size=6))
def test_no_bytes_make_a_client_raise(chunks: list[bytes]) -> None:
    handshake = connect(SMALL)
    for chunk in chunks:
        handshake.receive_data(chunk, 0.0)
    handshake.receive_eof(0.0)
    assert handshake.error is not None

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.config import ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.deflate import CompressionConfig
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.http import Headers, Response
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.protocol.transportaction import TransportAction
from wsconnkit.protocol.upgrade import accept_key
from wsconnkit.protocol.uri import parse_uri

from .handshakes import (
    BROKEN_LIMITS,
    PLAIN,
    SMALL,
    connect,
    head_of,
    messages,
    pieces,
    request,
    response,
    serve,
    take_apart,
    text_frame,
)

# What both sides make of the same arguments.


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


def test_a_list_of_subprotocols_that_changes_later_changes_nothing() -> None:
    names = ["a"]
    server, client = serve(request("Sec-WebSocket-Protocol: b, a"), subprotocols=names), connect(subprotocols=names)
    names.insert(0, "b")
    assert server.accept().subprotocol == "a"
    client.receive_data(response("Sec-WebSocket-Protocol: b"), 0.0)
    assert "it chose the subprotocol 'b', which was not offered" in str(client.error)


@pytest.mark.parametrize("make", [lambda: serve(request()), connect])
def test_without_an_agreement_there_is_no_connection(make: Callable[[], ServerHandshake | ClientHandshake]) -> None:
    with pytest.raises(LocalProtocolError, match=r"^there is no connection: the handshake has not succeeded$"):
        make().connection(0.0)


def test_neither_side_begins_with_subprotocols_that_cannot_be_sent() -> None:
    for call in (lambda: connect(subprotocols="chat"), lambda: serve(b"", subprotocols="chat")):
        with pytest.raises(LocalProtocolError, match=r"^subprotocols is 'chat'; it must be a list of distinct tokens$"):
            call()


# Headers.


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
    with pytest.raises(LocalProtocolError, match=r"^headers hold characters beyond ISO 8859-1: 'X-A', 'X-C'$"):
        connect(headers=[("X-A", "\N{SNOWMAN}"), ("X-B", "\xe9"), ("X-C", "\N{SNOWMAN}"), ("X-D", "d")])


def test_headers_within_iso_8859_1_are_sent_as_such() -> None:
    assert b"X-A: caf\xe9\r\n" in connect(headers={"X-A": "caf\xe9"}).data_to_send()
    handshake = serve(request())
    handshake.accept({"X-A": "caf\xe9"})
    assert b"X-A: caf\xe9\r\n" in handshake.data_to_send()
    handshake = serve(request())
    handshake.respond(Response(403, Headers({"X-A": "caf\xe9"})))
    assert b"X-A: caf\xe9\r\n" in handshake.data_to_send()


# Limits.


@pytest.mark.parametrize(("headers", "message"), BROKEN_LIMITS)
def test_both_sides_have_the_same_limits(headers: list[str], message: str) -> None:
    server, client = serve(request(*headers), SMALL), connect(SMALL)
    assert server.response is not None
    assert (server.response.status, json.loads(server.response.body)) == (431, {"error": message})
    client.receive_data(response(*headers), 0.0)
    assert str(client.error) == f"the server's response breaks a limit: {message}"


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
        (1000, 0, 414),  # a line longer than a whole head may be is a target that is too long
        (1000, 20, 414),
        (386, 0, 431),  # else a head that is too long is never read further, so it comes first
        (388, 0, 414),
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


# Time, and reads of nothing.


@pytest.mark.parametrize("make", [lambda: ServerHandshake(now=0.0), connect])
def test_early_and_backward_timers_change_nothing(make: Callable[[], ServerHandshake | ClientHandshake]) -> None:
    handshake = make()
    handshake.data_to_send()
    for now in (5.0, -1.0, 9.999):
        handshake.handle_timeout(now)
        assert (handshake.next_timeout(), handshake.transport_action) == (10.0, TransportAction.OPEN)
        assert handshake.data_to_send() == b""


@pytest.mark.parametrize("make", [lambda: ServerHandshake(now=0.0), connect])
def test_an_empty_read_is_no_end_of_the_transport(make: Callable[[], ServerHandshake | ClientHandshake]) -> None:
    handshake = make()
    handshake.receive_data(b"", 0.0)
    assert handshake.transport_action is TransportAction.OPEN
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
        assert handshake.transport_action is TransportAction.OPEN
        assert list(handshake.connection(0.0).events()) == []
    refused = connect()
    refused.receive_data(b"HTTP/1.1 403 Forbidden\r\n\r\nHello", 0.0)
    refused.receive_data(b"", 0.0)
    assert refused.error is None  # the body ends with the transport, not with an empty read


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


def test_frames_behind_the_request_do_not_count_as_its_head() -> None:
    frames = text_frame("x" * 300, masked=True)
    handshake = serve(head_of(400) + frames, SMALL)
    handshake.accept()
    assert messages(handshake.connection(0.0)) == ["x" * 300]


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
    assert (handshake.error, handshake.transport_action) == (None, TransportAction.OPEN)
    assert messages(handshake.connection(0.0)) == ["one", "two", "three"]


def test_frames_behind_the_response_do_not_count_as_its_head() -> None:
    handshake = connect(SMALL)
    handshake.receive_data(response() + text_frame("x" * 1000, masked=False), 0.0)
    assert handshake.error is None
    assert messages(handshake.connection(0.0)) == ["x" * 1000]

"""Requests, responses, and both sides of an opening handshake that have taken them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from wsconnkit.protocol.clienthandshake import ClientHandshake
from wsconnkit.protocol.config import ConnectionConfig, HandshakeLimits
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.events import Message
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.http import Headers, HeadersLike
from wsconnkit.protocol.serverhandshake import ServerHandshake
from wsconnkit.protocol.uri import parse_uri

# The example of RFC 6455, sections 1.3 and 4.2.2.
NONCE = b"the sample nonce"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

PLAIN = ConnectionConfig(compression=None)
SMALL = replace(PLAIN, handshake=HandshakeLimits(max_line=100, max_headers=8, max_head=400, max_body=10))
MASK = b"\x01\x02\x03\x04"

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
    "http://:80/ws",  # no host (RFC 9110, section 4.2.1)
    "http://alice@example.org/ws",  # a user (RFC 9110, section 4.2.4)
    "WSS://alice:s3cret@example.org/ws",
    "http://example.org:port/ws",
    "ws:ws",
    # A fragment is never sent (RFC 9112, section 3.2; RFC 6455, section 3).
    "/#",
    "/ws#a",
    "/ws?a#b",
    "#/ws",
    "http://example.org/ws#",
    "ws://example.org#/ws",
]

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

BROKEN_LIMITS = [
    (["X-A: " + "a" * 98], "a header is longer than 100 bytes"),
    ([f"X-{n}: {n}" for n in range(9)], "there are more than 8 headers"),
    ([f"X-{n}: " + "a" * 95 for n in range(4)], "the head is longer than 400 bytes"),
]


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


def messages(connection: ConnectionProtocol) -> list[str | bytes]:
    return [event.data for event in connection.events() if isinstance(event, Message)]


def text_frame(text: str, *, masked: bool) -> bytes:
    return encode_frame(Opcode.TEXT, text.encode(), mask=MASK if masked else None)


def complaint(name: str) -> str:
    """Return a pattern for what is said of BAD_HEADERS[name]."""
    beyond = "headers hold characters beyond ISO 8859-1: "
    return {"not latin": f"^{beyond}'X-A'$", "name not latin": f"^{beyond}'X-\N{SNOWMAN}'$"}.get(
        name, "^headers are not valid HTTP: "
    )

"""A message for many connections: the same bytes for all that agreed on the same, and the right ones for the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsconnkit.machines.compression import DirectionStats
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.deflate import CompressionConfig, DeflateParams
from wsconnkit.protocol.events import Message
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.prepared import PreparedMessage

TEXT = "to everybody: " * 200
ALONE = DeflateParams(True, True, 15, 15)
TAKEOVER = DeflateParams(False, False, 15, 15)
NARROW = DeflateParams(True, True, 10, 10)


def opened(
    role: Role = Role.SERVER, deflate: DeflateParams | None = None, compression: CompressionConfig | None = None
) -> ConnectionProtocol:
    config = ConnectionConfig(compression=compression or CompressionConfig())
    return ConnectionProtocol(role, config, now=0.0, deflate=deflate)


def sent(connection: ConnectionProtocol, message: PreparedMessage | str | bytes) -> bytes:
    connection.send(message, 0.0)
    return connection.data_to_send()


def received(role: Role, deflate: DeflateParams | None, data: bytes) -> list[str | bytes]:
    peer = opened(Role.CLIENT if role is Role.SERVER else Role.SERVER, deflate)
    peer.receive_data(data, 0.0)
    return [event.data for event in peer.events() if isinstance(event, Message)]


@pytest.mark.parametrize("deflate", [None, ALONE, TAKEOVER, NARROW, DeflateParams(True, True, 8, 8)])
@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("message", ["", "short", TEXT, b"", TEXT.encode(), os.urandom(5000)])
def test_it_arrives_as_the_message_it_was_made_of(
    role: Role, deflate: DeflateParams | None, message: str | bytes
) -> None:
    prepared = PreparedMessage(message)
    data = b""
    first, second = opened(role, deflate), opened(role, deflate)
    for _ in range(2):
        data += sent(first, prepared)
        sent(second, prepared)
    assert received(role, deflate, data) == [message, message]


@pytest.mark.parametrize("deflate", [None, ALONE, TAKEOVER, NARROW])
@pytest.mark.parametrize("message", ["short", TEXT, os.urandom(5000)])
def test_a_server_sends_and_counts_what_it_would_without(deflate: DeflateParams | None, message: str | bytes) -> None:
    plain, shared = opened(deflate=deflate), opened(deflate=deflate)
    prepared = PreparedMessage(message)
    for _ in range(3):
        assert sent(shared, prepared) == sent(plain, message)
    assert shared.stats == plain.stats
    assert shared.stats.messages_sent == 3


@pytest.mark.parametrize("deflate", [None, ALONE, NARROW])
@pytest.mark.parametrize("message", ["short", TEXT, os.urandom(5000)])
def test_servers_that_agreed_on_the_same_share_one_frame(deflate: DeflateParams | None, message: str | bytes) -> None:
    prepared = PreparedMessage(message)
    frames = [sent(opened(deflate=deflate), prepared) for _ in range(10)]
    assert {id(frame) for frame in frames} == {id(frames[0])}


@pytest.mark.parametrize("deflate", [None, ALONE, NARROW])
@pytest.mark.parametrize("message", ["short", TEXT, os.urandom(5000)])
def test_sent_shared_it_changes_a_server_as_any_message_does(
    deflate: DeflateParams | None, message: str | bytes
) -> None:
    config = ConnectionConfig(heartbeat=None, idle_timeout=60.0)
    plain, shared = (ConnectionProtocol(Role.SERVER, config, now=0.0, deflate=deflate) for _ in range(2))
    prepared = PreparedMessage(message)
    for now in (5.0, 7.0, 6.0):
        plain.send(message, now)
        frame = plain.data_to_send()
        assert shared.send_shared(prepared, now) == frame
    assert shared.send_shared(prepared, 7.0) is shared.send_shared(prepared, 7.0)
    plain.send(message, 7.0)
    plain.send(message, 7.0)
    plain.data_to_send()
    assert shared.data_to_send() == b""
    assert shared.stats == plain.stats
    assert shared.next_timeout() == plain.next_timeout() == 67.0
    for server in (plain, shared):
        server.receive_eof(10.0)
        list(server.events())
    assert shared.close_info == plain.close_info


def test_without_waiting_or_shared_a_server_sends_the_same_frame() -> None:
    prepared = PreparedMessage(TEXT)
    server = opened()
    assert server.send_nowait(prepared, 0.0)
    assert server.data_to_send() is server.send_shared(prepared, 0.0)
    assert server.stats.messages_sent == 2


def fragment_under_way(server: ConnectionProtocol) -> None:
    server.send("a fragment", 0.0, final=False)
    server.data_to_send()


def closing(server: ConnectionProtocol) -> None:
    server.close(1000, "", 0.0)
    server.data_to_send()


@pytest.mark.parametrize(
    ("role", "deflate", "before"),
    [
        (Role.CLIENT, None, None),
        (Role.CLIENT, ALONE, None),
        (Role.SERVER, TAKEOVER, None),
        (Role.SERVER, None, fragment_under_way),
        (Role.SERVER, None, lambda server: server.ping(b"", 0.0)),
        (Role.SERVER, None, closing),
    ],
)
def test_it_is_not_sent_shared_where_its_frame_is_another_or_is_not_the_next(
    role: Role, deflate: DeflateParams | None, before: Callable[[ConnectionProtocol], object] | None
) -> None:
    connection = opened(role, deflate)
    if before is not None:
        before(connection)
    stats = deepcopy(connection.stats)
    size = connection.bytes_to_send
    assert connection.send_shared(PreparedMessage(TEXT), 0.0) is None
    assert (connection.stats, connection.bytes_to_send) == (stats, size)


def test_each_connection_compresses_as_it_is_set_to() -> None:
    text = " ".join(str(number * number) for number in range(2000))
    prepared = PreparedMessage(text)
    settings: list[tuple[DeflateParams | None, CompressionConfig]] = [
        (None, CompressionConfig()),
        (ALONE, CompressionConfig()),
        (NARROW, CompressionConfig()),
        (ALONE, CompressionConfig(level=1)),
        (ALONE, CompressionConfig(memory_level=1)),
    ]
    frames = [sent(opened(Role.SERVER, *setting), prepared) for setting in settings]
    assert frames == [sent(opened(Role.SERVER, *setting), text) for setting in settings]
    assert len({*frames}) == 5


def test_below_its_threshold_a_server_sends_what_one_without_compression_does() -> None:
    prepared = PreparedMessage(TEXT)
    server = opened(deflate=ALONE, compression=CompressionConfig(threshold=10_000))
    assert sent(server, prepared) is sent(opened(), prepared)


def test_what_does_not_compress_goes_out_as_it_is() -> None:
    prepared = PreparedMessage(os.urandom(5000))
    server = opened(deflate=ALONE)
    assert sent(server, prepared) is sent(opened(), prepared)
    assert server.stats.compression.outbound == DirectionStats(messages_uncompressed=1, bytes_uncompressed=5000)


def test_clients_share_the_compression_and_mask_each_frame_anew() -> None:
    prepared = PreparedMessage(TEXT)
    first, second = (sent(opened(Role.CLIENT, ALONE), prepared) for _ in range(2))
    assert len(first) == len(second) < 200
    assert first != second
    assert received(Role.CLIENT, ALONE, first) == received(Role.CLIENT, ALONE, second) == [TEXT]


def test_a_context_that_is_taken_over_sees_every_message() -> None:
    prepared = PreparedMessage(TEXT)
    server = opened(deflate=TAKEOVER)
    first = sent(server, prepared)
    second = sent(server, prepared)
    assert len(second) < len(first)
    assert received(Role.SERVER, TAKEOVER, first + second) == [TEXT, TEXT]


def test_it_may_be_the_fragment_of_a_message() -> None:
    server = opened()
    server.send(PreparedMessage("one "), 0.0, final=False)
    server.send(PreparedMessage("message"), 0.0)
    assert b"".join([server.data_to_send()]) == b"\x01\x04one \x80\x07message"


@given(st.lists(st.one_of(st.text(), st.binary())), st.sampled_from([None, ALONE, TAKEOVER, NARROW]))
def test_any_messages_arrive_mixed_with_others(messages: list[str | bytes], deflate: DeflateParams | None) -> None:
    server = opened(deflate=deflate, compression=CompressionConfig(threshold=0))
    for message in messages:
        server.send(message, 0.0)
        server.send(PreparedMessage(message), 0.0)
    doubled = [message for message in messages for _ in range(2)]
    assert received(Role.SERVER, deflate, server.data_to_send()) == doubled

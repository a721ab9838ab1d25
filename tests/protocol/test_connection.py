"""The contract of a connection, call by call; sizes are in test_connection_limits, properties beside it."""

from __future__ import annotations

import copy
import itertools
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.machines.closing import State
from wsconnkit.machines.compression import DirectionStats
from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.machines.heartbeat import READ_GRACE, HeartbeatConfig
from wsconnkit.protocol.closeinfo import Cause, CloseFrame, CloseInfo, Initiator
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig, QueueConfig, SlowConsumer
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.deflate import DeflateParams
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.events import (
    Closed,
    Event,
    FrameSizeWarning,
    HeartbeatPinged,
    HeartbeatStalled,
    Message,
    MessageDiscarded,
    PingReceived,
    PongReceived,
    UnreadWarning,
)
from wsconnkit.protocol.frames import Role, check_close
from wsconnkit.protocol.timers import Timer
from wsconnkit.protocol.transportaction import TransportAction

from .reading import NO_CODES, NO_REASONS, NO_TEXTS

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
SILENT = ConnectionConfig(heartbeat=None)
both_roles = pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)


def xor(data: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


def wire(role: Role, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """A frame as the peer of `role` sends it."""
    masked = 128 if role is Role.SERVER else 0
    head = struct.pack("!B", opcode | (128 if fin else 0) | (64 if rsv1 else 0))
    size = len(payload)
    if size < 126:
        head += struct.pack("!B", masked | size)
    elif size < 65536:
        head += struct.pack("!BH", masked | 126, size)
    else:
        head += struct.pack("!BQ", masked | 127, size)
    return head + b"\x0a\x0b\x0c\x0d" + xor(payload, b"\x0a\x0b\x0c\x0d") if masked else head + payload


def close_payload(code: int, reason: str = "") -> bytes:
    return struct.pack("!H", code) + reason.encode()


class Sent(NamedTuple):
    opcode: int
    payload: bytes
    fin: bool = True
    rsv1: bool = False


def taken(connection: ConnectionProtocol) -> list[Sent]:
    """What the connection wants to send, as frames, without masks."""
    data = connection.data_to_send()
    frames = []
    while data:
        size, at = data[1] & 127, 2
        if size > 125:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
        mask = bytes(4)
        if data[1] & 128:
            mask, at = data[at : at + 4], at + 4
        frames.append(Sent(data[0] & 15, xor(data[at : at + size], mask), data[0] >= 128, bool(data[0] & 64)))
        assert len(data) >= at + size
        data = data[at + size :]
    return frames


def fed(connection: ConnectionProtocol, data: bytes, now: float = 0.0) -> list[Event]:
    connection.receive_data(data, now)
    return list(connection.events())


def eof(connection: ConnectionProtocol, now: float = 0.0, error: OSError | None = None) -> CloseInfo:
    """End the transport and return what the one `Closed` says."""
    connection.receive_eof(now, error)
    (closed,) = connection.events()
    assert isinstance(closed, Closed)
    assert closed.info is connection.close_info
    return closed.info


def stands(connection: ConnectionProtocol) -> tuple[State, TransportAction]:
    return connection.state, connection.transport_action


def wake(connection: ConnectionProtocol) -> list[Event]:
    at = connection.next_timeout()
    assert at is not None
    connection.handle_timeout(at)
    return list(connection.events())


def counter() -> Callable[[int], bytes]:
    numbers = itertools.count(0x10203040)
    return lambda size: next(numbers).to_bytes(size, "big")


def opened(role: Role = Role.CLIENT, config: ConnectionConfig = SILENT, *, now: float = 0.0) -> ConnectionProtocol:
    return ConnectionProtocol(role, config, now=now, random_bytes=counter())


# Messages.


@both_roles
def test_messages_are_received(role: Role) -> None:
    connection = opened(role)
    assert fed(connection, wire(role, TEXT, "é".encode()) + wire(role, BINARY, b"\xff\x00")) == [
        Message("é", 2),
        Message(b"\xff\x00", 2),
    ]
    assert connection.stats.messages_received == 2
    assert connection.stats.bytes_received == len(wire(role, BINARY, b"12") * 2)


def test_bytes_that_came_with_the_handshake_are_read_first() -> None:
    data = wire(Role.CLIENT, TEXT, b"first")
    connection = ConnectionProtocol(Role.CLIENT, now=0.0, trailing_data=data[:3])
    assert connection.next_event() is None
    assert fed(connection, data[3:]) == [Message("first", 5)]
    assert connection.next_event() is None


def test_fragments_come_one_by_one() -> None:
    connection = opened()
    data = wire(Role.CLIENT, TEXT, b"a", fin=False) + wire(Role.CLIENT, PING, b"p")
    data += wire(Role.CLIENT, CONTINUATION, fin=False) + wire(Role.CLIENT, CONTINUATION, b"b")
    assert fed(connection, data) == [
        Message("a", 1, final=False),
        PingReceived(b"p"),
        Message("", 0, final=False),
        Message("b", 1),
    ]
    assert connection.stats.messages_received == 1
    assert connection.stats.frames.total_frames == 3


@both_roles
@pytest.mark.parametrize(
    ("message", "frame"),
    [
        ("é", Sent(TEXT, b"\xc3\xa9")),
        ("", Sent(TEXT, b"")),
        (b"\xff", Sent(BINARY, b"\xff")),
        (bytearray(b"ba"), Sent(BINARY, b"ba")),
        (memoryview(b"m-v")[::2], Sent(BINARY, b"mv")),
        (b"x" * 70_000, Sent(BINARY, b"x" * 70_000)),
    ],
    ids=["text", "empty", "bytes", "bytearray", "memoryview", "large"],
)
def test_messages_are_sent(role: Role, message: str | bytes | bytearray | memoryview, frame: Sent) -> None:
    connection = opened(role)
    assert connection.send(message, 0.0) == len(frame.payload)
    assert taken(connection) == [frame]
    assert connection.stats.messages_sent == 1


def test_fragments_are_sent_with_control_frames_between_them() -> None:
    connection = opened()
    connection.send("a", 0.0, final=False)
    connection.ping(b"p", 0.0)
    connection.send("b", 0.0, final=False)
    connection.receive_data(wire(Role.CLIENT, PING, b"q"), 0.0)
    assert list(connection.events()) == [PingReceived(b"q")]
    connection.send("c", 0.0)
    connection.send(b"next", 0.0)
    assert taken(connection) == [
        Sent(TEXT, b"a", fin=False),
        Sent(PING, b"p"),
        Sent(CONTINUATION, b"b", fin=False),
        Sent(PONG, b"q"),
        Sent(CONTINUATION, b"c"),
        Sent(BINARY, b"next"),
    ]
    assert connection.stats.messages_sent == 2


def test_each_fragment_that_is_sent_has_its_own_size_in_bytes() -> None:
    connection = opened()
    text = [connection.send("a", 0.0, final=False), connection.send("é", 0.0, final=False), connection.send("", 0.0)]
    assert text == [1, 2, 0]
    data = [connection.send(b"", 0.0, final=False), connection.send(memoryview(b"m-v")[::2], 0.0)]
    assert data == [0, 2]


def test_bytes_to_send_are_counted_until_they_are_taken() -> None:
    connection = opened(Role.SERVER)
    assert connection.data_to_send() == b""
    connection.send("ab", 0.0)
    assert connection.bytes_to_send == 4
    connection.send("c", 0.0)
    assert connection.bytes_to_send == 7
    assert connection.data_to_send() == b"\x81\x02ab\x81\x01c"
    assert connection.bytes_to_send == 0
    assert connection.data_to_send() == b""
    connection.send("d", 0.0)
    assert connection.data_to_send() == b"\x81\x01d"
    assert connection.stats.bytes_sent == 10


def test_a_client_masks_with_the_bytes_it_was_given() -> None:
    connection = opened(Role.CLIENT)
    connection.send(b"\x00\x00\x00\x00", 0.0)
    connection.send(b"\x00", 0.0)
    assert connection.data_to_send() == b"\x82\x84\x10\x20\x30\x40\x10\x20\x30\x40\x82\x81\x10\x20\x30\x41\x10"


def test_masks_differ_unless_told_otherwise() -> None:
    connection = ConnectionProtocol(Role.CLIENT, now=0.0)
    for _ in range(8):
        connection.send(bytes(8), 0.0)
    data = connection.data_to_send()
    assert len({data[i + 2 : i + 6] for i in range(0, len(data), 14)}) > 1


@both_roles
def test_a_mask_on_the_wrong_side_is_a_protocol_error(role: Role) -> None:
    other = Role.SERVER if role is Role.CLIENT else Role.CLIENT
    connection = opened(role)
    assert fed(connection, wire(other, TEXT, b"x")) == []
    (close,) = taken(connection)
    assert (close.opcode, close.payload[:2]) == (CLOSE, b"\x03\xea")
    assert eof(connection).cause is Cause.PROTOCOL_ERROR


# Misuse.


def closing_sent(connection: ConnectionProtocol) -> None:
    connection.close(1000, "", 0.0)


def exchanged(connection: ConnectionProtocol) -> None:
    fed(connection, wire(Role.CLIENT, CLOSE))


def failing(connection: ConnectionProtocol) -> None:
    fed(connection, wire(Role.CLIENT, 3))


def closed(connection: ConnectionProtocol) -> None:
    eof(connection)


def unfinished(connection: ConnectionProtocol) -> None:
    connection.send("begun", 0.0, final=False)


def untouched(connection: ConnectionProtocol) -> None:
    pass


def close_with(code: Any, reason: Any = "") -> Callable[[ConnectionProtocol], None]:
    return lambda connection: connection.close(code, reason, 1.0)


NOT_OPEN = {"CLOSE_SENT": closing_sent, "CLOSE_EXCHANGED": exchanged, "FAILING": failing, "CLOSED": closed}
MISUSES: list[tuple[Callable[[ConnectionProtocol], None], Callable[[ConnectionProtocol], object], str]] = [
    *((before, lambda c: c.send("x", 1.0), f"state {name}") for name, before in NOT_OPEN.items()),
    *((before, lambda c: c.send(b"x", 1.0, final=False), f"state {name}") for name, before in NOT_OPEN.items()),
    *((before, lambda c: c.ping(b"x", 1.0), f"state {name}") for name, before in NOT_OPEN.items()),
    *(
        (before, close_with(code), re.escape(f"close code {code!r} cannot be sent; allowed are 1000 to 1003, "))
        for before in (untouched, *NOT_OPEN.values())
        for code in NO_CODES
    ),
    *(
        (before, close_with(1000, reason), f"^close reason is of type {type(reason).__name__}; it must be str$")
        for before in (untouched, *NOT_OPEN.values())
        for reason in NO_REASONS
    ),
    *(
        (before, close_with(1000, reason), "^close reason cannot be sent as UTF-8: .* surrogates not allowed$")
        for before in (untouched, *NOT_OPEN.values())
        for reason in NO_TEXTS
    ),
    (untouched, lambda c: c.ping(bytes(126), 1.0), "126 bytes"),
    (untouched, lambda c: c.send("\ud800", 1.0), "UTF-8"),
    (unfinished, lambda c: c.send(b"x", 1.0, final=False), "BINARY fragment cannot go on a TEXT message"),
    (unfinished, lambda c: c.send(b"x", 1.0), "BINARY fragment cannot go on a TEXT message"),
]


@pytest.mark.parametrize(("before", "misuse", "message"), MISUSES)
def test_misuse_raises_and_changes_nothing(
    before: Callable[[ConnectionProtocol], None], misuse: Callable[[ConnectionProtocol], object], message: str
) -> None:
    connection = opened(config=ConnectionConfig(idle_timeout=10.0))
    before(connection)

    def seen() -> tuple[object, ...]:
        return copy.deepcopy(
            (
                connection.state,
                connection.transport_action,
                connection.bytes_to_send,
                connection.next_timer,
                connection.next_timeout(),
                connection.close_info,
                connection.stats,
            )
        )

    expected = seen()
    with pytest.raises(LocalProtocolError, match=message):
        misuse(connection)
    assert seen() == expected
    assert list(connection.events()) == []


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999, CloseCode.GOING_AWAY])
@pytest.mark.parametrize("reason", ["", "bye", "😀", "é" * 300])
def test_check_close_takes_what_close_can_send(code: int, reason: str) -> None:
    check_close(code, reason)
    connection = opened()
    connection.close(code, reason, 0.0)
    ((opcode, payload, *_),) = taken(connection)
    assert (opcode, payload[:2]) == (CLOSE, code.to_bytes(2, "big"))


def test_a_message_that_was_begun_can_be_finished_after_misuse() -> None:
    connection = opened()
    connection.send("a", 0.0, final=False)
    with pytest.raises(LocalProtocolError):
        connection.send(b"b", 0.0)
    connection.send("c", 0.0)
    assert taken(connection) == [Sent(TEXT, b"a", fin=False), Sent(CONTINUATION, b"c")]


def test_a_message_of_another_type_is_a_type_error() -> None:
    connection = opened()
    with pytest.raises(TypeError, match="type int"):
        connection.send(1, 0.0)  # type: ignore[arg-type]
    assert connection.bytes_to_send == 0


# Pings.


@both_roles
@pytest.mark.parametrize("payload", [b"", b"p" * 125])
def test_a_ping_is_answered(role: Role, payload: bytes) -> None:
    connection = opened(role)
    assert fed(connection, wire(role, PING, payload)) == [PingReceived(payload)]
    assert taken(connection) == [Sent(PONG, payload)]


def test_there_is_no_latency_before_the_first_answered_ping() -> None:
    connection = opened()
    connection.ping(b"p", 0.0)
    fed(connection, wire(Role.CLIENT, PONG, b"unasked"))
    assert connection.latency is None


def test_a_pong_gives_the_latency_of_its_ping() -> None:
    connection = opened()
    assert connection.ping(b"one", 1.0) == b"one"
    assert connection.ping(b"two", 2.0) == b"two"
    assert taken(connection) == [Sent(PING, b"one"), Sent(PING, b"two")]
    assert fed(connection, wire(Role.CLIENT, PONG, b"two"), 2.5) == [PongReceived(b"two", 0.5)]
    assert connection.latency == 0.5
    # The later pong has answered the earlier ping too.
    assert fed(connection, wire(Role.CLIENT, PONG, b"one"), 9.0) == [PongReceived(b"one", None)]
    assert fed(connection, wire(Role.CLIENT, PONG, b"unasked"), 9.0) == [PongReceived(b"unasked", None)]
    assert connection.latency == 0.5


def test_a_ping_without_payload_gets_four_random_bytes() -> None:
    connection = opened(Role.SERVER)
    assert connection.ping(None, 0.0) == b"\x10\x20\x30\x40"
    assert connection.ping(None, 0.0) == b"\x10\x20\x30\x41"
    assert taken(connection) == [Sent(PING, b"\x10\x20\x30\x40"), Sent(PING, b"\x10\x20\x30\x41")]


def test_only_the_latest_ping_is_answered_while_writing_is_paused() -> None:
    connection = opened(config=ConnectionConfig(limits=FrameLimits(max_control_frames_per_second=None)))
    connection.writing_paused(0.0)
    assert fed(connection, b"".join(wire(Role.CLIENT, PING, b"%d" % i) for i in range(1000))) == [
        PingReceived(b"%d" % i) for i in range(1000)
    ]
    assert connection.bytes_to_send == 0
    connection.writing_resumed(1.0)
    assert taken(connection) == [Sent(PONG, b"999")]
    connection.writing_resumed(1.0)
    assert connection.bytes_to_send == 0
    fed(connection, wire(Role.CLIENT, PING, b"now"), 1.0)
    assert taken(connection) == [Sent(PONG, b"now")]


def test_resumed_writing_sends_no_pong_that_was_not_asked_for() -> None:
    connection = opened()
    connection.writing_paused(0.0)
    connection.writing_resumed(0.0)
    assert connection.bytes_to_send == 0


def test_a_held_back_pong_does_not_follow_our_close() -> None:
    connection = opened()
    connection.writing_paused(0.0)
    fed(connection, wire(Role.CLIENT, PING, b"p"))
    connection.close(1000, "", 0.0)
    connection.writing_resumed(0.0)
    assert taken(connection) == [Sent(CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize("payload", ["text", 5])
def test_a_ping_payload_that_is_no_bytes_changes_nothing(payload: object) -> None:
    connection = opened()
    with pytest.raises(TypeError, match=f"ping payload is of type {type(payload).__name__}; it must be bytes"):
        connection.ping(payload, 0.0)  # type: ignore[arg-type]
    assert connection.data_to_send() == b""


def test_bytes_that_are_read_ahead_of_a_late_timer_tell_the_stall() -> None:
    connection = opened(config=ConnectionConfig())
    assert fed(connection, wire(Role.CLIENT, TEXT, b"x"), 29.0) == [Message("x", 1)]
    late = fed(connection, wire(Role.CLIENT, TEXT, b"y"), 70.0)
    assert late == [HeartbeatStalled(11.0), Message("y", 1)]
    assert connection.stats.stalls == 1
    connection.close(1000, "", 70.0)
    assert fed(connection, wire(Role.CLIENT, PONG), 200.0) == [PongReceived(b"", None)]
    assert connection.stats.stalls == 1


def test_a_ping_after_our_close_is_told_but_not_answered() -> None:
    connection = opened()
    connection.close(1000, "", 0.0)
    assert fed(connection, wire(Role.CLIENT, PING, b"p")) == [PingReceived(b"p")]
    assert taken(connection) == [Sent(CLOSE, b"\x03\xe8")]


# The closing handshake.


@both_roles
def test_our_close_is_acknowledged(role: Role) -> None:
    connection = opened(role)
    connection.close(1000, "bye", 1.0)
    assert stands(connection) == (State.CLOSE_SENT, TransportAction.OPEN)
    assert taken(connection) == [Sent(CLOSE, b"\x03\xe8bye")]
    assert connection.close_info is None

    assert fed(connection, wire(role, CLOSE, close_payload(1000, "bye")), 2.0) == []
    # The server ends the transport first (RFC 6455, section 7.1.1).
    ended = TransportAction.SEND_EOF if role is Role.SERVER else TransportAction.OPEN
    assert stands(connection) == (State.CLOSE_EXCHANGED, ended)
    assert taken(connection) == []

    info = eof(connection, 4.0)
    assert stands(connection) == (State.CLOSED, TransportAction.ABORT)
    assert info == CloseInfo(
        cause=Cause.LOCAL_CLOSE,
        initiator=Initiator.LOCAL,
        phase=State.CLOSE_EXCHANGED,
        sent=CloseFrame(1000, "bye"),
        rcvd=CloseFrame(1000, "bye"),
        rcvd_then_sent=False,
        error=None,
        last_byte_in_age=2.0,
        last_byte_out_age=3.0,
    )
    assert (info.code, info.reason, info.clean, info.ok) == (1000, "bye", True, True)


@both_roles
@pytest.mark.parametrize(
    ("payload", "frame"),
    [
        (close_payload(1001, "à"), CloseFrame(1001, "à")),
        (close_payload(4999, "r" * 123), CloseFrame(4999, "r" * 123)),
        (b"", CloseFrame(1005, "")),
    ],
    ids=["reason", "longest", "empty"],
)
def test_the_peers_close_is_echoed(role: Role, payload: bytes, frame: CloseFrame) -> None:
    connection = opened(role)
    assert fed(connection, wire(role, CLOSE, payload), 1.0) == []
    ended = TransportAction.SEND_EOF if role is Role.SERVER else TransportAction.OPEN
    assert stands(connection) == (State.CLOSE_EXCHANGED, ended)
    assert taken(connection) == [Sent(CLOSE, payload)]

    info = eof(connection, 3.0)
    assert stands(connection) == (State.CLOSED, TransportAction.ABORT)
    assert info == CloseInfo(
        cause=Cause.PEER_CLOSE,
        initiator=Initiator.PEER,
        phase=State.CLOSE_EXCHANGED,
        sent=frame,
        rcvd=frame,
        rcvd_then_sent=True,
        error=None,
        last_byte_in_age=2.0,
        last_byte_out_age=2.0,
    )
    assert (info.code, info.reason, info.clean) == (*frame, True)


def test_both_sides_may_close_at_once() -> None:
    client, server = opened(Role.CLIENT), opened(Role.SERVER)
    client.close(1000, "client", 0.0)
    server.close(1001, "server", 0.0)
    from_client, from_server = client.data_to_send(), server.data_to_send()
    assert fed(client, from_server) == fed(server, from_client) == []
    assert client.data_to_send() == server.data_to_send() == b""
    assert (client.transport_action, server.transport_action) == (TransportAction.OPEN, TransportAction.SEND_EOF)
    seen_by_client, seen_by_server = eof(client), eof(server)
    assert seen_by_client.sent == seen_by_server.rcvd == CloseFrame(1000, "client")
    assert seen_by_client.rcvd == seen_by_server.sent == CloseFrame(1001, "server")
    for info in (seen_by_client, seen_by_server):
        assert (info.cause, info.initiator, info.phase) == (Cause.LOCAL_CLOSE, Initiator.LOCAL, State.CLOSE_EXCHANGED)
        assert info.rcvd_then_sent is False
        assert info.clean


def test_closing_again_does_nothing() -> None:
    connection = opened()
    connection.close(1000, "first", 0.0, cause=Cause.DRAIN)
    timer = connection.next_timeout()
    connection.close(1011, "second", 1.0)
    assert connection.next_timeout() == timer
    assert taken(connection) == [Sent(CLOSE, b"\x03\xe8first")]
    info = eof(connection)
    assert (info.cause, info.sent) == (Cause.DRAIN, CloseFrame(1000, "first"))
    connection.close(1011, "third", 2.0)
    assert connection.bytes_to_send == 0
    assert list(connection.events()) == []


@pytest.mark.parametrize("before", [exchanged, failing])
def test_closing_after_the_close_frame_went_out_does_nothing(before: Callable[[ConnectionProtocol], None]) -> None:
    connection = opened()
    before(connection)
    (close,) = taken(connection)
    connection.close(1011, "again", 1.0)
    assert taken(connection) == []
    sent = eof(connection).sent
    assert sent is not None
    assert close.payload in (b"", close_payload(*sent))


def test_a_reason_is_cut_to_whole_characters() -> None:
    connection = opened()
    connection.close(1000, "é" * 300, 0.0)
    assert taken(connection) == [Sent(CLOSE, close_payload(1000, "é" * 61))]
    assert eof(connection).reason == "é" * 61


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_valid_close_codes_pass_both_ways(code: int) -> None:
    connection = opened()
    connection.close(code, "", 0.0)
    assert taken(connection) == [Sent(CLOSE, close_payload(code))]
    fed(connection, wire(Role.CLIENT, CLOSE, close_payload(code)))
    info = eof(connection)
    assert info.sent == info.rcvd == (code, "")


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        *((close_payload(code), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)),
        (b"\x03", 1002),
        (b"\x03\xe8\xff", 1007),
    ],
)
def test_an_invalid_close_fails_the_connection(payload: bytes, code: int) -> None:
    connection = opened()
    assert fed(connection, wire(Role.CLIENT, CLOSE, payload)) == []
    assert stands(connection) == (State.FAILING, TransportAction.SEND_EOF)
    info = eof(connection)
    assert (info.code, info.rcvd, info.initiator) == (code, None, Initiator.LOCAL)


def test_what_follows_a_close_frame_is_discarded() -> None:
    connection = opened()
    assert fed(connection, wire(Role.CLIENT, CLOSE) + wire(Role.CLIENT, TEXT, b"x") + b"\xff\xff") == []
    assert fed(connection, wire(Role.CLIENT, TEXT, b"x") + wire(Role.CLIENT, PING)) == []
    assert taken(connection) == [Sent(CLOSE, b"")]
    assert connection.stats.messages_received == connection.stats.messages_discarded == 0
    assert eof(connection).cause is Cause.PEER_CLOSE


def test_messages_after_our_close_are_discarded_and_counted() -> None:
    connection = opened()
    connection.close(1000, "", 0.0)
    data = wire(Role.CLIENT, TEXT, b"a", fin=False) + wire(Role.CLIENT, CONTINUATION, b"b")
    data += wire(Role.CLIENT, BINARY, b"ccc") + wire(Role.CLIENT, PONG, b"p")
    discarded = [MessageDiscarded(1), MessageDiscarded(1), MessageDiscarded(3)]
    assert fed(connection, data) == [*discarded, PongReceived(b"p", None)]
    assert (connection.stats.messages_received, connection.stats.messages_discarded) == (0, 2)
    assert connection.stats.frames.total_frames == 3
    fed(connection, wire(Role.CLIENT, CLOSE, b"\x03\xe8"))
    assert eof(connection).ok


def test_a_peer_that_breaks_the_protocol_after_our_close_changes_no_cause() -> None:
    connection = opened()
    connection.close(1000, "", 0.0)
    assert fed(connection, wire(Role.CLIENT, 3)) == []
    assert stands(connection) == (State.FAILING, TransportAction.SEND_EOF)
    assert taken(connection) == [Sent(CLOSE, b"\x03\xe8")]
    info = eof(connection)
    assert (info.cause, info.phase, info.sent, info.rcvd) == (Cause.LOCAL_CLOSE, State.FAILING, (1000, ""), None)
    assert not info.clean


# Endings without a closing handshake.


@both_roles
def test_a_protocol_error_closes_and_ends_our_side(role: Role) -> None:
    connection = opened(role)
    good = wire(role, TEXT, b"good")
    assert fed(connection, good, 1.0) == [Message("good", 4)]
    assert fed(connection, wire(role, 3) + good, 1.0) == []
    assert stands(connection) == (State.FAILING, TransportAction.SEND_EOF)
    (close,) = taken(connection)
    assert (close.opcode, close.payload[:2]) == (CLOSE, b"\x03\xea")
    # After that nothing is read: not a Close frame, and no ping.
    assert fed(connection, wire(role, CLOSE, b"\x03\xe8") + wire(role, PING), 2.0) == []
    assert taken(connection) == []

    info = eof(connection, 4.0)
    assert stands(connection) == (State.CLOSED, TransportAction.ABORT)
    assert info == CloseInfo(
        cause=Cause.PROTOCOL_ERROR,
        initiator=Initiator.LOCAL,
        phase=State.FAILING,
        sent=CloseFrame(1002, close.payload[2:].decode()),
        rcvd=None,
        rcvd_then_sent=None,
        error=None,
        last_byte_in_age=2.0,
        last_byte_out_age=3.0,
    )
    assert not info.clean


def test_invalid_utf8_is_refused_as_it_arrives() -> None:
    connection = opened()
    assert fed(connection, wire(Role.CLIENT, TEXT, b"ab\xff" + b"x" * 100)[:5]) == []
    assert stands(connection)[0] is State.FAILING
    (close,) = taken(connection)
    assert close.payload[:2] == b"\x03\xef"
    info = eof(connection)
    assert (info.code, info.cause) == (1007, Cause.INVALID_DATA)


@both_roles
def test_a_lost_transport_ends_the_connection(role: Role) -> None:
    connection = opened(role)
    connection.send("unanswered", 1.0)
    taken(connection)
    error = ConnectionResetError(104, "reset")
    info = eof(connection, 3.0, error)
    assert stands(connection) == (State.CLOSED, TransportAction.ABORT)
    assert info == CloseInfo(
        cause=Cause.TRANSPORT_LOST,
        initiator=Initiator.TRANSPORT,
        phase=State.OPEN,
        sent=None,
        rcvd=None,
        rcvd_then_sent=None,
        error=error,
        last_byte_in_age=3.0,
        last_byte_out_age=2.0,
    )
    assert (info.code, info.reason, info.clean) == (1006, "", False)
    assert connection.data_to_send() == b""


def test_a_lost_transport_after_our_close_keeps_its_cause() -> None:
    connection = opened()
    connection.close(4000, "done", 0.0, cause=Cause.AUTH_EXPIRED)
    info = eof(connection, 1.0)
    assert (info.cause, info.initiator, info.phase) == (Cause.AUTH_EXPIRED, Initiator.LOCAL, State.CLOSE_SENT)
    assert (info.sent, info.rcvd, info.rcvd_then_sent, info.code) == ((4000, "done"), None, None, 4000)


def test_what_arrived_before_the_end_of_the_transport_is_told_before_it() -> None:
    connection = opened()
    connection.receive_data(wire(Role.CLIENT, TEXT, b"last") + wire(Role.CLIENT, TEXT, b"half")[:4], 0.0)
    connection.receive_eof(0.0)
    message, closed = connection.events()
    assert message == Message("last", 4)
    assert isinstance(closed, Closed)


def test_a_close_frame_before_the_end_of_the_transport_makes_a_clean_close() -> None:
    connection = opened()
    connection.receive_data(wire(Role.CLIENT, CLOSE, b"\x03\xe8"), 0.0)
    assert eof(connection).ok


def test_the_end_of_the_transport_is_told_once() -> None:
    connection = opened()
    connection.receive_eof(0.0)
    connection.receive_eof(0.0, OSError("late"))
    (closed,) = connection.events()
    assert isinstance(closed, Closed)
    assert isinstance(closed.info.error, OSError)
    connection.receive_eof(1.0)
    connection.receive_eof(2.0, OSError("later"))
    connection.receive_data(wire(Role.CLIENT, TEXT, b"x"), 3.0)
    connection.handle_timeout(1000.0)
    assert list(connection.events()) == []
    assert connection.stats.bytes_received == 0
    assert connection.close_info is closed.info


def test_the_first_error_of_the_transport_is_the_one_told() -> None:
    connection = opened()
    first = OSError("first")
    connection.receive_eof(0.0, first)
    assert eof(connection, error=OSError("second")).error is first


@both_roles
@pytest.mark.parametrize("phase", [State.CLOSE_SENT, State.CLOSE_EXCHANGED, State.FAILING])
def test_the_close_timeout_ends_each_closing(role: Role, phase: State) -> None:
    connection = opened(role, ConnectionConfig(close=CloseConfig(timeout=2.0)), now=10.0)
    if phase is State.CLOSE_SENT:
        connection.close(1000, "", 10.0)
    elif phase is State.CLOSE_EXCHANGED:
        fed(connection, wire(role, CLOSE, b"\x03\xe8"), 10.0)
    else:
        fed(connection, wire(role, 3), 10.0)
    assert stands(connection)[0] is phase
    assert connection.next_timeout() == 12.0
    # The transport is read once before the verdict.
    assert wake(connection) == []
    assert stands(connection)[0] is phase
    (closed,) = wake(connection)
    assert isinstance(closed, Closed)
    assert closed.info.phase is phase
    assert closed.info.clean is (phase is State.CLOSE_EXCHANGED)
    assert stands(connection) == (State.CLOSED, TransportAction.ABORT)
    assert connection.next_timeout() is None


def test_an_answer_that_is_stuck_behind_what_the_peer_does_not_read_is_no_clean_end() -> None:
    connection = ConnectionProtocol(Role.SERVER, ConnectionConfig(heartbeat=None), now=0.0)
    connection.send("a message", 0.0)
    connection.data_to_send()
    connection.writing_paused(0.0)
    fed(connection, wire(Role.SERVER, CLOSE, close_payload(1000)), 1.0)
    connection.data_to_send()
    connection.handle_timeout(6.0)
    connection.handle_timeout(7.0)
    info = connection.close_info
    assert info is not None
    assert (info.code, info.cause, info.sent) == (1000, Cause.PEER_CLOSE, (1000, ""))
    assert (info.clean, info.ok) == (False, False)


def test_a_peer_that_answers_our_close_does_not_restart_the_timeout() -> None:
    connection = opened()
    connection.close(1000, "", 0.0)
    assert connection.next_timeout() == 5.0
    fed(connection, wire(Role.CLIENT, CLOSE, b"\x03\xe8"), 4.0)
    assert connection.next_timeout() == 5.0


# The heartbeat.


@both_roles
def test_a_silent_peer_is_dead_after_all_its_misses(role: Role) -> None:
    config = ConnectionConfig(heartbeat=HeartbeatConfig(interval=30.0, timeout=5.0, max_missed=3))
    connection = opened(role, config)
    assert connection.next_timeout() == 30.0
    for missed, at in enumerate((30.0, 35.0, 40.0)):
        assert connection.next_timeout() == at
        assert wake(connection) == [HeartbeatPinged(missed)]
        assert connection.missed == missed
        ((opcode, payload, _, _),) = taken(connection)
        assert (opcode, len(payload)) == (PING, 4)
    assert connection.next_timeout() == 45.0
    assert wake(connection) == []
    assert stands(connection)[0] is State.OPEN
    assert connection.next_timeout() == pytest.approx(45.0, abs=0.02)
    assert connection.missed == 2
    (closed,) = wake(connection)
    assert connection.missed == 3
    assert stands(connection) == (State.CLOSED, TransportAction.ABORT)
    assert taken(connection) == [Sent(CLOSE, close_payload(1001, "connection timeout"))]
    assert connection.next_timeout() is None
    assert isinstance(closed, Closed)
    info = closed.info
    assert info == CloseInfo(
        cause=Cause.HEARTBEAT,
        initiator=Initiator.LOCAL,
        phase=State.OPEN,
        sent=CloseFrame(1001, "connection timeout"),
        rcvd=None,
        rcvd_then_sent=None,
        error=None,
        last_byte_in_age=info.last_byte_in_age,
        last_byte_out_age=info.last_byte_out_age,
    )
    assert info.last_byte_in_age == pytest.approx(45.0, abs=0.02)
    assert info.last_byte_out_age == pytest.approx(5.0, abs=0.02)


def test_any_byte_is_a_sign_of_life() -> None:
    connection = opened(config=ConnectionConfig())
    for _ in range(4):
        wake(connection)
    assert connection.missed == 2
    half = wire(Role.CLIENT, TEXT, b"x" * 100)[:1]
    assert fed(connection, half, 45.0) == []
    assert connection.missed == 0
    assert connection.next_timeout() == 75.0
    assert wake(connection) == [HeartbeatPinged(0)]


def test_the_pong_of_a_heartbeat_gives_a_latency() -> None:
    connection = opened(config=ConnectionConfig())
    wake(connection)
    ((_, payload, _, _),) = taken(connection)
    assert fed(connection, wire(Role.CLIENT, PONG, payload), 30.25) == [PongReceived(payload, 0.25)]
    assert connection.latency == 0.25


def test_a_stall_of_ours_is_told_and_not_held_against_the_peer() -> None:
    connection = opened(config=ConnectionConfig())
    connection.handle_timeout(100.0)
    assert list(connection.events()) == [HeartbeatStalled(70.0), HeartbeatPinged(0)]
    connection.handle_timeout(1000.0)
    assert list(connection.events()) == [HeartbeatStalled(895.0)]
    assert connection.stats.stalls == 2
    at = connection.next_timeout()
    assert at is not None
    assert at > 1000.0
    fed(connection, wire(Role.CLIENT, PING), 1000.0)
    assert connection.next_timeout() == 1030.0


def test_no_verdict_while_we_do_not_read() -> None:
    connection = opened(config=ConnectionConfig(queue=QueueConfig(max_unread_age=None)))
    connection.reading_paused(1.0)
    connection.handle_timeout(10_000.0)
    wake(connection)
    assert stands(connection)[0] is State.OPEN
    connection.reading_resumed(20_000.0)
    assert connection.next_timeout() == 20_030.0


def test_no_verdict_while_our_ping_cannot_leave() -> None:
    connection = opened(config=ConnectionConfig(queue=QueueConfig(max_unsent_age=None)))
    connection.writing_paused(1.0)
    for _ in range(20):
        wake(connection)
    assert stands(connection)[0] is State.OPEN
    now = connection.next_timeout()
    assert now is not None
    connection.writing_resumed(now)
    assert connection.next_timeout() == now + 5.0


def test_there_is_no_heartbeat_while_closing() -> None:
    connection = opened(config=ConnectionConfig(close=CloseConfig(timeout=60.0)))
    connection.close(1000, "", 0.0)
    assert connection.next_timeout() == 60.0
    connection.handle_timeout(40.0)
    assert list(connection.events()) == []
    assert taken(connection) == [Sent(CLOSE, b"\x03\xe8")]


# What the peer does not take; the rest of it is in test_sendingside.


@both_roles
def test_a_peer_that_takes_nothing_for_too_long_is_closed(role: Role) -> None:
    connection = opened(role)
    connection.writing_paused(1.0)
    assert connection.next_timer == (Timer.UNSENT, 31.0)
    assert wake(connection) == wake(connection) == []
    assert taken(connection) == [Sent(CLOSE, close_payload(1013, "nothing was read for too long"))]
    info = eof(connection, 33.0)
    assert (info.cause, info.initiator, info.phase) == (Cause.SLOW_CONSUMER, Initiator.LOCAL, State.CLOSE_SENT)


def test_a_message_that_waits_for_too_long_may_be_dropped_and_all_goes_on() -> None:
    connection = opened(
        config=ConnectionConfig(heartbeat=None, queue=QueueConfig(slow_consumer=SlowConsumer.DROP_NEWEST))
    )
    connection.writing_paused(1.0)
    assert connection.send_nowait("waits", 2.0)
    assert wake(connection) == wake(connection) == []
    assert (stands(connection), connection.next_timer) == ((State.OPEN, TransportAction.OPEN), None)
    assert (connection.stats.messages_dropped, taken(connection)) == (1, [])


def test_what_waits_when_the_connection_closes_is_dropped() -> None:
    connection = opened()
    connection.writing_paused(0.0)
    assert connection.send_nowait("waits", 0.0)
    connection.close(1000, "", 0.0)
    assert taken(connection) == [Sent(CLOSE, close_payload(1000))]
    assert connection.stats.messages_dropped == 1


# Idleness.


def idle(seconds: float = 10.0) -> ConnectionConfig:
    return ConnectionConfig(heartbeat=None, idle_timeout=seconds)


@both_roles
def test_a_connection_without_messages_is_closed(role: Role) -> None:
    connection = opened(role, idle())
    assert connection.next_timeout() == 10.0
    assert wake(connection) == []
    assert stands(connection)[0] is State.OPEN
    assert wake(connection) == []
    assert stands(connection) == (State.CLOSE_SENT, TransportAction.OPEN)
    assert taken(connection) == [Sent(CLOSE, close_payload(1001, "idle timeout"))]
    assert connection.next_timeout() == pytest.approx(15.0, abs=0.02)
    info = eof(connection, 12.0)
    assert (info.cause, info.initiator, info.sent) == (Cause.IDLE, Initiator.LOCAL, (1001, "idle timeout"))


def test_messages_in_both_directions_put_idleness_off_and_pings_do_not() -> None:
    connection = opened(config=idle())
    fed(connection, wire(Role.CLIENT, TEXT, b"x"), 4.0)
    assert connection.next_timeout() == 14.0
    connection.send("x", 6.0)
    assert connection.next_timeout() == 16.0
    fed(connection, wire(Role.CLIENT, PING) + wire(Role.CLIENT, PONG), 8.0)
    connection.ping(b"", 8.0)
    assert connection.next_timeout() == 16.0


def test_a_late_idle_timer_lets_the_transport_be_read_first() -> None:
    connection = opened(config=idle())
    connection.handle_timeout(100.0)
    at = connection.next_timeout()
    assert at is not None
    assert 100.0 < at < 100.1
    assert fed(connection, wire(Role.CLIENT, TEXT, b"waited"), 100.0) == [Message("waited", 6)]
    connection.handle_timeout(at)
    assert connection.state is State.OPEN
    assert connection.next_timeout() == 110.0
    wake(connection)
    wake(connection)
    assert stands(connection)[0] is State.CLOSE_SENT


@pytest.mark.parametrize("paused_at", [5.0, 10.0])
def test_idleness_is_not_judged_while_reading_is_paused(paused_at: float) -> None:
    queue = QueueConfig(max_unread_age=None)
    connection = opened(config=ConnectionConfig(heartbeat=None, idle_timeout=10.0, queue=queue))
    # At 10.0 the timer has been found due already, and only the verdict is left.
    connection.handle_timeout(paused_at)
    connection.reading_paused(paused_at)
    for now in (10.0, 10.5, 100.0):
        connection.handle_timeout(now)
    assert stands(connection)[0] is State.OPEN
    assert connection.next_timer is None
    connection.reading_resumed(112.0)
    assert connection.next_timeout() == 122.0
    wake(connection)
    wake(connection)
    assert stands(connection)[0] is State.CLOSE_SENT


# An application that does not read.


def unread(age: float | None, **more: Any) -> ConnectionProtocol:
    connection = opened(config=ConnectionConfig(compression=None, queue=QueueConfig(max_unread_age=age), **more))
    connection.reading_paused(0.0)
    return connection


def test_an_application_that_takes_nothing_for_too_long_is_warned_of_and_then_closed_with_1013() -> None:
    connection = unread(300.0, heartbeat=None)
    assert connection.next_timer == (Timer.UNREAD_WARNING, 30.0)
    assert wake(connection) == []
    (warning,) = wake(connection)
    assert warning == UnreadWarning(30.0 + READ_GRACE)
    assert connection.next_timer == (Timer.UNREAD, 300.0)
    wake(connection)
    assert connection.state is State.OPEN
    wake(connection)
    assert taken(connection) == [Sent(CLOSE, b"\x03\xf5messages are not being read")]
    info = eof(connection, 301.0)
    assert (info.code, info.cause, info.initiator) == (1013, Cause.SLOW_APPLICATION, Initiator.LOCAL)


def test_an_application_that_takes_something_has_all_the_time_again() -> None:
    connection = unread(300.0, heartbeat=None)
    connection.reading_progressed(299.0)
    assert connection.next_timer == (Timer.UNREAD_WARNING, 329.0)
    connection.reading_paused(400.0)  # it is already
    assert connection.next_timer == (Timer.UNREAD_WARNING, 329.0)
    connection.reading_resumed(500.0)
    connection.reading_progressed(501.0)
    assert connection.next_timer is None


def test_an_application_may_be_given_all_the_time_there_is() -> None:
    assert unread(None, heartbeat=None).next_timer is None


def test_a_connection_that_is_closed_waits_for_no_application() -> None:
    connection = unread(300.0, heartbeat=None)
    connection.close(1000, "", 1.0)
    connection.reading_progressed(2.0)
    assert connection.next_timer == (Timer.CLOSE, 6.0)
    connection.reading_resumed(3.0)
    connection.reading_paused(3.0)
    assert connection.next_timer == (Timer.CLOSE, 6.0)


def test_a_peer_is_pinged_while_nobody_reads_but_not_judged() -> None:
    connection = unread(None, heartbeat=HeartbeatConfig(interval=30, timeout=5, max_missed=1))
    for _ in range(20):
        wake(connection)
    assert connection.state is State.OPEN
    assert connection.missed == 0
    assert {frame.opcode for frame in taken(connection)} == {PING}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ConnectionConfig(), (Timer.HEARTBEAT, 30.0)),
        (ConnectionConfig(idle_timeout=31.0), (Timer.HEARTBEAT, 30.0)),
        (ConnectionConfig(idle_timeout=29.0), (Timer.IDLE, 29.0)),
        (ConnectionConfig(heartbeat=None, idle_timeout=31.0), (Timer.IDLE, 31.0)),
    ],
)
def test_the_next_timer_says_why_it_will_wake(config: ConnectionConfig, expected: tuple[Timer, float]) -> None:
    connection = opened(config=config)
    assert connection.next_timer == expected
    assert connection.next_timeout() == expected[1]
    connection.close(1000, "", 1.0)
    assert connection.next_timer == (Timer.CLOSE, 6.0)
    eof(connection)
    assert connection.next_timer is None


def test_an_idle_timer_that_was_late_still_says_why_it_will_wake() -> None:
    connection = opened(config=idle())
    connection.handle_timeout(100.0)
    timer = connection.next_timer
    assert timer is not None
    assert timer[0] is Timer.IDLE


def test_a_heartbeat_verdict_leaves_nothing_for_the_idle_timer() -> None:
    config = ConnectionConfig(heartbeat=HeartbeatConfig(interval=1.0, timeout=1.0, max_missed=1), idle_timeout=2.0)
    connection = opened(config=config)
    wake(connection)
    connection.handle_timeout(2.0)
    connection.handle_timeout(2.0 + READ_GRACE)
    (*_, closed) = connection.events()
    assert isinstance(closed, Closed)
    assert closed.info.cause is Cause.HEARTBEAT
    assert connection.next_timeout() is None


# Time.


def test_without_heartbeat_and_idle_timeout_nothing_wakes_an_open_connection() -> None:
    connection = opened()
    assert connection.next_timeout() is None
    connection.handle_timeout(1e9)
    assert (list(connection.events()), connection.state) == ([], State.OPEN)


def test_asking_for_the_timeout_changes_nothing() -> None:
    connection = opened(config=ConnectionConfig(idle_timeout=20.0))
    assert connection.next_timeout() == connection.next_timeout() == 20.0


@pytest.mark.parametrize("config", [ConnectionConfig(), idle()], ids=["heartbeat", "idle"])
def test_an_early_timer_changes_nothing(config: ConnectionConfig) -> None:
    connection = opened(config=config)
    timer = connection.next_timeout()
    connection.handle_timeout(9.5)
    connection.handle_timeout(9.5)
    assert connection.next_timeout() == timer
    assert list(connection.events()) == []
    assert connection.bytes_to_send == 0


def test_a_repeated_timer_changes_nothing() -> None:
    connection = opened(config=ConnectionConfig())
    connection.handle_timeout(30.0)
    timer = connection.next_timeout()
    connection.handle_timeout(30.0)
    assert connection.next_timeout() == timer
    assert list(connection.events()) == [HeartbeatPinged(0)]


def test_a_clock_that_goes_back_is_clamped() -> None:
    connection = opened(config=idle(), now=100.0)
    connection.send("x", 50.0)
    assert connection.next_timeout() == 110.0
    connection.handle_timeout(-1.0)
    connection.ping(b"p", 101.0)
    assert fed(connection, wire(Role.CLIENT, PONG, b"p"), 0.0) == [PongReceived(b"p", 0.0)]
    assert eof(connection, 5.0).last_byte_in_age == 0.0


# Pausing.


def test_messages_wait_while_reading_is_paused_and_none_is_lost() -> None:
    connection = opened()
    data = wire(Role.CLIENT, TEXT, b"1") + wire(Role.CLIENT, PING, b"p") + wire(Role.CLIENT, TEXT, b"2")
    connection.receive_data(data, 0.0)
    assert connection.next_event() == Message("1", 1)
    connection.reading_paused(0.0)
    connection.reading_paused(0.0)
    assert connection.next_event() is None
    # What the transport had read already may still come in.
    assert fed(connection, wire(Role.CLIENT, TEXT, b"3")) == []
    assert connection.bytes_to_send == 0
    connection.reading_resumed(1.0)
    assert list(connection.events()) == [PingReceived(b"p"), Message("2", 1), Message("3", 1)]
    assert taken(connection) == [Sent(PONG, b"p")]


def test_reading_may_be_paused_between_two_events() -> None:
    connection = opened()
    connection.receive_data(wire(Role.CLIENT, TEXT, b"x") * 3, 0.0)
    for _ in connection.events():
        connection.reading_paused(0.0)
    assert connection.stats.messages_received == 1
    connection.reading_resumed(0.0)
    assert len(list(connection.events())) == 2


def test_pings_that_waited_while_we_did_not_read_are_no_flood() -> None:
    connection = opened(config=ConnectionConfig(heartbeat=None))
    connection.reading_paused(0.0)
    connection.reading_resumed(150.0)
    assert fed(connection, wire(Role.CLIENT, PING) * 150, 150.0) == [PingReceived(b"")] * 150
    assert connection.state is State.OPEN


def test_pings_that_waited_while_we_were_held_up_are_no_flood() -> None:
    connection = opened(config=ConnectionConfig(heartbeat=HeartbeatConfig(interval=30, timeout=5)))
    stalled, *pings = fed(connection, wire(Role.CLIENT, PING) * 150, 150.0)
    assert stalled == HeartbeatStalled(120.0)
    assert pings == [PingReceived(b"")] * 150
    assert connection.state is State.OPEN


def test_resuming_what_was_not_paused_changes_nothing() -> None:
    connection = opened(config=idle())
    connection.reading_resumed(5.0)
    connection.writing_resumed(5.0)
    assert connection.next_timeout() == 10.0
    assert connection.bytes_to_send == 0


def test_the_peers_close_is_seen_behind_messages_once_reading_resumes() -> None:
    connection = opened()
    connection.reading_paused(0.0)
    assert fed(connection, wire(Role.CLIENT, TEXT, b"x") + wire(Role.CLIENT, CLOSE, b"\x03\xe8")) == []
    assert stands(connection)[0] is State.OPEN
    connection.reading_resumed(0.0)
    assert list(connection.events()) == [Message("x", 1)]
    connection.handle_timeout(0.0)
    assert stands(connection)[0] is State.CLOSE_EXCHANGED


@pytest.mark.parametrize(
    ("end", "state", "code"),
    [((CLOSE, b"\x03\xe8"), State.CLOSE_EXCHANGED, b"\x03\xe8"), ((3, b""), State.FAILING, b"\x03\xea")],
)
def test_messages_can_be_answered_before_an_end_in_the_same_read(
    end: tuple[int, bytes], state: State, code: bytes
) -> None:
    connection = opened(Role.CLIENT)
    frames = wire(Role.CLIENT, TEXT, b"one") + wire(Role.CLIENT, TEXT, b"two") + wire(Role.CLIENT, *end)
    assert fed(connection, frames + wire(Role.CLIENT, PING), 1.0) == [Message("one", 3), Message("two", 3)]
    assert (connection.state, connection.next_timer) == (State.OPEN, (Timer.END, 1.0))
    connection.send("answer", 1.5)
    assert fed(connection, wire(Role.CLIENT, TEXT, b"late"), 1.5) == []
    connection.handle_timeout(1.5)
    assert connection.state is state
    answer, close = taken(connection)
    assert (answer.payload, close.opcode, close.payload[:2]) == (b"answer", CLOSE, code)


def test_an_end_that_waits_for_answers_does_not_outlast_the_transport() -> None:
    connection = opened()
    data = wire(Role.CLIENT, TEXT, b"x") + wire(Role.CLIENT, CLOSE, b"\x03\xe8")
    assert fed(connection, data) == [Message("x", 1)]
    info = eof(connection)
    assert (info.cause, info.code, info.clean) == (Cause.PEER_CLOSE, 1000, True)
    assert connection.next_timer is None


@pytest.mark.parametrize("end", [(CLOSE, b"\x03\xe8"), (3, b"")])
def test_an_end_that_is_found_behind_messages_after_the_transport_has_ended_waits_for_no_answers(
    end: tuple[int, bytes],
) -> None:
    connection = opened()
    connection.reading_paused(0.0)
    assert fed(connection, wire(Role.CLIENT, TEXT, b"x") + wire(Role.CLIENT, *end)) == []
    connection.reading_resumed(0.0)
    connection.receive_eof(0.0)
    message, closed = connection.events()
    assert message == Message("x", 1)
    assert isinstance(closed, Closed)
    assert closed.info.cause is (Cause.PEER_CLOSE if end[0] == CLOSE else Cause.PROTOCOL_ERROR)


class Held(NamedTuple):
    """An end of the peer that comes behind a message in one read, and what it comes to."""

    end: Callable[[Role], bytes]
    state: State
    code: int
    cause: Cause
    initiator: Initiator
    rcvd: CloseFrame | None
    rcvd_then_sent: bool | None


HELD = {
    "close": Held(
        lambda role: wire(role, CLOSE, close_payload(4001, "theirs")),
        State.CLOSE_EXCHANGED, 4001, Cause.PEER_CLOSE, Initiator.PEER, CloseFrame(4001, "theirs"), True,
    ),
    "close without a status": Held(
        lambda role: wire(role, CLOSE),
        State.CLOSE_EXCHANGED, 1005, Cause.PEER_CLOSE, Initiator.PEER, CloseFrame(1005, ""), True,
    ),
    "too big": Held(
        lambda role: wire(role, BINARY, bytes(101)),
        State.FAILING, 1009, Cause.TOO_BIG, Initiator.LOCAL, None, None,
    ),
    "reserved opcode": Held(
        lambda role: wire(role, 3),
        State.FAILING, 1002, Cause.PROTOCOL_ERROR, Initiator.LOCAL, None, None,
    ),
    "invalid close": Held(
        lambda role: wire(role, CLOSE, close_payload(999)),
        State.FAILING, 1002, Cause.PROTOCOL_ERROR, Initiator.LOCAL, None, None,
    ),
    "invalid text": Held(
        lambda role: wire(role, TEXT, b"\xff"),
        State.FAILING, 1007, Cause.INVALID_DATA, Initiator.LOCAL, None, None,
    ),
}  # fmt: skip


def holding(role: Role, held: Held) -> ConnectionProtocol:
    """Return a connection that has read a message and an end of the peer at 1.0, and has not taken the end yet."""
    connection = opened(role, ConnectionConfig(limits=FrameLimits(max_message_size=100), idle_timeout=60.0))
    assert fed(connection, wire(role, TEXT, b"question") + held.end(role), 1.0) == [Message("question", 8)]
    assert stands(connection) == (State.OPEN, TransportAction.OPEN)
    assert connection.next_timer == (Timer.END, 1.0)
    return connection


@both_roles
@pytest.mark.parametrize("name", HELD)
def test_a_close_by_the_application_does_not_hide_the_end_that_came_before_it(role: Role, name: str) -> None:
    held = HELD[name]
    connection = holding(role, held)
    connection.send("answer", 2.0)
    connection.close(1000, "ours", 2.0, cause=Cause.DRAIN)
    expected = TransportAction.SEND_EOF if role is Role.SERVER or held.state is State.FAILING else TransportAction.OPEN
    assert stands(connection) == (held.state, expected)
    assert connection.next_timer == (Timer.CLOSE, 7.0)
    answer, close = taken(connection)
    assert (answer, close.opcode) == (Sent(TEXT, b"answer"), CLOSE)
    assert close.payload[:2] == (b"" if held.code == 1005 else close_payload(held.code))
    assert b"ours" not in close.payload
    # It is taken once: neither time, nor another close, nor more bytes change anything.
    connection.handle_timeout(2.0)
    connection.close(1011, "again", 2.5)
    assert fed(connection, wire(role, CLOSE, close_payload(1000)), 2.5) == []
    assert taken(connection) == []

    info = eof(connection, 3.0)
    assert stands(connection) == (State.CLOSED, TransportAction.ABORT)
    assert (info.code, info.cause, info.initiator, info.phase) == (held.code, held.cause, held.initiator, held.state)
    assert (info.rcvd, info.rcvd_then_sent) == (held.rcvd, held.rcvd_then_sent)
    assert info.sent is not None
    assert (info.sent.code, info.clean) == (held.code, held.rcvd is not None)
    assert "ours" not in info.sent.reason


@both_roles
@pytest.mark.parametrize("name", HELD)
def test_a_close_while_an_end_is_held_comes_to_the_same_as_none(role: Role, name: str) -> None:
    closed_by_us, left_alone = holding(role, HELD[name]), holding(role, HELD[name])
    closed_by_us.close(1000, "ours", 2.0)
    left_alone.handle_timeout(2.0)
    assert stands(closed_by_us) == stands(left_alone)
    assert closed_by_us.next_timer == left_alone.next_timer
    assert closed_by_us.data_to_send() == left_alone.data_to_send()
    assert eof(closed_by_us, 3.0) == eof(left_alone, 3.0)


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize(("code", "reason"), [(1006, ""), (1000.0, ""), (None, ""), ("1000", ""), (1000, None)])
def test_a_close_that_is_refused_leaves_a_held_end_where_it_is(name: str, code: Any, reason: Any) -> None:
    connection = holding(Role.CLIENT, HELD[name])
    with pytest.raises(LocalProtocolError):
        connection.close(code, reason, 2.0)
    assert stands(connection) == (State.OPEN, TransportAction.OPEN)
    assert (connection.next_timer, connection.bytes_to_send) == ((Timer.END, 1.0), 0)
    connection.send("answer", 2.0)
    connection.handle_timeout(2.0)
    assert connection.state is HELD[name].state
    assert [frame.opcode for frame in taken(connection)] == [TEXT, CLOSE]


def test_the_answer_to_our_close_is_seen_while_reading_is_paused() -> None:
    connection = opened()
    connection.reading_paused(0.0)
    connection.close(1000, "", 0.0)
    assert fed(connection, wire(Role.CLIENT, CLOSE, b"\x03\xe8")) == []
    assert stands(connection)[0] is State.CLOSE_EXCHANGED


def test_events_that_were_there_before_reading_paused_are_told() -> None:
    connection = opened(config=ConnectionConfig())
    connection.handle_timeout(30.0)
    connection.reading_paused(30.0)
    assert list(connection.events()) == [HeartbeatPinged(0)]


def test_a_transport_that_breaks_while_reading_is_paused_ends_at_once() -> None:
    connection = opened()
    connection.reading_paused(0.0)
    error = BrokenPipeError(32, "broken")
    info = eof(connection, 1.0, error)
    assert (info.cause, info.error) == (Cause.TRANSPORT_LOST, error)
    connection.reading_resumed(2.0)
    assert list(connection.events()) == []


def test_messages_that_came_before_the_end_survive_a_pause() -> None:
    connection = opened()
    connection.receive_data(wire(Role.CLIENT, TEXT, b"x") * 3, 0.0)
    connection.receive_eof(0.0)
    assert connection.next_event() == Message("x", 1)
    connection.reading_paused(0.0)
    assert connection.next_event() is None
    connection.reading_resumed(1.0)
    *messages, closed = connection.events()
    assert messages == [Message("x", 1)] * 2
    assert isinstance(closed, Closed)


def test_an_end_told_twice_loses_no_messages_to_a_pause_between() -> None:
    # asyncio tells of the end of a stream, and later of the end of its transport.
    connection = opened()
    connection.receive_data(wire(Role.CLIENT, TEXT, b"x") * 3, 0.0)
    connection.receive_eof(0.0)
    assert connection.next_event() == Message("x", 1)
    connection.reading_paused(0.0)
    connection.receive_eof(0.0)
    connection.reading_resumed(1.0)
    *messages, closed = connection.events()
    assert messages == [Message("x", 1)] * 2
    assert isinstance(closed, Closed)


def test_what_is_dropped_unread_is_no_event_any_more_and_the_end_is_found() -> None:
    connection = opened()
    connection.receive_data(wire(Role.CLIENT, TEXT, b"x") * 3, 0.0)
    assert connection.next_event() == Message("x", 1)
    connection.receive_eof(0.0)
    connection.drop_unread()
    (closed,) = connection.events()
    assert isinstance(closed, Closed)


def test_the_wire_size_is_that_of_the_last_data_frame() -> None:
    connection = opened()
    connection.receive_data(wire(Role.CLIENT, TEXT, b"12345") + wire(Role.CLIENT, BINARY, b"123"), 0.0)
    assert [connection.wire_size for _ in connection.events()] == [5, 3]


# Compression and limits, as far as they are a matter of wiring.


def test_both_directions_are_compressed_as_agreed_and_counted() -> None:
    # Only the client keeps its context, so only its second message is a mere reference to the first.
    agreed = DeflateParams(True, False, 9, 15)
    client = ConnectionProtocol(Role.CLIENT, SILENT, now=0.0, deflate=agreed)
    server = ConnectionProtocol(Role.SERVER, SILENT, now=0.0, deflate=agreed)
    text = "".join(f"{i * i * 7919:x}" for i in range(400))
    sizes = []
    for sender, receiver in ((client, server), (server, client)):
        for _ in range(2):
            assert sender.send(text, 0.0) == len(text)  # before it is compressed
            data = sender.data_to_send()
            sizes.append(len(data))
            assert fed(receiver, data) == [Message(text, len(text))]
        sender.send("short", 0.0)
        assert fed(receiver, sender.data_to_send()) == [Message("short", 5)]
        outbound = sender.stats.compression.outbound
        assert (outbound.messages_compressed, outbound.messages_uncompressed) == (2, 1)
        assert (outbound.bytes_before, outbound.bytes_uncompressed) == (2 * len(text), 5)
        assert outbound.bytes_after < outbound.bytes_before
        assert receiver.stats.compression.inbound == outbound
    first, second, *others = sizes
    assert first < len(text)
    assert second < 100
    assert others[0] == others[1] < len(text)


def test_what_does_not_compress_goes_out_as_it_is() -> None:
    connection = ConnectionProtocol(Role.SERVER, SILENT, now=0.0, deflate=DeflateParams(True, True, 15, 15))
    noise = bytes((i * i * 31 + i * 17 + (i >> 3)) % 251 for i in range(1024))
    noise = bytes(a ^ b for a, b in zip(noise, random_like(1024), strict=True))
    connection.send(noise, 0.0)
    assert taken(connection) == [Sent(BINARY, noise)]
    assert connection.stats.compression.outbound == DirectionStats(messages_uncompressed=1, bytes_uncompressed=1024)


def random_like(size: int) -> bytes:
    state, output = 1, bytearray()
    for _ in range(size):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        output.append(state >> 56)
    return bytes(output)


def test_fragments_are_not_compressed_and_count_as_one_message() -> None:
    connection = ConnectionProtocol(Role.SERVER, SILENT, now=0.0, deflate=DeflateParams(True, True, 15, 15))
    for final in (False, False, True):
        connection.send("x" * 2000, 0.0, final=final)
    assert [frame.rsv1 for frame in taken(connection)] == [False] * 3
    outbound = connection.stats.compression.outbound
    assert (outbound.messages_uncompressed, outbound.bytes_uncompressed) == (1, 6000)


def test_compression_that_is_switched_off_is_not_used_even_if_agreed_on() -> None:
    config = ConnectionConfig(heartbeat=None, compression=None)
    connection = ConnectionProtocol(Role.CLIENT, config, now=0.0, deflate=DeflateParams(True, True, 15, 15))
    connection.send("x" * 2000, 0.0)
    ((_, payload, _, rsv1),) = taken(connection)
    assert (payload, rsv1) == (b"x" * 2000, False)
    fed(connection, wire(Role.CLIENT, BINARY, b"\x00", rsv1=True))
    assert eof(connection).cause is Cause.PROTOCOL_ERROR


def test_a_large_frame_is_a_warning_before_its_message() -> None:
    config = ConnectionConfig(heartbeat=None, limits=FrameLimits(warn_threshold=100, max_message_size=101))
    connection = opened(config=config)
    data = wire(Role.CLIENT, BINARY, bytes(99)) + wire(Role.CLIENT, BINARY, bytes(100))
    assert fed(connection, data) == [
        Message(bytes(99), 99),
        FrameSizeWarning(100),
        Message(bytes(100), 100),
    ]
    assert connection.stats.frames.warnings == 1
    fed(connection, wire(Role.CLIENT, BINARY, bytes(102))[:2])
    assert eof(connection).cause is Cause.TOO_BIG
    assert connection.stats.frames.violations == 1

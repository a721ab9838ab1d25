"""The invariants of a connection, for whatever a peer, a clock and an application do."""

from __future__ import annotations

import dataclasses
import itertools
import random
import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsconnkit.machines.closing import State
from wsconnkit.machines.framesize import FrameLimits
from wsconnkit.machines.heartbeat import HeartbeatConfig
from wsconnkit.protocol.config import CloseConfig, ConnectionConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.deflate import CompressionConfig, DeflateParams
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.events import Closed, Event, Message
from wsconnkit.protocol.frames import Role
from wsconnkit.protocol.timers import Timer
from wsconnkit.protocol.transportaction import TransportAction

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MASK = b"\x5a\xff\x00\x13"
AGREED = DeflateParams(True, False, 15, 15)
CONFIG = ConnectionConfig(
    heartbeat=HeartbeatConfig(interval=8.0, timeout=2.0, max_missed=2),
    limits=FrameLimits(max_frame_size=150, max_message_size=200, warn_threshold=20, max_fragments=4),
    compression=CompressionConfig(threshold=8),
    close=CloseConfig(timeout=3.0),
    idle_timeout=30.0,
)

roles = st.sampled_from(list(Role))
agreements = st.sampled_from([None, AGREED])


def wire(role: Role, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A frame as the peer of `role` sends it."""
    masked = 128 if role is Role.SERVER else 0
    head = struct.pack("!B", opcode | (128 if fin else 0) | rsv << 4)
    size = len(payload)
    head += struct.pack("!B", masked | size) if size < 126 else struct.pack("!BH", masked | 126, size)
    if masked:
        return head + MASK + bytes(byte ^ MASK[i % 4] for i, byte in enumerate(payload))
    return head + payload


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def opened(role: Role, deflate: DeflateParams | None = None, config: ConnectionConfig = CONFIG) -> ConnectionProtocol:
    return ConnectionProtocol(role, config, now=0.0, deflate=deflate, random_bytes=random.Random(1).randbytes)


@st.composite
def streams(draw: st.DrawFn, role: Role, compress: bool) -> bytes:
    """Frames that make sense one after the other, and at times some that do not."""
    contents = st.text(max_size=30).map(str.encode) | st.binary(max_size=60) | st.just(b"x" * 180)
    closes = st.sampled_from([b"", b"\x03\xe8", b"\x03\xe9gone", b"\x03", b"\x03\xee", b"\x03\xe8\xff"])
    data = b""
    for kind in draw(st.lists(st.sampled_from("mmmmffpobdc"), max_size=6)):
        content = draw(contents)
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        compressed = compress and draw(st.booleans())
        payload = deflated(content) if compressed else content
        if kind == "m":
            data += wire(role, opcode, payload, rsv=4 * compressed)
        elif kind == "f":
            cuts = sorted(draw(st.lists(st.integers(0, len(payload)), min_size=1, max_size=4)))
            for start, end in itertools.pairwise([0, *cuts]):
                data += wire(role, opcode if not start else CONTINUATION, payload[start:end], fin=False)
                data += wire(role, PING, b"within")
            data += wire(role, CONTINUATION, payload[cuts[-1] :])
        elif kind == "p":
            data += wire(role, PING, content[:125])
        elif kind == "o":
            data += wire(role, PONG, content[:125])
        elif kind == "b":
            data += wire(role, draw(st.integers(0, 15)), content[:125], fin=draw(st.booleans()))
        elif kind == "d":
            data += wire(role, opcode, content, rsv=draw(st.integers(0, 7)))
        else:
            data += wire(role, CLOSE, draw(closes))
    return data


@st.composite
def broken_streams(draw: st.DrawFn, role: Role, compress: bool) -> bytes:
    data = bytearray(draw(streams(role, compress)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        if draw(st.booleans()):
            data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
        elif at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


def told(event: Event) -> object:
    """An event without what depends on when its bytes arrived."""
    if isinstance(event, Closed):
        return dataclasses.replace(event.info, last_byte_in_age=0.0, last_byte_out_age=0.0)
    return event


def outcome(connection: ConnectionProtocol, chunks: list[bytes]) -> tuple[object, ...]:
    events: list[object] = []
    for chunk in chunks:
        connection.receive_data(chunk, 0.0)
        events += map(told, connection.events())
    if connection.next_timer == (Timer.END, 0.0):
        connection.handle_timeout(0.0)  # the application has had its chance to answer
    state, transport = connection.state, connection.transport_action
    connection.receive_eof(0.0)
    events += map(told, connection.events())
    return events, connection.data_to_send(), connection.close_info, state, transport, connection.stats


def outcomes(
    data: st.DataObject, stream: bytes, role: Role, agreed: DeflateParams | None, config: ConnectionConfig = CONFIG
) -> list[tuple[object, ...]]:
    """What comes of a stream in one read, in some, and byte by byte."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)])]
    bytewise = [stream[i : i + 1] for i in range(len(stream))]
    return [outcome(opened(role, agreed, config), chunks) for chunks in ([stream], pieces, bytewise)]


@given(st.data(), roles, agreements)
@settings(deadline=None, max_examples=300)
def test_read_boundaries_change_nothing(data: st.DataObject, role: Role, agreed: DeflateParams | None) -> None:
    stream = data.draw(broken_streams(role, agreed is not None))
    whole, *others = outcomes(data, stream, role, agreed)
    assert others == [whole] * 2


class Bits:
    """Writes a deflate stream (RFC 1951) bit by bit: what no compressor would."""

    def __init__(self) -> None:
        self._bits: list[int] = []

    def number(self, value: int, size: int) -> None:
        self._bits += [value >> i & 1 for i in range(size)]

    def code(self, value: int, size: int) -> None:
        self._bits += [value >> i & 1 for i in reversed(range(size))]

    def stored(self, content: bytes, *, final: bool, length_error: int) -> None:
        self.number(final, 1)
        self.number(0, 2)
        self._bits += [0] * (-len(self._bits) % 8)
        self.number(len(content), 16)
        self.number(len(content) ^ 0xFFFF ^ length_error, 16)
        for byte in content:
            self.number(byte, 8)

    def fixed(self, symbols: list[int | tuple[int, int]], *, final: bool) -> None:
        """A block of literals, and of matches of 3 to 258 bytes at a distance."""
        self.number(final, 1)
        self.number(1, 2)
        for symbol in symbols:
            if isinstance(symbol, tuple):
                self._match(*symbol)
            elif symbol < 144:
                self.code(0x30 + symbol, 8)
            else:
                self.code(0x190 + symbol - 144, 9)
        self.code(0, 7)

    def _match(self, size: int, distance: int) -> None:
        if size == 258:
            self.code(0xC5, 8)
        else:
            self.code(size - 2, 7)  # up to 10 without extra bits
        extra = max(0, (distance - 1).bit_length() - 2)
        self.code(2 * extra + (distance - 1 >> extra), 5)
        self.number((distance - 1) % (1 << extra), extra)

    def written(self) -> bytes:
        bits = self._bits + [0] * (-len(self._bits) % 8)
        return bytes(sum(bit << i for i, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))


literals = st.sampled_from([*b"ab", *"\u00e9".encode(), 0xFF])
distances = st.sampled_from([1, 2, 3, 4, 5, 200, 256, 257, 511, 512, 513, 600, 1024, 1025, 32768])
matches = st.tuples(st.sampled_from([3, 4, 10, 258]), distances)
contents_of_blocks = st.binary(max_size=6) | st.sampled_from([b"", b"x", b"x" * 300, b"x" * 600 + b"\xff", b"\xc3"])


@st.composite
def deflate_streams(draw: st.DrawFn) -> bytes:
    """Blocks of every type, final ones anywhere, and at times a stream that is cut or broken, or goes on."""
    bits = Bits()
    for kind in draw(st.lists(st.sampled_from("sssfffffddbe"), max_size=6)):
        final = draw(st.sampled_from([False, False, False, True]))
        if kind == "s":
            bits.stored(draw(contents_of_blocks), final=final, length_error=draw(st.sampled_from([0] * 6 + [1])))
        elif kind == "f":
            bits.fixed(draw(st.lists(literals | matches, max_size=6)), final=final)
        elif kind == "d":
            for byte in deflated(draw(contents_of_blocks) + bytes(range(97, 120)) * 20):
                bits.number(byte, 8)
        elif kind == "b":
            bits.number(7, 3)
        else:
            for byte in (b"\x03\x00" if final else b"\x00\x00\x00\xff\xff") * draw(st.sampled_from([1, 3, 257])):
                bits.number(byte, 8)
    data = bytearray(bits.written())
    fault = draw(st.sampled_from(["", "", "cut", "flip", "more"]))
    if fault == "cut":
        del data[draw(st.integers(0, len(data))) :]
    elif fault == "flip" and data:
        data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    elif fault == "more":
        data += draw(st.binary(min_size=1, max_size=4))
    return bytes(data.removesuffix(b"\x00\x00\xff\xff"))


@st.composite
def compressed_messages(draw: st.DrawFn, role: Role) -> bytes:
    data = b""
    for payload in draw(st.lists(deflate_streams(), min_size=1, max_size=3)):
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        opcode, rsv = draw(st.sampled_from([TEXT, BINARY])), 4
        for start, end in itertools.pairwise([0, *cuts]):
            data += wire(role, opcode, payload[start:end], fin=False, rsv=rsv)
            opcode, rsv = CONTINUATION, 0
        data += wire(role, opcode, payload[cuts[-1] if cuts else 0 :], rsv=rsv)
    return data


@given(st.data(), roles, st.sampled_from([8, 9, 10, 15]), st.booleans(), st.sampled_from([1, 5, 300, 1000, 1 << 20]))
@settings(deadline=None, max_examples=400)
def test_read_boundaries_change_nothing_about_any_deflate_stream(
    data: st.DataObject, role: Role, window_bits: int, no_takeover: bool, max_message_size: int
) -> None:
    agreed = DeflateParams(no_takeover, no_takeover, window_bits, window_bits)
    config = ConnectionConfig(limits=FrameLimits(max_message_size=max_message_size))
    stream = data.draw(compressed_messages(role))
    whole, *others = outcomes(data, stream, role, agreed, config)
    assert others == [whole] * 2


def test_a_window_larger_than_agreed_is_understood_within_a_message_however_it_is_read() -> None:
    # Where each read ends, zlib forgets what is beyond its window.
    noise = random.Random(7).randbytes(2000)
    stream = wire(Role.CLIENT, BINARY, deflated(noise + noise[:500]), rsv=4)
    assert len(stream) < 2100  # it does refer back further than the 512 bytes
    for step in (len(stream), 100, 1):
        connection = opened(Role.CLIENT, DeflateParams(False, False, 9, 9), ConnectionConfig())
        events = outcome(connection, [stream[at : at + step] for at in range(0, len(stream), step)])[0]
        assert isinstance(events, list)
        assert events[0] == Message(noise + noise[:500], 2500)


@pytest.mark.parametrize(
    ("payload", "opcode", "reason", "errors"),
    [
        # Text that is no UTF-8 in front of what is no deflate stream, in front of what is too much, and behind it.
        (b"\x00\x01\x00\xfe\xff\xff\x07", TEXT, "text is not valid UTF-8", 0),
        (b"\x00\x01\x00\xfe\xff\xff\x00\x06\x00\xf9\xffxxxxxx", TEXT, "text is not valid UTF-8", 0),
        (b"\x00\x01\x00\xfe\xff\xff\x00\x05", TEXT, "text is not valid UTF-8", 0),
        (b"\x00\x06\x00\xf9\xffxxxxx\xff\x07", TEXT, "message of 6 bytes is over max_message_size (5)", 0),
        # What zlib reads on without being asked to.
        (b"\x00\x06\x00\xf9\xffxxxxxx\x07", BINARY, "message of 6 bytes is over max_message_size (5)", 0),
        (b"\x00\x05\x00\xfa\xffxxxxx\x07", BINARY, "corrupt deflate data", 1),
    ],
)
def test_the_first_fault_in_a_message_is_the_one_that_is_told(
    payload: bytes, opcode: int, reason: str, errors: int
) -> None:
    stream = wire(Role.CLIENT, opcode, payload, rsv=4)
    for step in (len(stream), 3, 1):
        connection = opened(Role.CLIENT, AGREED, ConnectionConfig(limits=FrameLimits(max_message_size=5)))
        outcome(connection, [stream[at : at + step] for at in range(0, len(stream), step)])
        assert connection.close_info is not None
        assert connection.close_info.reason == reason
        assert connection.stats.compression.inbound.errors == errors


@given(st.binary(max_size=200), roles, agreements)
@settings(deadline=None, max_examples=200)
@example(b"\xc1\x00", Role.CLIENT, AGREED)
def test_arbitrary_bytes_end_in_one_closed(stream: bytes, role: Role, agreed: DeflateParams | None) -> None:
    connection = opened(role, agreed)
    connection.receive_data(stream, 0.0)
    assert not any(isinstance(event, Closed) for event in connection.events())
    for expected in (1, 0):
        connection.receive_eof(0.0)
        assert [type(event) for event in connection.events()] == [Closed] * expected


Step = Callable[[ConnectionProtocol, float], object]
steps: st.SearchStrategy[Step] = st.one_of(
    st.sampled_from(["", "text", "long enough to be compressed"]).map(lambda text: lambda c, now: c.send(text, now)),
    st.booleans().map(lambda final: lambda c, now: c.send(b"part", now, final=final)),
    st.sampled_from([None, b"p", bytes(126)]).map(lambda payload: lambda c, now: c.ping(payload, now)),
    st.sampled_from([1000, 1006, 4000]).map(lambda code: lambda c, now: c.close(code, "why", now)),
    st.sampled_from(
        [
            lambda c, now: c.reading_paused(now),
            lambda c, now: c.reading_resumed(now),
            lambda c, now: c.writing_paused(now),
            lambda c, now: c.writing_resumed(now),
            lambda c, now: c.receive_eof(now),
            lambda c, now: c.receive_eof(now, OSError("gone")),
            lambda c, now: c.handle_timeout(now),
            lambda c, now: c.handle_timeout(c.next_timeout() or now),
            lambda c, now: c.data_to_send(),
        ]
    ),
)


def receiving(chunk: bytes) -> Step:
    return lambda c, now: c.receive_data(chunk, now)


@st.composite
def scripts(draw: st.DrawFn, role: Role, compress: bool) -> list[tuple[float, Step, bool]]:
    stream = draw(broken_streams(role, compress))
    reads = st.sampled_from([1, 5, 50])
    script: list[tuple[float, Step, bool]] = []
    for _ in range(draw(st.integers(0, 25))):
        elapsed = draw(st.sampled_from([0.0, 0.0, 0.1, 2.0, 9.0, -5.0]))
        if stream and draw(st.booleans()):
            size = draw(reads)
            chunk, stream = stream[:size], stream[size:]
            step = receiving(chunk)
        else:
            step = draw(steps)
        script.append((elapsed, step, draw(st.booleans())))
    return script


@given(st.data(), roles, agreements)
@settings(deadline=None, max_examples=250)
def test_the_invariants_hold_whatever_happens(data: st.DataObject, role: Role, agreed: DeflateParams | None) -> None:
    connection = opened(role, agreed)
    events: list[Event] = []
    now = latest = 0.0
    for elapsed, step, drain in data.draw(scripts(role, agreed is not None)):
        now += elapsed
        before = connection.state, connection.transport_action, connection.bytes_to_send, connection.next_timeout()
        try:
            step(connection, now)
        except LocalProtocolError:
            assert before == (
                connection.state,
                connection.transport_action,
                connection.bytes_to_send,
                connection.next_timeout(),
            )
        latest = max(latest, now)
        if drain:
            events += connection.events()

        deadline = connection.next_timeout()
        assert connection.next_timeout() == deadline
        if connection.state is State.CLOSED:
            assert deadline is None
        elif connection.state is not State.OPEN:
            assert deadline is not None  # or the closing might never end
        assert (connection.state is State.CLOSED) == (connection.transport_action is TransportAction.ABORT)
        assert (connection.close_info is None) == (connection.state is not State.CLOSED)

        if deadline is not None and deadline > latest and connection.next_timer != (Timer.END, deadline):
            pending = connection.bytes_to_send
            connection.handle_timeout(latest)
            assert (connection.next_timeout(), connection.bytes_to_send) == (deadline, pending)

    connection.reading_resumed(now)  # or there might be nothing to wait for
    events += connection.events()
    for _ in range(100):
        deadline = connection.next_timeout()
        if deadline is None:
            break
        connection.handle_timeout(deadline)
        following = connection.next_timeout()
        assert following is None or following > deadline
        events += connection.events()
    assert [type(event) for event in events].count(Closed) == 1
    assert isinstance(events[-1], Closed)
    connection.receive_data(b"\xff" * 100, now)
    connection.receive_eof(now)
    connection.handle_timeout(now + 1e6)
    assert list(connection.events()) == []


contents = st.text(max_size=80) | st.binary(max_size=80)


@given(st.lists(st.tuples(st.booleans(), contents, st.booleans()), max_size=12), agreements, st.integers(1, 40))
@settings(deadline=None, max_examples=100)
def test_two_of_ours_deliver_every_message_once_and_in_order(
    messages: list[tuple[bool, str | bytes, bool]], agreed: DeflateParams | None, step: int
) -> None:
    config = dataclasses.replace(CONFIG, limits=FrameLimits())
    client, server = opened(Role.CLIENT, agreed, config), opened(Role.SERVER, agreed, config)
    for from_client, content, fragment in messages:
        sender, receiver = (client, server) if from_client else (server, client)
        expected = [Message(content, len(content.encode() if isinstance(content, str) else content), not fragment)]
        sender.send(content, 0.0, final=not fragment)
        if fragment:
            empty: str | bytes = "" if isinstance(content, str) else b""
            sender.ping(b"between", 0.0)
            sender.send(empty, 0.0)
            expected.append(Message(empty, 0))
        data = sender.data_to_send()
        received: list[Event] = []
        for i in range(0, len(data), step):
            receiver.receive_data(data[i : i + step], 0.0)
            received += receiver.events()
        assert [event for event in received if isinstance(event, Message)] == expected
        sender.receive_data(receiver.data_to_send(), 0.0)
        list(sender.events())

    client.close(1000, "done", 0.0)
    server.receive_data(client.data_to_send(), 0.0)
    assert list(server.events()) == []
    client.receive_data(server.data_to_send(), 0.0)
    assert list(client.events()) == []
    assert (client.state, server.state) == (State.CLOSE_EXCHANGED, State.CLOSE_EXCHANGED)
    assert client.stats.messages_sent == server.stats.messages_received
    assert server.stats.messages_sent == client.stats.messages_received
    assert server.stats.bytes_received == client.stats.bytes_sent
    assert client.stats.frames.violations == server.stats.frames.violations == 0

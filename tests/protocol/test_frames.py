from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame as PeerFrame
from websockets.protocol import OPEN, Protocol, Side
from wsproto import connection as wsproto_connection
from wsproto.events import BytesMessage, Ping, Pong, TextMessage

from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.protocol.closeinfo import Cause, CloseFrame
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.frames import (
    FrameError,
    Opcode,
    apply_mask,
    check_close,
    check_ping,
    close_payload,
    encode_frame,
    parse_close,
)

from .reading import NO_CODES, NO_REASONS, NO_TEXTS, PING, PONG, deflated, naive_mask, wire

opcodes = st.sampled_from(list(Opcode))
masks = st.none() | st.binary(min_size=4, max_size=4)
# The sizes around which the header changes its form (RFC 6455, section 5.2), and some between.
payloads = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 70001]).map(
    lambda size: bytes(itertools.islice(itertools.cycle(b"wsconnkit\x00\xff"), size))
) | st.binary(max_size=300)


def judged(payload: bytes) -> CloseFrame | tuple[CloseCode, Cause, str]:
    try:
        return parse_close(payload)
    except FrameError as error:
        return error.code, error.cause, str(error)


# Encoding.


@given(opcodes, payloads, st.booleans(), st.booleans(), masks)
@settings(deadline=None, max_examples=150)
def test_encoding_agrees_with_a_naive_encoder(
    opcode: Opcode, payload: bytes, fin: bool, compressed: bool, mask: bytes | None
) -> None:
    encoded = encode_frame(opcode, payload, fin=fin, compressed=compressed, mask=mask)
    assert encoded == wire(opcode, payload, fin=fin, rsv=4 if compressed else 0, mask=mask)


@given(st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG]), payloads)
@settings(deadline=None, max_examples=60)
def test_a_servers_frames_are_those_that_wsproto_sends(opcode: Opcode, payload: bytes) -> None:
    peer = wsproto_connection.Connection(wsproto_connection.SERVER)
    if opcode.iscontrol():
        payload = payload[:125]
    if opcode is Opcode.TEXT:
        text = payload.decode("latin-1")
        payload = text.encode()
        expected = peer.send(TextMessage(data=text))
    elif opcode is Opcode.BINARY:
        expected = peer.send(BytesMessage(data=payload))
    elif opcode is Opcode.PING:
        expected = peer.send(Ping(payload=payload))
    else:
        expected = peer.send(Pong(payload=payload))
    assert encode_frame(opcode, payload) == expected


@given(payloads, st.binary(min_size=4, max_size=4))
@settings(deadline=None, max_examples=60)
def test_wsproto_reads_a_clients_frames(payload: bytes, mask: bytes) -> None:
    peer = wsproto_connection.Connection(wsproto_connection.SERVER)
    peer.receive_data(encode_frame(Opcode.BINARY, payload, mask=mask))
    assert list(peer.events()) == [BytesMessage(data=payload)]


@given(st.lists(st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125)), max_size=3), payloads, st.data())
@settings(deadline=None, max_examples=60)
def test_websockets_reads_our_frames(controls: list[tuple[int, bytes]], payload: bytes, data: st.DataObject) -> None:
    side = data.draw(st.sampled_from([Side.CLIENT, Side.SERVER]))
    mask = data.draw(st.binary(min_size=4, max_size=4)) if side is Side.SERVER else None
    cut = data.draw(st.integers(0, len(payload)))
    sent = [(Opcode.BINARY, payload[:cut], False)]
    sent += [(Opcode(opcode), content, True) for opcode, content in controls]
    sent += [(Opcode.CONTINUATION, payload[cut:], True)]

    peer = Protocol(side, state=OPEN, max_size=None)
    for opcode, content, fin in sent:
        peer.receive_data(encode_frame(opcode, content, fin=fin, mask=mask))
    received = peer.events_received()

    assert peer.parser_exc is None
    frames = [frame for frame in received if isinstance(frame, PeerFrame)]
    assert [(Opcode(frame.opcode), bytes(frame.data), frame.fin) for frame in frames] == sent


def test_websockets_inflates_our_compressed_frame() -> None:
    peer = Protocol(Side.CLIENT, state=OPEN, max_size=None)
    peer.extensions = [PerMessageDeflate(True, True, 15, 15)]
    peer.receive_data(encode_frame(Opcode.TEXT, deflated(b"squeeze" * 50), compressed=True))
    (frame,) = peer.events_received()
    assert isinstance(frame, PeerFrame)
    assert bytes(frame.data) == b"squeeze" * 50


# Masks.


@given(st.binary(max_size=2000), st.binary(min_size=4, max_size=4))
@settings(deadline=None)
def test_masking_agrees_with_a_naive_mask(data: bytes, mask: bytes) -> None:
    masked = apply_mask(data, mask)
    assert masked == naive_mask(data, mask)
    assert apply_mask(masked, mask) == data


@pytest.mark.parametrize("size", range(10))
def test_a_mask_that_zeroes_the_data_keeps_its_length(size: int) -> None:
    assert apply_mask((b"\x01\x02\x03\x04" * 3)[:size], b"\x01\x02\x03\x04") == bytes(size)


# The content of Close frames.


def test_every_close_code_is_judged_as_the_rfc_says() -> None:
    # Registered and not "MUST NOT be set as a status code in a Close control frame" (section 7.4.1), or 3000 to 4999.
    allowed = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    for code in range(65536):
        expected = (code, ""), (CloseCode.PROTOCOL_ERROR, Cause.PROTOCOL_ERROR, f"Close frame with the code {code}")
        assert judged(struct.pack("!H", code)) == expected[code not in allowed]


def test_an_empty_close_frame_has_no_status() -> None:
    assert parse_close(b"") == CloseFrame(CloseCode.NO_STATUS_RCVD, "")


def test_a_close_frame_of_one_byte_is_a_protocol_error() -> None:
    with pytest.raises(FrameError, match="one byte") as caught:
        parse_close(b"\x03")
    assert (caught.value.code, caught.value.cause) == (CloseCode.PROTOCOL_ERROR, Cause.PROTOCOL_ERROR)


def test_a_close_reason_is_decoded() -> None:
    assert parse_close(b"\x03\xe8" + "à bientôt".encode()) == (1000, "à bientôt")


@pytest.mark.parametrize("reason", [b"\xff", b"cut \xc3", b"\xed\xa0\x80"])
def test_a_close_reason_that_is_no_utf8_is_invalid_data(reason: bytes) -> None:
    with pytest.raises(FrameError, match=r"no UTF-8") as caught:
        parse_close(b"\x03\xe8" + reason)
    assert (caught.value.code, caught.value.cause) == (CloseCode.INVALID_DATA, Cause.INVALID_DATA)


# What may be in a ping.


@pytest.mark.parametrize("payload", [bytearray(b"x"), "x", 4])
def test_check_ping_refuses_what_is_no_bytes(payload: object) -> None:
    with pytest.raises(TypeError, match=f"ping payload is of type {type(payload).__name__}; it must be bytes"):
        check_ping(payload)


def test_check_ping_refuses_more_than_a_control_frame_holds() -> None:
    check_ping(b"")
    check_ping(bytes(125))
    with pytest.raises(LocalProtocolError, match="ping payload of 126 bytes; at most 125 are allowed"):
        check_ping(bytes(126))


# What may be said in a Close frame.


@pytest.mark.parametrize("code", NO_CODES)
def test_check_close_refuses_a_code_whatever_the_reason(code: object) -> None:
    for reason in ("", "bye", None):
        with pytest.raises(LocalProtocolError) as caught:
            check_close(code, reason)
        assert str(caught.value) == (
            f"close code {code!r} cannot be sent; allowed are 1000 to 1003, 1007 to 1014 and 3000 to 4999"
        )


@pytest.mark.parametrize("reason", NO_REASONS)
def test_check_close_refuses_a_reason_that_is_no_str(reason: object) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        check_close(1000, reason)
    assert str(caught.value) == f"close reason is of type {type(reason).__name__}; it must be str"


@pytest.mark.parametrize("reason", NO_TEXTS)
def test_check_close_refuses_a_reason_that_utf8_cannot_carry(reason: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^close reason cannot be sent as UTF-8: .* surrogates not allowed$"):
        check_close(1000, reason)


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999, CloseCode.GOING_AWAY])
@pytest.mark.parametrize("reason", ["", "bye", "😀", "é" * 300])
def test_check_close_takes_whatever_can_be_sent(code: int, reason: str) -> None:
    check_close(code, reason)


@pytest.mark.parametrize("frame", [CloseFrame(1000, ""), CloseFrame(4999, "à bientôt"), CloseFrame(1005, "")])
def test_what_a_close_frame_says_is_read_as_it_was_written(frame: CloseFrame) -> None:
    assert parse_close(close_payload(frame)) == frame
    assert len(close_payload(frame)) == (0 if frame.code == 1005 else 2 + len(frame.reason.encode()))

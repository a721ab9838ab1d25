from __future__ import annotations

from typing import Any

import pytest

from wsconnkit.protocol.deflate import CompressionConfig, Deflater
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.frames import Opcode, encode_frame
from wsconnkit.protocol.prepared import PreparedMessage

TEXT = "to everybody: " * 200
NOISE = bytes(pow(3, power, 257) % 256 for power in range(200))


def deflater(*, level: int = 6, context_takeover: bool = False) -> Deflater:
    config = CompressionConfig(level=level)
    return Deflater(config, window_bits=15, context_takeover=context_takeover)


def test_it_is_compressed_once_for_the_same_settings() -> None:
    prepared = PreparedMessage(TEXT)
    deflated = prepared.deflate(deflater())
    assert deflated == deflater().compress(TEXT.encode())
    assert prepared.deflate(deflater()) is deflated
    assert prepared.deflate(deflater(level=1)) == deflater(level=1).compress(TEXT.encode()) != deflated


def test_that_it_does_not_compress_is_remembered_too() -> None:
    prepared = PreparedMessage(NOISE)
    assert [prepared.deflate(deflater()) for _ in range(2)] == [None, None]


def test_with_a_context_that_is_kept_it_is_compressed_each_time() -> None:
    prepared = PreparedMessage(TEXT)
    kept = deflater(context_takeover=True)
    first, second = prepared.deflate(kept), prepared.deflate(kept)
    assert first is not None
    assert second is not None
    assert len(second) < len(first)


def test_it_is_framed_once_as_it_is_and_once_for_each_compressed_form() -> None:
    prepared = PreparedMessage(TEXT)
    deflated = prepared.deflate(deflater())
    assert deflated is not None
    assert prepared.frame(None) == encode_frame(Opcode.TEXT, TEXT.encode())
    assert prepared.frame(deflated) == encode_frame(Opcode.TEXT, deflated, compressed=True)
    for payload in (None, deflated):
        assert prepared.frame(payload) is prepared.frame(payload)


def test_text_is_text_and_all_else_is_binary() -> None:
    assert PreparedMessage("a").opcode is Opcode.TEXT
    for binary in (b"a", bytearray(b"a"), memoryview(b"a")):
        assert (PreparedMessage(binary).opcode, PreparedMessage(binary).payload) == (Opcode.BINARY, b"a")


def test_it_keeps_its_content_when_the_buffer_changes() -> None:
    buffer = bytearray(b"before")
    prepared = PreparedMessage(memoryview(buffer))
    buffer[:] = b"behind"
    assert prepared.frame(None) == b"\x82\x06before"
    assert prepared.size == 6


def test_its_size_is_in_bytes() -> None:
    assert PreparedMessage("ä€").size == 5


@pytest.mark.parametrize("message", [None, 1, ["a"], object(), {}])
def test_other_types_are_refused(message: Any) -> None:
    with pytest.raises(TypeError, match="it must be str, bytes, bytearray or memoryview"):
        PreparedMessage(message)


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="text cannot be sent as UTF-8"):
        PreparedMessage("\ud800")

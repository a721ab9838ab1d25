from __future__ import annotations

import itertools
import random
import struct
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsconnkit.protocol.deflate import (
    CompressionConfig,
    DeflateParams,
    Deflater,
    InflateError,
    Inflater,
    client_accept,
    client_offer,
    deflate_pair,
    server_accept,
)
from wsconnkit.protocol.http import ExtensionOffer, parse_extensions

TAKEOVER = CompressionConfig(server_context_takeover=True, client_context_takeover=True)
NO_TAKEOVER = CompressionConfig()
UNLIMITED = 1 << 30
SYNC_TAIL = b"\x00\x00\xff\xff"

BITS = st.integers(9, 15)
CONFIGS = st.builds(
    CompressionConfig,
    level=st.integers(1, 9),
    memory_level=st.integers(1, 9),
    threshold=st.just(0),
    server_max_window_bits=BITS,
    client_max_window_bits=BITS,
    server_context_takeover=st.booleans(),
    client_context_takeover=st.booleans(),
)
# Repetitions near and far, so that windows matter, and noise that does not compress.
MESSAGES = st.lists(
    st.lists(
        st.sampled_from([b"Hello", b"\x00" * 300, bytes(range(256)), b"{}"]) | st.binary(max_size=20), max_size=8
    ).map(b"".join),
    min_size=1,
    max_size=4,
)


def offers(value: str) -> list[ExtensionOffer]:
    parsed = parse_extensions(value)
    assert parsed is not None
    return parsed


def accepted(value: str, config: CompressionConfig = TAKEOVER) -> str | None:
    agreed = server_accept(config, offers(value))
    return None if agreed is None else agreed[1]


def inflated(inflater: Inflater, payload: bytes, budget: int = UNLIMITED) -> bytes:
    return inflater.inflate(payload, budget) + inflater.finish(budget)


def inflated_in_pieces(inflater: Inflater, payload: bytes, size: int) -> bytes:
    """Inflate a part of a message, of which each call has `size` bytes, without its end."""
    return b"".join(inflater.inflate(payload[at : at + size], UNLIMITED) for at in range(0, len(payload), size))


def deflated(message: bytes, bits: int = 15) -> bytes:
    """Compress as a peer that is not ours does."""
    compressor = zlib.compressobj(wbits=-bits)
    return (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def held_by(make: Callable[[], object]) -> int:
    """Return the bytes that what `make` returns keeps alive."""
    make()  # what is allocated once and for all
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = make()
        size = tracemalloc.get_traced_memory()[0] - before
        del kept
        return size
    finally:
        tracemalloc.stop()


# Settings.


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("level", 1, 9),
        ("memory_level", 1, 9),
        ("server_max_window_bits", 9, 15),
        ("client_max_window_bits", 9, 15),
    ],
)
def test_settings_are_taken_inside_their_range_and_refused_outside(name: str, low: int, high: int) -> None:
    make: Any = CompressionConfig
    for value in (low, high):
        assert getattr(make(**{name: value}), name) == value
    for wrong in (low - 1, high + 1, float(low), str(low), None):
        with pytest.raises(ValueError, match=f"{name} is {wrong!r}; it must be an integer, {low} to {high}"):
            make(**{name: wrong})


def test_a_threshold_has_no_upper_end() -> None:
    assert CompressionConfig(threshold=10**12).threshold == 10**12
    with pytest.raises(ValueError, match="threshold is -1; it must be an integer, 0 or more"):
        CompressionConfig(threshold=-1)


def test_presets() -> None:
    assert (CompressionConfig.high().level, CompressionConfig.high().threshold) == (9, 512)
    assert (CompressionConfig.fast().level, CompressionConfig.fast().threshold) == (1, 2048)


# Negotiation.


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        # RFC 7692, section 7.1.3: "the simplest" one, then one with a fallback, with and without support for it.
        ("permessage-deflate", "permessage-deflate"),
        (
            "permessage-deflate; client_max_window_bits; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits=10",
        ),
        (
            "permessage-deflate; client_max_window_bits; server_max_window_bits=10, "
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=10",
        ),
        # Section 7.1.1.
        ("permessage-deflate; server_no_context_takeover", "permessage-deflate; server_no_context_takeover"),
        ("permessage-deflate; client_no_context_takeover", "permessage-deflate; client_no_context_takeover"),
        (
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        # Section 7.1.2.
        ("permessage-deflate; client_max_window_bits=10", "permessage-deflate; client_max_window_bits=10"),
        ('permessage-deflate; client_max_window_bits="10"', "permessage-deflate; client_max_window_bits=10"),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
        ("permessage-deflate; server_max_window_bits=8", "permessage-deflate; server_max_window_bits=8"),
        ("permessage-deflate; client_max_window_bits=8", "permessage-deflate; client_max_window_bits=8"),
        ("unknown, permessage-deflate", "permessage-deflate"),
    ],
)
def test_server_accepts(offer: str, answer: str) -> None:
    assert accepted(offer) == answer


def test_server_names_the_servers_window_whenever_the_offer_does() -> None:
    # "A server accepts an extension negotiation offer with this parameter by including the parameter in the
    # response" (RFC 7692, section 7.1.2.1): some clients fail the handshake where a 15 is left out.
    assert server_accept(TAKEOVER, offers("permessage-deflate; server_max_window_bits=15")) == (
        DeflateParams(False, False, 15, 15),
        "permessage-deflate; server_max_window_bits=15",
    )
    assert accepted("permessage-deflate; server_max_window_bits=15", CompressionConfig(server_max_window_bits=10)) == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10"
    )
    # Of an offer that was declined, nothing is left.
    declined = "permessage-deflate; server_max_window_bits=15; unknown, permessage-deflate"
    assert accepted(declined) == "permessage-deflate"


def test_server_names_its_own_smaller_window_unasked() -> None:
    config = CompressionConfig(server_max_window_bits=10, server_context_takeover=True, client_context_takeover=True)
    assert server_accept(config, offers("permessage-deflate")) == (
        DeflateParams(False, False, 10, 15),
        "permessage-deflate; server_max_window_bits=10",
    )


@pytest.mark.parametrize(
    "parameters",
    [
        "unknown",
        "unknown=1",
        "server_no_context_takeover=1",
        "client_no_context_takeover=true",
        "server_no_context_takeover; server_no_context_takeover",
        "client_no_context_takeover; client_no_context_takeover",
        "client_max_window_bits; client_max_window_bits=10",
        "server_max_window_bits=10; server_max_window_bits=10",
        "server_max_window_bits",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=010",
        "server_max_window_bits=+9",
        "server_max_window_bits=-9",
        "server_max_window_bits=9.0",
        "server_max_window_bits=1_0",
        "server_max_window_bits=x",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=08",
        "client_max_window_bits=x",
        "SERVER_NO_CONTEXT_TAKEOVER=1",
    ],
)
def test_server_declines_an_offer_with_bad_parameters_and_tries_the_next(parameters: str) -> None:
    bad = f"permessage-deflate; {parameters}"
    assert accepted(bad) is None
    assert accepted(f"{bad}, {bad}") is None
    assert accepted(f"{bad}; server_no_context_takeover, permessage-deflate") == "permessage-deflate"


def test_server_declines_extensions_it_does_not_know() -> None:
    assert accepted("") is None
    assert accepted("permessage-bzip2, x-webkit-deflate-frame") is None
    assert accepted("Permessage-Deflate") is None  # tokens are compared as they are


OFFERS = st.builds(
    ExtensionOffer,
    st.sampled_from(["permessage-deflate", "permessage-deflate", "other"]),
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "server_no_context_takeover",
                    "client_no_context_takeover",
                    "server_max_window_bits",
                    "client_max_window_bits",
                    "unknown",
                ]
            ),
            st.sampled_from([None, None, "8", "10", "15", "16", "x"]),
        ),
        max_size=3,
    ).map(lambda pairs: (*pairs,)),
)


@settings(deadline=None, max_examples=150)
@given(CONFIGS, st.lists(OFFERS, max_size=4))
def test_offers_never_leak_into_each_other(config: CompressionConfig, several: list[ExtensionOffer]) -> None:
    alone = [server_accept(config, [offer]) for offer in several]
    expected = next((agreed for agreed in alone if agreed is not None), None)
    assert server_accept(config, several) == expected


@settings(deadline=None, max_examples=150)
@given(CONFIGS, OFFERS)
def test_the_answer_says_what_was_agreed_on_and_no_more_than_the_offer_allows(
    config: CompressionConfig, offer: ExtensionOffer
) -> None:
    agreed = server_accept(config, [offer])
    if agreed is None:
        return
    params, header = agreed
    (answer,) = offers(header)
    asked, told = dict(offer.parameters), dict(answer.parameters)
    assert answer.name == "permessage-deflate"
    assert len(told) == len(answer.parameters)
    assert ("server_no_context_takeover" in told, "client_no_context_takeover" in told) == params[:2]
    assert (told.get("server_max_window_bits") or "15", told.get("client_max_window_bits") or "15") == (
        str(params.server_max_window_bits),
        str(params.client_max_window_bits),
    )
    assert told.keys() >= asked.keys() - {"client_max_window_bits"}
    assert "client_max_window_bits" in asked or "client_max_window_bits" not in told


@pytest.mark.parametrize(
    ("offer", "params", "windows"),
    [
        (
            "client_max_window_bits",
            DeflateParams(True, True, 11, 12),
            "server_max_window_bits=11; client_max_window_bits=12",
        ),
        (
            "client_max_window_bits=10",
            DeflateParams(True, True, 11, 10),
            "server_max_window_bits=11; client_max_window_bits=10",
        ),
        (
            "client_max_window_bits=15; server_max_window_bits=9",
            DeflateParams(True, True, 9, 12),
            "server_max_window_bits=9; client_max_window_bits=12",
        ),
    ],
)
def test_server_insists_on_its_own_settings(offer: str, params: DeflateParams, windows: str) -> None:
    config = CompressionConfig(server_max_window_bits=11, client_max_window_bits=12)
    assert server_accept(config, offers(f"permessage-deflate; {offer}")) == (
        params,
        f"permessage-deflate; server_no_context_takeover; client_no_context_takeover; {windows}",
    )


def test_server_does_not_limit_the_window_of_a_client_that_did_not_say_it_can() -> None:
    # "If a received offer doesn't have the parameter, the response to it must not" (RFC 7692, section 7.1.2.2).
    assert server_accept(CompressionConfig(client_max_window_bits=9), offers("permessage-deflate")) == (
        DeflateParams(True, True, 15, 15),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    )


@pytest.mark.parametrize(
    ("config", "offer"),
    [
        (TAKEOVER, "permessage-deflate; client_max_window_bits"),
        # Behind what is wanted comes what browsers offer.
        (
            NO_TAKEOVER,
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits, "
            "permessage-deflate; client_max_window_bits",
        ),
        # A window is no matter of taste.
        (
            CompressionConfig(server_max_window_bits=9, client_max_window_bits=10, server_context_takeover=True),
            "permessage-deflate; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits=10, "
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10",
        ),
    ],
)
def test_client_offers_what_is_configured(config: CompressionConfig, offer: str) -> None:
    assert client_offer(config) == offer


@pytest.mark.parametrize(
    ("config", "answer", "params"),
    [
        (TAKEOVER, "permessage-deflate", DeflateParams(False, False, 15, 15)),
        # A server may ask for less than was offered, unasked (RFC 7692, sections 7.1.1.2 and 7.1.2).
        (
            TAKEOVER,
            "permessage-deflate; client_no_context_takeover; client_max_window_bits=9; server_max_window_bits=8",
            DeflateParams(False, True, 8, 9),
        ),
        (TAKEOVER, "permessage-deflate; server_no_context_takeover", DeflateParams(True, False, 15, 15)),
        (NO_TAKEOVER, "permessage-deflate; server_no_context_takeover", DeflateParams(True, True, 15, 15)),
        # Servers that know no parameters keep their window; that we keep none needs nobody's consent.
        (NO_TAKEOVER, "permessage-deflate", DeflateParams(False, True, 15, 15)),
        (NO_TAKEOVER, "permessage-deflate; client_no_context_takeover", DeflateParams(False, True, 15, 15)),
        (NO_TAKEOVER, "permessage-deflate; client_max_window_bits=12", DeflateParams(False, True, 15, 12)),
        (
            CompressionConfig(client_max_window_bits=10, server_max_window_bits=10),
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=10",
            DeflateParams(True, True, 10, 10),
        ),
        # A window larger than ours is the server's to hold; ours stays as it is configured.
        (
            CompressionConfig(client_max_window_bits=10),
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=12",
            DeflateParams(True, True, 15, 10),
        ),
    ],
)
def test_client_accepts(config: CompressionConfig, answer: str, params: DeflateParams) -> None:
    assert client_accept(config, *offers(answer)) == params


@pytest.mark.parametrize(
    ("config", "answer"),
    [
        (TAKEOVER, "permessage-bzip2"),
        (TAKEOVER, "permessage-deflate; unknown"),
        (TAKEOVER, "permessage-deflate; client_max_window_bits"),  # in an answer it has a value
        (TAKEOVER, "permessage-deflate; server_max_window_bits"),
        (TAKEOVER, "permessage-deflate; server_max_window_bits=16"),
        (TAKEOVER, "permessage-deflate; server_no_context_takeover=1"),
        (TAKEOVER, "permessage-deflate; server_no_context_takeover; server_no_context_takeover"),
        (CompressionConfig(server_max_window_bits=10), "permessage-deflate"),  # was in both offers
        (CompressionConfig(server_max_window_bits=10, server_context_takeover=True), "permessage-deflate"),
        (
            CompressionConfig(server_max_window_bits=10, server_context_takeover=True),
            "permessage-deflate; server_max_window_bits=11",
        ),
    ],
)
def test_client_rejects_what_it_did_not_offer(config: CompressionConfig, answer: str) -> None:
    assert client_accept(config, *offers(answer)) is None


@settings(deadline=None, max_examples=150)
@given(CONFIGS, CONFIGS)
def test_both_sides_understand_the_same_whatever_their_settings(
    client: CompressionConfig, server: CompressionConfig
) -> None:
    answer = server_accept(server, offers(client_offer(client)))
    assert answer is not None
    agreed, header = answer
    assert client_accept(client, *offers(header)) == agreed
    assert agreed.server_max_window_bits == min(client.server_max_window_bits, server.server_max_window_bits)
    assert agreed.client_max_window_bits == min(client.client_max_window_bits, server.client_max_window_bits)
    assert agreed.server_no_context_takeover == (
        not (client.server_context_takeover and server.server_context_takeover)
    )
    assert agreed.client_no_context_takeover == (
        not (client.client_context_takeover and server.client_context_takeover)
    )


@pytest.mark.parametrize(
    ("client_takes_over", "server_takes_over"), [(False, False), (False, True), (True, False), (True, True)]
)
def test_what_one_side_compresses_the_other_inflates(client_takes_over: bool, server_takes_over: bool) -> None:
    agreed = DeflateParams(not server_takes_over, not client_takes_over, 10, 12)
    client, server = (deflate_pair(CompressionConfig(), agreed, is_client=is_client) for is_client in (True, False))
    text = bytes(range(256)) * 8
    for (deflater, _), (_, inflater), takes_over in (
        (client, server, client_takes_over),
        (server, client, server_takes_over),
    ):
        sizes = []
        for _ in range(2):
            payload = deflater.compress(text)
            assert payload is not None
            sizes.append(len(payload))
            assert inflated(inflater, payload) == text
        assert (sizes[1] < sizes[0]) == takes_over


# Compressing.


def test_wants_messages_from_the_threshold_on() -> None:
    deflater = Deflater(CompressionConfig(threshold=10), window_bits=15, context_takeover=False)
    assert [deflater.wants(size) for size in (0, 9, 10, 11)] == [False, False, True, True]


def test_wants_nothing_with_a_window_that_zlib_cannot_compress_with() -> None:
    deflater = Deflater(CompressionConfig(threshold=0), window_bits=8, context_takeover=True)
    assert not any(deflater.wants(size) for size in (0, 1, 10**6))
    with pytest.raises(ValueError, match="Invalid initialization option"):
        zlib.compressobj(wbits=-8)  # if this works one day, so can we


def test_a_message_that_does_not_shrink_is_sent_as_it_is_where_no_context_is_kept() -> None:
    noise = bytes(range(256))
    deflater = Deflater(NO_TAKEOVER, window_bits=15, context_takeover=False)
    assert deflater.compress(noise) is None
    assert deflater.compress(b"") is None
    assert deflater.compress(b"a" * 100) is not None


def test_a_message_that_does_not_shrink_is_still_compressed_into_a_kept_context() -> None:
    # The compressor may refer back to it later, so the peer must have seen it.
    noise = bytes(range(256))
    deflater = Deflater(TAKEOVER, window_bits=15, context_takeover=True)
    inflater = Inflater(window_bits=15, context_takeover=True)
    first, second = deflater.compress(noise), deflater.compress(noise)
    assert first is not None
    assert second is not None
    assert len(second) < len(noise) // 8 < len(first)
    assert [inflated(inflater, first), inflated(inflater, second)] == [noise, noise]


def test_a_deflater_without_context_gives_the_same_for_the_same() -> None:
    deflater = Deflater(NO_TAKEOVER, window_bits=15, context_takeover=False)
    assert deflater.compress(b"Hello" * 10) == deflater.compress(b"Hello" * 10)


def test_deflaters_of_the_same_settings_without_context_give_the_same_and_say_so() -> None:
    one, same = (Deflater(NO_TAKEOVER, window_bits=12, context_takeover=False) for _ in range(2))
    assert one.settings == same.settings is not None
    assert one.compress(b"a" * 1000) == same.compress(b"a" * 1000)
    other = Deflater(NO_TAKEOVER, window_bits=15, context_takeover=False)
    assert other.settings != one.settings


def test_with_a_kept_context_no_settings_say_what_comes_out() -> None:
    assert Deflater(TAKEOVER, window_bits=15, context_takeover=True).settings is None


def test_levels_and_memory_levels_reach_zlib() -> None:
    message = b"".join(b"%d %d;" % (i, i * i % 251) for i in range(3000))

    def size(config: CompressionConfig) -> int:
        payload = Deflater(config, window_bits=15, context_takeover=False).compress(message)
        assert payload is not None
        return len(payload)

    assert size(CompressionConfig(level=9)) < size(CompressionConfig(level=1))
    assert size(CompressionConfig(memory_level=9)) < size(CompressionConfig(memory_level=1))


# There and back.


@pytest.mark.parametrize("context_takeover", [False, True])
@pytest.mark.parametrize("bits", range(9, 16))
def test_every_combination_of_settings_goes_there_and_back(bits: int, context_takeover: bool) -> None:
    messages = [b"Hello" * 60, b"", bytes(range(256)) * 6, b"Hello" * 60]
    for level, memory_level in itertools.product(range(1, 10), repeat=2):
        config = CompressionConfig(level=level, memory_level=memory_level)
        deflater = Deflater(config, window_bits=bits, context_takeover=context_takeover)
        inflater = Inflater(window_bits=bits, context_takeover=context_takeover)
        for message in messages:
            payload = deflater.compress(message)
            if payload is None:
                assert not context_takeover
                assert len(deflated(message, bits)) + 16 > len(message)  # it hardly shrinks at any setting
            else:
                assert inflated(inflater, payload, len(message)) == message


@settings(deadline=None, max_examples=150)
@given(CONFIGS, BITS, st.booleans(), MESSAGES, st.data())
def test_chunking_is_invisible(
    config: CompressionConfig, bits: int, context_takeover: bool, messages: list[bytes], data: st.DataObject
) -> None:
    deflater = Deflater(config, window_bits=bits, context_takeover=context_takeover)
    inflater = Inflater(window_bits=bits, context_takeover=context_takeover)
    for message in messages:
        payload = deflater.compress(message)
        if payload is None:
            continue
        cuts = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=5)))
        output = b""
        for start, end in itertools.pairwise([0, *cuts, len(payload)]):
            output += inflater.inflate(payload[start:end], len(message) - len(output))
        assert output + inflater.finish(len(message) - len(output)) == message


@settings(deadline=None, max_examples=60)
@given(CONFIGS, BITS, st.booleans(), MESSAGES)
def test_what_we_compress_plain_zlib_can_read(
    config: CompressionConfig, bits: int, context_takeover: bool, messages: list[bytes]
) -> None:
    deflater = Deflater(config, window_bits=bits, context_takeover=context_takeover)
    decompressor = zlib.decompressobj(-bits)
    for message in messages:
        payload = deflater.compress(message)
        if payload is not None:
            assert decompressor.decompress(payload + SYNC_TAIL) == message
        if not context_takeover:
            decompressor = zlib.decompressobj(-bits)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    BITS,
    st.booleans(),
    MESSAGES,
    st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH]),
    st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_FIXED, zlib.Z_RLE]),
)
def test_what_plain_zlib_compresses_we_can_read(
    level: int, memory_level: int, bits: int, context_takeover: bool, messages: list[bytes], flush: int, strategy: int
) -> None:
    inflater = Inflater(window_bits=bits, context_takeover=context_takeover)
    compressor = None
    for message in messages:
        if compressor is None or not context_takeover:
            compressor = zlib.compressobj(level, zlib.DEFLATED, -bits, memory_level, strategy)
        payload = (compressor.compress(message) + compressor.flush(flush)).removesuffix(SYNC_TAIL)
        assert inflated(inflater, payload) == message


@pytest.mark.parametrize("context_takeover", [False, True])
def test_window_bits_8_are_read(context_takeover: bool) -> None:
    # zlib with 9 bits never refers back further than 250 bytes, which a window of 256 holds.
    message = bytes(range(256)) * 4 + b"Hello" * 200
    compressor = zlib.compressobj(wbits=-9)
    inflater = Inflater(window_bits=8, context_takeover=context_takeover)
    for _ in range(3):
        payload = (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        assert inflated(inflater, payload) == message
        if not context_takeover:
            compressor = zlib.compressobj(wbits=-9)


# Examples of RFC 7692, section 7.2.3.


@pytest.mark.parametrize("context_takeover", [False, True])
@pytest.mark.parametrize(
    "payload",
    [
        "f2 48 cd c9 c9 07 00",
        "00 05 00 fa ff 48 65 6c 6c 6f 00",
        "f3 48 cd c9 c9 07 00 00",
        "f3 48 cd c9 c9 07 00",  # section 7.2.3.4 without the octet that should follow
        "f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
    ],
)
def test_reads_the_examples_of_the_rfc_and_the_message_after_them(payload: str, context_takeover: bool) -> None:
    inflater = Inflater(window_bits=15, context_takeover=context_takeover)
    for _ in range(2):
        assert inflated(inflater, bytes.fromhex(payload)) == b"Hello"
    assert inflated(inflater, deflated(b"and on")) == b"and on"


def test_reads_the_rfc_example_of_a_shared_window() -> None:
    inflater = Inflater(window_bits=15, context_takeover=True)
    assert inflated(inflater, bytes.fromhex("f2 48 cd c9 c9 07 00")) == b"Hello"
    assert inflated(inflater, bytes.fromhex("f2 00 11 00 00")) == b"Hello"


def test_reads_the_rfc_example_of_an_empty_message() -> None:
    inflater = Inflater(window_bits=15, context_takeover=True)
    assert inflated(inflater, b"\x00") == b""
    assert inflated(inflater, deflated(b"next")) == b"next"


@pytest.mark.parametrize("payload", ["f3 48 cd c9 c9 07 00 00", "f3 48 cd c9 c9 07 00"])
@pytest.mark.parametrize("bits", [9, 15])
def test_with_takeover_the_window_reaches_behind_a_final_block(payload: str, bits: int) -> None:
    compressor = zlib.compressobj(wbits=-bits, zdict=b"Hello")
    second = (compressor.compress(b"Hello, Hello") + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    with pytest.raises(zlib.error, match="invalid distance"):
        zlib.decompress(second, wbits=-bits)  # it does refer back
    for chunk in (1, 100):
        inflater = Inflater(window_bits=bits, context_takeover=True)
        assert inflated(inflater, bytes.fromhex(payload)) == b"Hello"
        output = b"".join(inflater.inflate(second[at : at + chunk], 100) for at in range(0, len(second), chunk))
        assert output + inflater.finish(100) == b"Hello, Hello"


def test_without_takeover_the_window_ends_with_the_message_even_behind_a_final_block() -> None:
    compressor = zlib.compressobj(wbits=-15, zdict=b"Hello")
    second = (compressor.compress(b"Hello, Hello") + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    inflater = Inflater(window_bits=15, context_takeover=False)
    assert inflated(inflater, bytes.fromhex("f3 48 cd c9 c9 07 00 00")) == b"Hello"
    with pytest.raises(InflateError):
        inflated(inflater, second)


@pytest.mark.parametrize("bits", [9, 15])
@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(st.tuples(MESSAGES.map(b"".join), st.booleans()), min_size=1, max_size=6), chunk=st.integers(1, 50)
)
def test_final_blocks_anywhere_in_a_message_are_invisible(
    parts: list[tuple[bytes, bool]], chunk: int, bits: int
) -> None:
    # A compressor that ends its stream goes on with a new one whose window is what was sent before.
    payload = sent = b""
    for part, final in parts:
        compressor = zlib.compressobj(wbits=-bits, zdict=sent[-(1 << bits) :])
        payload += compressor.compress(part) + compressor.flush(zlib.Z_FINISH if final else zlib.Z_SYNC_FLUSH)
        if not final:
            # The stream goes on: end it with an empty final block, so that the next part can start one.
            payload += b"\x03\x00"
        sent += part
    inflater = Inflater(window_bits=bits, context_takeover=True)
    output = b"".join(inflater.inflate(payload[at : at + chunk], UNLIMITED) for at in range(0, len(payload), chunk))
    assert output + inflater.finish(UNLIMITED) == sent


@pytest.mark.parametrize("bits", [9, 15])
@pytest.mark.parametrize("per_window", [1 / 2, 1, 3, 31, 32, 33, 200])
def test_the_window_behind_a_final_block_is_whole_however_it_was_received(bits: int, per_window: float) -> None:
    size = 1 << bits
    noise = random.Random(bits).randbytes(size * 5 // 2)
    window = noise[-size:]
    repeated = window[300:500] if bits == 9 else window[300:3000]  # zlib refers back no further than size - 262
    compressor = zlib.compressobj(wbits=-bits, zdict=window)
    payload = compressor.compress(repeated) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert len(payload) < len(repeated) // 4
    inflater = Inflater(window_bits=bits, context_takeover=True)
    step = int(size // per_window)
    for at in range(0, len(noise), step):
        piece = noise[at : at + step]
        stored = b"".join(
            b"\x00" + struct.pack("<HH", len(part), len(part) ^ 0xFFFF) + part
            for part in (piece[i : i + 0xFFFF] for i in range(0, len(piece), 0xFFFF))
        )
        assert inflated(inflater, stored + b"\x00") == piece
    assert inflater.inflate(b"\x03\x00" + payload, UNLIMITED) == repeated


# The budget.


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """64 KiB that inflate to 64 MiB."""
    compressor = zlib.compressobj(9, wbits=-15)
    zeros = bytes(1 << 20)
    pieces = [compressor.compress(zeros) for _ in range(64)]
    payload = b"".join([*pieces, compressor.flush(zlib.Z_SYNC_FLUSH)])[:-4]
    assert len(payload) < 66 * 1024
    return payload


@pytest.mark.parametrize("context_takeover", [False, True])
@pytest.mark.parametrize("budget", [0, 1, 1000, 1 << 20])
def test_output_ends_one_byte_over_the_budget(bomb: bytes, budget: int, context_takeover: bool) -> None:
    inflater = Inflater(window_bits=15, context_takeover=context_takeover)
    assert len(inflater.inflate(bomb, budget)) == budget + 1


def test_a_bomb_takes_no_more_memory_than_the_budget_asks_for(bomb: bytes) -> None:
    inflater = Inflater(window_bits=15, context_takeover=True)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        output = inflater.inflate(bomb, 1 << 20)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert len(output) == (1 << 20) + 1
    assert peak < 4 << 20


@pytest.mark.parametrize("budget", [9, 10, 11])
def test_a_message_as_long_as_the_budget_is_whole(budget: int) -> None:
    message = b"0123456789"
    output = inflated(Inflater(window_bits=15, context_takeover=False), deflated(message), budget)
    assert output == message[: budget + 1]


def test_the_budget_holds_for_what_the_tail_brings_out() -> None:
    # A stored block whose last bytes are the tail that finish() adds.
    payload = b"\x00\x04\x00\xfb\xff"
    inflater = Inflater(window_bits=15, context_takeover=False)
    assert inflater.inflate(payload, 2) == b""
    assert inflater.finish(2) == SYNC_TAIL[:3]


def test_a_budget_as_large_as_a_number_of_bytes_can_be_is_no_limit() -> None:
    # This is what FrameSize.remaining gives where max_message_size is None.
    assert inflated(Inflater(window_bits=15, context_takeover=False), deflated(b"Hello"), sys.maxsize) == b"Hello"


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.binary(max_size=40) | st.binary(max_size=10).map(lambda data: deflated(data * 20)), max_size=4),
    st.integers(0, 100),
    st.sampled_from([8, 9, 15]),
    st.booleans(),
)
def test_arbitrary_bytes_inflate_within_the_budget_or_are_corrupt(
    chunks: list[bytes], budget: int, bits: int, context_takeover: bool
) -> None:
    inflater = Inflater(window_bits=bits, context_takeover=context_takeover)
    total = 0
    try:
        for chunk in chunks:
            total += len(inflater.inflate(chunk, budget - total))
            if total > budget:
                break
        else:
            total += len(inflater.finish(budget - total))
    except InflateError:
        return
    assert total <= budget + 1


# Corrupt data.


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xff\xff",  # a block of the reserved type
        b"\x00\x05\x00\x00\x00Hello",  # a stored block whose length is not confirmed
        deflated(b"Hello" * 100)[:-3] + b"\xff\xff\xff\xff",
        zlib.compress(b"Hello"),  # with a zlib header, which RFC 7692 leaves out
    ],
)
@pytest.mark.parametrize("chunk", [None, 1, 2, 7])
def test_corrupt_data_raises_the_same_however_it_arrives(payload: bytes, chunk: int | None) -> None:
    # It goes into a Close frame: zlib's own words depend on where the reads ended.
    step = chunk or len(payload)
    inflater = Inflater(window_bits=15, context_takeover=False)
    with pytest.raises(InflateError) as caught:
        inflated_in_pieces(inflater, payload, step)
    assert str(caught.value) == "corrupt deflate data"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_corrupt_data_that_shows_only_at_the_end_raises_there() -> None:
    inflater = Inflater(window_bits=15, context_takeover=False)
    assert inflater.inflate(b"\x00\x05", 100) == b""  # the tail makes a length of it that is not confirmed
    with pytest.raises(InflateError, match=r"^corrupt deflate data$"):
        inflater.finish(100)


@pytest.mark.parametrize("step", [1, 2, 5, 1000])
def test_what_comes_before_the_fault_is_told_with_it(step: int) -> None:
    payload = deflated(b"Hello") + SYNC_TAIL + b"\x00\x03\x00\xfc\xffabc" + b"\x07" + b"behind it"
    inflater = Inflater(window_bits=15, context_takeover=False)
    output = b""
    try:
        for at in range(0, len(payload), step):
            output += inflater.inflate(payload[at : at + step], 100)
    except InflateError as error:
        output += error.output + b", then a fault"
    assert output == b"Helloabc, then a fault"


@pytest.mark.parametrize("step", [1, 2, 5, 1000])
@pytest.mark.parametrize("budget", [0, 1, 4, 6])
def test_what_is_over_the_budget_before_the_fault_is_returned(budget: int, step: int) -> None:
    payload = deflated(b"Hello") + SYNC_TAIL + b"\x00\x02\x00\xfd\xffab" + b"\x07"
    inflater = Inflater(window_bits=15, context_takeover=False)
    output = b""
    for at in range(0, len(payload), step):
        output += inflater.inflate(payload[at : at + step], budget - len(output))
        if len(output) > budget:
            break
    assert output == b"Helloab"[: budget + 1]


@pytest.mark.parametrize("step", [1, 700, 1 << 20])
def test_a_window_larger_than_agreed_is_understood_within_a_message_and_not_from_one_to_the_next(step: int) -> None:
    noise = random.Random(5).randbytes(2000)
    inflater = Inflater(window_bits=9, context_takeover=True)
    compressor = zlib.compressobj(wbits=-15)
    payload = compressor.compress(noise + noise[:600]) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert inflated_in_pieces(inflater, payload[:-4], step) + inflater.finish(UNLIMITED) == noise + noise[:600]
    payload = compressor.compress(noise[700:1200]) + compressor.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(InflateError):
        inflated_in_pieces(inflater, payload[:-4], step)


def test_an_empty_payload_is_an_empty_message_and_leaves_the_next_alone() -> None:
    # Some compressors give nothing at all for a second empty message, in place of the octet of section 7.2.3.6.
    compressor = zlib.compressobj(wbits=-15)
    inflater = Inflater(window_bits=15, context_takeover=True)
    for message in (b"Hello", b"Hello"):
        payload = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
        assert inflated(inflater, payload[:-4]) == message
        assert inflated(inflater, b"") == b""


# Final blocks.

MOST = 256
FINAL = b"\x03\x00"  # an empty final block
TOO_MANY_FINAL_BLOCKS = r"^more than 256 final blocks in a message$"


def final_block(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush(zlib.Z_FINISH)


@pytest.mark.parametrize("chunk", [1, 2, 3, 1000, 1 << 20])
@pytest.mark.parametrize("data", [b"", b"a", b"Hello"])
@pytest.mark.parametrize("context_takeover", [False, True])
def test_256_final_blocks_are_read_and_one_more_is_refused(data: bytes, context_takeover: bool, chunk: int) -> None:
    # Counted over all frames of a message: each call may be one of them.
    payload = final_block(data) * MOST
    inflater = Inflater(window_bits=15, context_takeover=context_takeover)
    assert inflated_in_pieces(inflater, payload, chunk) == data * MOST
    with pytest.raises(InflateError, match=TOO_MANY_FINAL_BLOCKS):
        inflated_in_pieces(inflater, final_block(data), 1)
    inflater = Inflater(window_bits=15, context_takeover=context_takeover)
    payload += final_block(data)
    with pytest.raises(InflateError, match=TOO_MANY_FINAL_BLOCKS):
        inflated_in_pieces(inflater, payload, chunk)


@pytest.mark.parametrize("ending", [b"", b"\x00"], ids=["bare", "with the octet that should follow"])
@pytest.mark.parametrize("context_takeover", [False, True])
def test_final_blocks_are_counted_anew_in_each_message(context_takeover: bool, ending: bytes) -> None:
    inflater = Inflater(window_bits=15, context_takeover=context_takeover)
    for _ in range(3):
        assert inflated(inflater, FINAL * MOST + ending) == b""
        assert inflated(inflater, deflated(b"between")) == b"between"
    with pytest.raises(InflateError, match=TOO_MANY_FINAL_BLOCKS):
        inflated(inflater, FINAL * (MOST + 1) + ending)


def test_blocks_that_are_not_final_are_not_counted() -> None:
    compressor = zlib.compressobj(wbits=-15)
    block = compressor.compress(b"a") + compressor.flush(zlib.Z_FULL_FLUSH)
    inflater = Inflater(window_bits=15, context_takeover=True)
    assert inflated(inflater, block * 10 * MOST + FINAL * MOST) == b"a" * 10 * MOST


def test_a_final_block_that_the_tail_completes_counts_too() -> None:
    stored = b"\x01\x04\x00\xfb\xff"  # its four bytes are the tail that finish() adds
    inflater = Inflater(window_bits=15, context_takeover=True)
    for _ in range(2):
        assert inflated(inflater, FINAL * (MOST - 1) + stored) == SYNC_TAIL
    assert inflater.inflate(FINAL * MOST + stored, UNLIMITED) == b""
    with pytest.raises(InflateError, match=TOO_MANY_FINAL_BLOCKS):
        inflater.finish(UNLIMITED)


def test_what_follows_too_many_final_blocks_is_not_looked_at() -> None:
    for rest in (b"", b"\xff\xff\xff", deflated(bytes(1 << 20))):
        inflater = Inflater(window_bits=15, context_takeover=False)
        with pytest.raises(InflateError, match=TOO_MANY_FINAL_BLOCKS):
            inflater.inflate(FINAL * (MOST + 1) + rest, UNLIMITED)


# Memory and time.


def test_an_idle_inflater_without_takeover_holds_no_memory() -> None:
    payload = deflated(bytes(range(256)) * 200)
    compressor = zlib.compressobj(wbits=-15)
    final = compressor.compress(bytes(range(256)) * 200) + compressor.flush()

    def idle() -> Inflater:
        inflater = Inflater(window_bits=15, context_takeover=False)
        for message in (payload, final, final + b"\x00"):
            inflated(inflater, message)
        return inflater

    def busy() -> Inflater:
        inflater = Inflater(window_bits=15, context_takeover=False)
        inflater.inflate(payload, UNLIMITED)
        return inflater

    assert held_by(idle) < 1024
    assert held_by(busy) > 32 * 1024  # so that we know that we measure it


def test_an_idle_deflater_without_takeover_holds_no_memory() -> None:
    def idle(context_takeover: bool) -> Deflater:
        deflater = Deflater(NO_TAKEOVER, window_bits=15, context_takeover=context_takeover)
        deflater.compress(b"Hello" * 1000)
        return deflater

    assert held_by(lambda: idle(False)) < 1024
    assert held_by(lambda: idle(True)) > 100 * 1024


def test_a_kept_window_takes_no_more_than_300_kib_however_small_the_messages() -> None:
    compressor = zlib.compressobj(wbits=-15)
    messages = [bytes((i % 251, i % 241)) for i in range(20_000)]
    payloads = [(compressor.compress(m) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4] for m in messages]

    def fed() -> Inflater:
        inflater = Inflater(window_bits=15, context_takeover=True)
        for payload in payloads:
            inflated(inflater, payload)
        return inflater

    assert held_by(fed) < 300 * 1024


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 64])
@pytest.mark.parametrize("size", [1, 100, 5_000, 20_000, (1 << 15) - 1, 1 << 15, 1 << 16, 1 << 20])
def test_a_kept_window_takes_no_more_than_300_kib_however_large_the_messages(size: int, count: int) -> None:
    payload = deflated(random.Random(size).randbytes(size))

    def fed() -> Inflater:
        inflater = Inflater(window_bits=15, context_takeover=True)
        for _ in range(count):
            inflated(inflater, payload)
        return inflater

    assert held_by(fed) < 300 * 1024


def test_a_final_block_costs_the_same_however_many_messages_fill_the_window() -> None:
    almost = (1 << 15) - 1
    stored = b"\x00" + struct.pack("<HH", almost, almost ^ 0xFFFF) + bytes(almost)

    def seconds(messages: int) -> float:
        inflater = Inflater(window_bits=15, context_takeover=True)
        for _ in range(messages):
            inflated(inflater, stored + b"\x00")
        started = time.process_time()
        for _ in range(8):
            inflated(inflater, FINAL * 250)
        return time.process_time() - started

    assert min(seconds(31) for _ in range(3)) < 4 * min(seconds(1) for _ in range(3)) + 0.01


def test_a_final_block_costs_the_same_however_small_the_pieces_of_the_window() -> None:
    # Final blocks must not keep a server busy for seconds: each starts from the window anew.
    stored = b"\x00\x00\x80\xff\x7f" + bytes(1 << 15)
    literal = zlib.compressobj(1, wbits=-15, strategy=zlib.Z_FIXED)
    blocks = (literal.compress(b"a") + literal.flush()) * 250

    def seconds(chunk: int) -> float:
        inflater = Inflater(window_bits=15, context_takeover=True)
        for at in range(0, len(stored), chunk):
            inflater.inflate(stored[at : at + chunk], UNLIMITED)
        started = time.process_time()
        for _ in range(2):
            assert inflated(inflater, FINAL + blocks) == b"a" * 250
        return time.process_time() - started

    assert min(seconds(1) for _ in range(2)) < 4 * min(seconds(len(stored)) for _ in range(2)) + 0.01


@pytest.mark.parametrize("context_takeover", [False, True])
def test_a_flood_of_final_blocks_costs_no_more_than_those_that_are_allowed(context_takeover: bool) -> None:
    stored = b"\x00\x00\x80\xff\x7f" + bytes(1 << 15)  # a full window, from which each starts

    def seconds(count: int) -> float:
        inflater = Inflater(window_bits=15, context_takeover=context_takeover)
        inflater.inflate(stored, UNLIMITED)
        flood = FINAL * count
        started = time.process_time()
        if count <= MOST:
            inflater.inflate(flood, UNLIMITED)
        else:
            with pytest.raises(InflateError, match=TOO_MANY_FINAL_BLOCKS):
                inflater.inflate(flood, UNLIMITED)
        return time.process_time() - started

    # 30,000 would take over a hundred times as long, were they all read.
    assert min(seconds(30_000) for _ in range(3)) < 8 * min(seconds(MOST) for _ in range(3)) + 0.01


def test_final_blocks_hold_no_more_memory_than_a_window_does() -> None:
    noise = random.Random(0).randbytes(20_000)

    def fed() -> Inflater:
        inflater = Inflater(window_bits=15, context_takeover=True)
        for _ in range(2):
            inflated(inflater, final_block(noise) * 8 + final_block(b"a") * (MOST - 8))
        inflater.inflate(final_block(noise) * 8 + final_block(b"a") * (MOST - 8), UNLIMITED)
        return inflater

    assert held_by(fed) < 300 * 1024

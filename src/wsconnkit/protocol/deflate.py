"""permessage-deflate (RFC 7692): its parameters, a compressor, and an inflater that stops at a byte budget."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from sys import maxsize
from typing import NamedTuple, TypeAlias

from wsconnkit.protocol.http import ExtensionOffer

NAME = "permessage-deflate"
_SYNC_TAIL = b"\x00\x00\xff\xff"
_MAX_WINDOW_BITS = 15
_MAX_PIECES = 32
_MAX_FINAL_BLOCKS = 256  # each starts zlib anew; no sender has reason for so many
_WINDOW_BITS = ("8", "9", "10", "11", "12", "13", "14", "15")  # as they are written (RFC 7692, section 7.1.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionConfig:
    """How to compress, and what to agree on. Raises ValueError for values outside the ranges given.

    level: 1 (fast) to 9 (small).
    memory_level: 1 (least memory) to 9 (fastest).
    threshold: bytes below which a message goes out as it is.
    server_max_window_bits, client_max_window_bits: 9 to 15; the window of each side's compressor.
    server_context_takeover, client_context_takeover: each side may keep its window from message to message,
        which compresses better and holds up to 400 KiB for as long as the connection lives. A client that says False of
        a server asks for it, and takes one that keeps its window all the same.
    """

    level: int = 6
    memory_level: int = 8
    threshold: int = 1024
    server_max_window_bits: int = _MAX_WINDOW_BITS
    client_max_window_bits: int = _MAX_WINDOW_BITS
    server_context_takeover: bool = False
    client_context_takeover: bool = False

    def __post_init__(self) -> None:
        bits = (9, _MAX_WINDOW_BITS)
        for name, (low, high) in {
            "level": (1, 9),
            "memory_level": (1, 9),
            "threshold": (0, None),
            "server_max_window_bits": bits,
            "client_max_window_bits": bits,
        }.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < low or (high is not None and value > high):
                allowed = f"{low} to {high}" if high is not None else f"{low} or more"
                raise ValueError(f"{name} is {value!r}; it must be an integer, {allowed}")

    @classmethod
    def high(cls) -> CompressionConfig:
        """Smallest: level 9, from 512 bytes on."""
        return cls(level=9, threshold=512)

    @classmethod
    def fast(cls) -> CompressionConfig:
        """Fastest: level 1, from 2048 bytes on."""
        return cls(level=1, threshold=2048)


class DeflateParams(NamedTuple):
    """What both sides agreed on (RFC 7692, section 7.1)."""

    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int
    client_max_window_bits: int


class _Parameters(NamedTuple):
    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int | None
    client_max_window_bits: int | None  # 0 in an offer without a value


def _parse(offer: ExtensionOffer, *, value_optional: bool) -> _Parameters | None:
    """Return an offer's parameters, or None where RFC 7692, section 7.1, says to decline it."""
    values = dict(offer.parameters)
    if len(values) != len(offer.parameters):
        return None  # a parameter is repeated
    flags = "server_no_context_takeover", "client_no_context_takeover"
    windows = "server_max_window_bits", "client_max_window_bits"
    bits: dict[str, int] = {}
    for name, value in values.items():
        if name in windows and value in _WINDOW_BITS:
            bits[name] = int(value)
        elif name == "client_max_window_bits" and value is None and value_optional:
            bits[name] = 0
        elif name not in flags or value is not None:
            return None
    return _Parameters(flags[0] in values, flags[1] in values, bits.get(windows[0]), bits.get(windows[1]))


def client_offer(config: CompressionConfig) -> str:
    """Return the value of a client's Sec-WebSocket-Extensions (RFC 7692, section 7.1).

    Where a side is not to keep its window, that is offered first, and behind it the same without a word about it, as
    browsers do: there are servers that know no parameters.
    """
    flags = []
    if not config.server_context_takeover:
        flags.append("server_no_context_takeover")
    if not config.client_context_takeover:
        flags.append("client_no_context_takeover")
    windows = []
    if config.server_max_window_bits != _MAX_WINDOW_BITS:
        windows.append(f"server_max_window_bits={config.server_max_window_bits}")
    bits = config.client_max_window_bits
    windows.append("client_max_window_bits" + ("" if bits == _MAX_WINDOW_BITS else f"={bits}"))
    offers = [[NAME, *flags, *windows], [NAME, *windows]] if flags else [[NAME, *windows]]
    return ", ".join("; ".join(offer) for offer in offers)


def server_accept(config: CompressionConfig, offers: Sequence[ExtensionOffer]) -> tuple[DeflateParams, str] | None:
    """Return what to agree on, from the first of the client's offers that is valid, and the header that says so."""
    for offer in offers:
        wanted = _parse(offer, value_optional=True) if offer.name == NAME else None
        if wanted is None:
            continue
        client_bits = _MAX_WINDOW_BITS
        if wanted.client_max_window_bits is not None:
            # Only a client that names the parameter can be told to use a smaller window.
            client_bits = min(config.client_max_window_bits, wanted.client_max_window_bits or _MAX_WINDOW_BITS)
        params = DeflateParams(
            wanted.server_no_context_takeover or not config.server_context_takeover,
            wanted.client_no_context_takeover or not config.client_context_takeover,
            min(config.server_max_window_bits, wanted.server_max_window_bits or _MAX_WINDOW_BITS),
            client_bits,
        )
        parts = [NAME]
        if params.server_no_context_takeover:
            parts.append("server_no_context_takeover")
        if params.client_no_context_takeover:
            parts.append("client_no_context_takeover")
        # A client that asks for a window must find it in the answer, were it the largest (section 7.1.2.1).
        if wanted.server_max_window_bits is not None or params.server_max_window_bits != _MAX_WINDOW_BITS:
            parts.append(f"server_max_window_bits={params.server_max_window_bits}")
        if params.client_max_window_bits != _MAX_WINDOW_BITS:
            parts.append(f"client_max_window_bits={params.client_max_window_bits}")
        return params, "; ".join(parts)
    return None


def client_accept(config: CompressionConfig, answer: ExtensionOffer) -> DeflateParams | None:
    """Return what the server's `answer` to our offers agrees on; None where it breaks RFC 7692 or all of them."""
    got = _parse(answer, value_optional=False) if answer.name == NAME else None
    if got is None:
        return None
    server_bits = got.server_max_window_bits or _MAX_WINDOW_BITS
    if server_bits > config.server_max_window_bits:
        return None
    return DeflateParams(
        got.server_no_context_takeover,
        got.client_no_context_takeover or not config.client_context_takeover,
        server_bits,
        min(config.client_max_window_bits, got.client_max_window_bits or _MAX_WINDOW_BITS),
    )


class Deflater:
    """Compresses our messages; `window_bits` and `context_takeover` are those agreed on for our side."""

    __slots__ = ("_bits", "_compressor", "_context_takeover", "_level", "_memory_level", "_threshold")

    def __init__(self, config: CompressionConfig, *, window_bits: int, context_takeover: bool) -> None:
        self._level = config.level
        self._memory_level = config.memory_level
        self._threshold = config.threshold
        self._bits = window_bits
        self._context_takeover = context_takeover
        self._compressor: zlib._Compress | None = None

    @property
    def settings(self) -> tuple[int, int, int] | None:
        """What a compressed message depends on besides its content; None with context takeover, where it is more."""
        return None if self._context_takeover else (self._level, self._memory_level, self._bits)

    def wants(self, size: int) -> bool:
        """Tell whether a message of `size` bytes is to be compressed."""
        # zlib cannot compress with a window of 256 bytes; sending as is, is always allowed (RFC 7692, section 6).
        return size >= self._threshold and self._bits > 8

    def compress(self, message: bytes) -> bytes | None:
        """Return the payload for a whole `message`, or None where sending it as it is takes no more bytes."""
        compressor = self._compressor
        if compressor is None:
            compressor = zlib.compressobj(self._level, zlib.DEFLATED, -self._bits, self._memory_level)
            if self._context_takeover:
                self._compressor = compressor
        data = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
        payload = data[:-4]  # drop the tail (RFC 7692, section 7.2.1)
        if len(payload) >= len(message) and not self._context_takeover:
            return None
        return payload  # a kept context has seen it, so the peer must too


_State: TypeAlias = "tuple[zlib._Decompress | None, int, list[bytes], int]"


class InflateError(Exception):
    """The peer's data is no deflate stream; `output` is what the call that raises this inflated before."""

    def __init__(self, message: str, output: bytes = b"") -> None:
        super().__init__(message)
        self.output = output


class Inflater:
    """Inflates the peer's messages; `window_bits` and `context_takeover` are those agreed on for its side.

    What it says does not depend on how the data was cut. Within a message it understands any window, as zlib would
    only tell of one that is too large where reads ended; from message to message it keeps the one agreed on.
    Memory beyond that is held only within a message, and never more than the budget given.
    """

    __slots__ = ("_bits", "_context_takeover", "_decompressor", "_final_blocks", "_history", "_history_size")

    def __init__(self, *, window_bits: int, context_takeover: bool) -> None:
        self._bits = window_bits
        self._context_takeover = context_takeover
        self._decompressor: zlib._Decompress | None = None
        self._final_blocks = 0
        self._history: list[bytes] = []
        self._history_size = 0

    def inflate(self, data: bytes, budget: int) -> bytes:
        """Return what `data` inflates to, but at most `budget` + 1 bytes: one too many tells that it is too big.

        Raises InflateError, after which nothing more can be inflated.
        """
        before = self._saved()
        try:
            return self._inflate(data, budget)
        except InflateError as error:
            # zlib tells neither where it is, nor what it made of the data before it.
            self._restore(before)
            return self._inflate_to_error(data, budget, str(error))

    def finish(self, budget: int) -> bytes:
        """End a message: return the last of it, as `inflate` does."""
        # After BFINAL without the octet 0x00 that should follow, there is no stream for the tail to end.
        last = self.inflate(_SYNC_TAIL, budget) if self._decompressor is not None else b""
        self._decompressor = None
        self._final_blocks = 0
        if not self._context_takeover:
            self._history.clear()
            self._history_size = 0
        return last

    def _inflate(self, data: bytes, budget: int) -> bytes:
        output: list[bytes] = []
        room = min(budget, maxsize - 1) + 1
        while data and room > 0:
            decompressor = self._decompressor
            if decompressor is None:
                decompressor = self._decompressor = zlib.decompressobj(-_MAX_WINDOW_BITS, zdict=self._window())
            try:
                piece = decompressor.decompress(data, room)
            except zlib.error:
                raise InflateError("corrupt deflate data") from None  # zlib's words depend on where reads ended
            if piece:
                output.append(piece)
                room -= len(piece)
                self._remember(piece)
            if decompressor.eof:
                # A block with BFINAL ends zlib's stream, not the peer's (RFC 7692, section 7.2.3.4).
                self._decompressor = None
                self._final_blocks += 1
                if self._final_blocks > _MAX_FINAL_BLOCKS:
                    raise InflateError(f"more than {_MAX_FINAL_BLOCKS} final blocks in a message")
                data = decompressor.unused_data
            else:
                data = decompressor.unconsumed_tail
        return output[0] if len(output) == 1 else b"".join(output)

    def _inflate_to_error(self, data: bytes, budget: int, message: str) -> bytes:
        """Find the byte of `data` that is wrong, by halves, and raise InflateError with what comes before it.

        Returns the output instead where that is over the budget before.
        """
        output = b""
        while len(data) > 1:
            half = data[: len(data) // 2]
            before = self._saved()
            try:
                output += self._inflate(half, budget - len(output))
            except InflateError:
                self._restore(before)
                data = half
                continue
            if len(output) > budget:
                return output
            data = data[len(half) :]
        raise InflateError(message, output) from None

    def _saved(self) -> _State:
        decompressor = None if self._decompressor is None else self._decompressor.copy()
        return decompressor, self._final_blocks, self._history.copy(), self._history_size

    def _restore(self, state: _State) -> None:
        self._decompressor, self._final_blocks, self._history, self._history_size = state

    def _remember(self, piece: bytes) -> None:
        # A list of pieces spares a copy of the window for each; a long list would cost more than the window.
        self._history.append(piece)
        self._history_size += len(piece)
        if len(self._history) > _MAX_PIECES or self._history_size >= 2 << self._bits:
            self._history = [self._window()]
            self._history_size = len(self._history[0])

    def _window(self) -> bytes:
        return b"".join(self._history)[-(1 << self._bits) :]


def deflate_pair(config: CompressionConfig, agreed: DeflateParams, *, is_client: bool) -> tuple[Deflater, Inflater]:
    """Return what compresses one side's messages and inflates the other's, as the opening handshake agreed."""
    server = agreed.server_max_window_bits, not agreed.server_no_context_takeover
    client = agreed.client_max_window_bits, not agreed.client_no_context_takeover
    (out_bits, out_takeover), (in_bits, in_takeover) = (client, server) if is_client else (server, client)
    return (
        Deflater(config, window_bits=out_bits, context_takeover=out_takeover),
        Inflater(window_bits=in_bits, context_takeover=in_takeover),
    )

"""Frames from bytes, by wsproto: the one place that knows it, so that another engine can take its place."""

from __future__ import annotations

from codecs import getincrementaldecoder
from io import StringIO

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, MessageDecoder, ParseFailed, RsvBits
from wsproto.frame_protocol import Opcode as WsprotoOpcode

from wsconnkit.machines.closecodes import CloseCode
from wsconnkit.machines.compression import DirectionStats
from wsconnkit.machines.framesize import FrameSize
from wsconnkit.protocol.closeinfo import Cause
from wsconnkit.protocol.deflate import InflateError, Inflater
from wsconnkit.protocol.events import Message
from wsconnkit.protocol.frames import ControlFrame, FrameError, Opcode, Role

_OPCODES = {WsprotoOpcode(opcode): opcode for opcode in Opcode}
_CAUSES = {CloseCode.MESSAGE_TOO_BIG: Cause.TOO_BIG, CloseCode.INVALID_DATA: Cause.INVALID_DATA}


class WsprotoReader:
    """Reads whatever a peer may send and refuses all else; its arguments are those of `FrameReader`."""

    __slots__ = ("_binary", "_decoder", "_inbound", "_messages", "_text", "wire_size")

    def __init__(
        self,
        role: Role,
        frame_size: FrameSize,
        *,
        inflater: Inflater | None = None,
        stats: DirectionStats | None = None,
    ) -> None:
        self._messages = MessageDecoder()
        self._inbound = _Inbound(frame_size, self._messages, inflater, stats)
        self._decoder = FrameDecoder(role is Role.CLIENT, [self._inbound])
        self._text: StringIO | None = None
        self._binary: bytearray | None = None
        self.wire_size: int = 0
        """Payload bytes on the wire of the data frame that `next_frame` returned last."""

    @property
    def is_between_messages(self) -> bool:
        """All that arrived was read, and no message has begun: what arrives next may be read elsewhere."""
        return self._decoder.header is None and not self._inbound.within_message and not self._decoder.buffer

    def receive_data(self, data: bytes) -> None:
        """Take bytes off the wire."""
        self._decoder.receive_bytes(data)

    def take_unread(self) -> bytes:
        """Return what arrived behind a message and was not read, and forget it."""
        buffer = self._decoder.buffer
        unread = bytes(buffer.consume_at_most(len(buffer)))
        buffer.commit()
        return unread

    def next_frame(self) -> Message | ControlFrame | None:
        """Return the next whole frame, None where bytes are missing.

        Raises FrameError, after which nothing more can be read.
        """
        if not self._decoder.buffer:
            return None
        while True:
            try:
                part = self._decoder.process_buffer()
                if part is None:
                    return None
                if part.opcode.iscontrol():
                    assert isinstance(part.payload, bytes)
                    return ControlFrame(_OPCODES[part.opcode], part.payload)
                part = self._messages.process_frame(part)
            except ParseFailed as error:
                raise self._error(error) from None
            # wsproto's parts end where reads ended; here only whole frames leave.
            if not part.frame_finished:
                self._keep(part.payload)
                continue
            inbound = self._inbound
            if part.message_finished:
                inbound.count_message()
            self.wire_size = inbound.frame_wire_size
            return Message(self._joined(part.payload), inbound.frame_content_size, part.message_finished)

    def _error(self, error: ParseFailed) -> FrameError:
        code = CloseCode(error.code)
        message = self._inbound.error or str(error)
        if code is CloseCode.INVALID_DATA and not self._inbound.error:
            message = "text is not valid UTF-8"  # wsproto's words depend on where reads ended
        return FrameError(code, _CAUSES.get(code, Cause.PROTOCOL_ERROR), message)

    def _keep(self, part: str | bytes | tuple[int, str]) -> None:
        """Keep a part of a frame until its last."""
        if isinstance(part, str):
            if self._text is None:
                self._text = StringIO()
            self._text.write(part)
        else:
            assert isinstance(part, bytes)  # only a Close frame of wsproto's own is a tuple
            if self._binary is None:
                self._binary = bytearray()
            self._binary += part

    def _joined(self, last: str | bytes | tuple[int, str]) -> str | bytes:
        """Return what was kept of a frame with its last part behind it."""
        if isinstance(last, str):
            if self._text is None:
                return last
            text, self._text = self._text, None
            text.write(last)
            return text.getvalue()
        assert isinstance(last, bytes)
        if self._binary is None:
            return last
        binary, self._binary = self._binary, None
        binary += last
        return bytes(binary)


class _Inbound(Extension):
    """Judges each data frame by its header, and inflates and counts its payload as it arrives.

    wsproto calls `frame_inbound_header` again and again while a header trickles in, so it must not count.
    """

    def __init__(
        self,
        frame_size: FrameSize,
        messages: MessageDecoder,
        inflater: Inflater | None,
        stats: DirectionStats | None,
    ) -> None:
        self._frame_size = frame_size
        self._messages = messages
        self._inflater = inflater
        self._stats = stats
        self._rsv = RsvBits(inflater is not None, False, False)
        self._is_control = False
        self._compressed = False
        self._is_text = False
        self._wire_bytes = 0
        self._size = 0
        self._unjudged = b""
        """Content that wsproto has not been given yet, and so has not found to be UTF-8."""
        self.within_message = False
        """The last data frame was not the last of its message."""
        self.error = ""
        """What was wrong, where it was not wsproto that found it."""
        self.frame_wire_size = 0
        self.frame_content_size = 0

    def offer(self) -> bool | str:
        """Offer nothing: this is no extension that a handshake agrees on."""
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: WsprotoOpcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        self._is_control = opcode.iscontrol()
        first = opcode is not WsprotoOpcode.CONTINUATION
        if rsv.rsv1 and (self._is_control or not first):
            # RSV1 marks the first frame of a compressed message only (RFC 7692, section 6).
            return self._refuse(CloseReason.PROTOCOL_ERROR, f"RSV1 set on a {opcode.name} frame")
        if self._is_control:
            return self._rsv
        if first is self.within_message:
            wrong = f"{opcode.name} frame within a message" if first else "CONTINUATION frame without a message"
            return self._refuse(CloseReason.PROTOCOL_ERROR, wrong)
        if first:
            self._compressed = rsv.rsv1
            self._is_text = opcode is WsprotoOpcode.TEXT
        self.frame_wire_size = payload_length
        self.frame_content_size = 0
        violation = self._frame_size.on_header(payload_length, first=first, compressed=self._compressed)
        if violation is not None:
            return self._refuse(CloseReason.MESSAGE_TOO_BIG, str(violation))
        return self._rsv

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        if self._is_control:
            return data
        if not self._compressed:
            return self._counted(data)
        self._unjudged = b""
        content = self._inflated(data, last=False)
        if not isinstance(content, CloseReason):
            self._unjudged = content
        return content

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        if self._is_control:
            return None
        last: bytes | CloseReason | None = None
        if fin and self._compressed:
            last = self._inflated(b"", last=True)
            if isinstance(last, CloseReason):
                return last
        self._wire_bytes += self.frame_wire_size
        self._size += self.frame_content_size
        self.within_message = not fin
        return last

    def count_message(self) -> None:
        """Count a message that was read to its end and found good."""
        if self._stats is not None:
            if self._compressed:
                self._stats.on_compressed(before=self._size, after=self._wire_bytes)
            else:
                self._stats.on_uncompressed(self._size)
        self._size = self._wire_bytes = 0

    def _inflated(self, data: bytes, *, last: bool) -> bytes | CloseReason:
        assert self._inflater is not None  # or RSV1 would have been refused
        budget = self._frame_size.remaining
        try:
            output = self._inflater.finish(budget) if last else self._inflater.inflate(data, budget)
        except InflateError as error:
            if not self._is_valid_so_far(error.output):
                return CloseReason.INVALID_FRAME_PAYLOAD_DATA
            assert self._stats is not None
            self._stats.on_error()
            return self._refuse(CloseReason.INVALID_FRAME_PAYLOAD_DATA, str(error))
        return self._counted(output)

    def _counted(self, data: bytes) -> bytes | CloseReason:
        fits = self._frame_size.remaining
        if len(data) > fits and not self._is_valid_so_far(data[:fits]):
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        violation = self._frame_size.on_payload(len(data))
        if violation is not None:
            return self._refuse(CloseReason.MESSAGE_TOO_BIG, str(violation))
        self.frame_content_size += len(data)
        return data

    def _is_valid_so_far(self, data: bytes) -> bool:
        """Judge content before what is wrong, as it would have been had it arrived alone."""
        if not self._is_text:
            return True
        data = self._unjudged + data
        decoder = self._messages.decoder or getincrementaldecoder("utf-8")()
        try:
            decoder.decode(data)
        except UnicodeDecodeError:
            return False
        return True

    def _refuse(self, code: CloseReason, error: str) -> CloseReason:
        self.error = error
        return code

"""The sending side of a connection: what goes out at once, what waits, and what becomes of it when the peer is slow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from wsconnkit.machines.closing import State
from wsconnkit.machines.heartbeat import Heartbeat
from wsconnkit.protocol.closerecord import CloseRecord
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.frames import Opcode, check_ping
from wsconnkit.protocol.framewriter import FrameWriter
from wsconnkit.protocol.outbox import Outbox, Put, Turn
from wsconnkit.protocol.prepared import Content, PreparedMessage, payload_of
from wsconnkit.protocol.stats import ConnectionStats
from wsconnkit.protocol.timers import Timers

_BATCH = 64 * 1024
"""Bytes after which no more waiting messages are handed over at once."""


class SendingSide(ABC):
    """Frames messages while the transport takes bytes and keeps them while it does not.

    `ConnectionProtocol` is the whole of a connection, and the one to use.
    """

    __slots__ = (
        "_heartbeat",
        "_now",
        "_output",
        "_pending_pong",
        "_pings_sent",
        "_random_bytes",
        "_record",
        "_timers",
        "_writer",
        "_writing_paused",
        "bytes_to_send",
        "outbox",
        "state",
        "stats",
    )

    def __init__(
        self,
        writer: FrameWriter,
        outbox: Outbox,
        stats: ConnectionStats,
        *,
        heartbeat: Heartbeat,
        timers: Timers,
        record: CloseRecord,
        random_bytes: Callable[[int], bytes],
        now: float,
    ) -> None:
        self._writer = writer
        self._heartbeat = heartbeat
        self._timers = timers
        self._record = record
        self._random_bytes = random_bytes
        self._now = now
        self._pings_sent = 0
        self._output: list[bytes] = []
        self._pending_pong: bytes | None = None
        self._writing_paused = False
        self.bytes_to_send: int = 0
        """Bytes that `data_to_send` would return now."""
        self.outbox: Outbox = outbox
        """What waits until the transport has room; see there."""
        self.state: State = State.OPEN
        """Where the connection stands."""
        self.stats: ConnectionStats = stats

    def send(self, message: Content | PreparedMessage, now: float, *, final: bool = True) -> int:
        """Send a message, text for `str` and binary otherwise, and return its size in bytes.

        It goes before all that waits in the outbox. `final=False` sends a first or middle fragment.

        Raises LocalProtocolError when the connection is not open, or when a fragment's type differs from that
        of its message, or for text that is no valid Unicode; TypeError for other types.
        """
        if now > self._now:
            self._now = now
        if type(message) is PreparedMessage:
            prepared, opcode, payload = message, message.opcode, message.payload
        else:
            prepared = None
            opcode, payload = payload_of(message)  # type: ignore[arg-type]
        if self.state is not State.OPEN:
            raise LocalProtocolError(f"cannot send a message in state {self.state.name}; it must be OPEN")
        if not final or self._writer.unfinished is not None:
            self._write(self._writer.fragment(opcode, payload, final=final))
        elif prepared is not None:
            self._write(self._writer.prepared(prepared))
        else:
            self._write(self._writer.message(opcode, payload))
        if final:
            self.stats.messages_sent += 1
        if self._timers.watches_idle:
            self._timers.restart_idle(self._now)
        return len(payload)

    def ping(self, payload: bytes | None, now: float) -> bytes:
        """Send a ping of at most 125 bytes, four random ones for None, and return its payload.

        Raises LocalProtocolError when the connection is not open or the payload is too long, TypeError when it is
        no bytes.
        """
        self._tick(now)
        if self.state is not State.OPEN:
            raise LocalProtocolError(f"cannot ping in state {self.state.name}; it must be OPEN")
        if payload is None:
            payload = self._random_bytes(4)
        check_ping(payload)
        self._heartbeat.on_ping_sent(payload, self._now)
        self._send_ping(payload)
        return payload

    def send_shared(self, message: PreparedMessage, now: float) -> bytes | None:
        """Send a message and return its frame, which is to be written at once; None where `send` has to do it.

        That costs less than `send` and `data_to_send`, but only servers can that compress without context takeover
        or not at all, while the connection is open and there is nothing else to send.
        """
        frame = self._writer.shared(message) if self.state is State.OPEN and not self._output else None
        if frame is not None:
            self._tick(now)
            self._record.last_byte_out_at = self._now
            self.stats.messages_sent += 1
            self.stats.bytes_sent += len(frame)
            if self._timers.watches_idle:
                self._timers.restart_idle(self._now)
        return frame

    @property
    def is_clear(self) -> bool:
        """Nothing waits in the outbox and the adapter takes bytes, so that a message may be sent at once."""
        return not self._writing_paused and not self.outbox.line

    def send_nowait(self, message: Content | PreparedMessage, now: float) -> bool:
        """Send a message as soon as all before it has gone out; return False when it is dropped instead.

        It is when the connection is not open, and when more would wait than may: that may close the connection too.

        Raises LocalProtocolError for text that is no valid Unicode; TypeError for other types.
        """
        self._tick(now)
        if not isinstance(message, PreparedMessage):
            message = PreparedMessage(message)
        if self.state is not State.OPEN:
            return False
        if self.is_clear and self._writer.unfinished is None:
            self.send(message, now)
            return True
        put = self.outbox.put(message, self._now)
        if put is Put.OVERFLOW:
            self._end_slow("too much is unsent")
        self._watch_age()
        return put is Put.TAKEN

    def queue_up(self, owner: object, now: float) -> Turn:
        """Return a place behind all that waits, for a sender; `owner` will be among `turns_due` when it is its turn.

        When it is, call `leave`, send one message, and go on with `send_waiting`.
        """
        self._tick(now)
        turn = self.outbox.queue_up(owner)
        self._watch_age()
        return turn

    def leave(self, turn: Turn, now: float) -> None:
        """Give up a place, to send or not, and go on with `send_waiting`; safe to repeat."""
        self._tick(now)
        self.outbox.leave(turn)
        self._watch_age()

    def turns_due(self) -> list[object]:
        """Return who is to be woken: whose turn it is, and once those who will have none since the connection ends."""
        return self.outbox.turns_due()

    def send_waiting(self, now: float) -> list[int]:
        """Send messages that wait, up to the next sender, as long as the adapter takes them; return their sizes.

        Write what there is to send afterwards, and repeat until the answer is empty.
        """
        self._tick(now)
        sizes: list[int] = []
        if self.state is State.OPEN and not self._writing_paused and self._writer.unfinished is None:
            while self.bytes_to_send < _BATCH and (message := self.outbox.take()) is not None:
                sizes.append(self.send(message, now))
            self._watch_age()
        return sizes

    def writing_paused(self, now: float) -> None:
        """Bytes are stuck in the adapter's buffer: messages wait, pongs are held back, and no pong is waited for."""
        self._tick(now)
        if not self._writing_paused:
            self._writing_paused = True
            self._heartbeat.writing_paused(self._now)
            self.outbox.stuck(self._now)
            self._watch_age()

    def writing_progressed(self, now: float) -> None:
        """Some bytes have left the adapter's buffer, not all: the peer reads, if slowly."""
        self._tick(now)
        if self._writing_paused:
            self.outbox.stuck(self._now)
            self._watch_age()

    def writing_resumed(self, now: float) -> None:
        """All bytes have left the adapter's buffer; `send_waiting` may have more at once."""
        self._tick(now)
        if self._writing_paused:
            self._writing_paused = False
            self._heartbeat.writing_resumed(self._now)
            if self._pending_pong is not None and self.state is State.OPEN:
                self._write(self._writer.control(Opcode.PONG, self._pending_pong))
            self._pending_pong = None
            self.outbox.unstuck()
            self._watch_age()

    def data_to_send(self) -> bytes:
        """Return the bytes to send and forget them; pongs and Close frames are in it."""
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        self.bytes_to_send = 0
        self.stats.bytes_sent += len(data)
        self._record.last_byte_out_at = self._now
        return data

    # For the connection.

    @abstractmethod
    def _end_slow(self, reason: str) -> None:
        """Close because the peer takes too little of what is sent."""

    def _tick(self, now: float) -> None:
        if now > self._now:
            self._now = now

    def _write(self, frame: bytes) -> None:
        self._output.append(frame)
        self.bytes_to_send += len(frame)

    def _send_ping(self, payload: bytes) -> None:
        self._pings_sent += 1
        self._write(self._writer.control(Opcode.PING, payload))

    def _answer_ping(self, payload: bytes) -> None:
        if self.state is not State.OPEN:
            return  # after a Close frame nothing more may be sent (RFC 6455, section 5.5.1)
        if self._writing_paused:
            # Only the latest ping needs an answer (RFC 6455, section 5.5.3), so a flood costs no memory.
            self._pending_pong = payload
        else:
            self._write(self._writer.control(Opcode.PONG, payload))

    def _watch_age(self) -> None:
        """Keep the deadline of what waits where the outbox has it."""
        self._timers.set_unsent(self.outbox.late_at if self.state is State.OPEN else None)

    def _empty_outbox(self, *, is_in_order: bool) -> None:
        """Send what waits only for the turn of a sender, who will not have it; a Close frame waits for nothing else."""
        if is_in_order and not self._writing_paused and self._writer.unfinished is None:
            for message in self.outbox.empty():
                self.send(message, self._now)
        self.outbox.drop()

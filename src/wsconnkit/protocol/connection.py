"""One WebSocket connection after its opening handshake: bytes and time in, events and bytes out.

    connection = ConnectionProtocol(Role.SERVER, ConnectionConfig(), now=clock())
    connection.receive_data(data, clock())
    for event in connection.events():
        ...
    sock.sendall(connection.data_to_send())
    wait_until(connection.next_timeout())

Whoever drives it changes something, drains the events, then the bytes, obeys `transport_action`, and reads
`next_timeout()` again. What the peer does wrong is an event; only misuse by the caller raises.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum

from wsconnkit.machines.closecodes import CloseCode, may_send, truncate_reason
from wsconnkit.machines.closing import Action, Closing, Input, State
from wsconnkit.machines.compression import CompressionStats
from wsconnkit.machines.deadlines import Deadlines
from wsconnkit.machines.framesize import FrameSize
from wsconnkit.machines.heartbeat import Heartbeat
from wsconnkit.protocol.closeinfo import Cause, CloseFrame, CloseInfo, Initiator
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.deflate import DeflateParams, Deflater, Inflater, deflate_pair
from wsconnkit.protocol.errors import LocalProtocolError
from wsconnkit.protocol.events import (
    Closed,
    Event,
    FrameSizeWarning,
    HeartbeatPinged,
    HeartbeatStalled,
    Message,
    PingReceived,
    PongReceived,
)
from wsconnkit.protocol.framereader import FrameReader
from wsconnkit.protocol.frames import ControlFrame, FrameError, Opcode, Role, parse_close
from wsconnkit.protocol.framewriter import FrameWriter
from wsconnkit.protocol.outbox import Outbox, Put, Turn
from wsconnkit.protocol.prepared import Content, PreparedMessage, payload_of
from wsconnkit.protocol.stats import ConnectionStats

MAX_CONTROL_PAYLOAD = 125
"""Bytes (RFC 6455, section 5.5)."""
_BATCH = 64 * 1024
"""Bytes after which no more waiting messages are handed over at once."""


class TransportAction(Enum):
    """What the adapter must do with the transport next."""

    OPEN = "open"
    SEND_EOF = "send_eof"
    """Nothing more will be sent: write what there is, then end our side; go on reading."""
    ABORT = "abort"
    """Nothing more matters: write what goes at once and release the socket."""


class Timer(Enum):
    """Why a connection wants to be woken."""

    HEARTBEAT = "heartbeat"
    IDLE = "idle"
    CLOSE = "close"
    UNSENT = "unsent"
    """A message has waited for too long, or the peer has taken nothing for as long."""
    END = "end"
    """The peer ended the connection behind messages in the same read, which may be answered first."""


class ConnectionProtocol:
    """The protocol of one connection, without I/O (RFC 6455, RFC 7692).

    role: which side this is.
    now: seconds on a monotonic clock; each later call takes its own, and one before the last is clamped.
    deflate: what the opening handshake agreed on, None for no compression.
    trailing_data: bytes that arrived together with the handshake.
    random_bytes: gives masks and ping payloads; must be unpredictable in production.
    """

    # Beyond thirty attributes, CPython gives every object a dictionary with keys of its own.
    __slots__ = (
        "_can_read",
        "_cause",
        "_close_rcvd",
        "_close_sent",
        "_close_timeout",
        "_closing",
        "_deadlines",
        "_eof_behind_data",
        "_error",
        "_events",
        "_frame_size",
        "_heartbeat",
        "_held_at",
        "_held_end",
        "_idle_timeout",
        "_initiator",
        "_is_client",
        "_last_in",
        "_last_out",
        "_late_at",
        "_messages_in_read",
        "_now",
        "_output",
        "_pending_pong",
        "_random_bytes",
        "_rcvd_then_sent",
        "_reader",
        "_reading_paused",
        "_writer",
        "_writing_paused",
        "bytes_to_send",
        "close_info",
        "outbox",
        "state",
        "stats",
        "transport_action",
    )

    def __init__(
        self,
        role: Role,
        config: ConnectionConfig | None = None,
        *,
        now: float,
        deflate: DeflateParams | None = None,
        trailing_data: bytes = b"",
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        config = config or ConnectionConfig()
        self._is_client = role is Role.CLIENT
        self._random_bytes = random_bytes
        self._close_timeout = config.close.timeout
        self._idle_timeout = config.idle_timeout
        self._now = self._last_in = self._last_out = now

        self._frame_size = frame_size = FrameSize(config.limits)
        self.stats = ConnectionStats(frame_size.stats, CompressionStats())
        compression = self.stats.compression
        deflater: Deflater | None = None
        inflater: Inflater | None = None
        if deflate is not None and config.compression is not None:
            deflater, inflater = deflate_pair(config.compression, deflate, is_client=self._is_client)
        self._reader = FrameReader(role, frame_size, inflater=inflater, stats=compression.inbound if inflater else None)
        self._writer = FrameWriter(role, deflater=deflater, stats=compression.outbound, random_bytes=random_bytes)
        self._can_read = True
        """Until the peer has ended what it sends, in order or not, or the connection is over."""
        self._reading_paused = False
        self._output: list[bytes] = []
        self.bytes_to_send = 0
        """Bytes that `data_to_send` would return now."""
        self._writing_paused = False
        self._pending_pong: bytes | None = None
        self.outbox = Outbox(config.queue, self.stats)
        """What waits until the transport has room; see there."""
        self._late_at: float | None = None

        self._closing = Closing()
        self.state = self._closing.state
        """Where the connection stands."""
        self._close_sent: CloseFrame | None = None
        self._close_rcvd: CloseFrame | None = None
        self._rcvd_then_sent: bool | None = None
        self._cause = Cause.TRANSPORT_LOST
        self._initiator = Initiator.TRANSPORT
        self._error: OSError | None = None
        self._eof_behind_data = False
        self._held_end: CloseFrame | FrameError | None = None
        self._held_at = now
        self._messages_in_read = False
        self.close_info: CloseInfo | None = None
        """How the connection ended; None until then."""

        self._heartbeat = Heartbeat(config.heartbeat, now=now, new_payload=random_bytes)
        self._deadlines: Deadlines[Timer] = Deadlines()
        self._events: deque[Event] = deque()
        self.transport_action = TransportAction.OPEN
        """What the adapter must do with the transport next."""
        self._restart_idle()
        if trailing_data:
            self.receive_data(trailing_data, now)

    # What comes in.

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the transport. Never raises for what the peer did."""
        if now > self._now:
            self._now = now
        state = self.state
        if state is State.CLOSED or not data:
            return
        self._last_in = self._now
        late_by = self._heartbeat.on_data(self._now)
        if late_by and state is State.OPEN:
            self._note_stall(late_by)
        self.stats.bytes_received += len(data)
        self._messages_in_read = False
        if self._can_read:
            self._reader.receive_data(data)

    def receive_eof(self, now: float, error: OSError | None = None) -> None:
        """The transport has ended, with the operating system's `error` where it ended badly. Idempotent."""
        self._tick(now)
        if self.state is State.CLOSED:
            return
        self._error = self._error or error
        self._release_end()
        if self._reading_paused and not self._eof_behind_data:
            # The transport broke while nobody read; what was not taken in by then is lost with it.
            self._end(Input.EOF, None, Cause.TRANSPORT_LOST, Initiator.TRANSPORT)
        else:
            self._eof_behind_data = True

    def events(self) -> Iterator[Event]:
        """Yield what has happened since the last call; reading may be paused between two events."""
        events = self._events
        while True:
            while events:
                yield events.popleft()
            if self._reading_paused and self.state is State.OPEN:
                return
            if self._can_read:
                try:
                    frame = self._reader.next_frame()
                    if isinstance(frame, Message):
                        self._on_message(frame)
                        continue
                    if frame is not None:
                        self._on_control(frame)
                        continue
                except FrameError as error:
                    self._on_end(error)
                    continue
            if not self._eof_behind_data or self._held_end is not None:
                return
            self._eof_behind_data = False
            self._end(Input.EOF, None, Cause.TRANSPORT_LOST, Initiator.TRANSPORT)

    def next_event(self) -> Event | None:
        """Return the next event, or None."""
        return next(self.events(), None)

    # What the application does.

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
        if self._idle_timeout is not None:
            self._restart_idle()
        return len(payload)

    def send_shared(self, message: PreparedMessage, now: float) -> bytes | None:
        """Send a message and return its frame, which is to be written at once; None where `send` has to do it.

        That costs less than `send` and `data_to_send`, but only servers can that compress without context takeover
        or not at all, while the connection is open and there is nothing else to send.
        """
        frame = self._writer.shared(message) if self.state is State.OPEN and not self._output else None
        if frame is not None:
            self._tick(now)
            self._last_out = self._now
            self.stats.messages_sent += 1
            self.stats.bytes_sent += len(frame)
            if self._idle_timeout is not None:
                self._restart_idle()
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
        if not isinstance(payload, bytes):
            raise TypeError(f"ping payload is of type {type(payload).__name__}; it must be bytes")
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise LocalProtocolError(f"ping payload of {len(payload)} bytes; at most {MAX_CONTROL_PAYLOAD} are allowed")
        self._heartbeat.on_ping_sent(payload, self._now)
        self._write(self._writer.control(Opcode.PING, payload))
        return payload

    def close(self, code: int, reason: str, now: float, *, cause: Cause = Cause.LOCAL_CLOSE) -> None:
        """Begin the closing handshake; `reason` is cut to 123 bytes of whole UTF-8. Does nothing when it has begun.

        Raises LocalProtocolError for a code that may not be sent.
        """
        self._tick(now)
        check_close(code, reason)
        self._release_end()  # what the peer sent came before
        self._end(Input.LOCAL_CLOSE, CloseFrame(code, truncate_reason(reason)), cause)

    def reading_paused(self, now: float) -> None:
        """The adapter has stopped reading: no verdict on the peer, and no more messages, until it resumes."""
        self._tick(now)
        self._reading_paused = True
        self._heartbeat.reading_paused(self._now)
        self._deadlines.clear(Timer.IDLE)  # what the application has not read yet may be a message

    def reading_resumed(self, now: float) -> None:
        """The adapter reads again; `events` may have more at once."""
        self._tick(now)
        if self._reading_paused:
            self._reading_paused = False
            self._heartbeat.reading_resumed(self._now)
            self._restart_idle()

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

    # What goes out.

    def data_to_send(self) -> bytes:
        """Return the bytes to send and forget them; pongs and Close frames are in it."""
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        self.bytes_to_send = 0
        self.stats.bytes_sent += len(data)
        self._last_out = self._now
        return data

    # Time.

    @property
    def next_timer(self) -> tuple[Timer, float] | None:
        """Why and when the connection wants to be woken next, in seconds on the clock of `now`; changes nothing."""
        if self.state is State.CLOSED:
            return None
        if self._held_end is not None:
            return Timer.END, self._held_at
        upcoming = self._deadlines.next()
        if self.state is State.OPEN:
            beat = self._heartbeat.next_timeout()
            if beat is not None and (upcoming is None or beat < upcoming[1]):
                upcoming = Timer.HEARTBEAT, beat
        return upcoming

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout`, or None. Changes nothing."""
        timer = self.next_timer
        return None if timer is None else timer[1]

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Early, late and repeated calls are safe.

        After a late timer or before a verdict the next deadline is a moment away: the adapter must read from the
        transport, if there is something to read, before it calls again.
        """
        self._tick(now)
        self._release_end()
        state = self.state
        if state is State.CLOSED:
            return
        if state is State.OPEN:
            self._beat()
        for timer in self._deadlines.handle_timeout(self._now):
            if timer is Timer.CLOSE:
                self._act(Input.TIMEOUT)
            elif timer is Timer.UNSENT:
                self._late_at = None
                if self.outbox.on_late(self._now):
                    self._end_slow("nothing was read for too long")
                self._watch_age()
            else:
                self._end(Input.LOCAL_CLOSE, CloseFrame(Cause.IDLE.code, "idle timeout"), Cause.IDLE)

    # What is.

    @property
    def latency(self) -> float | None:
        """Seconds from the last answered ping to its pong; None before the first."""
        return self._heartbeat.latency

    @property
    def missed(self) -> int:
        """Pings of the heartbeat that have gone unanswered since the last byte."""
        return self._heartbeat.missed

    # Inside.

    def _tick(self, now: float) -> None:
        if now > self._now:
            self._now = now

    def _restart_idle(self) -> None:
        """A message has come or gone, or can come again: the idle timeout begins anew."""
        if self._idle_timeout is not None and not self._reading_paused and self.state is State.OPEN:
            self._deadlines.set(Timer.IDLE, self._now + self._idle_timeout)

    def _write(self, frame: bytes) -> None:
        self._output.append(frame)
        self.bytes_to_send += len(frame)

    def _on_message(self, message: Message) -> None:
        """Take a message, or one frame of it."""
        wire_size = self._reader.wire_size
        if self._frame_size.on_frame_end(wire_size, fin=message.final):
            self._events.append(FrameSizeWarning(wire_size))
        if self.state is not State.OPEN:
            self.stats.messages_discarded += message.final
            return
        self.stats.messages_received += message.final
        self._messages_in_read = True
        if self._idle_timeout is not None:
            self._restart_idle()
        self._events.append(message)

    def _on_control(self, frame: ControlFrame) -> None:
        payload = frame.payload
        if frame.opcode is Opcode.PING:
            self._answer_ping(payload)
            self._events.append(PingReceived(payload))
        elif frame.opcode is Opcode.PONG:
            self._events.append(PongReceived(payload, self._heartbeat.on_pong(payload, self._now)))
        else:
            self._on_end(parse_close(payload))

    def _on_end(self, end: CloseFrame | FrameError) -> None:
        """Take what ends the connection, but let the application answer the messages before it first."""
        self._can_read = False
        self._held_end, self._held_at = end, self._now
        if not (self._messages_in_read and self.state is State.OPEN):
            self._release_end()

    def _release_end(self) -> None:
        end, self._held_end = self._held_end, None
        if isinstance(end, FrameError):
            self._end(Input.FAIL, CloseFrame(end.code, truncate_reason(str(end))), end.cause)
        elif end is not None:
            self._close_rcvd = end
            # Our own Close may have passed it on the way.
            self._rcvd_then_sent = self._close_sent is None
            self._end(Input.PEER_CLOSE, end, Cause.PEER_CLOSE, Initiator.PEER)

    def _answer_ping(self, payload: bytes) -> None:
        if self.state is not State.OPEN:
            return  # after a Close frame nothing more may be sent (RFC 6455, section 5.5.1)
        if self._writing_paused:
            # Only the latest ping needs an answer (RFC 6455, section 5.5.3), so a flood costs no memory.
            self._pending_pong = payload
        else:
            self._write(self._writer.control(Opcode.PONG, payload))

    def _note_stall(self, late_by: float) -> None:
        self.stats.stalls += 1
        self._events.append(HeartbeatStalled(late_by))

    def _beat(self) -> None:
        beat = self._heartbeat.handle_timeout(self._now)
        if beat.late_by:
            self._note_stall(beat.late_by)
        if beat.ping is not None:
            self._write(self._writer.control(Opcode.PING, beat.ping))
            self._events.append(HeartbeatPinged(beat.missed))
        if beat.dead:
            self._end(Input.GIVE_UP, CloseFrame(Cause.HEARTBEAT.code, "connection timeout"), Cause.HEARTBEAT)

    def _watch_age(self) -> None:
        """Keep the deadline of what waits where the outbox has it."""
        late_at = self.outbox.late_at if self.state is State.OPEN else None
        if late_at == self._late_at:
            return  # setting it again would put off the verdict
        self._late_at = late_at
        if late_at is None:
            self._deadlines.clear(Timer.UNSENT)
        else:
            self._deadlines.set(Timer.UNSENT, late_at)

    def _end_slow(self, reason: str) -> None:
        self._end(Input.LOCAL_CLOSE, CloseFrame(Cause.SLOW_CONSUMER.code, reason), Cause.SLOW_CONSUMER)

    def _end(
        self, event: Input, frame: CloseFrame | None, cause: Cause, initiator: Initiator = Initiator.LOCAL
    ) -> None:
        """Take an input that ends the connection; the first one gives the cause and the frame to send."""
        if self.state is State.OPEN:
            self._cause, self._initiator = cause, initiator
            self._deadlines.clear(Timer.IDLE)
            if self.outbox.line:
                self._empty_outbox(is_in_order=event is Input.LOCAL_CLOSE or event is Input.PEER_CLOSE)
        self._act(event, frame)
        self._watch_age()

    def _empty_outbox(self, *, is_in_order: bool) -> None:
        """Send what waits only for the turn of a sender, who will not have it; a Close frame waits for nothing else."""
        if is_in_order and not self._writing_paused and self._writer.unfinished is None:
            for message in self.outbox.empty():
                self.send(message, self._now)
        self.outbox.drop()

    def _act(self, event: Input, frame: CloseFrame | None = None) -> None:
        phase = self.state
        actions = self._closing.on(event)
        self.state = self._closing.state
        for action in actions:
            if action is Action.SEND_CLOSE:
                assert frame is not None  # every input that sends a Close frame comes with it
                self._send_close(frame)
            elif action is Action.START_TIMER:
                self._deadlines.set(Timer.CLOSE, self._now + self._close_timeout)
            elif action is Action.SEND_EOF or (action is Action.SERVER_SENDS_EOF and not self._is_client):
                self.transport_action = TransportAction.SEND_EOF
            elif action is Action.END:
                self._finish(phase)

    def _send_close(self, frame: CloseFrame) -> None:
        self._close_sent = frame
        no_status = frame.code == CloseCode.NO_STATUS_RCVD
        payload = b"" if no_status else frame.code.to_bytes(2, "big") + frame.reason.encode()
        self._write(self._writer.control(Opcode.CLOSE, payload))

    def _finish(self, phase: State) -> None:
        self._can_read = False
        self.transport_action = TransportAction.ABORT
        self.close_info = CloseInfo(
            cause=self._cause,
            initiator=self._initiator,
            phase=phase,
            sent=self._close_sent,
            rcvd=self._close_rcvd,
            # What is stuck at the end takes our Close frame with it, which is the last of it.
            rcvd_then_sent=None if self._writing_paused else self._rcvd_then_sent,
            error=self._error,
            last_byte_in_age=self._now - self._last_in,
            last_byte_out_age=self._now - self._last_out,
        )
        self._events.append(Closed(self.close_info))


def check_close(code: object, reason: object) -> None:
    """Raise LocalProtocolError when `code` or `reason` may not be sent (RFC 6455, section 7.4)."""
    if not (isinstance(code, int) and may_send(code)):
        raise LocalProtocolError(
            f"close code {code!r} cannot be sent; allowed are 1000 to 1003, 1007 to 1014 and 3000 to 4999"
        )
    if not isinstance(reason, str):
        raise LocalProtocolError(f"close reason is of type {type(reason).__name__}; it must be str")

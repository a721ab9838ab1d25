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

from wsconnkit.machines.closecodes import truncate_reason
from wsconnkit.machines.closing import Action, Closing, Input, State
from wsconnkit.machines.compression import CompressionStats
from wsconnkit.machines.framesize import FrameSize
from wsconnkit.machines.heartbeat import Heartbeat
from wsconnkit.protocol.closeinfo import Cause, CloseFrame, CloseInfo, Initiator
from wsconnkit.protocol.closerecord import CloseRecord
from wsconnkit.protocol.config import ConnectionConfig
from wsconnkit.protocol.controlrate import ControlRate
from wsconnkit.protocol.deflate import DeflateParams, Deflater, Inflater, deflate_pair
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
from wsconnkit.protocol.framereader import FrameReader
from wsconnkit.protocol.frames import (
    ControlFrame,
    FrameError,
    Opcode,
    Role,
    check_close,
    close_payload,
    parse_close,
)
from wsconnkit.protocol.framewriter import FrameWriter
from wsconnkit.protocol.outbox import Outbox
from wsconnkit.protocol.sendingside import SendingSide
from wsconnkit.protocol.stats import ConnectionStats
from wsconnkit.protocol.timers import Timer, Timers
from wsconnkit.protocol.transportaction import TransportAction

_TIMEOUTS = {
    Timer.IDLE: (Cause.IDLE, "idle timeout"),
    Timer.UNREAD: (Cause.SLOW_APPLICATION, "messages are not being read"),
}
"""The timers that close the connection: for which cause, and what the peer is told."""


class ConnectionProtocol(SendingSide):
    """The protocol of one connection, without I/O (RFC 6455, RFC 7692).

    role: which side this is.
    now: seconds on a monotonic clock; each later call takes its own, and one before the last is clamped.
    deflate: what the opening handshake agreed on, None for no compression.
    trailing_data: bytes that arrived together with the handshake.
    random_bytes: gives masks and ping payloads; must be unpredictable in production.
    """

    __slots__ = (
        "_can_read",
        "_closing",
        "_control_rate",
        "_eof_behind_data",
        "_events",
        "_frame_size",
        "_is_client",
        "_messages_in_read",
        "_reader",
        "_reading_paused",
        "close_info",
        "transport_action",
        "wire_size",
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
        self._frame_size = frame_size = FrameSize(config.limits)
        stats = ConnectionStats(frame_size.stats, CompressionStats())
        compression = stats.compression
        deflater: Deflater | None = None
        inflater: Inflater | None = None
        if deflate is not None and config.compression is not None:
            deflater, inflater = deflate_pair(config.compression, deflate, is_client=self._is_client)
        super().__init__(
            FrameWriter(role, deflater=deflater, stats=compression.outbound, random_bytes=random_bytes),
            Outbox(config.queue, stats),
            stats,
            heartbeat=Heartbeat(config.heartbeat, now=now, new_payload=random_bytes),
            timers=Timers(
                idle_timeout=config.idle_timeout,
                max_unread_age=config.queue.max_unread_age,
                close_timeout=config.close.timeout,
                now=now,
            ),
            record=CloseRecord(now),
            random_bytes=random_bytes,
            now=now,
        )
        self._reader = FrameReader(role, frame_size, inflater=inflater, stats=compression.inbound if inflater else None)
        self._control_rate = ControlRate(config.limits.max_control_frames_per_second)
        self._can_read = True
        """Until the peer has ended what it sends, in order or not, or the connection is over."""
        self._reading_paused = False
        self._messages_in_read = False
        self._eof_behind_data = False
        self._closing = Closing()
        self._events: deque[Event] = deque()
        self.close_info: CloseInfo | None = None
        """How the connection ended; None until then."""
        self.transport_action: TransportAction = TransportAction.OPEN
        """What the adapter must do with the transport next."""
        self.wire_size = 0
        """Payload bytes on the wire of the data frame that `events` yielded last."""
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
        self._record.last_byte_in_at = self._now
        late_by = self._heartbeat.on_data(self._now)
        if late_by and state is State.OPEN:
            self._note_stall(late_by)
        self.stats.bytes_received += len(data)
        self._messages_in_read = False
        if self._can_read:
            self._reader.receive_data(data)

    def receive_eof(self, now: float, error: OSError | None = None) -> None:
        """The peer has ended its direction, or the transport broke with the operating system's `error`. Idempotent.

        An end comes behind what was received before; a transport that broke while reading was paused, at once.
        """
        self._tick(now)
        if self.state is State.CLOSED:
            return
        self._record.on_error(error)
        self._release_end()
        if self._reading_paused and error is not None:
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
            if not self._eof_behind_data:
                return
            self._eof_behind_data = False
            self._end(Input.EOF, None, Cause.TRANSPORT_LOST, Initiator.TRANSPORT)

    def drop_unread(self) -> None:
        """Lose what was received and is no event yet."""
        self._can_read = False

    def next_event(self) -> Event | None:
        """Return the next event, or None."""
        return next(self.events(), None)

    def close(self, code: int, reason: str, now: float, *, cause: Cause = Cause.LOCAL_CLOSE) -> None:
        """Begin the closing handshake; `reason` is cut to 123 bytes of whole UTF-8. Does nothing when it has begun.

        Raises LocalProtocolError for a code or a reason that may not be sent.
        """
        self._tick(now)
        check_close(code, reason)
        self._release_end()  # what the peer sent came before
        self._end(Input.LOCAL_CLOSE, CloseFrame(code, truncate_reason(reason)), cause)

    def reading_paused(self, now: float) -> None:
        """The adapter has stopped reading: until it resumes, there are pings, but no verdict and no more messages."""
        self._tick(now)
        if not self._reading_paused:
            self._reading_paused = True
            self._heartbeat.reading_paused(self._now)
            self._control_rate.reading_paused(self._now)
            if self.state is State.OPEN:
                self._timers.reading_paused(self._now)

    def reading_progressed(self, now: float) -> None:
        """The application has taken something; reading is still paused, but for another `max_unread_age` if need be."""
        self._tick(now)
        if self._reading_paused and self.state is State.OPEN:
            self._timers.restart_unread(self._now)

    def reading_resumed(self, now: float) -> None:
        """The adapter reads again; `events` may have more at once."""
        self._tick(now)
        if self._reading_paused:
            self._reading_paused = False
            self._heartbeat.reading_resumed(self._now)
            self._control_rate.reading_resumed(self._now)
            self._timers.reading_resumed(self._now)

    # Time, and what is.

    @property
    def next_timer(self) -> tuple[Timer, float] | None:
        """Why and when the connection wants to be woken next, in seconds on the clock of `now`; changes nothing."""
        if self.state is State.CLOSED:
            return None
        if self._record.held is not None:
            return Timer.END, self._record.held_at
        upcoming = self._timers.next()
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
        for timer in self._timers.handle_timeout(self._now):
            if timer is Timer.CLOSE:
                self._act(Input.TIMEOUT)
            elif timer is Timer.UNSENT:
                if self.outbox.on_late(self._now):
                    self._end_slow("nothing was read for too long")
                self._watch_age()
            elif timer is Timer.UNREAD_WARNING:
                self._events.append(UnreadWarning(self._timers.unread_for(self._now)))
            else:
                cause, reason = _TIMEOUTS[timer]
                self._end(Input.LOCAL_CLOSE, CloseFrame(cause.code, reason), cause)

    @property
    def latency(self) -> float | None:
        """Seconds from the last answered ping to its pong; None before the first."""
        return self._heartbeat.latency

    @property
    def missed(self) -> int:
        """Pings of the heartbeat that have gone unanswered since the last byte."""
        return self._heartbeat.missed

    # Inside.

    def _on_message(self, message: Message) -> None:
        """Take a message, or one frame of it."""
        self.wire_size = wire_size = self._reader.wire_size
        if self._frame_size.on_frame_end(wire_size, fin=message.final):
            self._events.append(FrameSizeWarning(wire_size))
        if self.state is not State.OPEN:
            self.stats.messages_discarded += message.final
            self._events.append(MessageDiscarded(message.size))
            return
        self.stats.messages_received += message.final
        self._messages_in_read = True
        if self._timers.watches_idle:
            self._timers.restart_idle(self._now)
        self._events.append(message)

    def _on_control(self, frame: ControlFrame) -> None:
        """Take a control frame. Raises FrameError."""
        payload = frame.payload
        if frame.opcode is Opcode.CLOSE:
            self._on_end(parse_close(payload))
        elif frame.opcode is Opcode.PING:
            self._control_rate.on_ping(self._now)
            self._answer_ping(payload)
            self._events.append(PingReceived(payload))
        else:
            self._control_rate.on_pong(self._now, self._pings_sent)
            self._events.append(PongReceived(payload, self._heartbeat.on_pong(payload, self._now)))

    def _on_end(self, end: CloseFrame | FrameError) -> None:
        """Take what ends the connection, but let the application answer the messages before it first, if it can."""
        self._can_read = False
        self._record.hold(end, self._now)
        if not (self._messages_in_read and self.state is State.OPEN) or self._eof_behind_data:
            self._release_end()

    def _release_end(self) -> None:
        end = self._record.release()
        if isinstance(end, FrameError):
            self._end(Input.FAIL, CloseFrame(end.code, truncate_reason(str(end))), end.cause)
        elif end is not None:
            self._record.on_received(end)
            self._end(Input.PEER_CLOSE, end, Cause.PEER_CLOSE, Initiator.PEER)

    def _note_stall(self, late_by: float) -> None:
        self.stats.stalls += 1
        self._control_rate.on_stall(late_by)
        self._events.append(HeartbeatStalled(late_by))

    def _beat(self) -> None:
        beat = self._heartbeat.handle_timeout(self._now)
        if beat.late_by:
            self._note_stall(beat.late_by)
        if beat.ping is not None:
            self._send_ping(beat.ping)
            self._events.append(HeartbeatPinged(beat.missed))
        if beat.dead:
            self._end(Input.GIVE_UP, CloseFrame(Cause.HEARTBEAT.code, "connection timeout"), Cause.HEARTBEAT)

    def _end_slow(self, reason: str) -> None:
        self._end(Input.LOCAL_CLOSE, CloseFrame(Cause.SLOW_CONSUMER.code, reason), Cause.SLOW_CONSUMER)

    def _end(
        self, event: Input, frame: CloseFrame | None, cause: Cause, initiator: Initiator = Initiator.LOCAL
    ) -> None:
        """Take an input that ends the connection; the first one gives the cause and the frame to send."""
        self._record.begin(cause, initiator)
        if self.state is State.OPEN:
            self._timers.stop_watching()
            if self.outbox.line:
                self._empty_outbox(is_in_order=event is Input.LOCAL_CLOSE or event is Input.PEER_CLOSE)
        self._act(event, frame)
        self._watch_age()

    def _act(self, event: Input, frame: CloseFrame | None = None) -> None:
        phase = self.state
        actions = self._closing.on(event)
        self.state: State = self._closing.state
        for action in actions:
            if action is Action.SEND_CLOSE:
                assert frame is not None  # every input that sends a Close frame comes with it
                self._record.on_sent(frame)
                self._write(self._writer.control(Opcode.CLOSE, close_payload(frame)))
            elif action is Action.START_TIMER:
                self._timers.start_closing(self._now)
            elif action is Action.SEND_EOF or (action is Action.SERVER_SENDS_EOF and not self._is_client):
                self.transport_action = TransportAction.SEND_EOF
            elif action is Action.END:
                self._finish(phase)

    def _finish(self, phase: State) -> None:
        self._can_read = False
        self.transport_action = TransportAction.ABORT
        self.close_info = self._record.info(phase, self._now, is_stuck=self._writing_paused)
        self._events.append(Closed(self.close_info))

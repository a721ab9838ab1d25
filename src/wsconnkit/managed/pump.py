"""The pump between a core and a transport: one change, then its events, its bytes, its timers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NoReturn, Protocol

from wsconnkit.machines.closing import State
from wsconnkit.managed.lastturns import LastTurns
from wsconnkit.managed.runqueue import FRAME_COST
from wsconnkit.managed.runtime import Event as RuntimeEvent
from wsconnkit.managed.runtime import Future, Runtime
from wsconnkit.managed.senders import Senders
from wsconnkit.managed.transport import Transport
from wsconnkit.protocol.config import QueueConfig
from wsconnkit.protocol.connection import ConnectionProtocol
from wsconnkit.protocol.errors import ConcurrencyError, connection_closed
from wsconnkit.protocol.events import Event, Message, MessageDiscarded
from wsconnkit.protocol.inbox import Inbox
from wsconnkit.protocol.prepared import Content, PreparedMessage
from wsconnkit.protocol.timers import Timer
from wsconnkit.protocol.transportaction import TransportAction

_COALESCE = 64 * 1024
"""Bytes up to which a write may wait for more to go out with it."""


_LAST_BUDGET = 4096 * FRAME_COST
"""What is done of what was read, in one go, when the transport has ended."""


class Timed(Protocol):
    """What has deadlines of its own on a connection."""

    def next_timeout(self) -> float | None:
        """Return when to call `handle_timeout`, or None."""

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""


class Pump:
    """Carries out what `core` decides, on a transport; `inbox` holds the messages that have arrived.

    on_event: called with each event that is not a message.
    on_cancelled: called when what is around the transport is being cancelled; begins to close.
    """

    def __init__(
        self,
        runtime: Runtime,
        core: ConnectionProtocol,
        queue: QueueConfig,
        *,
        on_event: Callable[[Event], None],
        on_cancelled: Callable[[], None],
    ) -> None:
        self.core = core
        self.inbox: Inbox = Inbox(queue)
        self.senders: Senders = Senders(runtime, core)
        self.transport: Transport | None = None
        self.filter: Callable[[Message], Iterable[Message]] | None = None
        """Called with each frame of a message; returns those that the application may have now."""
        self.on_received: Callable[[int], None] | None = None
        """Called with the size in bytes of each message that the application may have."""
        self.on_sent: Callable[[int], None] | None = None
        """Called with the size in bytes of each message that goes out."""
        self.on_gone: Callable[[], None] | None = None
        """Called when the transport has ended, and the connection with it."""
        self.gone: RuntimeEvent = runtime.event()
        """Set when the transport has ended, and the connection with it."""
        self.reading: bool = True
        """False while reading is paused: the inbox is full, or what was read waits for its turn."""
        self.timed: tuple[Timed, ...] = ()
        """What else is asked when the alarm rings; who gets an earlier deadline calls `wake_at`."""
        self._runtime = runtime
        self._run_queue = runtime.run_queue
        self._now = runtime.now
        self._on_event = on_event
        self._on_cancelled = on_cancelled
        self._line = core.outbox.line
        self._high_water = queue.write_high_water
        self._collects_writes = False
        self._receiver: Future | None = None
        self._alarm = runtime.alarm(self._on_alarm)
        self._has_news = False
        self._is_eof_written = False
        self._is_released = False
        self._is_pumping = False
        self._is_flush_scheduled = False
        self._is_queued = False
        self._last_turns = LastTurns(self._on_alarm)

    # What a transport calls.

    def connection_made(self, transport: Transport) -> None:
        """Take over a transport that is ready for WebSocket frames."""
        self.transport = transport
        self._collects_writes = transport.collects_writes
        transport.set_write_buffer_limits(self._high_water)
        transport.set_protocol(self)
        self.pump()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self.core.receive_data(data, self._now())
        self.pump()

    def eof_received(self) -> None:  # noqa: D102
        self.core.receive_eof(self._now())
        self.pump()

    def connection_lost(self, error: OSError | None) -> None:  # noqa: D102
        self._is_released = True
        if not self.reading:
            self._resume()  # nothing holds the peer back any more: what has no room is lost
        self.core.receive_eof(self._now(), error)
        self._pump(_LAST_BUDGET)
        self.transport = None
        self._alarm.cancel()
        self.gone.set()
        if self.on_gone is not None:
            self.on_gone()

    def pause_writing(self) -> None:  # noqa: D102
        self.core.writing_paused(self._now())
        self.senders.pause()
        self.arm()

    def writing_progressed(self) -> None:  # noqa: D102
        self.core.writing_progressed(self._now())

    def resume_writing(self) -> None:  # noqa: D102
        self.core.writing_resumed(self._now())
        self.senders.resume()
        self.flush()
        self.arm()

    def cancelled(self) -> None:  # noqa: D102
        self._on_cancelled()
        self._release()

    # What a connection calls.

    def pump(self) -> None:
        """Deliver events, then write, obey and re-arm; to be called after every change of the core."""
        self._pump(self._run_queue.budget)

    def _pump(self, budget: int) -> int:
        """Do that within a budget of the run queue, where what is over it waits for its turn; return what is left."""
        if self._is_pumping:
            # Whoever changes the core within an event: the pass that delivers it goes on with what follows.
            return budget
        self._is_pumping = True
        try:
            budget = self._deliver(budget)
        finally:
            self._is_pumping = False
        if self._has_news:
            self._has_news = False
            if self._receiver is not None and not self._receiver.done():
                self._receiver.set_result(None)
        self.flush()
        self.arm()
        return budget

    def arm(self) -> None:
        """Wake the core when it wants to be woken."""
        if self._is_released:
            return
        timer = self.core.next_timer
        if timer is None:
            return
        if timer[0] is not Timer.END:
            self._alarm.set(timer[1])
        elif self.transport is not None:  # what came with the end may be answered, if that is done without further ado
            self._last_turns.begin(self.transport, self.inbox.messages)

    def wake_at(self, deadline: float | None) -> None:
        """Ask those in `timed` at `deadline`, or before."""
        if not self._is_released:
            self._alarm.set(deadline)

    def messages(self) -> Future:
        """Return a future that is done when more may be in the inbox.

        Raises ConnectionClosed when there will be no more, ConcurrencyError when somebody waits already.
        """
        if self.core.close_info is not None:
            raise connection_closed(self.core.close_info)
        if self._receiver is not None and not self._receiver.done():
            raise ConcurrencyError("another task waits for messages of this connection already")
        if not self.reading:
            self.on_taken()  # what was left of a message that was taken in part is dropped
        self._receiver = self._runtime.future()
        return self._receiver

    def on_taken(self) -> None:
        """The application has taken something while reading is paused: read again in turn, if there is room for it."""
        if self._is_queued:
            return
        if self.inbox.low:
            self._queue_up()
        else:
            self.core.reading_progressed(self._now())

    @property
    def unsent(self) -> int:
        """Bytes that wait for the network."""
        written = 0 if self.transport is None else self.transport.get_write_buffer_size()
        return self.core.outbox.size + self.core.bytes_to_send + written

    @property
    def is_ending(self) -> bool:
        """Nothing can be sent any more."""
        return self.core.state is not State.OPEN or self.transport is None or self.transport.is_closing()

    @property
    def is_ready_to_send(self) -> bool:
        """A message that is sent now will go out, before no other, and the transport has room."""
        if self.senders.is_full or self._line or self.core.state is not State.OPEN:
            return False
        return self.transport is not None and not self.transport.is_closing()

    def send(self, message: Content | PreparedMessage) -> bool:
        """Send a message if nothing is to be waited for, and tell whether it was sent."""
        if not self.is_ready_to_send:
            return False
        self.send_now(message)
        return True

    def send_now(self, message: Content | PreparedMessage) -> None:
        """Send a message before all that waits; only for those whose turn it is."""
        size = self.core.send(message, self._now())
        if self.on_sent is not None:
            self.on_sent(size)
        if not self.inbox.messages or self._collects_writes or self.core.bytes_to_send > _COALESCE:
            self.flush()
        else:
            self.flush_soon()  # with what else answers the messages of the same read

    def send_shared(self, message: PreparedMessage) -> bool:
        """Write a message's frame if it is the same for all, is not to be cut, and nothing is before it; or tell."""
        transport = self.transport
        if self.senders.is_full or self._line or transport is None or transport.is_closing():
            return False
        if message.size > self._high_water:
            return False
        frame = self.core.send_shared(message, self._now())
        if frame is None:
            return False
        transport.write_at_once(frame)
        if self.on_sent is not None:
            self.on_sent(message.size)
        return True

    def flush(self) -> None:
        """Write what there is to send and obey the core."""
        self._is_flush_scheduled = False
        transport = self.transport
        if transport is not None and not self._is_released:
            data = self.core.data_to_send()
            if data and not self.senders.is_full and len(data) <= self._high_water:
                transport.write_at_once(data)
            elif data:
                transport.write(data)
            if self._line and not transport.is_closing():
                self._send_waiting(transport)
            if self.core.transport_action is not TransportAction.OPEN:
                self._obey(transport)
        if self.senders.in_line:
            self.senders.wake()

    def flush_soon(self) -> None:
        """Flush when those who run now have had their turn."""
        if self.transport is not None and not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            self.transport.call_soon(self.flush)

    async def wait_until_writable(self) -> None:
        """Wait while the transport has no room. Raises ConnectionClosed when nothing can be sent any more."""
        if not self.is_ending:
            await self.senders.wait_for_room()
        if self.is_ending:
            await self._raise_closed()

    async def wait_for_turn(self, turn: Future | None = None) -> None:
        """Wait until all that waits by now has gone out, or `turn` is over for another reason.

        Raises ConnectionClosed when nothing can be sent any more. When it returns, the message must be sent before
        anybody else runs.
        """
        if not self.is_ending:
            try:
                await self.senders.wait_for_turn(turn or self._runtime.future())
            finally:
                self.flush_soon()  # for those behind
        if self.is_ending:
            await self._raise_closed()

    # Inside.

    async def _raise_closed(self) -> NoReturn:
        await self.gone.wait()
        assert self.core.close_info is not None  # nothing else ends the pump
        raise connection_closed(self.core.close_info)

    def _deliver(self, budget: int) -> int:
        """Take the next events of the core, as many as the budget allows, and return what is left of it."""
        core, inbox = self.core, self.inbox
        while True:
            for event in core.events():
                budget -= FRAME_COST
                if type(event) is MessageDiscarded:
                    budget -= max(event.size, core.wire_size)
                elif type(event) is not Message:
                    self._has_news = self._has_news or core.close_info is not None
                    self._on_event(event)
                elif not (self._is_released and inbox.full):  # else there is no room, and no transport to hold it back
                    budget -= max(event.size, core.wire_size)
                    for frame in (event,) if self.filter is None else self.filter(event):
                        self._has_news = True
                        size = inbox.put(frame)
                        if size is not None and self.on_received is not None:
                            self.on_received(size)
                    if inbox.full:
                        self._pause_reading()
                if budget <= 0 and self._is_released:
                    core.drop_unread()  # nobody waits for it any more but for the application, which has had its share
                elif budget <= 0:
                    if self.reading or core.state is not State.OPEN:
                        self._queue_up()
                    return budget
            if self.reading or self._is_queued or core.state is State.OPEN:
                return budget
            self._unpause()  # the peer's answer to our close is still to be read

    def _send_waiting(self, transport: Transport) -> None:
        while sizes := self.core.send_waiting(self._now()):
            transport.write(self.core.data_to_send())
            if self.on_sent is not None:
                for size in sizes:
                    self.on_sent(size)

    def _obey(self, transport: Transport) -> None:
        if self.core.transport_action is TransportAction.ABORT:
            self._release()
        elif not self._is_eof_written:
            self._is_eof_written = True
            transport.write_eof()

    def _release(self) -> None:
        if self.transport is not None and not self._is_released:
            self._is_released = True
            self.transport.release()

    def _on_alarm(self) -> None:
        if self.transport is not None:
            self.transport.watch_writing()
        now = self._now()
        self.core.handle_timeout(now)
        for timed in self.timed:
            timed.handle_timeout(now)
            self.wake_at(timed.next_timeout())
        self.pump()

    def _pause_reading(self) -> None:
        if self.reading and self.transport is not None and not self._is_released:
            self.reading = False
            self.core.reading_paused(self._now())
            self.transport.pause_reading()

    def _queue_up(self) -> None:
        """Go on with what was read, and read more, when it is our turn: others are to have theirs."""
        if not self._is_queued:
            self._pause_reading()
            self._is_queued = True
            self._run_queue.add(self._take_turn)

    def _take_turn(self, budget: int) -> int:
        if not self._is_queued:
            return budget  # the transport has ended
        self._resume()
        budget = self._pump(budget)
        if self.reading:
            self._read_on()
        return budget

    def _unpause(self) -> None:
        self._resume()
        self._read_on()

    def _resume(self) -> None:
        self._is_queued = False
        self.reading = True
        self.core.reading_resumed(self._now())

    def _read_on(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

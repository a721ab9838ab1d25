"""The pump between a core and a trio stream: one change, then its events, its bytes, its timer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NoReturn

import trio

from wsconnkit.machines.closing import State
from wsconnkit.protocol.config import QueueConfig
from wsconnkit.protocol.connection import ConnectionProtocol, Timer
from wsconnkit.protocol.errors import connection_closed
from wsconnkit.protocol.events import Event, Message
from wsconnkit.protocol.inbox import Inbox
from wsconnkit.trio.transport import MAX_READ, Alarm, os_error
from wsconnkit.trio.writer import LINGER, Writer

_MAX_EVENTS = 1000
"""Events of one read after which other tasks have their turn."""
_TURNS = 4
"""Times that an application must have its turn to answer a message: to receive it, to send, and twice in between."""


class Pump:
    """Carries out what `core` decides, on a stream; `inbox` holds the messages that have arrived.

    filter: called with each frame of a message; returns those that the application may have now.
    on_size: called with the size of each message that the application may have, in bytes.
    on_frames: called after a read, when the inbox may have more.
    on_event: called with each event that is not a message.
    """

    def __init__(
        self,
        core: ConnectionProtocol,
        queue: QueueConfig,
        *,
        on_frames: Callable[[], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self.core = core
        self.filter: Callable[[Message], Iterable[Message]] | None = None
        self.on_size: Callable[[int], None] | None = None
        self.inbox = Inbox(queue)
        self.gone = trio.Event()
        """Set when the stream has ended, and the connection with it."""
        self.reading = True
        """False while reading is paused because the inbox is full."""
        self.writer = Writer(core, queue.write_high_water, on_end=self._lose, on_deadline=self.arm)
        self.flush = self.writer.flush
        """Have written what there is to send, and the core obeyed."""
        self._on_frames = on_frames
        self._on_event = on_event
        self._reader = trio.lowlevel.ParkingLot()
        self._alarm: Alarm | None = None
        self._eof_received = False
        self._pumping = False
        self._has_backlog = False
        self._ends_behind_messages = False

    @trio.lowlevel.enable_ki_protection
    async def run(self, stream: trio.abc.Stream, say_farewell: Callable[[], None]) -> None:
        """Carry the connection to its end; cancelled, `say_farewell` begins the close, which is not waited for."""
        try:
            async with trio.open_nursery() as nursery:
                self._alarm = Alarm(nursery, self._on_timer, shield=True)
                nursery.start_soon(self.writer.run, stream)
                try:
                    self.pump()
                    try:
                        await self._read_all(stream)
                    except trio.Cancelled:
                        # Not raised again: this task ends by itself, and whoever is cancelled learns it where they
                        # wait. The deadline is for a stream whose end does not end a read of it.
                        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2 * LINGER):
                            say_farewell()
                            self.writer.release_soon()
                            await self._read_all(stream)
                except BaseException:
                    self.writer.abort()
                    raise
        finally:
            self.gone.set()

    async def _read_all(self, stream: trio.abc.Stream) -> None:
        while not self.writer.is_released:
            if self._has_backlog:
                await trio.lowlevel.checkpoint()
                self._has_backlog = False
                self.pump()
                continue
            if self._ends_behind_messages:
                await self._leave_turns()
                continue
            if self._eof_received or not self.reading:
                await self._reader.park()
                continue
            try:
                data = await stream.receive_some(MAX_READ)
            except trio.ClosedResourceError:
                self._lose(None)
            except trio.BrokenResourceError as error:
                self._lose(os_error(error))
            else:
                if data:
                    self.core.receive_data(bytes(data), trio.current_time())
                else:
                    self._eof_received = True
                    self.core.receive_eof(trio.current_time())
                self.pump()

    async def _leave_turns(self) -> None:
        """Let the application answer the messages that came with the end, if it does so without further ado."""
        for _ in range(_TURNS * (self.inbox.messages + 1)):
            await trio.lowlevel.checkpoint()
        self._on_timer()

    def _lose(self, error: OSError | None) -> None:
        """The stream has ended, for both sides."""
        if not self.writer.is_released:
            self.writer.is_released = True
            try:
                self.core.receive_eof(trio.current_time(), error)
                self.pump()
            finally:
                self._reader.unpark_all()
                if self._alarm is not None:
                    self._alarm.cancel()

    def pump(self) -> None:
        """Deliver events, then write, obey and re-arm; to be called after every change of the core."""
        if self._pumping:
            return  # whoever changes the core within an event, the pass that delivers it goes on with what follows
        self._pumping = True
        try:
            self._deliver()
        finally:
            self._pumping = False
        self._on_frames()
        self.flush()
        self.arm()

    def arm(self) -> None:
        """Wake the core when it wants to be woken."""
        if self._alarm is not None and not self.writer.is_released:
            timer = self.core.next_timer
            self._ends_behind_messages = timer is not None and timer[0] is Timer.END
            self._alarm.set(None if timer is None or self._ends_behind_messages else timer[1])

    def _deliver(self) -> None:
        core, inbox = self.core, self.inbox
        while True:
            for count, event in enumerate(core.events()):
                if type(event) is not Message:
                    self._on_event(event)
                elif not (self.writer.is_released and inbox.full):  # else there is no room
                    for frame in (event,) if self.filter is None else self.filter(event):
                        size = inbox.put(frame)
                        if size is not None and self.on_size is not None:
                            self.on_size(size)
                    if inbox.full:
                        self._pause_reading()
                if count == _MAX_EVENTS and not self.writer.is_released:
                    self._has_backlog = True
                    break
            if self.reading or core.state is State.OPEN:
                break
            self._unpause()  # the peer's answer to our close is still to be read

    async def wait_until_writable(self) -> None:
        """Wait while the stream has no room. Raises ConnectionClosed when nothing can be sent any more."""
        if not self.writer.is_ending:
            await self.writer.senders.wait_for_room()
        if self.writer.is_ending:
            await self._raise_closed()

    async def wait_for_turn(self) -> None:
        """Wait until all that waits by now has gone out. Raises ConnectionClosed when nothing can be sent any more.

        When it returns, the message must be sent, and then flushed for those behind, before anybody else runs.
        """
        if not self.writer.is_ending:
            try:
                await self.writer.senders.wait_for_turn()
            except trio.Cancelled:
                self.flush()
                raise
        if self.writer.is_ending:
            await self._raise_closed()

    async def _raise_closed(self) -> NoReturn:
        await self.gone.wait()
        assert self.core.close_info is not None  # nothing else ends the pump
        raise connection_closed(self.core.close_info)

    def _on_timer(self) -> None:
        self.writer.look_for_stuck_bytes()
        self.core.handle_timeout(trio.current_time())
        self.pump()

    def _pause_reading(self) -> None:
        if self.reading and not self.writer.is_released:
            self.reading = False
            self.core.reading_paused(trio.current_time())

    def _unpause(self) -> None:
        self.reading = True
        self.core.reading_resumed(trio.current_time())
        self._reader.unpark_all()

    def resume_reading(self) -> None:
        """Read again if the inbox has room for it."""
        if self.inbox.low:
            self._unpause()
            self.pump()

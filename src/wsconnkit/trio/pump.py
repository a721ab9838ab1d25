"""The pump between a core and a trio stream: one change, then its events, its bytes, its timer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from wsconnkit.machines.closing import State
from wsconnkit.protocol.config import QueueConfig
from wsconnkit.protocol.connection import Connection as Core
from wsconnkit.protocol.connection import Timer, Transport
from wsconnkit.protocol.errors import connection_closed
from wsconnkit.protocol.events import Event, Message
from wsconnkit.protocol.inbox import Inbox
from wsconnkit.trio.transport import MAX_READ, Alarm, drop, end_writing, os_error

_MAX_EVENTS = 1000
"""Events of one read after which other tasks have their turn."""
_TURNS = 4
"""Times that an application must have its turn to answer a message: to receive it, to send, and twice in between."""
_LINGER = 0.1
"""Seconds that a released stream may take to write what it still holds."""


class Pump:
    """Carries out what `core` decides, on a stream; `inbox` holds the messages that have arrived.

    The stream is written to by a task of the pump's own: what the core has been given goes out whole, whoever is
    cancelled.

    screen: called with each frame of a message; returns those that the application may have now.
    on_size: called with the size of each message that the application may have, in bytes.
    on_frames: called after a read, when the inbox may have more.
    on_event: called with each event that is not a message.
    """

    def __init__(
        self, core: Core, queue: QueueConfig, *, on_frames: Callable[[], None], on_event: Callable[[Event], None]
    ) -> None:
        self.core = core
        self.screen: Callable[[Message], Iterable[Message]] | None = None
        self.on_size: Callable[[int], None] | None = None
        self.inbox = Inbox(queue)
        self.gone = trio.Event()
        """Set when the stream has ended, and the connection with it."""
        self.reading = True
        """False while reading is paused because the inbox is full."""
        self.unsent = 0
        """Bytes that have left the core and are still to be written."""
        self._on_frames = on_frames
        self._on_event = on_event
        self._write_high_water = queue.write_high_water
        self._writable = True
        self._senders = trio.lowlevel.ParkingLot()
        self._reader = trio.lowlevel.ParkingLot()
        self._writer = trio.lowlevel.ParkingLot()
        self._writing = trio.CancelScope(shield=True)
        self._alarm: Alarm | None = None
        self._eof_received = False
        self._eof_written = False
        self._released = False
        self._pumping = False
        self._has_backlog = False
        self._ends_behind_messages = False

    async def run(self, stream: trio.abc.Stream, say_farewell: Callable[[], None]) -> None:
        """Carry the connection to its end; cancelled, `say_farewell` begins the close, which is not waited for."""
        try:
            async with trio.open_nursery() as nursery:
                self._alarm = Alarm(nursery, self._on_timer, shield=True)
                nursery.start_soon(self._write_all, stream)
                self.pump()
                try:
                    await self._read_all(stream)
                except trio.Cancelled:
                    # Not raised again: this task ends by itself, and whoever is cancelled learns it where they wait.
                    with trio.CancelScope(shield=True):
                        say_farewell()
                        self._release_soon()
                        await self._read_all(stream)
                except BaseException:
                    self.abort()
                    raise
        finally:
            self.gone.set()

    async def _read_all(self, stream: trio.abc.Stream) -> None:
        while not self._released:
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

    async def _write_all(self, stream: trio.abc.Stream) -> None:
        try:
            with self._writing:
                while await self._write_one(stream):
                    pass
        except trio.BrokenResourceError as error:
            self._lose(os_error(error))
        except trio.ClosedResourceError:
            self._lose(None)
        finally:
            self.unsent = 0
            await drop(stream)
            self._lose(None)
            assert self._alarm is not None  # it is made before the writer
            self._alarm.cancel()

    async def _write_one(self, stream: trio.abc.Stream) -> bool:
        """Write what there is, or obey the core, or wait for either; False when there is nothing left to do."""
        data = self.core.data_to_send()
        self.unsent = len(data)
        if data:
            await stream.send_all(data)
            return True
        if not self._writable:
            self._writable = True
            self.core.writing_resumed(trio.current_time())
            self._senders.unpark_all()
        elif self._released or self.core.transport is Transport.ABORT:
            return False
        elif self.core.transport is Transport.SEND_EOF and not self._eof_written:
            self._eof_written = True
            await end_writing(stream)
        else:
            await self._writer.park()
        return True

    def _lose(self, error: OSError | None) -> None:
        """The stream has ended, for both sides."""
        if not self._released:
            self._released = True
            self.core.receive_eof(trio.current_time(), error)
            self.pump()
            self._reader.unpark_all()
            self._senders.unpark_all()

    def _release_soon(self) -> None:
        """End the stream when what there is to write is written, which may take a moment."""
        self._writing.deadline = min(self._writing.deadline, trio.current_time() + _LINGER)

    def abort(self) -> None:
        """Drop the stream at once."""
        self._writing.cancel()

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
        if self._alarm is not None and not self._released:
            timer = self.core.next_timer
            self._ends_behind_messages = timer is not None and timer[0] is Timer.END
            self._alarm.set(None if timer is None or self._ends_behind_messages else timer[1])

    def _deliver(self) -> None:
        core, inbox = self.core, self.inbox
        while True:
            for count, event in enumerate(core.events()):
                if type(event) is not Message:
                    self._on_event(event)
                elif not (self._released and inbox.full):  # else there is no room, and no stream to hold it back
                    for frame in (event,) if self.screen is None else self.screen(event):
                        size = inbox.put(frame)
                        if size is not None and self.on_size is not None:
                            self.on_size(size)
                    if inbox.full:
                        self._pause_reading()
                if count == _MAX_EVENTS and not self._released:
                    self._has_backlog = True
                    break
            if self.reading or core.state is State.OPEN:
                break
            self._unpause()  # the peer's answer to our close is still to be read

    @property
    def is_ending(self) -> bool:
        """Nothing can be sent any more."""
        return self.core.state is not State.OPEN or self._released

    @property
    def is_ready_to_send(self) -> bool:
        """A message that is sent now will go out, and not too much is unsent."""
        return self._writable and not self.is_ending

    async def wait_until_ready(self) -> None:
        """Wait while too much is unsent. Raises ConnectionClosed when nothing can be sent any more."""
        while not self.is_ready_to_send:
            if self.is_ending:
                await self.gone.wait()
                assert self.core.close_info is not None  # nothing else ends the pump
                raise connection_closed(self.core.close_info)
            await self._senders.park()

    def wake_senders(self) -> None:
        """Let those who wait see that the connection has ended."""
        self._senders.unpark_all()

    def flush(self) -> None:
        """Have written what there is to send, and the core obeyed."""
        if self._writable and self.unsent + self.core.bytes_to_send > self._write_high_water:
            self._writable = False
            self.core.writing_paused(trio.current_time())
        if self.core.transport is Transport.ABORT:
            self._release_soon()
        self._writer.unpark_all()

    def _on_timer(self) -> None:
        now = trio.current_time()
        # Less than the high-water mark may be stuck too.
        stuck = self._writable and self.unsent > 0
        if stuck:
            self.core.writing_paused(now)
        self.core.handle_timeout(now)
        if stuck:
            self.core.writing_resumed(now)
        self.pump()

    def _pause_reading(self) -> None:
        if self.reading and not self._released:
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

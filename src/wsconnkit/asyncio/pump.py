"""The pump between a core and an asyncio transport: one change, then its events, its bytes, its timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NoReturn, cast

from wsconnkit.asyncio.senders import Senders
from wsconnkit.asyncio.transport import Alarm, end_writing, forget, has_half_close, tune
from wsconnkit.asyncio.writer import Writer
from wsconnkit.machines.closing import State
from wsconnkit.protocol.config import QueueConfig
from wsconnkit.protocol.connection import ConnectionProtocol, TransportAction
from wsconnkit.protocol.errors import connection_closed
from wsconnkit.protocol.events import Event, Message
from wsconnkit.protocol.inbox import Inbox
from wsconnkit.protocol.prepared import PreparedMessage

_COALESCE = 64 * 1024
"""Bytes up to which a write may wait for more to go out with it."""
_MAX_EVENTS = 1000
"""Events of one read after which other tasks have their turn."""
_LINGER = 0.1
"""Seconds that a released transport may take to write what it still holds."""


class Pump(asyncio.Protocol):
    """Carries out what `core` decides, on a transport; `inbox` holds the messages that have arrived.

    filter: called with each frame of a message; returns those that the application may have now.
    on_size: called with the size of each message that the application may have, in bytes.
    on_frames: called after a read, when the inbox may have more.
    on_sent: called with the size of each message that goes out after it had to wait, in bytes.
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
        self.on_sent: Callable[[int], None] | None = None
        self.inbox = Inbox(queue)
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.senders = Senders(core)
        self._line = core.outbox.line
        self._write_high_water = queue.write_high_water
        self._writer = Writer(core, queue.write_high_water)
        self.gone = asyncio.Event()
        """Set when the transport has ended, and the connection with it."""
        self._on_frames = on_frames
        self._on_event = on_event
        self.reading = True
        """False while reading is paused because the inbox is full."""
        self._eof_written = False
        self._released = False
        self._pumping = False
        self._flush_scheduled = False
        self._has_backlog = False
        self._alarm = Alarm(self.loop, self._on_timer)
        self._linger: asyncio.TimerHandle | None = None

    # What asyncio calls on a protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over a transport that is ready for WebSocket frames."""
        transport = cast(asyncio.Transport, transport)  # uvloop's is of a class of its own
        if transport.is_closing():
            self.loop.call_soon(self.connection_lost, None)  # nobody tells whoever comes after the end
        else:
            self.transport = transport
            tune(transport)
            self._writer.begin(transport)
            if not transport.is_reading():
                transport.resume_reading()
        self.pump()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self.core.receive_data(data, self.loop.time())
        self.pump()

    def eof_received(self) -> bool:  # noqa: D102
        self.core.receive_eof(self.loop.time())
        self.pump()
        return has_half_close(self.transport)  # the core says when to close

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self.core.receive_eof(self.loop.time(), exc if isinstance(exc, OSError) else None)
        self._released = True
        self.pump()
        if self.transport is not None:
            forget(self.transport)
            self.transport = None
        self._writer.end()
        self._alarm.cancel()
        if self._linger is not None:
            self._linger.cancel()
        self.gone.set()

    def pause_writing(self) -> None:  # noqa: D102
        self._writer.pause()
        self.senders.pause()
        self.arm()

    def resume_writing(self) -> None:  # noqa: D102
        self._writer.resume()
        if not self._writer.is_full:
            self.senders.resume()
            self.flush()

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
        if not self._released:
            self._alarm.set(self.core.next_timeout())

    def _deliver(self) -> None:
        core, inbox = self.core, self.inbox
        while True:
            for count, event in enumerate(core.events()):
                if type(event) is not Message:
                    self._on_event(event)
                elif not (self._released and inbox.full):  # else there is no room, and no transport to hold it back
                    for frame in (event,) if self.filter is None else self.filter(event):
                        size = inbox.put(frame)
                        if size is not None and self.on_size is not None:
                            self.on_size(size)
                    if inbox.full:
                        self._pause_reading()
                if count == _MAX_EVENTS and not self._released:
                    self._take_turns()
                    break
            if self.reading or core.state is State.OPEN:
                break
            self._unpause()  # the peer's answer to our close is still to be read

    @property
    def unsent(self) -> int:
        """Bytes that wait for the network."""
        return self.core.outbox.size + self.core.bytes_to_send + self._writer.size

    @property
    def is_ending(self) -> bool:
        """Nothing can be sent any more."""
        return self.core.state is not State.OPEN or self.transport is None or self.transport.is_closing()

    @property
    def is_ready_to_send(self) -> bool:
        """A message that is sent now will go out, before no other, and the transport has room."""
        if self._writer.is_full or self._line or self.core.state is not State.OPEN:
            return False
        return self.transport is not None and not self.transport.is_closing()

    def send_shared(self, message: PreparedMessage) -> bool:
        """Write a message's frame if it is the same for all, is not to be cut, and nothing is before it; or tell."""
        transport = self.transport
        if self._writer.is_full or self._line or transport is None or transport.is_closing():
            return False
        if message.size > self._write_high_water:
            return False
        frame = self.core.send_shared(message, self.loop.time())
        if frame is None:
            return False
        transport.write(frame)
        if self.on_sent is not None:
            self.on_sent(message.size)
        return True

    def flush(self) -> None:
        """Write what there is to send and obey `core.transport_action`."""
        self._flush_scheduled = False
        transport = self.transport
        if transport is not None and not self._released:
            data = self.core.data_to_send()
            if data and not self._writer.is_full and len(data) <= self._write_high_water:
                transport.write(data)
            elif data:
                self._writer.write(transport, data)
            if self._line and not transport.is_closing():
                self._send_waiting(transport)
            if self.core.transport_action is not TransportAction.OPEN:
                self._obey(transport)
        if self.senders.in_line:
            self.senders.wake()

    def _send_waiting(self, transport: asyncio.Transport) -> None:
        while sizes := self.core.send_waiting(self.loop.time()):
            self._writer.write(transport, self.core.data_to_send())
            if self.on_sent is not None:
                for size in sizes:
                    self.on_sent(size)

    def flush_soon(self) -> None:
        """Flush now, or with what else answers the messages of the same read."""
        if not self.inbox.messages or self.core.bytes_to_send > _COALESCE:
            self.flush()
        else:
            self.schedule_flush()

    def schedule_flush(self) -> None:
        """Flush when those who run now have had their turn."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self.flush)

    async def wait_until_writable(self) -> None:
        """Wait while the transport has no room. Raises ConnectionClosed when nothing can be sent any more."""
        if not self.is_ending:
            await self.senders.wait_for_room()
        if self.is_ending:
            await self._raise_closed()

    async def wait_for_turn(self) -> None:
        """Wait until all that waits by now has gone out. Raises ConnectionClosed when nothing can be sent any more.

        When it returns, the message must be sent before anybody else runs.
        """
        if not self.is_ending:
            try:
                await self.senders.wait_for_turn()
            finally:
                self.schedule_flush()  # for those behind
        if self.is_ending:
            await self._raise_closed()

    async def _raise_closed(self) -> NoReturn:
        await self.gone.wait()
        assert self.core.close_info is not None  # nothing else ends the pump
        raise connection_closed(self.core.close_info)

    def _obey(self, transport: asyncio.Transport) -> None:
        self._writer.write_rest(transport)
        if self.core.transport_action is TransportAction.ABORT:
            self._released = True
            if transport.get_write_buffer_size() == 0:
                transport.abort()
            else:
                transport.close()
                self._linger = self.loop.call_later(_LINGER, transport.abort)
        elif not self._eof_written:
            self._eof_written = True
            end_writing(transport)

    def _on_timer(self) -> None:
        self._writer.look()
        self.core.handle_timeout(self.loop.time())
        self.pump()

    def _take_turns(self) -> None:
        """Go on with what was read when others have had their turn, and read no more before."""
        if self.transport is not None and not self._has_backlog:
            self._has_backlog = True
            self.transport.pause_reading()
            self.loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        self._has_backlog = False
        if self.transport is not None and self.reading and not self.transport.is_closing():
            self.transport.resume_reading()
        self.pump()

    def _pause_reading(self) -> None:
        if self.reading and self.transport is not None and not self._released:
            self.reading = False
            self.core.reading_paused(self.loop.time())
            self.transport.pause_reading()

    def _unpause(self) -> None:
        self.reading = True
        self.core.reading_resumed(self.loop.time())
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def resume_reading(self) -> None:
        """Read again if the inbox has room for it."""
        if self.inbox.low:
            self._unpause()
            self.pump()

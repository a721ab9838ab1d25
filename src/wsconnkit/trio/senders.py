"""The tasks that wait until they may send."""

from __future__ import annotations

import trio

from wsconnkit.machines.closing import State
from wsconnkit.protocol.connection import ConnectionProtocol


class Senders:
    """Those who wait for room in the stream, and those who wait for their turn in the line of `core`."""

    def __init__(self, core: ConnectionProtocol) -> None:
        self._core = core
        self._has_room = True
        self._for_room = trio.lowlevel.ParkingLot()
        self.in_line = 0
        """How many wait for their turn."""

    def pause(self) -> None:
        """The stream has no room."""
        self._has_room = False

    def resume(self) -> None:
        """The stream has room again."""
        self._has_room = True
        self._for_room.unpark_all()

    async def wait_for_room(self) -> None:
        """Wait for room, or the end."""
        while not self._has_room:
            await self._for_room.park()

    async def wait_for_turn(self) -> None:
        """Wait behind all that waits by now, or for the end; cancelled, the place is given up."""
        waiting = trio.Event()
        turn = self._core.queue_up(waiting, trio.current_time())
        self.in_line += 1
        try:
            await waiting.wait()
        finally:
            self.in_line -= 1
            self._core.leave(turn, trio.current_time())

    def wake(self) -> None:
        """Wake those whose turn it is, or who wait in vain; to be called after every change of the core."""
        if self.in_line:
            for waiting in self._core.turns_due():
                assert isinstance(waiting, trio.Event)  # it queued up with it
                waiting.set()
        if self._core.state is State.CLOSED:
            self.resume()

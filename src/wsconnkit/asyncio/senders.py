"""The tasks that wait until they may send."""

from __future__ import annotations

import asyncio

from wsconnkit.machines.closing import State
from wsconnkit.protocol.connection import ConnectionProtocol


class Senders:
    """Those who wait for room in the transport, and those who wait for their turn in the line of `core`."""

    def __init__(self, core: ConnectionProtocol) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._room.set()
        self.in_line = 0
        """How many wait for their turn."""

    def pause(self) -> None:
        """The transport has no room."""
        self._room.clear()

    def resume(self) -> None:
        """The transport has room again."""
        self._room.set()

    async def wait_for_room(self) -> None:
        """Wait for room, or the end."""
        while not self._room.is_set():
            await self._room.wait()

    async def wait_for_turn(self) -> None:
        """Wait behind all that waits by now, or for the end; cancelled, the place is given up."""
        waiting: asyncio.Future[None] = self._loop.create_future()
        turn = self._core.queue_up(waiting, self._loop.time())
        self.in_line += 1
        try:
            await waiting
        finally:
            self.in_line -= 1
            self._core.leave(turn, self._loop.time())

    def wake(self) -> None:
        """Wake those whose turn it is, or who wait in vain; to be called after every change of the core."""
        if self.in_line:
            for waiting in self._core.turns_due():
                assert isinstance(waiting, asyncio.Future)  # it queued up with it
                if not waiting.done():
                    waiting.set_result(None)
        if self._core.state is State.CLOSED:
            self._room.set()

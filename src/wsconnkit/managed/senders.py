"""Who waits until they may send."""

from __future__ import annotations

from wsconnkit.machines.closing import State
from wsconnkit.managed.runtime import Event, Future, Runtime
from wsconnkit.protocol.connection import ConnectionProtocol


class Senders:
    """Those who wait for room in the transport, and those who wait for their turn in the line of `core`."""

    def __init__(self, runtime: Runtime, core: ConnectionProtocol) -> None:
        self._runtime = runtime
        self._core = core
        self._room: Event | None = None
        self.is_full: bool = False
        """The transport has no room."""
        self.in_line: int = 0
        """How many wait for their turn."""

    def pause(self) -> None:
        """The transport has no room."""
        self.is_full = True

    def resume(self) -> None:
        """The transport has room again."""
        self.is_full = False
        self._let_in()

    async def wait_for_room(self) -> None:
        """Wait for room, or the end."""
        while self.is_full and self._core.state is not State.CLOSED:
            if self._room is None:
                self._room = self._runtime.event()
            await self._room.wait()

    async def wait_for_turn(self, turn: Future) -> None:
        """Wait behind all that waits by now, or for the end; the place is given up when `turn` is over otherwise."""
        place = self._core.queue_up(turn, self._runtime.now())
        self.in_line += 1
        try:
            await turn
        finally:
            self.in_line -= 1
            self._core.leave(place, self._runtime.now())

    def wake(self) -> None:
        """Wake those whose turn it is, or who wait in vain; to be called after every change of the core."""
        if self.in_line:
            turn: Future
            for turn in self._core.turns_due():  # type: ignore[assignment] # it queued up with it
                if not turn.done():
                    turn.set_result(None)
        if self._core.state is State.CLOSED:
            self._let_in()

    def _let_in(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

"""How the connections of a server learn that it shuts down, and end one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.errors import connection_closed
from wsconnkit.service.drain import Drain, DrainReport
from wsconnkit.trio.transport import Alarm

if TYPE_CHECKING:
    from wsconnkit.trio.connection import Connection

_TURNS = 8
"""Times that tasks have their turn before the first close: those who wait for `ws.draining` beside something else need
some to stop that, and to send."""


class DrainRun:
    """Carries out a `Drain` of `connections`.

    window, grace: seconds, as for `Drain`.
    close: begins to close a connection.
    nursery: where it waits for their turns.
    """

    def __init__(
        self,
        connections: Iterable[Connection],
        *,
        window: float,
        grace: float,
        close: Callable[[Connection], None],
        nursery: trio.Nursery,
    ) -> None:
        self._close = close
        members = tuple(connections)
        self._drain = Drain(
            [(ws, ws.id, ws.log.user_id) for ws in members], window=window, grace=grace, now=trio.current_time()
        )
        self._done = trio.Event()
        self._alarm = Alarm(nursery, self._on_timer)
        self._has_begun = False
        for ws in members:
            if ws.draining.is_busy:
                self._drain.busy(ws)
            ws.draining.begin(self)

    async def wait(self) -> DrainReport:
        """Close the connections, and return how each ended, when all have."""
        for _ in range(_TURNS):
            await trio.lowlevel.checkpoint()
        self._has_begun = True
        self._go_on()
        await self._done.wait()
        return self._drain.report(trio.current_time())

    def is_due(self, ws: Connection) -> bool:
        """The turn of `ws` to close has come."""
        return self._drain.is_due(ws)

    def on_busy(self, ws: Connection) -> None:
        """`ws` must not be closed for now."""
        self._drain.busy(ws)

    def on_idle(self, ws: Connection) -> None:
        """`ws` may be closed again."""
        if self._drain.idle(ws, trio.current_time()):
            self._close(ws)

    def on_closed(self, ws: Connection, info: CloseInfo) -> None:
        """`ws` has ended."""
        self._drain.on_closed(ws, info, trio.current_time())
        self._go_on()

    def _on_timer(self) -> None:
        orders = self._drain.handle_timeout(trio.current_time())
        for ws in orders.close:
            self._close(ws)
        for ws in orders.abort:
            ws.abort()
        self._go_on()

    def _go_on(self) -> None:
        if self._drain.done:
            self._alarm.cancel()
            self._done.set()
        elif self._has_begun:
            self._alarm.set(self._drain.next_timeout())


class Draining:
    """`await` it until the server drains; it is true from then on. Raises ConnectionClosed when the end comes first."""

    def __init__(self, ws: Connection) -> None:
        self._ws = ws
        self._run: DrainRun | None = None
        self._work = 0
        self._info: CloseInfo | None = None
        self._changed = trio.Event()

    def __bool__(self) -> bool:
        return self._run is not None

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        await self._changed.wait()
        if self._run is None and self._info is not None:
            raise connection_closed(self._info)

    @property
    def is_due(self) -> bool:
        """The turn of the connection to close has come: there must be no new work on it."""
        return self._run is not None and self._run.is_due(self._ws)

    def begin(self, run: DrainRun) -> None:
        """The server drains."""
        self._run = run
        self._changed.set()

    @property
    def is_busy(self) -> bool:
        """Whether there is work that has not ended."""
        return self._work > 0

    def begin_work(self) -> None:
        """From now on the drain waits with the connection."""
        self._work += 1
        if self._run is not None:
            self._run.on_busy(self._ws)

    def end_work(self) -> None:
        """Take one `begin_work` back."""
        self._work -= 1
        if self._run is not None and not self.is_busy:
            self._run.on_idle(self._ws)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While the block runs, the drain waits with the connection."""
        self.begin_work()
        try:
            yield
        finally:
            self.end_work()

    def on_closed(self, info: CloseInfo) -> None:
        """The connection has ended."""
        self._info = info
        self._changed.set()
        if self._run is not None:
            self._run.on_closed(self._ws, info)

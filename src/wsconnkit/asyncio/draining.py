"""How the connections of a server learn that it shuts down, and end one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wsconnkit.asyncio.transport import Alarm
from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.errors import connection_closed
from wsconnkit.service.drain import Drain, DrainReport

if TYPE_CHECKING:
    from wsconnkit.asyncio.connection import Connection

_TURNS = 8
"""Times that tasks have their turn before the first close: those who wait for `ws.draining` beside something else need
some to stop that, and to send."""


class DrainRun:
    """Carries out a `Drain` of `connections`.

    window, grace: seconds, as for `Drain`.
    close: begins to close a connection.
    """

    def __init__(
        self,
        connections: Iterable[Connection],
        *,
        window: float,
        grace: float,
        close: Callable[[Connection], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._close = close
        members = tuple(connections)
        self._drain = Drain(
            [(ws, ws.id, ws.log.user_id) for ws in members], window=window, grace=grace, now=self._loop.time()
        )
        self._done = asyncio.Event()
        self._alarm = Alarm(self._loop, self._on_timer)
        self._has_begun = False
        for ws in members:
            if ws.draining.is_busy:
                self._drain.busy(ws)
            ws.draining.begin(self)

    async def wait(self) -> DrainReport:
        """Close the connections, and return how each ended, when all have."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        self._has_begun = True
        self._go_on()
        await self._done.wait()
        return self._drain.report(self._loop.time())

    def is_due(self, ws: Connection) -> bool:
        """The turn of `ws` to close has come."""
        return self._drain.is_due(ws)

    def on_busy(self, ws: Connection) -> None:
        """`ws` must not be closed for now."""
        self._drain.busy(ws)

    def on_idle(self, ws: Connection) -> None:
        """`ws` may be closed again."""
        if self._drain.idle(ws, self._loop.time()):
            self._close(ws)

    def on_closed(self, ws: Connection, info: CloseInfo) -> None:
        """`ws` has ended."""
        self._drain.on_closed(ws, info, self._loop.time())
        self._go_on()

    def _on_timer(self) -> None:
        orders = self._drain.handle_timeout(self._loop.time())
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
        self._waiting: set[asyncio.Future[None]] = set()

    def __bool__(self) -> bool:
        return self._run is not None

    def __await__(self) -> Generator[Any, None, None]:
        if self._run is None and self._info is None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                yield from future
            finally:
                self._waiting.discard(future)
        if self._run is None and self._info is not None:
            raise connection_closed(self._info)

    @property
    def is_due(self) -> bool:
        """The turn of the connection to close has come: there must be no new work on it."""
        return self._run is not None and self._run.is_due(self._ws)

    def begin(self, run: DrainRun) -> None:
        """The server drains."""
        self._run = run
        self._wake()

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
        self._wake()
        if self._run is not None:
            self._run.on_closed(self._ws, info)

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

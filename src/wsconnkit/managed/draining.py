"""How connections learn that their server shuts down, and end one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from wsconnkit.managed.runtime import Event, Runtime
from wsconnkit.protocol.closeinfo import CloseInfo
from wsconnkit.protocol.errors import connection_closed
from wsconnkit.service.drain import Drain, DrainConfig, DrainReport

_TURNS = 8
"""Times that tasks have their turn before the first close: those who wait for `ws.draining` beside something else need
some to stop that, and to send."""


class Draining:
    """`await` it until the server drains; it is true from then on. Raises ConnectionClosed when the end comes first."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._drain: DrainRun[Any] | None = None
        self._work = 0
        self._info: CloseInfo | None = None
        self._changed: Event | None = None

    def __bool__(self) -> bool:
        return self._drain is not None

    def __await__(self) -> Generator[Any, Any, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        if self._changed is None:
            self._changed = self._runtime.event()
            if self or self._info is not None:
                self._changed.set()
        await self._changed.wait()
        if not self and self._info is not None:
            raise connection_closed(self._info)

    @property
    def is_due(self) -> bool:
        """The turn of the connection to close has come: there must be no new work on it."""
        return self._drain is not None and self._drain.is_due(self)

    def begin(self, drain: DrainRun[Any]) -> None:
        """The server drains."""
        self._drain = drain
        self._tell()

    @property
    def is_busy(self) -> bool:
        """Whether there is work that has not ended."""
        return self._work > 0

    def begin_work(self) -> None:
        """From now on the drain waits with the connection."""
        self._work += 1
        if self._drain is not None:
            self._drain.on_busy(self)

    def end_work(self) -> None:
        """Take one `begin_work` back."""
        self._work -= 1
        if self._drain is not None and not self.is_busy:
            self._drain.on_idle(self)

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
        self._tell()
        if self._drain is not None:
            self._drain.on_closed(self, info)

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()


class Drained(Protocol):
    """What is read of a connection that is drained."""

    @property
    def id(self) -> str:
        """Its name in the report."""

    @property
    def user_id(self) -> str | None:
        """Whose it is."""

    @property
    def draining(self) -> Draining:
        """How it learns of the drain."""

    def abort(self) -> None:
        """Drop its transport."""


C = TypeVar("C", bound=Drained)


class DrainRun(Generic[C]):
    """Carries out a `Drain` of `connections`.

    close: begins to close a connection.
    """

    def __init__(
        self, runtime: Runtime, connections: tuple[C, ...], config: DrainConfig, close: Callable[[C], None]
    ) -> None:
        self._runtime = runtime
        self._close = close
        self._connections: Mapping[Draining, C] = {ws.draining: ws for ws in connections}
        self._drain = Drain(
            [(ws.draining, ws.id, ws.user_id) for ws in connections],
            window=config.window,
            grace=config.grace,
            now=runtime.now(),
        )
        self._changed = runtime.event()
        for ws in connections:
            if ws.draining.is_busy:
                self._drain.busy(ws.draining)
            ws.draining.begin(self)

    async def run(self) -> DrainReport:
        """Close the connections, and return how each ended, when all have."""
        for _ in range(_TURNS):
            await self._runtime.sleep(0)
        while not self._drain.done:
            orders = self._drain.handle_timeout(self._runtime.now())
            for draining in orders.close:
                self._close(self._connections[draining])
            for draining in orders.abort:
                self._connections[draining].abort()
            at = self._drain.next_timeout()
            if at is not None and not self._changed.is_set():
                await self._runtime.wait(self._changed, max(0.0, at - self._runtime.now()))
            self._changed = self._runtime.event()
        return self.report()

    def report(self) -> DrainReport:
        """Return what it came to so far."""
        return self._drain.report(self._runtime.now())

    def is_due(self, draining: Draining) -> bool:
        """The turn of a connection to close has come."""
        return self._drain.is_due(draining)

    def on_busy(self, draining: Draining) -> None:
        """A connection must not be closed for now."""
        self._drain.busy(draining)

    def on_idle(self, draining: Draining) -> None:
        """A connection may be closed again."""
        if self._drain.idle(draining, self._runtime.now()):
            self._close(self._connections[draining])

    def on_closed(self, draining: Draining, info: CloseInfo) -> None:
        """A connection has ended."""
        self._drain.on_closed(draining, info, self._runtime.now())
        self._changed.set()
